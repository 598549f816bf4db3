//! The write-ahead log: one per node, for all shards.
//!
//! # What it does
//! Callers hand in entries, votes, truncations and purges; one writer task ([`writer`]) drains whatever waits, writes it as one
//! *block* ([`codec`]), syncs once, and runs the callbacks in order. While a sync runs, new work queues: that is the group commit.
//! Entries can be read from the moment they are handed in ([`index`]). Segments whose entries are all purged or truncated are
//! recycled ([`segment`]), wherever they are in the order: an idle shard does not keep a busy one's segments alive.
//! A segment begins with the state (vote, committed, purged, last position) of every shard, so that older segments can go.
//!
//! # What it relies on
//! A [`Disk`](crate::disk::Disk) whose sync means it and whose sectors of 512 bytes are written as a whole or not at all. Nothing
//! else: a write may reach the disk in any order and in part.
//!
//! # Torn or corrupt
//! Raft must not forget: a node that drops entries it once acknowledged may help to elect a leader without them, and one bad
//! sector then loses committed data (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage", FAST '18).
//! So recovery ([`scan`]) must tell a write that a crash interrupted, which nobody was told of, from damage to one that was
//! durable. The rule that makes this possible: **a block is only written when every block before it is durable.** Therefore
//! - at most one block, the last one of the last segment, can be torn, in whatever pattern; it is dropped as a whole (its header
//!   covers it), and no callback of it has run;
//! - a bad block with any good block of the same segment epoch after it, or in a segment that is not the last, was durable: that
//!   is corruption, the WAL does not open, and nothing is changed on disk;
//! - file names say nothing before their content is durable, so a bad segment header or first block is corruption too.
//!
//! What is left is the very last block: if it was durable and damaged later, no block after it says so. To make that window
//! short, a block without records (a *seal*) is written when the log has been idle for [`WalOptions::seal_after`], and when it
//! is opened or shut down. This is the same limit as in the paper: the last entry of a log cannot be disentangled.
//!
//! Recovery makes its decision durable before anything else happens: it writes the last good block again (the process may have
//! ended on a failed sync, after which the kernel calls pages clean that never reached the disk: Rebello et al., "Can
//! Applications Recover from fsync Failures?", ATC '20), syncs, and then writes a seal over the place of the dropped block.
//! Leftovers of a dropped block after the seal can never be taken for a block: a block header names its own place, and a torn
//! block had only one.
//!
//! # What it does not do
//! It never retries a failed write or sync: the error hook is called, every callback gets the error, and all later work is
//! refused. It does not repair corruption, does not bound what callers queue, and knows neither openraft nor the engine.

use std::{
    fmt, io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, channel::oneshot, future};
use kvsvr_core::types::{LogPosition, ShardId};
use tokio::sync::Notify;

use crate::{
    disk::DynDisk,
    limits::{
        DISK_RESERVE_BYTES, WAL_CACHE_BYTES, WAL_MAX_PAYLOAD, WAL_MIN_SEGMENT_BYTES, WAL_SEAL_MS,
        WAL_SEGMENT_BYTES, WAL_SPARES, WAL_WRITE_BYTES,
    },
    store::StoreId,
    time::Instant,
};

pub(crate) mod codec;
mod error;
mod index;
mod pace;
mod queue;
mod read;
mod recover;
mod replay;
pub(crate) mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod view;
mod writer;

pub use error::WalError;
pub use pace::PACE_SECONDS;
pub use scan::{Damage, SegmentReport, ShardRange};
pub use view::LogView;

use pace::Pace;
use queue::State;

/// What an entry's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Nothing; a new leader's first entry.
    Blank,
    /// A batch of commands.
    Batch,
    /// A membership.
    Membership,
}

/// An entry of a shard's Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRecord {
    /// Index, term, leader.
    pub position: LogPosition,
    /// What the payload is.
    pub kind: EntryKind,
    /// Encoded by the caller; at most [`WAL_MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
}

/// A Raft vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRecord {
    /// The term voted in.
    pub term: u64,
    /// The node voted for.
    pub node: u64,
    /// A quorum granted it.
    pub committed: bool,
}

/// Called once, when the work is durable or has failed. Called by the writer task: it must be short and must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What the log knows of a shard; all of it as handed in, durable or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardLog {
    /// The last vote.
    pub vote: Option<VoteRecord>,
    /// The last committed position that was saved; never past the log's end after a restart.
    pub committed: Option<LogPosition>,
    /// Everything up to here was purged.
    pub purged: Option<LogPosition>,
    /// The last entry, or `purged`.
    pub last: Option<LogPosition>,
    /// Index of the first entry that is there, or of the next one.
    pub first_index: u64,
}

/// One synced write, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct WalWrite {
    /// Of write and sync together.
    pub duration: Duration,
    /// Bytes on disk.
    pub bytes: usize,
    /// Records of all kinds.
    pub records: usize,
}

/// Free space of the file system, as of the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Less than the reserve is left: the node should refuse writes of clients.
    pub low: bool,
}

