//! Between what is stored and what the planner works with: a view of the rows, and a transaction of its decisions.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvsvr_core::{
    codec::encode_command,
    command::{Command, Compare, Op, Txn, TxnOp},
};
use kvsvr_proto::v1 as pb;
use prost::Message;

use super::{CLUSTER, FORMAT_VERSION, NODE, OPERATION, SHARD, Topology, partition, settings};
use crate::{
    limits::{MAX_ENDED_OPERATIONS, MAX_OPERATION_EVENTS},
    placement::{self as plan, After, Change, Doing, NodeState, OpKind, OpState, ShardRow, View, Write},
};

fn node_state(state: pb::NodeState) -> NodeState {
    match state {
        pb::NodeState::NodeUp => NodeState::Up,
        pb::NodeState::NodeJoining => NodeState::Joining,
        pb::NodeState::NodeDraining => NodeState::Draining,
        pb::NodeState::NodeLeaving => NodeState::Leaving,
        pb::NodeState::NodeRemoved => NodeState::Removed,
        pb::NodeState::NodeLost => NodeState::Lost,
    }
}

fn pb_node_state(state: NodeState) -> pb::NodeState {
    match state {
        NodeState::Up => pb::NodeState::NodeUp,
        NodeState::Joining => pb::NodeState::NodeJoining,
        NodeState::Draining => pb::NodeState::NodeDraining,
        NodeState::Leaving => pb::NodeState::NodeLeaving,
        NodeState::Removed => pb::NodeState::NodeRemoved,
        NodeState::Lost => pb::NodeState::NodeLost,
    }
}

fn op_state(state: pb::operation::State) -> OpState {
    match state {
        pb::operation::State::Running => OpState::Running,
        pb::operation::State::Aborting => OpState::Aborting,
        pb::operation::State::Done => OpState::Done,
        pb::operation::State::Aborted => OpState::Aborted,
    }
}

fn pb_op_state(state: OpState) -> pb::operation::State {
    match state {
        OpState::Running => pb::operation::State::Running,
        OpState::Aborting => pb::operation::State::Aborting,
        OpState::Done => pb::operation::State::Done,
        OpState::Aborted => pb::operation::State::Aborted,
    }
}

fn pb_after(after: After) -> pb::operation::After {
    match after {
        After::Nothing => pb::operation::After::Nothing,
        After::Copy => pb::operation::After::Copy,
        After::Join => pb::operation::After::Join,
    }
}

fn operation(stored: &pb::Operation) -> Option<plan::Operation> {
    let kind = match stored.kind() {
        pb::operation::Kind::Unknown => return None,
        pb::operation::Kind::Add => OpKind::Add(stored.node),
        pb::operation::Kind::Drain => OpKind::Drain(stored.node),
        pb::operation::Kind::Undrain => OpKind::Undrain(stored.node),
        pb::operation::Kind::Remove => OpKind::Remove(stored.node),
        pb::operation::Kind::Replace => OpKind::Replace(stored.node, stored.new_node),
        pb::operation::Kind::Evict => OpKind::Evict(stored.node),
        pb::operation::Kind::Restore => OpKind::Restore(stored.node),
        pb::operation::Kind::Label => OpKind::Label(stored.node),
        pb::operation::Kind::Repair => OpKind::Repair(stored.node),
        pb::operation::Kind::Return => OpKind::Return(stored.node),
        pb::operation::Kind::Slow => OpKind::Slow(stored.node),
        pb::operation::Kind::Quick => OpKind::Quick(stored.node),
        pb::operation::Kind::Reseed => OpKind::Reseed {
            shard: stored.shard,
            node: stored.node,
        },
    };
    Some(plan::Operation {
        id: stored.id,
        kind,
        was: node_state(stored.was()),
        state: op_state(stored.state()),
    })
}

fn shard_row(info: &pb::ShardInfo) -> ShardRow {
    let some = |id: u64| (id != 0).then_some(id);
    ShardRow {
        id: info.id,
        replicas: info.replicas.clone(),
        learners: info.learners.clone(),
        change: info.change.map(|change| Change {
            add: some(change.add),
            remove: some(change.remove),
        }),
        changes: info.changes,
        incarnations: info
            .incarnations
            .iter()
            .map(|i| (i.node, i.incarnation))
            .collect(),
    }
}

