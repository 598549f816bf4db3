//! Histories by hand, and random ones of a correct watch.

use proptest::prelude::*;

use super::{super::testing::*, check};
use crate::history::{Call, Change, Key, Reply, Revision, Seen};

fn watch(after: Revision) -> (Call, Reply) {
    let partition = 0;
    (
        Call::Watch { partition, after },
        Reply::Watching { after, epoch: 0 },
    )
}

/// Revisions 1 and 2 of key 1, and 3, which moves money between the accounts 5 and 6.
fn three_changes() -> Script {
    let transfer = Call::Transfer {
        partition: 0,
        from: 5,
        to: 6,
        amount: 7,
    };
    Script::new()
        .ok(9, (1, 2), watch(0))
        .ok(1, (3, 4), write(k(1), 10, 1, 1))
        .ok(1, (5, 6), delete(k(1), 2, true))
        .ok(1, (7, 8), (transfer, written(3, 0)))
}

const ONE: Change = Change {
    revision: 1,
    key: Key { partition: 0, key: 1 },
    value: Some(10),
    expired: false,
    create_rev: 1,
    version: 1,
    lease: 0,
};

fn two() -> Change {
    change(2, k(1), None)
}

fn three() -> [Change; 2] {
    [change(3, k(5), Some(93)), change(3, k(6), Some(107))]
}

fn through_three(rest: &[Change]) -> Seen {
    changes(&[rest, &three()].concat(), 3)
}

#[test]
fn a_good_watch() {
    let script = three_changes()
        .seen(9, 10, changes(&[ONE], 1))
        .seen(9, 11, Seen::Resumed)
        .seen(9, 12, through_three(&[two()]))
        .seen(9, 13, changes(&[], 7));
    valid(script.check_with(check, |context| context.drained = true));
}

#[test]
fn a_change_of_another_partition() {
    let other = Key { partition: 1, key: 1 };
    let script = three_changes()
        .ok(1, (9, 10), write(other, 1, 4, 1))
        .seen(9, 11, changes(&[ONE, two()], 2))
        .seen(9, 12, through_three(&[]))
        .seen(9, 13, changes(&[change(4, other, Some(1))], 4));
    broken("filter", script.check(check));
}

#[test]
fn changes_out_of_order() {
    let script = three_changes().seen(9, 10, changes(&[two(), ONE], 2));
    broken("order", script.check(check));
}

#[test]
fn a_change_twice() {
    let script = three_changes()
        .seen(9, 10, changes(&[ONE], 1))
        .seen(9, 11, Seen::Resumed)
        .seen(9, 12, changes(&[ONE, two()], 2));
    broken("order", script.check(check));
    let at_once = three_changes().seen(9, 10, changes(&[ONE, ONE], 1));
    broken("order", at_once.check(check));
}

#[test]
fn a_revision_in_two_pieces() {
    let [one, other] = three();
    let script =
        three_changes()
            .seen(9, 10, changes(&[ONE, two(), one], 3))
            .seen(9, 11, changes(&[other], 3));
    broken("atomicity", script.check(check));
}

#[test]
fn half_a_revision() {
    let script = three_changes().seen(9, 10, changes(&[ONE, two(), three()[0]], 3));
    let witness = broken("atomicity", script.check(check));
    assert_eq!(witness.operations, [0, 3]);
}

#[test]
fn a_gap() {
    let script = three_changes().seen(9, 10, through_three(&[ONE]));
    let witness = broken("gap", script.check(check));
    assert_eq!(witness.operations, [0, 2]);
}

#[test]
fn a_gap_when_it_resumes() {
    let script = three_changes()
        .seen(9, 10, changes(&[ONE], 1))
        .seen(9, 11, Seen::Resumed)
        .seen(9, 12, through_three(&[]));
    broken("gap", script.check(check));
}

#[test]
fn a_gap_that_another_watch_shows() {
    let write = call_write(k(2), 20);
    let script = three_changes()
        .ok(8, (1, 3), watch(0))
        .unknown(2, (9, 10), write)
        .seen(9, 11, through_three(&[ONE, two()]))
        .seen(8, 12, through_three(&[ONE, two()]))
        .seen(9, 13, changes(&[change(4, k(2), Some(20))], 4))
        .seen(8, 14, changes(&[], 4));
    broken("gap", script.check(check));
}

