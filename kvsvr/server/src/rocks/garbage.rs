//! Drops history rows and change log rows below the compaction floor while RocksDB compacts.
//!
//! RocksDB's compaction filters do not respect snapshots, so this does: each snapshot holds the table of floors that was current
//! when it was made, and a compaction uses the lowest floors in all tables that are still held.
//! A compaction takes its table when it starts; snapshots made later have tables at least as new.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::CStr,
    sync::{Arc, Weak},
};

use kvsvr_core::{
    engine::Cf,
    keys,
    types::{Revision, ShardId},
};
use parking_lot::Mutex;
use rocksdb::{
    CompactionDecision,
    compaction_filter::CompactionFilter,
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

/// The floor of each shard that has one.
pub(super) type Floors = BTreeMap<ShardId, Revision>;

/// The tables of floors that are in use.
#[derive(Debug, Default)]
pub(super) struct FloorHistory {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    current: Arc<Floors>,
    /// Earlier tables, oldest first; those that no snapshot holds are gone.
    earlier: VecDeque<Weak<Floors>>,
}

impl FloorHistory {
    /// Raises a shard's floor; 0 forgets it.
    pub(super) fn raise(&self, shard: ShardId, floor: Revision) {
        let mut tables = self.tables.lock();
        let present = tables.current.get(&shard).copied().unwrap_or(0);
        if floor > 0 && present >= floor || floor == 0 && present == 0 {
            return;
        }
        let mut next = Floors::clone(&tables.current);
        next.insert(shard, floor);
        next.retain(|_, floor| *floor > 0);
        let before = std::mem::replace(&mut tables.current, Arc::new(next));
        tables.earlier.push_back(Arc::downgrade(&before));
        drop(before);
        tables.earlier.retain(|table| table.strong_count() > 0);
    }

    /// The present table; whoever holds it keeps what it shows.
    pub(super) fn hold(&self) -> Arc<Floors> {
        self.tables.lock().current.clone()
    }

    /// The floors that hold for everybody.
    fn lowest(&self) -> Arc<Floors> {
        let tables = self.tables.lock();
        let mut lowest = tables.current.clone();
        for table in tables.earlier.iter().filter_map(Weak::upgrade) {
            Arc::make_mut(&mut lowest).retain(|shard, floor| match table.get(shard) {
                Some(other) => {
                    *floor = (*floor).min(*other);
                    true
                }
                None => false,
            });
        }
        lowest
    }
}

/// Makes the filter of one column family's compactions.
pub(super) struct GarbageFilterFactory {
    pub(super) cf: Cf,
    pub(super) floors: Arc<FloorHistory>,
}

impl CompactionFilterFactory for GarbageFilterFactory {
    type Filter = GarbageFilter;

    fn create(&mut self, _: CompactionFilterContext) -> GarbageFilter {
        GarbageFilter {
            cf: self.cf,
            floors: self.floors.lowest(),
        }
    }

    fn name(&self) -> &CStr {
        c"kvsvr.garbage"
    }
}

pub(super) struct GarbageFilter {
    cf: Cf,
    floors: Arc<Floors>,
}

impl CompactionFilter for GarbageFilter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        let garbage = key
            .first_chunk::<4>()
            .and_then(|shard| self.floors.get(&ShardId(u32::from_be_bytes(*shard))))
            .is_some_and(|floor| keys::is_garbage(self.cf, key, value, *floor));
        if garbage {
            CompactionDecision::Remove
        } else {
            CompactionDecision::Keep
        }
    }

    fn name(&self) -> &CStr {
        c"kvsvr.garbage"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_held_table_counts() {
        let (history, shard) = (FloorHistory::default(), ShardId(1));
        let lowest = || history.lowest().get(&shard).copied();
        let first = history.hold();
        history.raise(shard, 5);
        let second = history.hold();
        history.raise(shard, 9);
        history.raise(shard, 7);
        assert_eq!(lowest(), None);
        drop(first);
        assert_eq!(lowest(), Some(5));
        drop(second);
        assert_eq!(lowest(), Some(9));
        history.raise(shard, 10);
        assert!(history.tables.lock().earlier.is_empty());
        let third = history.hold();
        history.raise(shard, 0);
        assert_eq!(lowest(), None);
        history.raise(shard, 3);
        assert_eq!(lowest(), Some(3), "the new rows' floor counts, not the old one's");
        drop(third);
        assert_eq!(lowest(), Some(3));
    }
}
