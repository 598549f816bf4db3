//! Rows in memory: [`MemEngine`], with checkpoints. It neither compacts nor recovers; what was flushed is there.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kvsvr::raft::snapshot::Checkpoints;
use kvsvr_core::{
    engine::{Cf, EachRow, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, WriteBatch},
    mem::MemEngine,
    types::{Revision, ShardId},
};
use parking_lot::Mutex;

use super::{Backing, Loss, Row};

/// See the module.
#[derive(Default)]
pub(super) struct Memory {
    rows: MemEngine,
    checkpoints: Mutex<BTreeMap<String, Arc<MemEngine>>>,
}

impl Backing for Memory {
    fn ready(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn after(&self, _: Loss, _: u64) -> Arc<dyn Backing> {
        Arc::new(Self {
            rows: self.rows.crash(),
            checkpoints: Mutex::new(self.checkpoints.lock().clone()),
        })
    }

    fn flush_with_error(&self, _: u64) -> Result<(), EngineError> {
        Err(EngineError::Io("injected input/output error".into()))
    }

    fn events(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn durable(&self) -> Result<Vec<Row>, EngineError> {
        let durable = self.rows.crash();
        let rows = |cf| durable.rows(cf).into_iter().map(move |(key, _)| (cf, key));
        Ok(Cf::ALL.into_iter().flat_map(rows).collect())
    }
}

impl EngineRead for Memory {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.rows.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.rows.scan(cf, range, visit)
    }
}

impl Engine for Memory {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.rows.write(batch)
    }

    fn write_rows(&self, rows: EachRow<'_>, bytes: usize) -> Result<(), EngineError> {
        self.rows.write_rows(rows, bytes)
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        self.rows.snapshot()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.rows.flush()
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.rows.get_durable(cf, key)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.rows.set_garbage_floor(shard, floor);
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

impl Checkpoints for Memory {
    fn create(&self, name: &str) -> Result<(), EngineError> {
        let mut checkpoints = self.checkpoints.lock();
        if checkpoints.contains_key(name) {
            return Err(EngineError::Io(format!("the checkpoint {name} exists")));
        }
        checkpoints.insert(name.to_owned(), Arc::new(self.rows.crash()));
        Ok(())
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError> {
        let found = self.checkpoints.lock().get(name).cloned();
        Ok(found.map(|rows| Box::new(Opened(rows)) as _))
    }

    fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.checkpoints.lock().remove(name);
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.checkpoints.lock().keys().cloned().collect())
    }
}