#[test]
fn a_watch_that_begins_too_late() {
    let late = (
        Call::Watch {
            partition: 0,
            after: 0,
        },
        Reply::Watching { after: 2, epoch: 0 },
    );
    let script = three_changes()
        .ok(9, (9, 10), late)
        .seen(9, 11, through_three(&[]));
    broken("gap", script.check(check));
}

#[test]
fn a_watch_that_stops_before_the_end() {
    let script = || three_changes().seen(9, 10, changes(&[ONE], 1));
    valid(script().check(check));
    broken(
        "gap",
        script().check_with(check, |context| context.drained = true),
    );
}

#[test]
fn a_change_that_nobody_asked_for() {
    let phantom = change(4, k(1), Some(77));
    let script =
        three_changes()
            .seen(9, 10, through_three(&[ONE, two()]))
            .seen(9, 11, changes(&[phantom], 4));
    broken("content", script.check(check));
}

#[test]
fn another_value_than_was_written() {
    let wrong = Change {
        value: Some(11),
        ..ONE
    };
    broken(
        "content",
        three_changes().seen(9, 10, changes(&[wrong], 1)).check(check),
    );
}

#[test]
fn two_watches_that_differ() {
    let script = three_changes()
        .ok(8, (1, 3), watch(0))
        .unknown(2, (9, 10), call_write(k(2), 20))
        .unknown(3, (9, 10), call_write(k(2), 21))
        .seen(9, 11, through_three(&[ONE, two()]))
        .seen(8, 12, through_three(&[ONE, two()]))
        .seen(9, 13, changes(&[change(4, k(2), Some(20))], 4))
        .seen(8, 14, changes(&[change(4, k(2), Some(21))], 4));
    broken("content", script.check(check));
}

#[test]
fn a_change_before_it_was_asked_for() {
    let script = Script::new()
        .ok(9, (1, 2), watch(0))
        .seen(9, 3, changes(&[ONE], 1))
        .ok(1, (4, 5), write(k(1), 10, 1, 1));
    broken("content", script.check(check));
}

#[test]
fn an_expiry_of_a_key_without_a_ttl() {
    let expired = Change {
        expired: true,
        ..change(4, k(1), None)
    };
    let script =
        three_changes()
            .seen(9, 10, through_three(&[ONE, two()]))
            .seen(9, 11, changes(&[expired], 4));
    broken("content", script.check(check));
}

#[test]
fn the_rows_of_a_send_are_not_looked_at() {
    let (from, to) = (k(5), Key { partition: 9, key: 5 });
    let send = Call::Send {
        from,
        to,
        amount: 3,
        id: 1,
    };
    let outbox = change(4, k(900), Some(1));
    let script =
        three_changes()
            .seen(9, 10, through_three(&[ONE, two()]))
            .ok(1, (11, 12), (send, written(4, 0)));
    valid(
        script
            .seen(9, 13, changes(&[change(4, from, Some(90)), outbox], 4))
            .check(check),
    );
    let no_send =
        three_changes()
            .seen(9, 10, through_three(&[ONE, two()]))
            .seen(9, 13, changes(&[outbox], 4));
    broken("content", no_send.check(check));
}

#[test]
fn compaction_is_said() {
    let script = three_changes()
        .seen(9, 10, Seen::Compacted { resumed_after: 2 })
        .seen(9, 11, through_three(&[]));
    valid(script.check(check));
    let silent = three_changes()
        .seen(9, 10, Seen::Compacted { resumed_after: 1 })
        .seen(9, 11, through_three(&[]));
    broken("gap", silent.check(check));
}

#[test]
fn compaction_that_goes_back() {
    let script = three_changes()
        .seen(9, 10, changes(&[ONE, two()], 2))
        .seen(9, 11, Seen::Compacted { resumed_after: 1 })
        .seen(9, 12, through_three(&[]));
    broken("compaction", script.check(check));
}

/// A key with a TTL that is put at revision 1, not found by the last read, and a watch that is shown what is said, and the mark at 3.
fn ended(removed: &[Change], compacted: bool) -> crate::check::Verdict {
    let put = Call::Write {
        key: k(1),
        value: 10,
        ttl_ms: 100,
        lease: 0,
    };
    let mark = write(k(9), 30, 3, 1);
    let mut script = Script::new()
        .ok(9, (1, 2), watch(0))
        .ok(1, (3, 4), (put, written(1, 1)))
        .seen(9, 5, changes(&[ONE], 1))
        .ok(1, (11, 12), read(k(1), 2, None))
        .ok(1, (13, 14), mark);
    if compacted {
        script = script.seen(9, 6, Seen::Compacted { resumed_after: 2 });
    }
    let last = [removed, &[change(3, k(9), Some(30))]].concat();
    let script = script.seen(9, 15, changes(&last, 3));
    script.check_with(check, |context| {
        context.drained = true;
        context.final_from = Some(10);
    })
}

