//! A vote that is taken so that the replica is made anew (decision 0018): the shard has a voter fewer until the new one votes. What must be so when it is taken:
//!
//! - An operation is under way that makes the replica of this node in this shard anew.
//! - Each other voter has answered the leader within its last three heartbeats.
//! - Each other voter has been caught up at some moment since the operation began: its log ended where that of the leader had ended a second
//!   before, or later. The step may have been decided on at any moment since then.
//!
//! The times are those of the product (`shard/group.rs`), by clocks that run a tenth too slow, and with the time between two looks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kvsvr_core::types::ShardId;

use super::super::{Election, Moment, Replica, Reseed};

/// Three heartbeats of the longest that plans have: 200 ms each.
const SILENT: Duration = Duration::from_millis(700);
/// A second.
const LATE: Duration = Duration::from_millis(1_150);
/// For so long a step may be under way that was decided on before the operation was ended: by who took it back a second time.
const STEP: Duration = Duration::from_secs(10);

/// What is known of replicas that are made anew.
#[derive(Default)]
pub(super) struct Anew {
    /// Where the log of each shard's replica on each node ended lately, and since when.
    ends: BTreeMap<(ShardId, u64), VecDeque<(Duration, u64)>>,
    /// The newest operation, and when it was under way last.
    newest: Option<(Reseed, Duration)>,
    /// Nodes whose replicas were caught up at some moment since it began.
    caught_up: BTreeSet<u64>,
}

impl Anew {
    /// Notes what there is at a moment.
    pub(super) fn see(&mut self, moment: &Moment<'_>) {
        // Elsewhere nothing is made anew.
        if !moment.members_change {
            return;
        }
        for (replica, _) in &moment.replicas {
            let end = replica.log.last.map_or(0, |last| last.index);
            let ends = self.ends.entry((replica.shard, replica.node)).or_default();
            if ends.back().is_none_or(|(_, last)| *last != end) {
                ends.push_back((moment.at, end));
            }
            // The first one is the end at the begin of that time, or before.
            while ends.get(1).is_some_and(|(since, _)| *since + LATE <= moment.at) {
                ends.pop_front();
            }
        }
        let Some(reseed) = moment.reseed else { return };
        if self.newest.is_none_or(|(known, _)| known != reseed) {
            self.caught_up.clear();
        }
        self.newest = Some((reseed, moment.at));
        self.note_caught_up(moment, reseed.shard);
    }

    /// Who has died lately has what it had: that it is silent is another matter.
    fn note_caught_up(&mut self, moment: &Moment<'_>, shard: ShardId) {
        let of_it = moment
            .replicas
            .iter()
            .filter(|(replica, _)| replica.shard == shard);
        let leaders = of_it.filter(|(replica, _)| replica.election.is_some());
        let Some((leader, _)) = leaders.max_by_key(|(replica, _)| replica.term) else {
            return;
        };
        // Its log was cut before it led, if it did not only grow.
        let ends = self.ends.get(&(shard, leader.node));
        let Some(needed) = ends.and_then(|ends| ends.iter().map(|(_, end)| *end).min()) else {
            return;
        };
        let of_it = self.ends.range((shard, 0)..=(shard, u64::MAX));
        let has_it = |ends: &VecDeque<(Duration, u64)>| ends.back().is_some_and(|(_, end)| *end >= needed);
        let nodes = of_it.filter(|(_, ends)| has_it(ends)).map(|((_, node), _)| *node);
        self.caught_up.extend(nodes);
    }

    /// Those who vote no more are one, whose replica is made anew.
    pub(super) fn is_of(&self, moment: &Moment<'_>, shard: ShardId, gone: &[u64]) -> bool {
        self.newest.is_some_and(|(reseed, last)| {
            reseed.shard == shard && gone == [reseed.node] && last + STEP >= moment.at
        })
    }

    /// Its vote is seen to be taken: whether all of the `rest` were there. `led_before`: so its leader has done it, and has not found it in its log.
    ///
    /// # Errors
    /// Who was not.
    pub(super) fn judge(
        &self,
        moment: &Moment<'_>,
        leader: &Replica,
        election: &Election,
        rest: &BTreeSet<u64>,
        led_before: bool,
    ) -> Result<(), String> {
        for node in rest.iter().filter(|node| **node != leader.node) {
            let why = if !self.caught_up.contains(node) {
                "has been behind ever since the operation began".to_owned()
            } else if led_before && self.is_silent(moment, election, *node) {
                let last = election.answered.get(node);
                format!("does not answer: its last answer came at {last:?}")
            } else {
                continue;
            };
            return Err(format!(
                "the vote of a replica that is made anew is taken, and node {node} {why}; the voters are {:?}",
                election.voters
            ));
        }
        Ok(())
    }

