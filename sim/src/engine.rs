//! The engine of a simulated node: what was flushed survives its process, nothing else does.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use kvsvr::raft::snapshot::Checkpoints;
use kvsvr_core::{
    engine::{Cf, Engine, EngineError, EngineRead, EngineSnapshot, RowRef, Scan, Visit, WriteBatch},
    mem::MemEngine,
    types::{Revision, ShardId},
};
use parking_lot::Mutex;

/// What goes wrong at a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushFault {
    /// It fails and makes nothing durable.
    Fails,
    /// The process is killed before anything became durable.
    KilledBefore,
    /// The process is killed when all has become durable.
    KilledAfter,
}

/// Ends the process that uses the engine, at once.
pub type Kill = Box<dyn Fn(&'static str) + Send + Sync>;

/// A [`MemEngine`] with checkpoints and faults.
#[derive(Default)]
pub struct SimEngine {
    memory: MemEngine,
    checkpoints: Mutex<BTreeMap<String, Arc<MemEngine>>>,
    faults: Mutex<Faults>,
}

#[derive(Default)]
struct Faults {
    /// Flushes until one of them goes wrong.
    armed: Option<(u64, FlushFault)>,
    kill: Option<Kill>,
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

    /// As another process finds it after this one was killed, or its machine lost power: what was flushed, and the checkpoints. A fault
    /// that is armed stays so.
    pub fn restarted(&self) -> Self {
        Self {
            memory: self.memory.crash(),
            checkpoints: Mutex::new(self.checkpoints.lock().clone()),
            faults: Mutex::new(Faults {
                armed: self.faults.lock().armed,
                kill: None,
            }),
        }
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        Cf::ALL.into_iter().all(|cf| self.memory.rows(cf).is_empty())
    }

    /// Sets how a flush kills the process that uses the engine.
    pub fn set_kill(&self, kill: Kill) {
        self.faults.lock().kill = Some(kill);
    }

    /// The `count`-th flush from now on goes wrong, once.
    pub fn fault_at_flush(&self, count: u64, fault: FlushFault) {
        self.faults.lock().armed = Some((count.max(1), fault));
    }

    fn flush_fault(&self) -> Option<FlushFault> {
        let mut faults = self.faults.lock();
        let (left, fault) = faults.armed?;
        faults.armed = (left > 1).then_some((left - 1, fault));
        (left == 1).then_some(fault)
    }

    fn kill(&self, reason: &'static str) -> EngineError {
        let kill = self.faults.lock().kill.take();
        if let Some(kill) = kill {
            kill(reason);
        }
        EngineError::Io(reason.into())
    }
}

impl EngineRead for SimEngine {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.memory.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.memory.scan(cf, range, visit)
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.memory.write(batch)
    }

    fn write_rows(
        &self,
        rows: &mut dyn Iterator<Item = RowRef<'_>>,
        bytes: usize,
    ) -> Result<(), EngineError> {
        self.memory.write_rows(rows, bytes)
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        self.memory.snapshot()
    }

    fn flush(&self) -> Result<(), EngineError> {
        match self.flush_fault() {
            None => self.memory.flush(),
            Some(FlushFault::Fails) => Err(EngineError::Io("injected flush failure".into())),
            Some(FlushFault::KilledBefore) => Err(self.kill("killed before a flush")),
            Some(FlushFault::KilledAfter) => {
                self.memory.flush()?;
                Err(self.kill("killed after a flush"))
            }
        }
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.memory.get_durable(cf, key)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.memory.set_garbage_floor(shard, floor);
    }
}

struct Opened(Arc<MemEngine>);

impl EngineRead for Opened {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.0.scan(cf, range, visit)
    }
}

impl Checkpoints for SimEngine {
    fn create(&self, name: &str) -> Result<(), EngineError> {
        let mut checkpoints = self.checkpoints.lock();
        if checkpoints.contains_key(name) {
            return Err(EngineError::Io(format!("the checkpoint {name} exists")));
        }
        checkpoints.insert(name.to_owned(), Arc::new(self.memory.crash()));
        Ok(())
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
    fn faults_at_a_flush() {
        for (fault, durable, killed) in [
            (FlushFault::Fails, false, false),
            (FlushFault::KilledBefore, false, true),
            (FlushFault::KilledAfter, true, true),
        ] {
            let engine = engine_with("a");
            let was_killed = Arc::new(AtomicBool::new(false));
            let flag = was_killed.clone();
            engine.set_kill(Box::new(move |_| flag.store(true, Ordering::Relaxed)));
            engine.fault_at_flush(1, fault);
            engine.flush().unwrap_err();
            assert_eq!(has(&engine.restarted(), "a"), durable, "{fault:?}");
            assert_eq!(was_killed.load(Ordering::Relaxed), killed, "{fault:?}");
            engine.flush().unwrap();
        }
    }
}
