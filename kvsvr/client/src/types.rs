//! The words of the API: partitions, read modes, options and results.

use std::{fmt, time::Duration};

use bytes::Bytes;
use kvsvr_proto::v1;

pub use kvsvr_proto::v1::KeyValue;

/// What belongs together: one user, one conversation. The unit of atomicity and order. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// 0 = local to the cluster.
    pub region: u16,
    /// 1..=256 bytes.
    pub name: Bytes,
}

impl Partition {
    /// A partition of region 0.
    pub fn local(name: impl Into<Bytes>) -> Self {
        Self::new(0, name)
    }

    /// A partition of a region.
    pub fn new(region: u16, name: impl Into<Bytes>) -> Self {
        Self {
            region,
            name: name.into(),
        }
    }

    /// The slot, which decides the shard; see [`kvsvr_proto::slot()`].
    pub fn slot(&self) -> u16 {
        kvsvr_proto::slot(self.region, &self.name)
    }

    /// The message.
    pub fn to_proto(&self) -> v1::Partition {
        v1::Partition {
            region: u32::from(self.region),
            name: self.name.clone(),
        }
    }

    /// From the message; `None` if the region is out of range.
    pub fn from_proto(partition: v1::Partition) -> Option<Self> {
        Some(Self {
            region: u16::try_from(partition.region).ok()?,
            name: partition.name,
        })
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.region != 0 {
            write!(f, "{}:", self.region)?;
        }
        write!(f, "{}", self.name.escape_ascii())
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Partition({self})")
    }
}

impl From<&'static str> for Partition {
    fn from(name: &'static str) -> Self {
        Self::local(name)
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Sees every write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// Sees the shard at this revision or a later one: read your own writes on any replica.
    AtLeast(u64),
    /// Sees every write that was acknowledged longer ago than this. Answered, with its age, while the shard has no leader.
    Bounded(Duration),
    /// Whatever the replica that is asked has.
    Local,
}

impl ReadMode {
    pub(crate) fn to_proto(self) -> v1::ReadMode {
        use v1::read_mode::Mode;
        let mode = match self {
            ReadMode::Linearizable => Mode::Linearizable(true),
            ReadMode::AtLeast(revision) => Mode::AtLeast(revision),
            ReadMode::Bounded(age) => Mode::MaxStalenessMs(crate::time::millis(age)),
            ReadMode::Local => Mode::Local(true),
        };
        v1::ReadMode { mode: Some(mode) }
    }
}

/// Which replica answers a read. Every replica gives every [`ReadMode`] its guarantee; this is about load and distance, and about looking
/// at one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// The leader: one hop for linearizable reads.
    #[default]
    Leader,
    /// The replica that has been answering fastest.
    Nearest,
    /// All replicas in turn.
    Any,
    /// The one on the node of this id, and no other: a read that it does not answer fails. Without a replica there: `NotReady`.
    Node(u64),
}

/// Options of a call. Set them on a handle with [`Client::with_options`](crate::Client::with_options), which is cheap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// Time that the call may take, all its tries together. Default: the client's `request_timeout`.
    pub timeout: Option<Duration>,
    /// Which replica answers reads. Default: the client's `read_from`.
    pub read_from: Option<ReadFrom>,
}

/// Options of [`Client::get_with`](crate::Client::get_with).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// How fresh.
    pub mode: ReadMode,
    /// At this revision of the shard; 0 = newest.
    pub revision: u64,
}

impl From<ReadMode> for GetOptions {
    fn from(mode: ReadMode) -> Self {
        Self { mode, revision: 0 }
    }
}

/// The keys that a range read returns, and in which form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeOptions {
    /// First key, inclusive.
    pub start: Bytes,
    /// End, exclusive; empty = to the end of the partition.
    pub end: Bytes,
    /// Keys of one page; 0 = the server's limit.
    pub limit: u32,
    /// From the end to the start.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// At this revision of the shard; 0 = newest.
    pub revision: u64,
    /// Where the previous page stopped; start, end and reverse must be the same as then.
    pub continuation: Bytes,
    /// How fresh.
    pub mode: ReadMode,
}

