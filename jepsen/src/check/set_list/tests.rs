//! Histories by hand, and random ones of a correct list.

use proptest::prelude::*;

use super::{super::testing::*, check};
use crate::history::{Call, Mode, Reply, Revision};

fn call_append(value: u64) -> Call {
    Call::Append { list: k(1), value }
}

fn append(value: u64, revision: Revision, seq: u64) -> (Call, Reply) {
    (call_append(value), Reply::Appended { revision, seq })
}

fn list(revision: Revision, values: &[u64]) -> (Call, Reply) {
    let items = (1..).zip(values.iter().copied()).collect();
    let mode = Mode::Linearizable;
    (Call::List { list: k(1), mode }, Reply::Items { revision, items })
}

fn two_appends() -> Script {
    Script::new()
        .ok(1, (1, 2), append(10, 1, 1))
        .ok(1, (3, 4), append(11, 2, 2))
}

#[test]
fn a_good_list() {
    let script = two_appends()
        .unknown(2, (5, 6), call_append(12))
        .ok(1, (7, 8), list(2, &[10, 11]))
        .ok(1, (9, 10), append(13, 4, 4))
        .ok(1, (101, 102), list(4, &[10, 11, 12, 13]));
    valid(script.check_with(check, |context| context.final_from = Some(100)));
}

#[test]
fn a_list_that_was_not_read_at_the_end() {
    unknown(two_appends().check_with(check, |context| context.final_from = Some(100)));
}

#[test]
fn two_appends_at_one_place() {
    broken(
        "place",
        two_appends().ok(2, (1, 9), append(12, 3, 2)).check(check),
    );
}

#[test]
fn places_against_revisions() {
    broken(
        "place",
        two_appends().ok(2, (1, 9), append(12, 1, 3)).check(check),
    );
}

#[test]
fn places_against_real_time() {
    let script = Script::new()
        .ok(1, (1, 2), append(10, 5, 2))
        .ok(2, (3, 4), append(11, 4, 1));
    broken("place", script.check(check));
}

#[test]
fn a_place_that_is_nobodys() {
    broken(
        "dense",
        two_appends().ok(1, (5, 6), append(12, 4, 4)).check(check),
    );
}

#[test]
fn a_hole_in_a_read() {
    let mode = Mode::Linearizable;
    let items = vec![(1, 10), (3, 11)];
    let read = (
        Call::List { list: k(1), mode },
        Reply::Items { revision: 2, items },
    );
    broken("dense", two_appends().ok(1, (5, 6), read).check(check));
}

#[test]
fn a_value_twice() {
    let script = two_appends()
        .unknown(2, (5, 6), call_append(12))
        .ok(1, (7, 8), list(4, &[10, 11, 12, 12]));
    broken("dense", script.check(check));
}

#[test]
fn a_lost_append() {
    let script = || two_appends().unknown(2, (5, 6), call_append(12));
    broken("lost", script().ok(1, (7, 8), list(3, &[10])).check(check));
    broken("lost", script().ok(1, (7, 8), list(3, &[10, 12])).check(check));
    // The read says that it is of a revision before it.
    broken("lost", script().ok(1, (7, 8), list(1, &[10])).check(check));
}

#[test]
fn an_item_that_nobody_appended() {
    broken(
        "phantom",
        two_appends().ok(1, (5, 6), list(3, &[10, 11, 12])).check(check),
    );
    let failed = two_appends().fail(2, (5, 6), call_append(12));
    broken(
        "phantom",
        failed.ok(1, (7, 8), list(3, &[10, 11, 12])).check(check),
    );
}

#[test]
fn two_reads_in_different_order() {
    let script = Script::new()
        .unknown(2, (1, 2), call_append(10))
        .unknown(3, (1, 2), call_append(11))
        .ok(1, (5, 6), list(2, &[10, 11]))
        .ok(1, (7, 8), list(2, &[11, 10]));
    broken("order", script.check(check));
}

/// One append, and another one of unknown outcome that a read shows at revision 2.
fn shown_append() -> Script {
    Script::new()
        .ok(1, (1, 2), append(10, 1, 1))
        .unknown(2, (3, 4), call_append(20))
        .ok(3, (5, 6), list(2, &[10, 20]))
}

