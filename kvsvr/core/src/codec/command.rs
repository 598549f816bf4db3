//! Protobuf -> commands, with every check of limits.

use bytes::Bytes;
use kvsvr_proto::v1::{self as pb, command::Op as PbOp, txn_op::Op as PbTxnOp};
use prost::Message;

use crate::{
    command::{Command, Compare, CompareOperator, CompareTarget, Op, Range, SessionSeq, Txn, TxnOp},
    error::Rejection,
    limits::{
        MAX_COMMAND, MAX_CONSUMER_NAME, MAX_ENCODED_COMMAND, MAX_KEY, MAX_PARTITION_NAME, MAX_TTL_MS,
        MAX_TXN_OPS, MAX_VALUE, MIN_LEASE_TTL_MS,
    },
    types::Partition,
};

type Checked<T> = Result<T, Rejection>;

/// Decodes a command and checks every limit; keys and values share the buffer.
pub fn decode_command(encoded: &Bytes) -> Checked<Command> {
    if encoded.len() > MAX_ENCODED_COMMAND {
        return Err(Rejection::invalid(format!(
            "a command of {} bytes, at most {MAX_ENCODED_COMMAND} are allowed",
            encoded.len()
        )));
    }
    let message = pb::Command::decode(encoded.clone())
        .map_err(|error| Rejection::invalid(format!("the command does not decode: {error}")))?;
    let op = message.op.ok_or_else(|| {
        Rejection::invalid("the command has no operation, or one that this version does not know")
    })?;
    let partition = match message.partition {
        Some(partition) => from_pb_partition(partition, !acts_on_shard(&op))?,
        None if acts_on_shard(&op) => Partition::default(),
        None => return Err(Rejection::invalid("the command names no partition")),
    };
    let ids = SessionSeq {
        session: message.session,
        seq: message.seq,
        acked_below: message.acked_below,
    };
    let session = check_session(ids, &op)?;
    Ok(Command {
        partition,
        session,
        op: from_pb_op(op)?,
    })
}

fn acts_on_shard(op: &PbOp) -> bool {
    !matches!(
        op,
        PbOp::Put(_)
            | PbOp::Delete(_)
            | PbOp::DeleteRange(_)
            | PbOp::Increment(_)
            | PbOp::Append(_)
            | PbOp::Txn(_)
    )
}

fn check_session(ids: SessionSeq, op: &PbOp) -> Checked<Option<SessionSeq>> {
    let SessionSeq {
        session,
        seq,
        acked_below,
    } = ids;
    let invalid = |what: &str| Err(Rejection::invalid(what));
    match op {
        PbOp::SessionOpen(_) if session != 0 => {
            return invalid("a session cannot be opened within a session");
        }
        PbOp::SessionClose(_) if session == 0 => return invalid("session 0 cannot be closed"),
        PbOp::SessionClose(_) => return Ok(Some(ids)),
        _ => {}
    }
    match (session, seq) {
        (0, 0) => Ok(None),
        (0, _) => invalid("a sequence number without a session"),
        (_, 0) => invalid("a session without a sequence number"),
        _ if acked_below > seq => invalid("acked_below is greater than the command's own sequence number"),
        _ => Ok(Some(ids)),
    }
}

/// Checks and converts a partition. `required`: its name may not be empty.
fn from_pb_partition(partition: pb::Partition, required: bool) -> Checked<Partition> {
    let region = u16::try_from(partition.region).map_err(|_| {
        Rejection::invalid(format!(
            "region {} is greater than {}",
            partition.region,
            u16::MAX
        ))
    })?;
    let partition = Partition {
        region,
        name: partition.name,
    };
    if required || !partition.name.is_empty() {
        check_partition(&partition)?;
    }
    Ok(partition)
}

/// Checks a partition's name.
pub fn check_partition(partition: &Partition) -> Checked<()> {
    check_len("a partition's name", partition.name.len(), 1, MAX_PARTITION_NAME)
}

