//! What an operator may ask for, or why not; and how it begins.

use std::collections::BTreeMap;

use kvsvr_proto::count;

use super::{
    abort,
    decide::Write,
    reseed,
    state::{Node, NodeState, OpKind, OpState, Operation, Pace, ShardRow, View, silent},
};
use crate::limits::{MAX_LABEL_BYTES, MAX_LABELS};

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Take a node into the cluster.
    Add {
        /// HOST:PORT.
        address: String,
        /// Its data directory.
        store_id: String,
    },
    /// Take all data off a node.
    Drain(u64),
    /// Let a node have data again.
    Undrain(u64),
    /// Take a node out for good.
    Remove(u64),
    /// Let a new node take the place of another one for good.
    Replace {
        /// Who goes.
        old: u64,
        /// HOST:PORT of who comes.
        address: String,
        /// Its data directory.
        store_id: String,
    },
    /// Let a node lead nothing.
    Evict(u64),
    /// Let a node lead again.
    Restore(u64),
    /// Give a node these labels, and no others.
    Label(u64, BTreeMap<String, String>),
    /// Make anew what a node had that was silent for too long.
    Repair(u64),
    /// Take that node back.
    Return(u64),
    /// Let a node lead nothing, for its disk is slow.
    Slow(u64),
    /// Let that node lead again.
    Quick(u64),
    /// Destroy the replica of a shard on a node, and copy it anew from the others.
    Reseed {
        /// The shard.
        shard: u32,
        /// The node.
        node: u64,
    },
    /// Take the operation of this number back.
    Abort(u64),
}

/// What is to be stored so that a request is carried out; or why it is refused. `operation`: the number of a new operation.
pub fn admit(view: &View, request: &Request, operation: u64) -> Result<Vec<Write>, String> {
    check(view, request)?;
    let Some((kind, mut writes)) = begun(view, request) else {
        return Ok(abort::take_back(view));
    };
    writes.push(Write::NewOperation(Operation {
        id: operation,
        kind,
        was: was(view, kind),
        state: OpState::Running,
    }));
    Ok(writes)
}

/// The operation that a request is for, and what is stored with it. `None`: it is about the one that runs.
fn begun(view: &View, request: &Request) -> Option<(OpKind, Vec<Write>)> {
    let state = |node: &u64, state| Write::Node(*node, state);
    let (kind, write) = match request {
        Request::Add { address, store_id } => {
            let node = new_node(view, address, store_id);
            return Some((OpKind::Add(node.id), enter(view, node)));
        }
        Request::Replace {
            old,
            address,
            store_id,
        } => {
            let node = new_node(view, address, store_id);
            let kind = OpKind::Replace(*old, node.id);
            let mut writes = enter(view, node);
            writes.push(state(old, NodeState::Leaving));
            return Some((kind, writes));
        }
        Request::Reseed { shard, node } => {
            let (shard, node) = (*shard, *node);
            let row = reseed::begun(view, shard, node).map(Write::Row);
            return Some((OpKind::Reseed { shard, node }, row.into_iter().collect()));
        }
        Request::Drain(node) => (OpKind::Drain(*node), state(node, NodeState::Draining)),
        Request::Undrain(node) => (OpKind::Undrain(*node), state(node, NodeState::Up)),
        Request::Remove(node) => (OpKind::Remove(*node), state(node, NodeState::Leaving)),
        Request::Evict(node) => (OpKind::Evict(*node), Write::Evicted(*node, true)),
        Request::Restore(node) => (OpKind::Restore(*node), Write::Evicted(*node, false)),
        Request::Label(node, labels) => (OpKind::Label(*node), Write::Labels(*node, labels.clone())),
        Request::Repair(node) => (OpKind::Repair(*node), state(node, NodeState::Lost)),
        Request::Return(node) => (OpKind::Return(*node), state(node, NodeState::Up)),
        Request::Slow(node) => (OpKind::Slow(*node), Write::Slow(*node, true)),
        Request::Quick(node) => (OpKind::Quick(*node), Write::Slow(*node, false)),
        Request::Abort(_) => return None,
    };
    Some((kind, vec![write]))
}

