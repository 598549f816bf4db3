//! Bad histories of transactions, and good ones beside them.

use super::{super::testing::*, check};
use crate::{
    check::{Commit, Context, History, Verdict},
    history::{Action, Answer, Call, Change, Condition, Is, Reply, Row, Side, Txn, TxnDone},
};

fn condition(key: u32, side: Side, is: Is, number: u64) -> Condition {
    Condition {
        key,
        side,
        is,
        number,
    }
}

fn put(key: u32, value: u64) -> Action {
    Action::Put { key, value }
}

fn txn(conditions: &[Condition], then: &[Action], or_else: &[Action]) -> Txn {
    Txn {
        partition: 0,
        conditions: conditions.to_vec(),
        then: then.to_vec(),
        or_else: or_else.to_vec(),
    }
}

fn done(txn: &Txn, revision: u64, succeeded: bool, answers: &[Answer]) -> (Call, Reply) {
    let done = TxnDone {
        revision,
        succeeded,
        answers: answers.to_vec(),
    };
    (Call::Txn(txn.clone()), Reply::Txn(done))
}

fn commit(revision: u64, changes: &[Change]) -> Commit {
    Commit {
        shard: 1,
        index: revision,
        revision,
        changes: changes.to_vec(),
    }
}

fn judged(script: Script, log: &[Commit]) -> Verdict {
    let events = script.events();
    let context = Context {
        committed: Some(log),
        ..Context::new(&shard_of)
    };
    check(&History::new(&events), &context)
}

/// Key 1 has 10 from revision 1 and 11 from revision 2 on; key 2 was there at revision 3 and is gone at 4.
fn log() -> Vec<Commit> {
    vec![
        commit(1, &[change(1, k(1), Some(10))]),
        commit(2, &[change(2, k(1), Some(11))]),
        commit(3, &[change(3, k(2), Some(20))]),
        commit(4, &[change(4, k(2), None)]),
    ]
}

fn found(value: u64, create_rev: u64, mod_rev: u64, version: u64) -> Answer {
    let row = Row {
        value,
        create_rev,
        mod_rev,
        version,
    };
    Answer::Row { row: Some(row) }
}

/// The writes that made the log.
fn written() -> Script {
    Script::new()
        .ok(9, (1, 2), write(k(1), 10, 1, 1))
        .ok(9, (3, 4), write(k(1), 11, 2, 2))
        .ok(9, (5, 6), write(k(2), 20, 3, 1))
        .ok(9, (7, 8), delete(k(2), 4, true))
}

/// A transaction that reads key 1 at revision 4, under one condition.
fn tested(condition: Condition, succeeded: bool) -> Verdict {
    let txn = txn(&[condition], &[Action::Get { key: 1 }], &[Action::Get { key: 1 }]);
    let reply = done(&txn, 4, succeeded, &[found(11, 1, 2, 2)]);
    judged(written().ok(1, (10, 11), reply), &log())
}

#[test]
fn the_conditions_decide_which_list_runs() {
    use Is::{Equal, Greater, Less, Other};
    for (side, number) in [
        (Side::Value, 11),
        (Side::Version, 2),
        (Side::CreateRev, 1),
        (Side::ModRev, 2),
        (Side::Exists, 1),
    ] {
        for (is, number, holds) in [
            (Equal, number, true),
            (Equal, number + 1, false),
            (Other, number, false),
            (Other, number + 1, true),
            (Less, number, false),
            (Less, number + 1, true),
            (Greater, number, false),
            (Greater, number - 1, true),
        ] {
            let one = condition(1, side, is, number);
            valid(tested(one, holds));
            broken("conditions", tested(one, !holds));
        }
    }
}

#[test]
fn a_key_that_is_gone_has_numbers_of_zero_and_no_value() {
    for side in [Side::Version, Side::CreateRev, Side::ModRev, Side::Exists] {
        valid(tested(condition(2, side, Is::Equal, 0), true));
        broken("conditions", tested(condition(2, side, Is::Equal, 0), false));
    }
    for is in [Is::Equal, Is::Other, Is::Less, Is::Greater] {
        valid(tested(condition(2, Side::Value, is, 20), false));
        broken("conditions", tested(condition(2, Side::Value, is, 20), true));
    }
}

#[test]
fn all_conditions_must_hold() {
    let both = [
        condition(1, Side::Version, Is::Equal, 2),
        condition(2, Side::Exists, Is::Equal, 1),
    ];
    let txn = txn(&both, &[], &[]);
    let with = |succeeded| judged(written().ok(1, (10, 11), done(&txn, 4, succeeded, &[])), &log());
    valid(with(false));
    broken("conditions", with(true));
}

/// Deletes key 1, adds to key 2, puts key 3, and reads them before and after.
fn changing() -> Txn {
    let actions = [
        Action::Get { key: 1 },
        Action::Delete { key: 1 },
        Action::Get { key: 1 },
        Action::Add { key: 2, delta: 7 },
        put(3, 30),
        Action::Get { key: 3 },
    ];
    txn(&[], &actions, &[])
}

