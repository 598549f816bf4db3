//! The engine of a simulated node: what was flushed survives its process, nothing else does. A row at rest can be damaged: reading
//! it, or over it, then fails as with RocksDB's checksums.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use kvsvr::raft::snapshot::Checkpoints;
use kvsvr_core::{
    engine::{Cf, EachRow, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, Write, WriteBatch},
    mem::MemEngine,
    types::{Revision, ShardId},
};
use parking_lot::Mutex;

use crate::{
    failpoint::{Gate, Step},
    random::Stream,
};

/// A [`MemEngine`] with checkpoints and faults.
#[derive(Default)]
pub struct SimEngine {
    memory: MemEngine,
    checkpoints: Mutex<BTreeMap<String, Arc<Checkpoint>>>,
    damaged: Mutex<Option<Row>>,
    gate: Mutex<Option<Gate>>,
}

/// A column family and a key.
type Row = (Cf, Bytes);

#[derive(Default)]
struct Checkpoint {
    rows: MemEngine,
    damaged: Option<Row>,
}

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
    pub fn new() -> Self {
        Self::default()
    }

    /// As another process finds it after this one was killed, or its machine lost power: what was flushed, and the checkpoints, damage
    /// and all.
    pub fn restarted(&self) -> Self {
        Self {
            memory: self.memory.crash(),
            checkpoints: Mutex::new(self.checkpoints.lock().clone()),
            damaged: Mutex::new(self.damaged.lock().clone()),
            gate: Mutex::default(),
        }
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        Cf::ALL.into_iter().all(|cf| self.memory.rows(cf).is_empty())
    }

    /// Sets where the process that uses it comes by failpoints.
    pub fn set_gate(&self, gate: Gate) {
        *self.gate.lock() = Some(gate);
    }

    /// Damages one of the rows that are durable. False if there is none.
    pub fn damage(&self, chance: &mut Stream) -> bool {
        let durable = self.memory.crash();
        let rows: Vec<Row> = Cf::ALL
            .into_iter()
            .flat_map(|cf| durable.rows(cf).into_iter().map(move |(key, _)| (cf, key)))
            .collect();
        if rows.is_empty() {
            return false;
        }
        *self.damaged.lock() = Some(rows[chance.index(rows.len())].clone());
        true
    }

    /// The damaged row is whole again, in checkpoints too.
    pub fn restore(&self) {
        *self.damaged.lock() = None;
        for checkpoint in self.checkpoints.lock().values_mut() {
            let rows = checkpoint.rows.crash();
            *checkpoint = Arc::new(Checkpoint { rows, damaged: None });
        }
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
        self.memory.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        check_scan(self.damaged.lock().as_ref(), cf, range)?;
        self.memory.scan(cf, range, visit)
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
        self.step(step, || self.memory.write(batch))
    }

    fn write_rows(&self, rows: EachRow<'_>, bytes: usize) -> Result<(), EngineError> {
        self.step(Step::EngineWrite, || self.memory.write_rows(rows, bytes))
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        Box::new(Snapshot {
            rows: self.memory.snapshot(),
            damaged: self.damaged.lock().clone(),
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.step(Step::EngineFlush, || self.memory.flush())
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        check_get(self.damaged.lock().as_ref(), cf, key)?;
        self.memory.get_durable(cf, key)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.memory.set_garbage_floor(shard, floor);
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

struct Opened(Arc<Checkpoint>);

impl EngineRead for Opened {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        check_get(self.0.damaged.as_ref(), cf, key)?;
        self.0.rows.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        check_scan(self.0.damaged.as_ref(), cf, range)?;
        self.0.rows.scan(cf, range, visit)
    }
}

impl Checkpoints for SimEngine {
    fn create(&self, name: &str) -> Result<(), EngineError> {
        self.step(Step::CheckpointCreate, || {
            let mut checkpoints = self.checkpoints.lock();
            if checkpoints.contains_key(name) {
                return Err(EngineError::Io(format!("the checkpoint {name} exists")));
            }
            let checkpoint = Checkpoint {
                rows: self.memory.crash(),
                damaged: self.damaged.lock().clone(),
            };
            checkpoints.insert(name.to_owned(), Arc::new(checkpoint));
            Ok(())
        })
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError> {
        let found = self.checkpoints.lock().get(name).cloned();
        Ok(found.map(|engine| Box::new(Opened(engine)) as _))
    }

    fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.checkpoints.lock().remove(name);
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.checkpoints.lock().keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::failpoint::{Action, Failpoints};

    fn engine_with(key: &'static str) -> SimEngine {
        let engine = SimEngine::new();
        let mut batch = WriteBatch::default();
        batch.put(Cf::Data, key, "value");
        engine.write(batch).unwrap();
        engine
    }

    fn has(engine: &SimEngine, key: &str) -> bool {
        engine.get(Cf::Data, key.as_bytes()).unwrap().is_some()
    }

    #[test]
    fn only_what_was_flushed_survives() {
        let engine = engine_with("a");
        assert!(has(&engine, "a") && !has(&engine.restarted(), "a"));
        engine.flush().unwrap();
        assert!(has(&engine.restarted(), "a"));
    }

    #[test]
    fn checkpoints_survive_and_hold_what_was_flushed() {
        let engine = engine_with("a");
        engine.flush().unwrap();
        engine.create("c").unwrap();
        assert!(engine.create("c").is_err());
        let again = engine.restarted();
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
            assert_eq!(has(&engine.restarted(), "a"), durable, "{point} {action:?}");
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
        let engine = engine.restarted();
        let all = |engine: &dyn EngineRead| {
            let range = Scan {
                start: b"",
                end: b"",
                reverse: false,
            };
            engine.scan(Cf::Data, range, &mut |_, _| std::ops::ControlFlow::Continue(()))
        };
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
