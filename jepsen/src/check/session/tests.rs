//! Histories by hand.

use std::collections::BTreeSet;

use super::{super::testing::*, check};
use crate::{
    check::{Context, History, WrongClock},
    history::{Call, Mode, Reply, Row},
};

const MS: u64 = 1_000_000;

/// Two writes, acknowledged at 10 and 20 ms.
fn two_writes() -> Script {
    Script::new().ok(1, (9 * MS, 10 * MS), write(k(1), 10, 1, 1)).ok(
        1,
        (19 * MS, 20 * MS),
        write(k(1), 11, 2, 2),
    )
}

fn old_row(mode: Mode, age_ms: u64) -> (Call, Reply) {
    let row = Row {
        value: 10,
        create_rev: 1,
        mod_rev: 1,
        version: 1,
    };
    let reply = Reply::Row {
        revision: 1,
        row: Some(row),
        age_ms,
    };
    (Call::Read { key: k(1), mode }, reply)
}

#[test]
fn good_reads() {
    let script = two_writes()
        .ok(
            2,
            (30 * MS, 31 * MS),
            read_as(Mode::AtLeast(2), k(1), 2, Some((11, 1, 2, 2))),
        )
        .ok(3, (32 * MS, 33 * MS), old_row(Mode::AtLeast(1), 0))
        .ok(4, (34 * MS, 35 * MS), old_row(Mode::Bounded(15), 14))
        .ok(4, (36 * MS, 37 * MS), old_row(Mode::Local, 500));
    valid(script.check(check));
}

#[test]
fn a_read_below_its_revision() {
    let script = two_writes().ok(2, (30 * MS, 31 * MS), old_row(Mode::AtLeast(2), 0));
    broken("at least", script.check(check));
}

#[test]
fn a_read_that_does_not_see_an_own_write() {
    let stale = read_as(Mode::AtLeast(2), k(1), 2, Some((10, 1, 1, 1)));
    let script = two_writes().ok(1, (30 * MS, 31 * MS), stale);
    broken("at least", script.check(check));
}

#[test]
fn a_bounded_read_that_is_too_old() {
    // The second write was acknowledged 10 ms before.
    let script = || two_writes().ok(2, (30 * MS + 1, 31 * MS), old_row(Mode::Bounded(10), 10));
    broken("bounded", script().check(check));
    valid(script().check_with(check, |context| context.clock_error = 2 * MS));
}

#[test]
fn a_wrong_rate_excuses_only_ages_that_it_measured() {
    let wrong = |from: u64, to: u64| WrongClock {
        node: 1,
        from: from * MS,
        to: to * MS,
        rate_off: 100_000,
        ..WrongClock::default()
    };
    let verdict = |wrong_clocks: &[WrongClock]| {
        let read = old_row(Mode::Bounded(10), 10);
        let events = two_writes().ok(2, (30 * MS + 1, 31 * MS), read).events();
        let context = Context {
            wrong_clocks,
            ..Context::new(&shard_of)
        };
        check(&History::new(&events), &context)
    };
    valid(verdict(&[wrong(15, 40)]));
    broken("bounded", verdict(&[wrong(0, 5), wrong(35, 40)]));
}

#[test]
fn a_bounded_read_that_says_it_is_too_old() {
    let script = |age| two_writes().ok(2, (21 * MS, 22 * MS), old_row(Mode::Bounded(5), age));
    broken("bounded", script(7).check(check));
    // It took a millisecond, which counts in its age.
    valid(script(6).check(check));
}

#[test]
fn an_age_that_is_not_true() {
    let script = two_writes().ok(2, (30 * MS, 31 * MS), old_row(Mode::Local, 3));
    broken("age", script.check(check));
}

#[test]
fn a_process_that_goes_back() {
    let script = || {
        two_writes()
            .ok(
                2,
                (30 * MS, 31 * MS),
                read_as(Mode::AtLeast(0), k(1), 2, Some((11, 1, 2, 2))),
            )
            .ok(2, (32 * MS, 33 * MS), old_row(Mode::AtLeast(0), 0))
    };
    valid(script().check(check));
    let promised = script().check_with(check, |context| context.monotonic = BTreeSet::from([2]));
    broken("monotonic", promised);
}

#[test]
fn linearizable_reads_are_not_looked_at() {
    unknown(
        two_writes()
            .ok(2, (30 * MS, 31 * MS), old_row(Mode::Linearizable, 0))
            .check(check),
    );
}