impl RangeOptions {
    /// All keys of the partition.
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys in [start, end).
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self {
            start: start.into(),
            end: end.into(),
            ..Self::default()
        }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self {
            start,
            end,
            ..Self::default()
        }
    }

    /// Keys of one page.
    pub fn limit(self, limit: u32) -> Self {
        Self { limit, ..self }
    }

    /// From the end to the start.
    pub fn reverse(self) -> Self {
        Self {
            reverse: true,
            ..self
        }
    }

    /// Leaves the values out.
    pub fn keys_only(self) -> Self {
        Self {
            keys_only: true,
            ..self
        }
    }

    /// At this revision of the shard.
    pub fn revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// How fresh.
    pub fn mode(self, mode: ReadMode) -> Self {
        Self { mode, ..self }
    }

    /// The message.
    pub fn to_proto(&self) -> v1::Range {
        v1::Range {
            start: self.start.clone(),
            end: self.end.clone(),
            limit: self.limit,
            reverse: self.reverse,
            keys_only: self.keys_only,
            revision: self.revision,
            continuation: self.continuation.clone(),
        }
    }
}

/// The smallest key that is greater than all keys with this prefix; empty if there is none, which in a range means "to the end".
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|b| *b != 0xFF) else {
        return Bytes::new();
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

/// How long a key lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Deleted after this time, in milliseconds' precision.
    pub ttl: Option<Duration>,
    /// Deleted when this lease ends; excludes `ttl`.
    pub lease: Option<u64>,
}

impl PutOptions {
    /// Deleted after this time.
    pub fn ttl(ttl: Duration) -> Self {
        Self {
            ttl: Some(ttl),
            lease: None,
        }
    }

    /// Deleted when this lease ends.
    pub fn lease(lease: u64) -> Self {
        Self {
            ttl: None,
            lease: Some(lease),
        }
    }
}

/// What a read saw, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// The shard's revision at which it was read.
    pub revision: u64,
    /// `Bounded` and `Local` reads: how old the state may be. Zero for the other modes.
    pub age: Duration,
}

/// One page of a range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the order of the request.
    pub kvs: Vec<KeyValue>,
    /// Where the next page goes on; empty if this was the last.
    pub continuation: Bytes,
}

/// The answer to a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutReply {
    /// The shard's revision after it.
    pub revision: u64,
    /// The key's version after it: 1 for a new key.
    pub version: u64,
}

/// The answer to a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteReply {
    /// The shard's revision after it.
    pub revision: u64,
    /// Keys deleted.
    pub deleted: u64,
}

/// The answer to an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncrementReply {
    /// The shard's revision after it.
    pub revision: u64,
    /// The number after the addition.
    pub value: i64,
}

/// The answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// The shard's revision after it.
    pub revision: u64,
    /// The value's sequence number: 1, 2, 3, ... under one prefix.
    pub seq: u64,
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseReply {
    /// Its id within the shard.
    pub id: u64,
    /// Its time to live.
    pub ttl: Duration,
    /// Revoked: keys that went with it.
    pub deleted: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends() {
        for (prefix, end) in [
            (&b"a"[..], &b"b"[..]),
            (b"a\xff", b"b"),
            (b"a\xff\xff", b"b"),
            (b"", b""),
            (b"\xff", b""),
            (b"ab", b"ac"),
            (b"\0", b"\x01"),
        ] {
            assert_eq!(prefix_end(prefix), end, "{}", prefix.escape_ascii());
        }
    }

    #[test]
    fn partitions_print_readably() {
        assert_eq!(Partition::local("alice").to_string(), "alice");
        assert_eq!(Partition::new(7, "a\nb").to_string(), "7:a\\nb");
    }
}
