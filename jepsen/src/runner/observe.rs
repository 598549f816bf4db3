//! Asks all nodes for their status again and again: who leads which shard, for nemeses; the states of replicas, for the picture.
//!
//! It asks over the same network as the clients, so that what it knows may be old; a node that does not answer keeps its last state, one
//! whose process does not run is down.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use kvsvr_client::{Client, proto};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::cluster::{Cluster, Node};
use crate::{
    history::Nanos,
    report::{NodeState, Role},
    workload::Stop,
};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(250);
/// Time that a node has for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is known.
#[derive(Default)]
pub struct Observer(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Of each shard: the term and the node that leads it.
    leaders: BTreeMap<u32, (u64, u64)>,
    /// Changes of leader that were seen.
    elections: u64,
    /// Nodes that answered in the last round.
    answering: BTreeSet<u64>,
    /// The nodes' numbers in the cluster.
    members: BTreeMap<u64, u64>,
    /// The last state of each node and shard.
    last: BTreeMap<(u32, u32), NodeState>,
    states: Vec<NodeState>,
    /// Term, shard and node of transfers.
    snapshots: BTreeSet<(u64, u32, u64)>,
    /// Shards and the revisions that they were compacted to.
    floors: BTreeSet<(u32, u64)>,
}

impl Observer {
    /// The number that a node has in the cluster: one that has lost its disk gets another one.
    pub fn member(&self, node: u64) -> u64 {
        self.0.lock().members.get(&node).copied().unwrap_or(node)
    }

    /// The node that has a number in the cluster.
    pub fn node(&self, member: u64) -> Option<u64> {
        let known = self.0.lock();
        let mut members = known.members.iter();
        members.find(|(_, id)| **id == member).map(|(node, _)| *node)
    }

    /// Who leads a shard, as far as is known.
    pub fn leader(&self, shard: u32) -> Option<u64> {
        self.0.lock().leaders.get(&shard).map(|(_, node)| *node)
    }

    /// The data shards that somebody was seen to lead.
    pub fn shards(&self) -> Vec<u32> {
        let known = self.0.lock();
        known.leaders.keys().copied().filter(|shard| *shard > 0).collect()
    }

    /// The node answered in the last round.
    pub fn answers(&self, node: &Node) -> bool {
        self.0.lock().answering.contains(&node.id)
    }

    /// How often a shard was seen to have another leader than before.
    pub fn elections(&self) -> u64 {
        self.0.lock().elections
    }

    /// How many transfers of snapshots were seen at least: those of one node, shard and term count once.
    pub fn snapshots(&self) -> usize {
        self.0.lock().snapshots.len()
    }

    /// How often a shard was seen to be compacted further.
    pub fn compactions(&self) -> usize {
        self.0.lock().floors.len()
    }

    /// The states so far, without those that say what the one before said.
    pub fn states(&self) -> Vec<NodeState> {
        self.0.lock().states.clone()
    }

    /// Asks until it is told to stop.
    pub async fn watch(&self, cluster: Arc<Cluster>, admin: Client, stop: Stop) {
        let admin = admin.with_timeout(PATIENCE);
        loop {
            self.look(&cluster, &admin).await;
            if stop.or(sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }

    async fn look(&self, cluster: &Cluster, admin: &Client) {
        let asking = cluster.nodes().iter().map(|node| async move {
            // Before the question: a process that starts meanwhile is looked at in the next round.
            let runs = node.state().runs();
            let status = match runs {
                true => admin.status(&node.address).await.ok(),
                false => None,
            };
            (node, runs, status)
        });
        let answers = join_all(asking).await;
        let time = cluster.time();
        let mut known = self.0.lock();
        for (node, runs, status) in answers {
            match status {
                Some(status) => {
                    known.answering.insert(node.id);
                    if status.node_id != 0 {
                        known.members.insert(node.id, status.node_id);
                    }
                    for replica in &status.replicas {
                        known.learn(node.id, replica, time);
                    }
                }
                None => {
                    known.answering.remove(&node.id);
                    if !runs {
                        known.down(node.id, time);
                    }
                }
            }
        }
    }
}

impl Known {
    fn learn(&mut self, node: u64, replica: &proto::ReplicaStatus, time: Nanos) {
        let role = match replica.role.as_str() {
            "leader" => Role::Leader,
            "candidate" => Role::Candidate,
            "learner" => Role::Learner,
            _ => Role::Follower,
        };
        if role == Role::Leader {
            let (term, leader) = self.leaders.get(&replica.shard).copied().unwrap_or((0, node));
            if replica.term >= term {
                self.leaders.insert(replica.shard, (replica.term, node));
                self.elections += u64::from(leader != node);
            }
        }
        if !replica.snapshot.is_empty() {
            self.snapshots.insert((replica.term, replica.shard, node));
        }
        if replica.floor > 0 {
            self.floors.insert((replica.shard, replica.floor));
        }
        self.show(NodeState {
            time,
            node: (node - 1) as u32,
            shard: replica.shard,
            role,
            term: replica.term,
            commit: replica.committed_index,
            applied: replica.applied_index,
        });
    }

    fn down(&mut self, node: u64, time: Nanos) {
        let node = (node - 1) as u32;
        let of_node = (node, 0)..=(node, u32::MAX);
        let last: Vec<NodeState> = self.last.range(of_node).map(|(_, state)| *state).collect();
        for state in last {
            self.show(NodeState {
                time,
                role: Role::Down,
                ..state
            });
        }
    }

    fn show(&mut self, state: NodeState) {
        let before = self.last.insert((state.node, state.shard), state);
        let same =
            before.is_some_and(|before| NodeState { time: 0, ..before } == NodeState { time: 0, ..state });
        if !same {
            self.states.push(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(role: &str, term: u64) -> proto::ReplicaStatus {
        proto::ReplicaStatus {
            shard: 1,
            role: role.into(),
            term,
            applied_index: 7,
            ..Default::default()
        }
    }

    #[test]
    fn the_leader_of_the_highest_term_leads() {
        let observer = Observer::default();
        let learn = |node, role: &str, term| observer.0.lock().learn(node, &replica(role, term), term);
        learn(1, "leader", 3);
        assert_eq!((observer.leader(1), observer.leader(2)), (Some(1), None));
        learn(2, "leader", 4);
        learn(1, "leader", 3);
        assert_eq!((observer.leader(1), observer.elections()), (Some(2), 1));
        learn(2, "follower", 5);
        assert_eq!(observer.leader(1), Some(2), "nobody else is known");
        assert_eq!(observer.shards(), [1]);
    }

    #[test]
    fn states_are_kept_when_they_change() {
        let observer = Observer::default();
        for time in 0..3 {
            observer.0.lock().learn(1, &replica("follower", 3), time);
        }
        observer.0.lock().down(1, 5);
        observer.0.lock().down(1, 6);
        let states = observer.states();
        let seen: Vec<_> = states.iter().map(|state| (state.time, state.role)).collect();
        assert_eq!(seen, [(0, Role::Follower), (5, Role::Down)]);
    }
}
