//! The log as a whole, on a disk that can lose power. The random histories are in [`model`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::{codec::SECTOR, *};
use crate::{
    disk::{fs::FsDisk, mem::MemDisk},
    store::WAL_DIR,
};

mod model;

const STORE: StoreId = StoreId([5; 16]);
const ONE: ShardId = ShardId(1);
const TWO: ShardId = ShardId(2);

/// Small segments, no seal by time, errors are only told to the callbacks.
fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 8 << 10,
        cache_bytes: 2 << 10,
        write_bytes: 2 << 10,
        seal_after: Duration::from_secs(3600),
        ..WalOptions::new(STORE, 1, Arc::new(|_| {}))
    }
}

fn shared(disk: &MemDisk) -> DynDisk {
    Arc::new(disk.clone())
}

async fn open(disk: &MemDisk) -> (Wal, RecoveryReport) {
    Wal::open(shared(disk), options()).await.unwrap()
}

fn entry(index: u64, term: u64, len: usize) -> EntryRecord {
    let position = LogPosition { index, term, node: 3 };
    EntryRecord {
        position,
        kind: EntryKind::Batch,
        payload: Bytes::from(vec![(index + term) as u8; len]),
    }
}

/// A callback and what it is called with.
fn waiter() -> (Done, oneshot::Receiver<io::Result<()>>) {
    let (sender, receiver) = oneshot::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

async fn append(wal: &Wal, shard: ShardId, entries: Vec<EntryRecord>) -> io::Result<()> {
    let (done, result) = waiter();
    wal.append(shard, entries, done);
    result.await.unwrap()
}

async fn append_many(wal: &Wal, shard: ShardId, indexes: std::ops::RangeInclusive<u64>, len: usize) {
    for index in indexes {
        append(wal, shard, vec![entry(index, 1, len)]).await.unwrap();
    }
}

async fn vote(wal: &Wal, shard: ShardId, term: u64) -> io::Result<()> {
    let (done, result) = waiter();
    wal.save_vote(
        shard,
        VoteRecord {
            term,
            node: 3,
            committed: true,
        },
        done,
    );
    result.await.unwrap()
}

async fn indexes(wal: &Wal, shard: ShardId) -> Vec<u64> {
    let entries = wal.read(shard, 0..u64::MAX, usize::MAX).await.unwrap();
    entries.iter().map(|entry| entry.position.index).collect()
}

fn segments(disk: &MemDisk) -> Vec<String> {
    disk.paths()
        .into_iter()
        .filter(|path| path.ends_with(".wal"))
        .collect()
}

async fn content(disk: &MemDisk) -> BTreeMap<String, Bytes> {
    let mut all = BTreeMap::new();
    for path in disk.paths() {
        let bytes = crate::disk::Disk::read(disk, &path).await.unwrap();
        all.insert(path, bytes);
    }
    all
}

#[tokio::test]
async fn everything_comes_back() {
    let disk = MemDisk::new(1);
    let (wal, report) = open(&disk).await;
    assert!(report.fresh);
    vote(&wal, ONE, 7).await.unwrap();
    append_many(&wal, ONE, 0..=5, 100).await;
    append_many(&wal, TWO, 0..=2, 10).await;
    let (done, result) = waiter();
    wal.truncate_after(ONE, Some(3), done);
    result.await.unwrap().unwrap();
    append(&wal, ONE, vec![entry(4, 2, 50)]).await.unwrap();
    let upto = LogPosition {
        index: 1,
        term: 1,
        node: 3,
    };
    wal.purge(ONE, upto);
    wal.save_committed(
        ONE,
        Some(LogPosition {
            index: 3,
            term: 1,
            node: 3,
        }),
    );
    vote(&wal, TWO, 1).await.unwrap();
    let (before, bytes) = (wal.shard(ONE), wal.unpurged_bytes());
    assert_eq!((before.first_index, before.purged), (2, Some(upto)));

    let (wal, report) = open(&disk.crash(2)).await;
    assert_eq!((report.fresh, report.shards, report.torn), (false, 2, None));
    assert_eq!((wal.shard(ONE), wal.unpurged_bytes()), (before, bytes));
    assert_eq!(
        before.last,
        Some(LogPosition {
            index: 4,
            term: 2,
            node: 3
        })
    );
    let read = wal.read(ONE, 2..10, usize::MAX).await.unwrap();
    assert_eq!(read, [entry(2, 1, 100), entry(3, 1, 100), entry(4, 2, 50)]);
    assert_eq!(wal.read(ONE, 2..10, 150).await.unwrap().len(), 1);
    assert_eq!(wal.shards(), [ONE, TWO]);
    assert_eq!(wal.position(ONE, 1), Some(upto));
    assert_eq!(indexes(&wal, TWO).await, [0, 1, 2]);
}

#[tokio::test]
async fn what_waits_is_written_together() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    let before = disk.syncs();
    let order = Arc::new(Mutex::new(Vec::new()));
    for round in 0..100_u64 {
        let (shard, order) = (ShardId((round % 5) as u32), order.clone());
        wal.append(
            shard,
            vec![entry(round / 5, 1, 1)],
            Box::new(move |result| {
                result.unwrap();
                order.lock().push(round);
            }),
        );
    }
    // Readable before it is durable.
    assert_eq!(indexes(&wal, ShardId(4)).await.len(), 20);
    vote(&wal, ONE, 1).await.unwrap();
    assert_eq!(*order.lock(), (0..100).collect::<Vec<_>>());
    assert!(disk.syncs() - before < 10, "{} syncs", disk.syncs() - before);
}

