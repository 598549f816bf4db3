//! The engine of a simulated node: what was flushed survives its process, nothing else does. A row at rest can be damaged: reading
//! it, or over it, then fails as with RocksDB's checksums.
//!
//! Of the faults of the machine's disk those that concern a flush come here, too: EIO in its turn, and ENOSPC by chance while the disk is full. Slow
//! disks do not, since the engine's calls cannot wait.
//!
//! The rows are kept by one of two [`Backing`]s: in memory, which is quick and the default, or in RocksDB as the product has it, with the feature
//! `rocks`. Failpoints and damage are the same with both.

use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use clap::ValueEnum;
use kvsvr::raft::snapshot::Checkpoints;
use kvsvr_core::{
    engine::{Cf, EachRow, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, Write, WriteBatch},
    types::{Revision, ShardId},
};
use madsim::task::NodeId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::memory::Memory;
use crate::{
    disk::{DiskControl, Obstacle},
    failpoint::{Gate, Step},
    random::Stream,
};

mod memory;
#[cfg(feature = "rocks")]
mod rocks;

/// Which engine nodes have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// A map in memory that keeps what was flushed.
    #[default]
    Memory,
    /// RocksDB on a file system in memory that loses power.
    #[cfg(feature = "rocks")]
    Rocks,
}

impl EngineKind {
    /// Whether it is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The arguments that choose it, for another process.
    pub fn arguments(self) -> Vec<String> {
        let name = self.to_possible_value().map(|value| value.get_name().to_owned());
        let named = name.filter(|_| !self.is_default());
        named.map_or_else(Vec::new, |name| vec!["--engine".into(), name])
    }

    fn empty(self) -> Arc<dyn Backing> {
        match self {
            EngineKind::Memory => Arc::new(Memory::default()),
            #[cfg(feature = "rocks")]
            EngineKind::Rocks => Arc::new(rocks::Rocks::new()),
        }
    }
}

/// What goes with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// What it had in memory.
    Process,
    /// That, and by chance what was not synced.
    Power,
}

/// What keeps the rows, as one process uses it.
trait Backing: Engine + Checkpoints {
    /// Opens what the last process has left, unless that is done. Nothing else may be called before.
    fn ready(&self) -> Result<(), EngineError>;

    /// Ends the process, and gives what the next one finds. `seed`: of the chance in it.
    fn after(&self, loss: Loss, seed: u64) -> Arc<dyn Backing>;

    /// A flush in which something fails, or all of it if `seed` leaves no choice.
    ///
    /// # Errors
    /// What failed; none if it came to nothing that could.
    fn flush_with_error(&self, seed: u64) -> Result<(), EngineError>;

    /// What has happened to it, as events of [`crate::sometimes`].
    fn events(&self) -> Vec<(&'static str, u64)>;

    /// The rows that are durable.
    fn durable(&self) -> Result<Vec<Row>, EngineError>;
}

/// An engine with faults.
pub struct SimEngine {
    kind: EngineKind,
    backing: Arc<dyn Backing>,
    damaged: Mutex<Option<Damaged>>,
    /// The damaged rows of checkpoints, by their names.
    damaged_checkpoints: Mutex<BTreeMap<String, Damaged>>,
    /// How often a process has met damage.
    damaged_reads: Arc<AtomicU64>,
    process: Mutex<Option<Process>>,
}

/// Who uses it.
#[derive(Clone)]
struct Process {
    gate: Gate,
    disk: Arc<DiskControl>,
    host: Option<NodeId>,
}

/// A column family and a key.
type Row = (Cf, Bytes);

/// A damaged row.
#[derive(Clone)]
struct Damaged {
    row: Row,
    reads: Arc<AtomicU64>,
    /// Whose reads count: others look on.
    host: Option<NodeId>,
}

/// Everything in a column family.
const ALL: Scan<'static> = Scan {
    start: b"",
    end: b"",
    reverse: false,
};

