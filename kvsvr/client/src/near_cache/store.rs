//! The near-cache's content and what may be claimed of it. Pure: time comes in as an argument.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::CachedRead;
use crate::{limits::NEAR_CACHE_ENTRY, types::KeyValue};

/// Confirmations that wait for the watch.
const MAX_CONFIRMATIONS: usize = 16;

pub(super) struct Store {
    entries: BTreeMap<Bytes, Entry>,
    bytes: usize,
    max_bytes: usize,
    /// Where the search for an entry to evict goes on (the clock algorithm over the keys' order).
    hand: Bytes,
    fills: BTreeMap<Bytes, Fill>,
    /// Every change up to this revision has been applied.
    watched: u64,
    /// At `fresh_at` the shard's revision was at most `watched`.
    fresh_at: Option<Instant>,
    /// Reads that saw a revision that the watch has not reached: revision, when the read was sent. In order of revision.
    confirmations: VecDeque<(u64, Instant)>,
    lost: bool,
}

struct Entry {
    /// `None`: there is no such key.
    value: Option<KeyValue>,
    /// The value is that of this revision, and of all later ones up to `watched`.
    revision: u64,
    referenced: bool,
}

/// Reads of a key that are under way.
#[derive(Default)]
struct Fill {
    readers: usize,
    /// The newest change of the key that arrived meanwhile.
    changed: u64,
}

impl Store {
    pub(super) fn new(max_bytes: usize, watched: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            bytes: 0,
            max_bytes,
            hand: Bytes::new(),
            fills: BTreeMap::new(),
            watched,
            fresh_at: None,
            confirmations: VecDeque::new(),
            lost: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.fresh_at.map(|at| now.saturating_duration_since(at))
    }

    /// A value that is fresh enough.
    pub(super) fn get(
        &mut self,
        key: &Bytes,
        now: Instant,
        max_age: Duration,
        at_least: u64,
    ) -> Option<CachedRead> {
        let age = self.age(now).filter(|age| *age <= max_age)?;
        let entry = self.entries.get_mut(key)?;
        let revision = self.watched.max(entry.revision);
        if revision < at_least {
            return None;
        }
        entry.referenced = true;
        Some(CachedRead {
            value: entry.value.clone(),
            revision,
            age,
            hit: true,
        })
    }

    pub(super) fn begin_fill(&mut self, key: &Bytes) {
        self.fills.entry(key.clone()).or_default().readers += 1;
    }

    pub(super) fn end_fill(&mut self, key: &Bytes) {
        if let Some(fill) = self.fills.get_mut(key) {
            fill.readers -= 1;
            if fill.readers == 0 {
                self.fills.remove(key);
            }
        }
    }

    /// The result of a linearizable read that was begun with [`Store::begin_fill`].
    pub(super) fn fill(&mut self, key: &Bytes, value: Option<&KeyValue>, revision: u64) {
        let overtaken = self.fills.get(key).is_none_or(|fill| fill.changed > revision);
        let known = self
            .entries
            .get(key)
            .is_some_and(|entry| entry.revision >= revision);
        if self.lost || overtaken || known {
            return;
        }
        // Received bytes are views of whole frames; a copy keeps only the value.
        let key = Bytes::copy_from_slice(key);
        self.set(key, value.map(own), revision);
        self.evict();
    }

    /// A change from the watch.
    pub(super) fn change(&mut self, key: &Bytes, value: Option<&KeyValue>, revision: u64) {
        if let Some(fill) = self.fills.get_mut(key) {
            fill.changed = fill.changed.max(revision);
        }
        if self
            .entries
            .get(key)
            .is_some_and(|entry| entry.revision < revision && !crate::mutant!("near-cache-ignores-changes"))
        {
            self.set(Bytes::copy_from_slice(key), value.map(own), revision);
            self.evict();
        }
    }

    /// The watch has delivered every change up to this revision.
    pub(super) fn watched(&mut self, revision: u64) {
        self.watched = self.watched.max(revision);
        while let Some((seen, sent)) = self.confirmations.front().copied()
            && seen <= self.watched
        {
            self.confirmations.pop_front();
            self.fresh_at = self.fresh_at.max(Some(sent));
        }
    }

    /// A linearizable read that was sent at `sent` saw this revision of the shard.
    pub(super) fn confirm(&mut self, revision: u64, sent: Instant) {
        if self.lost {
            return;
        }
        if revision <= self.watched {
            self.fresh_at = self.fresh_at.max(Some(sent));
            return;
        }
        let at = self.confirmations.partition_point(|(seen, _)| *seen <= revision);
        if at < MAX_CONFIRMATIONS {
            self.confirmations.insert(at, (revision, sent));
            // The lowest are reached first.
            self.confirmations.truncate(MAX_CONFIRMATIONS);
        }
    }

    /// Changes after `watched` were missed: what is held is worth nothing. The watch goes on after `revision`.
    pub(super) fn reset(&mut self, revision: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.fresh_at = None;
        self.confirmations.clear();
        for fill in self.fills.values_mut() {
            fill.changed = u64::MAX;
        }
        self.watched = self.watched.max(revision);
    }

    /// There will be no more changes from the watch.
    pub(super) fn lose(&mut self) {
        self.reset(0);
        self.lost = true;
    }

    fn set(&mut self, key: Bytes, value: Option<KeyValue>, revision: u64) {
        let entry = Entry {
            value,
            revision,
            referenced: false,
        };
        self.bytes += size(&key, &entry);
        if let Some(old) = self.entries.insert(key.clone(), entry) {
            self.bytes -= size(&key, &old);
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.max_bytes {
            let next = (Bound::Included(&self.hand[..]), Bound::Unbounded);
            let Some((key, entry)) = self.entries.range_mut::<[u8], _>(next).next() else {
                if self.hand.is_empty() {
                    return;
                }
                self.hand = Bytes::new();
                continue;
            };
            let key = key.clone();
            if std::mem::take(&mut entry.referenced) {
                // The smallest key after this one.
                let mut after = key.to_vec();
                after.push(0);
                self.hand = after.into();
            } else if let Some(entry) = self.entries.remove(&key) {
                self.bytes -= size(&key, &entry);
                self.hand = key;
            }
        }
    }
}

fn size(key: &[u8], entry: &Entry) -> usize {
    NEAR_CACHE_ENTRY + key.len() + entry.value.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len())
}

fn own(kv: &KeyValue) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(&kv.key),
        value: Bytes::copy_from_slice(&kv.value),
        ..*kv
    }
}

#[cfg(test)]
mod tests;
