//! Rebuilds the shards from the records of the segments, in the order in which they were written.
//!
//! Pure state. A segment starts with the state of every shard at that moment, so older segments may be missing once nothing in
//! them is in use: replay tolerates entries that are not there while they may still turn out to be purged, and checks at the end
//! that none is missing.

use std::collections::BTreeMap;

use kvsvr_core::types::{LogPosition, ShardId};

use super::{
    codec::{Found, Record, ShardState},
    index::{Index, Place, Slot},
};

impl ShardState {
    /// The state after one more record. False if the record cannot follow.
    pub(crate) fn apply(&mut self, record: &Record) -> bool {
        match record {
            Record::Entry(entry) => {
                let follows = self
                    .last
                    .is_none_or(|last| entry.position.index == last.index + 1);
                self.last = Some(entry.position);
                return follows;
            }
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(committed) => self.committed = *committed,
            Record::Purged(upto) => {
                self.purged = self.purged.max(Some(*upto));
                if self.last.is_none_or(|last| last.index <= upto.index) {
                    self.last = self.purged;
                }
            }
            Record::Truncate(last_kept) => {
                let shortens = last_kept.map(|kept| kept.index) <= self.last.map(|last| last.index);
                self.last = *last_kept;
                return shortens;
            }
            Record::Forget => *self = Self::default(),
            Record::State(state) => *self = *state,
        }
        true
    }
}

#[derive(Debug, Default)]
struct ShardReplay {
    state: ShardState,
    entries: BTreeMap<u64, Slot>,
}

impl ShardReplay {
    /// Drops the entries that the state says are gone.
    fn trim(&mut self) {
        match self.state.last {
            Some(last) => drop(self.entries.split_off(&(last.index + 1))),
            None => self.entries.clear(),
        }
        if let Some(purged) = self.state.purged {
            while self
                .entries
                .first_key_value()
                .is_some_and(|(index, _)| *index <= purged.index)
            {
                self.entries.pop_first();
            }
        }
    }

    /// What is wrong with the shard at the end, if anything.
    fn fault(&self) -> Option<String> {
        let last = self.state.last?;
        let mut expected = match self.state.purged {
            Some(purged) => purged.index + 1,
            None => self
                .entries
                .first_key_value()
                .map_or(last.index, |(index, _)| *index),
        };
        for index in self.entries.keys() {
            if *index != expected {
                break;
            }
            expected += 1;
        }
        if expected != last.index + 1 {
            return Some(format!(
                "entry {expected} of a log that ends at {} is missing",
                last.index
            ));
        }
        let committed = self.state.committed?;
        let slot = self.entries.get(&committed.index)?;
        ((slot.term, slot.node) != (committed.term, committed.node)).then(|| {
            format!(
                "the committed entry {} was written in another term",
                committed.index
            )
        })
    }
}

/// The shards so far.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    shards: BTreeMap<ShardId, ShardReplay>,
}

impl Replay {
    /// The first block of a segment: these shards and no others.
    pub(crate) fn begin_segment(&mut self, found: &[Found]) {
        self.shards
            .retain(|shard, _| found.iter().any(|found| found.shard == *shard));
        for found in found {
            let shard = self.shards.entry(found.shard).or_default();
            shard.state.apply(&found.record);
            shard.trim();
        }
    }

    /// A record of any other block, whose block is at `block` in its segment. False if it cannot follow what was before.
    pub(crate) fn apply(&mut self, segment: u64, block: u64, found: &Found) -> bool {
        if found.record == Record::Forget {
            self.shards.remove(&found.shard);
            return true;
        }
        let shard = self.shards.entry(found.shard).or_default();
        let follows = shard.state.apply(&found.record);
        match &found.record {
            Record::Entry(entry) => {
                let LogPosition { index, term, node } = entry.position;
                let offset = u32::try_from(block + u64::from(found.offset)).unwrap_or(u32::MAX);
                let place = Place::At { segment, offset };
                let slot = Slot {
                    term,
                    node,
                    place,
                    len: found.len,
                    kind: entry.kind,
                };
                shard.entries.insert(index, slot);
            }
            Record::Purged(_) | Record::Truncate(_) | Record::State(_) => shard.trim(),
            Record::Vote(_) | Record::Committed(_) | Record::Forget => {}
        }
        follows
    }

    /// What is wrong at the end, by shard.
    pub(crate) fn faults(&self) -> Vec<(ShardId, String)> {
        self.shards
            .iter()
            .filter_map(|(id, shard)| Some((*id, shard.fault()?)))
            .collect()
    }

    /// The state of each shard, as the next segment would begin with.
    pub(crate) fn states(&self) -> BTreeMap<ShardId, ShardState> {
        self.shards.iter().map(|(id, shard)| (*id, shard.state)).collect()
    }

    /// Entries in use, by segment.
    pub(crate) fn live(&self) -> BTreeMap<u64, u64> {
        let mut live = BTreeMap::new();
        for slot in self.shards.values().flat_map(|shard| shard.entries.values()) {
            if let Place::At { segment, .. } = slot.place {
                *live.entry(segment).or_default() += 1;
            }
        }
        live
    }

    /// The index of the running WAL. A committed position past the end of the log is brought back to it: what was committed
    /// there had not reached this disk, and the order of records makes everything before it committed too.
    pub(crate) fn into_index(self, cache_limit: usize) -> Index {
        let mut index = Index::new(cache_limit);
        for (id, shard) in self.shards {
            let last = shard.state.last;
            let to = index.entry(id);
            to.vote = shard.state.vote;
            to.purged = shard.state.purged;
            to.committed = shard.state.committed.and_then(|committed| match last {
                Some(last) if last.index < committed.index => Some(last),
                Some(_) => Some(committed),
                None => None,
            });
            for (at, slot) in shard.entries {
                index.recovered(id, at, slot);
            }
        }
        index
    }
}
