//! Recovery of a quorum that is lost for good: `kvsvr recover collect`, `plan`, `apply`, on the files of stopped nodes.
//!
//! When so many machines are gone that a shard has no majority left, nobody can tell any more which entries of its log were acknowledged: they may
//! have been on the lost machines only. So this is unsafe, and only on an operator's word. Of each such shard the survivor with the most advanced
//! log becomes the only voter; the others' replicas are destroyed, as those are that were moved away. What the survivor has, all of it, is
//! the shard from then on. (CockroachDB's `debug recover` does the same, with the same three steps.)
//!
//! ```text
//! collect   reads one node's files; a file with what its replicas are              changes nothing
//! plan      pure: all these files in; what is lost, who is chosen, and a plan out
//! apply     makes the plan true in one node's files, if they are as collected      writes
//! ```
//!
//! # Why it is right
//! *The chosen log has all that any survivor knows to be committed.* It is the greatest by term, then index, and a log whose last entry is of a
//! later term, or of the same one and not shorter, has every entry that was committed in another (Raft's leader completeness). So nothing
//! that a survivor has applied is taken back.
//!
//! *The new group is not mixed up with the old one.* The entry that makes the survivor the only voter is of a term that is greater by
//! [`RECOVERY_TERMS`](crate::limits::RECOVERY_TERMS) than any that was seen, which leaves room for what lost nodes may have gone through unseen. A
//! lost node that comes back all the same is no member, its log is behind by its term, so no survivor votes for it or takes entries of it. Once the
//! recovered meta shard reaches it, it follows the new map (`Node::note_incarnation`) and gives up what it had.
//! A majority of the old group that comes back together would serve the old state, to whoever asks it: that nothing here can prevent.
//!
//! *What is left to commit is committed.* The single voter elects itself and writes a blank entry, which commits all that is before it.
//!
//! # What it does not do
//! It starts nothing, asks no other node, and changes neither the shard map nor the state of any shard: the placement controller has the map
//! follow ([`controller`](crate::controller)), and replicas come back with the ordinary operations on members.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use kvsvr_core::types::LogPosition;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    store::{StoreError, StoreId},
    wal::{VoteRecord, WalError},
};

mod apply;
mod collect;
mod file;
mod plan;
mod table;
#[cfg(test)]
mod tests;

pub use self::{
    apply::{Action, StoppedNode},
    collect::collect,
    file::{read, write},
    plan::{Fate, Findings, Plan, Recovery, plan},
};

/// A place in a shard's log, as files have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// That leader.
    pub node: u64,
    /// Index in the log. The order of positions is by term, then leader, then index: which of two logs is more advanced.
    pub index: u64,
}

impl From<LogPosition> for Position {
    fn from(LogPosition { index, term, node }: LogPosition) -> Self {
        Self { term, node, index }
    }
}

impl From<Position> for LogPosition {
    fn from(Position { term, node, index }: Position) -> Self {
        Self { index, term, node }
    }
}

/// A vote, as files have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The term voted in.
    pub term: u64,
    /// The node voted for.
    pub node: u64,
    /// A quorum granted it.
    pub committed: bool,
}

impl From<VoteRecord> for Vote {
    fn from(
        VoteRecord {
            term,
            node,
            committed,
        }: VoteRecord,
    ) -> Self {
        Self {
            term,
            node,
            committed,
        }
    }
}

/// A member of a group, as files have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// HOST:PORT.
    pub address: String,
    /// Its data directory.
    pub store_id: String,
    /// Which of the node's replicas of the shard.
    pub incarnation: u64,
}

/// The newest membership in a replica's log, committed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Its entry.
    pub position: Option<Position>,
    /// The voters: one set, or two while they change.
    pub voters: Vec<BTreeSet<u64>>,
    /// All members, those that do not vote too.
    pub nodes: BTreeMap<u64, Peer>,
}

