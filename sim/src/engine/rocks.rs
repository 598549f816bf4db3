//! Rows in RocksDB, as the product has it, on a disk in memory that loses power: what a process has left is what RocksDB recovers.
//!
//! Nothing happens in RocksDB but within calls, which wait for its threads: memtables are larger than what a run writes, and compactions are
//! made by [`Rocks::flush`] only. So the same calls give the same files and the same answers. A process may end in the middle of what RocksDB
//! does: half of them begin a flush or a compaction as they end, and end at some operation of it, or after it.
//!
//! It relies on `kvsvr_sim_rocks_disk` for what is lost. Failpoints and damage are [`SimEngine`](super::SimEngine)'s.

use std::{
    env, fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use kvsvr::{
    raft::snapshot::Checkpoints,
    rocks::{Ground, RocksEngine, RocksOptions},
};
use kvsvr_core::{
    engine::{Cf, EachRow, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, WriteBatch},
    types::{Revision, ShardId},
};
use kvsvr_sim_rocks_disk::{Disk, End, Mount};
use rocksdb::Options;

use super::{ALL, Backing, Loss, Row};
use crate::random::Stream;

/// No run writes as much between two flushes.
const OPTIONS: RocksOptions = RocksOptions {
    block_cache_bytes: 4 << 20,
    memtable_bytes: 256 << 20,
};
/// Every so manieth flush of a process compacts everything.
const COMPACT_EVERY: u64 = 4;
/// A process that ends while it flushes ends at one of so many operations: somewhat more than a flush has.
const FLUSH_OPERATIONS: u64 = 16;
/// The same for compactions.
const COMPACTION_OPERATIONS: u64 = 40;

/// See the module.
pub(super) struct Rocks {
    mount: Arc<Mount>,
    engine: OnceLock<Result<Arc<RocksEngine>, String>>,
    flushes: AtomicU64,
}

/// The directory on each disk. RocksDB's Rust interface makes it in the real file system too, where it stays empty and is removed.
fn directory() -> PathBuf {
    env::temp_dir().join(format!("kvsvr-sim-rocks-{}", process::id()))
}

/// Removes the real directory.
fn tidy() {
    // It may not be there.
    let _ = fs::remove_dir_all(directory());
}

impl Rocks {
    /// On an empty disk.
    pub(super) fn new() -> Self {
        // What it takes for the data directory is there; the engine's own directory is not.
        match Disk::new(&env::temp_dir()) {
            Ok(disk) => Self::on(&disk),
            // A path from the environment has no zeros in it.
            Err(error) => panic!("no disk: {error}"),
        }
    }

    fn on(disk: &Disk) -> Self {
        Self {
            mount: Arc::new(disk.mount()),
            engine: OnceLock::new(),
            flushes: AtomicU64::new(0),
        }
    }

    fn opened(&self) -> Result<&RocksEngine, EngineError> {
        let opened = self.engine.get_or_init(|| {
            let ground = Arc::new(Below(self.mount.clone()));
            let opened = RocksEngine::open_on(ground, &directory(), &OPTIONS);
            tidy();
            opened.map_err(|error| error.to_string())
        });
        match opened {
            Ok(engine) => Ok(engine),
            Err(error) => Err(EngineError::Io(format!("RocksDB does not open: {error}"))),
        }
    }

    fn engine(&self) -> &RocksEngine {
        match self.opened() {
            Ok(engine) => engine,
            // A process that cannot open it has ended.
            Err(error) => panic!("{error}"),
        }
    }

    /// Ends the process in the middle of a flush or a compaction, or after it.
    fn end_within(&self, engine: &RocksEngine, how: End, chance: &mut Stream) {
        let within = |operations: u64, chance: &mut Stream| {
            self.mount.end_within(1 + chance.below(operations), how);
        };
        // What they say is nobody's business any more.
        let _ = if chance.chance(0.7) {
            within(FLUSH_OPERATIONS, chance);
            engine.flush()
        } else {
            within(COMPACTION_OPERATIONS, chance);
            engine.compact()
        };
    }
}

impl Backing for Rocks {
    fn ready(&self) -> Result<(), EngineError> {
        self.opened().map(|_| ())
    }

    fn after(&self, loss: Loss, seed: u64) -> Arc<dyn Backing> {
        let mut chance = Stream::new(seed, &[&"rocks"]);
        let how = match loss {
            Loss::Process => End::Kill,
            Loss::Power => End::PowerLoss(chance.next_u64() as u32),
        };
        if let Some(Ok(engine)) = self.engine.get()
            && chance.chance(0.5)
        {
            self.end_within(engine, how, &mut chance);
        }
        self.mount.end(how);
        Arc::new(Self::on(self.mount.disk()))
    }

    fn flush_with_error(&self, seed: u64) -> Result<(), EngineError> {
        self.mount
            .fail_within(1 + Stream::new(seed, &[&"rocks"]).below(FLUSH_OPERATIONS));
        let done = self.engine().flush();
        self.mount.disarm();
        done
    }

    fn events(&self) -> Vec<(&'static str, u64)> {
        let counts = self.mount.disk().counts();
        vec![
            ("rocks_ended_within", counts.ended_within),
            ("rocks_flush_failed", counts.errors),
            ("rocks_name_lost", counts.lost_names),
            ("rocks_partial_tail_kept", counts.partial_tails),
            ("rocks_unsynced_bytes_lost", counts.lost_tails),
        ]
    }

    fn durable(&self) -> Result<Vec<Row>, EngineError> {
        let mut rows = Vec::new();
        for cf in Cf::ALL {
            let mut keys = Vec::new();
            self.scan(cf, ALL, &mut |key, _| {
                keys.push(Bytes::copy_from_slice(key));
                ControlFlow::Continue(())
            })?;
            for key in keys {
                if self.get_durable(cf, &key)?.is_some() {
                    rows.push((cf, key));
                }
            }
        }
        Ok(rows)
    }
}

/// A mount as the product's engine stands on it.
#[derive(Debug)]
struct Below(Arc<Mount>);

impl Ground for Below {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.list(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }

    fn has_direct_io(&self, _: &Path) -> bool {
        false
    }

    fn tune(&self, options: &mut Options) {
        options.set_env(self.0.env());
        options.set_disable_auto_compactions(true);
    }
}

impl EngineRead for Rocks {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine().get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.engine().scan(cf, range, visit)
    }
}

impl Engine for Rocks {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.engine().write(batch)
    }

    fn write_rows(&self, rows: EachRow<'_>, bytes: usize) -> Result<(), EngineError> {
        self.engine().write_rows(rows, bytes)
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        self.engine().snapshot()
    }

    fn flush(&self) -> Result<(), EngineError> {
        let flushes = self.flushes.fetch_add(1, Ordering::Relaxed) + 1;
        match flushes.is_multiple_of(COMPACT_EVERY) {
            true => self.engine().compact(),
            false => self.engine().flush(),
        }
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine().get_durable(cf, key)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.engine().set_garbage_floor(shard, floor);
    }
}

impl Checkpoints for Rocks {
    fn create(&self, name: &str) -> Result<(), EngineError> {
        self.engine().create(name)
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError> {
        let opened = Checkpoints::open(self.engine(), name);
        tidy();
        opened
    }

    fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.engine().remove(name)
    }

    fn list(&self) -> Result<Vec<String>, EngineError> {
        self.engine().list()
    }
}

#[cfg(test)]
mod tests;
