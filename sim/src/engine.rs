//! The engine of a simulated node: what was flushed survives its process, nothing else does. A row at rest can be damaged: reading
//! it, or over it, then fails as with RocksDB's checksums.
//!
//! The rows are kept by one of two [`Backing`]s: in memory, which is quick and the default, or in RocksDB as the product has it, with the feature
//! `rocks`. Failpoints and damage are the same with both.

use std::{collections::BTreeMap, fmt, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use clap::ValueEnum;
use kvsvr::raft::snapshot::Checkpoints;
use kvsvr_core::{
    engine::{Cf, EachRow, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, Write, WriteBatch},
    types::{Revision, ShardId},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::memory::Memory;
use crate::{
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

    /// The rows that are durable.
    fn durable(&self) -> Result<Vec<Row>, EngineError>;
}

/// An engine with faults.
pub struct SimEngine {
    kind: EngineKind,
    backing: Arc<dyn Backing>,
    damaged: Mutex<Option<Row>>,
    /// The damaged rows of checkpoints, by their names.
    damaged_checkpoints: Mutex<BTreeMap<String, Row>>,
    gate: Mutex<Option<Gate>>,
}

/// A column family and a key.
type Row = (Cf, Bytes);

/// Everything in a column family.
const ALL: Scan<'static> = Scan {
    start: b"",
    end: b"",
    reverse: false,
};

fn damage(row: &Row) -> EngineError {
    EngineError::Corrupt(format!("injected checksum mismatch in {:?}", row.0))
}

/// Fails for the damaged row.
fn check_get(damaged: Option<&Row>, cf: Cf, key: &[u8]) -> Result<(), EngineError> {
    let hit = damaged.filter(|row| row.0 == cf && row.1 == key);
    hit.map_or(Ok(()), |row| Err(damage(row)))
}

/// Fails for a range with the damaged row.
fn check_scan(damaged: Option<&Row>, cf: Cf, range: Scan<'_>) -> Result<(), EngineError> {
    let inside = |key: &[u8]| key >= range.start && (range.end.is_empty() || key < range.end);
    let hit = damaged.filter(|row| row.0 == cf && inside(&row.1));
    hit.map_or(Ok(()), |row| Err(damage(row)))
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
            gate: Mutex::default(),
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
            gate: Mutex::default(),
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

    /// Sets where the process that uses it comes by failpoints.
    pub fn set_gate(&self, gate: Gate) {
        *self.gate.lock() = Some(gate);
    }

    /// Damages one of the rows that are durable. False if there is none.
    pub fn damage(&self, chance: &mut Stream) -> bool {
        let durable = self.ready().and_then(|()| self.backing.durable());
        let rows = durable.unwrap_or_default();
        if rows.is_empty() {
            return false;
        }
        *self.damaged.lock() = Some(rows[chance.index(rows.len())].clone());
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
        let gate = self.gate.lock().clone();
        let pass = |point| match &gate {
            Some(gate) => gate
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
        self.step(Step::EngineFlush, || self.backing.flush())
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
    damaged: Option<Row>,
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
    damaged: Option<Row>,
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
    use crate::failpoint::{Action, Failpoints};

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
            engine.set_gate(Gate::new(points.clone(), crash));
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
