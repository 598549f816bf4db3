//! The file of a backup: a magic number, then records, each with its length and checksum, see `BackupRecord` in `proto/kvsvr/v1/admin.proto`.
//!
//! ```text
//! "kvsvrbk1"  (length u32, crc32c u32, record)*        little-endian; the checksum is of the record
//! header  (shard  part part ... part-with-head)*  end
//! ```
//!
//! A file without its end is not one: [`Reader`] tells it from a complete one, and a flipped bit anywhere from a sound one.

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, Read, Write},
};

use kvsvr_proto::{
    SLOTS,
    v1::{BackupEnd, BackupHeader, BackupPart, BackupRecord, BackupShard, ShardInfo, backup_record::Record},
};
use prost::Message;

const MAGIC: &[u8; 8] = b"kvsvrbk1";
/// Of the header.
const FORMAT_VERSION: u32 = 1;
/// No record is longer.
const MAX_RECORD: u32 = 16 << 20;

/// What is wrong with a file.
#[derive(Debug)]
pub enum Damage {
    /// It cannot be read.
    Io(io::Error),
    /// It is not what it should be.
    Bad {
        /// Where: bytes from the beginning.
        at: u64,
        /// What is wrong.
        what: String,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Io(error) => error.fmt(f),
            Damage::Bad { at, what } => write!(f, "{what} (at byte {at})"),
        }
    }
}

impl From<io::Error> for Damage {
    fn from(error: io::Error) -> Self {
        Damage::Io(error)
    }
}

/// Writes a file. What a shard has sent before its connection broke is written over by the caller, who starts it again.
pub struct Writer<W> {
    out: W,
    /// Bytes so far.
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// With its header.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new(mut out: W, header: BackupHeader) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        let mut writer = Self {
            out,
            bytes: MAGIC.len() as u64,
        };
        let header = BackupHeader {
            format_version: FORMAT_VERSION,
            ..header
        };
        writer.write(Record::Header(header))?;
        Ok(writer)
    }

    /// The parts of a shard follow.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn shard(&mut self, shard: u32) -> io::Result<()> {
        self.write(Record::Shard(BackupShard { shard }))
    }

    /// A part of the last shard.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn part(&mut self, part: BackupPart) -> io::Result<()> {
        self.write(Record::Part(part))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self, end: BackupEnd) -> io::Result<W> {
        self.write(Record::End(end))?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Where the next record goes.
    pub fn position(&self) -> u64 {
        self.bytes
    }

    /// The file, to go back in it: the caller sets where the next record goes.
    ///
    /// # Errors
    /// What was written before cannot be written out.
    pub fn rewind(&mut self, to: u64) -> io::Result<&mut W> {
        self.out.flush()?;
        self.bytes = to;
        Ok(&mut self.out)
    }

    fn write(&mut self, record: Record) -> io::Result<()> {
        let record = BackupRecord { record: Some(record) }.encode_to_vec();
        let length = u32::try_from(record.len())
            .ok()
            .filter(|length| *length <= MAX_RECORD);
        let length = length.ok_or_else(|| io::Error::other("a record is too long"))?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&crc32c::crc32c(&record).to_le_bytes())?;
        self.out.write_all(&record)?;
        self.bytes += 8 + u64::from(length);
        Ok(())
    }
}

/// A record after the header.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A part of this shard.
    Part(u32, BackupPart),
    /// All is there.
    End(BackupEnd),
}

