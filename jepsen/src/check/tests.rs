//! All checkers together.

use std::collections::BTreeSet;

use super::{Commit, Context, Replica, Verdict, Workload, check_all, testing::*};
use crate::history::{Call, Mode, Reply};

#[test]
fn checkers_that_apply_are_run() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .unknown(2, (3, 4), call_write(k(1), 11))
        .ok(1, (5, 6), read(k(1), 2, Some((11, 1, 2, 2))));
    let commit = |revision, value| Commit {
        shard: 1,
        index: revision,
        revision,
        changes: vec![change(revision, k(1), Some(value))],
    };
    let log = [commit(1, 10), commit(2, 11)];
    let replica = |node| Replica {
        node,
        shard: 1,
        applied: 2,
        hash: 3,
    };
    let replicas = [replica(1), replica(2)];
    let context = Context {
        committed: Some(&log),
        replicas: &replicas,
        ..Context::new(&shard_of)
    };
    let workloads = BTreeSet::from([Workload::Register, Workload::Counter]);
    let verdicts = check_all(&workloads, &script.events(), &context);
    let names: Vec<_> = verdicts.keys().copied().collect();
    assert_eq!(
        names,
        [
            "answers",
            "committed",
            "convergence",
            "counter",
            "linear",
            "revisions"
        ]
    );
    for (name, verdict) in verdicts {
        // There is no counter in the history.
        assert_eq!(verdict.is_valid(), name != "counter", "{name}: {verdict}");
    }
}

#[test]
fn a_long_run_in_which_a_rule_was_not_looked_at_is_unknown() {
    let (call, mode) = (
        Call::List {
            list: k(1),
            mode: Mode::Linearizable,
        },
        Mode::Linearizable,
    );
    let list = || {
        let reply = Reply::Items {
            revision: 1,
            items: vec![(1, 10)],
        };
        let append = Call::Append {
            list: k(1),
            value: 10,
        };
        let appended = Reply::Appended { revision: 1, seq: 1 };
        Script::new()
            .ok(1, (1, 2), (append, appended))
            .ok(1, (3, 4), (call.clone(), reply))
    };
    let verdict = |script: Script, demanding| {
        let context = Context {
            demanding,
            ..Context::new(&shard_of)
        };
        let workloads = BTreeSet::from([Workload::SetList]);
        check_all(&workloads, &script.events(), &context)["set_list"].clone()
    };
    valid(verdict(list(), false));
    let Verdict::Unknown { why } = verdict(list(), true) else {
        panic!("it is not unknown");
    };
    assert_eq!(why, "there is nothing to check of: scans");
    let partition = 9;
    let scanned = list().ok(
        1,
        (5, 6),
        (
            Call::Scan { partition, mode },
            Reply::Items {
                revision: 1,
                items: Vec::new(),
            },
        ),
    );
    valid(verdict(scanned, true));
}

#[test]
fn a_verdict_in_words() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 7, 1))
        .ok(2, (3, 4), write(k(2), 11, 6, 1));
    let text = script.check(super::revisions::check).to_string();
    assert_eq!(
        text,
        "invalid: real time: #1 (process 2, 3..4 ns) write [0 2] = 11 -> written at revision 6, version 1 began after \
         #0 (process 1, 1..2 ns) write [0 1] = 10 -> written at revision 7, version 1 had ended with revision 7; operations [0, 1]"
    );
}

#[test]
fn registers_need_more_of_a_long_run() {
    let script = || Script::new().ok(1, (1, 2), write(k(1), 10, 1, 1));
    let verdict = |script: Script| {
        let context = Context {
            demanding: true,
            ..Context::new(&shard_of)
        };
        let workloads = BTreeSet::from([Workload::Register]);
        check_all(&workloads, &script.events(), &context)["revisions"].to_string()
    };
    let why = verdict(script());
    assert!(
        why.ends_with("nothing to check of: chained, values, states, absences, read at the end"),
        "{why}"
    );
    let why = verdict(
        script()
            .ok(1, (3, 4), delete(k(1), 2, true))
            .ok(1, (5, 6), read(k(1), 2, None)),
    );
    assert!(
        why.ends_with("nothing to check of: states, read at the end"),
        "{why}"
    );
}
