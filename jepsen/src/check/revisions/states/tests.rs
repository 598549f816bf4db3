//! Histories by hand.

use super::super::{super::testing::*, check};
use crate::history::{Call, Mode, Reply, Revision};

/// Key 1 is 1 at revision 1; a write of 2 has an unknown outcome.
fn unknown_write() -> Script {
    Script::new()
        .ok(1, (1, 2), write(k(1), 1, 1, 1))
        .unknown(2, (3, 4), call_write(k(1), 2))
}

/// A read at any replica.
fn local(revision: Revision, found: Option<(u64, Revision, Revision, u64)>) -> (Call, Reply) {
    read_as(Mode::Local, k(1), revision, found)
}

#[test]
fn what_a_scan_has_shown_no_later_answer_forgets() {
    let scanned = || unknown_write().ok(3, (5, 6), scan(2, &[(1, 2)]));
    broken("states", scanned().ok(3, (7, 8), scan(2, &[(1, 1)])).check(check));
    broken("states", scanned().ok(3, (7, 8), scan(3, &[(1, 1)])).check(check));
    let deleted = || scanned().unknown(4, (6, 9), Call::Delete { key: k(1) });
    broken("states", deleted().ok(3, (7, 8), scan(2, &[])).check(check));
    valid(deleted().ok(3, (7, 8), scan(3, &[])).check(check));
    let first = || local(2, Some((1, 1, 1, 1)));
    broken("states", scanned().ok(3, (7, 8), first()).check(check));
    let cas = (
        Call::Cas {
            key: k(1),
            from: 1,
            to: 3,
        },
        written(3, 3),
    );
    broken("states", scanned().ok(3, (7, 8), cas).check(check));
    let not_there = delete(k(1), 2, false);
    broken("states", deleted().ok(3, (7, 8), not_there).check(check));
    valid(scanned().ok(3, (7, 8), scan(2, &[(1, 2)])).check(check));
    valid(scanned().ok(3, (7, 8), scan(9, &[(1, 2)])).check(check));
    valid(scanned().ok(3, (7, 8), local(2, Some((2, 1, 2, 2)))).check(check));
    // That replica is behind.
    valid(scanned().ok(3, (7, 8), local(1, Some((1, 1, 1, 1)))).check(check));
}

#[test]
fn what_changed_again_may_be_as_it_was() {
    let scanned = || {
        let script = unknown_write().ok(3, (5, 6), scan(2, &[(1, 2)]));
        script.unknown(4, (3, 4), call_write(k(1), 1))
    };
    valid(scanned().ok(3, (7, 8), scan(3, &[(1, 1)])).check(check));
    // Only once, and not at the same revision.
    broken("states", scanned().ok(3, (7, 8), scan(2, &[(1, 1)])).check(check));
    let twice = scanned()
        .ok(3, (7, 8), scan(3, &[(1, 1)]))
        .ok(3, (9, 10), scan(4, &[(1, 2)]));
    broken("states", twice.check(check));
    let known = unknown_write()
        .ok(3, (5, 6), scan(2, &[(1, 2)]))
        .ok(1, (7, 8), write(k(1), 1, 3, 3))
        .ok(3, (9, 10), scan(3, &[(1, 1)]));
    valid(known.check(check));
}

#[test]
fn a_read_says_since_when_it_has_been_so() {
    // Another write of 1 made the second scan right, but not this read.
    let script = || {
        let script = unknown_write().unknown(4, (3, 4), call_write(k(1), 1));
        script
            .ok(3, (5, 6), scan(2, &[(1, 2)]))
            .ok(3, (7, 8), scan(3, &[(1, 1)]))
    };
    broken(
        "states",
        script().ok(3, (9, 10), local(3, Some((1, 1, 1, 1)))).check(check),
    );
    valid(script().ok(3, (9, 10), local(3, Some((1, 1, 3, 3)))).check(check));
    valid(script().ok(3, (9, 10), local(1, Some((1, 1, 1, 1)))).check(check));
}

#[test]
fn a_deletion_explains_one_absence() {
    let script = || {
        Script::new()
            .ok(1, (1, 2), write(k(1), 1, 1, 1))
            .unknown(2, (3, 4), Call::Delete { key: k(1) })
            .ok(3, (5, 6), scan(2, &[]))
    };
    valid(script().ok(3, (7, 8), scan(3, &[])).check(check));
    broken("states", script().ok(3, (7, 8), scan(3, &[(1, 1)])).check(check));
    let again = || {
        script()
            .ok(1, (7, 8), write(k(1), 3, 3, 1))
            .ok(3, (9, 10), scan(4, &[]))
    };
    broken("states", again().check(check));
    valid(
        again()
            .unknown(4, (3, 4), Call::Delete { key: k(1) })
            .check(check),
    );
}

#[test]
fn what_ends_by_itself_may_be_gone_at_any_time() {
    let mortal = Call::Write {
        key: k(1),
        value: 1,
        ttl_ms: 100,
        lease: 0,
    };
    let script = Script::new()
        .ok(1, (1, 2), (mortal, written(1, 1)))
        .ok(3, (3, 4), scan(1, &[(1, 1)]))
        .ok(3, (5, 6), scan(2, &[]));
    valid(script.check(check));
}

#[test]
fn the_earlier_of_two_writes_is_left_for_the_earlier_answer() {
    // The answer at the greater revision was given first, before the second write began.
    let script = Script::new()
        .unknown(1, (1, 2), call_write(k(1), 5))
        .unknown(2, (3, 4), Call::Delete { key: k(1) })
        .ok(3, (5, 6), scan(9, &[(1, 5)]))
        .unknown(4, (7, 8), call_write(k(1), 5))
        .ok(
            5,
            (9, 10),
            (
                local_scan(),
                Reply::Items {
                    revision: 1,
                    items: vec![(1, 5)],
                },
            ),
        )
        .ok(
            5,
            (11, 12),
            (
                local_scan(),
                Reply::Items {
                    revision: 2,
                    items: vec![],
                },
            ),
        );
    valid(script.check(check));
}

fn local_scan() -> Call {
    let (partition, mode) = (0, Mode::Local);
    Call::Scan { partition, mode }
}
