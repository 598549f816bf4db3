//! What the WAL holds in memory: where each shard's entries are, and the newest of them.
//!
//! Pure state, used under one lock by the [`Wal`](super::Wal)'s callers and its writer. An entry is here from the moment it is
//! appended; its place in a segment is filled in when it is durable. Entries that are not yet written are always in the cache.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use bytes::Bytes;
use kvsvr_core::types::{LogPosition, ShardId};

use super::{EntryKind, EntryRecord, ShardLog, VoteRecord, codec::RECORD_HEADER};

/// Where an entry's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not written yet; the number is unique for each append.
    Queued(u64),
    /// At a byte offset of a segment.
    At { segment: u64, offset: u32 },
}

/// One entry, without its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) place: Place,
    /// Bytes of the record, header included.
    pub(crate) len: u32,
    pub(crate) kind: EntryKind,
}

#[derive(Debug)]
struct Cached {
    /// Grows over all shards: the smallest is the oldest.
    age: u64,
    payload: Bytes,
}

/// Entries that are no longer in use, by segment.
pub(crate) type Freed = BTreeMap<u64, u64>;

/// One shard.
#[derive(Debug, Default)]
pub(crate) struct ShardIndex {
    pub(crate) vote: Option<VoteRecord>,
    pub(crate) committed: Option<LogPosition>,
    pub(crate) purged: Option<LogPosition>,
    /// Index of the first slot, if there is one.
    first: u64,
    slots: VecDeque<Slot>,
    /// Payloads of the last entries.
    cache: VecDeque<Cached>,
}

/// An entry that a read wants.
#[derive(Debug)]
pub(crate) enum Wanted {
    Here(EntryRecord),
    Stored {
        position: LogPosition,
        segment: u64,
        offset: u32,
        len: u32,
    },
}

/// What a change did to the sums of the [`Index`].
#[derive(Default)]
struct Removed {
    freed: Freed,
    bytes: u64,
    cached: usize,
}

impl Removed {
    fn count(&mut self, slot: &Slot) {
        self.bytes += u64::from(slot.len);
        if let Place::At { segment, .. } = slot.place {
            *self.freed.entry(segment).or_default() += 1;
        }
    }
}

impl ShardIndex {
    /// The slot of an index, counted from the front.
    fn nth(&self, index: u64) -> Option<usize> {
        let nth = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (nth < self.slots.len()).then_some(nth)
    }

    fn at(&self, nth: usize) -> LogPosition {
        let slot = &self.slots[nth];
        LogPosition {
            index: self.first + nth as u64,
            term: slot.term,
            node: slot.node,
        }
    }

    /// The position of an entry, or of what was purged last.
    pub(crate) fn position(&self, index: u64) -> Option<LogPosition> {
        match self.nth(index) {
            Some(nth) => Some(self.at(nth)),
            None => self.purged.filter(|purged| purged.index == index),
        }
    }

    /// The last entry, or what was purged last.
    pub(crate) fn last(&self) -> Option<LogPosition> {
        self.slots
            .len()
            .checked_sub(1)
            .map(|nth| self.at(nth))
            .or(self.purged)
    }

    fn first_index(&self) -> u64 {
        match self.purged {
            _ if !self.slots.is_empty() => self.first,
            Some(purged) => purged.index + 1,
            None => 0,
        }
    }

    pub(crate) fn view(&self) -> ShardLog {
        ShardLog {
            vote: self.vote,
            committed: self.committed,
            purged: self.purged,
            last: self.last(),
            first_index: self.first_index(),
        }
    }

    /// The index that an append must begin with; `None` if any will do.
    pub(crate) fn next_index(&self) -> Option<u64> {
        self.last().map(|last| last.index + 1)
    }

    /// The index before the newest entries that together have at most `bytes`.
    pub(crate) fn index_before(&self, bytes: u64) -> u64 {
        let mut left = bytes;
        let kept = self
            .slots
            .iter()
            .rev()
            .take_while(|slot| match left.checked_sub(u64::from(slot.len)) {
                Some(rest) => {
                    left = rest;
                    true
                }
                None => false,
            });
        (self.first_index() + (self.slots.len() - kept.count()) as u64).saturating_sub(1)
    }

    /// Bytes of the entries from an index on.
    pub(crate) fn bytes_from(&self, index: u64) -> u64 {
        let skipped = index.saturating_sub(self.first);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        self.slots
            .iter()
            .skip(skipped)
            .map(|slot| u64::from(slot.len))
            .sum()
    }

