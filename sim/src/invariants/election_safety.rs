//! At most one leader in each term (Raft dissertation, section 3.4).

use std::collections::BTreeMap;

use kvsvr_core::types::ShardId;

use super::{Invariant, Moment, Role};

/// The leaders that were seen.
#[derive(Default)]
pub(super) struct ElectionSafety(BTreeMap<(ShardId, u64), usize>);

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election_safety"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let leaders = moment.replicas.iter().filter(|(replica, _)| replica.role == Role::Leader);
        for (replica, _) in leaders {
            let first = *self
                .0
                .entry((replica.shard, replica.term))
                .or_insert(replica.machine);
            if first != replica.machine {
                return Err(format!(
                    "shard {} has two leaders in term {}: node {} and node {}",
                    replica.shard,
                    replica.term,
                    first + 1,
                    replica.machine + 1
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica};

    #[test]
    fn one_leader_for_each_term() {
        let mut world = World::new(ElectionSafety::default());
        let leader = |machine, term| {
            let mut leader = replica(machine, term);
            leader.role = Role::Leader;
            leader
        };
        world.holds(&[leader(0, 1), replica(1, 1)]);
        // An old leader that has not heard of the new one.
        world.holds(&[leader(0, 1), leader(1, 2)]);
        // Later, in the term of another one.
        world.breaks(&[leader(2, 1)], "two leaders in term 1");
    }
}
