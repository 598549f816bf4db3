//! Generators of commands that are likely to meet: few partitions, few keys, few sessions, short times.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};

use super::history::Log;
use crate::{
    command::{Command, Compare, CompareOperator, CompareTarget, Op, Range, SessionSeq, Txn, TxnOp},
    limits::{MIN_LEASE_TTL_MS, SESSION_IDLE_MS},
    types::Partition,
};

const KEYS: [&[u8]; 8] = [b"a", b"a\0", b"a\0\xff", b"a\x01", b"b", b"n", b"\0", b"\xff\xff"];

/// One of a few keys, some of which are prefixes of others.
pub fn tiny_key() -> impl Strategy<Value = Bytes> {
    (0..KEYS.len()).prop_map(|i| Bytes::from_static(KEYS[i]))
}

/// A key as it may be stored: a tiny one, or what an append makes of it.
pub fn any_stored_key() -> impl Strategy<Value = Bytes> {
    (tiny_key(), option::weighted(0.3, 1..4u64)).prop_map(|(key, seq)| match seq {
        Some(seq) => [&key[..], &seq.to_be_bytes()].concat().into(),
        None => key,
    })
}

/// One of a few partitions.
pub fn any_partition() -> impl Strategy<Value = Partition> {
    prop_oneof![
        4 => Just(Partition::local(Bytes::from_static(b"alice"))),
        1 => Just(Partition { region: 7, name: Bytes::from_static(b"alice") }),
        1 => Just(Partition::local(Bytes::from_static(b"\xff"))),
    ]
}

fn bound() -> impl Strategy<Value = Bytes> {
    prop_oneof![1 => Just(Bytes::new()), 2 => tiny_key()]
}

fn bounds() -> impl Strategy<Value = (Bytes, Bytes)> {
    (bound(), bound()).prop_map(|(a, b)| if !b.is_empty() && a > b { (b, a) } else { (a, b) })
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        3 => "[a-c]{0,3}".prop_map(Bytes::from),
        1 => (-2..3i64).prop_map(|n| Bytes::copy_from_slice(&n.to_be_bytes())),
        1 => Just(Bytes::copy_from_slice(&i64::MAX.to_be_bytes())),
    ]
}

fn ttl() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0u64), 1 => 1..200u64]
}

fn revision() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..30u64, 1 => 0..200u64]
}

/// 0 is the newest in an encoded read.
fn past() -> impl Strategy<Value = u64> {
    revision().prop_map(|revision| revision.max(1))
}

fn put() -> impl Strategy<Value = (Bytes, Bytes, u64, u64)> {
    let ends = prop_oneof![3 => ttl().prop_map(|ttl| (ttl, 0)), 1 => (1..4u64).prop_map(|lease| (0, lease))];
    (tiny_key(), value(), ends).prop_map(|(key, value, (ttl_ms, lease))| (key, value, ttl_ms, lease))
}

fn range() -> impl Strategy<Value = Range> {
    (
        bounds(),
        any::<bool>(),
        any::<bool>(),
        option::weighted(0.15, past()),
    )
        .prop_map(|((start, end), reverse, keys_only, revision)| Range {
            start,
            end,
            reverse,
            keys_only,
            revision,
            ..Range::default()
        })
}

fn txn_op() -> impl Strategy<Value = TxnOp> {
    prop_oneof![
        2 => (tiny_key(), option::weighted(0.15, past())).prop_map(|(key, revision)| TxnOp::Get { key, revision }),
        1 => range().prop_map(TxnOp::Range),
        4 => put().prop_map(|(key, value, ttl_ms, lease)| TxnOp::Put { key, value, ttl_ms, lease }),
        2 => tiny_key().prop_map(|key| TxnOp::Delete { key }),
        1 => bounds().prop_map(|(start, end)| TxnOp::DeleteRange { start, end }),
        1 => (tiny_key(), -2..3i64).prop_map(|(key, delta)| TxnOp::Increment { key, delta }),
        1 => (tiny_key(), value(), ttl()).prop_map(|(prefix, value, ttl_ms)| TxnOp::Append { prefix, value, ttl_ms }),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let number = 0..6u64;
    let target = prop_oneof![
        value().prop_map(CompareTarget::Value),
        number.clone().prop_map(CompareTarget::Version),
        number.clone().prop_map(CompareTarget::CreateRev),
        number.prop_map(CompareTarget::ModRev),
        Just(CompareTarget::Exists),
    ];
    let operator = prop_oneof![
        Just(CompareOperator::Equal),
        Just(CompareOperator::NotEqual),
        Just(CompareOperator::Less),
        Just(CompareOperator::Greater),
    ];
    (tiny_key(), target, operator).prop_map(|(key, target, operator)| {
        let operator = match (&target, operator) {
            (CompareTarget::Exists, CompareOperator::Less | CompareOperator::Greater) => {
                CompareOperator::NotEqual
            }
            (_, operator) => operator,
        };
        Compare {
            key,
            target,
            operator,
        }
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    (vec(compare(), 0..2), vec(txn_op(), 0..5), vec(txn_op(), 0..3)).prop_map(
        |(compares, then_ops, else_ops)| Txn {
            compares,
            then_ops,
            else_ops,
        },
    )
}

fn pass_below() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0), 2 => revision(), 2 => Just(u64::MAX)]
}

