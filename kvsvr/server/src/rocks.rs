//! The production [`Engine`]: RocksDB.
//!
//! Writes do not go to RocksDB's own log: after a crash the engine is as of its last flush, all column families together, and the
//! node replays its WAL from there ([`crate::wal`]). Memory is bounded by two budgets, the block cache (data, index and filter
//! blocks) and the memtables. Rows below a shard's garbage floor are dropped by compactions ([`garbage`]), never under an open snapshot.
//!
//! Layout below the engine's directory: `db/` is the database, `checkpoints/NAME/` are durable views of it made of hard links.
//!
//! All methods block; callers on the async runtime keep calls short or move them to a blocking task. It relies on the caller to
//! have the data directory to itself. It does not repair: corrupt data is reported as such.

use std::{
    fmt, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use kvsvr_core::{
    engine::{Cf, EachRow, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, Write, WriteBatch},
    types::{Revision, ShardId},
};
use rocksdb::{
    ColumnFamily, DB, ErrorKind, FlushOptions, ReadOptions, ReadTier, SnapshotWithThreadMode, WriteOptions,
    checkpoint::Checkpoint,
};

use crate::{
    limits::{ROCKS_BLOCK_CACHE_BYTES, ROCKS_MEMTABLE_BYTES},
    raft::snapshot::Checkpoints,
};

mod garbage;
mod ground;
mod options;

use garbage::Floors;
pub use ground::{Ground, System};
use options::Shared;

const DB_DIR: &str = "db";
const CHECKPOINT_DIR: &str = "checkpoints";
/// After every key that the state machine writes (they are shorter): the end of ranges that have none.
const AFTER_ALL_KEYS: [u8; 16 << 10] = [0xff; 16 << 10];

/// Memory budgets.
#[derive(Clone, Copy, Debug)]
pub struct RocksOptions {
    /// Bytes of blocks kept in memory, index and filter blocks included.
    pub block_cache_bytes: usize,
    /// Bytes of memtables; a flush starts before they are reached.
    pub memtable_bytes: usize,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: ROCKS_BLOCK_CACHE_BYTES,
            memtable_bytes: ROCKS_MEMTABLE_BYTES,
        }
    }
}

/// Sizes and states, for metrics and status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RocksStats {
    /// Bytes of all table files.
    pub file_bytes: u64,
    /// Bytes of the newest data in them, estimated.
    pub live_bytes: u64,
    /// Bytes of memtables, those being flushed included.
    pub memtable_bytes: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Bytes that compactions still have to rewrite.
    pub pending_compaction_bytes: u64,
    /// Writes are stopped until flushes or compactions catch up.
    pub write_stopped: bool,
    /// Writes are slowed down for the same reason.
    pub write_delayed: bool,
    /// Errors of background work since the start.
    pub background_errors: u64,
}

/// RocksDB with the five column families.
pub struct RocksEngine {
    db: DB,
    path: PathBuf,
    shared: Shared,
}

impl fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksEngine")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn error(error: &rocksdb::Error) -> EngineError {
    match error.kind() {
        ErrorKind::Corruption => EngineError::Corrupt(error.to_string()),
        _ => EngineError::Io(error.to_string()),
    }
}

fn io_error(what: &str, path: &Path, error: &io::Error) -> EngineError {
    EngineError::Io(format!("cannot {what} {}: {error}", path.display()))
}

fn family(db: &DB, cf: Cf) -> Result<&ColumnFamily, EngineError> {
    // All families are opened with the database.
    db.cf_handle(cf.name())
        .ok_or_else(|| EngineError::Io(format!("no column family {}", cf.name())))
}