/// The rows as the planner sees them. Every node counts as reachable, no membership is known yet.
pub fn view(topology: &Topology) -> View {
    let nodes = topology.map.nodes.iter().map(|info| {
        let node = plan::Node {
            id: info.id,
            address: info.address.clone(),
            store_id: info.store_id.clone(),
            state: node_state(info.state()),
            evicted: info.evicted,
            slow: info.slow,
            labels: info.labels.clone().into_iter().collect(),
            silent_ms: None,
            pace: plan::Pace::Unknown,
        };
        (info.id, node)
    });
    let rows: BTreeMap<u32, ShardRow> = topology.map.shards.iter().map(|s| (s.id, shard_row(s))).collect();
    let replication = match topology.map.replication as usize {
        0 => rows
            .values()
            .filter(|row| !row.is_meta())
            .map(wanted_replicas)
            .max()
            .unwrap_or(1),
        replication => replication,
    };
    View {
        nodes: nodes.collect(),
        rows,
        replication,
        repair_after_ms: settings::repair_after_ms(&topology.map.settings),
        operation: topology.operations.values().next_back().and_then(operation),
        real: BTreeMap::new(),
    }
}

/// How many replicas a shard is to have, of a cluster that does not say so: a lone voter that moves is two for a while.
fn wanted_replicas(row: &ShardRow) -> usize {
    let votes = |node: Option<u64>| node.is_some_and(|node| row.replicas.contains(&node));
    let moves = row
        .change
        .is_some_and(|change| votes(change.add) && votes(change.remove));
    row.replicas.len() - usize::from(moves)
}

/// Changes of the rows, to be stored together or not at all.
#[derive(Debug)]
pub struct Changes<'a> {
    topology: &'a Topology,
    now_ms: u64,
    puts: BTreeMap<Bytes, Vec<u8>>,
    deletes: Vec<Bytes>,
    operation: Option<pb::Operation>,
}

fn key(kind: &[u8], id: &[u8]) -> Bytes {
    [kind, id].concat().into()
}

impl<'a> Changes<'a> {
    /// None yet. `now_ms`: for people.
    pub fn new(topology: &'a Topology, now_ms: u64) -> Self {
        Self {
            topology,
            now_ms,
            puts: BTreeMap::new(),
            deletes: Vec::new(),
            operation: topology.operations.values().next_back().cloned(),
        }
    }

    /// The operation as it will be stored.
    pub fn operation(&self) -> Option<&pb::Operation> {
        self.operation.as_ref()
    }

    /// Takes a decision of the planner in. `who` begins what is begun.
    pub fn add(&mut self, write: &Write, who: &str) {
        match write {
            Write::Row(row) => self.row(row),
            Write::Node(id, state) => self.change_node(*id, |info| info.set_state(pb_node_state(*state))),
            Write::Evicted(id, evicted) => self.change_node(*id, |info| info.evicted = *evicted),
            Write::Slow(id, slow) => self.change_node(*id, |info| info.slow = *slow),
            Write::Labels(id, labels) => {
                self.change_node(*id, |info| info.labels = labels.clone().into_iter().collect());
            }
            Write::NewNode(node) => self.node(pb::NodeInfo {
                id: node.id,
                address: node.address.clone(),
                store_id: node.store_id.clone(),
                state: pb_node_state(node.state).into(),
                ..Default::default()
            }),
            Write::NewOperation(operation) => self.begin(operation, who),
            Write::Operation(state) => {
                let now = self.now_ms;
                if let Some(operation) = &mut self.operation {
                    operation.set_state(pb_op_state(*state));
                    if state.ended() {
                        operation.ended_ms = now;
                        operation.steps_left = 0;
                        operation.waiting.clear();
                    }
                }
            }
        }
    }

    fn change_node(&mut self, id: u64, change: impl FnOnce(&mut pb::NodeInfo)) {
        let known = self.topology.map.nodes.iter().find(|n| n.id == id);
        if let Some(mut info) = known.cloned() {
            change(&mut info);
            self.node(info);
        }
    }

    fn node(&mut self, mut info: pb::NodeInfo) {
        info.format_version = FORMAT_VERSION;
        self.puts
            .insert(key(NODE, &info.id.to_be_bytes()), info.encode_to_vec());
    }

    fn row(&mut self, row: &ShardRow) {
        let known = self.topology.map.shards.iter().find(|s| s.id == row.id);
        let Some(mut info) = known.cloned() else { return };
        info.replicas.clone_from(&row.replicas);
        info.learners.clone_from(&row.learners);
        info.change = row.change.map(|change| pb::ReplicaChange {
            add: change.add.unwrap_or(0),
            remove: change.remove.unwrap_or(0),
        });
        info.changes = row.changes + 1;
        info.leader = 0;
        info.format_version = FORMAT_VERSION;
        let incarnations = row.incarnations.iter();
        info.incarnations = incarnations
            .map(|(node, incarnation)| pb::Incarnation {
                node: *node,
                incarnation: *incarnation,
            })
            .collect();
        self.puts
            .insert(key(SHARD, &info.id.to_be_bytes()), info.encode_to_vec());
    }