fn new_node(view: &View, address: &str, store_id: &str) -> Node {
    // Ids of nodes that were removed are not used again.
    let id = view.nodes.keys().next_back().map_or(1, |last| last + 1);
    Node {
        id,
        address: address.to_owned(),
        store_id: store_id.to_owned(),
        state: NodeState::Joining,
        evicted: false,
        slow: false,
        labels: BTreeMap::new(),
        silent_ms: None,
        pace: Pace::Unknown,
    }
}

/// What the node that an operation is about is before it.
fn was(view: &View, kind: OpKind) -> NodeState {
    match kind {
        OpKind::Add(_) => NodeState::Joining,
        OpKind::Drain(node)
        | OpKind::Undrain(node)
        | OpKind::Remove(node)
        | OpKind::Replace(node, _)
        | OpKind::Evict(node)
        | OpKind::Restore(node)
        | OpKind::Label(node)
        | OpKind::Repair(node)
        | OpKind::Return(node)
        | OpKind::Slow(node)
        | OpKind::Quick(node)
        | OpKind::Reseed { node, .. } => view.state(node),
    }
}

/// A new node is a learner of the meta shard from the beginning.
fn enter(view: &View, node: Node) -> Vec<Write> {
    let row = view.meta().map(|meta| {
        let mut row = meta.clone();
        row.learners.push(node.id);
        Write::Row(row)
    });
    row.into_iter().chain([Write::NewNode(node)]).collect()
}

/// Refuses what is unsafe, cannot end, or makes no sense, with the reason.
pub fn check(view: &View, request: &Request) -> Result<(), String> {
    if let Request::Abort(id) = request {
        return abort::check(view, *id);
    }
    if let Some(op) = view.operation.filter(|op| !op.state.ended()) {
        return Err(format!(
            "operation {} ({}) is {}; there is one at a time: wait for its end, or abort it",
            op.id,
            op.kind.text(),
            op.state.name()
        ));
    }
    match request {
        Request::Add { address, store_id } => newcomer(view, address, store_id, None),
        Request::Drain(node) => leave(view, *node, NodeState::Draining),
        Request::Remove(node) => leave(view, *node, NodeState::Leaving),
        Request::Undrain(node) => match known(view, *node)?.state {
            NodeState::Draining => Ok(()),
            NodeState::Lost => Err(format!(
                "node {node} was lost; it is taken back by itself when it answers"
            )),
            state => Err(format!("node {node} is {}, not draining", state.name())),
        },
        Request::Repair(node) => match known(view, *node)?.state {
            NodeState::Up => leave(view, *node, NodeState::Lost),
            state => Err(format!("node {node} is {}", state.name())),
        },
        Request::Return(node) => match known(view, *node)? {
            Node {
                state: NodeState::Lost,
                silent_ms: None,
                ..
            } => no_leader(view),
            _ => Err(format!("node {node} was not lost, or does not answer yet")),
        },
        Request::Replace {
            old,
            address,
            store_id,
        } => {
            let node = known(view, *old)?;
            newcomer(view, address, store_id, Some(*old))?;
            others_up(view, node)
        }
        Request::Evict(node) => evict(view, *node),
        Request::Restore(node) if known(view, *node)?.evicted => no_leader(view),
        Request::Restore(node) if known(view, *node)?.slow => Err(format!(
            "the disk of node {node} is slow: it leads again by itself when that is over, or after kvctl config set slow-disk off"
        )),
        Request::Restore(node) => Err(format!("node {node} may lead already")),
        Request::Label(node, labels) => label(known(view, *node)?, labels),
        Request::Slow(node) => match known(view, *node)? {
            Node { slow: true, .. } => Err(format!("node {node} is slow already")),
            Node { evicted: true, .. } => no_leader(view),
            _ => lead_elsewhere(view, *node),
        },
        Request::Quick(node) if known(view, *node)?.slow => no_leader(view),
        Request::Quick(node) => Err(format!("the disk of node {node} is not slow")),
        Request::Reseed { shard, node } => reseed::check(view, *shard, *node),
        Request::Abort(_) => Ok(()),
    }
}

