//! What is committed stays: every replica that knows an index to be committed has the same entry there, for ever.

use std::collections::BTreeMap;

use kvsvr_core::types::{LogPosition, ShardId};

use super::{Invariant, Moment};

/// The committed entries that were seen, and how far each replica was looked at.
#[derive(Default)]
pub(super) struct CommittedImmutable {
    committed: BTreeMap<(ShardId, u64), LogPosition>,
    looked: BTreeMap<(ShardId, usize, u64), u64>,
}

impl Invariant for CommittedImmutable {
    fn name(&self) -> &'static str {
        "committed_immutable"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, log) in &moment.replicas {
            let Some(committed) = replica.committed else {
                continue;
            };
            let looked = self
                .looked
                .entry((replica.shard, replica.machine, replica.process))
                .or_insert(0);
            for index in *looked..=committed {
                // What was purged was looked at before it was, here or elsewhere.
                let Some(position) = log.position(index) else {
                    continue;
                };
                let first = *self.committed.entry((replica.shard, index)).or_insert(position);
                if first != position {
                    return Err(format!(
                        "shard {}, index {index}: {first:?} was committed, node {} has {position:?} as committed",
                        replica.shard,
                        replica.machine + 1
                    ));
                }
            }
            *looked = committed + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica, with_log};

    #[test]
    fn a_committed_entry_is_not_replaced() {
        let mut world = World::new(CommittedImmutable::default());
        let committed = |machine, terms: &[u64], index| {
            let mut replica = with_log(replica(machine, 3), terms);
            replica.0.committed = Some(index);
            replica
        };
        world.holds_with(&[committed(0, &[1, 1, 2], 1), committed(1, &[1, 1], 1)]);
        // What is not committed may be replaced.
        world.holds_with(&[committed(1, &[1, 1, 3], 2)]);
        world.breaks_with(&[committed(0, &[1, 1, 2], 2)], "index 2");
    }
}
