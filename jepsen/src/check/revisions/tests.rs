//! Histories by hand, and random ones of a correct shard.

use proptest::prelude::*;

use super::{super::testing::*, check};
use crate::{
    check::{Commit, Context, History},
    history::{Call, Change, Key, Mode, Reply},
};

fn two_writes() -> Script {
    Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .ok(1, (3, 4), write(k(1), 11, 2, 2))
}

fn at_end(script: Script) -> crate::check::Verdict {
    script.check_with(check, |context| context.final_from = Some(100))
}

#[test]
fn a_good_history() {
    let cas = |from, to, reply| (Call::Cas { key: k(1), from, to }, reply);
    let far = Key {
        partition: 10,
        key: 1,
    };
    let script = two_writes()
        .ok(2, (5, 6), read(k(1), 2, Some((11, 1, 2, 2))))
        .ok(2, (7, 8), cas(11, 12, written(3, 3)))
        .ok(2, (9, 10), cas(11, 13, Reply::Mismatch { revision: 3 }))
        .ok(2, (11, 12), delete(k(1), 4, true))
        .ok(2, (13, 14), delete(k(1), 4, false))
        .ok(2, (15, 16), read(k(1), 4, None))
        .ok(2, (17, 18), write(k(1), 14, 5, 1))
        .ok(3, (19, 20), write(far, 1, 1, 1))
        .ok(3, (21, 22), write(k(2), 15, 6, 1))
        .ok(3, (101, 102), scan(6, &[(1, 14), (2, 15)]))
        .ok(3, (103, 104), read(far, 1, Some((1, 1, 1, 1))));
    valid(at_end(script));
}

#[test]
fn a_point_read_may_be_newer_than_its_revision() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .ok(1, (3, 10), write(k(1), 11, 2, 2))
        .ok(2, (4, 5), read(k(1), 1, Some((11, 1, 2, 2))));
    valid(script.check(check));
    let deleted = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .ok(1, (3, 10), delete(k(1), 2, true))
        .ok(2, (4, 5), read(k(1), 1, None));
    valid(deleted.check(check));
}

#[test]
fn one_revision_for_two_changes() {
    let script = two_writes().ok(2, (1, 9), write(k(2), 5, 2, 1));
    broken("unique", script.check(check));
}

#[test]
fn a_revision_that_goes_back_in_real_time() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 7, 1))
        .ok(2, (3, 4), write(k(2), 11, 6, 1));
    let witness = broken("real time", script.check(check));
    assert_eq!(witness.operations, [0, 1]);
}

#[test]
fn a_revision_below_what_a_watch_had_shown() {
    let watch = Call::Watch {
        partition: 0,
        after: 0,
    };
    let script = Script::new()
        .ok(9, (1, 2), (watch, Reply::Watching { after: 0, epoch: 0 }))
        .seen(9, 3, changes(&[], 8))
        .ok(1, (4, 5), write(k(1), 10, 8, 1));
    broken("real time", script.check(check));
}

#[test]
fn a_linearizable_read_of_an_old_revision() {
    let script = two_writes().ok(2, (5, 6), read(k(1), 1, Some((10, 1, 1, 1))));
    broken("real time", script.check(check));
    let local = two_writes().ok(2, (5, 6), read_as(Mode::Local, k(1), 1, Some((10, 1, 1, 1))));
    valid(local.check(check));
}

#[test]
fn an_older_value_than_that_of_the_revision() {
    let script = two_writes().ok(2, (5, 6), read(k(1), 2, Some((10, 1, 1, 1))));
    broken("value", script.check(check));
}

#[test]
fn a_value_that_nobody_wrote() {
    let script = two_writes().ok(2, (5, 6), read(k(1), 3, Some((99, 1, 3, 3))));
    broken("value", script.check(check));
}

#[test]
fn a_value_of_a_failed_write() {
    let script =
        two_writes()
            .fail(3, (4, 5), call_write(k(1), 12))
            .ok(2, (6, 7), read(k(1), 3, Some((12, 1, 3, 3))));
    broken("value", script.check(check));
}

#[test]
fn another_value_at_a_known_revision() {
    let script = two_writes().ok(2, (5, 6), read(k(1), 2, Some((10, 1, 2, 2))));
    broken("value", script.check(check));
}

