//! Commands and their outcomes, as the state machine knows them.
//!
//! The wire and log form is protobuf, see [`codec`](crate::codec); the semantics of each operation are documented there, in
//! `proto/kvsvr/v1/{ops,log}.proto`.

use bytes::Bytes;

use crate::{
    error::Rejection,
    limits::{PAIR_OVERHEAD, RESULT_OVERHEAD},
    types::{Partition, Revision, StampMs},
};

/// One command of a log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What it acts on. Operations on the shard as a whole ignore it; it may then be of region 0 with an empty name.
    pub partition: Partition,
    /// Makes it apply once however often it is sent.
    pub session: Option<SessionSeq>,
    /// What to do.
    pub op: Op,
}

/// Identity of a command within a client's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSeq {
    /// The session, from [`OutcomeResult::Session`].
    pub session: u64,
    /// 1, 2, 3, ...; they may arrive in any order. 0 only with [`Op::SessionClose`].
    pub seq: u64,
    /// The client has the outcomes of all sequence numbers below this one; at most `seq`.
    pub acked_below: u64,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put {
        /// 1..=4096 bytes.
        key: Bytes,
        /// 0..=1 MiB.
        value: Bytes,
        /// Milliseconds until it expires; 0 = never.
        ttl_ms: u64,
        /// The lease to attach it to; 0 = none. Excludes `ttl_ms`.
        lease: u64,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Deletes the keys in [start, end).
    DeleteRange {
        /// First key; empty = from the partition's start.
        start: Bytes,
        /// End; empty = to the partition's end.
        end: Bytes,
    },
    /// Adds to the number at a key, keeping its TTL or lease.
    Increment {
        /// The key.
        key: Bytes,
        /// What to add.
        delta: i64,
    },
    /// Adds 1 to the number at `prefix` and puts `value` at `prefix` + that number.
    Append {
        /// The key of the counter.
        prefix: Bytes,
        /// The value.
        value: Bytes,
        /// Milliseconds until the value (not the counter) expires; 0 = never.
        ttl_ms: u64,
    },
    /// Several operations in one revision, on conditions.
    Txn(Txn),
    /// Opens a lease.
    LeaseGrant {
        /// 0 = the state machine chooses.
        id: u64,
        /// Milliseconds.
        ttl_ms: u64,
    },
    /// Extends a lease by its TTL.
    LeaseKeepAlive {
        /// The lease.
        id: u64,
    },
    /// Ends a lease; its keys go with it, in one revision.
    LeaseRevoke {
        /// The lease.
        id: u64,
    },
    /// Opens a session.
    SessionOpen,
    /// Closes the session that the command carries. Closing an unknown one does nothing.
    SessionClose,
    /// Creates a consumer or takes it over.
    ConsumerOpen {
        /// 1..=256 bytes.
        name: Bytes,
        /// For a new one: the first revision it wants; 0 = from now on.
        start_revision: Revision,
    },
    /// Moves a consumer's cursor forward.
    ConsumerAck {
        /// Which.
        name: Bytes,
        /// From the open that made the caller its owner.
        epoch: u64,
        /// Everything up to and including it is done.
        revision: Revision,
    },
    /// Removes a consumer.
    ConsumerDelete {
        /// Which.
        name: Bytes,
    },
    /// Sets a consumer's cursor and fences its owner.
    ConsumerReset {
        /// Which.
        name: Bytes,
        /// Everything up to and including it counts as done.
        revision: Revision,
    },
    /// Removes what has expired at min(up_to, the entry's stamp).
    Expire {
        /// Unix milliseconds.
        up_to_ms: StampMs,
    },
    /// Raises the floor, but not past the cursor of a consumer that it may not pass.
    Compact {
        /// The new floor.
        revision: Revision,
        /// Consumers whose cursor is below this may be passed, and lose events; 0 = none.
        pass_below: Revision,
    },
    /// A part of a backup, for a shard that was never used.
    Restore {
        /// Of all parts of a backup: a shard takes those of one only.
        backup: u64,
        /// 0, 1, 2, ...; parts that were applied already are not applied again.
        number: u64,
        /// See [`restore`](crate::restore).
        rows: Bytes,
        /// In the last part: the stored head row of the shard that was backed up.
        head: Option<Bytes>,
    },
}

/// Conditions on the state before it, and what to do when all of them hold, or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold; none = holds.
    pub compares: Vec<Compare>,
    /// Runs if they do.
    pub then_ops: Vec<TxnOp>,
    /// Runs if not.
    pub else_ops: Vec<TxnOp>,
}

/// An operation of a transaction; see [`Op`] for the fields. It sees what those before it did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of Op and Range")]
pub enum TxnOp {
    /// Reads a key.
    Get { key: Bytes, revision: Option<Revision> },
    /// Reads a range.
    Range(Range),
    /// Sets a key.
    Put {
        key: Bytes,
        value: Bytes,
        ttl_ms: u64,
        lease: u64,
    },
    /// Deletes a key.
    Delete { key: Bytes },
    /// Deletes a range.
    DeleteRange { start: Bytes, end: Bytes },
    /// Adds to a number.
    Increment { key: Bytes, delta: i64 },
    /// Appends a value.
    Append {
        prefix: Bytes,
        value: Bytes,
        ttl_ms: u64,
    },
}

impl TxnOp {
    /// True if it reads only.
    pub fn is_read(&self) -> bool {
        matches!(self, TxnOp::Get { .. } | TxnOp::Range(_))
    }
}

