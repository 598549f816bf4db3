//! Round trips, limits, and bytes from elsewhere.

use bytes::{BufMut, Bytes, BytesMut};
use kvsvr_proto::v1 as pb;
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::*;
use crate::{
    command::{
        Command, KeyValue, Op, Outcome, OutcomeResult, RangeResult, Txn, TxnOp, TxnOpResult, TxnResult,
    },
    error::{ErrorCode, Rejection},
    limits::*,
    testing::{any_command, any_log, any_stored_key},
    types::Partition,
};

fn key_value() -> impl Strategy<Value = KeyValue> {
    (any_stored_key(), vec(any::<u8>(), 0..5), any::<[u64; 5]>()).prop_map(
        |(key, value, [create_rev, mod_rev, version, lease, expires_at])| KeyValue {
            key,
            value: value.into(),
            create_rev,
            mod_rev,
            version,
            lease,
            expires_at,
        },
    )
}

fn op_result() -> impl Strategy<Value = TxnOpResult> {
    prop_oneof![
        option::of(key_value()).prop_map(TxnOpResult::Get),
        (vec(key_value(), 0..3), any_stored_key())
            .prop_map(|(kvs, continuation)| TxnOpResult::Range(RangeResult { kvs, continuation })),
        any::<u64>().prop_map(|version| TxnOpResult::Put { version }),
        any::<u64>().prop_map(|deleted| TxnOpResult::Delete { deleted }),
        any::<i64>().prop_map(|value| TxnOpResult::Increment { value }),
        any::<u64>().prop_map(|seq| TxnOpResult::Append { seq }),
    ]
}

fn result() -> impl Strategy<Value = OutcomeResult> {
    let code = (1..22i32).prop_map(|code| ErrorCode::try_from(code).unwrap());
    prop_oneof![
        any::<u64>().prop_map(|version| OutcomeResult::Put { version }),
        any::<u64>().prop_map(|deleted| OutcomeResult::Delete { deleted }),
        any::<i64>().prop_map(|value| OutcomeResult::Increment { value }),
        any::<u64>().prop_map(|seq| OutcomeResult::Append { seq }),
        (any::<bool>(), vec(op_result(), 0..4))
            .prop_map(|(succeeded, results)| OutcomeResult::Txn(TxnResult { succeeded, results })),
        any::<[u64; 3]>().prop_map(|[id, ttl_ms, deleted]| OutcomeResult::Lease { id, ttl_ms, deleted }),
        any::<u64>().prop_map(|id| OutcomeResult::Session { id }),
        any::<[u64; 2]>().prop_map(|[epoch, cursor]| OutcomeResult::Consumer { epoch, cursor }),
        any::<u64>().prop_map(|floor| OutcomeResult::Compact { floor }),
        any::<u64>().prop_map(|next| OutcomeResult::Restore { next }),
        (any::<[u64; 2]>(), any::<bool>()).prop_map(|([keys, leases], more)| OutcomeResult::Expire {
            keys,
            leases,
            more
        }),
        (code, ".{0,9}", any::<u64>()).prop_map(|(code, message, revision)| OutcomeResult::Rejected(
            Rejection {
                code,
                message,
                revision
            }
        )),
    ]
}

