//! Commands -> protobuf. Checks nothing: what is encoded here is checked where it is decoded.

use bytes::Bytes;
use kvsvr_proto::v1::{self as pb, command::Op as PbOp, txn_op::Op as PbTxnOp};
use prost::Message;

use crate::{
    command::{Command, Compare, CompareOperator, CompareTarget, Op, Range, SessionSeq, Txn, TxnOp},
    types::Partition,
};

/// Encodes a command. The inverse of [`decode_command`](super::decode_command) for valid commands.
pub fn encode_command(command: &Command) -> Bytes {
    let Command {
        partition,
        session,
        op,
    } = command.clone();
    let SessionSeq {
        session,
        seq,
        acked_below,
    } = session.unwrap_or(SessionSeq {
        session: 0,
        seq: 0,
        acked_below: 0,
    });
    let partition = (partition != Partition::default()).then(|| pb::Partition {
        region: u32::from(partition.region),
        name: partition.name,
    });
    let message = pb::Command {
        partition,
        session,
        seq,
        acked_below,
        op: Some(to_pb_op(op)),
    };
    message.encode_to_vec().into()
}

fn to_pb_op(op: Op) -> PbOp {
    match op {
        Op::Put {
            key,
            value,
            ttl_ms,
            lease,
        } => PbOp::Put(pb::Put {
            key,
            value,
            ttl_ms,
            lease,
        }),
        Op::Delete { key } => PbOp::Delete(pb::Delete { key }),
        Op::DeleteRange { start, end } => PbOp::DeleteRange(pb::DeleteRange { start, end }),
        Op::Increment { key, delta } => PbOp::Increment(pb::Increment { key, delta }),
        Op::Append {
            prefix,
            value,
            ttl_ms,
        } => PbOp::Append(pb::Append {
            prefix,
            value,
            ttl_ms,
        }),
        Op::Txn(txn) => PbOp::Txn(to_pb_txn(txn)),
        Op::LeaseGrant { id, ttl_ms } => PbOp::LeaseGrant(pb::LeaseGrant { id, ttl_ms }),
        Op::LeaseKeepAlive { id } => PbOp::LeaseKeepAlive(pb::LeaseKeepAlive { id }),
        Op::LeaseRevoke { id } => PbOp::LeaseRevoke(pb::LeaseRevoke { id }),
        Op::SessionOpen => PbOp::SessionOpen(pb::SessionOpen {}),
        Op::SessionClose => PbOp::SessionClose(pb::SessionClose {}),
        Op::ConsumerOpen { name, start_revision } => PbOp::ConsumerOpen(pb::ConsumerOpen {
            name: text(&name),
            start_revision,
        }),
        Op::ConsumerAck {
            name,
            epoch,
            revision,
        } => PbOp::ConsumerAck(pb::ConsumerAck {
            name: text(&name),
            epoch,
            revision,
        }),
        Op::ConsumerDelete { name } => PbOp::ConsumerDelete(pb::ConsumerDelete { name: text(&name) }),
        Op::ConsumerReset { name, revision } => PbOp::ConsumerReset(pb::ConsumerReset {
            name: text(&name),
            revision,
        }),
        Op::Expire { up_to_ms } => PbOp::Expire(pb::Expire { up_to_ms }),
        Op::Compact { revision, pass_below } => PbOp::Compact(pb::Compact { revision, pass_below }),
        Op::Restore {
            backup,
            number,
            rows,
            head,
        } => PbOp::Restore(pb::Restore {
            backup,
            number,
            rows,
            head: head.unwrap_or_default(),
        }),
    }
}

/// A consumer's name; protobuf strings are UTF-8, so a decoded one is.
fn text(name: &Bytes) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn to_pb_txn(txn: Txn) -> pb::Txn {
    let ops = |ops: Vec<TxnOp>| {
        ops.into_iter()
            .map(|op| pb::TxnOp {
                op: Some(to_pb_txn_op(op)),
            })
            .collect()
    };
    pb::Txn {
        compares: txn.compares.into_iter().map(to_pb_compare).collect(),
        then_ops: ops(txn.then_ops),
        else_ops: ops(txn.else_ops),
    }
}

fn to_pb_txn_op(op: TxnOp) -> PbTxnOp {
    match op {
        TxnOp::Get { key, revision } => PbTxnOp::Get(pb::Get {
            key,
            revision: revision.unwrap_or(0),
        }),
        TxnOp::Range(range) => {
            let Range {
                start,
                end,
                limit,
                reverse,
                keys_only,
                revision,
                continuation,
            } = range;
            let revision = revision.unwrap_or(0);
            PbTxnOp::Range(pb::Range {
                start,
                end,
                limit,
                reverse,
                keys_only,
                revision,
                continuation,
            })
        }
        TxnOp::Put {
            key,
            value,
            ttl_ms,
            lease,
        } => PbTxnOp::Put(pb::Put {
            key,
            value,
            ttl_ms,
            lease,
        }),
        TxnOp::Delete { key } => PbTxnOp::Delete(pb::Delete { key }),
        TxnOp::DeleteRange { start, end } => PbTxnOp::DeleteRange(pb::DeleteRange { start, end }),
        TxnOp::Increment { key, delta } => PbTxnOp::Increment(pb::Increment { key, delta }),
        TxnOp::Append {
            prefix,
            value,
            ttl_ms,
        } => PbTxnOp::Append(pb::Append {
            prefix,
            value,
            ttl_ms,
        }),
    }
}

fn to_pb_compare(compare: Compare) -> pb::Compare {
    use pb::compare::{Operator, Target};
    let operator = match compare.operator {
        CompareOperator::Equal => Operator::Equal,
        CompareOperator::NotEqual => Operator::NotEqual,
        CompareOperator::Less => Operator::Less,
        CompareOperator::Greater => Operator::Greater,
    };
    let (target, value, number) = match compare.target {
        CompareTarget::Value(value) => (Target::Value, value, 0),
        CompareTarget::Version(number) => (Target::Version, Bytes::new(), number),
        CompareTarget::CreateRev(number) => (Target::CreateRev, Bytes::new(), number),
        CompareTarget::ModRev(number) => (Target::ModRev, Bytes::new(), number),
        CompareTarget::Exists => (Target::Exists, Bytes::new(), 0),
    };
    pb::Compare {
        key: compare.key,
        target: target.into(),
        operator: operator.into(),
        value,
        number,
    }
}
