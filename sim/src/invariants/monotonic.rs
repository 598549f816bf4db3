//! Within a process a replica's vote never goes back, nor does what it has committed, applied and purged, nor its revision; and what an
//! earlier process had made durable is there in the next one.

use std::collections::BTreeMap;

use kvsvr_core::types::ShardId;

use super::{Invariant, Moment, Replica};

/// The last look at each replica, with the highest durable index.
#[derive(Default)]
pub(super) struct Monotonic(BTreeMap<(ShardId, usize), Replica>);

impl Invariant for Monotonic {
    fn name(&self) -> &'static str {
        "monotonic"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let was_seen = |now: &Replica| {
            let before = self.0.get(&(now.shard, now.machine));
            before.is_some_and(|before| before.identity() == now.identity())
        };
        moment.replicas.iter().any(|(replica, _)| was_seen(replica))
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (now, _) in &moment.replicas {
            let key = (now.shard, now.machine);
            let mut now = now.clone();
            // Another replica begins with nothing.
            self.0
                .retain(|of, before| *of != key || before.identity() == now.identity());
            let before = self.0.get(&key);
            // The engine has nothing of the shard for a moment; the staged snapshot takes its place, also after a crash.
            if let Some(before) = before.filter(|_| now.unreadable || now.installing) {
                now.flushed = before.flushed;
            }
            if let Some(before) = self.0.insert(key, now.clone()) {
                compare(&before, &now)?;
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
        (
            "revision",
            Some(before.revision),
            Some(now.revision),
            same_process,
        ),
        (
            "purged index",
            before.log.purged.map(|p| p.index),
            now.log.purged.map(|p| p.index),
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
    // openraft orders leaders of one term by their nodes.
    let vote = |replica: &Replica| {
        replica
            .log
            .vote
            .map(|vote| (vote.term, vote.node, vote.committed))
    };
    if same_process && vote(now) < vote(before) {
        return Err(format!(
            "shard {}, node {}: the vote was {:?}, is {:?}",
            now.shard,
            now.machine + 1,
            before.log.vote,
            now.log.vote
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica, voted};

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

    #[test]
    fn damage_and_installations_hide_what_is_durable() {
        let at = |flushed, unreadable, installing| {
            let mut replica = replica(0, 1);
            (replica.flushed, replica.unreadable, replica.installing) = (flushed, unreadable, installing);
            replica
        };
        let mut world = World::new(Monotonic::default());
        world.holds(&[at(Some(5), false, false)]);
        world.holds(&[at(None, true, false)]);
        world.holds(&[at(None, false, true)]);
        world.breaks(&[at(Some(4), false, false)], "flushed index was Some(5)");
    }

    #[test]
    fn a_vote_is_kept() {
        let mut world = World::new(Monotonic::default());
        world.holds(&[voted(replica(0, 1), 2)]);
        world.holds(&[voted(replica(0, 1), 3)]);
        world.holds(&[voted(replica(0, 2), 1)]);
        world.breaks(&[voted(replica(0, 1), 3)], "the vote was");
    }

    #[test]
    fn it_sees_replicas_that_were_there_before() {
        let mut world = World::new(Monotonic::default());
        assert!(!world.sees(&[replica(0, 1)]));
        world.holds(&[replica(0, 1)]);
        assert!(world.sees(&[replica(0, 1)]));
        let mut another = replica(0, 1);
        another.incarnation = 1;
        assert!(!world.sees(&[another, replica(1, 1)]));
    }
}