proptest! {
    #[test]
    fn commands_round_trip(command in any_command()) {
        prop_assert_eq!(decode_command(&encode_command(&command)), Ok(command));
    }

    #[test]
    fn outcomes_round_trip(revision: u64, result in result()) {
        let outcome = Outcome { revision, result };
        prop_assert_eq!(decode_outcome(&encode_outcome(&outcome)), Ok(outcome));
    }

    #[test]
    fn batches_round_trip(stamp: u64, commands in vec(vec(any::<u8>(), 0..20), 0..9)) {
        let commands: Vec<Bytes> = commands.into_iter().map(Bytes::from).collect();
        let encoded = encode_batch(stamp, &commands);
        prop_assert_eq!(decode_batch(&encoded), Ok(EntryBatch { stamp, commands }));
        for len in 0..encoded.len() {
            prop_assert!(decode_batch(&encoded.slice(..len)).is_err());
        }
        let longer: Bytes = [&encoded[..], &[0]].concat().into();
        prop_assert!(decode_batch(&longer).is_err());
    }

    #[test]
    fn decoders_never_panic(bytes: Vec<u8>, log in any_log(3), flips in vec(any::<(prop::sample::Index, u8)>(), 1..4)) {
        let bytes = Bytes::from(bytes);
        let _ = (decode_command(&bytes), decode_outcome(&bytes), decode_batch(&bytes));
        for (stamp, commands) in log.entries {
            let commands: Vec<Bytes> = commands.iter().map(encode_command).collect();
            let mut encoded = encode_batch(stamp, &commands).to_vec();
            for (at, byte) in &flips {
                let at = at.index(encoded.len());
                encoded[at] ^= byte;
            }
            if let Ok(batch) = decode_batch(&encoded.into()) {
                batch.commands.iter().for_each(|command| drop(decode_command(command)));
            }
        }
    }

    #[test]
    fn unknown_fields_are_ignored(command in any_command(), revision: u64, result in result()) {
        // Field 1000, a varint.
        let more = |encoded: Bytes| -> Bytes { [&encoded[..], &[0xc0, 0x3e, 7]].concat().into() };
        prop_assert_eq!(decode_command(&more(encode_command(&command))), Ok(command));
        let outcome = Outcome { revision, result };
        prop_assert_eq!(decode_outcome(&more(encode_outcome(&outcome))), Ok(outcome));
    }

    #[test]
    fn what_decodes_shares_the_buffer(value in vec(any::<u8>(), 1..50)) {
        let op = Op::Put { key: "k".into(), value: value.into(), ttl_ms: 0, lease: 0 };
        let encoded = encode_command(&Command { partition: Partition::local("p"), session: None, op });
        let batch = decode_batch(&encode_batch(1, std::slice::from_ref(&encoded))).unwrap();
        let Ok(Command { op: Op::Put { value, .. }, .. }) = decode_command(&batch.commands[0]) else { panic!() };
        prop_assert!(batch.commands[0].as_ptr_range().contains(&value.as_ptr()));
    }
}

fn refused(message: &pb::Command) -> String {
    let rejection = decode_command(&message.encode_to_vec().into()).unwrap_err();
    assert_eq!(rejection.code, ErrorCode::Invalid);
    rejection.message
}

fn message(op: pb::command::Op) -> pb::Command {
    let partition = Some(pb::Partition {
        region: 0,
        name: "p".into(),
    });
    pb::Command {
        partition,
        op: Some(op),
        ..Default::default()
    }
}

fn put() -> pb::Command {
    message(pb::command::Op::Put(pb::Put {
        key: "k".into(),
        ..Default::default()
    }))
}

#[test]
fn malformed_messages_are_named() {
    let unknown_op = [put().encode_to_vec().as_slice(), &[0xba, 0x3e, 0]].concat();
    assert!(decode_command(&unknown_op.into()).is_ok(), "the known one counts");
    let mut command = put();
    command.op = None;
    assert!(refused(&command).contains("no operation"));
    let mut command = put();
    command.partition = None;
    assert!(refused(&command).contains("no partition"));
    let mut command = put();
    command.partition = Some(pb::Partition {
        region: 65536,
        name: "p".into(),
    });
    assert!(refused(&command).contains("region 65536"));
    let mut command = put();
    command.partition = Some(pb::Partition {
        region: 0,
        name: vec![0; MAX_PARTITION_NAME + 1].into(),
    });
    assert!(refused(&command).contains("partition's name of 257 bytes"));
    let mut command = put();
    command.seq = 1;
    assert!(refused(&command).contains("without a session"));
}