fn get(db: &DB, cf: Cf, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, EngineError> {
    let value = db
        .get_pinned_cf_opt(family(db, cf)?, key, options)
        .map_err(|e| error(&e))?;
    Ok(value.map(|value| Bytes::copy_from_slice(&value)))
}

fn scan(
    db: &DB,
    cf: Cf,
    range: Scan<'_>,
    mut options: ReadOptions,
    visit: Visit<'_>,
) -> Result<(), EngineError> {
    if !range.end.is_empty() && range.start >= range.end {
        return Ok(());
    }
    options.set_iterate_lower_bound(range.start);
    if !range.end.is_empty() {
        options.set_iterate_upper_bound(range.end);
    }
    let mut iterator = db.raw_iterator_cf_opt(family(db, cf)?, options);
    if range.reverse {
        iterator.seek_to_last();
    } else {
        iterator.seek_to_first();
    }
    while let Some((key, value)) = iterator.item() {
        if visit(key, value) == ControlFlow::Break(()) {
            return Ok(());
        }
        if range.reverse {
            iterator.prev();
        } else {
            iterator.next();
        }
    }
    iterator.status().map_err(|e| error(&e))
}

/// Reads everything once, so that every block's checksum is looked at. Returns the number of pairs. `progress` gets the pairs
/// so far now and then.
fn verify(db: &DB, progress: &dyn Fn(u64)) -> Result<u64, EngineError> {
    const STEP: u64 = 100_000;
    let mut pairs = 0;
    for cf in Cf::ALL {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_verify_checksums(true);
        options.set_readahead_size(2 << 20);
        scan(
            db,
            cf,
            Scan {
                start: &[],
                end: &[],
                reverse: false,
            },
            options,
            &mut |_, _| {
                pairs += 1;
                if pairs % STEP == 0 {
                    progress(pairs);
                }
                ControlFlow::Continue(())
            },
        )?;
    }
    Ok(pairs)
}

impl RocksEngine {
    /// Opens the engine in a directory, which is created if it is missing.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<Arc<Self>, EngineError> {
        Self::open_on(Arc::new(System), path, options)
    }

    /// Like [`RocksEngine::open`], on something else than the operating system.
    pub fn open_on(
        ground: Arc<dyn Ground>,
        path: &Path,
        options: &RocksOptions,
    ) -> Result<Arc<Self>, EngineError> {
        for dir in [DB_DIR, CHECKPOINT_DIR] {
            let dir = path.join(dir);
            ground
                .create_dir(&dir)
                .map_err(|e| io_error("create", &dir, &e))?;
        }
        // RocksDB syncs the directory of a database, not those above it: without their names all that it has flushed is lost.
        let above = path
            .parent()
            .map(|dir| if dir == Path::new("") { Path::new(".") } else { dir });
        let above_it = [Some(path), above].into_iter().flatten();
        for dir in above_it.filter(|_| !kvsvr_core::mutant!("engine-directory-not-synced")) {
            ground.sync_dir(dir).map_err(|e| io_error("sync", dir, &e))?;
        }
        let direct_io = ground.has_direct_io(path);
        let shared = Shared::new(options, ground, direct_io);
        let db = DB::open_cf_descriptors(&shared.database(), path.join(DB_DIR), shared.column_families())
            .map_err(|e| error(&e))?;
        Ok(Arc::new(Self {
            db,
            path: path.to_owned(),
            shared,
        }))
    }

    /// Reads everything once, so that every block's checksum is looked at. Returns the number of pairs; `progress` gets the
    /// pairs so far now and then.
    pub fn verify(&self, progress: &dyn Fn(u64)) -> Result<u64, EngineError> {
        verify(&self.db, progress)
    }

    /// By the numbers of [`Cf`].
    fn families(&self) -> Result<Vec<&ColumnFamily>, EngineError> {
        Cf::ALL.iter().map(|cf| family(&self.db, *cf)).collect()
    }

    fn write_unlogged(&self, writes: rocksdb::WriteBatch) -> Result<(), EngineError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(writes, &options).map_err(|e| error(&e))
    }

    /// Sizes and states now.
    pub fn stats(&self) -> RocksStats {
        let sum = |name: &str| {
            let value = |cf: &Cf| {
                let family = family(&self.db, *cf).ok()?;
                self.db.property_int_value_cf(family, name).ok().flatten()
            };
            Cf::ALL.iter().filter_map(value).sum()
        };
        let one = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        RocksStats {
            file_bytes: sum("rocksdb.total-sst-files-size"),
            live_bytes: sum("rocksdb.estimate-live-data-size"),
            memtable_bytes: self.shared.memtable_bytes() as u64,
            cache_bytes: self.shared.cache_bytes() as u64,
            pending_compaction_bytes: sum("rocksdb.estimate-pending-compaction-bytes"),
            write_stopped: one("rocksdb.is-write-stopped") != 0,
            write_delayed: one("rocksdb.actual-delayed-write-rate") != 0,
            background_errors: one("rocksdb.background-errors"),
        }
    }

    /// Compacts everything, and so drops all garbage and deleted keys. Blocks for long.
    pub fn compact(&self) -> Result<(), EngineError> {
        self.flush()?;
        for cf in Cf::ALL {
            self.db
                .compact_range_cf(family(&self.db, cf)?, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    /// Where a checkpoint is. The name must be one path component.
    fn checkpoint_path(&self, name: &str) -> Result<PathBuf, EngineError> {
        let plain = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !name.starts_with('.');
        if !plain {
            return Err(EngineError::Io(format!(
                "{name:?} cannot be the name of a checkpoint"
            )));
        }
        Ok(self.path.join(CHECKPOINT_DIR).join(name))
    }
}

impl EngineRead for RocksEngine {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(&self.db, cf, key, &ReadOptions::default())
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        scan(&self.db, cf, range, ReadOptions::default(), visit)
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let families = self.families()?;
        let mut writes = rocksdb::WriteBatch::default();
        for write in batch.writes {
            match write {
                Write::Put(cf, key, value) => writes.put_cf(families[cf as usize], key, value),
                Write::Delete(cf, key) => writes.delete_cf(families[cf as usize], key),
                Write::Retire(retired) => {
                    let (key, row) = retired.encode();
                    writes.put_cf(families[Cf::Hist as usize], key, row);
                }
                Write::DeleteRange(cf, start, end) => {
                    let end: &[u8] = if end.is_empty() { &AFTER_ALL_KEYS } else { &end };
                    if *start < *end {
                        writes.delete_range_cf(families[cf as usize], &*start, end);
                    }
                }
            }
        }
        self.write_unlogged(writes)
    }

    fn write_rows(&self, rows: EachRow<'_>, bytes: usize) -> Result<(), EngineError> {
        let families = self.families()?;
        let mut writes = rocksdb::WriteBatch::with_capacity_bytes(bytes);
        rows(&mut |(cf, key, value)| match value {
            Some(value) => writes.put_cf(families[cf as usize], key, value),
            None => writes.delete_cf(families[cf as usize], key),
        });
        self.write_unlogged(writes)
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        // The floors first: a compaction that starts in between must not use newer ones.
        let floors = self.shared.floors.hold();
        Box::new(RocksSnapshot {
            snapshot: self.db.snapshot(),
            db: &self.db,
            _floors: floors,
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        let families = self.families()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(|e| error(&e))
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        get(&self.db, cf, key, &options)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.shared.floors.raise(shard, floor);
    }
}

/// A state of the database, and the floors that keep compactions from changing it.
struct RocksSnapshot<'a> {
    snapshot: SnapshotWithThreadMode<'a, DB>,
    db: &'a DB,
    _floors: Arc<Floors>,
}

impl RocksSnapshot<'_> {
    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

impl EngineRead for RocksSnapshot<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(self.db, cf, key, &self.options())
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        scan(self.db, cf, range, self.options(), visit)
    }
}

