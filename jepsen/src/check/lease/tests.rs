//! Histories by hand.

use super::{super::testing::*, check};
use crate::{
    check::{Context, History, Verdict, WrongClock},
    history::{Call, Change, Reply},
};

const MS: u64 = 1_000_000;

fn put(ttl_ms: u64, lease: u64, revision: u64) -> (Call, Reply) {
    let call = Call::Write {
        key: k(1),
        value: revision,
        ttl_ms,
        lease,
    };
    (call, written(revision, 1))
}

fn found(revision: u64) -> (Call, Reply) {
    read(k(1), revision, Some((revision, revision, revision, 1)))
}

/// A key with a TTL of 100 ms, put between 1 and 2 ms.
fn with_ttl() -> Script {
    Script::new().ok(1, (MS, 2 * MS), put(100, 0, 1))
}

const PARTITION: u32 = 0;

/// A lease of 100 ms, granted between 1 and 2 ms, with a key.
fn with_lease() -> Script {
    let (partition, ttl_ms) = (PARTITION, 100);
    let grant = Call::Grant { partition, ttl_ms };
    Script::new()
        .ok(1, (MS, 2 * MS), (grant, Reply::Lease { lease: 5, ttl_ms }))
        .ok(1, (3 * MS, 4 * MS), put(0, 5, 1))
}

fn keep_alive() -> (Call, Reply) {
    let (partition, lease) = (PARTITION, 5);
    let reply = Reply::Lease { lease, ttl_ms: 100 };
    (Call::KeepAlive { partition, lease }, reply)
}

fn revoke() -> Call {
    let (partition, lease) = (PARTITION, 5);
    Call::Revoke { partition, lease }
}

fn gone_at(script: Script, ms: u64) -> Script {
    script.ok(2, (ms * MS - MS / 2, ms * MS), read(k(1), 2, None))
}

fn expired_at(script: Script, ms: u64) -> Script {
    let watch = Call::Watch {
        partition: PARTITION,
        after: 0,
    };
    let expired = Change {
        expired: true,
        ..change(2, k(1), None)
    };
    script
        .ok(9, (0, 1), (watch, Reply::Watching { after: 0, epoch: 0 }))
        .seen(9, ms * MS, changes(&[expired], 2))
}

fn at_end(context: &mut Context<'_>) {
    context.final_from = Some(200 * MS);
    context.expiry_delay = 50 * MS;
}

fn verdict(script: Script) -> Verdict {
    script.check(check)
}

#[test]
fn keys_that_end_in_time() {
    valid(verdict(gone_at(with_ttl(), 101)));
    valid(verdict(expired_at(with_ttl(), 101)));
    valid(verdict(gone_at(with_lease(), 101)));
    valid(verdict(gone_at(
        with_lease().ok(1, (50 * MS, 51 * MS), keep_alive()),
        150,
    )));
    let script = gone_at(with_ttl(), 250).ok(2, (251 * MS, 252 * MS), read(k(1), 2, None));
    valid(script.check_with(check, at_end));
}

#[test]
fn a_key_that_is_gone_too_early() {
    broken("early", verdict(gone_at(with_ttl(), 100)));
    valid(gone_at(with_ttl(), 100).check_with(check, |context| context.clock_error = 2 * MS));
}

/// One node's clock was a minute ahead, or behind, from 30 to 40 ms.
fn jump(ahead: bool) -> WrongClock {
    let (minute, none) = (60_000 * MS, 0);
    let (ahead, behind) = if ahead { (minute, none) } else { (none, minute) };
    WrongClock {
        node: 1,
        from: 30 * MS,
        to: 40 * MS,
        ahead,
        behind,
        rate_off: 0,
    }
}

fn with_jump(script: Script, ahead: bool) -> Verdict {
    let jumps = [jump(ahead)];
    let events = script.events();
    let mut context = Context::new(&shard_of);
    context.wrong_clocks = &jumps;
    check(&History::new(&events), &context)
}

