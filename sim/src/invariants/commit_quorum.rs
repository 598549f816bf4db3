//! A leader takes an entry of its own term for committed only when a majority of the voters has it (Raft dissertation, section 3.6.2; with a joint
//! configuration a majority of each set, section 4.3): itself, and those whose acknowledgements have come to it, which are seen on the network. Who does not
//! vote never counts.

use std::collections::{BTreeMap, BTreeSet};

use kvsvr_core::types::ShardId;

use super::{Election, Invariant, Log, Moment, Replica};

/// So many of the voters that a leader had last are remembered: what is committed may have been counted with those before.
const REMEMBERED: usize = 4;

/// What each leader had committed at the last look, and who voted: by shard, term and node.
#[derive(Default)]
pub(super) struct CommitQuorum(BTreeMap<(ShardId, u64, u64), Leader>);

#[derive(Default)]
struct Leader {
    committed: Option<u64>,
    voters: Vec<Vec<BTreeSet<u64>>>,
}

impl CommitQuorum {
    /// Up to which entry a leader takes more for committed than it did, if that entry is its own: what an earlier leader's entries need is an entry of its
    /// own behind them.
    fn grown(&self, leader: &Replica, log: &dyn Log) -> Option<u64> {
        let before = self.0.get(&(leader.shard, leader.term, leader.node));
        let before = before.and_then(|before| before.committed);
        let position = log.position(leader.committed.filter(|_| leader.committed > before)?)?;
        let is_own = (position.term, position.node) == (leader.term, leader.node);
        is_own.then_some(position.index)
    }
}

impl Invariant for CommitQuorum {
    fn name(&self) -> &'static str {
        "commit_quorum"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let mut leaders = moment
            .replicas
            .iter()
            .filter(|(replica, _)| replica.election.is_some());
        leaders.any(|(leader, log)| self.grown(leader, *log).is_some())
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, log) in &moment.replicas {
            let Some(election) = &replica.election else {
                continue;
            };
            let grown = self.grown(replica, *log);
            let leader = self
                .0
                .entry((replica.shard, replica.term, replica.node))
                .or_default();
            if !election.voters.is_empty() && leader.voters.last() != Some(&election.voters) {
                leader.voters.push(election.voters.clone());
                let old = leader.voters.len().saturating_sub(REMEMBERED);
                leader.voters.drain(..old);
            }
            leader.committed = replica.committed;
            if let Some(index) = grown
                && !leader
                    .voters
                    .iter()
                    .any(|voters| have(replica, election, voters, index))
            {
                return Err(format!(
                    "shard {}: node {} leads in term {} and takes index {index} for committed; it has heard {:?}, and the voters are {:?}",
                    replica.shard, replica.node, replica.term, election.heard, leader.voters
                ));
            }
        }
        Ok(())
    }
}

/// A majority of each set has the entry, by what the leader has heard.
fn have(leader: &Replica, election: &Election, voters: &[BTreeSet<u64>], index: u64) -> bool {
    let has =
        |node: &&u64| **node == leader.node || election.heard.get(*node).is_some_and(|heard| *heard >= index);
    let is_majority = |set: &BTreeSet<u64>| set.iter().filter(has).count() > set.len() / 2;
    voters.iter().all(is_majority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::{
        Role,
        testing::{Terms, World, replica, with_log},
    };

    /// The leader of term 2, node 2, with indexes 0 and 1 of term 1 and the rest its own.
    fn leader(voters: &[&[u64]], heard: &[(u64, u64)], committed: u64) -> (Replica, Terms) {
        let mut leader = replica(1, 2);
        leader.role = Role::Leader;
        leader.committed = Some(committed);
        leader.election = Some(Election {
            voters: voters.iter().map(|set| set.iter().copied().collect()).collect(),
            heard: heard.iter().copied().collect(),
            ..Election::default()
        });
        with_log(leader, &[1, 1, 2, 2, 2])
    }

    #[test]
    fn a_majority_of_the_voters_has_what_is_committed() {
        let mut world = World::new(CommitQuorum::default());
        let three: &[&[u64]] = &[&[1, 2, 3]];
        // What came from earlier leaders was counted by them.
        world.holds_with(&[leader(three, &[], 1)]);
        world.holds_with(&[leader(three, &[(3, 2)], 2)]);
        world.holds_with(&[leader(three, &[(3, 2)], 2)]);
        world.breaks_with(&[leader(three, &[(3, 2)], 3)], "takes index 3 for committed");
    }

    #[test]
    fn who_does_not_vote_does_not_count() {
        let mut world = World::new(CommitQuorum::default());
        world.breaks_with(&[leader(&[&[1, 2, 3]], &[(4, 9)], 2)], "{4: 9}");
        let mut world = World::new(CommitQuorum::default());
        let joint: &[&[u64]] = &[&[1, 2, 3], &[2, 3, 4]];
        world.holds_with(&[leader(joint, &[(3, 2)], 2)]);
        world.breaks_with(&[leader(joint, &[(3, 2), (4, 3)], 3)], "takes index 3");
    }

    #[test]
    fn an_entry_may_have_been_counted_with_the_voters_before() {
        let mut world = World::new(CommitQuorum::default());
        world.holds_with(&[leader(&[&[1, 2, 3]], &[], 1)]);
        world.holds_with(&[leader(&[&[2, 4, 5]], &[(1, 2)], 2)]);
    }

    #[test]
    fn it_sees_leaders_that_commit_entries_of_their_own() {
        let mut world = World::new(CommitQuorum::default());
        let three: &[&[u64]] = &[&[1, 2, 3]];
        assert!(!world.sees_with(&[leader(three, &[], 1)]), "of an earlier leader");
        assert!(world.sees_with(&[leader(three, &[(3, 2)], 2)]));
        world.holds_with(&[leader(three, &[(3, 2)], 2)]);
        assert!(
            !world.sees_with(&[leader(three, &[(3, 2)], 2)]),
            "no more than before"
        );
        let (mut follower, log) = leader(three, &[], 3);
        follower.election = None;
        assert!(!world.sees_with(&[(follower, log)]));
    }
}