/// A range to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First key; empty = from the partition's start.
    pub start: Bytes,
    /// End, exclusive; empty = to the partition's end.
    pub end: Bytes,
    /// Keys at most; 0 = [`MAX_RANGE_KEYS`](crate::limits::MAX_RANGE_KEYS), which also bounds a greater one.
    pub limit: u32,
    /// From the end to the start.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// The state at this revision; `None` = the newest. (Encoded, 0 is the newest: revision 0, the empty state, cannot be asked for.)
    pub revision: Option<Revision>,
    /// From the answer before: go on where it ended, at its revision.
    pub continuation: Bytes,
}

/// A condition on one key. A missing key has the numbers 0, and no value: no comparison of its value holds (as in etcd).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// What is compared with what.
    pub target: CompareTarget,
    /// How.
    pub operator: CompareOperator,
}

/// What is compared, and the operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The value, as bytes.
    Value(Bytes),
    /// The version.
    Version(u64),
    /// The revision that created the key.
    CreateRev(Revision),
    /// The revision of the newest version.
    ModRev(Revision),
    /// Equal = the key exists, NotEqual = it does not.
    Exists,
}

/// How a target is compared with the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOperator {
    /// target == operand
    Equal,
    /// target != operand
    NotEqual,
    /// target < operand
    Less,
    /// target > operand
    Greater,
}

impl Compare {
    /// The key exists.
    pub fn exists(key: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            target: CompareTarget::Exists,
            operator: CompareOperator::Equal,
        }
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            target: CompareTarget::Exists,
            operator: CompareOperator::NotEqual,
        }
    }

    /// The newest version of the key is of this revision; 0 = it does not exist.
    pub fn mod_rev(key: impl Into<Bytes>, revision: Revision) -> Self {
        let target = CompareTarget::ModRev(revision);
        Self {
            key: key.into(),
            target,
            operator: CompareOperator::Equal,
        }
    }

    /// The key has this value.
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let target = CompareTarget::Value(value.into());
        Self {
            key: key.into(),
            target,
            operator: CompareOperator::Equal,
        }
    }
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The shard's revision after the command. A retried command gets that of the first time.
    pub revision: Revision,
    /// What came of it.
    pub result: OutcomeResult,
}

impl Outcome {
    /// Bytes that it counts for in the memory of apply.
    pub(crate) fn bytes(&self) -> usize {
        match &self.result {
            OutcomeResult::Txn(txn) => txn
                .results
                .iter()
                .map(|result| RESULT_OVERHEAD + result.pair_bytes())
                .sum(),
            OutcomeResult::Rejected(rejection) => rejection.message.len(),
            _ => 0,
        }
    }
}

impl TxnOpResult {
    /// Bytes of the pairs in it, each with its overhead.
    pub(crate) fn pair_bytes(&self) -> usize {
        match self {
            TxnOpResult::Get(kv) => kv.as_ref().map_or(0, KeyValue::bytes),
            TxnOpResult::Range(range) => range.kvs.iter().map(KeyValue::bytes).sum(),
            _ => 0,
        }
    }
}

impl KeyValue {
    /// Bytes that the pair counts for in an answer.
    pub(crate) fn bytes(&self) -> usize {
        self.key.len() + self.value.len() + PAIR_OVERHEAD
    }
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutcomeResult {
    /// Put.
    Put {
        /// The key's version after it.
        version: u64,
    },
    /// Delete, DeleteRange.
    Delete {
        /// Keys.
        deleted: u64,
    },
    /// Increment.
    Increment {
        /// After the addition.
        value: i64,
    },
    /// Append.
    Append {
        /// The value's number.
        seq: u64,
    },
    /// Txn.
    Txn(TxnResult),
    /// LeaseGrant, LeaseKeepAlive, LeaseRevoke.
    Lease {
        /// The lease.
        id: u64,
        /// Its TTL.
        ttl_ms: u64,
        /// Keys that went with a revoked one.
        deleted: u64,
    },
    /// SessionOpen, SessionClose.
    Session {
        /// The session.
        id: u64,
    },
    /// ConsumerOpen, -Ack, -Reset; -Delete: as it was.
    Consumer {
        /// Its epoch.
        epoch: u64,
        /// Its cursor.
        cursor: Revision,
    },
    /// Compact.
    Compact {
        /// The floor after it.
        floor: Revision,
    },
    /// Expire.
    Expire {
        /// Keys removed, those of leases counted.
        keys: u64,
        /// Leases ended.
        leases: u64,
        /// More is due: propose the next at once.
        more: bool,
    },
    /// Restore.
    Restore {
        /// The part that comes next.
        next: u64,
    },
    /// Any: it changed nothing.
    Rejected(Rejection),
}

/// The answer of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResult {
    /// The compares held, `then_ops` ran.
    pub succeeded: bool,
    /// One for each operation that ran.
    pub results: Vec<TxnOpResult>,
}

/// The answer of one operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in OutcomeResult")]
pub enum TxnOpResult {
    /// Get: the key, if it exists.
    Get(Option<KeyValue>),
    /// Range.
    Range(RangeResult),
    /// Put.
    Put { version: u64 },
    /// Delete, DeleteRange.
    Delete { deleted: u64 },
    /// Increment.
    Increment { value: i64 },
    /// Append.
    Append { seq: u64 },
}

/// The answer of a range read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// In the order of the range; fewer than asked for, even none, if there is more but the server has looked at much already.
    pub kvs: Vec<KeyValue>,
    /// Not empty if there is more: to be given with the same start and end for the next page.
    pub continuation: Bytes,
}

/// A key and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision of the put that created the key.
    pub create_rev: Revision,
    /// Revision of the put that wrote this version.
    pub mod_rev: Revision,
    /// Puts since the creation, that one counted.
    pub version: u64,
    /// The lease it is attached to; 0 = none.
    pub lease: u64,
    /// When it expires; 0 = never.
    pub expires_at: StampMs,
}
