//! The row cache: point reads of [`Cf::Data`] from memory, in front of any [`Engine`].
//!
//! [`CachedEngine`] is an [`Engine`] itself. It keeps the encoded rows as the engine returns them, also the fact that there is no
//! row, bounded in bytes, filled by reads and by writes. Scans, snapshots, durable reads and the other column families pass through.
//!
//! # What holds
//!
//! **While no write is in flight on a key's stripe (below), a row that the cache holds for it is the one that the engine's newest state
//! holds.** A hit is therefore a read of the engine's newest state at the moment when the stripe was found quiet, and everything that the engine
//! promises carries over: whoever has seen one key of a batch new sees all of its keys new, because all their stripes were claimed before.
//!
//! # Why it holds
//!
//! Keys are spread by their hash over *stripes*. A stripe counts the writes that are in flight on its keys and has a version
//! that every write moves. Both change only under the stripe's lock.
//!
//! A write
//! 1. claims the stripes of all keys of the batch (count and version go up), so that look-ups on them go to the engine;
//! 2. writes the batch to the engine, which makes it visible at one instant;
//! 3. stripe by stripe, under its lock: replaces the entries by the new rows and releases the claim (the count goes down).
//!
//! A reader notes its stripe's state first. If a write is in flight on it, the reader asks the engine and leaves the cache alone. If it
//! misses, it reads the engine and puts the row in under the stripe's lock, and only if the version has not moved since the note.
//!
//! - A reader's row is the newest one: no write on the stripe was in flight when it noted the state and none began until it
//!   put the row in, so the engine's row did not change in between. A write that begins after that replaces it before it releases.
//! - A writer's row is the newest one: it puts rows in only if it was alone on the stripe from the claim to the release. When two
//!   writes overlap on a stripe both remove their keys' entries instead, and the next reader fills them. So nothing depends on who calls
//!   `write` from where; a shard's one apply task and another shard's merely cost each other an entry now and then.
//! - Between claim and release nobody but the writer puts rows in or takes rows out, and after the last release no entry is older than
//!   the batch.
//!
//! A range delete, or any other change of a range ([`CachedEngine::change_range`]), claims all stripes and drops the entries in the range. A
//! failed or panicking engine write leaves no entries, or the claims held: slower, never wrong.

use std::{
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use kvsvr_core::{
    engine::{Cf, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, Write, WriteBatch},
    types::{Revision, ShardId},
};
use quick_cache::{Equivalent, OptionsBuilder, Weighter, sync::Cache};

use self::stripe::{Claim, Stripe};
use crate::limits::{
    ROW_CACHE_ENTRY_OVERHEAD, ROW_CACHE_MAX_ROW, ROW_CACHE_SHARDS, ROW_CACHE_STRIPES, ROW_CACHE_TYPICAL_ROW,
};

mod stripe;
#[cfg(test)]
mod tests;

/// What the cache has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Look-ups that the cache answered.
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

/// An engine with a row cache before it. See the module.
pub struct CachedEngine {
    engine: Arc<dyn Engine>,
    rows: RowCache,
}

impl CachedEngine {
    /// Puts a cache of at most `capacity` bytes before the engine; 0 = no row is ever kept. From here on, all writes of
    /// [`Cf::Data`] must go through this, or through [`CachedEngine::change_range`]; but for rows that nobody has read through this.
    pub fn new(engine: Arc<dyn Engine>, capacity: u64) -> Self {
        Self {
            engine,
            rows: RowCache::new(capacity, ROW_CACHE_STRIPES),
        }
    }

    /// The counters, summed up.
    pub fn stats(&self) -> CacheStats {
        self.rows.stats()
    }

    /// Runs `change`, which may change rows in [start, end) of [`Cf::Data`] by other means than [`Engine::write`] (e.g. by taking in
    /// whole files). An empty end means to the end.
    pub fn change_range<T>(&self, start: &[u8], end: &[u8], change: impl FnOnce() -> T) -> T {
        let claims = self.rows.claim_all();
        self.rows.drop_range(start, end);
        let result = change();
        self.rows.release_all(claims);
        result
    }
}

impl std::fmt::Debug for CachedEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedEngine")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl EngineRead for CachedEngine {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if cf != Cf::Data {
            return self.engine.get(cf, key);
        }
        let hash = self.rows.hash(key);
        let stripe = self.rows.stripe(hash);
        let quiet = stripe.note();
        if let Some(row) = self.rows.look_up(hash, key, quiet.is_some()) {
            return Ok(row);
        }
        let row = self.engine.get(cf, key)?;
        if let Some(quiet) = quiet {
            let (key, row) = joined(key, row.as_deref());
            stripe.fill(quiet, || self.rows.put(RowKey { hash, key }, row));
        }
        Ok(row)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.engine.scan(cf, range, visit)
    }
}