/// How a WAL is opened.
#[derive(Clone)]
pub struct WalOptions {
    /// Whose segments these are; others are refused.
    pub store_id: StoreId,
    /// A random number from the runtime, new for each start: no two uses of a segment file may look alike.
    pub seed: u64,
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Bytes of payloads kept in memory; entries that are not yet written come on top.
    pub cache_bytes: usize,
    /// Bytes of records after which a write is closed.
    pub write_bytes: usize,
    /// Unused segment files that are kept allocated.
    pub spares: usize,
    /// Time without work after which the last write is sealed.
    pub seal_after: Duration,
    /// Free space below which [`Space::low`] is set.
    pub reserve_bytes: u64,
    /// Called when a write or sync has failed, before any callback; in production it logs and ends the process.
    pub on_fatal: Arc<dyn Fn(&io::Error) + Send + Sync>,
    /// Called after each synced write.
    pub on_write: Arc<dyn Fn(WalWrite) + Send + Sync>,
}

impl WalOptions {
    /// The defaults of [`crate::limits`], without metrics. `on_fatal` must not let the process go on as if nothing had happened.
    pub fn new(store_id: StoreId, seed: u64, on_fatal: Arc<dyn Fn(&io::Error) + Send + Sync>) -> Self {
        Self {
            store_id,
            seed,
            segment_bytes: WAL_SEGMENT_BYTES,
            cache_bytes: WAL_CACHE_BYTES,
            write_bytes: WAL_WRITE_BYTES,
            spares: WAL_SPARES,
            seal_after: Duration::from_millis(WAL_SEAL_MS),
            reserve_bytes: DISK_RESERVE_BYTES,
            on_fatal,
            on_write: Arc::new(|_| {}),
        }
    }

    /// The size of a normal segment: whole sectors, not too small.
    fn capacity(&self) -> u64 {
        self.segment_bytes
            .max(WAL_MIN_SEGMENT_BYTES)
            .next_multiple_of(codec::SECTOR as u64)
    }
}

impl fmt::Debug for WalOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalOptions")
            .field("store_id", &self.store_id)
            .field("segment_bytes", &self.segment_bytes)
            .finish_non_exhaustive()
    }
}

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// There was no segment at all: a new store, or one that has lost its log.
    pub fresh: bool,
    /// Segments that were read.
    pub segments: usize,
    /// Records that were read.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Shards with a state.
    pub shards: usize,
    /// Where an interrupted write was cut off: file and byte.
    pub torn: Option<(String, u64)>,
}

/// The node's log. Clones share it; the writer ends when the last is dropped.
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    /// Resolves when the writer has ended.
    stopped: future::Shared<oneshot::Receiver<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What callers and the writer share.
struct Shared {
    disk: DynDisk,
    options: WalOptions,
    state: parking_lot::Mutex<State>,
    /// Work has been queued.
    wake: Notify,
    free_bytes: AtomicU64,
    opened: Instant,
    pace: parking_lot::Mutex<Pace>,
}

impl Shared {
    fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    async fn look_at_space(&self) -> io::Result<()> {
        self.free_bytes
            .store(self.disk.free_bytes().await?, Ordering::Relaxed);
        Ok(())
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("options", &self.handle.shared.options)
            .finish_non_exhaustive()
    }
}

impl Wal {
    /// Recovers the log, makes the outcome durable and starts the writer task.
    pub async fn open(disk: DynDisk, options: WalOptions) -> Result<(Self, RecoveryReport), WalError> {
        let (shared, writer, report) = recover::recover(disk, options).await?;
        let (ended, stopped) = oneshot::channel();
        tokio::spawn(async move {
            writer.run().await;
            let _ = ended.send(());
        });
        let handle = Handle {
            shared,
            stopped: stopped.shared(),
        };
        Ok((
            Self {
                handle: Arc::new(handle),
            },
            report,
        ))
    }

    /// The shards that have a state.
    pub fn shards(&self) -> Vec<ShardId> {
        self.handle.shared.state.lock().index.shards().collect()
    }

    /// What is known of a shard; the default for one that was never heard of.
    pub fn shard(&self, shard: ShardId) -> ShardLog {
        self.handle
            .shared
            .state
            .lock()
            .index
            .get(shard)
            .map(index::ShardIndex::view)
            .unwrap_or_default()
    }

    /// The position of an entry, or of what was purged last if that is its index.
    pub fn position(&self, shard: ShardId, index: u64) -> Option<LogPosition> {
        self.handle.shared.state.lock().index.get(shard)?.position(index)
    }

    /// Adds entries that follow the last one. They can be read when this returns; `done` is called when they are durable. Never
    /// blocks. Entries that do not follow, or are too large, are refused with `InvalidInput` and change nothing.
    pub fn append(&self, shard: ShardId, entries: Vec<EntryRecord>, done: Done) {
        self.submit(done, |state, options, done| {
            if let Some(large) = entries.iter().find(|entry| entry.payload.len() > WAL_MAX_PAYLOAD) {
                let len = large.payload.len();
                let text = format!("an entry of {len} bytes; {WAL_MAX_PAYLOAD} are allowed");
                return Err((done, text));
            }
            state.append(shard, entries, options.write_bytes, done)
        });
    }

