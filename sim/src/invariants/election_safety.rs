//! Nobody leads without the votes of a majority: its own vote, which its log has, and those that others granted it in the term that it leads
//! in, which are seen on the network. With a joint configuration each of its sets must have a majority.
//!
//! In Raft there is at most one leader in each term (dissertation, section 3.4). openraft counts leaders by term and node together
//! (`leader_id_adv`): one term may have several, each greater than the ones before, and an entry's position names the leader that made it.
//! That no two of these are at odds is looked at by `log_matching` and `leader_completeness`.

use std::collections::BTreeSet;

use kvsvr_core::types::ShardId;

use super::{Election, Invariant, Moment, Replica, Role};

/// Remembers whose votes it has counted: shard, term and node. Who votes may change while it leads.
#[derive(Default)]
pub(super) struct ElectionSafety(BTreeSet<(ShardId, u64, u64)>);

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election_safety"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let mut replicas = moment.replicas.iter();
        replicas.any(|(replica, _)| replica.role == Role::Leader)
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
            if self.0.insert((replica.shard, replica.term, replica.node)) {
                count(replica)?;
            }
        }
        Ok(())
    }
}

fn count(leader: &Replica) -> Result<(), String> {
    let Some(Election { voters, votes, .. }) = &leader.election else {
        return Ok(());
    };
    let has_voted = |node: &&u64| **node == leader.node || votes.contains(*node);
    let elect = |set: &BTreeSet<u64>| set.iter().filter(has_voted).count() > set.len() / 2;
    if !voters.is_empty() && voters.iter().all(elect) {
        return Ok(());
    }
    Err(format!(
        "shard {}: node {} leads in term {} with the votes of itself and {votes:?}, of the voters {voters:?}",
        leader.shard, leader.node, leader.term
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica, voted};

    fn leader(machine: usize, term: u64, node: u64) -> Replica {
        let mut leader = voted(replica(machine, term), node);
        leader.role = Role::Leader;
        leader
    }

    #[test]
    fn a_leader_has_voted_for_itself() {
        let mut world = World::new(ElectionSafety::default());
        world.holds(&[leader(0, 1, 1), replica(1, 1)]);
        // One that has not heard of the next.
        world.holds(&[leader(0, 1, 1), leader(1, 1, 2), leader(2, 2, 3)]);
        world.breaks(&[leader(2, 1, 2)], "node 3 leads in term 1");
        let mut unvoted = replica(0, 1);
        unvoted.role = Role::Leader;
        World::new(ElectionSafety::default()).breaks(&[unvoted], "its vote is None");
    }

    #[test]
    fn a_leader_has_the_votes_of_a_majority_of_each_set() {
        let elected = |term, voters: &[&[u64]], votes: &[u64]| {
            let mut leader = leader(0, term, 1);
            leader.election = Some(Election {
                voters: voters.iter().map(|set| set.iter().copied().collect()).collect(),
                votes: votes.iter().copied().collect(),
                ..Election::default()
            });
            leader
        };
        let mut world = World::new(ElectionSafety::default());
        world.holds(&[elected(1, &[&[1, 2, 3]], &[3])]);
        // Who votes has changed since.
        world.holds(&[elected(1, &[&[1, 2, 4, 5, 6]], &[3])]);
        world.holds(&[elected(2, &[&[1]], &[])]);
        world.holds(&[elected(3, &[&[1, 2, 3], &[1, 4, 5]], &[2, 5])]);
        // A majority of the one set is none of the other.
        world.breaks(
            &[elected(4, &[&[1, 2, 3], &[3, 4, 5]], &[2, 5])],
            "node 1 leads in term 4 with the votes of itself and {2, 5}",
        );
        World::new(ElectionSafety::default()).breaks(&[elected(1, &[&[1, 2, 3]], &[4])], "{4}");
        World::new(ElectionSafety::default()).breaks(&[elected(1, &[&[1, 2, 3, 4]], &[2])], "{2}");
    }

    #[test]
    fn it_sees_leaders() {
        let world = World::new(ElectionSafety::default());
        assert!(world.sees(&[replica(1, 1), leader(0, 1, 1)]));
        assert!(!world.sees(&[voted(replica(0, 1), 1), replica(1, 1)]));
    }
}
