//! Histories and logs by hand, and random ones of a correct shard.

use proptest::prelude::*;

use super::{super::testing::*, Commit, Resolved, resolve};
use crate::{
    check::{Context, History, Verdict, linear, revisions},
    history::{Call, Change, End, Operation, Reply, paired},
};

/// The log of shard 1: one list of changes for each revision from 1 on.
fn log(changes: &[&[Change]]) -> Vec<Commit> {
    let commit = |(revision, changes): (u64, &&[Change])| Commit {
        shard: 1,
        index: 10 * revision,
        revision,
        changes: changes.to_vec(),
    };
    (1..).zip(changes).map(commit).collect()
}

fn resolved(script: Script, log: &[Commit]) -> Resolved {
    resolve(&script.events(), log, &Context::new(&shard_of))
}

/// The operations of a history that the log agrees with.
#[track_caller]
fn good(script: Script, log: &[Commit]) -> Vec<Operation> {
    let resolved = resolved(script, log);
    valid(resolved.verdict);
    paired(&resolved.events)
}

fn put(revision: u64, key: u32, value: u64) -> Change {
    change(revision, k(key), Some(value))
}

#[test]
fn an_unknown_write_that_is_in_the_log_gets_its_reply() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .unknown(2, (3, 9), call_write(k(1), 11))
        .ok(1, (4, 5), read(k(1), 1, Some((10, 1, 1, 1))))
        .ok(1, (6, 7), read(k(1), 2, Some((11, 1, 2, 2))))
        .ok(1, (20, 21), write(k(1), 12, 3, 3));
    let operations = good(
        script,
        &log(&[&[put(1, 1, 10)], &[put(2, 1, 11)], &[put(3, 1, 12)]]),
    );
    // It returned before the read that saw it did.
    assert_eq!(operations[1].end, End::Ok(7, written(2, 2)));
    assert!(operations[1].last < operations[3].last && operations[1].last > operations[2].last);
}

#[test]
fn a_revision_that_changed_nothing_of_a_workload_is_no_gap() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .unknown(2, (3, 9), call_write(k(1), 11));
    let operations = good(script, &log(&[&[put(1, 1, 10)], &[], &[put(3, 1, 11)]]));
    assert!(matches!(operations[1].end, End::Ok(..)), "{:?}", operations[1]);
}

#[test]
fn an_unknown_write_that_is_not_in_the_log_has_failed() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .unknown(2, (3, 9), call_write(k(1), 11));
    let operations = good(script, &log(&[&[put(1, 1, 10)]]));
    assert!(matches!(operations[1].end, End::Fail(9, _)), "{operations:?}");
}

#[test]
fn equal_operations_are_taken_by_invocation() {
    let add = Call::Increment { key: k(1), delta: 2 };
    let script = Script::new()
        .unknown(1, (1, 10), add.clone())
        .unknown(2, (2, 11), add.clone())
        .unknown(3, (3, 12), add);
    let operations = good(script, &log(&[&[put(1, 1, 2)], &[put(2, 1, 4)]]));
    let number = |revision, value| Reply::Number { revision, value };
    assert_eq!(operations[0].end, End::Ok(12, number(1, 2)));
    assert_eq!(operations[1].end, End::Ok(12, number(2, 4)));
    assert!(matches!(operations[2].end, End::Fail(..)));
}

#[test]
fn every_kind_of_change_is_recognised() {
    let append = |value| Call::Append { list: k(7), value };
    let transfer = Call::Transfer {
        partition: 0,
        from: 5,
        to: 6,
        amount: 30,
    };
    let cas = Call::Cas {
        key: k(1),
        from: 10,
        to: 11,
    };
    let script = Script::new()
        .ok(9, (1, 2), write(k(1), 10, 1, 1))
        .unknown(1, (3, 50), cas)
        .unknown(2, (4, 51), Call::Delete { key: k(1) })
        .unknown(3, (5, 52), append(70))
        .unknown(4, (6, 53), append(71))
        .unknown(5, (7, 54), transfer);
    let log = log(&[
        &[put(1, 1, 10)],
        &[put(2, 1, 11)],
        &[change(3, k(1), None)],
        &[put(4, 7, 71)],
        &[put(5, 7, 70)],
        // The accounts were opened before the history.
        &[put(6, 5, 100), put(6, 6, 100)],
        &[put(7, 5, 70), put(7, 6, 130)],
    ]);
    let resolved = resolve(&script.events(), &log, &{
        let mut context = Context::new(&shard_of);
        context.accounts.extend([(k(5), 100), (k(6), 100)]);
        context
    });
    valid(resolved.verdict);
    let replies: Vec<_> = paired(&resolved.events)
        .into_iter()
        .map(|operation| match operation.end {
            End::Ok(_, reply) => reply,
            end => panic!("{end:?}"),
        })
        .collect();
    let (existed, revision) = (true, 3);
    assert_eq!(replies[1], written(2, 2));
    assert_eq!(replies[2], Reply::Deleted { revision, existed });
    assert_eq!(replies[3], Reply::Appended { revision: 5, seq: 2 });
    assert_eq!(replies[4], Reply::Appended { revision: 4, seq: 1 });
    assert_eq!(replies[5], written(7, 0));
}

#[test]
fn different_operations_that_write_one_value_stay_unknown() {
    let cas = Call::Cas {
        key: k(1),
        from: 10,
        to: 11,
    };
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .unknown(2, (3, 8), cas)
        .unknown(3, (4, 9), call_write(k(1), 11));
    let operations = good(script, &log(&[&[put(1, 1, 10)], &[put(2, 1, 11)]]));
    assert!(
        operations[1..]
            .iter()
            .all(|operation| operation.end == End::Unknown)
    );
}

