//! Reads the segments of a WAL and decides what is torn and what is corrupt. Writes nothing.
//!
//! The rules, and why they hold, are in the documentation of [`crate::wal`]. The scan goes on after damage, so that a check can
//! report all of it; whoever opens the WAL must refuse it if there is any.

use std::{collections::BTreeMap, fmt, io, sync::Arc};

use bytes::Bytes;
use kvsvr_core::types::ShardId;

use super::{
    WalError,
    codec::{
        BLOCK_HEADER, BlockHeader, FLAG_CLOSE, FLAG_STATE, Found, HeaderFault, Record, SECTOR, SegmentHeader,
        VERSION, decode_body,
    },
    replay::Replay,
};
use crate::{
    disk::{DiskFile, DynDisk},
    limits::WAL_READ_SPAN,
    store::{StoreId, WAL_DIR},
};

const SEGMENT_SUFFIX: &str = ".wal";
const SPARE_SUFFIX: &str = ".free";
const NEW_PREFIX: &str = "new-";

/// The path of a segment.
pub(crate) fn segment_path(number: u64) -> String {
    format!("{WAL_DIR}/{number:020}{SEGMENT_SUFFIX}")
}

/// The path of what was a segment and will be another one.
pub(crate) fn spare_path(number: u64) -> String {
    format!("{WAL_DIR}/{number:020}{SPARE_SUFFIX}")
}

/// The path of a new file that will be a segment. Never that of a [`spare_path`].
pub(crate) fn allocated_path(count: u64) -> String {
    format!("{WAL_DIR}/{NEW_PREFIX}{count}{SPARE_SUFFIX}")
}

/// The count in an [`allocated_path`].
pub(crate) fn allocated_count(path: &str) -> Option<u64> {
    let name = path
        .strip_prefix(WAL_DIR)?
        .strip_prefix('/')?
        .strip_prefix(NEW_PREFIX)?;
    name.strip_suffix(SPARE_SUFFIX)?.parse().ok()
}

/// The entries of one shard in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ShardRange {
    /// Entries, also those that were truncated or purged later.
    pub entries: u64,
    /// Smallest index.
    pub first: u64,
    /// Largest index.
    pub last: u64,
}

/// What is in a segment.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct SegmentReport {
    /// The segment's number, which is its file's name.
    pub number: u64,
    /// Writes, the empty ones counted.
    pub blocks: u64,
    /// Records of all kinds.
    pub records: u64,
    /// Bytes up to the end of the last good block.
    pub bytes: u64,
    /// Another segment follows.
    pub closed: bool,
    /// A last write that was under way when the process or the machine stopped is cut off here.
    pub torn_at: Option<u64>,
    /// By shard number.
    pub shards: BTreeMap<u32, ShardRange>,
}

/// Something that a crash cannot have caused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The file, relative to the data directory.
    pub path: String,
    /// The byte at which the damaged part starts.
    pub offset: u64,
    /// What is wrong.
    pub detail: String,
    /// Shards that are known to be touched; empty means that it may be any.
    pub shards: Vec<u32>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.path, self.offset, self.detail)?;
        if !self.shards.is_empty() {
            write!(f, " (shards {:?} are touched)", self.shards)?;
        }
        Ok(())
    }
}

/// A segment that was read.
pub(crate) struct Scanned {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the last good block starts, and where it ends.
    pub(crate) last_block: u64,
    pub(crate) end: u64,
    pub(crate) report: SegmentReport,
}

/// All segments.
#[derive(Default)]
pub(crate) struct Scan {
    pub(crate) segments: Vec<Scanned>,
    /// Paths of allocated files that are not in use.
    pub(crate) spares: Vec<String>,
    pub(crate) replay: Replay,
    pub(crate) damage: Vec<Damage>,
    /// The number of the next block.
    pub(crate) next_seq: u64,
}

/// Reads a file in large pieces.
struct Window<'a> {
    file: &'a dyn DiskFile,
    start: u64,
    bytes: Bytes,
}

impl Window<'_> {
    /// `len` bytes from `offset` on, fewer at the end of the file.
    async fn get(&mut self, offset: u64, len: usize) -> io::Result<Bytes> {
        let inside = offset >= self.start && offset + len as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            self.bytes = self.file.read_at(offset, len.max(WAL_READ_SPAN)).await?;
            self.start = offset;
        }
        // Within the window by now, or at the end of the file.
        let from = (offset - self.start) as usize;
        Ok(self.bytes.slice(from..(from + len).min(self.bytes.len())))
    }
}

