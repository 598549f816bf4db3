//! The state machine against the naive model, in any split, across restarts, with garbage dropped at any time; and its bounds.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    codec::{encode_batch, encode_command},
    command::{SessionSeq, Txn, TxnOp},
    engine::{Engine, Write},
    event::EventKind,
    hash::state_hash,
    limits::*,
    mem::MemEngine,
    testing::{Model, any_log, cases, check_reads},
    types::Partition,
};

const SHARD: ShardId = ShardId(1);

fn all_rows(engine: &MemEngine) -> Vec<Vec<(Bytes, Bytes)>> {
    Cf::ALL.into_iter().map(|cf| engine.rows(cf)).collect()
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn does_what_the_model_does(log in any_log(25), splits in vec(1..6usize, 1..4)) {
        let engine = MemEngine::new();
        let (machine, replies, events) = log.run(SHARD, &engine, &splits, |_, _| {});
        let (model, wanted) = log.model();
        for (real, wanted) in replies.iter().flatten().zip(wanted.iter().flatten()) {
            prop_assert!(Model::same(wanted, real), "{real:?} instead of {wanted:?}");
        }
        prop_assert_eq!(replies.len(), wanted.len());
        prop_assert_eq!(&events, &model.events);
        prop_assert_eq!(machine.event_bytes(), events.iter().map(crate::event::Event::size).sum::<u64>());
        let consumers = machine.consumers().map(|(name, row)| (name.clone(), (row.epoch, row.cursor)));
        prop_assert_eq!(consumers.collect::<Vec<_>>(), model.consumers.clone().into_iter().collect::<Vec<_>>());
        check_reads(&engine, SHARD, &model);
    }

    #[test]
    fn splits_and_restarts_change_nothing(
        log in any_log(25),
        splits in vec(1..6usize, 1..4),
        bytes in prop_oneof![Just(usize::MAX), 0..5_000usize],
        restarts in vec(any::<bool>(), 1..8),
    ) {
        let (one, other) = (MemEngine::new(), MemEngine::new());
        let (_, replies, events) = log.run(SHARD, &one, &[usize::MAX], |_, _| {});
        let mut restarts = restarts.into_iter().cycle();
        let bounds = ApplyBounds { bytes, ..ApplyBounds::new() };
        let (_, same_replies, same_events) = log.run_within(SHARD, &other, &splits, bounds, |engine, machine| {
            let mut loaded = Machine::load(SHARD, engine).unwrap();
            // Only a hint.
            loaded.ttl_from.clone_from(&machine.ttl_from);
            assert_eq!(format!("{loaded:?}"), format!("{machine:?}"), "all that is in memory is stored");
            if restarts.next().unwrap() {
                *machine = loaded;
            }
        });
        prop_assert_eq!(replies, same_replies);
        prop_assert_eq!(events, same_events);
        prop_assert_eq!(all_rows(&one), all_rows(&other));
        prop_assert_eq!(state_hash(&one, SHARD).unwrap(), state_hash(&other, SHARD).unwrap());
    }

    #[test]
    fn dropped_garbage_is_not_missed(log in any_log(25), drops in vec(any::<bool>(), 1..8)) {
        let (one, other) = (MemEngine::new(), MemEngine::new());
        let (_, replies, _) = log.run(SHARD, &one, &[1], |_, _| {});
        let mut drops = drops.into_iter().cycle();
        let (_, same_replies, _) = log.run(SHARD, &other, &[1], |engine, machine| {
            if drops.next().unwrap() {
                engine.set_garbage_floor(SHARD, machine.floor());
                engine.flush().unwrap();
            }
        });
        prop_assert_eq!(replies, same_replies);
        prop_assert_eq!(state_hash(&one, SHARD).unwrap(), state_hash(&other, SHARD).unwrap());
        check_reads(&other, SHARD, &log.model().0);
    }

    #[test]
    fn a_crash_repeats_what_was_lost(log in any_log(30), flushed in 0..30usize) {
        let (whole, engine) = (MemEngine::new(), MemEngine::new());
        let entries = log.committed();
        let flushed = flushed.min(entries.len());
        let run = |engine: &MemEngine, entries: &[Entry]| {
            let mut machine = Machine::load(SHARD, engine).unwrap();
            let applied = machine.apply(engine, entries).unwrap();
            engine.write(applied.batch).unwrap();
            applied.replies
        };
        let replies = run(&whole, &entries);
        run(&engine, &entries[..flushed]);
        engine.flush().unwrap();
        run(&engine, &entries[flushed..]);
        let restarted = engine.crash();
        prop_assert_eq!(run(&restarted, &entries[flushed..]), &replies[flushed..]);
        prop_assert_eq!(all_rows(&restarted), all_rows(&whole));
    }

    #[test]
    fn arbitrary_commands_are_refused_alike(garbage in vec(vec(any::<u8>(), 0..40), 0..4)) {
        let garbage: Vec<Bytes> = garbage.into_iter().map(Bytes::from).collect();
        let mut shard = Shard::new();
        let outcomes = shard.entry(10, &garbage);
        prop_assert_eq!(outcomes.len(), garbage.len());
        prop_assert_eq!(shard.machine.applied().unwrap().index, 1);
    }
}

