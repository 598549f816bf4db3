//! The write buffer: rows that are applied but not flushed, in memory, in front of any [`Engine`].
//!
//! [`BufferedEngine`] is an [`Engine`] itself. What is written stays in a [`Buffer`] of ours and reaches the inner engine in bulk,
//! sorted and with overwritten rows left out, when it is flushed. That is cheaper than two look-ups in RocksDB's skip list for each
//! row. It needs no log: RocksDB is used without one anyway, and after a crash the node replays its WAL from the durable applied
//! position.
//!
//! # Protocol
//!
//! The *layers*, newest first, are the active buffer, a frozen one while it is being drained, the row cache ([`cache`](crate::cache): newest
//! versions only), and the inner engine. A read takes a key from the first layer that has it; a delete is a row of its own in a buffer (a
//! tombstone).
//!
//! - A **write** puts the batch into the active buffer, under the buffer's lock from the first row to the last.
//! - A **drain** freezes the active buffer, puts an empty one in its place, writes the frozen rows to the inner engine as ONE batch, puts the
//!   newest versions among them into the row cache, and drops the frozen buffer. Writes and reads go on meanwhile. One drain runs at a time.
//! - A **point read** that finds its key nowhere but in the inner engine puts what it found into the row cache, unless a buffer was frozen
//!   since it looked at the buffers. It finds that out, and puts it in, under the lock that freezing needs.
//! - A **flush** is a drain and a flush of the inner engine.
//! - A **snapshot** is the number of the active buffer's last batch, the active and the frozen buffer, and a snapshot of the inner engine.
//!   The active buffer keeps a row's older versions while an open snapshot needs them, and none otherwise.
//! - A batch with a **range delete** is rare (a snapshot is installed) and goes past the buffer: after a drain, and with nobody else reading or
//!   writing, the rest of the active buffer and the batch go to the inner engine as one batch. So buffers hold no ranges.
//!
//! # Why it is right
//!
//! *The inner engine only ever moves from the state after one batch to the state after a later batch.* A frozen buffer holds, for each
//! key that was written since the last drain, its newest row; written as one atomic batch over the state at the last drain, that is the state
//! at the moment of freezing. So wherever the inner engine becomes durable, also by itself between two of our calls, and wherever a crash
//! falls, the durable state is whole: never rows that are newer than their applied position. (RocksDB: one batch is in one generation of
//! memtables of all column families, and these are flushed atomically.)
//!
//! *A batch is visible at one instant.* A point read looks at the active buffer under its lock and therefore sees all or nothing of each
//! batch, and everything of a batch whose `write` returned. Freezing and dropping change no read: a frozen buffer over the inner engine reads
//! the same before its rows are in the inner engine and after, and it is dropped only then.
//!
//! *A point read that finds its key in no buffer may read the inner engine later, without a lock.* What it finds is the row as of
//! some drain. If that drain froze before the buffers were looked at, no batch between them and the look wrote the key, since it would be in a
//! buffer. If it froze after, the row is newer and was current then. Either way the row was current at some moment of the call. This
//! and the two points before are what the row cache needs of its engine.
//!
//! *What the row cache holds for a key that no buffer has is what the inner engine has.* A drain brings both to the same rows before it drops
//! the buffer that hid them. A reader puts in what it found in the inner engine only if no buffer was frozen since it saw that none has
//! the key; so no drain has written the key in between, and none that begins later is past its own rows yet. Range deletes
//! count as freezing, and drop what they cover while nobody can put anything in. Rows may always be evicted.
//!
//! *A snapshot shows the state after its last batch, for ever.* It is taken under the lock that freezing needs, so its inner snapshot
//! holds at most the rows of its own frozen buffer besides what was drained before, and never a row of its active buffer. In the
//! active buffer it reads the newest version up to its number; where there is none, the key was not written since the freeze, and the layers
//! below decide. Writers leave it the versions it needs: it registers under the buffer's lock, before the next batch. A buffer that
//! is frozen or dropped meanwhile lives on in the snapshot, and gets no writes any more. A scan runs on a snapshot.
//!
//! *Failures.* If the inner engine fails, the frozen buffer stays in place and readable, and the next drain begins with it. The rows
//! of a row delete or range delete that failed are as before.
//!
//! # Locks
//!
//! In this order: `draining`, then `layers`, then a buffer's order, its tables, its open snapshots. A drain takes a frozen buffer's tables before its
//! orders: nobody writes to them any more. No lock is held while a visitor runs. Only a range delete calls the inner engine's `write` under `layers`. A scan holds a buffer's locks for
//! [`BUFFER_SCAN_ROWS`](crate::limits::BUFFER_SCAN_ROWS) rows at a time.
//!
//! # Memory
//!
//! The two buffers together have a budget. A flush is due ([`BufferedEngine::flush_due`]) when the active one has nine twentieths of it, a drain
//! ([`BufferedEngine::drain_due`]) when it has half of it because a flush takes long. Both are the caller's to run on blocking threads; writers on
//! async threads wait for [`BufferedEngine::room`] before. A writer that finds the active buffer at half of the budget all the same drains it
//! itself, and so blocks: memory stays bounded also where nobody limits the writers.
//!
//! # What it does not do
//!
//! It drops no garbage, and does not flush by itself. Snapshots and scans know no row cache.