/// What the cluster asks for by itself now: what a node had that was silent for too long is made anew elsewhere, and the node is taken back when
/// it answers; a node whose disk is slow leads nothing until that is over. Not against an operator, who has taken that back.
pub fn by_itself(view: &View) -> Option<Request> {
    let operation = view.operation;
    if operation.is_some_and(|op| !op.state.ended()) {
        return None;
    }
    let taken_back = |kind| operation.is_some_and(|op| op.kind == kind && op.state == OpState::Aborted);
    let back = |node: &&Node| node.reachable() && !taken_back(OpKind::Return(node.id));
    if let Some(node) = view.in_state(NodeState::Lost).find(back) {
        return Some(Request::Return(node.id));
    }
    lost(view, &taken_back).or_else(|| pace(view, &taken_back))
}

fn lost(view: &View, taken_back: &dyn Fn(OpKind) -> bool) -> Option<Request> {
    let after = view.repair_after_ms?;
    let lost = |node: &&Node| {
        let has_some = view.data().any(|row| row.replicas.contains(&node.id));
        has_some && !taken_back(OpKind::Repair(node.id)) && node.silent_ms.is_some_and(|ms| ms >= after)
    };
    let lost = view.in_state(NodeState::Up).filter(lost);
    lost.map(|node| Request::Repair(node.id))
        .find(|request| check(view, request).is_ok())
}

/// Disks that have become slow or quick. If those of half of the nodes are slow it is not the disks, and nobody would lead better.
fn pace(view: &View, taken_back: &dyn Fn(OpKind) -> bool) -> Option<Request> {
    let quick = |node: &&Node| node.slow && node.pace == Pace::Quick && !taken_back(OpKind::Quick(node.id));
    if let Some(node) = members(view).find(quick) {
        return Some(Request::Quick(node.id));
    }
    let up = || view.in_state(NodeState::Up).filter(|node| node.reachable());
    let slow = |node: &&Node| node.slow || node.pace == Pace::Slow;
    if up().filter(slow).count() * 2 >= up().count() {
        return None;
    }
    let new = up().filter(|node| !node.slow && node.pace == Pace::Slow && !taken_back(OpKind::Slow(node.id)));
    new.map(|node| Request::Slow(node.id))
        .find(|request| check(view, request).is_ok())
}

fn evict(view: &View, node: u64) -> Result<(), String> {
    if known(view, node)?.evicted {
        return Err(format!("node {node} is evicted already"));
    }
    lead_elsewhere(view, node)
}

/// Others can lead what a node leads.
fn lead_elsewhere(view: &View, node: u64) -> Result<(), String> {
    no_leader(view)?;
    let able = |id: u64| id != node && view.may_lead(id) && view.nodes.get(&id).is_some_and(Node::reachable);
    let stuck = |row: &&ShardRow| row.replicas.contains(&node) && !row.replicas.iter().any(|id| able(*id));
    match view.rows.values().find(stuck) {
        Some(row) => Err(format!(
            "{}: no other node could lead it; its replicas are on {:?}",
            name(row),
            row.replicas
        )),
        None => Ok(()),
    }
}

fn label(node: &Node, labels: &BTreeMap<String, String>) -> Result<(), String> {
    let is_good = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        !text.is_empty() && text.len() <= MAX_LABEL_BYTES && text.chars().all(plain)
    };
    if let Some((key, value)) = labels.iter().find(|(k, v)| !is_good(k) || !is_good(v)) {
        return Err(format!(
            "the label {key}={value} is not possible: name and value have 1 to {MAX_LABEL_BYTES} letters, digits, or - _ . /"
        ));
    }
    if labels.len() > MAX_LABELS {
        return Err(format!("a node has at most {MAX_LABELS} labels"));
    }
    if *labels == node.labels {
        return Err(format!("node {} has these labels already", node.id));
    }
    Ok(())
}