#[test]
fn a_clock_that_is_ahead_excuses_only_what_lives_then() {
    valid(with_jump(gone_at(with_ttl(), 35), true));
    valid(with_jump(gone_at(with_ttl(), 90), true));
    valid(with_jump(gone_at(with_lease(), 35), true));
    // Gone before it, written after it.
    broken("early", with_jump(gone_at(with_ttl(), 29), true));
    broken("early", with_jump(gone_at(with_lease(), 29), true));
    let later = || Script::new().ok(1, (41 * MS, 42 * MS), put(100, 0, 1));
    broken("early", with_jump(gone_at(later(), 140), true));
    valid(with_jump(gone_at(later(), 141), true));
    // A renewal begins a new life.
    let renewed = || with_lease().ok(1, (41 * MS, 42 * MS), keep_alive());
    broken("early", with_jump(gone_at(renewed(), 140), true));
}

#[test]
fn a_clock_that_is_behind_excuses_only_what_is_written_then() {
    broken("early", with_jump(gone_at(with_ttl(), 100), false));
    let then = Script::new().ok(1, (35 * MS, 36 * MS), put(100, 0, 1));
    valid(with_jump(gone_at(then, 50), false));
}

#[test]
fn a_jump_does_not_excuse_a_key_that_stays() {
    let jumps = [jump(true)];
    let script = |found_at: u64| {
        let script = with_ttl().ok(2, (found_at * MS, (found_at + 1) * MS), found(1));
        script.events()
    };
    let verdict = |events: &[crate::history::Event]| {
        let mut context = Context::new(&shard_of);
        at_end(&mut context);
        context.wrong_clocks = &jumps;
        check(&History::new(events), &context)
    };
    // Its time may have begun to run at 200 ms only.
    valid(verdict(&script(349)));
    broken("late", verdict(&script(351)));
}

fn refused_at(script: Script, error: &str, ms: u64) -> Script {
    let (call, _) = keep_alive();
    script.fail_as(error, 1, (ms * MS - MS / 2, ms * MS), call)
}

#[test]
fn a_lease_that_is_said_to_have_ended_too_early() {
    let error = "not_found: there is no lease 5";
    broken("early", verdict(refused_at(with_lease(), error, 100)));
    valid(verdict(refused_at(with_lease(), error, 101)));
    let renewed = with_lease().ok(1, (50 * MS, 51 * MS), keep_alive());
    broken("early", verdict(refused_at(renewed, error, 149)));
    let revoked = with_lease().unknown(1, (50 * MS, 51 * MS), revoke());
    valid(verdict(gone_at(refused_at(revoked, error, 60), 150)));
    valid(verdict(gone_at(
        refused_at(with_lease(), "no_leader: none", 60),
        150,
    )));
    let (call, _) = put(0, 5, 2);
    let write = with_lease().fail_as(error, 1, (50 * MS, 51 * MS), call);
    broken("early", verdict(write));
}

#[test]
fn an_expiry_that_is_seen_too_early() {
    broken("early", verdict(expired_at(with_ttl(), 100)));
}

#[test]
fn a_lease_that_ends_too_early() {
    broken("early", verdict(gone_at(with_lease(), 100)));
    broken("early", verdict(expired_at(with_lease(), 100)));
}

#[test]
fn a_keep_alive_that_is_forgotten() {
    let script = || with_lease().ok(1, (50 * MS, 51 * MS), keep_alive());
    broken("early", verdict(gone_at(script(), 149)));
    broken("early", verdict(expired_at(script(), 149)));
}

#[test]
fn a_new_put_that_is_forgotten() {
    // The second put has no end, so the first one's is void.
    let script = with_ttl().ok(1, (50 * MS, 51 * MS), put(0, 0, 2));
    broken("early", verdict(gone_at(script, 120)));
}

#[test]
fn deletions_and_revocations_explain_an_early_end() {
    valid(verdict(gone_at(
        with_ttl().ok(1, (5 * MS, 6 * MS), delete(k(1), 2, true)),
        10,
    )));
    valid(verdict(gone_at(
        with_ttl().unknown(1, (5 * MS, 6 * MS), Call::Delete { key: k(1) }),
        10,
    )));
    valid(verdict(gone_at(
        with_lease().unknown(1, (5 * MS, 6 * MS), revoke()),
        10,
    )));
}