/// Checks a key's length.
pub fn check_key(key: &[u8]) -> Checked<()> {
    check_len("a key", key.len(), 1, MAX_KEY)
}

fn check_len(what: &str, len: usize, min: usize, max: usize) -> Checked<()> {
    if (min..=max).contains(&len) {
        return Ok(());
    }
    Err(Rejection::invalid(format!(
        "{what} of {len} bytes, {min} to {max} are allowed"
    )))
}

fn check_value(value: &[u8]) -> Checked<()> {
    check_len("a value", value.len(), 0, MAX_VALUE)
}

fn check_ttl(ttl_ms: u64) -> Checked<()> {
    if ttl_ms <= MAX_TTL_MS {
        return Ok(());
    }
    Err(Rejection::invalid(format!(
        "a TTL of {ttl_ms} ms, at most {MAX_TTL_MS} are allowed"
    )))
}

fn check_range(start: &[u8], end: &[u8]) -> Checked<()> {
    // A bound may be a key with one byte more, the first key after it.
    check_len("a range's start", start.len(), 0, MAX_KEY + 1)?;
    check_len("a range's end", end.len(), 0, MAX_KEY + 1)?;
    if !end.is_empty() && start > end {
        return Err(Rejection::invalid("the range ends before it starts"));
    }
    Ok(())
}

fn check_put(key: &[u8], value: &[u8], ttl_ms: u64, lease: u64) -> Checked<()> {
    check_key(key)?;
    check_value(value)?;
    check_ttl(ttl_ms)?;
    if ttl_ms != 0 && lease != 0 {
        return Err(Rejection::invalid("a put has a TTL or a lease, not both"));
    }
    Ok(())
}

fn check_append(prefix: &[u8], value: &[u8], ttl_ms: u64) -> Checked<()> {
    check_len("an append's prefix", prefix.len(), 1, MAX_KEY - 8)?;
    check_value(value)?;
    check_ttl(ttl_ms)
}

fn check_lease_id(id: u64) -> Checked<u64> {
    if id == 0 {
        Err(Rejection::invalid("lease 0 does not exist"))
    } else {
        Ok(id)
    }
}

fn check_name(name: Bytes) -> Checked<Bytes> {
    check_len("a consumer's name", name.len(), 1, MAX_CONSUMER_NAME)?;
    Ok(name)
}

fn from_pb_op(op: PbOp) -> Checked<Op> {
    Ok(match op {
        PbOp::Put(pb::Put {
            key,
            value,
            ttl_ms,
            lease,
        }) => {
            check_put(&key, &value, ttl_ms, lease)?;
            Op::Put {
                key,
                value,
                ttl_ms,
                lease,
            }
        }
        PbOp::Delete(pb::Delete { key }) => {
            check_key(&key)?;
            Op::Delete { key }
        }
        PbOp::DeleteRange(pb::DeleteRange { start, end }) => {
            check_range(&start, &end)?;
            Op::DeleteRange { start, end }
        }
        PbOp::Increment(pb::Increment { key, delta }) => {
            check_key(&key)?;
            Op::Increment { key, delta }
        }
        PbOp::Append(pb::Append {
            prefix,
            value,
            ttl_ms,
        }) => {
            check_append(&prefix, &value, ttl_ms)?;
            Op::Append {
                prefix,
                value,
                ttl_ms,
            }
        }
        PbOp::Txn(txn) => Op::Txn(from_pb_txn(txn)?),
        other => from_pb_shard_op(other)?,
    })
}