    fn is_silent(&self, moment: &Moment<'_>, election: &Election, node: u64) -> bool {
        let last = election.answered.get(&node);
        last.is_none_or(|last| *last + SILENT < moment.at)
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_core::types::{LogPosition, META_SHARD};

    use super::{super::Membership, *};
    use crate::invariants::testing::{World, replica};

    const SHARD: ShardId = ShardId(1);

    /// A cluster of three that makes the replica of node 2 anew.
    struct Cluster {
        world: World<Membership>,
        shard: ShardId,
        /// Where the logs end.
        ends: [u64; 3],
        /// When nodes have answered.
        answered: BTreeMap<u64, Duration>,
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    impl Cluster {
        fn new(shard: ShardId) -> Self {
            let mut cluster = Self {
                world: World::new(Membership::default()),
                shard,
                ends: [5; 3],
                answered: BTreeMap::new(),
            };
            cluster.holds(0, &[&[1, 2, 3]]);
            cluster
        }

        fn begins(&mut self, shard: ShardId, node: u64) {
            let operation = 7;
            self.world.reseed = Some(Reseed {
                operation,
                shard,
                node,
            });
        }

        /// All replicas; node 1 leads with these voters.
        fn replicas(&mut self, at: u64, voters: &[&[u64]]) -> Vec<Replica> {
            self.world.at = ms(at);
            let mut replicas: Vec<Replica> = (0..3).map(|machine| replica(machine, 4)).collect();
            for (replica, end) in replicas.iter_mut().zip(self.ends) {
                replica.shard = self.shard;
                replica.log.last = Some(LogPosition {
                    index: end,
                    term: 4,
                    node: 1,
                });
            }
            replicas[0].election = Some(Election {
                voters: voters.iter().map(|set| set.iter().copied().collect()).collect(),
                answered: self.answered.clone(),
                ..Election::default()
            });
            replicas
        }

        fn holds(&mut self, at: u64, voters: &[&[u64]]) {
            let replicas = self.replicas(at, voters);
            self.world.holds(&replicas);
        }

        #[track_caller]
        fn breaks(&mut self, at: u64, voters: &[&[u64]], text: &str) {
            let replicas = self.replicas(at, voters);
            self.world.breaks(&replicas, text);
        }
    }

    const TAKEN: &[&[u64]] = &[&[1, 2, 3], &[1, 3]];

    #[test]
    fn its_vote_is_taken_when_all_others_are_there() {
        for shard in [SHARD, META_SHARD] {
            let mut cluster = Cluster::new(shard);
            cluster.begins(shard, 2);
            cluster.answered.insert(3, ms(900));
            cluster.holds(1_000, TAKEN);
            cluster.holds(9_000, &[&[1, 3]]);
            cluster.holds(9_010, &[&[1, 3], &[1, 2, 3]]);
            cluster.holds(9_020, &[&[1, 2, 3]]);
            // Once more, and who is silent then is not there.
            cluster.breaks(
                9_030,
                TAKEN,
                "node 3 does not answer: its last answer came at Some(900ms)",
            );
        }
    }

    #[test]
    fn the_end_of_the_change_may_be_all_that_is_seen_of_it() {
        let mut cluster = Cluster::new(SHARD);
        cluster.begins(SHARD, 2);
        cluster.breaks(
            1_000,
            &[&[1, 3]],
            "node 3 does not answer: its last answer came at None",
        );
        let mut cluster = Cluster::new(SHARD);
        cluster.begins(SHARD, 2);
        cluster.answered.insert(3, ms(400));
        cluster.holds(1_000, &[&[1, 3]]);
    }

    #[test]
    fn no_other_vote_is_taken() {
        let text = "no operation makes the replica of [2] anew";
        for (shard, node) in [(SHARD, 3), (SHARD, 1), (ShardId(2), 2), (META_SHARD, 2)] {
            let mut cluster = Cluster::new(SHARD);
            cluster.begins(shard, node);
            cluster.answered.insert(3, ms(900));
            cluster.breaks(1_000, TAKEN, text);
        }
        let mut cluster = Cluster::new(SHARD);
        cluster.begins(SHARD, 2);
        cluster.answered.insert(3, ms(900));
        cluster.holds(1_000, TAKEN);
        cluster.breaks(
            1_010,
            &[&[1, 3], &[1]],
            "no operation makes the replica of [2, 3] anew",
        );
        // A step may come late; long after the end of the operation it may not.
        for (at, is_late) in [(9_000, false), (11_000, true)] {
            let mut cluster = Cluster::new(SHARD);
            cluster.begins(SHARD, 2);
            cluster.holds(10, &[&[1, 2, 3]]);
            cluster.world.reseed = None;
            cluster.answered.insert(3, ms(at));
            match is_late {
                true => cluster.breaks(at, TAKEN, text),
                false => cluster.holds(at, TAKEN),
            }
        }
    }

    #[test]
    fn who_is_behind_is_needed() {
        let mut cluster = Cluster::new(SHARD);
        cluster.ends = [9, 9, 5];
        cluster.holds(1_000, &[&[1, 2, 3]]);
        cluster.begins(SHARD, 2);
        // A second ago its log ended there.
        cluster.holds(2_000, &[&[1, 2, 3]]);
        cluster.answered.insert(3, ms(2_900));
        cluster.holds(3_000, TAKEN);

        let late = || {
            let mut cluster = Cluster::new(SHARD);
            cluster.ends = [9, 9, 5];
            cluster.holds(1_000, &[&[1, 2, 3]]);
            cluster.holds(2_500, &[&[1, 2, 3]]);
            cluster.begins(SHARD, 2);
            cluster.answered.insert(3, ms(2_900));
            cluster
        };
        late().breaks(
            3_000,
            TAKEN,
            "node 3 has been behind ever since the operation began",
        );
        let mut cluster = late();
        cluster.ends = [10, 9, 9];
        cluster.holds(2_990, &[&[1, 2, 3]]);
        cluster.holds(3_000, TAKEN);
    }

    /// A new leader that finds the change in its log has not heard of all.
    #[test]
    fn a_change_that_is_inherited_was_begun_by_another() {
        let mut cluster = Cluster::new(SHARD);
        cluster.begins(SHARD, 2);
        let mut replicas = cluster.replicas(1_000, TAKEN);
        replicas[0].term = 5;
        cluster.world.holds(&replicas);
        // Who led before does not know yet that the shard is whole again.
        cluster.holds(1_010, &[&[1, 3]]);
    }
}