#[test]
fn shard_commands_need_no_partition() {
    let op = pb::command::Op::Compact(pb::Compact {
        revision: 7,
        pass_below: 3,
    });
    let command = pb::Command {
        op: Some(op),
        ..Default::default()
    };
    let decoded = decode_command(&command.encode_to_vec().into()).unwrap();
    let wanted = Op::Compact {
        revision: 7,
        pass_below: 3,
    };
    assert_eq!((decoded.op, decoded.partition), (wanted, Partition::default()));
}

#[test]
fn compares_must_make_sense() {
    let mut txn = pb::Txn::default();
    let compare = |target, operator| pb::Compare {
        key: "k".into(),
        target,
        operator,
        ..Default::default()
    };
    for (target, operator, wrong) in [
        (0, 1, "target"),
        (99, 1, "target"),
        (1, 0, "operator"),
        (5, 3, "existence"),
    ] {
        txn.compares = vec![compare(target, operator)];
        let message = from_pb_txn(txn.clone()).unwrap_err().message;
        assert!(
            message.starts_with("compare 0: ") && message.contains(wrong),
            "{message}"
        );
    }
    txn.compares = Vec::new();
    txn.then_ops = vec![pb::TxnOp { op: None }];
    assert!(from_pb_txn(txn).unwrap_err().message.starts_with("then 0: "));
}

#[test]
fn transactions_are_bounded() {
    let op = |value: Bytes| TxnOp::Put {
        key: "k".into(),
        value,
        ttl_ms: 0,
        lease: 0,
    };
    let decode = |then_ops| {
        let txn = Op::Txn(Txn {
            then_ops,
            ..Txn::default()
        });
        decode_command(&encode_command(&Command {
            partition: Partition::local("p"),
            session: None,
            op: txn,
        }))
    };
    assert!(decode(vec![op(Bytes::new()); MAX_TXN_OPS]).is_ok());
    let too_many = decode(vec![op(Bytes::new()); MAX_TXN_OPS + 1]).unwrap_err();
    assert!(
        too_many.message.contains("1025 compares and operations"),
        "{}",
        too_many.message
    );
    let most = MAX_COMMAND / (MAX_VALUE / 2 + 1);
    assert!(decode(vec![op(vec![0; MAX_VALUE / 2].into()); most]).is_ok());
    let too_big = decode(vec![op(vec![0; MAX_VALUE / 2].into()); most + 1]).unwrap_err();
    assert!(
        too_big.message.contains("bytes of keys and values"),
        "{}",
        too_big.message
    );
    let huge = Bytes::from(vec![0; MAX_ENCODED_COMMAND + 1]);
    assert!(
        decode_command(&huge)
            .unwrap_err()
            .message
            .contains("a command of")
    );
}

/// The longest valid commands fit their encoding's bound.
#[test]
fn the_largest_transaction_fits() {
    let key = MAX_COMMAND / MAX_TXN_OPS - 8;
    let op = |i: usize| TxnOp::Append {
        prefix: format!("{i:0key$}").into(),
        value: "12345678".into(),
        ttl_ms: MAX_TTL_MS,
    };
    let txn = Op::Txn(Txn {
        then_ops: (0..MAX_TXN_OPS).map(op).collect(),
        ..Txn::default()
    });
    let partition = Partition {
        region: u16::MAX,
        name: vec![1; MAX_PARTITION_NAME].into(),
    };
    let encoded = encode_command(&Command {
        partition,
        session: None,
        op: txn,
    });
    assert!(encoded.len() > MAX_COMMAND, "it is as large as may be");
    assert!(decode_command(&encoded).is_ok());
}

#[test]
fn a_batch_of_another_version_or_an_absurd_count_is_corrupt() {
    let mut encoded = BytesMut::from(&encode_batch(1, &[])[..]);
    encoded[0] = 2;
    assert!(decode_batch(&encoded.clone().freeze()).is_err());
    let mut absurd = BytesMut::new();
    absurd.put_u8(1);
    absurd.put_u64_le(1);
    absurd.put_u32_le(u32::MAX);
    assert!(decode_batch(&absurd.freeze()).is_err());
}
