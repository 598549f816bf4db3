//! Whoever has acknowledged entries has them, durably: no later process of its machine lacks one, unless a leader of a later term may have
//! replaced it (Raft dissertation, sections 3.5 and 3.8; in openraft the later of two leaders of one term is the one with the greater number). What was acknowledged is seen on the network, whether it arrived or not.

use super::{Invariant, Moment};

/// Remembers nothing.
pub(super) struct AppendDurability;

impl Invariant for AppendDurability {
    fn name(&self) -> &'static str {
        "append_durability"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        moment
            .replicas
            .iter()
            .any(|(replica, _)| replica.stored.is_some())
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, log) in &moment.replicas {
            let Some((leader, stored)) = replica.stored else {
                continue;
            };
            let voted = replica.log.vote.map_or((0, 0), |vote| (vote.term, vote.node));
            let is_purged = replica
                .log
                .purged
                .is_some_and(|purged| purged.index >= stored.index);
            if voted > leader || is_purged || log.position(stored.index) == Some(stored) {
                continue;
            }
            return Err(format!(
                "shard {}: node {} has acknowledged {stored:?} to the leader of term {}, node {}, and has {:?} there; its log is {:?}",
                replica.shard,
                replica.node,
                leader.0,
                leader.1,
                log.position(stored.index),
                replica.log
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_core::types::LogPosition;

    use super::*;
    use crate::invariants::testing::{Terms, World, replica, voted, with_log};

    /// The leader that it has voted for.
    const LAST: (u64, u64) = (3, 4);

    /// A follower with a vote in term 3 and a log of these terms, which has acknowledged index 2 of term 2 to the leader of a term.
    fn follower(terms: &[u64], to: (u64, u64)) -> (super::super::Replica, Terms) {
        let mut follower = voted(replica(0, 3), 4);
        let (index, term) = (2, 2);
        let node = term;
        follower.stored = Some((to, LogPosition { index, term, node }));
        with_log(follower, terms)
    }

    #[test]
    fn who_acknowledges_entries_has_them() {
        let mut world = World::new(AppendDurability);
        world.holds_with(&[follower(&[1, 1, 2], LAST), follower(&[1, 1, 2, 3], LAST)]);
        world.breaks_with(&[follower(&[1, 1], LAST)], "and has None there");
        world.breaks_with(&[follower(&[1, 1, 1], LAST)], "has acknowledged");
    }

    #[test]
    fn a_later_leader_may_replace_them_and_a_snapshot_too() {
        let mut world = World::new(AppendDurability);
        world.holds_with(&[follower(&[1, 1], (2, 9))]);
        // Another leader of that term, with a greater number.
        world.holds_with(&[follower(&[1, 1], (3, 2))]);
        let (mut purged, log) = follower(&[1], LAST);
        purged.log.purged = purged.stored.map(|(_, position)| position);
        world.holds_with(&[(purged, log)]);
    }

    #[test]
    fn it_sees_who_has_acknowledged() {
        let world = World::new(AppendDurability);
        assert!(world.sees_with(&[follower(&[1, 1, 2], LAST)]));
        assert!(!world.sees_with(&[with_log(replica(0, 3), &[1, 1, 2])]));
    }
}