fn right_answers() -> [Answer; 6] {
    [
        found(11, 1, 2, 2),
        Answer::Deleted { deleted: 1 },
        Answer::Row { row: None },
        Answer::Sum { value: 7 },
        Answer::Put { version: 1 },
        found(30, 5, 5, 1),
    ]
}

fn right_changes() -> [Change; 3] {
    [
        change(5, k(1), None),
        change(5, k(2), Some(7)),
        change(5, k(3), Some(30)),
    ]
}

fn changed(answers: &[Answer], changes: &[Change]) -> Verdict {
    let log = [log(), vec![commit(5, changes)]].concat();
    judged(
        written().ok(1, (10, 11), done(&changing(), 5, true, answers)),
        &log,
    )
}

#[test]
fn operations_see_what_was_before_and_each_other() {
    valid(changed(&right_answers(), &right_changes()));
    for (at, wrong) in [
        (0, found(10, 1, 1, 1)),
        (2, found(11, 1, 2, 2)),
        (3, Answer::Sum { value: 27 }),
        (4, Answer::Put { version: 2 }),
        (5, found(30, 4, 5, 1)),
        (5, Answer::Row { row: None }),
    ] {
        let mut answers = right_answers();
        answers[at] = wrong;
        broken("answers", changed(&answers, &right_changes()));
    }
}

#[test]
fn all_operations_take_effect_and_nothing_else() {
    let right = right_changes();
    broken("effect", changed(&right_answers(), &right[..2]));
    broken("effect", changed(&right_answers(), &[]));
    let more = [&right[..], &[change(5, k(4), Some(1))]].concat();
    broken("effect", changed(&right_answers(), &more));
    let mut other = right;
    other[1].value = Some(8);
    broken("effect", changed(&right_answers(), &other));
}

#[test]
fn each_operation_has_an_answer_of_its_kind() {
    let right = right_answers();
    broken("form", changed(&right[..5], &right_changes()));
    let mut other = right;
    other[1] = Answer::Put { version: 1 };
    broken("form", changed(&other, &right_changes()));
    other = right;
    other[1] = Answer::Deleted { deleted: 2 };
    broken("form", changed(&other, &right_changes()));
}

#[test]
fn one_of_unknown_outcome_is_carried_out_once_or_not_at_all() {
    let call = txn(
        &[condition(1, Side::Version, Is::Equal, 2)],
        &[put(3, 30)],
        &[put(4, 40)],
    );
    let with = |more: &[Commit]| {
        let script = written().unknown(1, (10, 11), Call::Txn(call.clone()));
        let read = txn(&[], &[Action::Get { key: 9 }], &[]);
        let script = script.ok(2, (12, 13), done(&read, 4, true, &[Answer::Row { row: None }]));
        judged(script, &[&log()[..], more].concat())
    };
    valid(with(&[]));
    valid(with(&[commit(5, &[change(5, k(3), Some(30))])]));
    // The other list, though the conditions hold.
    broken("phantom", with(&[commit(5, &[change(5, k(4), Some(40))])]));
    // A value that nobody asked for, or one more change.
    broken("phantom", with(&[commit(5, &[change(5, k(3), Some(31))])]));
    let two = [change(5, k(3), Some(30)), change(5, k(4), Some(40))];
    broken("phantom", with(&[commit(5, &two)]));
    let again = [
        commit(5, &[change(5, k(3), Some(30))]),
        commit(6, &[change(6, k(3), Some(30))]),
    ];
    broken("phantom", with(&again));
}

#[test]
fn what_is_shown_of_a_row_follows_from_the_changes_before() {
    let shown = |create_rev, version| {
        let mut log = log();
        (log[1].changes[0].create_rev, log[1].changes[0].version) = (create_rev, version);
        let read = txn(&[], &[Action::Get { key: 1 }], &[]);
        judged(
            written().ok(1, (10, 11), done(&read, 4, true, &[found(11, 1, 2, 2)])),
            &log,
        )
    };
    valid(shown(1, 2));
    broken("row", shown(2, 1));
    broken("row", shown(1, 3));
}

#[test]
fn what_is_not_known_is_not_judged() {
    let read = txn(&[], &[Action::Get { key: 1 }], &[]);
    let wrong = || Script::new().ok(1, (10, 11), done(&read, 4, true, &[Answer::Row { row: None }]));
    broken("answers", judged(wrong(), &log()));
    valid(judged(wrong(), &log()[1..]));
    valid(wrong().check(check));
    // Without a log a watch from the beginning on tells it, as far as it came.
    let partition = 0;
    let watch = Call::Watch { partition, after: 0 };
    let shown = [change(1, k(1), Some(10)), change(2, k(1), Some(11))];
    let watched = |through| {
        let begun = Reply::Watching { after: 0, epoch: 0 };
        let script = wrong().ok(3, (1, 2), (watch.clone(), begun));
        script.seen(3, 20, changes(&shown, through)).check(check)
    };
    valid(watched(3));
    broken("answers", watched(4));
}