fn local(revision: Revision, values: &[u64]) -> (Call, Reply) {
    let (mut call, reply) = list(revision, values);
    if let Call::List { mode, .. } = &mut call {
        *mode = Mode::Local;
    }
    (call, reply)
}

#[test]
fn a_list_that_gets_shorter() {
    broken("order", shown_append().ok(3, (7, 8), list(2, &[10])).check(check));
    broken("order", shown_append().ok(3, (7, 8), list(3, &[10])).check(check));
    broken(
        "order",
        shown_append().ok(3, (7, 8), local(2, &[10])).check(check),
    );
    broken(
        "order",
        shown_append().ok(3, (7, 8), local(3, &[10])).check(check),
    );
    // It is as old as its revision, but it has to be new.
    broken("order", shown_append().ok(3, (7, 8), list(1, &[10])).check(check));
    // The smaller revision was read later.
    let script = || Script::new().unknown(2, (1, 2), call_append(10));
    let later = script()
        .ok(3, (3, 4), local(3, &[]))
        .ok(3, (5, 6), local(2, &[10]));
    broken("order", later.check(check));
}

#[test]
fn a_list_that_stays_or_grows() {
    valid(shown_append().ok(3, (7, 8), list(2, &[10, 20])).check(check));
    valid(shown_append().ok(3, (7, 8), list(5, &[10, 20])).check(check));
    valid(shown_append().ok(3, (7, 8), local(1, &[10])).check(check));
    valid(shown_append().ok(4, (4, 8), list(1, &[10])).check(check));
    let grown = shown_append().ok(1, (7, 8), append(30, 3, 3));
    valid(grown.ok(3, (9, 10), list(3, &[10, 20, 30])).check(check));
}

#[test]
fn an_append_at_a_place_that_was_shown_before_it() {
    broken(
        "order",
        shown_append().ok(1, (7, 8), append(30, 3, 2)).check(check),
    );
    valid(shown_append().ok(1, (7, 8), append(30, 3, 3)).check(check));
}

fn two_elements() -> Script {
    Script::new()
        .ok(1, (1, 2), write(k(1), 10, 1, 1))
        .unknown(2, (3, 4), call_write(k(2), 20))
}

#[test]
fn a_good_set() {
    let script =
        two_elements()
            .ok(1, (5, 6), scan(1, &[(1, 10)]))
            .ok(1, (101, 102), scan(2, &[(1, 10), (2, 20)]));
    valid(script.check_with(check, |context| context.final_from = Some(100)));
}

#[test]
fn a_set_that_was_not_read_at_the_end() {
    unknown(two_elements().check_with(check, |context| context.final_from = Some(100)));
}

#[test]
fn a_lost_element() {
    broken(
        "lost",
        two_elements().ok(1, (5, 6), scan(2, &[(2, 20)])).check(check),
    );
}

#[test]
fn an_element_that_was_there_before() {
    let script =
        two_elements()
            .ok(1, (5, 6), scan(2, &[(1, 10), (2, 20)]))
            .ok(1, (7, 8), scan(2, &[(1, 10)]));
    broken("lost", script.check(check));
}

#[test]
fn an_element_that_nobody_added() {
    broken(
        "phantom",
        two_elements()
            .ok(1, (5, 6), scan(2, &[(1, 10), (3, 30)]))
            .check(check),
    );
    broken(
        "phantom",
        two_elements().ok(1, (5, 6), scan(2, &[(1, 11)])).check(check),
    );
}

proptest! {
    /// Appends of unknown outcome that happened or not, and reads between them.
    #[test]
    fn a_correct_list_is_accepted(plan in proptest::collection::vec(0..6u8, 1..60)) {
        let mut script = Script::new().ok(1, (1, 2), list(0, &[]));
        let (mut values, mut revision) = (Vec::new(), 0);
        for (at, what) in (1..).zip(plan) {
            let span = (10 * at, 10 * at + 5);
            match what {
                0 => script = script.unknown(100 + at, span, call_append(at)),
                1 => {
                    values.push(at);
                    revision += 1;
                    script = script.unknown(100 + at, span, call_append(at));
                }
                2 => script = script.ok(1, span, list(revision, &values)),
                _ => {
                    values.push(at);
                    revision += 1;
                    script = script.ok(1, span, append(at, revision, values.len() as u64));
                }
            }
        }
        let verdict = script.check(check);
        prop_assert!(verdict.is_valid(), "{}", verdict);
    }
}