#[tokio::test]
async fn refuses_what_does_not_follow() {
    let (wal, _) = open(&MemDisk::new(1)).await;
    append_many(&wal, ONE, 5..=6, 1).await;
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(
        kind(append(&wal, ONE, vec![entry(8, 1, 1)]).await),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(append(&wal, ONE, vec![entry(7, 1, 1), entry(9, 1, 1)]).await),
        io::ErrorKind::InvalidInput
    );
    let large = append(&wal, ONE, vec![entry(7, 1, WAL_MAX_PAYLOAD + 1)]).await;
    assert_eq!(kind(large), io::ErrorKind::InvalidInput);
    wal.purge(
        ONE,
        LogPosition {
            index: 5,
            term: 1,
            node: 3,
        },
    );
    let (done, result) = waiter();
    wal.truncate_after(ONE, Some(4), done);
    assert_eq!(kind(result.await.unwrap()), io::ErrorKind::InvalidInput);
    append_many(&wal, ONE, 7..=7, 1).await;
    assert_eq!(indexes(&wal, ONE).await, [6, 7]);
}

#[tokio::test]
async fn an_idle_shard_does_not_keep_a_busy_ones_segments() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    vote(&wal, ONE, 3).await.unwrap();
    append_many(&wal, ONE, 0..=0, 10).await;
    let mut most = 0;
    for index in 0..200 {
        append(&wal, TWO, vec![entry(index, 1, 700)]).await.unwrap();
        wal.purge(
            TWO,
            LogPosition {
                index: index.saturating_sub(3),
                term: 1,
                node: 3,
            },
        );
        most = most.max(segments(&disk).len());
    }
    assert!(most <= 4, "{most} segments");
    assert!(wal.total_bytes() <= 6 * (8 << 10));
    assert!(segments(&disk).contains(&scan::segment_path(1)));
    let (wal, _) = open(&disk.crash(5)).await;
    assert_eq!(indexes(&wal, ONE).await, [0]);
    assert_eq!(wal.shard(ONE).vote.unwrap().term, 3);
    assert_eq!(indexes(&wal, TWO).await.last(), Some(&199));
}

