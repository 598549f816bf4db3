//! What apply holds in memory is bounded whatever the state holds, and what lives long holds no log entry.

use super::*;

const MIB: usize = 1 << 20;
/// Rows of the longest value that pass [`MAX_OLD_ROW_BYTES`].
const TOO_MANY: usize = MAX_OLD_ROW_BYTES / MAX_VALUE;

fn key(i: usize) -> Bytes {
    format!("{i:03}").into()
}

fn large(i: usize, ttl_ms: u64, lease: u64) -> Command {
    op(Op::Put {
        key: key(i),
        value: vec![7; MAX_VALUE].into(),
        ttl_ms,
        lease,
    })
}

fn delete(i: usize) -> Op {
    Op::Delete { key: key(i) }
}

fn delete_range(start: usize, end: usize) -> Op {
    Op::DeleteRange {
        start: key(start),
        end: key(end),
    }
}

fn txn(then_ops: Vec<TxnOp>) -> Op {
    Op::Txn(Txn {
        then_ops,
        ..Txn::default()
    })
}

fn filled(n: usize) -> Shard {
    let mut shard = Shard::new();
    (0..n).for_each(|i| drop(shard.one(0, large(i, 0, 0))));
    shard
}

fn batch(index: u64, ops: impl IntoIterator<Item = Op>) -> Entry {
    let commands: Vec<Bytes> = ops.into_iter().map(|each| encode_command(&op(each))).collect();
    let position = LogPosition {
        index,
        term: 1,
        node: 1,
    };
    let payload = Payload::Batch(encode_batch(0, &commands));
    Entry { position, payload }
}

fn codes(results: &[OutcomeResult]) -> Vec<Option<ErrorCode>> {
    results.iter().map(code).collect()
}

#[test]
fn expire_stops_when_the_values_are_many_bytes() {
    let mut shard = Shard::new();
    (0..TOO_MANY + 3).for_each(|i| drop(shard.one(0, large(i, 10, 0))));
    let expire = op(Op::Expire { up_to_ms: u64::MAX });
    for (keys, more) in [(TOO_MANY as u64, true), (3, false)] {
        let leases = 0;
        let result = shard.one(10, expire.clone());
        assert_eq!(result, OutcomeResult::Expire { keys, leases, more });
    }
}

#[test]
fn a_lease_has_a_bounded_number_of_bytes_and_ends_in_one_revision() {
    let mut shard = Shard::new();
    let grant = |id| op(Op::LeaseGrant { id, ttl_ms: 1000 });
    shard.run(0, [grant(1), grant(2)]);
    let fits = TOO_MANY - 1;
    for lease in [1, 2] {
        for i in 0..fits {
            let put = large(lease as usize * 100 + i, 0, lease);
            assert_eq!(code(&shard.one(0, put)), None, "{i} of lease {lease}");
        }
    }
    let one_more = large(99, 0, 1);
    assert_eq!(code(&shard.one(0, one_more.clone())), Some(ErrorCode::Refused));
    shard.restart();
    assert_eq!(code(&shard.one(0, one_more.clone())), Some(ErrorCode::Refused));
    assert_eq!(code(&shard.one(0, large(100, 0, 1))), None, "as long as it was");
    let short = |i, lease| {
        op(Op::Put {
            key: key(i),
            value: "v".into(),
            ttl_ms: 0,
            lease,
        })
    };
    assert_eq!(code(&shard.one(0, short(100, 1))), None);
    assert_eq!(code(&shard.one(0, one_more.clone())), None, "there is room again");
    assert_eq!(
        code(&shard.one(0, large(100, 0, 1))),
        Some(ErrorCode::Refused),
        "a value that grows counts"
    );
    assert_eq!(code(&shard.one(0, short(99, 0))), None, "detached");
    assert_eq!(code(&shard.one(0, large(100, 0, 1))), None);
    // Each ends whole, but the two do not end in one command.
    let keys = fits as u64;
    for more in [true, false] {
        let revision = shard.machine.revision();
        let result = shard.one(1000, op(Op::Expire { up_to_ms: u64::MAX }));
        assert_eq!(
            result,
            OutcomeResult::Expire {
                keys,
                leases: 1,
                more
            }
        );
        assert_eq!(shard.machine.revision(), revision + 1);
    }
}