impl EngineSnapshot for RocksSnapshot<'_> {}

/// A database that is open for reading only: a checkpoint, or the files of a stopped node.
pub struct RocksView {
    db: DB,
}

impl fmt::Debug for RocksView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksView")
            .field("path", &self.db.path())
            .finish()
    }
}

impl RocksView {
    /// Opens the engine of a stopped node without changing anything. `None` if there is none.
    pub fn open_stopped(path: &Path) -> Result<Option<Self>, EngineError> {
        let path = path.join(DB_DIR);
        if !path.join("CURRENT").exists() {
            return Ok(None);
        }
        let options = RocksOptions {
            block_cache_bytes: 16 << 20,
            ..RocksOptions::default()
        };
        Self::open(&path, &Shared::new(&options, Arc::new(System), false)).map(Some)
    }

    fn open(path: &Path, shared: &Shared) -> Result<Self, EngineError> {
        let mut options = shared.database();
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        let db = DB::open_cf_descriptors_read_only(&options, path, shared.column_families(), false);
        Ok(Self {
            db: db.map_err(|e| error(&e))?,
        })
    }

    /// See [`RocksEngine::verify`].
    pub fn verify(&self, progress: &dyn Fn(u64)) -> Result<u64, EngineError> {
        verify(&self.db, progress)
    }
}

impl EngineRead for RocksView {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(&self.db, cf, key, &ReadOptions::default())
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        let mut options = ReadOptions::default();
        // Read once, for a snapshot or a check: it must not push out what the node's clients read.
        options.fill_cache(false);
        scan(&self.db, cf, range, options, visit)
    }
}

impl Checkpoints for RocksEngine {
    fn create(&self, name: &str) -> Result<(), EngineError> {
        let path = self.checkpoint_path(name)?;
        let checkpoint = Checkpoint::new(&self.db).map_err(|e| error(&e))?;
        checkpoint.create_checkpoint(path).map_err(|e| error(&e))
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError> {
        let path = self.checkpoint_path(name)?;
        if !self.shared.ground.exists(&path) {
            return Ok(None);
        }
        Ok(Some(Box::new(RocksView::open(&path, &self.shared)?)))
    }

    fn remove(&self, name: &str) -> Result<(), EngineError> {
        let path = self.checkpoint_path(name)?;
        match self.shared.ground.remove_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path, &e)),
            _ => Ok(()),
        }
    }

    fn list(&self) -> Result<Vec<String>, EngineError> {
        let dir = self.path.join(CHECKPOINT_DIR);
        let listed = self.shared.ground.list(&dir);
        let mut names = listed.map_err(|e| io_error("list", &dir, &e))?;
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests;