#[test]
fn a_value_from_the_future() {
    let script = Script::new()
        .ok(2, (1, 2), read(k(1), 0, Some((10, 1, 1, 1))))
        .ok(1, (3, 4), write(k(1), 10, 1, 1));
    // It also knows the revision too early.
    assert!(!script.check(check).is_valid());
}

#[test]
fn a_version_that_skips_one() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .ok(1, (3, 4), write(k(1), 11, 2, 3));
    broken("chain", script.check(check));
}

#[test]
fn an_unknown_write_explains_a_version_once() {
    let script = || {
        Script::new()
            .ok(1, (1, 2), write(k(1), 10, 1, 1))
            .unknown(2, (3, 4), call_write(k(1), 12))
            .ok(1, (5, 6), write(k(1), 11, 3, 3))
    };
    valid(script().check(check));
    broken(
        "chain",
        script().ok(1, (7, 8), write(k(1), 13, 5, 5)).check(check),
    );
}

#[test]
fn a_version_that_begins_anew() {
    let script = Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .ok(1, (3, 4), write(k(1), 11, 2, 1));
    broken("chain", script.check(check));
}

#[test]
fn a_creation_that_moves() {
    let script =
        two_writes()
            .ok(1, (5, 6), write(k(1), 12, 3, 3))
            .ok(2, (7, 8), read(k(1), 3, Some((12, 2, 3, 3))));
    broken("chain", script.check(check));
}

#[test]
fn a_deletion_of_nothing() {
    let script = Script::new().ok(1, (1, 2), delete(k(1), 1, true));
    broken("chain", script.check(check));
}

#[test]
fn numbers_of_a_row_that_do_not_fit() {
    let script = two_writes().ok(2, (5, 6), read(k(1), 2, Some((11, 2, 2, 2))));
    broken("chain", script.check(check));
}

#[test]
fn a_cas_of_another_value() {
    let cas = Call::Cas {
        key: k(1),
        from: 10,
        to: 12,
    };
    let script = two_writes().ok(2, (5, 6), (cas.clone(), written(3, 3)));
    broken("value", script.check(check));
    let refused = Script::new().ok(1, (1, 2), write(k(1), 10, 1, 1)).ok(
        2,
        (5, 6),
        (cas, Reply::Mismatch { revision: 1 }),
    );
    broken("value", refused.check(check));
}

#[test]
fn a_key_that_is_absent_without_a_deletion() {
    broken(
        "absence",
        two_writes().ok(2, (5, 6), read(k(1), 2, None)).check(check),
    );
    broken(
        "absence",
        two_writes().ok(2, (5, 6), delete(k(1), 2, false)).check(check),
    );
    broken("absence", two_writes().ok(2, (5, 6), scan(2, &[])).check(check));
    let unknown = two_writes().unknown(3, (5, 6), Call::Delete { key: k(1) });
    valid(unknown.ok(2, (7, 8), read(k(1), 3, None)).check(check));
}

#[test]
fn a_scan_with_an_old_value() {
    broken(
        "value",
        two_writes().ok(2, (5, 6), scan(2, &[(1, 10)])).check(check),
    );
    valid(two_writes().ok(2, (5, 6), scan(2, &[(1, 11)])).check(check));
}

#[test]
fn a_scan_with_a_key_that_nobody_wrote() {
    let script = two_writes().ok(2, (5, 6), scan(2, &[(1, 11), (2, 7)]));
    broken("value", script.check(check));
}

#[test]
fn an_acknowledged_write_that_is_lost_at_the_end() {
    broken(
        "durability",
        at_end(two_writes().ok(2, (101, 102), scan(2, &[(1, 10)]))),
    );
    broken(
        "durability",
        at_end(two_writes().ok(2, (101, 102), read(k(1), 2, None))),
    );
    // The revision went back with it.
    broken(
        "durability",
        at_end(two_writes().ok(2, (101, 102), read(k(1), 1, Some((10, 1, 1, 1))))),
    );
}

#[test]
fn no_final_read_is_unknown() {
    unknown(at_end(two_writes().ok(
        2,
        (5, 6),
        read(k(1), 2, Some((11, 1, 2, 2))),
    )));
}

#[test]
fn keys_with_a_ttl_may_vanish() {
    let call = Call::Write {
        key: k(1),
        value: 1,
        ttl_ms: 5,
        lease: 0,
    };
    let script = Script::new()
        .ok(1, (1, 2), (call.clone(), written(1, 1)))
        .ok(1, (3, 4), read(k(1), 2, None))
        .ok(1, (5, 6), (call, written(3, 1)));
    valid(script.check(check));
}

