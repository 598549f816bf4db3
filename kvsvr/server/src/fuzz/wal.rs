//! The WAL: bytes that are no segment, a sound log that is damaged, and sound blocks whose records make no sense.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::{Buf, Bytes};
use futures::channel::oneshot;
use kvsvr_core::types::{LogPosition, ShardId};

use super::{SHARD, block_on};
use crate::{
    disk::{Disk, DynDisk, mem::MemDisk},
    store::{StoreId, WAL_DIR},
    wal::{
        EntryKind, EntryRecord, VoteRecord, Wal, WalError, WalOptions,
        codec::{
            BLOCK_HEADER, BlockBuilder, FLAG_CLOSE, FLAG_STATE, Record, SECTOR, SegmentHeader, ShardState,
        },
        scan::{Scan, scan, segment_path},
    },
};

const STORE: StoreId = StoreId([5; 16]);

type Files = BTreeMap<String, Bytes>;

async fn disk_with(files: &Files) -> MemDisk {
    let disk = MemDisk::new(1);
    disk.create_dir(WAL_DIR).await.expect("in memory");
    for (path, bytes) in files {
        let file = disk.open(path, true).await.expect("in memory");
        file.write_at(0, vec![bytes.clone()], true)
            .await
            .expect("in memory");
    }
    disk.sync_dir(WAL_DIR).await.expect("in memory");
    disk
}

async fn files_of(disk: &MemDisk) -> Files {
    let mut files = Files::new();
    for path in disk.paths() {
        let bytes = disk.read(&path).await.expect("in memory");
        files.insert(path, bytes);
    }
    files
}

/// What a scan makes of the files; it must not change them.
async fn scanned(files: &Files) -> Result<Scan, WalError> {
    let disk = disk_with(files).await;
    let shared: DynDisk = Arc::new(disk.clone());
    let found = scan(&shared, STORE, &|_| {}).await;
    assert_eq!(&files_of(&disk).await, files, "a scan writes nothing");
    found
}

/// What must hold of a log that is accepted.
fn check(scan: Scan) {
    let states = scan.replay.states();
    let index = scan.replay.into_index(1 << 20);
    for (id, state) in states {
        if let Some(shard) = index.get(id) {
            let view = shard.view();
            assert_eq!((view.vote, view.purged), (state.vote, state.purged));
            assert!(view.committed.map(|p| p.index) <= view.last.map(|p| p.index));
        }
    }
}

/// Any bytes as a segment file, and after the header of one.
pub fn wal_bytes(data: &[u8]) {
    let after_header = [&SECTOR_OF_ZEROS[..], data].concat();
    for content in [data.to_vec().into(), segment(1, after_header)] {
        let files = Files::from([(segment_path(1), content)]);
        if let Ok(scan) = block_on(scanned(&files))
            && scan.damage.is_empty()
        {
            check(scan);
        }
    }
}

/// Changes to the segments of a sound WAL: (file u8, offset u16, mask u8)*. It is refused, or at most the last write is dropped,
/// which a crash can have torn.
pub fn wal_damage(data: &[u8]) {
    let (sound, blocks) = sound();
    let paths: Vec<&String> = sound.keys().filter(|path| path.ends_with(".wal")).collect();
    let mut files = sound.clone();
    for change in data.chunks_exact(4).take(64) {
        let path = paths[usize::from(change[0]) % paths.len()];
        let mut bytes = files[path].to_vec();
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % bytes.len();
        bytes[at] ^= change[3];
        files.insert(path.clone(), bytes.into());
    }
    let Ok(scan) = block_on(scanned(&files)) else {
        return;
    };
    if scan.damage.is_empty() {
        let found: u64 = scan.segments.iter().map(|segment| segment.report.blocks).sum();
        assert!(
            found == *blocks || found + 1 == *blocks,
            "{found} of {blocks} blocks"
        );
        check(scan);
    }
}

/// Segments of a WAL with two shards, some of which are purged, and the number of their blocks.
fn sound() -> &'static (Files, u64) {
    static SOUND: OnceLock<(Files, u64)> = OnceLock::new();
    SOUND.get_or_init(|| {
        block_on(async {
            let disk = MemDisk::new(1);
            write_log(&disk).await;
            // As after a crash: the writer is not there any more.
            let disk = disk.kill(1);
            let files = files_of(&disk).await;
            let scan = scanned(&files).await.expect("it was just written");
            assert!(scan.damage.is_empty() && scan.segments.len() > 1);
            let blocks = scan.segments.iter().map(|segment| segment.report.blocks).sum();
            (files, blocks)
        })
    })
}

