//! Histories by hand.

use super::{super::testing::*, check};
use crate::history::{Call, Process, Reply, Revision, Seen};

fn consume(after: Revision, epoch: u64) -> (Call, Reply) {
    let (shard, name) = (1, "mail".to_owned());
    (Call::Consume { shard, name }, Reply::Watching { after, epoch })
}

fn call_ack(epoch: u64, revision: Revision) -> Call {
    Call::Ack {
        shard: 1,
        name: "mail".to_owned(),
        epoch,
        revision,
    }
}

fn ack(epoch: u64, revision: Revision) -> (Call, Reply) {
    (call_ack(epoch, revision), Reply::Acked)
}

fn shows(
    script: Script,
    process: Process,
    time: u64,
    revisions: std::ops::RangeInclusive<Revision>,
) -> Script {
    let all: Vec<_> = revisions
        .clone()
        .map(|r| change(r, k(r as u32), Some(r)))
        .collect();
    script.seen(process, time, changes(&all, *revisions.end()))
}

/// Four changes; the first owner gets all and acknowledges two.
fn first_owner() -> Script {
    let mut script = Script::new().ok(8, (1, 2), consume(0, 1));
    for r in 1..=4 {
        script = script.ok(1, (10 * r, 10 * r + 1), write(k(r as u32), r, r, 1));
    }
    shows(script, 8, 50, 1..=4).ok(8, (51, 52), ack(1, 2))
}

#[test]
fn a_good_consumer() {
    let script = first_owner().ok(9, (60, 61), consume(2, 2));
    let script = shows(script, 9, 62, 3..=4).fail(8, (63, 64), call_ack(1, 4));
    let script = script.ok(9, (65, 66), ack(2, 4));
    valid(script.check_with(check, |context| context.drained = true));
}

#[test]
fn an_unknown_acknowledgement_may_have_moved_the_cursor() {
    let script = first_owner()
        .unknown(8, (53, 54), call_ack(1, 4))
        .ok(9, (60, 61), consume(4, 2));
    valid(script.check(check));
}

#[test]
fn a_cursor_that_goes_back_behind_what_was_acknowledged() {
    let script = first_owner().ok(9, (60, 61), consume(1, 2));
    broken("cursor", script.check(check));
}

#[test]
fn a_cursor_that_goes_back_from_owner_to_owner() {
    let script = Script::new()
        .ok(8, (1, 2), consume(5, 1))
        .ok(9, (3, 4), consume(4, 2));
    broken("cursor", script.check(check));
}

#[test]
fn events_passed_over_that_nobody_acknowledged() {
    let script = first_owner().ok(9, (60, 61), consume(3, 2));
    broken("lost", script.check(check));
}

#[test]
fn events_left_out_after_the_cursor() {
    let script = first_owner().ok(9, (60, 61), consume(2, 2));
    broken("gap", shows(script, 9, 62, 4..=4).check(check));
}

#[test]
fn an_old_owner_that_acknowledges() {
    let script = first_owner()
        .ok(9, (60, 61), consume(2, 2))
        .ok(8, (62, 63), ack(1, 4));
    broken("fencing", script.check(check));
}

#[test]
fn two_owners_with_one_epoch() {
    let script = first_owner().ok(9, (60, 61), consume(2, 1));
    broken("epoch", script.check(check));
}

#[test]
fn a_later_owner_with_a_smaller_epoch() {
    let script = Script::new()
        .ok(8, (1, 2), consume(0, 5))
        .ok(9, (3, 4), consume(0, 4));
    broken("epoch", script.check(check));
}

#[test]
fn a_consumer_that_stops_before_the_end() {
    let script = first_owner().ok(9, (60, 61), consume(2, 2));
    let script = shows(script, 9, 62, 3..=3);
    broken("gap", script.check_with(check, |context| context.drained = true));
}

fn ended(code: &str, revision: Revision) -> Seen {
    let code = code.to_owned();
    Seen::Ended { code, revision }
}

#[test]
fn who_is_fenced_has_a_successor() {
    let fenced = |script: Script| script.seen(8, 70, ended("fenced", 0)).check(check);
    valid(fenced(first_owner().ok(9, (60, 61), consume(2, 2))));
    valid(fenced(first_owner().ok(9, (60, 99), consume(2, 2))));
    valid(fenced(first_owner().unknown(9, (60, 61), consume(2, 2).0)));
    broken("fenced", fenced(first_owner()));
    broken("fenced", fenced(first_owner().ok(9, (71, 72), consume(2, 2))));
    broken("fenced", fenced(first_owner().fail(9, (60, 61), consume(2, 2).0)));
}

#[test]
fn a_consumer_that_is_told_that_its_events_are_gone() {
    let told = |revision, kept, at| {
        let script = first_owner().seen(8, at, ended("compacted", revision));
        script.check_with(check, |context| context.keep_revisions = kept)
    };
    // Revision 3 was the newest then, and nothing was acknowledged.
    valid(told(1, Some(2), 35));
    broken("compaction", told(2, Some(2), 35));
    broken("compaction", told(2, None, 35));
    // Later it has got 4 and acknowledged 2.
    broken("compaction", told(5, None, 70));
}

#[test]
fn what_a_consumer_needs_is_kept_for_it_from_everybody() {
    let told = |script: Script, revision| script.seen(8, 90, ended("compacted", revision)).check(check);
    let acked = || first_owner().ok(9, (60, 61), consume(2, 2));
    broken("compaction", told(acked(), 5));
    // The newer owner has acknowledged more, or may have.
    valid(told(acked().ok(9, (65, 66), ack(2, 4)), 5));
    valid(told(acked().unknown(9, (65, 66), ack(2, 4).0), 5));
    broken("compaction", told(acked().fail(9, (65, 66), ack(2, 4).0), 5));
    // Another consumer that has not.
    let both = |after, span| {
        let (shard, name) = (1, "news".to_owned());
        let other = Call::Consume { shard, name };
        let script = acked().ok(9, (65, 66), ack(2, 4));
        script.ok(7, span, (other, Reply::Watching { after, epoch: 1 }))
    };
    broken("compaction", told(both(3, (31, 39)), 5));
    valid(told(both(4, (67, 68)), 5));
    // It may not have been there then.
    valid(told(both(3, (85, 95)), 5));
}

#[test]
fn an_owner_that_is_refused_because_events_are_gone() {
    let refused = |error| {
        first_owner()
            .fail_as(error, 9, (60, 61), consume(2, 2).0)
            .check(check)
    };
    broken(
        "compaction",
        refused("compacted: revision 3 is gone, 9 is the first"),
    );
    valid(refused("no_leader: nobody leads"));
}

#[test]
fn a_first_owner_that_begins_too_late() {
    let first = |after| {
        let script = Script::new()
            .ok(1, (1, 2), write(k(1), 1, 1, 1))
            .ok(8, (3, 6), consume(after, 1))
            .ok(1, (5, 8), write(k(1), 2, 2, 2))
            .ok(1, (9, 10), write(k(1), 3, 3, 3));
        script.check(check)
    };
    valid(first(0));
    valid(first(1));
    valid(first(2));
    broken("lost", first(3));
    broken("lost", first(50));
}
