//! Histories by hand.

use super::super::{super::testing::*, check};
use crate::{
    check::{Commit, Context, History},
    history::{Call, Change, Key, Reply, Revision},
};

/// A watch of partition 0 from the beginning, which is shown these changes at 50, the last but at 60.
fn shown(script: Script, all: &[Change]) -> Script {
    let call = Call::Watch {
        partition: 0,
        after: 0,
    };
    let script = script.ok(9, (1, 2), (call, Reply::Watching { after: 0, epoch: 0 }));
    let Some((last, before)) = all.split_last() else {
        return script;
    };
    let script = script.seen(9, 50, changes(before, last.revision - 1));
    script.seen(9, 60, changes(&[*last], last.revision))
}

fn row(revision: Revision, value: u64, version: u64) -> Change {
    Change {
        version,
        create_rev: 1,
        ..change(revision, k(1), Some(value))
    }
}

#[test]
fn one_write_that_is_shown_twice() {
    let script = || Script::new().unknown(1, (3, 4), call_write(k(1), 10));
    let gone = |script: Script| {
        let script = script.ok(2, (70, 71), delete(k(1), 3, true));
        script.ok(2, (72, 73), read(k(1), 3, None))
    };
    let both = [row(1, 10, 1), row(2, 10, 2)];
    broken("twice", shown(gone(script()), &both).check(check));
    valid(shown(gone(script()), &both[..1]).check(check));
    // There were two such calls, or a retried one that was told to have failed.
    let two = || script().unknown(2, (5, 6), call_write(k(1), 10));
    valid(shown(two(), &both).check(check));
    let one_failed = script().fail(2, (5, 6), call_write(k(1), 10));
    broken("twice", shown(one_failed, &both).check(check));
    // The second began when both had been shown.
    let late = script().unknown(2, (65, 66), call_write(k(1), 10));
    broken("twice", shown(late, &both).check(check));
    let between = script().unknown(2, (55, 56), call_write(k(1), 10));
    valid(shown(between, &both).check(check));
    // One of them is somebody's.
    let known = script().ok(2, (5, 6), write(k(1), 10, 2, 2));
    valid(shown(known, &both).check(check));
}

#[test]
fn one_delete_that_is_shown_twice() {
    let delete_call = || Call::Delete { key: k(1) };
    let script = || {
        Script::new()
            .ok(1, (3, 4), write(k(1), 1, 1, 1))
            .unknown(2, (5, 6), delete_call())
            .ok(1, (7, 8), write(k(1), 2, 3, 1))
    };
    let again = Change {
        create_rev: 3,
        ..row(3, 2, 1)
    };
    let all = [row(1, 1, 1), change(2, k(1), None), again, change(4, k(1), None)];
    broken("twice", shown(script(), &all).check(check));
    valid(shown(script(), &all[..3]).check(check));
    valid(shown(script().unknown(3, (5, 6), delete_call()), &all).check(check));
}

fn add(delta: i64) -> Call {
    Call::Increment { key: k(1), delta }
}

#[test]
fn a_number_that_changes_more_often_than_was_asked_for() {
    let script = || Script::new().unknown(1, (3, 4), add(5));
    let counted = |numbers: &[u64]| -> Vec<Change> {
        let all = (1..).zip(numbers);
        all.map(|(at, number)| row(at, *number, at)).collect()
    };
    valid(shown(script(), &counted(&[5])).check(check));
    broken("twice", shown(script(), &counted(&[5, 10])).check(check));
    // Two were asked for, but not the same two.
    let other = || script().unknown(2, (3, 4), add(7));
    valid(shown(other(), &counted(&[7, 12])).check(check));
    broken("twice", shown(other(), &counted(&[5, 10])).check(check));
    // Between these two there is something that nobody was shown.
    let known = other().ok(
        3,
        (5, 6),
        (
            add(1),
            Reply::Number {
                revision: 2,
                value: 6,
            },
        ),
    );
    valid(shown(known, &[row(1, 5, 1), row(2, 6, 2), row(3, 13, 3)]).check(check));
}

#[test]
fn a_payment_that_is_made_twice() {
    let (from, to) = (5, 6);
    let pay = |amount| Call::Transfer {
        partition: 0,
        from,
        to,
        amount,
    };
    let moved = |revision, one, other| {
        [
            change(revision, k(from), Some(one)),
            change(revision, k(to), Some(other)),
        ]
    };
    let verdict = |script: Script, all: &[Change]| {
        let accounts = [k(from), k(to)].map(|key| (key, 100));
        shown(script, all).check_with(check, |context| context.accounts = accounts.into())
    };
    let both = [moved(1, 93, 107), moved(2, 86, 114)].concat();
    let script = || Script::new().unknown(1, (3, 4), pay(7));
    let all = |all: &[Change]| {
        let last = all.last().copied();
        let script = script().seen(9, 40, changes(all, last.map_or(0, |last| last.revision)));
        verdict(script, &[])
    };
    broken("twice", all(&both));
    valid(all(&both[..2]));
    let script = script().unknown(2, (3, 4), pay(8)).seen(9, 40, changes(&both, 2));
    broken("twice", verdict(script, &[]));
}

#[test]
fn the_first_money_of_an_account_is_nobodys() {
    let verdict = |opened: &[u64]| {
        let open = |(revision, money): (Revision, &u64)| Commit {
            shard: 1,
            index: revision,
            revision,
            changes: vec![change(revision, k(5), Some(*money))],
        };
        let log: Vec<_> = (1..).zip(opened).map(open).collect();
        let (call, reply) = write(k(1), 1, 3, 1);
        let events = Script::new().ok(1, (1, 2), (call, reply));
        let call = Call::Watch {
            partition: 0,
            after: 2,
        };
        let events = events.ok(9, (3, 4), (call, Reply::Watching { after: 2, epoch: 0 }));
        let events = events
            .seen(9, 5, changes(&[change(3, k(1), Some(1))], 3))
            .events();
        let mut context = Context::new(&shard_of);
        context.accounts = [(k(5), 100)].into();
        context.committed = Some(&log);
        check(&History::new(&events), &context)
    };
    valid(verdict(&[100]));
    valid(verdict(&[100, 100]));
    broken("twice", verdict(&[100, 90]));
    broken("twice", verdict(&[90, 100]));
}

#[test]
fn of_all_tries_to_receive_a_payment_one_is_made() {
    let (from, to) = (Key { partition: 1, key: 5 }, k(6));
    let receive = |id| Call::Receive {
        from,
        to,
        amount: 7,
        id,
    };
    let verdict = |ids: [u64; 2]| {
        let script = Script::new()
            .unknown(1, (3, 4), receive(ids[0]))
            .unknown(2, (3, 4), receive(ids[1]))
            .seen(
                9,
                40,
                changes(&[change(1, to, Some(107)), change(2, to, Some(114))], 2),
            );
        let accounts = [from, to].map(|key| (key, 100));
        shown(script, &[]).check_with(check, |context| context.accounts = accounts.into())
    };
    valid(verdict([1, 2]));
    broken("twice", verdict([1, 1]));
}
