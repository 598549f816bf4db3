//! Bad histories of consumers that are reset and deleted, and good ones beside them.

use super::{super::testing::*, check};
use crate::history::{Call, Reply};

const NAME: &str = "moved";

fn open(start: u64, cursor: u64, epoch: u64) -> (Call, Reply) {
    let call = Call::ConsumeAt {
        shard: 1,
        name: NAME.into(),
        start,
    };
    (call, Reply::Watching { after: cursor, epoch })
}

fn call_reset(revision: u64) -> Call {
    Call::Reset {
        shard: 1,
        name: NAME.into(),
        revision,
    }
}

fn reset(revision: u64, cursor: u64, epoch: u64) -> (Call, Reply) {
    (call_reset(revision), Reply::Watching { after: cursor, epoch })
}

fn call_forget() -> Call {
    Call::Forget {
        shard: 1,
        name: NAME.into(),
    }
}

fn call_ack(epoch: u64, revision: u64) -> Call {
    Call::Ack {
        shard: 1,
        name: NAME.into(),
        epoch,
        revision,
    }
}

fn ack(epoch: u64, revision: u64) -> (Call, Reply) {
    (call_ack(epoch, revision), Reply::Acked)
}

/// Begun at revision 5, and acknowledged up to 7.
fn begun() -> Script {
    Script::new()
        .ok(1, (1, 2), open(5, 4, 1))
        .ok(2, (3, 4), ack(1, 7))
}

#[test]
fn a_new_one_is_right_before_the_revision_that_it_begins_with() {
    valid(begun().check(check));
    broken("cursor", Script::new().ok(1, (1, 2), open(5, 5, 1)).check(check));
    broken("cursor", Script::new().ok(1, (1, 2), open(5, 3, 1)).check(check));
}

#[test]
fn an_epoch_of_a_deleted_one_is_not_used_again() {
    let another = |shard, epoch| {
        let call = Call::ConsumeAt {
            shard,
            name: "another".into(),
            start: 5,
        };
        (call, Reply::Watching { after: 4, epoch })
    };
    let deleted = || {
        let taken_over = begun().ok(1, (5, 6), open(5, 7, 2));
        taken_over.ok(2, (7, 8), (call_forget(), Reply::Acked))
    };
    valid(deleted().ok(1, (9, 10), another(1, 3)).check(check));
    valid(deleted().ok(1, (9, 10), another(1, 9)).check(check));
    broken("epoch", deleted().ok(1, (9, 10), another(1, 2)).check(check));
    broken("epoch", deleted().ok(1, (9, 10), another(1, 1)).check(check));
    // Of another shard, and while it is deleted.
    valid(deleted().ok(1, (9, 10), another(2, 1)).check(check));
    valid(
        begun()
            .ok(3, (5, 7), another(1, 1))
            .ok(2, (6, 8), (call_forget(), Reply::Acked))
            .check(check),
    );
}

#[test]
fn one_that_is_taken_over_is_where_it_was_acknowledged() {
    let then = |next| begun().ok(1, (5, 6), next).check(check);
    valid(then(open(5, 7, 2)));
    broken("cursor", then(open(5, 4, 2)));
    broken("cursor", then(open(5, 8, 2)));
    broken("epoch", then(open(5, 7, 1)));
    broken("epoch", then(open(5, 7, 3)));
    // An older acknowledgement does not bring it back.
    let older = begun().ok(2, (5, 6), ack(1, 6));
    valid(older.ok(1, (7, 8), open(5, 7, 2)).check(check));
}

#[test]
fn one_that_is_reset_is_where_it_was_set() {
    let then = |reset, open| begun().ok(2, (5, 6), reset).ok(1, (7, 8), open).check(check);
    valid(then(reset(3, 3, 2), open(5, 3, 3)));
    valid(then(reset(9, 9, 2), open(5, 9, 3)));
    broken("cursor", then(reset(3, 7, 2), open(5, 7, 3)));
    broken("cursor", then(reset(3, 3, 2), open(5, 7, 3)));
    broken("epoch", then(reset(3, 3, 1), open(5, 3, 2)));
    broken("epoch", then(reset(3, 3, 2), open(5, 3, 2)));
}

#[test]
fn what_is_delivered_after_a_reset_begins_right_after_it() {
    let shown = |revisions: &[u64]| {
        let mut script = Script::new();
        for revision in 1..=4 {
            let at = revision * 2;
            script = script.ok(9, (at, at + 1), write(k(1), revision, revision, revision));
        }
        let script = script
            .ok(1, (11, 12), open(5, 4, 1))
            .ok(2, (13, 14), reset(2, 2, 2))
            .ok(1, (15, 16), open(5, 2, 3));
        let all: Vec<_> = revisions
            .iter()
            .map(|revision| change(*revision, k(1), Some(*revision)))
            .collect();
        script.seen(1, 17, changes(&all, 4)).check(check)
    };
    valid(shown(&[3, 4]));
    broken("gap", shown(&[4]));
    broken("order", shown(&[2, 3, 4]));
}

#[test]
fn who_was_the_owner_is_refused_and_who_is_it_not() {
    let after_reset = || begun().ok(2, (5, 6), reset(3, 3, 2));
    let fenced =
        |script: Script, epoch| script.fail_as("fenced: another owns it", 2, (7, 8), call_ack(epoch, 8));
    valid(fenced(after_reset(), 1).check(check));
    broken("fencing", after_reset().ok(2, (7, 8), ack(1, 8)).check(check));
    broken("fencing", fenced(begun(), 1).check(check));
    let other = after_reset().fail_as("no_leader: nobody leads", 2, (7, 8), call_ack(2, 8));
    valid(other.check(check));
}

#[test]
fn what_is_deleted_is_not_there_for_anybody() {
    let deleted = || begun().ok(2, (5, 6), (call_forget(), Reply::Acked));
    let none = "not_found: there is no consumer";
    valid(deleted().fail_as(none, 2, (7, 8), call_ack(1, 8)).check(check));
    broken("deleted", deleted().ok(2, (7, 8), ack(1, 8)).check(check));
    broken("deleted", deleted().ok(2, (7, 8), reset(3, 3, 2)).check(check));
    broken(
        "deleted",
        deleted()
            .ok(2, (7, 8), (call_forget(), Reply::Acked))
            .check(check),
    );
    let fenced = deleted().fail_as("fenced: another owns it", 2, (7, 8), call_ack(1, 8));
    broken("fencing", fenced.check(check));
    broken(
        "deleted",
        begun().fail_as(none, 2, (7, 8), call_ack(1, 8)).check(check),
    );
    broken(
        "deleted",
        begun().fail_as(none, 2, (7, 8), call_reset(3)).check(check),
    );
}

#[test]
fn after_an_unknown_outcome_nothing_is_said() {
    let script = begun().unknown(2, (5, 6), call_reset(3));
    valid(script.ok(1, (7, 8), open(5, 7, 2)).check(check));
}
