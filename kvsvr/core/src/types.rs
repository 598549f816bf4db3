//! The words of the state machine as types.

use std::fmt;

use bytes::Bytes;

/// A Raft group's number; 0 is the meta shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

/// The shard that holds the cluster's topology and settings.
pub const META_SHARD: ShardId = ShardId(0);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Counts the changes of a shard: +1 for each command that changes something.
pub type Revision = u64;

/// Unix milliseconds, stamped on an entry by the leader and made monotone by the state machine.
pub type StampMs = u64;

/// A place in the Raft log. Ordered by index in a valid log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Counts the entries of the log from 0 (the first membership).
    pub index: u64,
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Node id of that leader.
    pub node: u64,
}

/// The unit of atomicity and order: one user, one conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// 0 = local to the cluster.
    pub region: u16,
    /// 1..=256 bytes.
    pub name: Bytes,
}

impl Partition {
    /// A partition of region 0.
    pub fn local(name: impl Into<Bytes>) -> Self {
        Self {
            region: 0,
            name: name.into(),
        }
    }

    /// The slot, see [`kvsvr_proto::slot()`].
    pub fn slot(&self) -> u16 {
        kvsvr_proto::slot(self.region, &self.name)
    }
}