use std::{mem, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use kvsvr_core::{
    engine::{Cf, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, Write, WriteBatch},
    types::{Revision, ShardId},
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use self::{
    merge::{Above, merged_scan},
    rows::NEWEST,
    table::{Buffer, HeldSequence},
};
use crate::{
    cache::{CacheStats, Hasher, RowCache, joined},
    time::timeout,
};

mod merge;
mod order;
mod parts;
mod rows;
mod table;
#[cfg(test)]
mod tests;

/// An engine with a write buffer before it. See the module.
pub struct BufferedEngine {
    inner: Arc<dyn Engine>,
    cache: RowCache,
    layers: RwLock<Layers>,
    /// Held over a drain, and over a batch that goes past the buffer.
    draining: Mutex<()>,
    hasher: Hasher,
    /// Bytes of the active buffer from which on it should be flushed.
    due_bytes: usize,
    /// Bytes of the active buffer from which on a writer drains it.
    max_bytes: usize,
    /// A flush has become due.
    due: Notify,
    /// A drain has become due.
    full: Notify,
    /// The active buffer is an empty one.
    emptied: Notify,
}

struct Layers {
    active: Arc<Buffer>,
    /// Complete; its rows are on their way to the inner engine.
    frozen: Option<Arc<Buffer>>,
    /// How often a buffer was frozen, or a range deleted.
    frozen_times: u64,
}

impl BufferedEngine {
    /// Puts an empty buffer and an empty row cache before the engine. From here on, all writes must go through this. `bytes`: the
    /// buffer's budget, see the module; `cache_bytes`: the cache's capacity, 0 = no row is kept.
    pub fn new(inner: Arc<dyn Engine>, bytes: usize, cache_bytes: usize) -> Self {
        Self::with_bounds(inner, bytes / 20 * 9, bytes / 2, cache_bytes)
    }

    pub(crate) fn with_bounds(
        inner: Arc<dyn Engine>,
        due_bytes: usize,
        max_bytes: usize,
        cache_bytes: usize,
    ) -> Self {
        let hasher = crate::cache::hasher();
        Self {
            inner,
            cache: RowCache::new(cache_bytes as u64),
            layers: RwLock::new(Layers {
                active: Arc::new(Buffer::new(hasher.clone())),
                frozen: None,
                frozen_times: 0,
            }),
            draining: Mutex::new(()),
            hasher,
            due_bytes,
            max_bytes,
            due: Notify::new(),
            full: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Bytes of the rows in the buffers: keys, values and an estimate of what a row costs besides.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.read();
        layers.active.bytes() + layers.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
    }

    /// What the row cache has done and holds.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// True if so much is in the active buffer that it should be flushed now.
    pub fn needs_flush(&self) -> bool {
        self.layers.read().active.bytes() >= self.due_bytes
    }

    fn is_full(&self) -> bool {
        self.layers.read().active.bytes() >= self.max_bytes
    }

    /// Waits until the next writer would have to drain. For one waiter at a time, who then calls [`BufferedEngine::relieve`].
    pub async fn drain_due(&self) {
        while !self.is_full() {
            self.full.notified().await;
        }
    }

    /// Drains if that is still due. Blocks.
    pub fn relieve(&self) -> Result<(), EngineError> {
        self.drain(|active| active.bytes() >= self.max_bytes)
    }

    /// Waits until a writer would not have to drain, or for `patience`: then false.
    pub async fn room(&self, patience: Duration) -> bool {
        let emptied = async {
            loop {
                let mut emptied = std::pin::pin!(self.emptied.notified());
                emptied.as_mut().enable();
                if !self.is_full() {
                    return;
                }
                emptied.await;
            }
        };
        timeout(patience, emptied).await.is_ok()
    }

    /// Waits until [`BufferedEngine::needs_flush`]. For one waiter at a time.
    pub async fn flush_due(&self) {
        while !self.needs_flush() {
            self.due.notified().await;
        }
    }

    fn empty_buffer(&self) -> Arc<Buffer> {
        Arc::new(Buffer::new(self.hasher.clone()))
    }

    /// Moves the rows that are buffered now to the inner engine. Blocks.
    fn drain(&self, due: impl FnOnce(&Buffer) -> bool) -> Result<(), EngineError> {
        let _one_at_a_time = self.draining.lock();
        if due(&self.layers.read().active) {
            self.drain_exclusively()?;
        }
        Ok(())
    }

    /// [`BufferedEngine::drain`], with `draining` held.
    fn drain_exclusively(&self) -> Result<(), EngineError> {
        // One is there already only if an earlier drain failed.
        let left = self.layers.read().frozen.clone();
        if let Some(left) = left {
            self.push_down(&left)?;
        }
        if let Some(frozen) = self.freeze() {
            self.push_down(&frozen)?;
        }
        Ok(())
    }

    /// Makes the active buffer the frozen one, if there is anything in it.
    fn freeze(&self) -> Option<Arc<Buffer>> {
        let fresh = self.empty_buffer();
        let mut layers = self.layers.write();
        assert!(layers.frozen.is_none(), "one buffer is drained at a time");
        if layers.active.is_empty() {
            return None;
        }
        layers.frozen_times += 1;
        layers.frozen = Some(mem::replace(&mut layers.active, fresh));
        self.emptied.notify_waiters();
        layers.frozen.clone()
    }

    /// Writes the frozen buffer to the inner engine, then drops it.
    fn push_down(&self, frozen: &Buffer) -> Result<(), EngineError> {
        frozen.with_sorted(|rows| self.inner.write_rows(rows, frozen.bytes()))?;
        // While the frozen buffer still hides what the cache has of these keys.
        frozen.each_newest(|key, row| {
            if row.is_none() && kvsvr_core::mutant!("row-cache-ignores-deletes") {
                return;
            }
            self.cache
                .put(self.hasher.hash_one(key), key.clone(), row.clone());
        });
        let done = self.layers.write().frozen.take();
        // Freeing its rows takes a while: not under the lock.
        drop(done);
        Ok(())
    }

    /// Writes a batch with range deletes to the inner engine, after everything that was written before it.
    fn write_past(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let _one_at_a_time = self.draining.lock();
        // So that little is left to do while everybody waits, and the inner engine has room for it.
        self.drain_exclusively()?;
        self.inner.flush()?;
        let fresh = self.empty_buffer();
        let mut layers = self.layers.write();
        layers.frozen_times += 1;
        let mut writes = layers.active.sorted_writes();
        writes.extend(batch.writes);
        self.forget(&writes);
        self.inner.write(WriteBatch { writes })?;
        let done = mem::replace(&mut layers.active, fresh);
        drop(layers);
        self.emptied.notify_waiters();
        drop(done);
        Ok(())
    }

    /// Drops from the row cache whatever these writes change.
    fn forget(&self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::DeleteRange(Cf::Data, start, end) => {
                    if !kvsvr_core::mutant!("row-cache-survives-snapshot") {
                        self.cache.drop_range(start, end);
                    }
                }
                Write::Put(Cf::Data, key, _) | Write::Delete(Cf::Data, key) => {
                    self.cache.remove(self.hasher.hash_one(key), key);
                }
                Write::Put(..) | Write::Delete(..) | Write::DeleteRange(..) | Write::Retire(_) => {}
            }
        }
    }

    fn view(&self) -> View<'_> {
        let layers = self.layers.read();
        View {
            hasher: &self.hasher,
            active: HeldSequence::newest(layers.active.clone()),
            frozen: layers.frozen.clone(),
            // Under the lock: no buffer is frozen in between, so no row that is newer than the view gets in.
            inner: self.inner.snapshot(),
        }
    }
}