/// One replica of a stopped node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Which of the node's replicas of the shard.
    pub incarnation: u64,
    /// Who its group is.
    pub members: Members,
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last entry of its log, or of what it has applied.
    pub last: Option<Position>,
    /// What it knows to be committed.
    pub committed: Option<Position>,
    /// What its engine has flushed.
    pub applied: Option<Position>,
    /// The shard's newest revision when all that is known to be committed is applied.
    pub revision: u64,
}

/// The shard map as a node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// The map's epoch.
    pub epoch: u64,
    /// HOST:PORT of each node that was not removed.
    pub nodes: BTreeMap<u64, String>,
    /// The voters of each shard.
    pub shards: BTreeMap<u32, Vec<u64>>,
}

/// What was collected of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// The cluster's id, 16 hex digits.
    pub cluster_id: String,
    /// The cluster's name; empty if this node does not know it.
    pub cluster_name: String,
    /// The node.
    pub node_id: u64,
    /// Its data directory.
    pub store_id: StoreId,
    /// By shard.
    pub replicas: BTreeMap<u32, Replica>,
    /// `None` if it has none.
    pub map: Option<Map>,
}

/// Why a step of a recovery is not taken. Each begins with a code that does not change.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// The data directory.
    #[error("DATA_REFUSED: {0}")]
    Store(#[from] StoreError),
    /// The log.
    #[error("LOG_REFUSED: {0}")]
    Wal(#[from] WalError),
    /// Something stored cannot be read or written.
    #[error("STORAGE_FAILED: {0}")]
    Storage(String),
    /// The directory belongs to no cluster.
    #[error(
        "NO_MEMBER: the data directory {0} belongs to no node of a cluster: there is nothing to recover in it"
    )]
    NoMember(String),
    /// A snapshot was being installed.
    #[error(
        "HALF_INSTALLED: shard {0}: a snapshot was being installed when this node stopped. Start the node until it says that it serves, which ends the installation, stop \
         it, and collect again"
    )]
    HalfInstalled(u32),
    /// A file of an earlier step cannot be used.
    #[error("BAD_FILE: {path}: {detail}")]
    BadFile {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// Files that do not belong together.
    #[error("OTHER_CLUSTER: {0}")]
    OtherCluster(String),
    /// Two files of one node.
    #[error(
        "SAME_NODE: node {0} is in two of the files. Give one file of each survivor, the one that was collected last"
    )]
    SameNode(u64),
    /// There is nothing to do.
    #[error(
        "NOTHING_LOST: every shard has a majority of its voters among these nodes: start them, and give the places of lost nodes to new ones (kvctl member replace)"
    )]
    NothingLost,
    /// Shards without any replica left.
    #[error(
        "NO_SURVIVOR: of shard {} no replica is left on these nodes: it is lost, and this recovery is for clusters that have something of every shard. Collect from all \
         nodes that are left; if there is no other, make a new cluster from a backup (kvctl snapshot restore)", numbers(.0)
    )]
    NoSurvivor(Vec<u32>),
    /// The node is not in the plan.
    #[error("NOT_PLANNED: node {0} is not in this plan: collect from it too, and plan again with all files")]
    NotPlanned(u64),
    /// The node is another than it was.
    #[error(
        "STATE_CHANGED: shard {shard}: {what}: this node is not as it was when it was collected, it has run since. Stop all nodes, collect again from each, and make a new \
         plan"
    )]
    StateChanged {
        /// The shard.
        shard: u32,
        /// What is another.
        what: String,
    },
}

impl From<io::Error> for RecoverError {
    fn from(error: io::Error) -> Self {
        Self::Storage(error.to_string())
    }
}

impl RecoverError {
    fn storage(error: impl ToString) -> Self {
        Self::Storage(error.to_string())
    }
}

/// `1, 2`.
fn numbers<T: ToString>(of: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = of.into_iter().map(|number| number.to_string()).collect();
    all.join(", ")
}