    fn begin(&mut self, operation: &plan::Operation, who: &str) {
        use pb::operation::Kind;
        let (kind, node, new_node) = match operation.kind {
            OpKind::Add(node) => (Kind::Add, node, 0),
            OpKind::Drain(node) => (Kind::Drain, node, 0),
            OpKind::Undrain(node) => (Kind::Undrain, node, 0),
            OpKind::Remove(node) => (Kind::Remove, node, 0),
            OpKind::Replace(old, new) => (Kind::Replace, old, new),
            OpKind::Evict(node) => (Kind::Evict, node, 0),
            OpKind::Restore(node) => (Kind::Restore, node, 0),
            OpKind::Label(node) => (Kind::Label, node, 0),
            OpKind::Repair(node) => (Kind::Repair, node, 0),
            OpKind::Return(node) => (Kind::Return, node, 0),
            OpKind::Slow(node) => (Kind::Slow, node, 0),
            OpKind::Quick(node) => (Kind::Quick, node, 0),
            OpKind::Reseed { node, .. } => (Kind::Reseed, node, 0),
        };
        let shard = match operation.kind {
            OpKind::Reseed { shard, .. } => shard,
            _ => 0,
        };
        self.operation = Some(pb::Operation {
            format_version: FORMAT_VERSION,
            id: operation.id,
            kind: kind.into(),
            node,
            new_node,
            shard,
            was: pb_node_state(operation.was).into(),
            state: pb_op_state(operation.state).into(),
            who: who.to_owned(),
            started_ms: self.now_ms,
            ..Default::default()
        });
        let known = &self.topology.operations;
        let old = known
            .keys()
            .take((known.len() + 1).saturating_sub(MAX_ENDED_OPERATIONS));
        self.deletes
            .extend(old.map(|id| key(OPERATION, &id.to_be_bytes())));
    }

    /// Sets a setting; an empty value: its default.
    pub fn set(&mut self, name: &str, value: &str) {
        let map = &self.topology.map;
        let mut settings = map.settings.clone();
        settings.remove(name);
        if !value.is_empty() {
            settings.insert(name.to_owned(), value.to_owned());
        }
        let cluster = pb::ShardMap {
            cluster_id: map.cluster_id.clone(),
            cluster_name: map.cluster_name.clone(),
            replication: map.replication,
            settings,
            ..Default::default()
        };
        self.puts
            .insert(Bytes::from_static(CLUSTER), cluster.encode_to_vec());
    }

    /// Notes in the operation what is done, and what stands in its way.
    pub fn note(&mut self, done: &[Doing], left: &[Doing], waiting: &[String]) {
        let now = self.now_ms;
        let Some(operation) = &mut self.operation else {
            return;
        };
        // A plan is bounded.
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let after = |what| left.iter().filter(|doing| doing.after == what).count();
        operation.steps_done = operation.steps_done.saturating_add(number(done.len()));
        operation.steps_left = number(left.len());
        operation.copies_left = number(after(After::Copy));
        operation.joins_left = number(after(After::Join));
        operation.waiting = waiting.to_vec();
        let events = done.iter().map(|doing| pb::operation::Event {
            at_ms: now,
            text: doing.text.clone(),
            after: pb_after(doing.after).into(),
            shard: doing.shard.unwrap_or(0),
            begins_copy: doing.begins_copy,
        });
        operation.events.extend(events);
        let surplus = operation.events.len().saturating_sub(MAX_OPERATION_EVENTS);
        operation.events.drain(..surplus);
    }

