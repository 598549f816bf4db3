//! Nobody leads without a vote: a leader's own log says that a majority has voted for it, in the term that it leads in.
//!
//! In Raft there is at most one leader in each term (dissertation, section 3.4). openraft counts leaders by term and node together
//! (`leader_id_adv`): one term may have several, each greater than the ones before, and an entry's position names the leader that made it.
//! That no two of these are at odds is looked at by `log_matching` and `leader_completeness`.

use super::{Invariant, Moment, Role};

/// Remembers nothing.
pub(super) struct ElectionSafety;

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election_safety"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in moment
            .replicas
            .iter()
            .filter(|(replica, _)| replica.role == Role::Leader)
        {
            // Its vote may be newer already: then it is about to step down.
            let vote = replica.log.vote.map(|vote| (vote.term, vote.node));
            if vote < Some((replica.term, replica.node)) {
                return Err(format!(
                    "shard {}: node {} leads in term {}, and its vote is {:?}",
                    replica.shard, replica.node, replica.term, replica.log.vote
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica, voted};

    #[test]
    fn a_leader_has_voted_for_itself() {
        let mut world = World::new(ElectionSafety);
        let leader = |machine, term, node| {
            let mut leader = voted(replica(machine, term), node);
            leader.role = Role::Leader;
            leader
        };
        world.holds(&[leader(0, 1, 1), replica(1, 1)]);
        // One that has not heard of the next.
        world.holds(&[leader(0, 1, 1), leader(1, 1, 2), leader(2, 2, 3)]);
        world.breaks(&[leader(2, 1, 2)], "node 3 leads in term 1");
        let mut unvoted = replica(0, 1);
        unvoted.role = Role::Leader;
        World::new(ElectionSafety).breaks(&[unvoted], "its vote is None");
    }
}
