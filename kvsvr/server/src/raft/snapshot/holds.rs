//! How far the log is kept for members that are being sent a snapshot.
//!
//! A member goes on from the log behind its snapshot. Were that log purged while the snapshot is on its way, the member would need
//! the next snapshot at once, and under steady writes one after the other.

use std::collections::BTreeMap;

use kvsvr_core::types::ShardId;
use parking_lot::Mutex;

use crate::{limits::SNAPSHOT_PATIENCE, time::Instant};

/// By shard and receiving node. An entry outlives its transfer a little: Raft learns that a snapshot is installed, or tries again,
/// only after the transfer has ended.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<BTreeMap<(ShardId, u64), Hold>>);

#[derive(Debug)]
struct Hold {
    /// The last log index that the snapshot contains.
    index: u64,
    /// When the receiver was heard of last.
    heard: Instant,
}

impl Holds {
    /// A snapshot that contains the log up to `index` is on its way to the node.
    pub(super) fn begin(&self, shard: ShardId, target: u64, index: u64) {
        let heard = Instant::now();
        let mut holds = self.0.lock();
        holds.retain(|_, hold| hold.heard.elapsed() < SNAPSHOT_PATIENCE);
        holds.insert((shard, target), Hold { index, heard });
    }

    /// The node has given a sign of life.
    pub(super) fn heard(&self, shard: ShardId, target: u64) {
        if let Some(hold) = self.0.lock().get_mut(&(shard, target)) {
            hold.heard = Instant::now();
        }
    }

    /// The last log index that the node need not be sent as log. `None` if there is no transfer, or it makes no progress.
    pub(super) fn index(&self, shard: ShardId, target: u64) -> Option<u64> {
        let holds = self.0.lock();
        let hold = holds.get(&(shard, target))?;
        (hold.heard.elapsed() < SNAPSHOT_PATIENCE).then_some(hold.index)
    }
}