    fn push(&mut self, index: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.first = index;
        }
        self.slots.push_back(slot);
    }

    fn truncate_after(&mut self, last_kept: Option<u64>) -> Removed {
        let mut removed = Removed::default();
        let keep = last_kept.map_or(0, |index| (index + 1).saturating_sub(self.first));
        while self.slots.len() as u64 > keep
            && let Some(slot) = self.slots.pop_back()
        {
            removed.count(&slot);
            removed.cached += self.cache.pop_back().map_or(0, |cached| cached.payload.len());
        }
        removed
    }

    fn purge(&mut self, upto: LogPosition) -> Removed {
        let mut removed = Removed::default();
        self.purged = self.purged.max(Some(upto));
        while self.first <= upto.index
            && let Some(slot) = self.slots.pop_front()
        {
            self.first += 1;
            removed.count(&slot);
            if self.cache.len() > self.slots.len() {
                removed.cached += self.cache.pop_front().map_or(0, |cached| cached.payload.len());
            }
        }
        removed
    }

    /// The age of the oldest payload that may leave the cache.
    fn evictable(&self) -> Option<u64> {
        let cached = self.cache.front()?;
        let slot = &self.slots[self.slots.len() - self.cache.len()];
        matches!(slot.place, Place::At { .. }).then_some(cached.age)
    }

    fn wanted(&self, nth: usize) -> Wanted {
        let (slot, position) = (&self.slots[nth], self.at(nth));
        let uncached = self.slots.len() - self.cache.len();
        match slot.place {
            Place::At { segment, offset } if nth < uncached => Wanted::Stored {
                position,
                segment,
                offset,
                len: slot.len,
            },
            _ => {
                let payload = self.cache[nth - uncached].payload.clone();
                Wanted::Here(EntryRecord {
                    position,
                    kind: slot.kind,
                    payload,
                })
            }
        }
    }
}

/// All shards.
#[derive(Debug, Default)]
pub(crate) struct Index {
    shards: BTreeMap<ShardId, ShardIndex>,
    next_age: u64,
    cached_bytes: usize,
    cache_limit: usize,
    live_bytes: u64,
    /// Bytes of all entries ever appended or recovered.
    appended_bytes: u64,
}

