//! Replicas that have applied the same entries are in the same state (Raft dissertation, section 3.6.3): equal index, equal revision. At
//! the end of a run their hashes are compared too, by the checker `convergence`.

use std::collections::BTreeMap;

use kvsvr_core::types::{Revision, ShardId};

use super::{Invariant, Moment, Replica};

/// The revision after each index that was seen applied, and on which machine first.
#[derive(Default)]
pub(super) struct StateMachineSafety(BTreeMap<(ShardId, u64), (Revision, usize)>);

impl Invariant for StateMachineSafety {
    fn name(&self) -> &'static str {
        "state_machine_safety"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let has_another = |replica: &Replica| {
            let first = replica
                .applied
                .and_then(|applied| self.0.get(&(replica.shard, applied)));
            first.is_some_and(|(_, machine)| *machine != replica.machine)
        };
        moment.replicas.iter().any(|(replica, _)| has_another(replica))
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in &moment.replicas {
            let Some(applied) = replica.applied else { continue };
            let seen = (replica.revision, replica.machine);
            let (first, _) = *self.0.entry((replica.shard, applied)).or_insert(seen);
            if first != replica.revision {
                return Err(format!(
                    "shard {} after entry {applied}: revision {first} on one replica, {} on node {}",
                    replica.shard,
                    replica.revision,
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
    fn the_same_entries_give_the_same_revision() {
        let mut world = World::new(StateMachineSafety::default());
        let at = |machine, applied, revision| {
            let mut replica = replica(machine, 1);
            (replica.applied, replica.revision) = (Some(applied), revision);
            replica
        };
        world.holds(&[at(0, 7, 5), at(1, 6, 4)]);
        world.breaks(&[at(1, 7, 6)], "after entry 7");
    }

    #[test]
    fn it_sees_what_another_replica_has_applied_too() {
        let mut world = World::new(StateMachineSafety::default());
        let at = |machine, applied| {
            let mut replica = replica(machine, 1);
            replica.applied = Some(applied);
            replica
        };
        world.holds(&[at(0, 7), replica(2, 1)]);
        assert!(world.sees(&[at(1, 7)]));
        assert!(!world.sees(&[at(0, 7), at(1, 6), replica(2, 1)]));
    }
}
