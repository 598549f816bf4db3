//! A leader has every entry that was committed in the terms before its own (Raft dissertation, section 3.6.3).

use std::collections::BTreeMap;

use kvsvr_core::types::{LogPosition, ShardId};

use super::{Invariant, Moment, Replica, Role};

/// The furthest committed entry that was seen of each shard, and the leaders that were looked at.
#[derive(Default)]
pub(super) struct LeaderCompleteness {
    committed: BTreeMap<ShardId, LogPosition>,
    /// Term and node of the greatest one.
    looked: BTreeMap<ShardId, (u64, u64)>,
}

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader_completeness"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let is_new = |leader: &Replica| {
            let looked = self.looked.get(&leader.shard);
            let is_greater = looked.is_none_or(|looked| *looked < (leader.term, leader.node));
            let committed = self.committed.get(&leader.shard);
            is_greater && committed.is_some_and(|committed| is_older(committed, leader))
        };
        let mut replicas = moment.replicas.iter();
        replicas.any(|(replica, _)| replica.role == Role::Leader && is_new(replica))
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (leader, log) in moment
            .replicas
            .iter()
            .filter(|(replica, _)| replica.role == Role::Leader)
        {
            let looked = self.looked.entry(leader.shard).or_insert((0, 0));
            if *looked >= (leader.term, leader.node) {
                continue;
            }
            *looked = (leader.term, leader.node);
            let Some(committed) = self.committed.get(&leader.shard) else {
                continue;
            };
            // By log matching the last one stands for all before it.
            let is_there = log.position(committed.index) == Some(*committed)
                || leader
                    .log
                    .purged
                    .is_some_and(|purged| purged.index >= committed.index);
            if is_older(committed, leader) && !is_there {
                return Err(format!(
                    "shard {}: node {} leads in term {} without {committed:?}, which was committed before",
                    leader.shard,
                    leader.machine + 1,
                    leader.term
                ));
            }
        }
        for (replica, log) in &moment.replicas {
            let position = replica.committed.and_then(|index| log.position(index));
            if let Some(position) = position {
                let furthest = self.committed.entry(replica.shard).or_insert(position);
                *furthest = (*furthest).max(position);
            }
        }
        Ok(())
    }
}

/// A later term's may have been committed since this leader began.
fn is_older(committed: &LogPosition, leader: &Replica) -> bool {
    (committed.term, committed.node) < (leader.term, leader.node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica, with_log};

    #[test]
    fn a_leader_lacks_nothing_committed() {
        let leader = |machine, term, terms: &[u64]| {
            let mut leader = with_log(replica(machine, term), terms);
            leader.0.role = Role::Leader;
            leader.0.committed = Some(1);
            leader
        };
        let mut world = World::new(LeaderCompleteness::default());
        world.holds_with(&[leader(0, 1, &[1, 1])]);
        world.holds_with(&[leader(1, 2, &[1, 1, 2])]);
        world.breaks_with(&[leader(2, 3, &[1])], "without");
    }

    #[test]
    fn it_sees_leaders_after_what_was_committed() {
        let mut world = World::new(LeaderCompleteness::default());
        let leader = |term| {
            let mut leader = with_log(replica(0, term), &[1, 1]);
            (leader.0.role, leader.0.committed) = (Role::Leader, Some(1));
            leader
        };
        assert!(!world.sees_with(&[leader(2)]), "nothing was committed");
        world.holds_with(&[leader(2)]);
        assert!(!world.sees_with(&[leader(2)]), "it was looked at");
        assert!(world.sees_with(&[leader(3)]));
        let (follower, log) = with_log(replica(1, 3), &[1, 1]);
        assert!(!world.sees_with(&[(follower, log)]));
    }
}