/// Reads a file and checks everything on the way.
pub struct Reader<R> {
    input: R,
    /// Bytes so far.
    bytes: u64,
    /// The shards that must come still.
    shards: Vec<u32>,
    /// The one whose parts come, and the next one's number.
    current: Option<(u32, u64)>,
    so_far: BackupEnd,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is no backup, or of a newer version, or of shards that are no cluster's.
    pub fn open(input: R) -> Result<(Self, BackupHeader), Damage> {
        let mut reader = Self {
            input,
            bytes: 0,
            shards: Vec::new(),
            current: None,
            so_far: BackupEnd::default(),
            ended: false,
        };
        let mut magic = [0; MAGIC.len()];
        match reader.input.read_exact(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => return Err(reader.bad("this is not a backup that kvctl has made")),
        }
        reader.bytes = MAGIC.len() as u64;
        let header = match reader.record()? {
            Some(Record::Header(header)) => header,
            _ => return Err(reader.bad("it does not begin with a header")),
        };
        if header.format_version > FORMAT_VERSION {
            let what = format!(
                "it has format {}, this program reads up to {FORMAT_VERSION}: use a newer kvctl",
                header.format_version
            );
            return Err(reader.bad(what));
        }
        if let Err(what) = check_shards(&header.shards) {
            return Err(reader.bad(format!("its shards contradict each other: {what}")));
        }
        reader.shards = header.shards.iter().rev().map(|shard| shard.id).collect();
        Ok((reader, header))
    }

    /// Bytes that were read.
    pub fn position(&self) -> u64 {
        self.bytes
    }

    /// The next item; `None` after the end.
    ///
    /// # Errors
    /// The file is damaged, or ends too soon.
    pub fn next_item(&mut self) -> Result<Option<Item>, Damage> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let item = match self.record()? {
                Some(Record::Shard(BackupShard { shard })) => {
                    if self.current.is_some() || self.shards.pop() != Some(shard) {
                        return Err(self.bad(format!("shard {shard} does not belong here")));
                    }
                    self.current = Some((shard, 0));
                    continue;
                }
                Some(Record::Part(part)) => self.take(part)?,
                Some(Record::End(end)) => self.end(end)?,
                Some(Record::Header(_)) => return Err(self.bad("a second header")),
                None => {
                    return Err(
                        self.bad("it ends too soon: the backup was not finished, or the file was cut")
                    );
                }
            };
            return Ok(Some(item));
        }
    }

    fn take(&mut self, part: BackupPart) -> Result<Item, Damage> {
        let Some((shard, number)) = self.current else {
            return Err(self.bad("a part of no shard"));
        };
        if part.number != number || crc32c::crc32c(&part.rows) != part.crc32c {
            return Err(self.bad(format!("part {number} of shard {shard} is damaged")));
        }
        let rows = count_rows(&part.rows);
        let rows =
            rows.ok_or_else(|| self.bad(format!("the rows of part {number} of shard {shard} are damaged")))?;
        self.so_far.rows += rows;
        self.so_far.parts += 1;
        self.current = part.head.is_empty().then_some((shard, number + 1));
        Ok(Item::Part(shard, part))
    }

    fn end(&mut self, end: BackupEnd) -> Result<Item, Damage> {
        if self.current.is_some() || !self.shards.is_empty() || end != self.so_far {
            return Err(self.bad("parts are missing"));
        }
        let more = self.input.read(&mut [0])?;
        if more > 0 {
            return Err(self.bad("there is something after its end"));
        }
        self.ended = true;
        Ok(Item::End(end))
    }

    /// `None`: the file ends here.
    fn record(&mut self) -> Result<Option<Record>, Damage> {
        let mut head = Vec::with_capacity(8);
        (&mut self.input).take(8).read_to_end(&mut head)?;
        let (length, crc) = match head[..] {
            [] => return Ok(None),
            [a, b, c, d, e, f, g, h] => (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])),
            _ => return Err(self.bad("it ends in the middle of a record")),
        };
        if length > MAX_RECORD {
            return Err(self.bad("a record is damaged: its length is not possible"));
        }
        let mut record = Vec::new();
        (&mut self.input)
            .take(u64::from(length))
            .read_to_end(&mut record)?;
        if record.len() != length as usize {
            return Err(self.bad("it ends in the middle of a record, or one is damaged"));
        }
        if crc32c::crc32c(&record) != crc {
            return Err(self.bad("a record does not match its checksum"));
        }
        let decoded = BackupRecord::decode(&record[..])
            .ok()
            .and_then(|record| record.record);
        let decoded = decoded.ok_or_else(|| self.bad("a record of an unknown kind"))?;
        self.bytes += 8 + u64::from(length);
        Ok(Some(decoded))
    }

    fn bad(&self, what: impl Into<String>) -> Damage {
        Damage::Bad {
            at: self.bytes,
            what: what.into(),
        }
    }
}