/// A correct shard with keys 0..3: each operation takes effect between its call and its return.
fn correct(plan: &[(u32, u8)]) -> Script {
    let mut script = Script::new();
    let (mut revision, mut rows) = (0, [None; 3]);
    for (at, (key, what)) in plan.iter().enumerate() {
        let time = 10 * at as u64;
        let key = key % 3;
        let row: &mut Option<(u64, u64, u64, u64)> = &mut rows[key as usize];
        // Each third one overlaps with the next.
        let span = (time, time + if at % 3 == 0 { 15 } else { 5 });
        let process = at as u64 % 2;
        let step = match what % 4 {
            0 | 1 => {
                revision += 1;
                let value = at as u64;
                let (created, version) =
                    row.map_or((revision, 1), |(_, created, _, version)| (created, version + 1));
                *row = Some((value, created, revision, version));
                write(k(key), value, revision, version)
            }
            2 => read(k(key), revision, *row),
            _ => {
                let existed = row.take().is_some();
                revision += u64::from(existed);
                delete(k(key), revision, existed)
            }
        };
        script = if what % 16 == 5 {
            script.unknown(100 + at as u64, span, step.0)
        } else {
            script.ok(process, span, step)
        };
    }
    script
}

proptest! {
    #[test]
    fn a_correct_shard_is_accepted(plan in proptest::collection::vec((0..3u32, any::<u8>()), 1..100)) {
        let verdict = correct(&plan).check(check);
        // A plan of reads only has changed nothing.
        prop_assert!(!matches!(verdict, crate::check::Verdict::Invalid { .. }), "{}", verdict);
    }

    #[test]
    fn a_stale_row_is_rejected(plan in proptest::collection::vec((0..3u32, any::<u8>()), 1..50)) {
        let mut script = correct(&plan);
        let revision = 1000;
        script = script
            .ok(7, (5000, 5001), write(k(5), 7000, revision, 1))
            .ok(7, (5002, 5003), write(k(5), 7001, revision + 1, 2))
            .ok(7, (5004, 5005), read(k(5), revision + 1, Some((7000, revision, revision, 1))));
        broken("value", script.check(check));
    }
}

fn write_with_ttl(revision: u64, version: u64) -> (Call, Reply) {
    let call = Call::Write {
        key: k(7),
        value: 10 * revision,
        ttl_ms: 1_000,
        lease: 0,
    };
    (call, written(revision, version))
}

/// A key with a TTL that is written at revision 5 and expires at revision 9, as a watch shows.
fn expired() -> Script {
    let watch = Call::Watch {
        partition: 0,
        after: 0,
    };
    let gone = Change {
        expired: true,
        ..change(9, k(7), None)
    };
    Script::new()
        .ok(9, (1, 2), (watch, Reply::Watching { after: 0, epoch: 0 }))
        .ok(1, (3, 4), write_with_ttl(5, 1))
        .seen(9, 10, changes(&[gone], 9))
        .ok(1, (11, 12), read(k(7), 9, None))
}

#[test]
fn a_key_that_has_expired_does_not_come_back() {
    valid(
        expired()
            .ok(1, (13, 14), read_as(Mode::Local, k(7), 8, Some((50, 5, 5, 1))))
            .check(check),
    );
    let back = expired().ok(1, (13, 14), read(k(7), 9, Some((50, 5, 5, 1))));
    let witness = broken("value", back.check(check));
    assert_eq!((witness.operations, witness.events), (vec![3], vec![4]));
    let log = [Commit {
        shard: 1,
        index: 9,
        revision: 9,
        changes: vec![change(9, k(7), None)],
    }];
    let events = Script::new()
        .ok(1, (3, 4), write_with_ttl(5, 1))
        .ok(1, (13, 14), read(k(7), 9, Some((50, 5, 5, 1))))
        .events();
    let mut context = Context::new(&shard_of);
    context.committed = Some(&log);
    broken("value", check(&History::new(&events), &context));
}