fn name() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(Bytes::from_static(b"ship")), Just(Bytes::from_static(b"x"))]
}

fn shard_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (0..4u64, MIN_LEASE_TTL_MS..1000).prop_map(|(id, ttl_ms)| Op::LeaseGrant { id, ttl_ms }),
        1 => (1..4u64).prop_map(|id| Op::LeaseKeepAlive { id }),
        1 => (1..4u64).prop_map(|id| Op::LeaseRevoke { id }),
        1 => Just(Op::SessionOpen),
        1 => Just(Op::SessionClose),
        1 => (name(), revision()).prop_map(|(name, start_revision)| Op::ConsumerOpen { name, start_revision }),
        1 => (name(), 0..4u64, revision()).prop_map(|(name, epoch, revision)| Op::ConsumerAck {
            name,
            epoch,
            revision
        }),
        1 => name().prop_map(|name| Op::ConsumerDelete { name }),
        1 => (name(), revision()).prop_map(|(name, revision)| Op::ConsumerReset { name, revision }),
        1 => (0..4000u64).prop_map(|up_to_ms| Op::Expire { up_to_ms }),
        1 => Just(Op::Expire { up_to_ms: u64::MAX }),
        3 => (revision(), pass_below()).prop_map(|(revision, pass_below)| Op::Compact { revision, pass_below }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => put().prop_map(|(key, value, ttl_ms, lease)| Op::Put { key, value, ttl_ms, lease }),
        2 => tiny_key().prop_map(|key| Op::Delete { key }),
        1 => bounds().prop_map(|(start, end)| Op::DeleteRange { start, end }),
        2 => (tiny_key(), -2..3i64).prop_map(|(key, delta)| Op::Increment { key, delta }),
        2 => (tiny_key(), value(), ttl()).prop_map(|(prefix, value, ttl_ms)| Op::Append { prefix, value, ttl_ms }),
        4 => txn().prop_map(Op::Txn),
        5 => shard_op(),
    ]
}

/// A valid command.
pub fn any_command() -> impl Strategy<Value = Command> {
    let session = (1..4u64, 1..12u64, 0..12u64).prop_map(|(session, seq, acked)| SessionSeq {
        session,
        seq,
        acked_below: acked.min(seq),
    });
    (any_partition(), option::weighted(0.5, session), op()).prop_map(|(partition, session, op)| {
        let session = match op {
            Op::SessionOpen => None,
            Op::SessionClose => session.or(Some(SessionSeq {
                session: 1,
                seq: 0,
                acked_below: 0,
            })),
            _ => session,
        };
        Command {
            partition,
            session,
            op,
        }
    })
}

/// Up to `entries` log entries with a few commands each. Time goes on, rarely back, rarely by days.
pub fn any_log(entries: usize) -> impl Strategy<Value = Log> {
    let tick = prop_oneof![20 => 0..150i64, 3 => -300..0i64, 1 => Just(SESSION_IDLE_MS as i64)];
    let opened = Command {
        partition: Partition::default(),
        session: None,
        op: Op::SessionOpen,
    };
    vec((tick, vec(any_command(), 0..6)), 1..entries).prop_map(move |ticks| {
        let mut now = 1000i64;
        // Two sessions are there from the start.
        let mut entries = vec![(1000, vec![opened.clone(), opened.clone()])];
        for (tick, commands) in ticks {
            now = (now + tick).max(0);
            entries.push((now as u64, commands));
        }
        Log { entries }
    })
}