/// Every slot belongs to one shard, and every shard has a number of its own; or what is wrong.
fn check_shards(shards: &[ShardInfo]) -> Result<(), String> {
    let mut by_slot: Vec<&ShardInfo> = shards.iter().collect();
    by_slot.sort_by_key(|shard| (shard.first_slot, shard.last_slot));
    let missing = |from: u32, to: u32| match to - 1 {
        last if last == from => Err(format!("slot {from} belongs to none")),
        last => Err(format!("slots {from} to {last} belong to none")),
    };
    let slots = u32::from(SLOTS);
    let (mut ids, mut before, mut next) = (BTreeSet::new(), 0, 0);
    for shard in by_slot {
        let (id, first, last) = (shard.id, shard.first_slot, shard.last_slot);
        if id == 0 || !ids.insert(id) {
            return Err(format!("the number {id} is not that of one data shard"));
        }
        if first > last || last >= slots {
            return Err(format!(
                "shard {id} has the slots {first} to {last}, of 0 to {}",
                slots - 1
            ));
        }
        if first < next {
            return Err(format!("shards {before} and {id} both have slot {first}"));
        }
        if first > next {
            return missing(next, first);
        }
        (before, next) = (id, last + 1);
    }
    if next < slots {
        missing(next, slots)
    } else {
        Ok(())
    }
}

