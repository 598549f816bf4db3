//! What is committed stays: every replica that knows an index to be committed has the same entry there, for ever. Each process's log is followed
//! from where it was looked at last; what was replaced since is looked at again.

use std::collections::BTreeMap;

use kvsvr_core::types::{LogPosition, ShardId};

use super::{Invariant, Moment, followed::Followed};

/// The committed entries that were seen, and how far each replica was looked at.
#[derive(Default)]
pub(super) struct CommittedImmutable {
    committed: BTreeMap<(ShardId, u64), LogPosition>,
    /// By shard, machine, process, and which of its replicas.
    looked: BTreeMap<(ShardId, usize, u64, u64), Followed>,
}

impl Invariant for CommittedImmutable {
    fn name(&self) -> &'static str {
        "committed_immutable"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let mut replicas = moment.replicas.iter();
        replicas.any(|(replica, _)| replica.committed.is_some())
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, log) in &moment.replicas {
            let Some(committed) = replica.committed else {
                continue;
            };
            let Some(last) = replica.log.last else { continue };
            let key = (
                replica.shard,
                replica.machine,
                replica.process,
                replica.incarnation,
            );
            let followed = self.looked.entry(key).or_default();
            // What was purged was looked at before it was, here or elsewhere; the last of it is known.
            let first = replica.log.first_index.saturating_sub(1);
            let end = committed.min(last.index) + 1;
            for index in followed.go_on(*log, first, end)..end {
                let Some(position) = log.position(index) else {
                    continue;
                };
                followed.see(position);
                let first = *self.committed.entry((replica.shard, index)).or_insert(position);
                if first != position {
                    return Err(format!(
                        "shard {}, index {index}: {first:?} was committed, node {} has {position:?} as committed",
                        replica.shard,
                        replica.machine + 1
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

    #[test]
    fn a_committed_entry_that_was_replaced_between_two_looks_is_seen() {
        let committed = |terms: &[(u64, usize)], index| {
            let terms = terms.iter().flat_map(|(term, count)| vec![*term; *count]);
            let mut replica = with_log(replica(0, 3), &terms.collect::<Vec<_>>());
            replica.0.committed = Some(index);
            replica
        };
        // Entries 1 to 100, 90 of them committed, cut to 50 and filled to 100 again.
        for now in [90, 100] {
            let mut world = World::new(CommittedImmutable::default());
            world.holds_with(&[committed(&[(1, 101)], 90)]);
            world.breaks_with(&[committed(&[(1, 51), (2, 50)], now)], "index 51");
        }
        // Seen while it was short.
        let mut world = World::new(CommittedImmutable::default());
        world.holds_with(&[committed(&[(1, 101)], 90)]);
        world.holds_with(&[committed(&[(1, 51)], 90)]);
        world.breaks_with(&[committed(&[(1, 51), (2, 50)], 90)], "index 51");
        // What was not committed may be replaced.
        let mut world = World::new(CommittedImmutable::default());
        world.holds_with(&[committed(&[(1, 101)], 50)]);
        world.holds_with(&[committed(&[(1, 51), (2, 50)], 90)]);
    }

    #[test]
    fn it_sees_what_is_committed() {
        let world = World::new(CommittedImmutable::default());
        let mut one = with_log(replica(0, 1), &[1, 1]);
        assert!(!world.sees_with(&[one.clone()]));
        one.0.committed = Some(0);
        assert!(world.sees_with(&[one]));
    }
}
