//! The row cache: newest versions of keys, and that there is none, in memory, bounded in bytes.
//!
//! It is a part of [`BufferedEngine`](crate::buffer::BufferedEngine), which looks into it for keys that are in no buffer, and fills it: readers put in what they find in
//! the engine below, drains what they write to it. When an entry may be put in is the engine's affair, see there. Entries are encoded rows,
//! with the key in one buffer as far as they were written together; eviction is quick_cache's.

use std::{
    hash::{BuildHasher, BuildHasherDefault, Hash, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use quick_cache::{Equivalent, OptionsBuilder, Weighter, sync::Cache};

use crate::limits::{ROW_CACHE_ENTRY_OVERHEAD, ROW_CACHE_MAX_ROW, ROW_CACHE_SHARDS, ROW_CACHE_TYPICAL_ROW};

#[cfg(test)]
mod tests;

/// What keys are hashed with: once for all tables in memory.
pub(crate) type Hasher = ahash::RandomState;

/// Seeded, because clients choose the keys.
pub(crate) fn hasher() -> Hasher {
    let seeds = RandomState::new();
    let [a, b, c, d] = [0, 1, 2, 3].map(|i: u64| seeds.hash_one(i));
    Hasher::with_seeds(a, b, c, d)
}

/// What the cache has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Look-ups of newest versions that the cache or the write buffer answered.
    pub hits: u64,
    /// Look-ups that went to the engine.
    pub misses: u64,
    /// Entries held, negative ones counted.
    pub entries: u64,
    /// Bytes held: keys, rows and an estimate of what an entry costs besides.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity: u64,
}

/// See the module.
pub(crate) struct RowCache {
    /// No row: the engine has none.
    rows: Cache<RowKey, Option<Bytes>, RowWeight, BuildHasherDefault<PassThrough>>,
    counters: Box<[Counters]>,
}

impl RowCache {
    /// A cache of at most `capacity` bytes; 0 = no row is ever kept.
    pub(crate) fn new(capacity: u64) -> Self {
        // Only what the map estimates its shards and its memory of evicted keys by.
        let items = usize::try_from(capacity).unwrap_or(usize::MAX) / ROW_CACHE_TYPICAL_ROW;
        let options = OptionsBuilder::new()
            .shards(ROW_CACHE_SHARDS)
            .estimated_items_capacity(items)
            .weight_capacity(capacity)
            .build();
        #[expect(
            clippy::expect_used,
            reason = "it fails only if a capacity is not set, and both are"
        )]
        let options = options.expect("the options are complete");
        Self {
            rows: Cache::with_options(
                options,
                RowWeight,
                BuildHasherDefault::default(),
                Default::default(),
            ),
            counters: (0..ROW_CACHE_SHARDS).map(|_| Counters::default()).collect(),
        }
    }

    /// The cached row (`Some(None)`: it is known that there is none), or `None` if the engine must be asked. `hash`: of the key, everywhere here.
    pub(crate) fn look_up(&self, hash: u64, key: &[u8]) -> Option<Option<Bytes>> {
        self.rows.get(&RowLookup { hash, key })
    }

    /// Counts a look-up.
    pub(crate) fn count(&self, hash: u64, hit: bool) {
        let counters = &self.counters[(hash as usize) % ROW_CACHE_SHARDS];
        let counter = if hit { &counters.hits } else { &counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts a row in, or what is known of it: instead of what was there.
    pub(crate) fn put(&self, hash: u64, key: Bytes, row: Option<Bytes>) {
        if key.len() + row.as_ref().map_or(0, Bytes::len) > ROW_CACHE_MAX_ROW {
            self.remove(hash, &key);
            return;
        }
        self.rows.insert(RowKey { hash, key }, row);
    }

    /// Drops what is known of a key.
    pub(crate) fn remove(&self, hash: u64, key: &[u8]) {
        self.rows.remove(&RowLookup { hash, key });
    }

    /// Drops what is known of the keys in [start, end); an empty end means to the end.
    pub(crate) fn drop_range(&self, start: &[u8], end: &[u8]) {
        self.rows
            .retain(|row, _| &row.key[..] < start || (!end.is_empty() && &row.key[..] >= end));
    }

    /// The counters, summed up.
    pub(crate) fn stats(&self) -> CacheStats {
        let sum = |of: fn(&Counters) -> &AtomicU64| {
            self.counters.iter().map(|c| of(c).load(Ordering::Relaxed)).sum()
        };
        CacheStats {
            hits: sum(|c| &c.hits),
            misses: sum(|c| &c.misses),
            entries: self.rows.len() as u64,
            bytes: self.rows.weight(),
            capacity: self.rows.capacity(),
        }
    }
}

/// Hits and misses of a part of the keys, on a cache line of their own.
#[derive(Default)]
#[repr(align(64))]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Key and row in one buffer: a hit reads both.
pub(crate) fn joined(key: &[u8], row: Option<&[u8]>) -> (Bytes, Option<Bytes>) {
    let mut all = Vec::with_capacity(key.len() + row.map_or(0, <[u8]>::len));
    all.extend_from_slice(key);
    all.extend_from_slice(row.unwrap_or_default());
    let all = Bytes::from(all);
    (all.slice(..key.len()), row.map(|_| all.slice(key.len()..)))
}

/// A key with its hash, which is computed once.
#[derive(Clone, PartialEq, Eq)]
struct RowKey {
    hash: u64,
    key: Bytes,
}

impl Hash for RowKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A key to look up.
struct RowLookup<'a> {
    hash: u64,
    key: &'a [u8],
}

impl Hash for RowLookup<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<RowKey> for RowLookup<'_> {
    fn equivalent(&self, key: &RowKey) -> bool {
        self.hash == key.hash && self.key == &key.key[..]
    }
}

/// Gives back the one number that was written: the keys bring their hash.
#[derive(Default)]
struct PassThrough(u64);

impl std::hash::Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("row keys hash as one u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Clone)]
struct RowWeight;

impl Weighter<RowKey, Option<Bytes>> for RowWeight {
    fn weight(&self, key: &RowKey, row: &Option<Bytes>) -> u64 {
        let row = row.as_ref().map_or(0, Bytes::len);
        (key.key.len() + row + ROW_CACHE_ENTRY_OVERHEAD) as u64
    }
}
