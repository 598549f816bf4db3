//! A consumer's cursor is never beyond its shard's data, and neither it nor the epoch of the owner goes back. One that was there stays.
//!
//! States of a shard are compared by the index of the entry that they are after, on whatever replica they are. Some workloads reset and delete
//! consumers, which have names of their own: the cursor of such a one goes back only when its epoch goes up, and once it is gone it
//! does not come back.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvsvr_core::{rows::ConsumerRow, types::ShardId};
use kvsvr_jepsen::workload::names;

use super::{Invariant, Moment, Replica};

/// What was seen of a consumer.
#[derive(Clone, Copy)]
struct Seen {
    /// The first entry after which it was there.
    first: u64,
    /// The newest row, with the index of the entry that it was seen after.
    newest: (u64, ConsumerRow),
    /// The first entry after that one after which it was not there any more.
    gone: Option<u64>,
}

/// The consumers of all shards.
#[derive(Default)]
pub(super) struct ConsumerCursor(BTreeMap<(ShardId, Bytes), Seen>);

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
            let place = |name: &Bytes| {
                let (shard, node) = (replica.shard, replica.machine + 1);
                format!("shard {shard}, node {node}, consumer {}", name.escape_ascii())
            };
            for (name, row) in &now.consumers {
                if row.cursor > now.revision {
                    let (cursor, revision) = (row.cursor, now.revision);
                    return Err(format!(
                        "{}: the cursor is {cursor}, the revision {revision}",
                        place(name)
                    ));
                }
                let seen = self.0.entry((replica.shard, name.clone())).or_insert(Seen {
                    first: now.index,
                    newest: (now.index, *row),
                    gone: None,
                });
                seen.there(name, now.index, *row)
                    .map_err(|text| format!("{}: {text}", place(name)))?;
            }
            let of_shard = (replica.shard, Bytes::new())..;
            let others = self.0.range_mut(of_shard);
            for ((_, name), seen) in others.take_while(|((shard, _), _)| *shard == replica.shard) {
                if !now.consumers.contains_key(name) {
                    seen.not_there(name, now.index)
                        .map_err(|text| format!("{}: {text}", place(name)))?;
                }
            }
        }
        Ok(())
    }
}

impl Seen {
    /// It has this row after an entry.
    fn there(&mut self, name: &Bytes, index: u64, row: ConsumerRow) -> Result<(), String> {
        if let Some(gone) = self.gone.filter(|gone| *gone <= index) {
            return Err(format!("gone after entry {gone}, {row:?} after entry {index}"));
        }
        self.first = self.first.min(index);
        let ((early, before), (late, after)) = if self.newest.0 <= index {
            (self.newest, (index, row))
        } else {
            ((index, row), self.newest)
        };
        let may_go_back = names::is_moved(name) && before.epoch < after.epoch;
        if before.epoch > after.epoch || (before.cursor > after.cursor && !may_go_back) {
            return Err(format!(
                "{before:?} after entry {early}, {after:?} after entry {late}"
            ));
        }
        self.newest = (late, after);
        Ok(())
    }

    /// It is not there after an entry.
    fn not_there(&mut self, name: &Bytes, index: u64) -> Result<(), String> {
        if index < self.first {
            return Ok(());
        }
        let (late, row) = self.newest;
        if index <= late || !names::is_moved(name) {
            return Err(format!(
                "not there after entry {index}, but {row:?} after entry {late}"
            ));
        }
        self.gone = Some(self.gone.map_or(index, |gone| gone.min(index)));
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

    fn named(name: &str, index: u64, revision: u64, row: Option<(u64, u64)>) -> Replica {
        let mut replica = replica(0, 1);
        let row = row.map(|(epoch, cursor)| (name.to_owned().into(), ConsumerRow { epoch, cursor }));
        replica.contents = Some(Ok(Arc::new(Applied {
            index,
            revision,
            consumers: row.into_iter().collect(),
            ..Applied::default()
        })));
        replica
    }

    fn at(index: u64, revision: u64, epoch: u64, cursor: u64) -> Replica {
        named("c", index, revision, Some((epoch, cursor)))
    }

    /// Of one that its workload resets and deletes.
    fn moved(index: u64, row: Option<(u64, u64)>) -> Replica {
        named(&names::moved(1, 2, 3), index, 9, row)
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

    #[test]
    fn only_a_reset_sets_a_cursor_back() {
        let mut world = World::new(ConsumerCursor::default());
        world.holds(&[moved(5, Some((1, 6))), moved(7, Some((2, 3)))]);
        world.holds(&[moved(6, Some((1, 8)))]);
        world.breaks(&[moved(8, Some((2, 2)))], "after entry 7");
        let mut world = World::new(ConsumerCursor::default());
        world.holds(&[moved(5, Some((2, 6)))]);
        world.breaks(&[moved(7, Some((1, 6)))], "after entry 5");
    }

    #[test]
    fn who_is_deleted_does_not_come_back_and_nobody_else_goes() {
        let mut world = World::new(ConsumerCursor::default());
        world.holds(&[moved(3, None), moved(5, Some((1, 6))), moved(8, None)]);
        world.holds(&[moved(4, None), moved(6, Some((1, 6))), moved(7, None)]);
        world.breaks(&[moved(7, Some((1, 6)))], "gone after entry 7");
        let mut world = World::new(ConsumerCursor::default());
        world.holds(&[moved(5, Some((1, 6))), moved(9, Some((1, 7)))]);
        world.breaks(&[moved(7, None)], "not there after entry 7");
        let mut world = World::new(ConsumerCursor::default());
        world.holds(&[named("c", 4, 9, None), at(5, 9, 1, 4)]);
        world.breaks(&[named("c", 6, 9, None)], "not there after entry 6");
    }
}
