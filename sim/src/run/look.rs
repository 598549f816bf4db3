//! Looks on while a run is under way: the invariants at the replicas, and the committed logs as they grow.
//!
//! The two go side by side. Reading a log may wait for a disk that is slow or a process that is paused; the invariants wait for nobody.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use kvsvr::{shard::Shard, topology, wal::ShardLog};
use kvsvr_core::types::{META_SHARD, ShardId};
use kvsvr_jepsen::check::{Commit, Replica};
use kvsvr_proto::v1::operation;
use tokio::time::{sleep, timeout};

use super::{
    Record, World,
    reseeds::{Reseeds, is_under_way},
};
use crate::{
    invariants::{self, Log, Machine, Moment, Watcher},
    members::Destroyed,
    node::SimNode,
    outcome::Failure,
    shadow,
    sometimes::{OPERATOR, Sometimes},
};

/// Between two looks of the invariants.
const LOOK: Duration = Duration::from_millis(10);
/// Between two looks at whether a log has grown: where little of it is kept, an entry may be purged within milliseconds of its commit.
const FOLLOW: Duration = Duration::from_millis(2);
/// At every so manieth look they look into the replicas' states.
const CONTENTS: u64 = 25;
/// There must have been a look in every so long a time, all in all.
const LEAST: Duration = Duration::from_millis(20);
/// For reading the log of one replica: as long as a disk stalls.
const READ: Duration = Duration::from_secs(5);

/// What was seen from outside.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) watcher: Watcher,
    pub(super) sometimes: Sometimes,
    pub(super) record: Record,
    /// How often the invariants looked.
    pub(super) looks: u64,
    /// How often they looked at a replica, at a state of one that has a session, and at one that has a consumer.
    pub(super) looked_at: [u64; 3],
    /// The states at the end.
    pub(super) replicas: Vec<Replica>,
    /// How long it took until the load began.
    pub(super) setup: Duration,
    /// What could not be known, in words.
    pub(super) unknown: Vec<String>,
    /// Replicas that their nodes destroyed.
    pub(super) destroyed: Vec<Destroyed>,
    /// Replicas that are made anew.
    pub(super) reseeds: Reseeds,
    /// The replicas at the last look, by machine and process.
    there: BTreeMap<(usize, u64), BTreeMap<ShardId, (u64, u64)>>,
    /// Up to which index anybody has known each shard's log to be committed.
    committed: BTreeMap<ShardId, u64>,
    /// Who leads the meta shard: in which term, on which machine.
    meta_leader: Option<(u64, usize)>,
    last: BTreeMap<(u32, usize), invariants::Replica>,
}

impl Seen {
    /// Adds what was looked at, and which invariants have seen something, to the events.
    pub(super) fn add_looks(&mut self) {
        self.sometimes.add("looks_at_sessions", self.looked_at[1]);
        self.sometimes.add("looks_at_consumers", self.looked_at[2]);
        for invariant in self.watcher.have_seen() {
            self.sometimes.held_against(invariant);
        }
    }

    /// Notes replicas that are gone, of processes that still run.
    fn note_destroyed(&mut self, moment: &Moment<'_>) {
        let mut there: BTreeMap<_, BTreeMap<ShardId, (u64, u64)>> = BTreeMap::new();
        for machine in &moment.machines {
            there.insert((machine.machine, machine.process), BTreeMap::new());
        }
        for (replica, _) in &moment.replicas {
            if let Some(index) = replica.committed {
                let committed = self.committed.entry(replica.shard).or_default();
                *committed = index.max(*committed);
            }
            let of_it = there.entry((replica.machine, replica.process)).or_default();
            of_it.insert(replica.shard, replica.identity());
        }
        for (process, before) in &self.there {
            let Some(now) = there.get(process) else { continue };
            for (shard, (node, incarnation)) in before {
                if now.get(shard) != Some(&(*node, *incarnation)) {
                    self.destroyed.push(Destroyed {
                        shard: *shard,
                        node: *node,
                        incarnation: *incarnation,
                        committed: self.committed.get(shard).copied().unwrap_or(0),
                    });
                }
            }
        }
        self.there = there;
    }

