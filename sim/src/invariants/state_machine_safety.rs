//! Replicas that have applied the same entries are in the same state (Raft dissertation, section 3.6.3): equal index, equal revision. At
//! the end of a run their hashes are compared too, by the checker `convergence`.

use std::collections::BTreeMap;

use kvsvr_core::types::{Revision, ShardId};

use super::{Invariant, Moment};

/// The revision after each index that was seen applied.
#[derive(Default)]
pub(super) struct StateMachineSafety(BTreeMap<(ShardId, u64), Revision>);

impl Invariant for StateMachineSafety {
    fn name(&self) -> &'static str {
        "state_machine_safety"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in &moment.replicas {
            let Some(applied) = replica.applied else { continue };
            let first = *self.0.entry((replica.shard, applied)).or_insert(replica.revision);
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
}