impl Damaged {
    fn met(&self) -> EngineError {
        if self.host.is_some_and(|host| host == madsim::plugin::node()) {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        EngineError::Corrupt(format!("injected checksum mismatch in {:?}", self.row.0))
    }
}

/// Fails for the damaged row.
fn check_get(damaged: Option<&Damaged>, cf: Cf, key: &[u8]) -> Result<(), EngineError> {
    let hit = damaged.filter(|damaged| damaged.row.0 == cf && damaged.row.1 == key);
    hit.map_or(Ok(()), |damaged| Err(damaged.met()))
}

/// Fails for a range with the damaged row.
fn check_scan(damaged: Option<&Damaged>, cf: Cf, range: Scan<'_>) -> Result<(), EngineError> {
    let inside = |key: &[u8]| key >= range.start && (range.end.is_empty() || key < range.end);
    let hit = damaged.filter(|damaged| damaged.row.0 == cf && inside(&damaged.row.1));
    hit.map_or(Ok(()), |damaged| Err(damaged.met()))
}

impl fmt::Debug for SimEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimEngine")
    }
}

impl SimEngine {
    /// An empty engine.
    pub fn new(kind: EngineKind) -> Self {
        Self {
            kind,
            backing: kind.empty(),
            damaged: Mutex::default(),
            damaged_checkpoints: Mutex::default(),
            damaged_reads: Arc::default(),
            process: Mutex::default(),
        }
    }

    /// An empty one of the same kind.
    pub fn emptied(&self) -> Self {
        Self::new(self.kind)
    }

    /// Opens what the last process has left. A process begins with it.
    ///
    /// # Errors
    /// It does not open.
    pub fn ready(&self) -> Result<(), EngineError> {
        self.backing.ready()
    }

    /// Ends the process that uses it. As the next one finds it: what was flushed, and the checkpoints, damage and all. `seed`: of the chance
    /// in it.
    pub fn restarted(&self, loss: Loss, seed: u64) -> Self {
        Self {
            kind: self.kind,
            backing: self.backing.after(loss, seed),
            damaged: Mutex::new(self.damaged.lock().clone()),
            damaged_checkpoints: Mutex::new(self.damaged_checkpoints.lock().clone()),
            damaged_reads: self.damaged_reads.clone(),
            process: Mutex::default(),
        }
    }

    /// Whether it has no row.
    ///
    /// # Errors
    /// It does not open, or cannot be read.
    pub fn is_empty(&self) -> Result<bool, EngineError> {
        self.ready()?;
        let mut empty = true;
        for cf in Cf::ALL {
            self.backing.scan(cf, ALL, &mut |_, _| {
                empty = false;
                ControlFlow::Break(())
            })?;
        }
        Ok(empty)
    }

    /// Sets who uses it: where that comes by failpoints, what its disk has, and which node of the simulation it is.
    pub fn set_process(&self, gate: Gate, disk: Arc<DiskControl>, host: Option<NodeId>) {
        *self.process.lock() = Some(Process { gate, disk, host });
        let mut checkpoints = self.damaged_checkpoints.lock();
        for damaged in self.damaged.lock().iter_mut().chain(checkpoints.values_mut()) {
            damaged.host = host;
        }
    }

    /// What has happened to it, as events of [`crate::sometimes`].
    pub fn events(&self) -> Vec<(&'static str, u64)> {
        let mut events = self.backing.events();
        events.push(("damaged_row_read", self.damaged_reads.load(Ordering::Relaxed)));
        events
    }

    /// Damages one of the rows that are durable. False if there is none.
    pub fn damage(&self, chance: &mut Stream) -> bool {
        let durable = self.ready().and_then(|()| self.backing.durable());
        let mut families: BTreeMap<Cf, Vec<Row>> = BTreeMap::new();
        for row in durable.unwrap_or_default() {
            families.entry(row.0).or_default().push(row);
        }
        // A family first: those with few rows are read most.
        let mut families: Vec<Vec<Row>> = families.into_values().collect();
        if families.is_empty() {
            return false;
        }
        let mut rows = families.swap_remove(chance.index(families.len()));
        let row = rows.swap_remove(chance.index(rows.len()));
        *self.damaged.lock() = Some(Damaged {
            row,
            reads: self.damaged_reads.clone(),
            host: self.process.lock().as_ref().and_then(|process| process.host),
        });
        true
    }