    /// Notes that another leader found an operation or a change of voters under way.
    fn note_successors(&mut self, moment: &Moment<'_>, nodes: &[SimNode]) {
        for (replica, _) in &moment.replicas {
            let Some(election) = &replica.election else {
                continue;
            };
            let last = self.last.get(&(replica.shard.0, replica.machine));
            let led = last.is_some_and(|last| last.election.is_some() && last.term == replica.term);
            if !led && election.voters.len() > 1 {
                self.sometimes.count("joint_configuration_inherited");
            }
            if replica.shard != META_SHARD || self.meta_leader >= Some((replica.term, replica.machine)) {
                continue;
            }
            let before = self.meta_leader.replace((replica.term, replica.machine));
            let meta = nodes[replica.machine]
                .node()
                .and_then(|node| node.shard(META_SHARD));
            if before.is_none_or(|(_, machine)| machine == replica.machine) {
                continue;
            }
            let Some(kind) = meta.and_then(|meta| operating(&meta)) else {
                continue;
            };
            self.sometimes.count("operation_inherited");
            if kind == operation::Kind::Reseed {
                self.sometimes.count("reseed_inherited");
            }
        }
    }
}

/// What is under way for an operator, as far as this replica has applied the log.
fn operating(meta: &Shard) -> Option<operation::Kind> {
    let stored = topology::load_all(&*meta.engine().snapshot()).ok().flatten()?;
    let last = stored.operations.into_values().next_back()?;
    (last.who == OPERATOR && is_under_way(&last)).then(|| last.kind())
}