#[tokio::test]
async fn a_segment_is_not_recycled_under_a_read() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    append_many(&wal, ONE, 0..=30, 700).await;
    let reader = tokio::spawn({
        let wal = wal.clone();
        async move { wal.read(ONE, 0..20, usize::MAX).await }
    });
    let other = wal.clone();
    let writer = tokio::spawn(async move {
        other.purge(
            ONE,
            LogPosition {
                index: 30,
                term: 1,
                node: 3,
            },
        );
        append_many(&other, ONE, 31..=60, 700).await;
    });
    let read = reader.await.unwrap().unwrap();
    assert!(
        read.iter()
            .all(|read| *read == entry(read.position.index, 1, 700))
    );
    writer.await.unwrap();
    assert_eq!(indexes(&wal, ONE).await.first(), Some(&31));
}

#[tokio::test]
async fn large_entries_get_a_segment_of_their_own() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    let entries: Vec<_> = (0..3).map(|index| entry(index, 1, 40_000)).collect();
    append(&wal, ONE, entries.clone()).await.unwrap();
    append_many(&wal, ONE, 3..=4, 10).await;
    let (wal, _) = open(&disk.crash(1)).await;
    assert_eq!(wal.read(ONE, 0..3, usize::MAX).await.unwrap(), entries);
    // They are not kept as spares.
    wal.purge(
        ONE,
        LogPosition {
            index: 3,
            term: 1,
            node: 3,
        },
    );
    append_many(&wal, ONE, 5..=6, 10).await;
    assert!(wal.total_bytes() <= 4 * (8 << 10), "{}", wal.total_bytes());
}

#[tokio::test]
async fn a_forgotten_shard_stays_forgotten() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    append_many(&wal, ONE, 0..=3, 700).await;
    append_many(&wal, TWO, 0..=3, 700).await;
    let (done, result) = waiter();
    wal.forget(ONE, done);
    result.await.unwrap().unwrap();
    append_many(&wal, TWO, 4..=40, 700).await;
    let (wal, _) = open(&disk.crash(1)).await;
    assert_eq!(wal.shard(ONE), ShardLog::default());
    assert_eq!(wal.shards(), [TWO]);
}

