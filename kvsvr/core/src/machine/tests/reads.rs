//! Reads in transactions that go through the log: of the newest state only, and what their continuations mean afterwards.

use proptest::option;

use super::*;
use crate::{
    command::{Range, TxnResult},
    read::ScanBudget,
    testing::Log,
};

/// What the reads of a transaction may look at: so little that the next one often does not fit.
fn tight() -> impl Strategy<Value = ResultBudget> {
    (1..300usize, 1..100usize, 1..4usize, 1..4usize).prop_map(|(bytes, scanned, skips, versions)| {
        let scan = ScanBudget {
            bytes: scanned,
            skips,
            versions,
        };
        ResultBudget { bytes, scan }
    })
}

/// Versions of a few keys, compactions close behind the newest revision, and ranges in the log, some of them of older states that are
/// still in reach.
fn overwritten() -> impl Strategy<Value = Log> {
    #[derive(Clone, Debug)]
    enum Act {
        Put(u8),
        Compact(u64),
        Read(Vec<(Option<u64>, bool)>),
    }
    let act = prop_oneof![
        6 => (0..3u8).prop_map(Act::Put),
        2 => (0..3u64).prop_map(Act::Compact),
        3 => vec((option::weighted(0.4, 0..3u64), any::<bool>()), 1..4).prop_map(Act::Read),
    ];
    vec(act, 10..60).prop_map(|acts| {
        let mut revision = 0u64;
        let mut seq = 0;
        let mut entries = vec![(0, vec![op(Op::SessionOpen)])];
        for act in acts {
            let act = match act {
                Act::Put(key) => {
                    revision += 1;
                    put(vec![b'a' + key])
                }
                Act::Compact(behind) => Op::Compact {
                    revision: revision.saturating_sub(behind),
                    pass_below: 0,
                },
                Act::Read(ranges) => Op::Txn(Txn {
                    then_ops: ranges
                        .into_iter()
                        .map(|(behind, reverse)| {
                            TxnOp::Range(Range {
                                revision: behind.map(|behind| revision.saturating_sub(behind).max(1)),
                                reverse,
                                ..Range::default()
                            })
                        })
                        .collect(),
                    ..Txn::default()
                }),
            };
            seq += 1;
            entries.push((seq, vec![in_session(1, seq, 1, act)]));
        }
        Log { entries }
    })
}

proptest! {
    #![proptest_config(cases(128))]

    /// Reads that run into their bounds do so at the same place on a replica that has dropped its garbage as on one that has not.
    #[test]
    fn bounds_of_reads_do_not_depend_on_garbage(log in overwritten(), reads in tight()) {
        let bounds = ApplyBounds { reads, ..ApplyBounds::new() };
        let (one, other) = (MemEngine::new(), MemEngine::new());
        let (_, replies, _) = log.run_within(SHARD, &one, &[1], bounds, |_, _| {});
        let (_, same_replies, _) = log.run_within(SHARD, &other, &[1], bounds, |engine, machine| {
            engine.set_garbage_floor(SHARD, machine.floor());
            engine.flush().unwrap();
        });
        prop_assert_eq!(replies, same_replies);
        prop_assert_eq!(state_hash(&one, SHARD).unwrap(), state_hash(&other, SHARD).unwrap());
    }
}

/// The bounds that the test above makes small are reached by what it reads.
#[test]
fn reads_run_into_their_bounds() {
    let mut shard = filled();
    let range = || TxnOp::Range(Range::default());
    let mut bounds = ApplyBounds::new();
    bounds.reads.scan.bytes = 1;
    let command = encode_command(&txn(vec![range(), range()], vec![]));
    let entry = Entry {
        position: LogPosition {
            index: 2,
            term: 1,
            node: 1,
        },
        payload: Payload::Batch(encode_batch(0, &[command])),
    };
    let applied = shard
        .machine
        .apply_within(&shard.engine, &[entry], bounds)
        .unwrap();
    assert_eq!(code(&applied.replies[0][0].result), Some(ErrorCode::Refused));
}

