//! The types that openraft is instantiated with.

use std::fmt;

use bytes::Bytes;
use kvsvr_core::command::Outcome;

/// Who a node is, as stored in the membership: a node whose store id differs is not this member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNode {
    /// HOST:PORT that other nodes reach it at.
    pub address: String,
    /// The identity of its data directory.
    pub store_id: String,
    /// Which of the node's replicas of the shard: one that was destroyed and made anew is another member, for it knows nothing of what the
    /// first one promised.
    pub incarnation: u64,
}

impl fmt::Display for PeerNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)
    }
}

/// The payload of a log entry: an encoded `EntryBatch` of kvsvr-core. Cloning shares the buffer.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch(pub Bytes);

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.0.len())
    }
}
impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

/// One outcome for each command of the batch; empty for other entries.
pub type Replies = Vec<Outcome>;

openraft::declare_raft_types!(
    /// kvsvr's instance of openraft.
    pub TypeConfig:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = PeerNode,
        AsyncRuntime = super::runtime::Runtime,
);

pub(crate) use openraft::type_config::alias as of;

/// Log id.
pub type LogId = of::LogIdOf<TypeConfig>;
/// Vote.
pub type Vote = of::VoteOf<TypeConfig>;
/// Log entry.
pub type Entry = of::EntryOf<TypeConfig>;
/// Membership with the position of its entry.
pub type StoredMembership = of::StoredMembershipOf<TypeConfig>;
/// Membership.
pub type Membership = openraft::Membership<u64, PeerNode>;
