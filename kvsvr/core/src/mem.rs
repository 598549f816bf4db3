//! An engine in memory, for tests and for the simulator.
//!
//! Snapshots share the tables with the engine, which copies a table when it writes to it while it is shared. A crash loses
//! everything since the last [`Engine::flush`], all column families alike, as with RocksDB's atomic flush without a WAL. Garbage
//! is dropped at a flush.

use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;

use crate::{
    engine::{Cf, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, Write, WriteBatch},
    keys,
    overlay::layer_range,
    types::{Revision, ShardId},
};

type Table = BTreeMap<Bytes, Bytes>;

/// One state of all column families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tables([Arc<Table>; Cf::ALL.len()]);

#[derive(Clone, Debug, Default)]
struct State {
    live: Tables,
    /// Shares no table with `live`: that would be copied whole at the first write after each flush.
    durable: Tables,
    /// What `durable` lacks.
    unflushed: Vec<Write>,
    floors: BTreeMap<ShardId, Revision>,
    /// The floors have risen since garbage was dropped.
    risen: bool,
}

/// See the module.
#[derive(Default)]
pub struct MemEngine(RwLock<State>);

struct MemSnapshot(Tables);

impl Tables {
    fn table(&mut self, cf: Cf) -> &mut Table {
        Arc::make_mut(&mut self.0[cf as usize])
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::Put(cf, key, value) => {
                self.table(cf).insert(key, value);
            }
            Write::Delete(cf, key) => {
                self.table(cf).remove(&key);
            }
            Write::Retire(retired) => {
                let (key, row) = retired.encode();
                self.table(Cf::Hist).insert(key, row);
            }
            Write::DeleteRange(cf, start, end) => {
                let range = Scan {
                    start: &start,
                    end: &end,
                    reverse: false,
                };
                let gone: Vec<Bytes> = layer_range(&self.0[cf as usize], range)
                    .map(|(key, _)| key.clone())
                    .collect();
                let table = self.table(cf);
                gone.iter().for_each(|key| {
                    table.remove(key);
                });
            }
        }
    }

    fn garbage(&self, cf: Cf, floors: &BTreeMap<ShardId, Revision>) -> Vec<Bytes> {
        let is_garbage = |(key, value): &(&Bytes, &Bytes)| {
            let shard = key.first_chunk().map(|shard| ShardId(u32::from_be_bytes(*shard)));
            let floor = shard.and_then(|shard| floors.get(&shard));
            floor.is_some_and(|floor| keys::is_garbage(cf, key, value, *floor))
        };
        let rows = self.0[cf as usize].iter();
        rows.filter(is_garbage).map(|(key, _)| key.clone()).collect()
    }
}

impl State {
    fn write(&mut self, write: Write) {
        self.unflushed.push(write.clone());
        self.live.apply(write);
    }

    fn flush(&mut self) {
        for write in std::mem::take(&mut self.unflushed) {
            self.durable.apply(write);
        }
        if !std::mem::take(&mut self.risen) {
            return;
        }
        for cf in [Cf::Hist, Cf::Log] {
            for key in self.live.garbage(cf, &self.floors) {
                self.live.table(cf).remove(&key);
                self.durable.table(cf).remove(&key);
            }
        }
    }
}

impl EngineRead for Tables {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0[cf as usize].get(key).cloned())
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        let mut rows = layer_range(&self.0[cf as usize], range);
        loop {
            let next = if range.reverse {
                rows.next_back()
            } else {
                rows.next()
            };
            match next.map(|(key, value)| visit(key, value)) {
                Some(ControlFlow::Continue(())) => {}
                Some(ControlFlow::Break(())) | None => return Ok(()),
            }
        }
    }
}

impl MemEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a crash now would leave.
    pub fn crash(&self) -> Self {
        let durable = self.read(|state| state.durable.clone());
        Self(RwLock::new(State {
            live: durable.clone(),
            durable,
            ..State::default()
        }))
    }

    /// All rows of a column family.
    pub fn rows(&self, cf: Cf) -> Vec<(Bytes, Bytes)> {
        let table = self.read(|state| state.live.0[cf as usize].clone());
        table
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    // A panic while the lock is held cannot leave a half-written state behind: what is held is a value of its own.
    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl EngineRead for MemEngine {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.read(|state| state.live.get(cf, key))
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        // Not under the lock: the visitor may read.
        let tables = self.read(|state| state.live.clone());
        tables.scan(cf, range, visit)
    }
}

impl EngineRead for MemSnapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.0.scan(cf, range, visit)
    }
}

impl EngineSnapshot for MemSnapshot {}

impl Engine for MemEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.update(|state| batch.writes.into_iter().for_each(|write| state.write(write)));
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        Box::new(MemSnapshot(self.read(|state| state.live.clone())))
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.update(State::flush);
        Ok(())
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.read(|state| state.durable.get(cf, key))
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.update(|state| {
            if floor == 0 {
                state.floors.remove(&shard);
                return;
            }
            let set = state.floors.entry(shard).or_default();
            state.risen |= floor > *set;
            *set = floor.max(*set);
        });
    }
}

impl fmt::Debug for MemEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemEngine")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        crate::testing::engine_conformance(|| Box::new(MemEngine::new()));
    }
}