fn get(revision: Option<Revision>) -> TxnOp {
    TxnOp::Get {
        key: "a".into(),
        revision,
    }
}

fn first_page() -> Range {
    Range {
        limit: 1,
        ..Range::default()
    }
}

fn txn_put(key: &'static str) -> TxnOp {
    TxnOp::Put {
        key: key.into(),
        value: "new".into(),
        ttl_ms: 0,
        lease: 0,
    }
}

fn txn(then_ops: Vec<TxnOp>, else_ops: Vec<TxnOp>) -> Command {
    op(Op::Txn(Txn {
        compares: Vec::new(),
        then_ops,
        else_ops,
    }))
}

/// A shard with `a` and `b`.
fn filled() -> Shard {
    let mut shard = Shard::new();
    shard.run(0, ["a", "b"].map(|key| op(put(key))));
    shard
}

/// The page that the last operation of the transaction gave, and the one after it, read outside the log.
fn pages(shard: &Shard, result: OutcomeResult) -> [Vec<Bytes>; 2] {
    let OutcomeResult::Txn(TxnResult { results, .. }) = result else {
        panic!("{result:?}");
    };
    let page = results.into_iter().find_map(|result| match result {
        crate::command::TxnOpResult::Range(page) => Some(page),
        _ => None,
    });
    let page = page.unwrap();
    let range = Range {
        continuation: page.continuation,
        ..Range::default()
    };
    let rest = crate::read::range(&shard.engine, SHARD, &Partition::local("p"), &range).unwrap();
    [page.kvs, rest.kvs].map(|kvs| kvs.into_iter().map(|kv| kv.key).collect())
}

#[test]
fn older_states_are_refused_in_either_branch() {
    let mut shard = filled();
    let pinned = Range {
        revision: Some(2),
        ..Range::default()
    };
    let continued = Range {
        continuation: "c".into(),
        ..Range::default()
    };
    let old = [
        get(Some(1)),
        get(Some(2)),
        TxnOp::Range(pinned),
        TxnOp::Range(continued),
    ];
    for read in old {
        let branches = [
            (vec![txn_put("c"), read.clone()], vec![], "then 1: "),
            (vec![txn_put("c")], vec![read.clone()], "else 0: "),
            (vec![read.clone()], vec![], "then 0: "),
        ];
        for (then_ops, else_ops, place) in branches {
            let result = shard.one(0, txn(then_ops, else_ops));
            assert!(
                matches!(&result, OutcomeResult::Rejected(r)
                    if r.code == ErrorCode::Invalid && r.message.starts_with(place) && r.message.contains("sent as a read")),
                "{read:?}: {result:?}"
            );
        }
    }
    assert_eq!(shard.machine.revision(), 2);
    assert!(matches!(
        shard.one(0, txn(vec![get(None)], vec![])),
        OutcomeResult::Txn(_)
    ));
}

#[test]
fn a_continuation_pins_the_state_before_or_after_the_transaction() {
    let mut shard = filled();
    let range = || TxnOp::Range(first_page());
    let before = shard.one(0, txn(vec![range(), txn_put("c")], vec![]));
    let after = shard.one(0, txn(vec![txn_put("d"), range()], vec![]));
    shard.one(0, op(put("e")));
    assert_eq!(pages(&shard, before), [vec!["a"], vec!["b"]]);
    assert_eq!(pages(&shard, after), [vec!["a"], vec!["b", "c", "d"]]);
}

/// The transaction has no revision of its own then: the next one that gets this number has another state.
#[test]
fn a_continuation_of_a_transaction_without_effect_pins_the_state_before_it() {
    let mut shard = filled();
    let gone = TxnOp::Delete { key: "c".into() };
    let range = TxnOp::Range(first_page());
    let result = shard.one(0, txn(vec![txn_put("c"), range, gone], vec![]));
    assert_eq!(shard.machine.revision(), 2);
    shard.one(0, op(put("d")));
    assert_eq!(pages(&shard, result), [vec!["a"], vec!["b"]]);
}