#[test]
fn a_key_that_is_still_there_at_the_end() {
    let script = with_ttl().ok(2, (251 * MS, 252 * MS), found(1));
    broken("late", script.check_with(check, at_end));
    let script = with_lease().ok(2, (251 * MS, 252 * MS), found(1));
    broken("late", script.check_with(check, at_end));
}

#[test]
fn a_key_may_stay_for_the_delay_after_the_faults() {
    let script = with_ttl().ok(2, (249 * MS, 252 * MS), found(1));
    valid(script.check_with(check, at_end));
}

#[test]
fn no_key_that_ends_is_unknown() {
    unknown(verdict(Script::new().ok(1, (1, 2), put(0, 0, 1)).ok(
        1,
        (3, 4),
        found(1),
    )));
}

/// What is said of a key that ended at 102 ms at the latest and is found at some time, after a quiet beginning and a disturbance.
fn found_at(ms: u64, disturbed: Option<&[(u64, u64)]>, jumps: &[WrongClock]) -> Verdict {
    let script = with_ttl().ok(2, (ms * MS, (ms + 1) * MS), found(1));
    let events = script.events();
    let mut context = Context::new(&shard_of);
    context.expiry_delay = 50 * MS;
    context.recovery = 100 * MS;
    context.disturbed = disturbed;
    context.wrong_clocks = jumps;
    check(&History::new(&events), &context)
}

#[test]
fn a_key_that_stays_in_a_quiet_time() {
    let at = |ms| found_at(ms, Some(&[]), &[]);
    valid(at(152));
    broken("late", at(153));
    // It is not known what went on.
    valid(found_at(60_000, None, &[]));
}

#[test]
fn a_disturbance_excuses_a_key_that_stays_until_the_cluster_has_recovered() {
    let faults = [(10 * MS, 200 * MS), (700 * MS, 900 * MS)];
    let at = |ms| found_at(ms, Some(&faults), &[]);
    valid(at(299));
    valid(at(350));
    broken("late", at(351));
    broken("late", at(698));
    valid(at(699));
    valid(at(1_000));
    broken("late", at(1_051));
}

#[test]
fn after_a_wrong_clock_the_time_may_begin_anew() {
    // It was wrong until 40 ms.
    let at = |ms, ahead| found_at(ms, Some(&[]), &[jump(ahead)]);
    valid(at(290, true));
    valid(at(290, false));
    broken("late", at(291, true));
    broken("late", at(291, false));
}

#[test]
fn a_read_that_would_have_been_late_is_counted() {
    let late = |ms| match gone_at(with_ttl(), ms).check_with(check, |context| context.disturbed = Some(&[])) {
        Verdict::Valid { stats } => stats.get("late").copied(),
        verdict => panic!("{verdict}"),
    };
    assert_eq!(late(2_102), None);
    assert_eq!(late(2_104), Some(1));
}

/// The lease and its key of [`with_lease`] for a minute, and a revocation that was carried out between 10 and 11 ms.
fn revoked() -> Script {
    let (partition, ttl_ms) = (PARTITION, 60_000);
    let grant = Call::Grant { partition, ttl_ms };
    Script::new()
        .ok(1, (MS, 2 * MS), (grant, Reply::Lease { lease: 5, ttl_ms }))
        .ok(1, (3 * MS, 4 * MS), put(0, 5, 1))
        .ok(
            1,
            (10 * MS, 11 * MS),
            (revoke(), Reply::Lease { lease: 5, ttl_ms }),
        )
}