impl Engine for CachedEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let touched = self.rows.touched_by(&batch);
        if touched.ranges.is_empty() {
            let claims = self.rows.claim(&touched.rows);
            let result = self.engine.write(batch);
            self.rows.release(claims, touched.rows, result.is_ok());
            return result;
        }
        let claims = self.rows.claim_all();
        for (start, end) in &touched.ranges {
            if kvsvr_core::mutant!("row-cache-survives-snapshot") {
                continue;
            }
            self.rows.drop_range(start, end);
        }
        touched.rows.iter().for_each(|row| self.rows.remove(&row.key));
        let result = self.engine.write(batch);
        self.rows.release_all(claims);
        result
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        self.engine.snapshot()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.engine.flush()
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get_durable(cf, key)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.engine.set_garbage_floor(shard, floor);
    }
}

/// The writes of a batch that concern the cache.
struct Touched {
    /// Sorted by hash, so that the keys of a stripe stand together; the last write of each key.
    rows: Vec<RowWrite>,
    ranges: Vec<(Bytes, Bytes)>,
}

/// A key's last write in a batch; no row = it is deleted.
struct RowWrite {
    key: RowKey,
    row: Option<Bytes>,
}

/// The map, the stripes and the counters.
struct RowCache {
    hasher: RandomState,
    /// No row: the engine has none.
    rows: Cache<RowKey, Option<Bytes>, RowWeight, BuildHasherDefault<PassThrough>>,
    stripes: Box<[Stripe]>,
    counters: Box<[Counters]>,
}