    /// The damaged row is whole again, in checkpoints too.
    pub fn restore(&self) {
        *self.damaged.lock() = None;
        self.damaged_checkpoints.lock().clear();
    }

    /// Carries a step out, between the failpoints before and after it.
    fn step<T>(
        &self,
        step: Step,
        carry_out: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let process = self.process.lock().clone();
        let pass = |point| match &process {
            Some(process) => process
                .gate
                .pass_at_once(point)
                .map_err(|error| EngineError::Io(error.to_string())),
            None => Ok(()),
        };
        pass(step.before())?;
        let done = carry_out()?;
        pass(step.after())?;
        Ok(done)
    }
}

impl EngineRead for SimEngine {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        check_get(self.damaged.lock().as_ref(), cf, key)?;
        self.backing.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        check_scan(self.damaged.lock().as_ref(), cf, range)?;
        self.backing.scan(cf, range, visit)
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let clears = batch
            .writes
            .iter()
            .any(|write| matches!(write, Write::DeleteRange(..)));
        let step = if clears {
            Step::EngineClear
        } else {
            Step::EngineWrite
        };
        self.step(step, || self.backing.write(batch))
    }

    fn write_rows(&self, rows: EachRow<'_>, bytes: usize) -> Result<(), EngineError> {
        self.step(Step::EngineWrite, || self.backing.write_rows(rows, bytes))
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        Box::new(Snapshot {
            rows: self.backing.snapshot(),
            damaged: self.damaged.lock().clone(),
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        let disk = self.process.lock().as_ref().map(|process| process.disk.clone());
        self.step(Step::EngineFlush, || {
            let Some(disk) = disk else {
                return self.backing.flush();
            };
            match disk.flush() {
                Ok(()) => self.backing.flush(),
                Err(Obstacle::Full) => {
                    disk.note(Obstacle::Full);
                    Err(EngineError::Io("no space left on device".into()))
                }
                Err(Obstacle::Error) => {
                    let done = self.backing.flush_with_error(disk.draw());
                    if done.is_err() {
                        disk.note(Obstacle::Error);
                    }
                    done
                }
            }
        })
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        check_get(self.damaged.lock().as_ref(), cf, key)?;
        self.backing.get_durable(cf, key)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.backing.set_garbage_floor(shard, floor);
    }
}

struct Snapshot<'a> {
    rows: Box<dyn EngineSnapshot + 'a>,
    damaged: Option<Damaged>,
}

impl EngineSnapshot for Snapshot<'_> {}

impl EngineRead for Snapshot<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        check_get(self.damaged.as_ref(), cf, key)?;
        self.rows.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        check_scan(self.damaged.as_ref(), cf, range)?;
        self.rows.scan(cf, range, visit)
    }
}

struct Opened {
    rows: Box<dyn EngineRead + Send + Sync>,
    damaged: Option<Damaged>,
}

impl EngineRead for Opened {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        check_get(self.damaged.as_ref(), cf, key)?;
        self.rows.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        check_scan(self.damaged.as_ref(), cf, range)?;
        self.rows.scan(cf, range, visit)
    }
}

impl Checkpoints for SimEngine {
    fn create(&self, name: &str) -> Result<(), EngineError> {
        self.step(Step::CheckpointCreate, || {
            self.backing.create(name)?;
            if let Some(row) = &*self.damaged.lock() {
                let mut damaged = self.damaged_checkpoints.lock();
                damaged.insert(name.to_owned(), row.clone());
            }
            Ok(())
        })
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError> {
        let damaged = self.damaged_checkpoints.lock().get(name).cloned();
        let found = self.backing.open(name)?;
        Ok(found.map(|rows| Box::new(Opened { rows, damaged }) as _))
    }

    fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.damaged_checkpoints.lock().remove(name);
        self.backing.remove(name)
    }

