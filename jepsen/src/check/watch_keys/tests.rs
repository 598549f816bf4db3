//! Bad histories of watches without values, and good ones beside them.

use super::{super::testing::*, check};
use crate::{
    check::{Commit, Context, History, Verdict},
    history::{Call, Change, Reply, Seen},
};

fn log() -> Vec<Commit> {
    let commit = |revision: u64, changes: &[Change]| Commit {
        shard: 1,
        index: revision,
        revision,
        changes: changes.to_vec(),
    };
    vec![
        commit(1, &[change(1, k(1), Some(10))]),
        commit(2, &[change(2, k(1), None), change(2, k(2), Some(20))]),
        commit(3, &[]),
        commit(4, &[change(4, k(3), Some(30))]),
    ]
}

fn keys(changes: &[Change], through: u64) -> Seen {
    Seen::Keys {
        changes: changes.to_vec(),
        through,
    }
}

fn watched(after: u64, seen: &[Seen]) -> Script {
    let call = Call::WatchKeys { shard: 1, after };
    let mut script = Script::new().ok(1, (1, 2), (call, Reply::Watching { after, epoch: 0 }));
    for (seen, time) in seen.iter().zip(3..) {
        script = script.seen(1, time, seen.clone());
    }
    script
}

fn judged(script: Script, log: Option<&[Commit]>) -> Verdict {
    let events = script.events();
    let context = Context {
        committed: log,
        ..Context::new(&shard_of)
    };
    check(&History::new(&events), &context)
}

fn all() -> [Change; 4] {
    [
        change(1, k(1), Some(0)),
        change(2, k(1), None),
        change(2, k(2), Some(0)),
        change(4, k(3), Some(0)),
    ]
}

fn against_log(after: u64, seen: &[Seen]) -> Verdict {
    judged(watched(after, seen), Some(&log()))
}

#[test]
fn every_change_of_the_log_is_shown_once_and_in_order() {
    let [one, gone, two, three] = all();
    valid(against_log(0, &[keys(&all(), 4)]));
    valid(against_log(
        0,
        &[keys(&[one], 1), keys(&[gone, two], 3), keys(&[three], 4)],
    ));
    valid(against_log(2, &[keys(&[three], 4)]));
    valid(against_log(0, &[keys(&[one, gone, two], 3)]));
    broken("gap", against_log(0, &[keys(&[one, two, three], 4)]));
    broken("gap", against_log(0, &[keys(&[one, gone, two], 4)]));
    broken("gap", against_log(1, &[keys(&[three], 4)]));
    broken("order", against_log(0, &[keys(&all(), 4), keys(&[three], 4)]));
    broken("order", against_log(0, &[keys(&[one, one, gone, two], 3)]));
    broken("order", against_log(0, &[keys(&[gone, two, one], 3)]));
    broken("order", against_log(1, &[keys(&[one, gone, two], 3)]));
}

#[test]
fn what_is_compacted_is_no_gap() {
    let [.., three] = all();
    let compacted = Seen::Compacted { resumed_after: 3 };
    valid(against_log(0, &[compacted, keys(&[three], 4)]));
}

#[test]
fn a_change_is_what_the_log_has() {
    let [one, gone, two, three] = all();
    let with = |other: Change| against_log(0, &[keys(&[one, gone, other, three], 4)]);
    valid(with(two));
    broken("content", with(Change { value: None, ..two }));
    broken("content", with(Change { version: 3, ..two }));
    broken("content", with(Change { lease: 3, ..two }));
    broken(
        "content",
        against_log(0, &[keys(&[one, gone, two, change(4, k(4), Some(0))], 4)]),
    );
}

#[test]
fn without_a_log_another_watch_tells() {
    let [one, gone, two, _] = all();
    let beside = |script: Script| {
        let call = Call::Watch {
            partition: 0,
            after: 0,
        };
        let shown = [
            change(1, k(1), Some(10)),
            change(2, k(1), None),
            change(2, k(2), Some(20)),
        ];
        let script = script.ok(2, (11, 12), (call, Reply::Watching { after: 0, epoch: 0 }));
        judged(script.seen(2, 13, changes(&shown, 2)), None)
    };
    valid(beside(watched(0, &[keys(&[one, gone, two], 2)])));
    broken("gap", beside(watched(0, &[keys(&[one, gone], 2)])));
    let put = Change {
        value: Some(0),
        ..gone
    };
    broken("content", beside(watched(0, &[keys(&[one, put, two], 2)])));
    // What only this one was shown nobody can say.
    valid(beside(watched(0, &[keys(&all(), 4)])));
}
