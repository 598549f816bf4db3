//! Whoever has asked for votes has voted for itself, durably: no later process of its machine goes back behind that vote (Raft dissertation,
//! section 3.8). What was asked is seen on the network.

use super::{Invariant, Moment};

/// Remembers nothing.
pub(super) struct VoteDurability;

impl Invariant for VoteDurability {
    fn name(&self) -> &'static str {
        "vote_durability"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in &moment.replicas {
            let vote = replica.log.vote.map(|vote| (vote.term, vote.node));
            if replica.asked.is_some() && vote < replica.asked {
                return Err(format!(
                    "shard {}: node {} has asked for votes in (term, node) {:?}, and its vote is {vote:?}",
                    replica.shard, replica.node, replica.asked
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
    fn who_asks_for_votes_has_voted() {
        let mut world = World::new(VoteDurability);
        let asked = |term, asked| {
            let mut candidate = voted(replica(0, term), 1);
            candidate.asked = Some((asked, 1));
            candidate
        };
        world.holds(&[replica(0, 1), asked(2, 2), asked(3, 2)]);
        world.breaks(
            &[asked(2, 3)],
            "node 1 has asked for votes in (term, node) Some((3, 1))",
        );
        let mut unvoted = replica(0, 1);
        unvoted.asked = Some((1, 1));
        world.breaks(&[unvoted], "its vote is None");
    }
}
