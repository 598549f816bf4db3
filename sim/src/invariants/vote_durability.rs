//! Whoever has asked for votes has voted for itself, and whoever has granted its vote has given it, durably: no later process of its machine
//! goes back behind that vote (Raft dissertation, section 3.8). What was asked and granted is seen on the network.

use super::{Invariant, Moment, Replica};

/// Remembers nothing.
pub(super) struct VoteDurability;

impl Invariant for VoteDurability {
    fn name(&self) -> &'static str {
        "vote_durability"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let has_said = |replica: &Replica| replica.asked.is_some() || replica.granted.is_some();
        moment.replicas.iter().any(|(replica, _)| has_said(replica))
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in &moment.replicas {
            let vote = replica.log.vote.map(|vote| (vote.term, vote.node));
            for (what, said) in [
                ("asked for votes", replica.asked),
                ("granted its vote", replica.granted),
            ] {
                if said.is_some() && vote < said {
                    return Err(format!(
                        "shard {}: node {} has {what} in (term, node) {said:?}, and its vote is {vote:?}",
                        replica.shard, replica.node
                    ));
                }
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

    #[test]
    fn who_grants_its_vote_has_given_it() {
        let mut world = World::new(VoteDurability);
        let granted = |term, granted| {
            let mut voter = voted(replica(0, term), 3);
            voter.granted = Some((granted, 3));
            voter
        };
        world.holds(&[granted(2, 2), granted(3, 2)]);
        world.breaks(
            &[granted(2, 3)],
            "node 1 has granted its vote in (term, node) Some((3, 3))",
        );
    }

    #[test]
    fn it_sees_who_has_asked_or_granted() {
        let world = World::new(VoteDurability);
        let said = |asked, granted| {
            let mut said = voted(replica(0, 3), 3);
            (said.asked, said.granted) = (asked, granted);
            world.sees(&[voted(replica(1, 3), 3), said])
        };
        assert!(said(Some((2, 1)), None) && said(None, Some((3, 3))));
        assert!(!said(None, None));
    }
}
