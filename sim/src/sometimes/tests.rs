use std::time::Duration;

use kvsvr::wal::VoteRecord;
use kvsvr_core::types::LogPosition;

use super::*;
use crate::invariants::{self, Log, testing::replica};

/// A log that nobody looks into.
struct Nothing;

impl Log for Nothing {
    fn position(&self, _: u64) -> Option<LogPosition> {
        None
    }
}

fn look(sometimes: &mut Sometimes, replicas: &[Replica]) {
    let moment = Moment {
        at: Duration::ZERO,
        machines: Vec::new(),
        members_change: false,
        reseed: None,
        replicas: replicas
            .iter()
            .map(|replica| (replica.clone(), &Nothing as _))
            .collect(),
    };
    sometimes.look(&moment, 3, 3);
}

fn count(sometimes: &Sometimes, event: &str) -> u64 {
    sometimes.counts()[event]
}

/// A leader of a term that has purged up to an index.
fn leader(machine: usize, term: u64, purged: Option<u64>) -> Replica {
    let mut leader = replica(machine, term);
    leader.role = Role::Leader;
    leader.log.vote = Some(VoteRecord {
        term,
        node: leader.node,
        committed: true,
    });
    leader.log.purged = purged.map(position);
    leader
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        index,
        term: 1,
        node: 1,
    }
}

#[test]
fn two_leaders_count_once_as_long_as_there_are_two() {
    let mut sometimes = Sometimes::default();
    let (old, new) = (leader(0, 1, None), leader(1, 2, None));
    let event = "two_leaders_of_different_terms";
    look(&mut sometimes, std::slice::from_ref(&old));
    assert_eq!(count(&sometimes, event), 0);
    for _ in 0..3 {
        look(&mut sometimes, &[old.clone(), new.clone()]);
    }
    assert_eq!(count(&sometimes, event), 1);
    look(&mut sometimes, std::slice::from_ref(&new));
    look(&mut sometimes, &[old, new]);
    assert_eq!(count(&sometimes, event), 2);
}

#[test]
fn a_replica_counts_when_it_falls_behind() {
    let mut sometimes = Sometimes::default();
    let follower = |machine, last| {
        let mut follower = replica(machine, 1);
        follower.log.last = Some(position(last));
        follower
    };
    let event = "replica_behind_the_purged_log";
    look(&mut sometimes, &[leader(0, 1, None), follower(1, 3)]);
    look(&mut sometimes, &[leader(0, 1, Some(3)), follower(1, 3)]);
    assert_eq!(count(&sometimes, event), 0);
    look(&mut sometimes, &[leader(0, 1, Some(5)), follower(1, 3)]);
    look(&mut sometimes, &[leader(0, 1, Some(9)), follower(1, 4)]);
    assert_eq!(count(&sometimes, event), 1);
    // Another one.
    look(
        &mut sometimes,
        &[leader(0, 1, Some(9)), follower(1, 4), follower(2, 8)],
    );
    assert_eq!(count(&sometimes, event), 2);
    // It has not caught up, whoever leads or not.
    look(&mut sometimes, &[follower(1, 4)]);
    look(&mut sometimes, &[leader(2, 2, Some(9)), follower(1, 4)]);
    assert_eq!(count(&sometimes, event), 2);
    look(&mut sometimes, &[leader(2, 2, Some(9)), follower(1, 9)]);
    look(&mut sometimes, &[leader(2, 2, Some(12)), follower(1, 9)]);
    assert_eq!(count(&sometimes, event), 3);
}

#[test]
fn every_invariant_has_an_event_that_is_demanded() {
    let of_churn = "held_against_membership";
    for invariant in invariants::all() {
        let mut sometimes = Sometimes::default();
        sometimes.held_against(invariant.name());
        let event = format!("held_against_{}", invariant.name());
        assert_eq!(count(&sometimes, &event), 1);
        let is_demanded = |churn| demanded(EngineKind::default(), churn).contains(&&*event);
        assert!(is_demanded(true), "{event}");
        assert_eq!(is_demanded(false), event != of_churn, "{event}");
    }
    let all = demanded(EngineKind::default(), true);
    let events = all.iter().filter(|event| event.starts_with("held_against_"));
    assert_eq!(events.count(), invariants::all().len());
}