#[test]
fn what_was_found_to_be_gone_is_not_found_again() {
    let found = |end, begin| {
        Script::new()
            .ok(1, (3, 4), write_with_ttl(5, 1))
            .ok(2, (5, end), read(k(7), 7, None))
            .ok(3, (begin, 20), read(k(7), 8, Some((50, 5, 5, 1))))
            .check(check)
    };
    assert_eq!(broken("comeback", found(6, 7)).operations, [1, 2]);
    valid(found(9, 7));
    // Written anew meanwhile.
    valid(
        Script::new()
            .ok(1, (3, 4), write_with_ttl(5, 1))
            .ok(2, (5, 6), read(k(7), 7, None))
            .ok(1, (7, 8), write_with_ttl(9, 1))
            .ok(3, (9, 10), read(k(7), 9, Some((90, 9, 9, 1))))
            .check(check),
    );
}

#[test]
fn an_end_that_came_later_explains_no_absence() {
    let ends_at_nine = [Commit {
        shard: 1,
        index: 9,
        revision: 9,
        changes: vec![change(9, k(7), None)],
    }];
    // What began after the read had ended is told a revision: the shard was not further when the read ended.
    let told = |call: (Call, Reply)| {
        let events = Script::new()
            .ok(1, (3, 4), write_with_ttl(5, 1))
            .ok(2, (5, 6), read(k(7), 7, None))
            .ok(3, (7, 8), call)
            .events();
        let mut context = Context::new(&shard_of);
        context.committed = Some(&ends_at_nine);
        check(&History::new(&events), &context)
    };
    broken("absence", told(write(k(1), 1, 8, 1)));
    broken("absence", told(write(k(1), 1, 9, 1)));
    broken("absence", told(read(k(2), 8, None)));
    valid(told(read(k(2), 9, None)));
    valid(told(write(k(1), 1, 10, 1)));
    valid(told(read_as(Mode::Local, k(2), 8, None)));
}

#[test]
fn a_put_after_an_expiry_begins_anew() {
    valid(expired().ok(1, (13, 14), write_with_ttl(10, 1)).check(check));
    broken(
        "chain",
        expired().ok(1, (13, 14), write_with_ttl(10, 2)).check(check),
    );
    // It had been written by somebody who does not know: but not created before.
    let written_by_others = |created| {
        expired()
            .unknown(2, (13, 14), call_write(k(7), 1))
            .ok(1, (15, 16), write_with_ttl(11, 2))
            .ok(1, (17, 18), read(k(7), 11, Some((110, created, 11, 2))))
            .check(check)
    };
    valid(written_by_others(10));
    broken("chain", written_by_others(5));
}

#[test]
fn with_the_committed_log_every_end_is_known() {
    let events = Script::new()
        .ok(1, (3, 4), write_with_ttl(5, 1))
        .ok(1, (13, 14), read(k(7), 9, None))
        .events();
    let history = History::new(&events);
    let mut context = Context::new(&shard_of);
    valid(check(&history, &context));
    context.committed = Some(&[]);
    broken("absence", check(&history, &context));
}

#[test]
fn what_a_watch_shows_is_what_reads_find() {
    let shown = |version, create_rev| {
        let watch = Call::Watch {
            partition: 0,
            after: 0,
        };
        let two = Change {
            version,
            create_rev,
            ..change(2, k(1), Some(11))
        };
        two_writes()
            .ok(9, (5, 6), (watch, Reply::Watching { after: 0, epoch: 0 }))
            .ok(2, (7, 8), read(k(1), 2, Some((11, 1, 2, 2))))
            .seen(9, 9, changes(&[two], 2))
            .check(check)
    };
    valid(shown(2, 1));
    broken("value", shown(3, 1));
    broken("value", shown(2, 0));
}

#[test]
fn a_read_of_an_older_revision_is_of_exactly_that_one() {
    let old = |revision, found| {
        two_writes()
            .ok(1, (5, 6), delete(k(1), 3, true))
            .ok(2, (7, 8), read_as(Mode::At(revision), k(1), revision, found))
            .check(check)
    };
    valid(old(1, Some((10, 1, 1, 1))));
    valid(old(2, Some((11, 1, 2, 2))));
    valid(old(3, None));
    broken("value", old(1, Some((11, 1, 2, 2))));
    broken("value", old(2, Some((10, 1, 1, 1))));
    // An ordinary read may have seen the deletion.
    broken("absence", old(2, None));
    let ordinary = two_writes()
        .ok(1, (5, 9), delete(k(1), 3, true))
        .ok(2, (7, 8), read(k(1), 2, None));
    valid(ordinary.check(check));
}
