//! What was purged is durable in the engine, what is durable there was applied, and what was applied is committed:
//! purged <= flushed <= applied <= committed.
//!
//! How far the log is committed goes to disk some time after it is so: a process that begins may have more in its engine than its log says
//! is committed. What it applies beyond that it knows to be committed.

use super::{Invariant, Moment, Replica};

/// Remembers nothing.
pub(super) struct OrderOfIndexes;

impl Invariant for OrderOfIndexes {
    fn name(&self) -> &'static str {
        "order_of_indexes"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let has_any = |replica: &Replica| {
            replica.log.purged.is_some() || replica.flushed.max(replica.applied).is_some()
        };
        let mut replicas = moment.replicas.iter();
        replicas.any(|(replica, _)| is_whole(replica) && has_any(replica))
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in moment.replicas.iter().filter(|(replica, _)| is_whole(replica)) {
            let purged = replica.log.purged.map(|position| position.index);
            let known = replica.committed.max(replica.flushed);
            if purged > replica.flushed || replica.flushed > replica.applied || replica.applied > known {
                return Err(format!(
                    "shard {}, node {}: purged {purged:?}, flushed {:?}, applied {:?}, committed {:?}",
                    replica.shard,
                    replica.machine + 1,
                    replica.flushed,
                    replica.applied,
                    replica.committed
                ));
            }
        }
        Ok(())
    }
}

fn is_whole(replica: &Replica) -> bool {
    !replica.installing && !replica.unreadable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica};

    fn at(flushed: u64, applied: u64, committed: u64) -> Replica {
        let mut replica = replica(0, 1);
        (replica.flushed, replica.applied, replica.committed) =
            (Some(flushed), Some(applied), Some(committed));
        replica
    }

    #[test]
    fn purged_flushed_applied_committed() {
        let holds = |replica: Replica| World::new(OrderOfIndexes).holds(&[replica]);
        holds(at(3, 4, 4));
        // A process has just begun.
        holds(at(3, 3, 2));
        World::new(OrderOfIndexes).breaks(&[at(5, 4, 4)], "flushed Some(5)");
        World::new(OrderOfIndexes).breaks(&[at(3, 5, 4)], "applied Some(5)");
    }

    #[test]
    fn a_snapshot_that_is_being_installed_is_no_state() {
        let mut installing = at(5, 4, 4);
        installing.installing = true;
        World::new(OrderOfIndexes).holds(&[installing]);
    }

    #[test]
    fn it_sees_what_has_applied_something() {
        let world = World::new(OrderOfIndexes);
        assert!(world.sees(&[replica(1, 1), at(0, 0, 0)]));
        assert!(!world.sees(&[replica(1, 1)]));
        let mut installing = at(5, 4, 4);
        installing.installing = true;
        assert!(!world.sees(&[installing]));
    }
}