fn from_pb_shard_op(op: PbOp) -> Checked<Op> {
    Ok(match op {
        PbOp::LeaseGrant(pb::LeaseGrant { id, ttl_ms }) => {
            if !(MIN_LEASE_TTL_MS..=MAX_TTL_MS).contains(&ttl_ms) {
                let message =
                    format!("a lease of {ttl_ms} ms, {MIN_LEASE_TTL_MS} to {MAX_TTL_MS} are allowed");
                return Err(Rejection::invalid(message));
            }
            Op::LeaseGrant { id, ttl_ms }
        }
        PbOp::LeaseKeepAlive(pb::LeaseKeepAlive { id }) => Op::LeaseKeepAlive {
            id: check_lease_id(id)?,
        },
        PbOp::LeaseRevoke(pb::LeaseRevoke { id }) => Op::LeaseRevoke {
            id: check_lease_id(id)?,
        },
        PbOp::SessionOpen(pb::SessionOpen {}) => Op::SessionOpen,
        PbOp::SessionClose(pb::SessionClose {}) => Op::SessionClose,
        PbOp::ConsumerOpen(pb::ConsumerOpen { name, start_revision }) => Op::ConsumerOpen {
            name: check_name(consumer_name(name))?,
            start_revision,
        },
        PbOp::ConsumerAck(pb::ConsumerAck {
            name,
            epoch,
            revision,
        }) => Op::ConsumerAck {
            name: check_name(consumer_name(name))?,
            epoch,
            revision,
        },
        PbOp::ConsumerDelete(pb::ConsumerDelete { name }) => Op::ConsumerDelete {
            name: check_name(consumer_name(name))?,
        },
        PbOp::ConsumerReset(pb::ConsumerReset { name, revision }) => Op::ConsumerReset {
            name: check_name(consumer_name(name))?,
            revision,
        },
        PbOp::Expire(pb::Expire { up_to_ms }) => Op::Expire { up_to_ms },
        PbOp::Compact(pb::Compact { revision, pass_below }) => Op::Compact { revision, pass_below },
        PbOp::Restore(pb::Restore {
            backup,
            number,
            rows,
            head,
        }) => Op::Restore {
            backup,
            number,
            rows,
            head: Some(head).filter(|head| !head.is_empty()),
        },
        PbOp::Put(_)
        | PbOp::Delete(_)
        | PbOp::DeleteRange(_)
        | PbOp::Increment(_)
        | PbOp::Append(_)
        | PbOp::Txn(_) => return Err(Rejection::invalid("not an operation on a shard")),
    })
}

fn consumer_name(name: String) -> Bytes {
    name.into_bytes().into()
}

/// Checks and converts a transaction, its total size included.
pub fn from_pb_txn(txn: pb::Txn) -> Checked<Txn> {
    let count = txn.compares.len() + txn.then_ops.len() + txn.else_ops.len();
    if count > MAX_TXN_OPS {
        return Err(Rejection::invalid(format!(
            "a transaction of {count} compares and operations, at most {MAX_TXN_OPS} are allowed"
        )));
    }
    let mut bytes = 0;
    let mut ops = |branch: &str, ops: Vec<pb::TxnOp>| -> Checked<Vec<TxnOp>> {
        let convert = |(i, op): (usize, pb::TxnOp)| {
            let op = op
                .op
                .ok_or_else(|| Rejection::invalid("it is empty, or not known to this version"));
            let op = op.and_then(from_pb_txn_op).map_err(|r| within(branch, i, r))?;
            bytes += payload(&op);
            Ok(op)
        };
        ops.into_iter().enumerate().map(convert).collect()
    };
    let then_ops = ops("then", txn.then_ops)?;
    let else_ops = ops("else", txn.else_ops)?;
    let mut compares = Vec::with_capacity(txn.compares.len());
    for (i, compare) in txn.compares.into_iter().enumerate() {
        bytes += compare.key.len() + compare.value.len();
        compares.push(from_pb_compare(compare).map_err(|r| within("compare", i, r))?);
    }
    if bytes > MAX_COMMAND {
        return Err(Rejection::invalid(format!(
            "a transaction with {bytes} bytes of keys and values, at most {MAX_COMMAND} are allowed"
        )));
    }
    Ok(Txn {
        compares,
        then_ops,
        else_ops,
    })
}

