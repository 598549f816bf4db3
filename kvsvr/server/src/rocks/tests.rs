//! RocksDB as an engine: the shared suite, and what only a real database has.

use std::fs;

use kvsvr_core::{
    rows::{DataRow, HistRow},
    testing::engine_conformance,
};
use tempfile::TempDir;

use super::*;
use crate::buffer::BufferedEngine;

mod times;

const SMALL: RocksOptions = RocksOptions {
    block_cache_bytes: 4 << 20,
    memtable_bytes: 8 << 20,
};

/// A directory in memory where there is one: the suite makes many databases, and RocksDB syncs a lot.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

fn open(path: &Path) -> Arc<RocksEngine> {
    RocksEngine::open(path, &SMALL).unwrap()
}

fn put(engine: &RocksEngine, cf: Cf, key: &[u8], value: impl Into<Bytes>) {
    let mut batch = WriteBatch::default();
    batch.put(cf, key.to_vec(), value);
    engine.write(batch).unwrap();
}

/// What a kill now would leave: a copy of the files.
fn killed(path: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let to = directory();
    copy(path, to.path());
    to
}

/// Keeps its directory as long as it is used.
struct Owned {
    engine: Arc<dyn Engine>,
    _dir: TempDir,
}

impl EngineRead for Owned {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.engine.scan(cf, range, visit)
    }
}

impl Engine for Owned {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.engine.write(batch)
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        self.engine.snapshot()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.engine.flush()
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get_durable(cf, key)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.engine.set_garbage_floor(shard, floor);
    }
}

#[test]
fn conforms() {
    engine_conformance(|| {
        let dir = directory();
        let engine = open(dir.path());
        Box::new(Owned { engine, _dir: dir })
    });
}

/// As the node has them.
#[test]
fn conforms_below_the_write_buffer() {
    engine_conformance(|| {
        let dir = directory();
        let engine = Arc::new(BufferedEngine::new(open(dir.path()), 1 << 20, 1 << 20));
        Box::new(Owned { engine, _dir: dir })
    });
}

#[test]
fn a_kill_leaves_the_last_flush_of_all_families() {
    let dir = directory();
    let engine = open(dir.path());
    for cf in Cf::ALL {
        put(&engine, cf, b"k", "flushed");
    }
    engine.flush().unwrap();
    for cf in [Cf::Data, Cf::State] {
        put(&engine, cf, b"k", "later");
        put(&engine, cf, b"new", "later");
    }
    assert_eq!(engine.get_durable(Cf::Data, b"k").unwrap().unwrap(), "flushed");
    assert_eq!(engine.get_durable(Cf::State, b"new").unwrap(), None);
    let copy = killed(dir.path());
    let after = open(copy.path());
    for cf in Cf::ALL {
        assert_eq!(after.get(cf, b"k").unwrap().unwrap(), "flushed");
        assert_eq!(after.get(cf, b"new").unwrap(), None);
    }
    // An orderly end keeps everything.
    drop(engine);
    assert_eq!(open(dir.path()).get(Cf::Data, b"new").unwrap().unwrap(), "later");
}

fn hist_row(superseded_at: Revision) -> Bytes {
    let value = Bytes::from_static(b"v");
    let row = DataRow {
        create_rev: 1,
        mod_rev: 1,
        version: 1,
        expires_at: 0,
        lease: 0,
        value,
    };
    HistRow { superseded_at, row }.encode()
}

#[test]
fn compaction_drops_garbage_but_not_under_a_snapshot() {
    let dir = directory();
    let engine = open(dir.path());
    let shard = ShardId(1);
    for revision in 1..=9_u8 {
        put(
            &engine,
            Cf::Hist,
            &[0, 0, 0, 1, revision],
            hist_row(revision.into()),
        );
        put(
            &engine,
            Cf::Hist,
            &[0, 0, 0, 2, revision],
            hist_row(revision.into()),
        );
    }
    let left = |engine: &dyn EngineRead, shard: u8| {
        let mut rows = Vec::new();
        let (start, end) = ([0, 0, 0, shard], [0, 0, 0, shard + 1]);
        let range = Scan {
            start: &start,
            end: &end,
            reverse: false,
        };
        let mut visit = |key: &[u8], _: &[u8]| {
            rows.push(key[4]);
            ControlFlow::Continue(())
        };
        engine.scan(Cf::Hist, range, &mut visit).unwrap();
        rows
    };
    engine.set_garbage_floor(shard, 2);
    let snapshot = engine.snapshot();
    engine.set_garbage_floor(shard, 6);
    engine.compact().unwrap();
    assert_eq!(left(&*snapshot, 1), [3, 4, 5, 6, 7, 8, 9]);
    drop(snapshot);
    // Another write, so that there is something to compact.
    put(&engine, Cf::Hist, &[0, 0, 0, 1, 0], hist_row(1));
    engine.compact().unwrap();
    assert_eq!(left(&*engine, 1), [7, 8, 9]);
    assert_eq!(left(&*engine, 2).len(), 9);
}

#[test]
fn checkpoints_are_views_that_last() {
    let dir = directory();
    let engine = open(dir.path());
    put(&engine, Cf::Data, b"k", "one");
    engine.create("3-17").unwrap();
    assert!(engine.create("3-17").is_err());
    put(&engine, Cf::Data, b"k", "two");
    engine.compact().unwrap();
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.list().unwrap(), ["3-17"]);
    let view = Checkpoints::open(&*engine, "3-17").unwrap().unwrap();
    assert_eq!(view.get(Cf::Data, b"k").unwrap().unwrap(), "one");
    assert_eq!(EngineRead::get(&*engine, Cf::Data, b"k").unwrap().unwrap(), "two");
    // Its files may go while it is open.
    engine.remove("3-17").unwrap();
    engine.remove("3-17").unwrap();
    assert_eq!(view.get(Cf::Data, b"k").unwrap().unwrap(), "one");
    assert!(Checkpoints::open(&*engine, "3-17").unwrap().is_none());
    assert!(engine.create("../up").is_err());
}

#[test]
fn a_flipped_bit_is_reported_not_served() {
    let dir = directory();
    let engine = open(dir.path());
    for i in 0..2000_u32 {
        put(&engine, Cf::Data, &i.to_be_bytes(), vec![i as u8; 100]);
    }
    engine.flush().unwrap();
    assert_eq!(engine.verify(&|_| {}).unwrap(), 2000);
    let copy = killed(dir.path());
    let table = fs::read_dir(copy.path().join(DB_DIR))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .unwrap();
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    fs::write(&table, bytes).unwrap();
    let view = RocksView::open_stopped(copy.path()).unwrap().unwrap();
    assert!(matches!(view.verify(&|_| {}), Err(EngineError::Corrupt(_))));
    let damaged = open(copy.path());
    let mut corrupt = 0;
    for i in 0..2000_u32 {
        match damaged.get(Cf::Data, &i.to_be_bytes()) {
            Ok(value) => assert_eq!(value.unwrap(), vec![i as u8; 100]),
            Err(EngineError::Corrupt(_)) => corrupt += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(corrupt > 0);
}

#[test]
fn stats_show_memtables_and_files() {
    let dir = directory();
    let engine = open(dir.path());
    put(&engine, Cf::Data, b"k", vec![1; 100_000]);
    let before = engine.stats();
    assert!(
        before.memtable_bytes >= 100_000 && before.file_bytes == 0,
        "{before:?}"
    );
    engine.flush().unwrap();
    let after = engine.stats();
    assert!(after.file_bytes > 0 && !after.write_stopped, "{after:?}");
}
