//! Transactions: compares on the state before, then one of two lists of operations, atomically within one partition.

use std::time::Duration;

use bytes::Bytes;
use kvsvr_proto::v1::{self, compare, txn_op, txn_op_result};

use crate::{
    error::{Error, Result},
    types::{KeyValue, Page, PutOptions, RangeOptions},
};

/// A condition on one key. A key that does not exist has version, create_rev and mod_rev 0 and no value.
///
/// ```
/// use kvsvr_client::Compare;
/// let fresh = Compare::version("name").equals(0);
/// let unchanged = Compare::value("name").equals("alice");
/// let there = Compare::exists("name");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(pub(crate) v1::Compare);

/// The left side of a compare with a number.
#[derive(Clone, Debug)]
pub struct CompareNumber(v1::Compare);

/// The left side of a compare with a value.
#[derive(Clone, Debug)]
pub struct CompareValue(v1::Compare);

fn target(key: impl Into<Bytes>, target: compare::Target) -> v1::Compare {
    v1::Compare {
        key: key.into(),
        target: target.into(),
        ..v1::Compare::default()
    }
}

impl Compare {
    /// The key's version: puts since it was created.
    pub fn version(key: impl Into<Bytes>) -> CompareNumber {
        CompareNumber(target(key, compare::Target::Version))
    }

    /// The revision that created the key.
    pub fn create_rev(key: impl Into<Bytes>) -> CompareNumber {
        CompareNumber(target(key, compare::Target::CreateRev))
    }

    /// The revision that changed the key last.
    pub fn mod_rev(key: impl Into<Bytes>) -> CompareNumber {
        CompareNumber(target(key, compare::Target::ModRev))
    }

    /// The key's value.
    pub fn value(key: impl Into<Bytes>) -> CompareValue {
        CompareValue(target(key, compare::Target::Value))
    }

    /// The key exists.
    pub fn exists(key: impl Into<Bytes>) -> Compare {
        Self::existence(key, compare::Operator::Equal)
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Compare {
        Self::existence(key, compare::Operator::NotEqual)
    }

    fn existence(key: impl Into<Bytes>, operator: compare::Operator) -> Compare {
        Compare(v1::Compare {
            operator: operator.into(),
            ..target(key, compare::Target::Exists)
        })
    }
}

impl CompareNumber {
    fn with(self, operator: compare::Operator, number: u64) -> Compare {
        Compare(v1::Compare {
            operator: operator.into(),
            number,
            ..self.0
        })
    }

    /// It is this number.
    pub fn equals(self, number: u64) -> Compare {
        self.with(compare::Operator::Equal, number)
    }

    /// It is another number.
    pub fn not_equals(self, number: u64) -> Compare {
        self.with(compare::Operator::NotEqual, number)
    }

    /// It is less.
    pub fn less(self, number: u64) -> Compare {
        self.with(compare::Operator::Less, number)
    }

    /// It is greater.
    pub fn greater(self, number: u64) -> Compare {
        self.with(compare::Operator::Greater, number)
    }
}

impl CompareValue {
    fn with(self, operator: compare::Operator, value: impl Into<Bytes>) -> Compare {
        Compare(v1::Compare {
            operator: operator.into(),
            value: value.into(),
            ..self.0
        })
    }

    /// It is this value.
    pub fn equals(self, value: impl Into<Bytes>) -> Compare {
        self.with(compare::Operator::Equal, value)
    }

    /// It is another value.
    pub fn not_equals(self, value: impl Into<Bytes>) -> Compare {
        self.with(compare::Operator::NotEqual, value)
    }

    /// It sorts before this value.
    pub fn less(self, value: impl Into<Bytes>) -> Compare {
        self.with(compare::Operator::Less, value)
    }

