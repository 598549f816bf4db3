//! Snapshot transfer: a shard's key ranges in checksummed chunks, resumable from either side.
//!
//! A snapshot is the engine's last flush, kept as a *checkpoint* under a name (hard links in RocksDB: no copy is made). Because
//! the checkpoint survives a restart of the sender and the received chunks survive one of the receiver, a transfer that was
//! interrupted goes on where it stopped. The receiver stages all chunks in a file before it touches the shard, then installs them
//! under a marker, so that a crash in the middle is repaired by installing again at the next start.
//!
//! Dialogue on one stream (`Class::Bulk`, so replication never waits for it): the sender offers without naming a snapshot; the
//! receiver answers which transfer it has begun and how far it got; the sender offers that one again, or a new one; then chunks
//! and acknowledgements; after the last chunk the receiver installs and answers with its vote. Whatever takes the receiver long, it
//! says in between that it is busy, so that a slow receiver is told from a dead one.
//!
//! Nothing here blocks an async thread: checkpoints, and the engine's writes of an installation, run on threads that may block.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvsvr_core::{
    engine::{Cf, Engine, EngineError, EngineRead, Scan},
    read::shard_head,
    types::ShardId,
};
use openraft::storage::SnapshotMeta;
use openraft_rt::AsyncRuntime;
use parking_lot::Mutex;

use super::{
    convert,
    runtime::Runtime,
    types::{TypeConfig, of},
};

pub(crate) mod chunk;
mod holds;
mod receiver;
mod sender;
mod source;
mod staged;

pub use self::{
    receiver::SnapshotReceiver,
    sender::SnapshotSender,
    staged::{Staged, free_staging},
};

/// What openraft carries from the builder to the network, and from the network to the state machine.
#[derive(Debug)]
pub enum SnapshotData {
    /// The local engine's durable state; turned into a checkpoint when it is sent.
    Local,
    /// Chunks staged by [`SnapshotReceiver`], complete and verified.
    Staged(Staged),
}

/// openraft's snapshot with our data.
pub type Snapshot = of::SnapshotOf<TypeConfig, SnapshotData>;
type Meta = of::SnapshotMetaOf<TypeConfig>;

/// Named, durable views of the engine's flushed state.
pub trait Checkpoints: Send + Sync + 'static {
    /// Makes one. Blocks. An existing one of that name is an error.
    fn create(&self, name: &str) -> Result<(), EngineError>;
    /// Opens one for reading, if it is there. Blocks.
    fn open(&self, name: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError>;
    /// Removes one, if it is there. Blocks.
    fn remove(&self, name: &str) -> Result<(), EngineError>;
    /// The names of all.
    fn list(&self) -> Result<Vec<String>, EngineError>;
}

/// The durable state of an engine, for reads of single keys.
pub struct Durable<'a>(pub &'a dyn Engine);

impl EngineRead for Durable<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get_durable(cf, key)
    }
    fn scan(&self, _: Cf, _: Scan<'_>, _: kvsvr_core::engine::Visit<'_>) -> Result<(), EngineError> {
        Err(EngineError::Io("the durable state has no scans".into()))
    }
}

/// The snapshot meta of a state: its applied position and membership. `None` if nothing was applied yet.
pub fn meta_of(engine: &dyn EngineRead, shard: ShardId) -> Result<Option<Meta>, std::io::Error> {
    let head = shard_head(engine, shard).map_err(std::io::Error::other)?;
    let Some(applied) = head.applied else {
        return Ok(None);
    };
    let last_membership =
        convert::decode_stored_membership(&head.membership).map_err(std::io::Error::other)?;
    Ok(Some(SnapshotMeta {
        last_log_id: Some(convert::log_id(applied)),
        last_membership,
    }))
}

/// Why a transfer failed; it is tried again later.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The network or the peer.
    #[error("snapshot transfer: {0}")]
    Peer(String),
    /// The local engine.
    #[error("snapshot source: {0}")]
    Engine(#[from] EngineError),
    /// The local disk.
    #[error("snapshot staging: {0}")]
    Io(#[from] std::io::Error),
    /// The disk has no room for the snapshot.
    #[error(
        "snapshot staging: the disk has {free_mib} MiB free, and the snapshot needs {needed_mib} MiB with the reserve; free space or add \
         disk, it is sent again by itself"
    )]
    Space {
        /// Bytes that can be written now, in MiB.
        free_mib: u64,
        /// Bytes for what is not staged yet, for the installation, and for the reserve, in MiB.
        needed_mib: u64,
    },
    /// What was received and checked is not any more what it was.
    #[error("snapshot staging: {path} is incomplete or damaged at byte {byte}; {then}")]
    Damaged {
        /// Relative to the data directory.
        path: String,
        /// Where the first frame starts that is not valid.
        byte: u64,
        /// What happens then.
        then: &'static str,
    },
}

impl TransferError {
    /// The disk is full, or is so with the reserve counted.
    fn is_space(&self) -> bool {
        match self {
            Self::Space { .. } => true,
            Self::Io(error) => error.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// Runs work that blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    Runtime::spawn_blocking(work).await?
}

fn peer(error: impl ToString) -> TransferError {
    TransferError::Peer(error.to_string())
}

/// What is being transferred, for status.
#[derive(Debug, Default)]
pub struct TransferStatus(Mutex<BTreeMap<ShardId, String>>);

impl TransferStatus {
    fn set(&self, shard: ShardId, text: Option<String>) {
        let mut map = self.0.lock();
        match text {
            Some(text) => map.insert(shard, text),
            None => map.remove(&shard),
        };
    }
    /// One line for a shard; empty if nothing is going on.
    pub fn get(&self, shard: ShardId) -> String {
        self.0.lock().get(&shard).cloned().unwrap_or_default()
    }
}
