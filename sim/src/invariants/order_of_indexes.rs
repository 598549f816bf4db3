//! What was purged is durable in the engine, what is durable there was applied, and what was applied is committed:
//! purged <= flushed <= applied.

use super::{Invariant, Moment};

/// Remembers nothing.
pub(super) struct OrderOfIndexes;

impl Invariant for OrderOfIndexes {
    fn name(&self) -> &'static str {
        "order_of_indexes"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in moment.replicas.iter().filter(|(replica, _)| !replica.installing) {
            let purged = replica.log.purged.map(|position| position.index);
            if purged > replica.flushed || replica.flushed > replica.applied {
                return Err(format!(
                    "shard {}, node {}: purged {purged:?}, flushed {:?}, applied {:?}",
                    replica.shard,
                    replica.machine + 1,
                    replica.flushed,
                    replica.applied
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
    fn purged_flushed_applied() {
        let mut world = World::new(OrderOfIndexes);
        let mut good = replica(0, 1);
        (good.flushed, good.applied) = (Some(3), Some(4));
        world.holds(&[good.clone()]);
        good.flushed = Some(5);
        let mut installing = good.clone();
        installing.installing = true;
        world.holds(&[installing]);
        world.breaks(&[good], "flushed Some(5)");
    }
}