/// Says in a rejection's message which part of a transaction it is about.
pub(crate) fn within(part: &str, index: usize, mut rejection: Rejection) -> Rejection {
    rejection.message = format!("{part} {index}: {}", rejection.message);
    rejection
}

fn payload(op: &TxnOp) -> usize {
    match op {
        TxnOp::Get { key, .. } | TxnOp::Delete { key } | TxnOp::Increment { key, .. } => key.len(),
        TxnOp::Range(range) => range.start.len() + range.end.len() + range.continuation.len(),
        TxnOp::Put { key, value, .. }
        | TxnOp::Append {
            prefix: key, value, ..
        } => key.len() + value.len(),
        TxnOp::DeleteRange { start, end } => start.len() + end.len(),
    }
}

fn from_pb_txn_op(op: PbTxnOp) -> Checked<TxnOp> {
    Ok(match op {
        PbTxnOp::Get(pb::Get { key, revision }) => {
            check_key(&key)?;
            TxnOp::Get {
                key,
                revision: (revision != 0).then_some(revision),
            }
        }
        PbTxnOp::Range(range) => TxnOp::Range(from_pb_range(range)?),
        PbTxnOp::Put(pb::Put {
            key,
            value,
            ttl_ms,
            lease,
        }) => {
            check_put(&key, &value, ttl_ms, lease)?;
            TxnOp::Put {
                key,
                value,
                ttl_ms,
                lease,
            }
        }
        PbTxnOp::Delete(pb::Delete { key }) => {
            check_key(&key)?;
            TxnOp::Delete { key }
        }
        PbTxnOp::DeleteRange(pb::DeleteRange { start, end }) => {
            check_range(&start, &end)?;
            TxnOp::DeleteRange { start, end }
        }
        PbTxnOp::Increment(pb::Increment { key, delta }) => {
            check_key(&key)?;
            TxnOp::Increment { key, delta }
        }
        PbTxnOp::Append(pb::Append {
            prefix,
            value,
            ttl_ms,
        }) => {
            check_append(&prefix, &value, ttl_ms)?;
            TxnOp::Append {
                prefix,
                value,
                ttl_ms,
            }
        }
    })
}

/// Checks and converts a range. Its continuation is checked when it is read.
pub fn from_pb_range(range: pb::Range) -> Checked<Range> {
    let pb::Range {
        start,
        end,
        limit,
        reverse,
        keys_only,
        revision,
        continuation,
    } = range;
    check_range(&start, &end)?;
    let revision = (revision != 0).then_some(revision);
    Ok(Range {
        start,
        end,
        limit,
        reverse,
        keys_only,
        revision,
        continuation,
    })
}

fn from_pb_compare(compare: pb::Compare) -> Checked<Compare> {
    use pb::compare::{Operator, Target};
    check_key(&compare.key)?;
    check_value(&compare.value)?;
    let operator = match compare.operator() {
        Operator::Equal => CompareOperator::Equal,
        Operator::NotEqual => CompareOperator::NotEqual,
        Operator::Less => CompareOperator::Less,
        Operator::Greater => CompareOperator::Greater,
        Operator::Unspecified => return Err(Rejection::invalid("no operator, or an unknown one")),
    };
    let target = match compare.target() {
        Target::Value => CompareTarget::Value(compare.value),
        Target::Version => CompareTarget::Version(compare.number),
        Target::CreateRev => CompareTarget::CreateRev(compare.number),
        Target::ModRev => CompareTarget::ModRev(compare.number),
        Target::Exists => CompareTarget::Exists,
        Target::Unspecified => return Err(Rejection::invalid("no target, or an unknown one")),
    };
    if target == CompareTarget::Exists
        && !matches!(operator, CompareOperator::Equal | CompareOperator::NotEqual)
    {
        return Err(Rejection::invalid("existence is EQUAL or NOT_EQUAL"));
    }
    Ok(Compare {
        key: compare.key,
        target,
        operator,
    })
}