impl RowCache {
    /// `stripes`: a power of two from 2 on.
    fn new(capacity: u64, stripes: usize) -> Self {
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
            hasher: RandomState::new(),
            rows: Cache::with_options(
                options,
                RowWeight,
                BuildHasherDefault::default(),
                Default::default(),
            ),
            stripes: (0..stripes).map(|_| Stripe::default()).collect(),
            counters: (0..ROW_CACHE_SHARDS).map(|_| Counters::default()).collect(),
        }
    }

    /// Seeded, because clients choose the keys.
    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The top bits of the hash, so that the order of hashes is the order of stripes.
    fn stripe_index(&self, hash: u64) -> usize {
        (hash >> (u64::BITS - self.stripes.len().trailing_zeros())) as usize
    }

    fn stripe(&self, hash: u64) -> &Stripe {
        &self.stripes[self.stripe_index(hash)]
    }

    /// The cached row (`Some(None)`: it is known that there is none), or `None` if the engine must be asked. `quiet`: the key's stripe is.
    fn look_up(&self, hash: u64, key: &[u8], quiet: bool) -> Option<Option<Bytes>> {
        let counters = &self.counters[(hash as usize) % ROW_CACHE_SHARDS];
        let row = if quiet {
            self.rows.get(&RowLookup { hash, key })
        } else {
            None
        };
        let counter = if row.is_some() {
            &counters.hits
        } else {
            &counters.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        row
    }

    /// Puts a row in. Only under the lock of its stripe, by the rules of the module.
    fn put(&self, key: RowKey, row: Option<Bytes>) {
        if key.key.len() + row.as_ref().map_or(0, Bytes::len) > ROW_CACHE_MAX_ROW {
            self.remove(&key);
            return;
        }
        self.rows.insert(key, row);
    }

    fn remove(&self, key: &RowKey) {
        self.rows.remove(&RowLookup {
            hash: key.hash,
            key: &key.key,
        });
    }

    fn touched_by(&self, batch: &WriteBatch) -> Touched {
        let of_data = |write: &&Write| matches!(write, Write::Put(Cf::Data, ..) | Write::Delete(Cf::Data, _));
        let mut touched = Touched {
            rows: Vec::with_capacity(batch.writes.iter().filter(of_data).count()),
            ranges: Vec::new(),
        };
        for write in &batch.writes {
            let (key, row) = match write {
                Write::Put(Cf::Data, key, row) => (key, Some(row.clone())),
                Write::Delete(Cf::Data, _) if kvsvr_core::mutant!("row-cache-ignores-deletes") => continue,
                Write::Delete(Cf::Data, key) => (key, None),
                Write::DeleteRange(Cf::Data, start, end) => {
                    touched.ranges.push((start.clone(), end.clone()));
                    continue;
                }
                Write::Put(..) | Write::Delete(..) | Write::DeleteRange(..) => continue,
            };
            touched.rows.push(RowWrite {
                key: RowKey {
                    hash: self.hash(key),
                    key: key.clone(),
                },
                row,
            });
        }
        // Stable: of several writes of a key the last one stands last, and is kept.
        touched.rows.sort_by(|a, b| a.key.cmp(&b.key));
        touched.rows.dedup_by(|later, kept| {
            let same = later.key == kept.key;
            if same {
                kept.row = later.row.take();
            }
            same
        });
        touched
    }

    /// Step 1 of a write.
    fn claim(&self, rows: &[RowWrite]) -> Vec<Claim> {
        let stripe_of = |row: &RowWrite| self.stripe_index(row.key.hash);
        let mut claims = Vec::with_capacity(rows.len());
        for group in rows.chunk_by(|a, b| stripe_of(a) == stripe_of(b)) {
            claims.push(self.claim_stripe(stripe_of(&group[0]), group.len()));
        }
        claims
    }

    /// Step 3 of a write: `rows` as they were claimed; `written` = the engine has them.
    fn release(&self, claims: Vec<Claim>, rows: Vec<RowWrite>, written: bool) {
        let mut rows = rows.into_iter();
        for claim in claims {
            let group = rows.by_ref().take(claim.keys);
            self.stripes[claim.stripe].release(&claim, |alone| {
                for write in group {
                    if alone && written {
                        self.put(write.key, write.row);
                    } else {
                        self.remove(&write.key);
                    }
                }
            });
        }
    }

    fn claim_all(&self) -> Vec<Claim> {
        (0..self.stripes.len())
            .map(|stripe| self.claim_stripe(stripe, 0))
            .collect()
    }

    fn release_all(&self, claims: Vec<Claim>) {
        for claim in claims {
            self.stripes[claim.stripe].release(&claim, |_| ());
        }
    }

    fn claim_stripe(&self, stripe: usize, keys: usize) -> Claim {
        let (alone, version) = self.stripes[stripe].claim();
        Claim {
            stripe,
            keys,
            alone,
            version,
        }
    }

    fn drop_range(&self, start: &[u8], end: &[u8]) {
        self.rows
            .retain(|row, _| &row.key[..] < start || (!end.is_empty() && &row.key[..] >= end));
    }

    fn stats(&self) -> CacheStats {
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
fn joined(key: &[u8], row: Option<&[u8]>) -> (Bytes, Option<Bytes>) {
    let mut all = Vec::with_capacity(key.len() + row.map_or(0, <[u8]>::len));
    all.extend_from_slice(key);
    all.extend_from_slice(row.unwrap_or_default());
    let all = Bytes::from(all);
    (all.slice(..key.len()), row.map(|_| all.slice(key.len()..)))
}

/// A key with its hash, which is computed once. The order is by hash first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    hash: u64,
    key: Bytes,
}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A key to look up.
struct RowLookup<'a> {
    hash: u64,
    key: &'a [u8],
}

impl Hash for RowLookup<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
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

impl Hasher for PassThrough {
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