async fn write_log(disk: &MemDisk) {
    let options = WalOptions {
        segment_bytes: 8 << 10,
        ..WalOptions::new(STORE, 1, Arc::new(|_| {}))
    };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), options)
        .await
        .expect("in memory");
    for index in 0..24 {
        for shard in [SHARD, ShardId(4)] {
            let (done, durable) = oneshot::channel();
            let entry = EntryRecord {
                position: position(index, 1),
                kind: EntryKind::Batch,
                payload: Bytes::from(vec![index as u8; 100]),
            };
            wal.append(shard, vec![entry], Box::new(|result| drop(done.send(result))));
            durable.await.expect("it is called").expect("in memory");
        }
    }
    wal.purge(SHARD, position(9, 1));
    wal.save_committed(SHARD, Some(position(20, 1)));
    let (done, durable) = oneshot::channel();
    let vote = VoteRecord {
        term: 2,
        node: 1,
        committed: true,
    };
    wal.save_vote(SHARD, vote, Box::new(|result| drop(done.send(result))));
    durable.await.expect("it is called").expect("in memory");
}

fn position(index: u64, term: u64) -> LogPosition {
    LogPosition { index, term, node: 1 }
}

const SECTOR_OF_ZEROS: [u8; SECTOR] = [0; SECTOR];

fn header(number: u64, capacity: u64) -> SegmentHeader {
    SegmentHeader {
        store_id: STORE,
        number,
        epoch: number,
        capacity,
    }
}

/// Puts the header over the first sector, and fills the last one.
fn segment(number: u64, mut bytes: Vec<u8>) -> Bytes {
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    let header = header(number, bytes.len() as u64);
    bytes[..SECTOR].copy_from_slice(&header.encode());
    bytes.into()
}

/// Records in any order, each with its checksum: (kind u8, shard u8, index u8, term u8)*. Some kinds end a block or a segment.
pub fn wal_records(data: &[u8]) {
    let files = segments(data);
    if let Ok(scan) = block_on(scanned(&files))
        && scan.damage.is_empty()
    {
        check(scan);
    }
}

/// Blocks of a segment in the making.
struct Writing {
    header: SegmentHeader,
    bytes: Vec<u8>,
    seq: u64,
}

impl Writing {
    fn new(number: u64, seq: u64) -> Self {
        Self {
            header: header(number, 0),
            bytes: SECTOR_OF_ZEROS.to_vec(),
            seq,
        }
    }

    fn block(&mut self, records: &[(ShardId, Record)], flags: u32) {
        let mut block = BlockBuilder::new(self.header.salt(), BLOCK_HEADER);
        for (shard, record) in records {
            block.push(*shard, record);
        }
        let parts = block.finish(self.header.epoch, self.bytes.len() as u64, self.seq, flags);
        self.seq += 1;
        self.bytes.extend(parts.iter().flatten());
    }

    fn into_file(self, files: &mut Files) {
        let number = self.header.number;
        files.insert(segment_path(number), segment(number, self.bytes));
    }
}

fn segments(mut data: &[u8]) -> Files {
    let mut files = Files::new();
    let mut writing = Writing::new(1, 1);
    writing.block(&[], FLAG_STATE);
    let mut records = Vec::new();
    while data.remaining() >= 4 {
        let (kind, shard, index, term) = (data.get_u8(), data.get_u8(), data.get_u8(), data.get_u8());
        let (shard, at) = (
            ShardId(u32::from(shard % 3)),
            position(index.into(), (term % 4).into()),
        );
        match kind % 12 {
            10 => writing.block(&std::mem::take(&mut records), 0),
            11 => {
                writing.block(&std::mem::take(&mut records), FLAG_CLOSE);
                let next = Writing::new(writing.header.number + 1, writing.seq);
                let closed = std::mem::replace(&mut writing, next);
                closed.into_file(&mut files);
                let state = ShardState {
                    last: Some(at),
                    ..ShardState::default()
                };
                writing.block(&[(shard, Record::State(state))], FLAG_STATE);
            }
            kind => records.push((shard, record(kind, at))),
        }
    }
    writing.block(&records, 0);
    writing.into_file(&mut files);
    files
}

fn record(kind: u8, at: LogPosition) -> Record {
    match kind {
        0..=3 => Record::Entry(EntryRecord {
            position: at,
            kind: EntryKind::Batch,
            payload: Bytes::from_static(b"payload"),
        }),
        4 => Record::Vote(VoteRecord {
            term: at.term,
            node: at.index,
            committed: false,
        }),
        5 => Record::Committed(Some(at)),
        6 => Record::Purged(at),
        7 => Record::Truncate(Some(at)),
        8 => Record::Truncate(None),
        _ => Record::Forget,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_log_is_accepted() {
        wal_damage(&[]);
        let (files, blocks) = sound();
        assert!(*blocks > 40 && files.len() > 1);
        // Entries 0, 1 and 2 of a shard, in two blocks; then the same without the second.
        for (data, last) in [
            (&[0, 1, 0, 1, 0, 1, 1, 1, 10, 0, 0, 0, 0, 1, 2, 1][..], Some(2)),
            (&[0, 1, 0, 1, 0, 1, 2, 1][..], None),
        ] {
            let scan = block_on(scanned(&segments(data))).unwrap();
            let state = scan.replay.states().remove(&ShardId(1)).unwrap();
            let found = scan.damage.is_empty().then(|| state.last.unwrap().index);
            assert_eq!(found, last);
        }
    }
}
