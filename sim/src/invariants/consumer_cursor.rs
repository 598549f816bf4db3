//! A consumer's cursor is never beyond its shard's data, and neither it nor the epoch of the owner goes back.
//!
//! States of a shard are compared by the index of the entry that they are after, on whatever replica they are. The workloads neither reset
//! nor delete consumers.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvsvr_core::{rows::ConsumerRow, types::ShardId};

use super::{Invariant, Moment, Replica};

/// The newest row that was seen of each consumer, with the index of the entry that it was seen after.
#[derive(Default)]
pub(super) struct ConsumerCursor(BTreeMap<(ShardId, Bytes), (u64, ConsumerRow)>);

impl Invariant for ConsumerCursor {
    fn name(&self) -> &'static str {
        "consumer_cursor"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let has_one = |replica: &Replica| {
            let contents = replica.contents.as_ref();
            contents.is_some_and(|contents| contents.as_ref().is_ok_and(|now| !now.consumers.is_empty()))
        };
        moment.replicas.iter().any(|(replica, _)| has_one(replica))
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in &moment.replicas {
            let Some(Ok(now)) = &replica.contents else {
                continue;
            };
            for (name, row) in &now.consumers {
                let place = format!(
                    "shard {}, node {}, consumer {}",
                    replica.shard,
                    replica.machine + 1,
                    name.escape_ascii()
                );
                if row.cursor > now.revision {
                    return Err(format!(
                        "{place}: the cursor is {}, the revision {}",
                        row.cursor, now.revision
                    ));
                }
                let newest = self
                    .0
                    .entry((replica.shard, name.clone()))
                    .or_insert((now.index, *row));
                let ((early, before), (late, after)) = if newest.0 <= now.index {
                    (*newest, (now.index, *row))
                } else {
                    ((now.index, *row), *newest)
                };
                if before.epoch > after.epoch || before.cursor > after.cursor {
                    return Err(format!(
                        "{place}: {before:?} after entry {early}, {after:?} after entry {late}"
                    ));
                }
                *newest = (late, after);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::invariants::{
        Applied, Replica,
        testing::{World, replica},
    };

    fn at(index: u64, revision: u64, epoch: u64, cursor: u64) -> Replica {
        let mut replica = replica(0, 1);
        replica.contents = Some(Ok(Arc::new(Applied {
            index,
            revision,
            consumers: [("c".into(), ConsumerRow { epoch, cursor })].into(),
            ..Applied::default()
        })));
        replica
    }

    #[test]
    fn a_cursor_is_not_ahead_of_the_data() {
        let mut world = World::new(ConsumerCursor::default());
        world.holds(&[at(5, 9, 1, 9)]);
        world.breaks(&[at(6, 9, 1, 10)], "the cursor is 10");
    }

    #[test]
    fn neither_cursor_nor_epoch_goes_back() {
        let mut world = World::new(ConsumerCursor::default());
        world.holds(&[at(5, 9, 1, 4), at(7, 9, 2, 6)]);
        world.holds(&[at(6, 9, 1, 6)]);
        world.breaks(&[at(8, 9, 2, 5)], "after entry 7");
        let mut world = World::new(ConsumerCursor::default());
        world.holds(&[at(7, 9, 2, 6)]);
        world.breaks(&[at(6, 9, 3, 6)], "after entry 6");
    }

    #[test]
    fn it_sees_consumers() {
        let world = World::new(ConsumerCursor::default());
        let mut none = replica(0, 1);
        none.contents = Some(Ok(Arc::default()));
        assert!(world.sees(&[none.clone(), at(5, 9, 1, 4)]));
        assert!(!world.sees(&[none, replica(1, 1)]));
    }
}