#[test]
fn a_value_that_outlives_the_revocation_of_its_lease() {
    broken("revoked", verdict(revoked().ok(2, (12 * MS, 13 * MS), found(1))));
    valid(verdict(gone_at(revoked(), 13)));
    // The read began before.
    valid(verdict(revoked().ok(2, (10 * MS, 13 * MS), found(1))));
    // It may not have been carried out.
    let unknown = with_lease().unknown(1, (10 * MS, 11 * MS), revoke());
    valid(verdict(unknown.ok(2, (12 * MS, 13 * MS), found(1))));
    let failed = with_lease().fail(1, (10 * MS, 11 * MS), revoke());
    valid(verdict(failed.ok(2, (12 * MS, 13 * MS), found(1))));
    // The key had got another value since, without a lease.
    let again = with_lease().ok(1, (5 * MS, 6 * MS), put(0, 0, 2));
    let (reply, ttl_ms) = (found(2), 100);
    let again = again.ok(
        1,
        (10 * MS, 11 * MS),
        (revoke(), Reply::Lease { lease: 5, ttl_ms }),
    );
    valid(verdict(again.ok(2, (12 * MS, 13 * MS), reply)));
}

#[test]
fn a_value_of_unknown_outcome_that_outlives_the_revocation_of_its_lease() {
    let write = |lease| put(0, lease, 2).0;
    let script = |lease| revoked().unknown(3, (5 * MS, 6 * MS), write(lease));
    let read = || read(k(1), 2, Some((2, 1, 2, 2)));
    broken("revoked", verdict(script(5).ok(2, (12 * MS, 13 * MS), read())));
    valid(verdict(script(0).ok(2, (12 * MS, 13 * MS), read())));
    valid(verdict(script(7).ok(2, (12 * MS, 13 * MS), read())));
    let either = script(5).unknown(4, (5 * MS, 6 * MS), write(0));
    valid(verdict(either.ok(2, (12 * MS, 13 * MS), read())));
}

#[test]
fn a_revoked_lease_that_is_used() {
    let used = |call, ms| verdict(gone_at(revoked().ok(2, (ms * MS, 20 * MS), call), 30));
    let again = || (revoke(), keep_alive().1);
    broken("revoked", used(keep_alive(), 12));
    broken("revoked", used(put(0, 5, 2), 12));
    broken("revoked", used(again(), 12));
    valid(used(keep_alive(), 10));
    valid(used(put(0, 5, 2), 10));
    // With no lease, or another one.
    valid(verdict(gone_at(revoked(), 13).ok(
        2,
        (14 * MS, 20 * MS),
        put(0, 0, 2),
    )));
    valid(verdict(gone_at(revoked(), 13).ok(
        2,
        (14 * MS, 20 * MS),
        put(0, 6, 2),
    )));
    // One that is refused is as it should be, and counted.
    let refused = refused_at(revoked(), "not_found: there is no lease 5", 20);
    match verdict(refused) {
        Verdict::Valid { stats } => assert_eq!(stats.get("after revocations"), Some(&1)),
        verdict => panic!("{verdict}"),
    }
}

#[test]
fn a_lease_that_is_used_long_after_its_end() {
    let quiet = |script: Script| {
        gone_at(script, 400).check_with(check, |context| {
            context.disturbed = Some(&[]);
            context.expiry_delay = 50 * MS;
        })
    };
    // It ends at 102 ms at the latest.
    let used = |call: (Call, Reply), ms: u64| quiet(with_lease().ok(2, (ms * MS, (ms + 1) * MS), call));
    broken("late", used(keep_alive(), 153));
    broken("late", used(put(0, 5, 2), 153));
    broken("late", used((revoke(), keep_alive().1), 153));
    valid(used(keep_alive(), 152));
    valid(used(put(0, 5, 2), 152));
    // It was kept alive meanwhile, or may have been.
    let (call, _) = keep_alive();
    let kept = with_lease().ok(1, (90 * MS, 91 * MS), keep_alive());
    valid(quiet(kept.ok(2, (180 * MS, 181 * MS), keep_alive())));
    let kept = with_lease().unknown(1, (90 * MS, 91 * MS), call);
    valid(quiet(kept.ok(2, (180 * MS, 181 * MS), keep_alive())));
    // Nobody knows whether it was quiet.
    let script = with_lease().ok(2, (153 * MS, 154 * MS), keep_alive());
    valid(verdict(gone_at(script, 400)));
}
