//! States by hand.

use super::{super::testing::*, Replica, check};

fn replica(node: u64, shard: u32, applied: u64, hash: u64) -> Replica {
    Replica {
        node,
        shard,
        applied,
        hash,
    }
}

fn verdict(replicas: &[Replica]) -> crate::check::Verdict {
    verdict_of(replicas, None)
}

fn verdict_of(replicas: &[Replica], placement: Option<&[(u64, u32)]>) -> crate::check::Verdict {
    let context = crate::check::Context {
        replicas,
        placement,
        ..crate::check::Context::new(&shard_of)
    };
    check(&crate::check::History::new(&[]), &context)
}

#[test]
fn equal_states() {
    valid(verdict(&[
        replica(1, 1, 7, 5),
        replica(2, 1, 7, 5),
        replica(3, 1, 6, 4),
    ]));
}

#[test]
fn different_states_at_one_index() {
    broken(
        "convergence",
        verdict(&[replica(1, 1, 7, 5), replica(2, 1, 7, 6)]),
    );
}

#[test]
fn another_state_of_one_node_at_one_index() {
    broken(
        "convergence",
        verdict(&[replica(1, 1, 7, 5), replica(1, 1, 7, 6)]),
    );
}

#[test]
fn nothing_to_compare_is_unknown() {
    unknown(verdict(&[replica(1, 1, 7, 5), replica(2, 1, 8, 6)]));
    unknown(verdict(&[
        replica(1, 1, 7, 5),
        replica(2, 1, 7, 5),
        replica(1, 2, 7, 5),
    ]));
}

#[test]
fn a_replica_that_is_missing_or_behind_is_unknown() {
    let placement = [(1, 1), (2, 1), (3, 1)];
    let two = [replica(1, 1, 7, 5), replica(2, 1, 7, 5)];
    let with = |third: Replica| [two[0], two[1], third];
    valid(verdict_of(&with(replica(3, 1, 7, 5)), Some(&placement)));
    unknown(verdict_of(&two, Some(&placement)));
    unknown(verdict_of(&with(replica(3, 1, 6, 4)), Some(&placement)));
    unknown(verdict_of(&with(replica(3, 2, 7, 5)), Some(&placement)));
    unknown(verdict_of(&[], Some(&placement)));
    unknown(verdict_of(&two, Some(&[])));
    broken(
        "convergence",
        verdict_of(&with(replica(3, 1, 7, 6)), Some(&placement)),
    );
}
