//! What a replica has said stays said: its vote and term never go back, not even over a restart; within a process what it has committed
//! and applied, and its revision, do not either; and what an earlier process had made durable is there in the next one.

use std::collections::BTreeMap;

use kvsvr_core::types::ShardId;

use super::{Invariant, Moment, Replica, term_of};

/// The last look at each replica, with the highest durable index.
#[derive(Default)]
pub(super) struct Monotonic(BTreeMap<(ShardId, usize), Replica>);

impl Invariant for Monotonic {
    fn name(&self) -> &'static str {
        "monotonic"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (now, _) in &moment.replicas {
            let key = (now.shard, now.machine);
            if let Some(before) = self.0.insert(key, now.clone()) {
                compare(&before, now)?;
            }
        }
        Ok(())
    }
}

fn compare(before: &Replica, now: &Replica) -> Result<(), String> {
    let same_process = before.process == now.process;
    let checks = [
        ("flushed index", before.flushed, now.flushed, true),
        ("committed index", before.committed, now.committed, same_process),
        ("applied index", before.applied, now.applied, same_process),
        ("revision", Some(before.revision), Some(now.revision), same_process),
        ("purged index", before.log.purged.map(|p| p.index), now.log.purged.map(|p| p.index), same_process),
        (
            "vote's term",
            Some(term_of(before.log.vote)),
            Some(term_of(now.log.vote)),
            same_process,
        ),
    ];
    for (what, was, is, applies) in checks {
        if applies && is < was {
            return Err(format!(
                "shard {}, node {}: {what} was {was:?}, is {is:?}",
                now.shard,
                now.machine + 1
            ));
        }
    }
    let votes = (before.log.vote, now.log.vote);
    if let (Some(was), Some(is)) = votes {
        if same_process && was.term == is.term && was.node != is.node && was.committed {
            return Err(format!(
                "shard {}, node {}: voted for node {} in term {}, and then for node {}",
                now.shard,
                now.machine + 1,
                was.node,
                was.term,
                is.node
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica};

    #[test]
    fn nothing_goes_back_within_a_process() {
        let at = |process, applied, flushed| {
            let mut replica = replica(0, 1);
            (replica.process, replica.applied, replica.flushed) = (process, Some(applied), Some(flushed));
            replica
        };
        let mut world = World::new(Monotonic::default());
        world.holds(&[at(1, 5, 3)]);
        // A restart applies again what was not flushed.
        world.holds(&[at(2, 3, 3)]);
        world.holds(&[at(2, 9, 4)]);
        world.breaks(&[at(2, 8, 4)], "applied index was Some(9), is Some(8)");
        world.breaks(&[at(3, 8, 3)], "flushed index");
    }
}