impl Index {
    pub(crate) fn new(cache_limit: usize) -> Self {
        Self {
            cache_limit,
            ..Self::default()
        }
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<&ShardIndex> {
        self.shards.get(&shard)
    }

    /// The shard, created if it is new.
    pub(crate) fn entry(&mut self, shard: ShardId) -> &mut ShardIndex {
        self.shards.entry(shard).or_default()
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.shards.keys().copied()
    }

    /// Bytes of all entries that are neither purged nor truncated.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of all entries that were appended since the start or found at it. Only grows.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Adds an entry that is about to be written. `id` is unique.
    pub(crate) fn append(&mut self, shard: ShardId, entry: &EntryRecord, id: u64) {
        let LogPosition { index, term, node } = entry.position;
        let len = RECORD_HEADER + entry.payload.len();
        let slot = Slot {
            term,
            node,
            place: Place::Queued(id),
            len: len as u32,
            kind: entry.kind,
        };
        let age = self.next_age;
        self.next_age += 1;
        self.cached_bytes += entry.payload.len();
        self.live_bytes += len as u64;
        self.appended_bytes += len as u64;
        let index_of_shard = self.entry(shard);
        index_of_shard.push(index, slot);
        index_of_shard.cache.push_back(Cached {
            age,
            payload: entry.payload.clone(),
        });
    }

    /// Adds an entry that was found on disk.
    pub(crate) fn recovered(&mut self, shard: ShardId, index: u64, slot: Slot) {
        self.live_bytes += u64::from(slot.len);
        self.appended_bytes += u64::from(slot.len);
        self.entry(shard).push(index, slot);
    }

    /// The append `id` of an entry is durable at `place`. False if the entry is not there any more.
    pub(crate) fn placed(&mut self, shard: ShardId, index: u64, id: u64, place: Place) -> bool {
        let Some(shard) = self.shards.get_mut(&shard) else {
            return false;
        };
        let Some(nth) = shard.nth(index) else { return false };
        let slot = &mut shard.slots[nth];
        let same = slot.place == Place::Queued(id);
        if same {
            slot.place = place;
        }
        same
    }

    pub(crate) fn truncate_after(&mut self, shard: ShardId, last_kept: Option<u64>) -> Freed {
        let removed = self.entry(shard).truncate_after(last_kept);
        self.subtract(removed)
    }

    pub(crate) fn purge(&mut self, shard: ShardId, upto: LogPosition) -> Freed {
        let removed = self.entry(shard).purge(upto);
        self.subtract(removed)
    }

    pub(crate) fn forget(&mut self, shard: ShardId) -> Freed {
        let removed = self
            .shards
            .remove(&shard)
            .map(|mut shard| shard.truncate_after(None));
        self.subtract(removed.unwrap_or_default())
    }

    fn subtract(&mut self, removed: Removed) -> Freed {
        self.live_bytes -= removed.bytes;
        self.cached_bytes -= removed.cached;
        removed.freed
    }

    /// Drops the oldest written payloads until the cache is within its bound.
    pub(crate) fn evict(&mut self) {
        while self.cached_bytes > self.cache_limit {
            let oldest = self
                .shards
                .values_mut()
                .filter_map(|shard| Some((shard.evictable()?, shard)));
            let Some((_, shard)) = oldest.min_by_key(|(age, _)| *age) else {
                return;
            };
            self.cached_bytes -= shard.cache.pop_front().map_or(0, |cached| cached.payload.len());
        }
    }

    /// The entries of a range, as many as fit into `max_bytes` of payload, at least one if there is one.
    pub(crate) fn read(&self, shard: ShardId, range: Range<u64>, max_bytes: usize) -> Vec<Wanted> {
        let Some(shard) = self.shards.get(&shard) else {
            return Vec::new();
        };
        let start = range.start.max(shard.first);
        let (mut wanted, mut bytes) = (Vec::new(), 0);
        for index in start..range.end {
            let Some(nth) = shard.nth(index) else { break };
            bytes += shard.slots[nth].len as usize - RECORD_HEADER;
            if bytes > max_bytes && !wanted.is_empty() {
                break;
            }
            wanted.push(shard.wanted(nth));
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn entry(index: u64, term: u64, len: usize) -> EntryRecord {
        let position = LogPosition { index, term, node: 1 };
        EntryRecord {
            position,
            kind: EntryKind::Batch,
            payload: Bytes::from(vec![index as u8; len]),
        }
    }

    fn filled(limit: usize) -> Index {
        let mut index = Index::new(limit);
        for i in 1..=6 {
            index.append(SHARD, &entry(i, 1, 10), i);
        }
        index
    }

    fn cached(index: &Index) -> Vec<u64> {
        let wanted = index.read(SHARD, 0..u64::MAX, usize::MAX);
        let here = wanted.into_iter().filter_map(|wanted| match wanted {
            Wanted::Here(entry) => Some(entry.position.index),
            Wanted::Stored { .. } => None,
        });
        here.collect()
    }

    #[test]
    fn only_written_payloads_leave_the_cache() {
        let mut index = filled(25);
        index.evict();
        assert_eq!(cached(&index), [1, 2, 3, 4, 5, 6]);
        for i in 1..=5 {
            assert!(index.placed(
                SHARD,
                i,
                i,
                Place::At {
                    segment: 1,
                    offset: 0
                }
            ));
        }
        index.evict();
        assert_eq!(cached(&index), [5, 6]);
        assert_eq!(index.cached_bytes, 20);
    }

    #[test]
    fn a_replaced_entry_is_not_placed_by_the_first_write() {
        let mut index = filled(1000);
        assert!(index.truncate_after(SHARD, Some(4)).is_empty());
        index.append(SHARD, &entry(5, 1, 3), 50);
        assert!(!index.placed(
            SHARD,
            5,
            5,
            Place::At {
                segment: 1,
                offset: 0
            }
        ));
        assert!(!index.placed(
            SHARD,
            6,
            6,
            Place::At {
                segment: 1,
                offset: 0
            }
        ));
        assert!(index.placed(
            SHARD,
            5,
            50,
            Place::At {
                segment: 1,
                offset: 9
            }
        ));
        assert_eq!(index.truncate_after(SHARD, None), Freed::from([(1, 1)]));
        assert_eq!((index.cached_bytes, index.live_bytes), (0, 0));
    }

    #[test]
    fn purge_past_the_end_and_reads() {
        let mut index = filled(1000);
        assert_eq!(index.read(SHARD, 2..100, 25).len(), 2);
        assert_eq!(index.read(SHARD, 2..100, 0).len(), 1);
        assert!(index.read(SHARD, 7..100, 1000).is_empty());
        let purged = LogPosition {
            index: 3,
            term: 1,
            node: 1,
        };
        index.purge(SHARD, purged);
        let shard = index.get(SHARD).unwrap();
        assert_eq!((shard.view().first_index, shard.position(3)), (4, Some(purged)));
        assert_eq!((shard.position(2), shard.position(7)), (None, None));
        let purged = LogPosition {
            index: 100,
            term: 2,
            node: 1,
        };
        index.purge(SHARD, purged);
        let view = index.get(SHARD).unwrap().view();
        assert_eq!((view.last, view.first_index), (Some(purged), 101));
        assert_eq!((index.cached_bytes, index.live_bytes), (0, 0));
    }
}