mod compaction;
mod expiry;
mod memory;
mod reads;
mod restore;
mod sessions;

/// A shard with one engine, driven entry by entry.
struct Shard {
    engine: MemEngine,
    machine: Machine,
    events: Vec<Event>,
}

fn op(op: Op) -> Command {
    Command {
        partition: Partition::local("p"),
        session: None,
        op,
    }
}

fn in_session(session: u64, seq: u64, acked_below: u64, op: Op) -> Command {
    let session = Some(SessionSeq {
        session,
        seq,
        acked_below,
    });
    Command {
        partition: Partition::local("p"),
        session,
        op,
    }
}

fn put(key: impl Into<Bytes>) -> Op {
    put_value(key, "v")
}

fn put_value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
    Op::Put {
        key: key.into(),
        value: value.into(),
        ttl_ms: 0,
        lease: 0,
    }
}

impl Shard {
    fn new() -> Self {
        let engine = MemEngine::new();
        let machine = Machine::load(SHARD, &engine).unwrap();
        Self {
            engine,
            machine,
            events: Vec::new(),
        }
    }

    fn entry(&mut self, stamp: StampMs, commands: &[Bytes]) -> Vec<Outcome> {
        let index = self.machine.applied().map_or(1, |last| last.index + 1);
        let payload = Payload::Batch(encode_batch(stamp, commands));
        let entry = Entry {
            position: LogPosition {
                index,
                term: 1,
                node: 1,
            },
            payload,
        };
        let mut applied = self.machine.apply(&self.engine, &[entry]).unwrap();
        self.engine.write(applied.batch).unwrap();
        self.events = applied.events;
        applied.replies.remove(0)
    }

    fn run(&mut self, stamp: StampMs, commands: impl IntoIterator<Item = Command>) -> Vec<OutcomeResult> {
        let commands: Vec<Bytes> = commands
            .into_iter()
            .map(|command| encode_command(&command))
            .collect();
        self.entry(stamp, &commands)
            .into_iter()
            .map(|outcome| outcome.result)
            .collect()
    }

    fn one(&mut self, stamp: StampMs, command: Command) -> OutcomeResult {
        self.run(stamp, [command]).remove(0)
    }

    fn restart(&mut self) {
        self.machine = Machine::load(SHARD, &self.engine).unwrap();
    }
}

fn code(result: &OutcomeResult) -> Option<ErrorCode> {
    match result {
        OutcomeResult::Rejected(rejection) => Some(rejection.code),
        _ => None,
    }
}