#[test]
fn a_resolved_history_shows_more() {
    // The unknown write was committed before the read, which nobody but the log knows.
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .unknown(2, (3, 4), call_write(k(1), 11))
        .ok(1, (5, 6), write(k(2), 20, 3, 1))
        .ok(1, (7, 8), read(k(1), 3, Some((10, 1, 1, 1))));
    let events = script.events();
    let context = Context::new(&shard_of);
    valid(linear::check(&History::new(&events), &context));
    let log = log(&[&[put(1, 1, 10)], &[put(2, 1, 11)], &[put(3, 2, 20)]]);
    let resolved = resolve(&events, &log, &context);
    broken(
        "linearizability",
        linear::check(&History::new(&resolved.events), &context),
    );
}

#[test]
fn an_acknowledged_write_that_is_not_in_the_log() {
    let script = || {
        Script::new()
            .ok(1, (1, 2), write(k(1), 10, 1, 1))
            .ok(1, (3, 4), write(k(1), 11, 2, 2))
    };
    broken("lost", resolved(script(), &log(&[&[put(1, 1, 10)]])).verdict);
    broken(
        "lost",
        resolved(script(), &log(&[&[put(1, 1, 10)], &[put(2, 1, 12)]])).verdict,
    );
}

#[test]
fn a_change_that_nobody_asked_for() {
    let script = Script::new().ok(1, (1, 2), write(k(1), 10, 1, 1));
    broken(
        "phantom",
        resolved(script, &log(&[&[put(1, 1, 10)], &[put(2, 1, 12)]])).verdict,
    );
}

#[test]
fn an_unknown_write_that_was_committed_twice() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .unknown(2, (3, 4), call_write(k(1), 11));
    let log = log(&[&[put(1, 1, 10)], &[put(2, 1, 11)], &[put(3, 1, 11)]]);
    broken("phantom", resolved(script, &log).verdict);
}

#[test]
fn a_change_that_was_told_before_it_was_asked_for() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(2), 10, 2, 1))
        .unknown(2, (3, 4), call_write(k(1), 11));
    broken(
        "phantom",
        resolved(script, &log(&[&[put(1, 1, 11)], &[put(2, 2, 10)]])).verdict,
    );
}

#[test]
fn two_different_changes_of_one_revision() {
    let script = Script::new().ok(1, (1, 2), write(k(1), 10, 1, 1));
    let mut log = log(&[&[put(1, 1, 10)]]);
    log.push(Commit {
        changes: vec![put(1, 1, 11)],
        ..log[0].clone()
    });
    broken("log", resolved(script, &log).verdict);
}

#[test]
fn an_incomplete_log_resolves_nothing() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 2, 1))
        .unknown(2, (3, 4), call_write(k(1), 11));
    let resolved = resolved(script, &log(&[&[put(1, 1, 9)], &[put(2, 1, 10)]])[1..]);
    unknown(resolved.verdict);
    assert_eq!(paired(&resolved.events)[1].end, End::Unknown);
}

/// Three registers, each operation over before the next begins but for those of unknown outcome; and the log.
fn correct(plan: &[(u32, u8)]) -> (Script, Vec<Commit>) {
    let mut script = Script::new();
    let mut log: Vec<Vec<Change>> = Vec::new();
    let mut rows: [Option<(u64, u64, u64, u64)>; 3] = [None; 3];
    for (at, (key, what)) in (1..).zip(plan) {
        let (span, key) = ((10 * at, 10 * at + 5), key % 3);
        let row = &mut rows[key as usize];
        let is_lost = what & 0b1100 == 0;
        let call = match what % 3 {
            0 => call_write(k(key), at),
            1 => Call::Delete { key: k(key) },
            _ => call_read(k(key)),
        };
        if is_lost && what & 0b1_0000 == 0 {
            script = script.unknown(100 + at, span, call);
            continue;
        }
        let revision = log.len() as u64 + 1;
        let reply = match what % 3 {
            0 => {
                let (created, version) =
                    row.map_or((revision, 1), |(_, created, _, version)| (created, version + 1));
                *row = Some((at, created, revision, version));
                log.push(vec![put(revision, key, at)]);
                written(revision, version)
            }
            1 => {
                let existed = row.take().is_some();
                if existed {
                    log.push(vec![change(revision, k(key), None)]);
                }
                let revision = log.len() as u64;
                Reply::Deleted { revision, existed }
            }
            _ => read(k(key), log.len() as u64, *row).1,
        };
        script = if is_lost {
            script.unknown(100 + at, span, call)
        } else {
            script.ok(1, span, (call, reply))
        };
    }
    let log: Vec<_> = log.iter().map(|changes| &changes[..]).collect();
    (script, self::log(&log))
}

proptest! {
    #[test]
    fn a_correct_history_is_resolved(plan in proptest::collection::vec((0..3u32, any::<u8>()), 1..80)) {
        let (script, log) = correct(&plan);
        let resolved = resolved(script, &log);
        let is_wrong = |verdict: &Verdict| matches!(verdict, Verdict::Invalid { .. });
        prop_assert!(!is_wrong(&resolved.verdict), "{}", resolved.verdict);
        let history = History::new(&resolved.events);
        let is_change = |operation: &Operation| !matches!(operation.call, Call::Read { .. });
        prop_assert!(history.operations.iter().filter(|o| is_change(o)).all(|o| o.end != End::Unknown));
        let context = Context::new(&shard_of);
        for verdict in [linear::check(&history, &context), revisions::check(&history, &context)] {
            prop_assert!(!is_wrong(&verdict), "{}", verdict);
        }
    }
}