#[test]
fn one_command_replaces_and_deletes_a_bounded_number_of_bytes() {
    let mut shard = filled(TOO_MANY);
    let revision = shard.machine.revision();
    let deletes = |n| txn((0..n).map(|i| TxnOp::Delete { key: key(i) }).collect());
    let puts = |n| {
        let put = |i| TxnOp::Put {
            key: key(i),
            value: Bytes::new(),
            ttl_ms: 0,
            lease: 0,
        };
        txn((0..n).map(put).collect())
    };
    let (start, end) = (key(0), Bytes::new());
    let in_txn = txn(vec![TxnOp::DeleteRange { start, end }]);
    for too_much in [delete_range(0, 999), deletes(TOO_MANY), puts(TOO_MANY), in_txn] {
        let result = shard.one(0, op(too_much));
        assert!(
            matches!(&result, OutcomeResult::Rejected(r) if r.code == ErrorCode::Refused && r.message.contains("smaller ranges")),
            "{result:?}"
        );
    }
    assert_eq!(shard.machine.revision(), revision);
    assert_eq!(code(&shard.one(0, op(puts(TOO_MANY - 1)))), None);
    let deleted = TOO_MANY as u64;
    assert_eq!(
        shard.one(0, op(delete_range(0, 999))),
        OutcomeResult::Delete { deleted }
    );
}

#[test]
fn the_commands_of_one_entry_gather_a_bounded_number_of_bytes() {
    let fits = MAX_ENTRY_BYTES / MIB;
    let mut shard = filled(fits + 2);
    shard.run(
        0,
        [op(Op::LeaseGrant { id: 1, ttl_ms: 1000 }), op(Op::SessionOpen)],
    );
    let deletes = (0..fits + 2).map(|i| in_session(1, i as u64 + 1, 1, delete(i)));
    let small = [op(Op::LeaseKeepAlive { id: 1 }), op(put("small"))];
    let results = codes(&shard.run(0, deletes.chain(small)));
    assert!(results[..fits].iter().all(Option::is_none));
    let overloaded = Some(ErrorCode::Overloaded);
    assert_eq!(results[fits..], [overloaded, overloaded, None, overloaded]);
    // Not remembered: the same command runs in the next entry.
    let again = shard.one(0, in_session(1, fits as u64 + 1, 1, delete(fits)));
    assert_eq!(again, OutcomeResult::Delete { deleted: 1 });
    // Remembered: answered whatever the entry has gathered.
    let again = shard.one(0, in_session(1, 1, 1, delete(0)));
    assert_eq!(again, OutcomeResult::Delete { deleted: 1 });
}

#[test]
fn what_is_refused_counts_for_its_entry_too() {
    let mut shard = filled(TOO_MANY);
    let deletes = || txn((0..TOO_MANY).map(|i| TxnOp::Delete { key: key(i) }).collect());
    let results = shard.run(0, (0..4).map(|_| op(deletes())));
    let (refused, overloaded) = (Some(ErrorCode::Refused), Some(ErrorCode::Overloaded));
    assert_eq!(codes(&results), [refused, refused, overloaded, overloaded]);
}

#[test]
fn the_answers_of_one_entry_are_bounded() {
    let mut shard = filled(4);
    let get = |i| TxnOp::Get {
        key: key(i),
        revision: None,
    };
    let get_all = || op(txn((0..4).map(get).collect()));
    let fits = MAX_ENTRY_BYTES / (4 * MIB);
    let results = codes(&shard.run(0, (0..=fits).map(|_| get_all())));
    assert!(results[..fits].iter().all(Option::is_none));
    assert_eq!(results[fits], Some(ErrorCode::Overloaded));
}