#[tokio::test]
async fn a_failed_sync_ends_the_log() {
    let disk = MemDisk::new(1);
    let fatal = Arc::new(AtomicUsize::new(0));
    let counter = fatal.clone();
    let hook = move |error: &io::Error| {
        assert!(error.to_string().contains("check the disk"), "{error}");
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let opened = WalOptions {
        on_fatal: Arc::new(hook),
        ..options()
    };
    let (wal, _) = Wal::open(shared(&disk), opened).await.unwrap();
    append_many(&wal, ONE, 0..=3, 10).await;
    disk.fail_sync_after(1);
    append(&wal, ONE, vec![entry(4, 1, 10)]).await.unwrap_err();
    append(&wal, ONE, vec![entry(5, 1, 10)]).await.unwrap_err();
    vote(&wal, TWO, 1).await.unwrap_err();
    wal.shutdown().await;
    assert_eq!(fatal.load(Ordering::SeqCst), 1);

    // The next process finds the entry in the page cache, where it looks clean. From then on it must be durable.
    let disk = disk.kill(1);
    let (wal, _) = open(&disk).await;
    let found = indexes(&wal, ONE).await;
    assert_eq!(found, [0, 1, 2, 3, 4]);
    for seed in 0..10 {
        let (wal, _) = open(&disk.kill(1).crash(seed)).await;
        assert_eq!(indexes(&wal, ONE).await, found);
    }
}

#[tokio::test]
async fn a_full_disk_is_named() {
    let disk = MemDisk::new(1);
    let text = Arc::new(Mutex::new(String::new()));
    let keep = text.clone();
    let opened = WalOptions {
        on_fatal: Arc::new(move |error| *keep.lock() = error.to_string()),
        reserve_bytes: 64 << 10,
        spares: 0,
        ..options()
    };
    let (wal, _) = Wal::open(shared(&disk), opened).await.unwrap();
    disk.set_capacity(20 << 10);
    assert!(wal.refresh_space().await.unwrap().low);
    let mut acknowledged = 0;
    while append(&wal, ONE, vec![entry(acknowledged, 1, 700)]).await.is_ok() {
        acknowledged += 1;
    }
    assert!(text.lock().contains("the disk is full"), "{}", text.lock());
    let disk = disk.crash(3);
    disk.set_capacity(u64::MAX);
    let (wal, _) = open(&disk).await;
    assert!(indexes(&wal, ONE).await.len() as u64 >= acknowledged);
    assert!(!wal.space().low);
}

#[tokio::test]
async fn an_idle_log_is_sealed_so_that_damage_to_its_last_entry_is_seen() {
    let disk = MemDisk::new(1);
    let opened = WalOptions {
        seal_after: Duration::ZERO,
        ..options()
    };
    let (wal, _) = Wal::open(shared(&disk), opened).await.unwrap();
    append_many(&wal, ONE, 0..=0, 10).await;
    let synced = disk.syncs();
    for _ in 0..100_000 {
        if disk.syncs() > synced {
            break;
        }
        tokio::task::yield_now().await;
    }
    // The seal of the opening is at the first sector after header and state, the entry after it.
    assert!(disk.flip_bit(&scan::segment_path(1), 3 * SECTOR as u64 + 70, 1));
    let error = Wal::open(shared(&disk.crash(1)), options()).await.unwrap_err();
    assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn mixed_up_files_are_refused() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    append_many(&wal, ONE, 0..=30, 700).await;
    wal.shutdown().await;
    let other = WalOptions {
        store_id: StoreId([6; 16]),
        ..options()
    };
    let error = Wal::open(shared(&disk), other).await.unwrap_err();
    assert!(matches!(error, WalError::Foreign { .. }), "{error}");

    // A segment in the middle is missing.
    let paths = segments(&disk);
    crate::disk::Disk::remove(&disk, &paths[1]).await.unwrap();
    let error = Wal::open(shared(&disk), options()).await.unwrap_err();
    assert!(
        matches!(&error, WalError::Corrupt { damage } if damage[0].shards == [1]),
        "{error}"
    );
    // One file under another's name.
    crate::disk::Disk::rename(&disk, &paths[2], &paths[1])
        .await
        .unwrap();
    let error = Wal::open(shared(&disk), options()).await.unwrap_err();
    assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
}

/// A copy beside the original, or a file of somebody else: neither read as a segment nor overwritten as a spare file.
#[tokio::test]
async fn names_that_only_look_like_the_logs_are_refused() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    append_many(&wal, ONE, 0..=30, 700).await;
    wal.shutdown().await;
    let first = segments(&disk).remove(0);
    let copied = crate::disk::Disk::read(&disk, &first).await.unwrap();
    for name in [
        "1.wal",
        "0000000000000000001.wal",
        "000000000000000000001.wal",
        "+0000000000000000001.wal",
        "copy.wal",
        ".wal",
        "1.free",
        "new-01.free",
        "backup.free",
    ] {
        let path = format!("{WAL_DIR}/{name}");
        let file = crate::disk::Disk::open(&disk, &path, true).await.unwrap();
        file.write_at(0, vec![copied.clone()], true).await.unwrap();
        let before = content(&disk).await;
        let error = Wal::open(shared(&disk), options()).await.unwrap_err();
        assert!(
            matches!(&error, WalError::Misnamed { path: of } if *of == path),
            "{error}"
        );
        assert_eq!(content(&disk).await, before, "a refused log was changed");
        crate::disk::Disk::remove(&disk, &path).await.unwrap();
    }
    // What does not end like a file of the log is nobody's concern.
    let file = crate::disk::Disk::open(&disk, &format!("{WAL_DIR}/1.wal.bak"), true)
        .await
        .unwrap();
    file.write_at(0, vec![copied], true).await.unwrap();
    let (wal, _) = open(&disk).await;
    assert_eq!(indexes(&wal, ONE).await, (0..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_flipped_bit_is_refused_or_harmless() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    vote(&wal, ONE, 7).await.unwrap();
    append_many(&wal, ONE, 0..=12, 600).await;
    append_many(&wal, TWO, 0..=4, 10).await;
    wal.shutdown().await;
    let expected = (wal.shard(ONE), indexes(&wal, ONE).await, indexes(&wal, TWO).await);
    assert!(segments(&disk).len() > 1);
    let (mut refused, mut harmless) = (0, 0);
    for path in segments(&disk) {
        // A prime step, so that all parts of headers and payloads are hit.
        for offset in (0..8 << 10).step_by(37) {
            let copy = disk.kill(offset);
            assert!(copy.flip_bit(&path, offset, (offset % 8) as u8));
            let before = content(&copy).await;
            match Wal::open(shared(&copy), options()).await {
                Ok((wal, _)) => {
                    let found = (wal.shard(ONE), indexes(&wal, ONE).await, indexes(&wal, TWO).await);
                    assert_eq!(found, expected, "{path} {offset}");
                    harmless += 1;
                }
                Err(error) => {
                    assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
                    assert_eq!(content(&copy).await, before, "a refused log was changed");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 200 && harmless > 20, "{refused} {harmless}");
}

#[tokio::test]
async fn a_damaged_entry_is_not_served() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    append_many(&wal, ONE, 0..=9, 600).await;
    assert!(disk.flip_bit(&scan::segment_path(1), 3 * SECTOR as u64 + 200, 1));
    let error = wal.read(ONE, 0..1, usize::MAX).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("kvsvr check"), "{error}");
    assert_eq!(wal.read(ONE, 1..10, usize::MAX).await.unwrap().len(), 9);
}

#[tokio::test]
async fn shutdown_writes_what_is_queued() {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).await;
    append_many(&wal, ONE, 0..=3, 10).await;
    wal.purge(
        ONE,
        LogPosition {
            index: 1,
            term: 1,
            node: 3,
        },
    );
    wal.save_committed(
        ONE,
        Some(LogPosition {
            index: 2,
            term: 1,
            node: 3,
        }),
    );
    wal.shutdown().await;
    assert!(append(&wal, ONE, vec![entry(4, 1, 1)]).await.is_err());
    let before = wal.shard(ONE);
    let (wal, _) = open(&disk.crash(1)).await;
    assert_eq!(wal.shard(ONE), before);
    assert_eq!(before.committed.unwrap().index, 2);
}

#[tokio::test]
async fn on_a_real_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let disk = || -> DynDisk { Arc::new(FsDisk::new(dir.path()).unwrap()) };
    let writes = Arc::new(AtomicUsize::new(0));
    for round in 0..4_u64 {
        let counter = writes.clone();
        let opened = WalOptions {
            on_write: Arc::new(move |write| {
                counter.fetch_add(write.records, Ordering::SeqCst);
            }),
            ..options()
        };
        let (wal, report) = Wal::open(disk(), opened).await.unwrap();
        assert_eq!(report.fresh, round == 0);
        let first = round * 40;
        assert_eq!(indexes(&wal, ONE).await.last().copied(), first.checked_sub(1));
        append_many(&wal, ONE, first..=first + 39, 300).await;
        wal.purge(
            ONE,
            LogPosition {
                index: first + 20,
                term: 1,
                node: 3,
            },
        );
        vote(&wal, ONE, round + 1).await.unwrap();
        // Every other time without a shutdown; the next one must not find this one still at work.
        if round % 2 == 0 {
            wal.shutdown().await;
        } else {
            let stopped = wal.handle.stopped.clone();
            drop(wal);
            let _ = stopped.await;
        }
    }
    assert!(writes.load(Ordering::SeqCst) >= 4 * 42);
    assert!(std::fs::read_dir(dir.path().join(WAL_DIR)).unwrap().count() <= 8);
}