impl std::fmt::Debug for BufferedEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufferedEngine")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl EngineRead for BufferedEngine {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let hash = self.hasher.hash_one(key);
        let layers = self.layers.read();
        let mut row = layers.active.get(cf, hash, key, NEWEST);
        if let Some(frozen) = layers.frozen.as_ref().filter(|_| row.is_none()) {
            row = frozen.get(cf, hash, key, NEWEST);
        }
        let frozen_times = layers.frozen_times;
        drop(layers);
        if cf != Cf::Data {
            return row.map_or_else(|| self.inner.get(cf, key), Ok);
        }
        if let Some(row) = row.or_else(|| self.cache.look_up(hash, key)) {
            self.cache.count(hash, true);
            return Ok(row);
        }
        self.cache.count(hash, false);
        let row = self.inner.get(cf, key)?;
        let (kept_key, kept_row) = joined(key, row.as_deref());
        let layers = self.layers.read();
        if layers.frozen_times == frozen_times {
            self.cache.put(hash, kept_key, kept_row);
        }
        Ok(row)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.view().scan(cf, range, visit)
    }
}

impl Engine for BufferedEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let ranges = |write: &Write| matches!(write, Write::DeleteRange(..));
        if batch.writes.iter().any(ranges) {
            return self.write_past(batch);
        }
        if self.is_full() {
            self.relieve()?;
        }
        // Held to the end: a buffer that is frozen gets no more rows.
        let layers = self.layers.read();
        layers.active.write(batch.writes);
        let bytes = layers.active.bytes();
        if bytes >= self.due_bytes {
            self.due.notify_one();
        }
        if bytes >= self.max_bytes {
            self.full.notify_one();
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        Box::new(self.view())
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.drain(|_| true)?;
        self.inner.flush()
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.get_durable(cf, key)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.inner.set_garbage_floor(shard, floor);
    }
}

/// A state of all layers.
struct View<'e> {
    hasher: &'e Hasher,
    active: HeldSequence,
    frozen: Option<Arc<Buffer>>,
    inner: Box<dyn EngineSnapshot + 'e>,
}

impl EngineRead for View<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let active = self.active.buffer();
        let hash = self.hasher.hash_one(key);
        if let Some(row) = active.get(cf, hash, key, self.active.sequence()) {
            return Ok(row);
        }
        let frozen = self.frozen.as_ref();
        match frozen.and_then(|frozen| frozen.get(cf, hash, key, NEWEST)) {
            Some(row) => Ok(row),
            None => self.inner.get(cf, key),
        }
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        if !range.end.is_empty() && range.start >= range.end {
            return Ok(());
        }
        let frozen = self
            .frozen
            .as_ref()
            .map(|frozen| frozen.cursor(cf, range, NEWEST));
        let active = self.active.buffer().cursor(cf, range, self.active.sequence());
        merged_scan(
            &*self.inner,
            cf,
            range,
            Above::new(active, frozen, range.reverse),
            visit,
        )
    }
}

impl EngineSnapshot for View<'_> {}

/// What goes on after a pair that is not shown.
const GO_ON: ControlFlow<()> = ControlFlow::Continue(());