    fn list(&self) -> Result<Vec<String>, EngineError> {
        self.backing.list()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::{
        disk::{Operation, Returned},
        failpoint::{Action, Failpoints},
    };

    fn engine_with(key: &'static str) -> SimEngine {
        let engine = SimEngine::new(EngineKind::Memory);
        let mut batch = WriteBatch::default();
        batch.put(Cf::Data, key, "value");
        engine.write(batch).unwrap();
        engine
    }

    fn restarted(engine: &SimEngine) -> SimEngine {
        engine.restarted(Loss::Power, 1)
    }

    fn disk() -> Arc<DiskControl> {
        Arc::new(DiskControl::new(1, "host"))
    }

    fn has(engine: &SimEngine, key: &str) -> bool {
        engine.get(Cf::Data, key.as_bytes()).unwrap().is_some()
    }

    #[test]
    fn only_what_was_flushed_survives() {
        let engine = engine_with("a");
        assert!(has(&engine, "a") && !has(&restarted(&engine), "a"));
        engine.flush().unwrap();
        assert!(has(&restarted(&engine), "a"));
    }

    #[test]
    fn checkpoints_survive_and_hold_what_was_flushed() {
        let engine = engine_with("a");
        engine.flush().unwrap();
        engine.create("c").unwrap();
        assert!(engine.create("c").is_err());
        let again = restarted(&engine);
        let opened = again.open("c").unwrap().unwrap();
        assert!(opened.get(Cf::Data, b"a").unwrap().is_some());
        again.remove("c").unwrap();
        assert!(again.list().unwrap().is_empty());
    }

    #[test]
    fn failpoints_around_a_flush() {
        for (point, action, durable) in [
            (Step::EngineFlush.before(), Action::Error, false),
            (Step::EngineFlush.before(), Action::Kill, false),
            (Step::EngineFlush.after(), Action::Kill, true),
        ] {
            let engine = engine_with("a");
            let (points, crashed) = (Arc::new(Failpoints::default()), Arc::new(AtomicBool::new(false)));
            let flag = crashed.clone();
            let crash = Arc::new(move |_, _| flag.store(true, Ordering::Relaxed));
            engine.set_process(Gate::new(points.clone(), crash), disk(), None);
            points.arm(0, point, 1, action);
            engine.flush().unwrap_err();
            assert_eq!(has(&restarted(&engine), "a"), durable, "{point} {action:?}");
            assert_eq!(
                crashed.load(Ordering::Relaxed),
                action == Action::Kill,
                "{point} {action:?}"
            );
            engine.flush().unwrap();
        }
    }

    #[test]
    fn a_flush_that_fails_says_so_and_what_it_should_have_kept_is_not_durable() {
        let engine = engine_with("a");
        let (crash, disk) = (Arc::new(|_, _| ()), disk());
        engine.set_process(Gate::new(Arc::default(), crash), disk.clone(), None);
        disk.fail_after(1, Operation::Flush, 1);
        engine.flush().unwrap_err();
        assert!(!has(&restarted(&engine), "a"));
        engine.flush().unwrap();
        assert!(has(&restarted(&engine), "a"));
        disk.set_full(true);
        let full = (0..20).filter(|_| engine.flush().is_err()).count() as u64;
        assert!(full > 0 && full < 20, "{full}");
        assert_eq!(disk.returned(), Returned { errors: 1, full });
    }

    #[test]
    fn a_damaged_row_is_never_read_until_it_is_restored() {
        let engine = engine_with("a");
        assert!(!engine.damage(&mut Stream::new(1, &[])), "nothing is durable");
        engine.flush().unwrap();
        engine.create("c").unwrap();
        assert!(engine.damage(&mut Stream::new(1, &[])));
        engine.create("d").unwrap();
        let engine = restarted(&engine);
        let all = |engine: &dyn EngineRead| engine.scan(Cf::Data, ALL, &mut |_, _| ControlFlow::Continue(()));
        let opened = |name| engine.open(name).unwrap().unwrap();
        assert!(
            engine.get(Cf::Data, b"a").is_err() && all(&engine).is_err() && all(&*engine.snapshot()).is_err()
        );
        assert!(engine.get(Cf::Data, b"b").is_ok());
        assert!(all(&*opened("c")).is_ok() && all(&*opened("d")).is_err());
        engine.restore();
        assert!(all(&engine).is_ok() && all(&*opened("d")).is_ok());
    }
}