#[test]
fn one_call_takes_as_many_entries_as_fit() {
    let mut shard = filled(80);
    let first = shard.machine.applied().unwrap().index + 1;
    let deletes = |n: usize| (10 * n..10 * n + 10).map(delete);
    let entries: Vec<Entry> = (0..8).map(|n| batch(first + n as u64, deletes(n))).collect();
    let mut taken = Vec::new();
    while taken.iter().sum::<usize>() < entries.len() {
        let rest = &entries[taken.iter().sum()..];
        let applied = shard.machine.apply(&shard.engine, rest).unwrap();
        shard.engine.write(applied.batch).unwrap();
        let len = applied.replies.len();
        assert_eq!(applied.applied, rest[len - 1].position);
        assert_eq!(applied.events.len(), 10 * len);
        taken.push(len);
    }
    assert_eq!(taken, [APPLY_STOP_BYTES.div_ceil(10 * MIB), 1]);
}

/// True if the slice lies in the buffer.
fn within(slice: &[u8], buffer: &[u8]) -> bool {
    buffer.as_ptr_range().contains(&slice.as_ptr())
}

#[test]
fn events_do_not_hold_the_log_entry() {
    let mut shard = Shard::new();
    shard.run(0, [op(Op::LeaseGrant { id: 1, ttl_ms: 1000 }), op(put("gone"))]);
    let value = |lease| Op::Put {
        key: "key".into(),
        value: "a value".into(),
        ttl_ms: 0,
        lease,
    };
    let in_txn = TxnOp::Append {
        prefix: "prefix".into(),
        value: "appended".into(),
        ttl_ms: 0,
    };
    let gone = Op::Delete { key: "gone".into() };
    let open = Op::ConsumerOpen {
        name: "consumer".into(),
        start_revision: 0,
    };
    let index = shard.machine.applied().unwrap().index + 1;
    let entry = batch(index, [value(1), gone, txn(vec![in_txn]), open]);
    let Payload::Batch(buffer) = entry.payload.clone() else {
        panic!("a batch")
    };
    let applied = shard.machine.apply(&shard.engine, &[entry]).unwrap();
    assert_eq!(applied.events.len(), 4);
    for event in &applied.events {
        for part in [&event.partition.name, &event.key, &event.value] {
            assert!(part.is_empty() || !within(part, &buffer), "{event:?}");
        }
    }
    let row = |value: &Bytes| {
        let writes = applied.batch.writes.iter();
        writes
            .clone()
            .any(|write| matches!(write, Write::Put(Cf::Data, _, row) if within(value, row)))
    };
    assert!(row(&applied.events[0].value), "it shares the row that is stored");
    assert!(shard.machine.consumers().all(|(name, _)| !within(name, &buffer)));
}

/// A tombstone and the event of a deletion live long: they must not hold the value that the same transaction put before.
#[test]
fn a_deletion_does_not_hold_what_its_transaction_put() {
    let mut shard = Shard::new();
    shard.one(0, op(put(key(0))));
    let put = TxnOp::Put {
        key: key(0),
        value: vec![7; MAX_VALUE].into(),
        ttl_ms: 0,
        lease: 0,
    };
    let delete = TxnOp::Delete { key: key(0) };
    let index = shard.machine.applied().unwrap().index + 1;
    let entry = batch(index, [txn(vec![put, delete])]);
    let applied = shard.machine.apply(&shard.engine, &[entry]).unwrap();
    assert_eq!(applied.events[0].kind, EventKind::Delete);
    drop(applied.events);
    let tombstone = applied.batch.writes.into_iter().find_map(|write| match write {
        Write::Delete(Cf::Data, key) => Some(key),
        _ => None,
    });
    let buffer = tombstone.unwrap().try_into_mut().expect("nothing else holds it");
    assert!(
        buffer.capacity() < MAX_KEY,
        "{} bytes are held",
        buffer.capacity()
    );
}