pub(super) fn known(view: &View, node: u64) -> Result<&Node, String> {
    match view.nodes.get(&node) {
        Some(found) if found.state == NodeState::Removed => Err(format!("node {node} was removed before")),
        Some(found) => Ok(found),
        None => {
            let ids: Vec<String> = members(view).map(|n| n.id.to_string()).collect();
            Err(format!("there is no node {node}; nodes are {}", ids.join(", ")))
        }
    }
}

fn members(view: &View) -> impl Iterator<Item = &Node> {
    view.nodes.values().filter(|n| n.state != NodeState::Removed)
}

/// A node that was never here, at an address that is free.
fn newcomer(view: &View, address: &str, store_id: &str, instead_of: Option<u64>) -> Result<(), String> {
    if let Some(node) = view.nodes.values().find(|n| n.store_id == store_id) {
        let was = if node.state == NodeState::Removed {
            "was"
        } else {
            "is"
        };
        return Err(format!(
            "the node at {address} has store {store_id}, which {was} node {} of this cluster; a store is used once: start the new node with an empty \
             data directory",
            node.id
        ));
    }
    if let Some(node) = members(view).find(|n| n.address == address && Some(n.id) != instead_of) {
        return Err(format!(
            "{address} is the address of node {}; if that node has lost its data directory, replace it: kvctl member replace {} {address}",
            node.id, node.id
        ));
    }
    no_leader(view)
}

/// A node that gives its replicas to others.
fn leave(view: &View, node: u64, to: NodeState) -> Result<(), String> {
    let leaving = known(view, node)?;
    if leaving.state == to {
        return Err(format!("node {node} is {} already", to.name()));
    }
    let left: Vec<&Node> = view.in_state(NodeState::Up).filter(|n| n.id != node).collect();
    let up = left.iter().filter(|n| n.reachable()).count();
    if left.len() < view.replication.max(1) {
        return Err(format!(
            "each shard is to have {}, and without node {node} there are {} for them: add a node first (kvctl member add), or give its place to a new \
             one (kvctl member replace)",
            count(view.replication, "replica"),
            count(left.len(), "node")
        ));
    }
    others_up(view, leaving)?;
    let needed = view.data().any(|row| row.replicas.contains(&node));
    if needed && up < view.replication {
        return Err(format!(
            "each shard is to have {}, and of the {} that are left {}. Bring back what does not answer first",
            count(view.replication, "replica"),
            count(left.len(), "node"),
            silent(left)
        ));
    }
    Ok(())
}

/// No replica of a shard may go while another one is down.
fn others_up(view: &View, leaving: &Node) -> Result<(), String> {
    no_leader(view)?;
    for row in view
        .rows
        .values()
        .filter(|row| row.replicas.contains(&leaving.id))
    {
        let others = row.replicas.iter().filter(|id| **id != leaving.id);
        let down: Vec<u64> = others
            .copied()
            .filter(|id| !view.nodes.get(id).is_some_and(Node::reachable))
            .collect();
        if let Some(other) = down.first() {
            let n = row.replicas.len();
            return Err(format!(
                "{}: its replica on node {other} does not answer; without that of node {} too, {} of {n} would be left. Bring node {other} back first",
                name(row),
                leaving.id,
                n - 1 - down.len()
            ));
        }
    }
    Ok(())
}

pub(super) fn no_leader(view: &View) -> Result<(), String> {
    match view.rows.values().find(|row| !view.real.contains_key(&row.id)) {
        Some(row) => Err(format!(
            "{} has no leader that answers: nothing is changed in this state",
            name(row)
        )),
        None => Ok(()),
    }
}

pub(super) fn name(row: &ShardRow) -> String {
    if row.is_meta() {
        "the meta shard".to_owned()
    } else {
        format!("shard {}", row.id)
    }
}