impl World<'_> {
    /// Looks on until the end of the simulation.
    pub(super) async fn look_on(&self) {
        let looking = async {
            loop {
                self.look();
                sleep(LOOK).await;
            }
        };
        let following = join_all(self.nodes.iter().map(async |node| {
            loop {
                self.follow(node, READ).await;
                sleep(FOLLOW).await;
            }
        }));
        futures::join!(looking, following);
    }

    pub(super) fn look(&self) {
        let mut seen = self.seen.lock();
        let seen = &mut *seen;
        seen.looks += 1;
        let contents = seen.looks.is_multiple_of(CONTENTS);
        let views: Vec<_> = {
            let said = &mut self.traffic.lock().said;
            let machines = self.nodes.iter().enumerate();
            let views = machines.flat_map(|(machine, node)| invariants::views(machine, node, said, contents));
            let mut views: Vec<_> = views.collect();
            for (replica, _) in &mut views {
                let last = seen.last.get(&(replica.shard.0, replica.machine));
                if last.is_some_and(|last| last.identity() != replica.identity()) {
                    said.forget(replica.node, replica.shard);
                    replica.asked = None;
                }
            }
            views
        };
        let running = self.nodes.iter().filter(|node| node.is_running()).count();
        let at = self.begin.elapsed();
        let replicas = views
            .iter()
            .map(|(replica, log)| (replica.clone(), log as &dyn Log));
        let members_change = self.plan.may_change_members();
        if members_change && seen.reseeds.look(&self.nodes) {
            seen.sometimes.count("reseed_taken_back");
        }
        let moment = Moment {
            at,
            members_change,
            reseed: seen.reseeds.under_way(),
            machines: self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(machine, node)| Machine::of(machine, node))
                .collect(),
            replicas: replicas.collect(),
        };
        if members_change {
            seen.note_destroyed(&moment);
            seen.note_successors(&moment, &self.nodes);
        }
        seen.sometimes.look(&moment, running, self.nodes.len());
        seen.watcher.see(&moment);
        for (replica, _) in &views {
            seen.looked_at[0] += 1;
            if let Some(Ok(state)) = &replica.contents {
                seen.looked_at[1] += u64::from(state.sessions.values().any(|s| !s.remembered.is_empty()));
                seen.looked_at[2] += u64::from(!state.consumers.is_empty());
            }
            let key = (replica.shard.0, replica.machine);
            if seen.last.get(&key).is_none_or(|last| last.tells_else(replica)) {
                seen.last.insert(key, replica.clone());
                seen.record.samples.push((at, replica.clone()));
            }
        }
    }

    /// Reads what is new in the committed logs of a node, of each for so long.
    async fn follow(&self, node: &SimNode, within: Duration) {
        let Some(node) = node.node() else { return };
        for shard in node.shards().iter().map(|shard| shard.id()) {
            if let Some(committed) = node.wal().shard(shard).committed {
                let following = shadow::follow(&self.shadow, shard, committed.index, node.wal());
                // Whose disk takes longer is passed by.
                let _ = timeout(within, following).await;
            }
        }
    }

    /// The committed logs of all shards; else what failed. Nothing has failed if an entry is not known because all replicas had purged it
    /// before it could be read: that is noted only.
    pub(super) async fn committed_log(&self) -> Result<Vec<Commit>, Vec<Failure>> {
        join_all(self.nodes.iter().map(|node| self.follow(node, READ))).await;
        let logs = self.logs();
        let committed = logs
            .iter()
            .filter_map(|(shard, log)| Some((*shard, log.committed?.index)));
        let committed = merged(committed, u64::max);
        let gaps = match self.shadow.lock().commits(&committed) {
            Ok(commits) => {
                self.seen.lock().sometimes.count("committed_log_known");
                return Ok(commits);
            }
            Err(gaps) => gaps,
        };
        let first = logs.iter().map(|(shard, log)| (*shard, log.first_index));
        let kept_from = merged(first, u64::min);
        let mut failures = Vec::new();
        for gap in gaps {
            let is_gone = kept_from.get(&gap.shard).is_some_and(|first| *first > gap.entry);
            if gap.applies && is_gone {
                self.seen.lock().unknown.push(gap.to_string());
            } else {
                failures.push(Failure::new("committed", gap.to_string()));
            }
        }
        Err(failures)
    }

    /// The logs of all replicas of data shards.
    fn logs(&self) -> Vec<(ShardId, ShardLog)> {
        let running = self.nodes.iter().filter_map(SimNode::node);
        let logs = running.flat_map(|node| {
            let shards = node.shards().into_iter().map(|shard| shard.id());
            let shards = shards.filter(|shard| *shard != META_SHARD);
            shards
                .map(|shard| (shard, node.wal().shard(shard)))
                .collect::<Vec<_>>()
        });
        logs.collect()
    }
}

fn merged(
    numbers: impl Iterator<Item = (ShardId, u64)>,
    choose: fn(u64, u64) -> u64,
) -> BTreeMap<ShardId, u64> {
    let mut merged = BTreeMap::new();
    for (shard, number) in numbers {
        let chosen = merged.entry(shard).or_insert(number);
        *chosen = choose(number, *chosen);
    }
    merged
}

/// Who looks too seldom, or at nothing, sees nothing: then that nothing is broken says nothing. `replicas`: how often they looked at one.
pub(super) fn too_seldom(looks: u64, replicas: u64, simulated: Duration) -> Option<Failure> {
    let due = (simulated.as_millis() / LEAST.as_millis()) as u64;
    (looks < due || replicas < due).then(|| {
        let text = format!(
            "the invariants looked {looks} times, at {replicas} replicas, in {simulated:?}, {due} are due"
        );
        Failure::new("setup", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_invariants_must_have_looked() {
        let minute = Duration::from_secs(60);
        assert!(too_seldom(3_000, 3_000, minute).is_none());
        assert_eq!(too_seldom(2_999, 9_000, minute).unwrap().found_by, "setup");
        assert!(too_seldom(6_000, 0, minute).is_some(), "nobody was there");
        assert!(too_seldom(0, 0, LOOK).is_none());
    }
}