/// What stands at a place where a block should.
enum Next {
    Block(BlockHeader, Vec<Found>),
    /// No block, or one that was not written as a whole.
    Bad {
        header: bool,
        at: u64,
        shards: Vec<ShardId>,
    },
}

/// The numbers of the segments and the paths of the spare files among these names. Other endings are not the log's, and left alone. What only
/// looks like a file of the log may be a copy of one: read, it would contradict the other, and as a spare file it would be overwritten.
fn sort(names: &[String]) -> Result<(Vec<u64>, Vec<String>), WalError> {
    let (mut numbers, mut spares) = (Vec::new(), Vec::new());
    for name in names {
        let path = format!("{WAL_DIR}/{name}");
        let number = |suffix| name.strip_suffix(suffix).and_then(|digits| digits.parse().ok());
        if name.ends_with(SEGMENT_SUFFIX) {
            let exact = number(SEGMENT_SUFFIX).filter(|number| segment_path(*number) == path);
            numbers.push(exact.ok_or(WalError::Misnamed { path })?);
        } else if name.ends_with(SPARE_SUFFIX) {
            let was_segment = number(SPARE_SUFFIX).is_some_and(|number| spare_path(number) == path);
            let is_new = allocated_count(&path).is_some_and(|count| allocated_path(count) == path);
            if !was_segment && !is_new {
                return Err(WalError::Misnamed { path });
            }
            spares.push(path);
        }
    }
    Ok((numbers, spares))
}