/// How many rows are in a part: (column family u8, key length u32, value length u32, key, value)*. `None`: it is malformed.
pub fn count_rows(mut part: &[u8]) -> Option<u64> {
    let mut rows = 0;
    while !part.is_empty() {
        let number = |at: usize| Some(u32::from_le_bytes(part.get(at..at + 4)?.try_into().ok()?) as usize);
        let length = 9usize.checked_add(number(1)?)?.checked_add(number(5)?)?;
        part = part.get(length..)?;
        rows += 1;
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn header() -> BackupHeader {
        header_of(&[(1, 0, 2047), (2, 2048, 4095)])
    }

    fn header_of(shards: &[(u32, u32, u32)]) -> BackupHeader {
        let shard = |(id, first_slot, last_slot): &(u32, u32, u32)| ShardInfo {
            id: *id,
            first_slot: *first_slot,
            last_slot: *last_slot,
            ..ShardInfo::default()
        };
        BackupHeader {
            cluster_name: "test".into(),
            shards: shards.iter().map(shard).collect(),
            ..BackupHeader::default()
        }
    }

    fn part(number: u64, rows: u64, last: bool) -> BackupPart {
        let row = [&[0, 1, 0, 0, 0, 2, 0, 0, 0][..], b"kvv"].concat();
        let rows = Bytes::from(row.repeat(rows as usize));
        BackupPart {
            number,
            crc32c: crc32c::crc32c(&rows),
            rows,
            head: if last {
                Bytes::from_static(b"head")
            } else {
                Bytes::new()
            },
            revision: 7,
        }
    }

    fn file() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), header()).unwrap();
        writer.shard(1).unwrap();
        writer.part(part(0, 3, false)).unwrap();
        writer.part(part(1, 2, true)).unwrap();
        writer.shard(2).unwrap();
        writer.part(part(0, 0, true)).unwrap();
        assert!(writer.position() > 8);
        writer.finish(BackupEnd { rows: 5, parts: 3 }).unwrap()
    }

    fn read(file: &[u8]) -> Result<Vec<Item>, Damage> {
        let (mut reader, _) = Reader::open(file)?;
        let mut items = Vec::new();
        while let Some(item) = reader.next_item()? {
            items.push(item);
        }
        assert_eq!(reader.position(), file.len() as u64);
        Ok(items)
    }

    #[test]
    fn what_was_written_is_read() {
        let items = read(&file()).unwrap();
        let wanted = [
            Item::Part(1, part(0, 3, false)),
            Item::Part(1, part(1, 2, true)),
            Item::Part(2, part(0, 0, true)),
            Item::End(BackupEnd { rows: 5, parts: 3 }),
        ];
        assert_eq!(items, wanted);
        assert!(read(b"").is_err() && read(b"kvsvrbk").is_err());
    }

    #[test]
    fn shards_that_contradict_each_other_are_refused() {
        let opened = |shards: &[(u32, u32, u32)]| {
            let writer = Writer::new(Vec::new(), header_of(shards)).unwrap();
            let file = writer.finish(BackupEnd::default()).unwrap();
            Reader::open(&file[..])
                .map(drop)
                .map_err(|damage| damage.to_string())
        };
        assert_eq!(opened(&[(1, 0, 4095)]), Ok(()));
        assert_eq!(
            opened(&[(7, 1000, 4095), (2, 0, 999)]),
            Ok(()),
            "in whatever order"
        );
        for (shards, what) in [
            (
                &[(1, 0, 2047), (2, 2047, 4095)][..],
                "shards 1 and 2 both have slot 2047",
            ),
            (
                &[(1, 0, 4095), (2, 100, 200)],
                "shards 1 and 2 both have slot 100",
            ),
            (
                &[(1, 0, 1000), (2, 2048, 4095)],
                "slots 1001 to 2047 belong to none",
            ),
            (&[(2, 1, 4095)], "slot 0 belongs to none"),
            (&[(1, 0, 2047)], "slots 2048 to 4095 belong to none"),
            (&[], "slots 0 to 4095 belong to none"),
            (
                &[(1, 0, 2047), (1, 2048, 4095)],
                "the number 1 is not that of one data shard",
            ),
            (&[(0, 0, 4095)], "the number 0 is not"),
            (&[(1, 0, 4096)], "shard 1 has the slots 0 to 4096, of 0 to 4095"),
            (&[(1, 0, 9), (2, 20, 10)], "shard 2 has the slots 20 to 10"),
            (&[(1, 0, u32::MAX)], "shard 1 has the slots"),
        ] {
            let error = opened(shards).unwrap_err();
            let expected = format!("its shards contradict each other: {what}");
            assert!(error.starts_with(&expected), "{shards:?}: {error}");
        }
    }

    #[test]
    fn a_shard_that_is_missing_or_unfinished_is_noticed() {
        for (parts, shards) in [
            (vec![part(0, 1, false)], 1),
            (vec![part(0, 1, true)], 1),
            (vec![part(1, 1, true)], 2),
        ] {
            let mut writer = Writer::new(Vec::new(), header()).unwrap();
            for shard in 1..=shards {
                writer.shard(shard).unwrap();
                for part in &parts {
                    writer.part(part.clone()).unwrap();
                }
            }
            let rows = u64::from(shards);
            let file = writer.finish(BackupEnd { rows, parts: rows }).unwrap();
            assert!(read(&file).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_flipped_bit_and_no_cut_goes_unnoticed(at in 0..10_000usize, bit in 0..8) {
            let whole = file();
            let at = at % whole.len();
            let mut damaged = whole.clone();
            damaged[at] ^= 1u8 << bit;
            prop_assert!(read(&damaged).is_err());
            prop_assert!(read(&whole[..at]).is_err());
            prop_assert!(read(&[&whole[..], &[0]].concat()).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_no_backup(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&bytes).is_err());
            prop_assert!(read(&[&file()[..60], &bytes[..]].concat()).is_err());
            let _ = count_rows(&bytes);
        }
    }
}