    /// It sorts after this value.
    pub fn greater(self, value: impl Into<Bytes>) -> Compare {
        self.with(compare::Operator::Greater, value)
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Op(pub(crate) txn_op::Op);

impl Op {
    /// Reads a key.
    pub fn get(key: impl Into<Bytes>) -> Op {
        Op(txn_op::Op::Get(v1::Get {
            key: key.into(),
            revision: 0,
        }))
    }

    /// Reads a range; its mode is the transaction's. With a revision or a continuation it goes with [`Client::txn_read`] only.
    ///
    /// [`Client::txn_read`]: crate::Client::txn_read
    pub fn range(range: &RangeOptions) -> Op {
        Op(txn_op::Op::Range(range.to_proto()))
    }

    /// Sets a key.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
        Self::put_with(key, value, PutOptions::default())
    }

    /// Sets a key that does not live for ever.
    pub fn put_with(key: impl Into<Bytes>, value: impl Into<Bytes>, options: PutOptions) -> Op {
        Op(txn_op::Op::Put(put(key.into(), value.into(), options)))
    }

    /// Deletes a key, if it is there.
    pub fn delete(key: impl Into<Bytes>) -> Op {
        Op(txn_op::Op::Delete(v1::Delete { key: key.into() }))
    }

    /// Deletes the keys in [start, end); an empty end means to the end of the partition.
    pub fn delete_range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Op {
        Op(txn_op::Op::DeleteRange(v1::DeleteRange {
            start: start.into(),
            end: end.into(),
        }))
    }

    /// Adds to a number.
    pub fn increment(key: impl Into<Bytes>, delta: i64) -> Op {
        Op(txn_op::Op::Increment(v1::Increment {
            key: key.into(),
            delta,
        }))
    }

    /// Appends a value under a prefix.
    pub fn append(prefix: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
        Self::append_with_ttl(prefix, value, Duration::ZERO)
    }

    /// Appends a value under a prefix that is deleted after a time.
    pub fn append_with_ttl(prefix: impl Into<Bytes>, value: impl Into<Bytes>, ttl: Duration) -> Op {
        let ttl_ms = crate::time::millis(ttl);
        Op(txn_op::Op::Append(v1::Append {
            prefix: prefix.into(),
            value: value.into(),
            ttl_ms,
        }))
    }

    fn is_read(&self) -> bool {
        matches!(self.0, txn_op::Op::Get(_) | txn_op::Op::Range(_))
    }
}

/// The message of a put.
pub(crate) fn put(key: Bytes, value: Bytes, options: PutOptions) -> v1::Put {
    let ttl_ms = options.ttl.map_or(0, crate::time::millis);
    v1::Put {
        key,
        value,
        ttl_ms,
        lease: options.lease.unwrap_or(0),
    }
}

/// A transaction: if all compares hold, the `then` operations run, otherwise the `or_else` operations.
///
/// ```
/// use kvsvr_client::{Compare, Op, Txn};
/// let txn = Txn::new()
///     .when(Compare::version("name").equals(0))
///     .then(Op::put("name", "alice"))
///     .or_else(Op::get("name"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Txn {
    compares: Vec<Compare>,
    then_ops: Vec<Op>,
    else_ops: Vec<Op>,
}

impl Txn {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more condition.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// One more operation for when all conditions hold.
    pub fn then(mut self, op: Op) -> Self {
        self.then_ops.push(op);
        self
    }

    /// One more operation for when a condition does not hold.
    pub fn or_else(mut self, op: Op) -> Self {
        self.else_ops.push(op);
        self
    }

    /// True if no operation changes anything.
    pub fn is_read_only(&self) -> bool {
        self.then_ops.iter().chain(&self.else_ops).all(Op::is_read)
    }

    /// The message.
    pub fn into_proto(self) -> v1::Txn {
        let ops = |ops: Vec<Op>| ops.into_iter().map(|op| v1::TxnOp { op: Some(op.0) }).collect();
        v1::Txn {
            compares: self.compares.into_iter().map(|c| c.0).collect(),
            then_ops: ops(self.then_ops),
            else_ops: ops(self.else_ops),
        }
    }
}

/// The answer to one operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum OpReply {
    /// The pair, if the key is there.
    Get(Option<KeyValue>),
    /// One page.
    Range(Page),
    /// The key's version after it.
    Put {
        /// 1 for a new key.
        version: u64,
    },
    /// How many keys were deleted.
    Delete {
        /// Keys deleted.
        deleted: u64,
    },
    /// The number after the addition.
    Increment {
        /// After the addition.
        value: i64,
    },
    /// The sequence number of the value.
    Append {
        /// 1, 2, 3, ... under one prefix.
        seq: u64,
    },
}

/// The answer to a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct TxnReply {
    /// The shard's revision after it.
    pub revision: u64,
    /// True: all conditions held and the `then` operations ran; false: the `or_else` operations ran.
    pub succeeded: bool,
    /// One for each operation that ran, in order.
    pub results: Vec<OpReply>,
}

impl TxnReply {
    pub(crate) fn from_proto(result: v1::TxnResult, revision: u64, address: &str) -> Result<Self> {
        let results = result
            .results
            .into_iter()
            .map(|r| {
                r.result
                    .ok_or_else(|| Error::unexpected("an empty operation result", address))
            })
            .map(|r| r.map(op_reply))
            .collect::<Result<_>>()?;
        Ok(Self {
            revision,
            succeeded: result.succeeded,
            results,
        })
    }
}

fn op_reply(result: txn_op_result::Result) -> OpReply {
    use txn_op_result::Result as R;
    match result {
        R::Get(r) => OpReply::Get(r.kv),
        R::Range(r) => OpReply::Range(Page {
            kvs: r.kvs,
            continuation: r.continuation,
        }),
        R::Put(r) => OpReply::Put { version: r.version },
        R::Delete(r) => OpReply::Delete { deleted: r.deleted },
        R::Increment(r) => OpReply::Increment { value: r.value },
        R::Append(r) => OpReply::Append { seq: r.seq },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_is_seen() {
        assert!(Txn::new().is_read_only());
        assert!(
            Txn::new()
                .when(Compare::exists("a"))
                .then(Op::get("a"))
                .is_read_only()
        );
        assert!(
            !Txn::new()
                .then(Op::get("a"))
                .or_else(Op::delete("a"))
                .is_read_only()
        );
    }

    #[test]
    fn compares_become_messages() {
        let c = Compare::mod_rev("k").greater(7).0;
        assert_eq!(
            (c.target(), c.operator(), c.number),
            (compare::Target::ModRev, compare::Operator::Greater, 7)
        );
        let c = Compare::absent("k").0;
        assert_eq!(
            (c.target(), c.operator()),
            (compare::Target::Exists, compare::Operator::NotEqual)
        );
        let c = Compare::value("k").not_equals("v").0;
        assert_eq!(
            (&c.value[..], c.operator()),
            (&b"v"[..], compare::Operator::NotEqual)
        );
    }
}
