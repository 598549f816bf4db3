//! Histories by hand, and random ones of a correct counter.

use proptest::prelude::*;

use super::{super::testing::*, check};
use crate::history::{Call, Reply, Revision};

fn call_add(delta: i64) -> Call {
    Call::Increment { key: k(1), delta }
}

fn add(delta: i64, revision: Revision, value: i64) -> (Call, Reply) {
    (call_add(delta), Reply::Number { revision, value })
}

fn count(value: i64) -> (Call, Reply) {
    (Call::Count { key: k(1) }, Reply::Number { revision: 0, value })
}

fn at_end(script: Script) -> crate::check::Verdict {
    script.check_with(check, |context| context.final_from = Some(100))
}

/// 2 and 3 acknowledged, 10 unknown.
fn some() -> Script {
    Script::new()
        .ok(1, (1, 2), add(2, 1, 2))
        .unknown(2, (3, 4), call_add(10))
        .ok(1, (5, 6), add(3, 2, 5))
}

#[test]
fn a_good_counter() {
    valid(at_end(some().ok(1, (7, 8), count(5)).ok(
        1,
        (101, 102),
        count(15),
    )));
    valid(at_end(some().ok(1, (101, 102), count(5))));
}

#[test]
fn a_counter_that_nobody_changed_needs_no_final_read() {
    valid(at_end(Script::new().ok(1, (1, 2), count(0))));
}

#[test]
fn an_increment_twice() {
    let script = Script::new().ok(1, (1, 2), add(2, 1, 4));
    broken("sum", script.check(check));
}

#[test]
fn an_unknown_increment_twice() {
    broken("growth", some().ok(1, (7, 8), add(1, 4, 26)).check(check));
    let first = Script::new()
        .unknown(2, (1, 2), call_add(10))
        .ok(1, (3, 4), add(1, 3, 21));
    broken("sum", first.check(check));
}

#[test]
fn an_unknown_increment_undone() {
    let script = some().ok(1, (7, 8), add(1, 4, 16)).ok(1, (9, 10), add(1, 5, 7));
    broken("growth", script.check(check));
}

#[test]
fn the_same_number_twice() {
    let script = Script::new()
        .ok(1, (1, 9), add(2, 1, 2))
        .ok(2, (2, 8), add(2, 2, 2));
    broken("growth", script.check(check));
}

#[test]
fn an_increment_before_it_began() {
    let script = Script::new()
        .ok(1, (1, 2), add(2, 1, 12))
        .unknown(2, (3, 4), call_add(10));
    broken("sum", script.check(check));
}

#[test]
fn a_count_out_of_bounds() {
    broken("bounds", some().ok(1, (7, 8), count(4)).check(check));
    broken("bounds", some().ok(1, (7, 8), count(16)).check(check));
}

#[test]
fn a_final_count_that_no_unknown_outcomes_make() {
    broken("final", at_end(some().ok(1, (101, 102), count(9))));
}

#[test]
fn no_final_count_is_unknown() {
    unknown(at_end(some()));
}

/// Its outcome was told by the committed log only, so it ends where somebody saw its revision: after the final read began.
#[test]
fn an_increment_that_ends_late_is_before_a_read_of_its_revision() {
    let at_revision = |revision, value| (Call::Count { key: k(1) }, Reply::Number { revision, value });
    let late = |read| at_end(some().ok(3, (90, 110), add(7, 5, 12)).ok(1, (101, 102), read));
    valid(late(at_revision(5, 12)));
    valid(late(at_revision(6, 22)));
    broken("final", late(at_revision(5, 5)));
    unknown(late(at_revision(4, 5)));
}

proptest! {
    #[test]
    fn a_correct_counter_is_accepted(plan in proptest::collection::vec((-3..4i64, 0..6u8), 1..60)) {
        let mut script = Script::new();
        let (mut value, mut revision) = (0, 0);
        for (at, (delta, fate)) in (1..).zip(plan) {
            let span = (10 * at, 10 * at + 5);
            if fate > 0 {
                value += delta;
                revision += 1;
            }
            script = match fate {
                0 | 1 => script.unknown(100 + at, span, call_add(delta)),
                _ => script.ok(1, span, add(delta, revision, value)),
            };
            script = script.ok(3, (10 * at + 6, 10 * at + 7), count(value));
        }
        let script = script.ok(1, (5000, 5001), count(value));
        let verdict = script.check_with(check, |context| context.final_from = Some(4000));
        prop_assert!(verdict.is_valid(), "{}", verdict);
    }

    #[test]
    fn one_too_many_is_rejected(deltas in proptest::collection::vec(1..4i64, 1..60)) {
        let mut script = Script::new();
        let (mut value, mut revision) = (0, 0);
        for (at, delta) in (1..).zip(deltas) {
            value += delta;
            revision += 1;
            script = script.ok(1, (10 * at, 10 * at + 5), add(delta, revision, value));
        }
        let verdict = script.ok(1, (5000, 5001), count(value + 1)).check(check);
        broken("bounds", verdict);
    }
}