    /// Replaces the vote. Ordered with appends.
    pub fn save_vote(&self, shard: ShardId, vote: VoteRecord, done: Done) {
        self.submit(done, |state, _, done| {
            state.save_vote(shard, vote, done);
            Ok(())
        });
    }

    /// Remembers what is committed. It goes to disk with the next write, so after a crash an older value may be found.
    pub fn save_committed(&self, shard: ShardId, committed: Option<LogPosition>) {
        self.handle.shared.state.lock().save_committed(shard, committed);
    }

    /// Removes all entries after an index (`None`: all entries). Ordered with appends. Refused below what is purged.
    pub fn truncate_after(&self, shard: ShardId, last_kept_index: Option<u64>, done: Done) {
        self.submit(done, |state, _, done| {
            state.truncate_after(shard, last_kept_index, done)
        });
    }

    /// Removes all entries up to a position, which may be past the last one. They are gone from here at once, and from the disk
    /// some time after the next write.
    pub fn purge(&self, shard: ShardId, upto: LogPosition) {
        self.handle.shared.state.lock().purge(shard, upto);
        self.handle.shared.wake.notify_one();
    }

    /// Removes everything about a shard, its vote too.
    pub fn forget(&self, shard: ShardId, done: Done) {
        self.submit(done, |state, _, done| {
            state.forget(shard, done);
            Ok(())
        });
    }

    /// Entries of a range, in order, from the first that is there; as many as fit into `max_bytes` of payload, at least one if
    /// there is one. An entry that fails its checksum is an `InvalidData` error.
    pub async fn read(
        &self,
        shard: ShardId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> io::Result<Vec<EntryRecord>> {
        read::read(&self.handle.shared, shard, range, max_bytes).await
    }

    /// The index before the newest entries that together have at most `bytes`: what may be purged when that much is to be kept.
    pub fn index_before(&self, shard: ShardId, bytes: u64) -> u64 {
        let state = self.handle.shared.state.lock();
        state
            .index
            .get(shard)
            .map_or(0, |shard| shard.index_before(bytes))
    }

    /// Bytes of a shard's entries from an index on.
    pub fn bytes_from(&self, shard: ShardId, index: u64) -> u64 {
        let state = self.handle.shared.state.lock();
        state.index.get(shard).map_or(0, |shard| shard.bytes_from(index))
    }

    /// Bytes of all entries that were appended since the start or found at it. Only grows.
    pub fn appended_bytes(&self) -> u64 {
        self.handle.shared.state.lock().index.appended_bytes()
    }

    /// Bytes of entries that are neither purged nor truncated.
    pub fn unpurged_bytes(&self) -> u64 {
        self.handle.shared.state.lock().index.live_bytes()
    }

    /// How long a write takes with its sync, on an average of the last [`PACE_SECONDS`]; `None`: there was none.
    pub fn mean_write(&self) -> Option<Duration> {
        let shared = &self.handle.shared;
        shared.pace.lock().mean(shared.opened.elapsed())
    }

    /// Bytes of all segment files, those in reserve counted.
    pub fn total_bytes(&self) -> u64 {
        let state = self.handle.shared.state.lock();
        let spares = state.spares.len() as u64 * self.handle.shared.options.capacity();
        state
            .segments
            .values()
            .map(|in_use| in_use.segment.capacity)
            .sum::<u64>()
            + spares
    }

    /// Bytes of payload that wait to be written or are being written.
    pub fn queued_bytes(&self) -> usize {
        self.handle.shared.state.lock().queued_bytes
    }

    /// Free space as of the last look, which happens every few megabytes that are written.
    pub fn space(&self) -> Space {
        let free_bytes = self.handle.shared.free_bytes.load(Ordering::Relaxed);
        Space {
            free_bytes,
            low: free_bytes < self.handle.shared.options.reserve_bytes,
        }
    }

    /// Looks at the free space now, and allocates a spare segment if there is none. To be called every few seconds: while writes
    /// are refused nothing else would notice that there is space again.
    pub async fn refresh_space(&self) -> io::Result<Space> {
        self.handle.shared.look_at_space().await?;
        if !self.space().low {
            writer::keep_spare(&self.handle.shared);
        }
        Ok(self.space())
    }

    /// Writes what is queued, seals and ends the writer. Later work is refused.
    pub async fn shutdown(&self) {
        self.handle.shared.close();
        // An error means that the writer is gone already.
        let _ = self.handle.stopped.clone().await;
    }

    /// Runs a change under the lock and wakes the writer; refusals are told to `done` outside the lock.
    fn submit(
        &self,
        done: Done,
        change: impl FnOnce(&mut State, &WalOptions, Done) -> Result<(), (Done, String)>,
    ) {
        let shared = &self.handle.shared;
        let mut state = shared.state.lock();
        if let Some(refusal) = state.refusal() {
            drop(state);
            return done(Err(refusal));
        }
        let result = change(&mut state, &shared.options, done);
        drop(state);
        match result {
            Ok(()) => shared.wake.notify_one(),
            Err((done, text)) => done(Err(io::Error::new(io::ErrorKind::InvalidInput, text))),
        }
    }
}