    /// The command that stores all of it, if none of the rows that are changed has changed since they were read; `None` if nothing is to be
    /// stored.
    pub fn command(mut self) -> Option<Bytes> {
        let stored = self.topology.operations.values().next_back();
        if let Some(operation) = self.operation.take().filter(|op| Some(op) != stored) {
            self.puts.insert(
                key(OPERATION, &operation.id.to_be_bytes()),
                operation.encode_to_vec(),
            );
        }
        if self.puts.is_empty() {
            return None;
        }
        // The newest operation too: what is decided is for it, or for that there is none.
        let newest = stored.map(|op| key(OPERATION, &op.id.to_be_bytes()));
        let mut compared: Vec<&Bytes> = self.puts.keys().chain(&newest).collect();
        compared.sort();
        compared.dedup();
        let revision = |key: &Bytes| self.topology.revisions.get(key).copied().unwrap_or(0);
        let compares = compared
            .into_iter()
            .map(|key| Compare::mod_rev(key.clone(), revision(key)))
            .collect();
        let puts = self.puts.iter().map(|(key, value)| TxnOp::Put {
            key: key.clone(),
            value: value.clone().into(),
            ttl_ms: 0,
            lease: 0,
        });
        let deletes = self.deletes.iter().map(|key| TxnOp::Delete { key: key.clone() });
        let txn = Txn {
            compares,
            then_ops: puts.chain(deletes).collect(),
            else_ops: Vec::new(),
        };
        Some(encode_command(&Command {
            partition: partition(),
            session: None,
            op: Op::Txn(txn),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::layout;

    fn topology() -> Topology {
        let nodes = (1..=3).map(|id| pb::NodeInfo {
            id,
            address: format!("n{id}:1"),
            store_id: format!("s{id}"),
            ..Default::default()
        });
        let mut topology = Topology {
            map: layout("c", "test", nodes.collect(), 2, 3).unwrap(),
            ..Default::default()
        };
        topology.revisions.insert(key(SHARD, &1u32.to_be_bytes()), 5);
        topology
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_stored_forms_are_pinned() {
        let topology = topology();
        let mut changes = Changes::new(&topology, 1_000);
        let row = view(&topology).rows[&1].begin(Change {
            add: Some(4),
            remove: Some(1),
        });
        changes.add(&Write::Row(row.clone()), "");
        changes.add(&Write::Node(2, NodeState::Draining), "");
        let operation = plan::Operation {
            id: 3,
            kind: OpKind::Replace(1, 4),
            was: NodeState::Draining,
            state: OpState::Running,
        };
        changes.add(&Write::NewOperation(operation), "me");
        let doing = |text: &str, after| Doing {
            text: text.into(),
            after,
            shard: Some(3),
            begins_copy: true,
        };
        let left = [After::Copy, After::Nothing, After::Join, After::Copy].map(|after| doing("later", after));
        changes.note(&[doing("did it", After::Copy)], &left, &["waits".into()]);
        let stored = changes.operation().unwrap().clone();
        assert_eq!(
            hex(&stored.encode_to_vec()),
            "080110031805200128043a026d6540e807500158046205776169747\
             36a1108e80712066469642069741801200328017002800102880101"
        );
        let rows: Vec<String> = changes.puts.values().map(|row| hex(row)).collect();
        assert_eq!(
            rows,
            [
                "080212046e323a311a02733230023801",
                "080118ff0f22030203013201043a040804100140014a04080410015001",
            ]
        );
        // And back.
        let mut again = topology.clone();
        again.map.shards[1] =
            pb::ShardInfo::decode(changes.puts.values().last().unwrap().as_slice()).unwrap();
        let expected = ShardRow { changes: 1, ..row };
        assert_eq!(view(&again).rows[&1], expected);
        assert_eq!(operation, super::operation(&stored).unwrap());
    }

    #[test]
    fn what_is_made_anew_is_stored_with_its_shard() {
        let topology = topology();
        let operation = plan::Operation {
            id: 3,
            kind: OpKind::Reseed { shard: 2, node: 1 },
            was: NodeState::Up,
            state: OpState::Running,
        };
        let mut changes = Changes::new(&topology, 1_000);
        changes.add(&Write::NewOperation(operation), "me");
        let stored = changes.operation().unwrap().clone();
        assert_eq!(hex(&stored.encode_to_vec()), "08011003180d20013a026d6540e8077802");
        assert_eq!(operation, super::operation(&stored).unwrap());
    }

    #[test]
    fn a_transaction_is_for_the_rows_that_were_read() {
        let topology = topology();
        let mut changes = Changes::new(&topology, 1_000);
        changes.add(&Write::Row(view(&topology).rows[&1].clone()), "");
        let command = changes.command().unwrap();
        let Op::Txn(txn) = kvsvr_core::codec::decode_command(&command).unwrap().op else {
            panic!("not a transaction");
        };
        let row = key(SHARD, &1u32.to_be_bytes());
        assert_eq!(txn.compares, [Compare::mod_rev(row, 5)]);
        assert!(Changes::new(&topology, 1_000).command().is_none());
    }

    #[test]
    fn clusters_from_before_know_their_replication() {
        let mut topology = topology();
        topology.map.replication = 0;
        assert_eq!(view(&topology).replication, 3);
    }
}