#[test]
fn a_lease_has_a_bounded_number_of_keys() {
    let mut shard = Shard::new();
    shard.one(0, op(Op::LeaseGrant { id: 0, ttl_ms: 1000 }));
    let attach = |i: usize| {
        op(Op::Put {
            key: format!("{i}").into(),
            value: Bytes::new(),
            ttl_ms: 0,
            lease: 1,
        })
    };
    let results = shard.run(0, (0..=MAX_LEASE_KEYS).map(attach));
    assert_eq!(results.iter().filter(|result| code(result).is_some()).count(), 1);
    assert_eq!(code(&results[MAX_LEASE_KEYS]), Some(ErrorCode::Refused));
    shard.restart();
    assert_eq!(
        code(&shard.one(0, attach(MAX_LEASE_KEYS))),
        Some(ErrorCode::Refused)
    );
    assert_eq!(code(&shard.one(0, attach(0))), None, "a key it has already");
    let revision = shard.machine.revision();
    let result = shard.one(0, op(Op::LeaseRevoke { id: 1 }));
    assert_eq!(
        result,
        OutcomeResult::Lease {
            id: 1,
            ttl_ms: 1000,
            deleted: MAX_LEASE_KEYS as u64
        }
    );
    assert_eq!(shard.machine.revision(), revision + 1);
    assert_eq!(shard.machine.leases(), 0);
}

#[test]
fn one_command_deletes_a_bounded_number_of_keys() {
    let mut shard = Shard::new();
    shard.run(0, (0..=MAX_DELETE_RANGE_KEYS).map(|i| op(put(format!("{i}")))));
    let all = |end: &'static str| TxnOp::DeleteRange {
        start: Bytes::new(),
        end: end.into(),
    };
    let result = shard.one(
        0,
        op(Op::DeleteRange {
            start: Bytes::new(),
            end: Bytes::new(),
        }),
    );
    assert_eq!(code(&result), Some(ErrorCode::Refused));
    let txn = Txn {
        then_ops: vec![all("5"), all("")],
        ..Txn::default()
    };
    let result = shard.one(0, op(Op::Txn(txn)));
    assert!(
        matches!(&result, OutcomeResult::Rejected(r) if r.message.starts_with("then 1: ")),
        "{result:?}"
    );
    assert_eq!(shard.machine.revision(), MAX_DELETE_RANGE_KEYS as u64 + 1);
    shard.one(0, op(Op::Delete { key: "7".into() }));
    let result = shard.one(
        0,
        op(Op::DeleteRange {
            start: Bytes::new(),
            end: Bytes::new(),
        }),
    );
    assert_eq!(
        result,
        OutcomeResult::Delete {
            deleted: MAX_DELETE_RANGE_KEYS as u64
        }
    );
}

/// What one command deletes is one revision, and so one message to each watch: its keys are bounded in bytes too.
#[test]
fn one_revision_deletes_a_bounded_number_of_bytes() {
    let long = |i: usize| Bytes::from(format!("{i:0>len$}", len = MAX_KEY));
    let mut shard = Shard::new();
    let granted = (1..=2).map(|id| op(Op::LeaseGrant { id, ttl_ms: 1000 }));
    shard.run(0, granted);
    let attach = |i: usize, lease: u64| {
        op(Op::Put {
            key: long(i),
            value: Bytes::new(),
            ttl_ms: 0,
            lease,
        })
    };
    let fits = (MAX_DELETED_KEY_BYTES - 1) / MAX_KEY;
    let results = shard.run(0, (0..=fits).map(|i| attach(i, 1)));
    let refused = results.iter().position(|result| code(result).is_some());
    let attached = refused.expect("one lease cannot have all of them");
    assert!(attached > fits - 50, "{attached} of {fits}");
    shard.run(0, (attached..2 * attached).map(|i| attach(i, 2)));
    shard.restart();
    assert_eq!(code(&shard.one(0, attach(fits, 1))), Some(ErrorCode::Refused));
    let all = Op::DeleteRange {
        start: Bytes::new(),
        end: Bytes::new(),
    };
    assert_eq!(code(&shard.one(0, op(all))), Some(ErrorCode::Refused));
    let half = Op::DeleteRange {
        start: Bytes::new(),
        end: long(attached / 2),
    };
    let result = shard.one(0, op(half));
    let deleted = (attached / 2) as u64;
    assert_eq!(result, OutcomeResult::Delete { deleted });
    // The first one's rest leaves room, so both end at once: twice the bound is the most that one revision deletes.
    let result = shard.one(1000, op(Op::Expire { up_to_ms: u64::MAX }));
    let keys = 2 * attached as u64 - deleted;
    let (leases, more) = (2, false);
    assert_eq!(result, OutcomeResult::Expire { keys, leases, more });
    assert_eq!(shard.machine.leases(), 0);
}