/// Reads all segments of the store.
pub(crate) async fn scan(
    disk: &DynDisk,
    store_id: StoreId,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Scan, WalError> {
    let names = disk
        .list(WAL_DIR)
        .await
        .map_err(|source| WalError::io("list", WAL_DIR, source))?;
    let (numbers, spares) = sort(&names)?;
    let mut scan = Scan {
        spares,
        ..Scan::default()
    };
    for number in &numbers {
        let is_last = Some(number) == numbers.last();
        scan.segment(disk, store_id, *number, is_last).await?;
        progress(scan.segments.last().map_or(0, |segment| segment.header.capacity));
    }
    if scan.damage.is_empty() {
        for (shard, detail) in scan.replay.faults() {
            let detail = format!("shard {shard}: {detail}");
            scan.damage.push(Damage {
                path: WAL_DIR.to_owned(),
                offset: 0,
                detail,
                shards: vec![shard.0],
            });
        }
    }
    Ok(scan)
}

impl Scan {
    fn damaged(&mut self, number: u64, offset: u64, detail: impl Into<String>, shards: &[ShardId]) {
        let (path, shards) = (segment_path(number), shards.iter().map(|shard| shard.0).collect());
        self.damage.push(Damage {
            path,
            offset,
            detail: detail.into(),
            shards,
        });
    }

    async fn segment(
        &mut self,
        disk: &DynDisk,
        store_id: StoreId,
        number: u64,
        is_last: bool,
    ) -> Result<(), WalError> {
        let path = segment_path(number);
        let failed = |source| WalError::io("read", &path, source);
        let file = disk.open(&path, false).await.map_err(failed)?;
        let len = file.len().await.map_err(failed)?;
        let first = file.read_at(0, SECTOR).await.map_err(failed)?;
        let header = match SegmentHeader::decode(&first) {
            Ok(header) => header,
            Err(HeaderFault::Version(found)) => {
                return Err(WalError::Newer {
                    path,
                    found,
                    known: VERSION,
                });
            }
            Err(fault) => {
                self.damaged(
                    number,
                    0,
                    format!("the segment header is damaged ({fault:?})"),
                    &[],
                );
                return Ok(());
            }
        };
        if header.store_id != store_id {
            return Err(WalError::Foreign {
                path,
                found: header.store_id,
                expected: store_id,
            });
        }
        if header.number != number {
            self.damaged(
                number,
                0,
                format!("the file holds segment {}", header.number),
                &[],
            );
            return Ok(());
        }
        if len < header.capacity {
            let detail = format!("the file has {len} bytes instead of {}", header.capacity);
            self.damaged(number, len, detail, &[]);
        }
        let report = SegmentReport {
            number,
            ..SegmentReport::default()
        };
        let mut scanned = Scanned {
            header,
            file: file.clone(),
            last_block: 0,
            end: SECTOR as u64,
            report,
        };
        self.blocks(&mut scanned, is_last).await.map_err(failed)?;
        scanned.report.bytes = scanned.end;
        self.segments.push(scanned);
        Ok(())
    }

    /// Reads blocks until the end of the segment or the first bad one.
    async fn blocks(&mut self, scanned: &mut Scanned, is_last: bool) -> io::Result<()> {
        let file = scanned.file.clone();
        let mut window = Window {
            file: &*file,
            start: 0,
            bytes: Bytes::new(),
        };
        loop {
            let first = scanned.report.blocks == 0;
            match self.next(&mut window, scanned).await? {
                Next::Block(header, found) => {
                    self.take_block(scanned, &header, &found);
                    if header.flags & FLAG_CLOSE != 0 {
                        scanned.report.closed = true;
                        return Ok(());
                    }
                }
                // The first block was durable before the file got its name, and a closed segment was closed durably before the
                // next one was made.
                Next::Bad { at, shards, .. } if first || !is_last => {
                    let number = scanned.header.number;
                    let detail = if first {
                        "the segment's first block is damaged"
                    } else {
                        "a block is damaged or missing, and a later segment exists"
                    };
                    self.damaged(number, at, detail, &shards);
                    return Ok(());
                }
                Next::Bad { header, at, shards } => {
                    if let Some(later) = self.later_block(&mut window, scanned).await?
                        && !kvsvr_core::mutant!("log-cut-at-bad-checksum")
                    {
                        let detail = format!(
                            "a block is damaged, but the block at byte {later} was written after it was durable"
                        );
                        self.damaged(scanned.header.number, at, detail, &shards);
                    } else if header {
                        scanned.report.torn_at = Some(scanned.end);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The block at the end of what was read.
    async fn next(&self, window: &mut Window<'_>, scanned: &Scanned) -> io::Result<Next> {
        let (segment, salt, offset) = (&scanned.header, scanned.header.salt(), scanned.end);
        let room = segment.capacity.saturating_sub(offset);
        let bytes = window.get(offset, BLOCK_HEADER).await?;
        let bad = |header, at, shards| Ok(Next::Bad { header, at, shards });
        let Some(header) = BlockHeader::decode(&bytes, segment, salt, offset) else {
            return bad(false, offset, Vec::new());
        };
        let in_order = match scanned.report.blocks {
            0 => header.seq >= self.next_seq && header.flags & FLAG_STATE != 0,
            _ => header.seq == self.next_seq && header.flags & FLAG_STATE == 0,
        };
        if !in_order || header.len() as u64 > room {
            return bad(true, offset, Vec::new());
        }
        let block = window.get(offset, header.len()).await?;
        match decode_body(&header, &block, salt) {
            Ok(found) => Ok(Next::Block(header, found)),
            Err(fault) => bad(true, offset + fault.offset as u64, fault.shards),
        }
    }

    /// The place of a block after the end of what could be read: it was written when everything before it was durable.
    async fn later_block(&self, window: &mut Window<'_>, scanned: &Scanned) -> io::Result<Option<u64>> {
        let (segment, salt) = (&scanned.header, scanned.header.salt());
        let mut offset = scanned.end;
        while offset + SECTOR as u64 <= segment.capacity {
            let bytes = window.get(offset, BLOCK_HEADER).await?;
            let header = BlockHeader::decode(&bytes, segment, salt, offset);
            if header.is_some_and(|header| header.seq > self.next_seq) {
                return Ok(Some(offset));
            }
            offset += SECTOR as u64;
        }
        Ok(None)
    }

    fn take_block(&mut self, scanned: &mut Scanned, header: &BlockHeader, found: &[Found]) {
        let (number, offset) = (scanned.header.number, scanned.end);
        if header.flags & FLAG_STATE != 0 {
            self.replay.begin_segment(found);
        } else {
            for found in found {
                let follows = self.replay.apply(number, offset, found);
                // After damage, what follows it does not fit any more.
                if !follows && self.damage.is_empty() {
                    let detail = "a record does not follow the one before it";
                    self.damaged(number, offset + u64::from(found.offset), detail, &[found.shard]);
                }
            }
        }
        let report = &mut scanned.report;
        report.blocks += 1;
        report.records += found.len() as u64;
        for found in found {
            if let Record::Entry(entry) = &found.record {
                let index = entry.position.index;
                let range = report.shards.entry(found.shard.0).or_default();
                range.first = if range.entries == 0 {
                    index
                } else {
                    range.first.min(index)
                };
                range.last = range.last.max(index);
                range.entries += 1;
            }
        }
        scanned.last_block = offset;
        scanned.end = offset + header.len() as u64;
        self.next_seq = header.seq + 1;
    }
}
