//! The storage that the state machine is kept in: ordered column families, atomic batches, snapshots.
//!
//! RocksDB in production (`kvsvr` crate), [`MemEngine`](crate::mem::MemEngine) in tests and in the simulator. The state machine only reads through
//! [`EngineRead`]; its writes leave it as a [`WriteBatch`] that the host writes.

use std::ops::ControlFlow;

use bytes::Bytes;
use thiserror::Error;
use twox_hash::XxHash3_64;

use crate::rows::Retired;

/// A column family. Keys begin with the shard, so that a shard is a range of each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cf {
    /// Newest version of each key.
    Data,
    /// Older versions and tombstones.
    Hist,
    /// The change log: revisions and the keys they touched.
    Log,
    /// What expires, ordered by time.
    Ttl,
    /// Applied position, membership, revision, floor, leases, sessions, consumers.
    State,
}

impl Cf {
    /// All column families, in the order of their numbers.
    pub const ALL: [Cf; 5] = [Cf::Data, Cf::Hist, Cf::Log, Cf::Ttl, Cf::State];

    /// The persistent name.
    pub fn name(self) -> &'static str {
        match self {
            Cf::Data => "data",
            Cf::Hist => "hist",
            Cf::Log => "log",
            Cf::Ttl => "ttl",
            Cf::State => "state",
        }
    }
}

/// A read or write of the engine failed; the replica cannot go on with it.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Stored bytes do not match their checksum.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// Anything else that the storage said.
    #[error("storage: {0}")]
    Io(String),
}

/// What a scan calls for each pair, in order.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Keys in [start, end); an empty end means to the end of the column family.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// First key, inclusive.
    pub start: &'a [u8],
    /// End, exclusive.
    pub end: &'a [u8],
    /// From the end to the start.
    pub reverse: bool,
}

/// Reads of one consistent state: each call sees the newest written batch, a snapshot always the same.
pub trait EngineRead {
    /// The value of a key.
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// A hash of the key by which it can be found in a table. What it is must have no effect on anything else: it differs between nodes.
    fn hash(&self, key: &[u8]) -> u64 {
        XxHash3_64::oneshot(key)
    }

    /// Calls `visit` for each pair of the range until it breaks. One scan sees one state.
    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError>;
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(Cf, Bytes, Bytes),
    /// Removes a key, if it is there.
    Delete(Cf, Bytes),
    /// Removes the keys in [start, end); an empty end means to the end of the column family.
    DeleteRange(Cf, Bytes, Bytes),
    /// Adds the history row of a version that is no longer the newest, as [`Write::Put`] of [`Retired::encode`] would. No other write
    /// may concern that row. Cheapest right behind the write that replaced the version: an engine may keep the two together.
    Retire(Retired),
}

impl Write {
    /// Sets or removes a row, which is copied.
    pub fn copied((cf, key, value): RowRef<'_>) -> Self {
        let key = Bytes::copy_from_slice(key);
        match value {
            Some(value) => Write::Put(cf, key, Bytes::copy_from_slice(value)),
            None => Write::Delete(cf, key),
        }
    }
}

/// A key's newest value, borrowed; no value = it is deleted.
pub type RowRef<'a> = (Cf, &'a [u8], Option<&'a [u8]>);

/// Gives all of some rows to its argument, one after the other, by column family and key.
pub type EachRow<'a> = &'a dyn Fn(&mut dyn FnMut(RowRef<'_>));

/// Changes that become visible and durable together, applied in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// In the order in which they apply.
    pub writes: Vec<Write>,
}

impl WriteBatch {
    /// Sets a key.
    pub fn put(&mut self, cf: Cf, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push(Write::Put(cf, key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, cf: Cf, key: impl Into<Bytes>) {
        self.writes.push(Write::Delete(cf, key.into()));
    }

    /// Removes the keys in [start, end).
    pub fn delete_range(&mut self, cf: Cf, start: impl Into<Bytes>, end: impl Into<Bytes>) {
        self.writes.push(Write::DeleteRange(cf, start.into(), end.into()));
    }
}

/// A consistent view that does not change.
pub trait EngineSnapshot: EngineRead + Send {}

/// The storage of all shards of a node.
pub trait Engine: EngineRead + Send + Sync + 'static {
    /// Writes the batch atomically. It is visible when this returns, and durable after the next [`Engine::flush`].
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError>;

    /// Like [`Engine::write`], for many rows that the caller keeps: of different keys, by column family and key. `bytes`: about how many they have.
    fn write_rows(&self, rows: EachRow<'_>, bytes: usize) -> Result<(), EngineError> {
        let _ = bytes;
        let mut writes = Vec::new();
        rows(&mut |row| writes.push(Write::copied(row)));
        self.write(WriteBatch { writes })
    }

    /// The present state.
    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_>;

    /// Makes everything written so far durable, all column families together. Blocks.
    fn flush(&self) -> Result<(), EngineError>;

    /// Like [`EngineRead::get`], but of the durable state: what a crash now would leave.
    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Tells the engine that rows for which [`is_garbage`](crate::keys::is_garbage) holds at this shard's floor may be dropped,
    /// whenever it likes. The floor given must be durable, and it only grows; 0 says that all rows of the shard are gone, and with them its floor.
    ///
    /// A snapshot keeps what it shows: a row may be dropped only if it is garbage at the floor that was set when the oldest open
    /// snapshot was made. (A reader takes revision and floor from its snapshot and then reads history above that older floor.)
    fn set_garbage_floor(&self, shard: crate::types::ShardId, floor: crate::types::Revision);
}