#[test]
fn the_answers_of_a_transaction_are_bounded() {
    let mut shard = Shard::new();
    let value = Bytes::from(vec![7; MAX_VALUE]);
    shard.one(0, op(put_value("k", value)));
    let gets = |n| Txn {
        then_ops: vec![
            TxnOp::Get {
                key: "k".into(),
                revision: None
            };
            n
        ],
        ..Txn::default()
    };
    let fitting = MAX_TXN_RESULT_BYTES.div_ceil(MAX_VALUE + 1);
    assert_eq!(code(&shard.one(0, op(Op::Txn(gets(fitting))))), None);
    assert_eq!(
        code(&shard.one(0, op(Op::Txn(gets(fitting + 1))))),
        Some(ErrorCode::Refused)
    );
}

#[test]
fn a_long_entry_becomes_several_log_rows() {
    let mut shard = Shard::new();
    let key = |i: usize| Bytes::from(format!("{i:0width$}", width = MAX_KEY));
    let count = 3 * LOG_ROW_BYTES / MAX_KEY;
    shard.run(0, (0..count).map(|i| op(put(key(i)))));
    assert_eq!(shard.engine.rows(Cf::Log).len(), 3);
    let replay = crate::read::replay(&shard.engine, SHARD, 0, usize::MAX, &|_, _| true).unwrap();
    assert_eq!(replay.events, shard.events);
    assert_eq!(
        shard.machine.lag_bytes(&shard.engine, 0),
        Ok(shard.machine.event_bytes())
    );
    let last = shard.machine.revision();
    assert!(shard.machine.lag_bytes(&shard.engine, last - 1).unwrap() < shard.machine.event_bytes() / 2);
    assert_eq!(shard.machine.lag_bytes(&shard.engine, last), Ok(0));
}

#[test]
fn what_does_not_follow_or_decode_stops_the_replica() {
    let mut shard = Shard::new();
    shard.one(0, op(put("k")));
    let entry = |index, term, payload| Entry {
        position: LogPosition { index, term, node: 1 },
        payload,
    };
    let apply = |entry: Entry| {
        Machine::load(SHARD, &shard.engine)
            .unwrap()
            .apply(&shard.engine, &[entry])
            .map(|applied| applied.applied)
    };
    assert!(apply(entry(2, 1, Payload::Blank)).is_ok());
    assert!(apply(entry(1, 1, Payload::Blank)).is_err(), "again");
    assert!(apply(entry(3, 1, Payload::Blank)).is_err(), "a gap");
    assert!(apply(entry(2, 0, Payload::Blank)).is_err(), "an older term");
    assert!(apply(entry(2, 1, Payload::Batch("?".into()))).is_err());
    let mut batch = WriteBatch::default();
    batch.put(Cf::State, keys::head_key(SHARD), "?");
    shard.engine.write(batch).unwrap();
    let corrupt = Machine::load(SHARD, &shard.engine).unwrap_err();
    assert!(corrupt.to_string().contains("state row"), "{corrupt}");
}

#[test]
fn membership_and_position_are_kept() {
    let mut shard = Shard::new();
    let entries = [
        Entry {
            position: LogPosition {
                index: 0,
                term: 1,
                node: 2,
            },
            payload: Payload::Membership("m".into()),
        },
        Entry {
            position: LogPosition {
                index: 1,
                term: 2,
                node: 3,
            },
            payload: Payload::Blank,
        },
    ];
    let applied = shard.machine.apply(&shard.engine, &entries).unwrap();
    assert_eq!(applied.replies, [[], []]);
    assert_eq!(applied.batch.writes.len(), 1);
    assert!(
        matches!(&applied.batch.writes[0], Write::Put(Cf::State, key, _) if *key == keys::head_key(SHARD))
    );
    shard.engine.write(applied.batch).unwrap();
    shard.restart();
    assert_eq!(shard.machine.membership(), "m");
    assert_eq!(
        shard.machine.applied(),
        Some(LogPosition {
            index: 1,
            term: 2,
            node: 3
        })
    );
}