#[test]
fn an_end_that_no_watch_shows() {
    let expired = Change {
        expired: true,
        ..change(2, k(1), None)
    };
    valid(ended(&[expired], false));
    let witness = broken("removal", ended(&[], false));
    assert_eq!(witness.operations, [0, 1, 2]);
    // What is compacted need not be shown.
    valid(ended(&[], true));
}

#[test]
fn no_watch_is_unknown() {
    unknown(Script::new().ok(1, (3, 4), write(k(1), 10, 1, 1)).check(check));
}

/// A shard that writes a value a revision, and a watch that gets them in batches of these sizes.
fn correct(batches: &[usize]) -> Script {
    let mut script = Script::new().ok(9, (1, 2), watch(0));
    let (mut revision, mut time) = (0, 10);
    for size in batches {
        let mut batch = Vec::new();
        for _ in 0..*size {
            revision += 1;
            time += 10;
            let key = k((revision % 3) as u32);
            let (call, reply) = write(key, revision, revision, revision.div_ceil(3));
            script = if revision % 7 == 0 {
                script.unknown(100 + revision, (time, time + 1), call)
            } else {
                script.ok(1, (time, time + 1), (call, reply))
            };
            batch.push(change(revision, key, Some(revision)));
        }
        time += 10;
        script = script.seen(9, time, changes(&batch, revision));
    }
    script
}

proptest! {
    #[test]
    fn a_correct_watch_is_accepted(batches in proptest::collection::vec(0..4usize, 1..30)) {
        let verdict = correct(&batches).check_with(check, |context| context.drained = true);
        prop_assert!(verdict.is_valid(), "{}", verdict);
    }

    #[test]
    fn a_change_less_is_rejected(batches in proptest::collection::vec(1..4usize, 2..30), lost in any::<prop::sample::Index>()) {
        let mut events = correct(&batches).events();
        let seen: Vec<usize> = (0..events.len()).filter(|at| matches!(events[*at].step, crate::history::Step::Seen { .. })).collect();
        if let crate::history::Step::Seen { seen: Seen::Changes { changes, .. } } = &mut events[seen[lost.index(seen.len())]].step {
            // One of unknown outcome is not missed.
            let at = changes.iter().position(|change| change.revision % 7 != 0);
            prop_assume!(at.is_some());
            changes.remove(at.unwrap());
        }
        let context = crate::check::Context::new(&shard_of);
        broken("gap", check(&crate::check::History::new(&events), &context));
    }
}

/// 100 revisions, and a watch that is told at some time, before the next revision, that what is up to this one is gone.
fn compacted(time: u64, resumed_after: Revision) -> Script {
    let mut script = Script::new().ok(9, (1, 2), watch(0));
    for revision in 1..=100 {
        let time = 10 * revision;
        script = script.ok(1, (time, time + 1), write(k(1), revision, revision, revision));
    }
    script.seen(9, time, Seen::Compacted { resumed_after })
}

#[test]
fn what_is_kept_is_not_compacted() {
    let told = |time, resumed_after, kept| {
        compacted(time, resumed_after).check_with(check, |context| context.keep_revisions = kept)
    };
    // Revision 80 was the newest then.
    valid(told(805, 70, Some(10)));
    broken("compaction", told(805, 71, Some(10)));
    broken("compaction", told(805, 0, Some(100_000)));
    broken("compaction", told(805, 1_000_000_000, Some(10)));
    valid(told(805, 71, None));
    // Afterwards nobody knows how many there are.
    valid(told(2_000, 95, Some(10)));
}

#[test]
fn when_all_is_told_the_end_is_known() {
    let told = |resumed_after| {
        let after: Vec<_> = (resumed_after + 1..=100)
            .map(|r| change(r, k(1), Some(r)))
            .collect();
        let script = compacted(2_000, resumed_after).seen(9, 2_001, changes(&after, 100));
        script.check_with(check, |context| {
            context.keep_revisions = Some(10);
            context.drained = true;
        })
    };
    valid(told(90));
    broken("compaction", told(91));
}
