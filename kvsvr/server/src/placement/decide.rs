//! All that is to be done at one moment.

use std::collections::BTreeMap;

use super::{
    begin::begin,
    reseed,
    state::{Node, NodeState, OpKind, OpState, Operation, ShardRow, View, silent},
    step::{Step, begin_text, step},
};

/// A change of what the meta shard stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A shard's row.
    Row(ShardRow),
    /// A node's state.
    Node(u64, NodeState),
    /// Whether a node is to lead nothing.
    Evicted(u64, bool),
    /// Whether a node's disk is slow.
    Slow(u64, bool),
    /// A node's labels, all of them.
    Labels(u64, BTreeMap<String, String>),
    /// A new node.
    NewNode(Node),
    /// A new operation.
    NewOperation(Operation),
    /// The state of the operation under way.
    Operation(OpState),
}

/// Something that is done, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doing {
    /// What.
    pub text: String,
    /// What had to be waited for before: that is what takes time.
    pub after: After,
    /// What it is done to, if that is a shard.
    pub shard: Option<u32>,
    /// From then on the shard's state is copied to a node.
    pub begins_copy: bool,
}

/// What a step comes after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// Nothing but the step before.
    #[default]
    Nothing,
    /// A shard's state was copied to a node.
    Copy,
    /// A new node was sent the cluster's map.
    Join,
}

impl Doing {
    /// What nothing was waited for.
    pub(super) fn plain(text: String) -> Self {
        Self {
            text,
            after: After::Nothing,
            shard: None,
            begins_copy: false,
        }
    }

    fn of_shard(row: &ShardRow, text: String) -> Self {
        Self {
            shard: Some(row.id),
            ..Self::plain(format!("{}: {text}", shard_name(row)))
        }
    }
}

/// What is to be done. The writes are one transaction on the rows that the view was made of; steps of different shards are independent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// To be stored together.
    pub writes: Vec<Write>,
    /// To be asked of the shards' leaders.
    pub steps: Vec<(u32, Step)>,
    /// What the writes and steps are.
    pub doing: Vec<Doing>,
    /// What stands in the way, in words.
    pub waiting: Vec<String>,
}

impl Decision {
    /// There is nothing to do, and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.steps.is_empty() && self.waiting.is_empty()
    }
}

/// What is to be done now.
pub fn decide(view: &View) -> Decision {
    let mut decision = Decision::default();
    for row in view.rows.values() {
        let step = step(view, row);
        let doing = Doing {
            after: after(row, &step),
            begins_copy: matches!(step, Step::AddLearner { .. }) && !row.is_meta(),
            ..Doing::of_shard(row, step.text(view))
        };
        match step {
            Step::Settled => {}
            // Of interest only while something is to be done.
            Step::Wait(_) => decision.waiting.push(doing.text),
            Step::Row(row) => {
                decision.writes.push(Write::Row(row));
                decision.doing.push(doing);
            }
            step => {
                decision.steps.push((row.id, step));
                decision.doing.push(doing);
            }
        }
    }
    let running = view.operation.filter(|op| !op.state.ended());
    let Some(operation) = running else { return decision };
    if decision.writes.is_empty() {
        not_lost(view, operation, &mut decision);
    }
    if decision.writes.is_empty() {
        transitions(view, &mut decision);
    }
    if decision.writes.is_empty() {
        for row in begin(view) {
            if let Some(reason) = not_heard(view, &row) {
                decision.waiting.push(reason);
                continue;
            }
            let text = match (row.change, row.replicas.first()) {
                (Some(change), _) => begin_text(change),
                (None, Some(first)) => format!("prefer {} as its leader", view.name(*first)),
                (None, None) => continue,
            };
            decision.doing.push(Doing::of_shard(&row, text));
            decision.writes.push(Write::Row(row));
        }
    }
    if decision.is_empty() {
        match obstacle(view) {
            Some(reason) => decision.waiting.push(reason),
            None => {
                let ended = if operation.state == OpState::Aborting {
                    OpState::Aborted
                } else {
                    OpState::Done
                };
                let text = format!("{} is {}", operation.kind.text(), ended.name());
                decision.doing.push(Doing::plain(text));
                decision.writes.push(Write::Operation(ended));
            }
        }
    }
    decision
}

/// Who becomes a voter of a data shard had to be sent what the shard holds. The meta shard's copy is there before: every node has one.
fn after(row: &ShardRow, step: &Step) -> After {
    match (step, row.change.and_then(|change| change.add)) {
        (Step::ChangeVoters(_), Some(_)) if !row.is_meta() => After::Copy,
        _ => After::Nothing,
    }
}

fn shard_name(row: &ShardRow) -> String {
    if row.is_meta() {
        "meta shard".to_owned()
    } else {
        format!("shard {}", row.id)
    }
}

/// A node whose replicas are being made anew elsewhere answers again: that is not needed any more.
fn not_lost(view: &View, operation: Operation, decision: &mut Decision) {
    let OpKind::Repair(id) = operation.kind else {
        return;
    };
    let back = |n: &&Node| n.state == NodeState::Lost && n.reachable();
    let Some(node) = view.nodes.get(&id).filter(back) else {
        return;
    };
    decision.writes.push(Write::Node(id, NodeState::Up));
    let text = format!("{} answers again", node.text());
    decision.doing.push(Doing::plain(text));
    let changing = view.rows.values().filter(|row| row.change.is_some());
    decision.writes.extend(changing.map(|row| {
        Write::Row(ShardRow {
            change: None,
            ..row.clone()
        })
    }));
}

/// Nodes that have become, or ended, what they were to.
fn transitions(view: &View, decision: &mut Decision) {
    let Some(meta) = view.meta() else { return };
    let Some(real) = view.real.get(&meta.id) else {
        return;
    };
    for node in view.in_state(NodeState::Joining) {
        if real.learners.contains(&node.id) && real.progress(node.id).caught_up {
            decision.writes.push(Write::Node(node.id, NodeState::Up));
            decision.doing.push(Doing {
                after: After::Join,
                ..Doing::plain(format!("{} is a member", node.text()))
            });
        } else {
            decision
                .waiting
                .push(format!("{} joins and is sent the cluster's map", node.text()));
        }
    }
    // A vote that is being given counts already.
    let busy = meta.change.is_some() || !real.committed || real.configs != [meta.voters()];
    let gone = view.in_state(NodeState::Leaving).find(|node| {
        let hosts = view.data().any(|row| row.hosts().any(|id| id == node.id));
        !hosts && !busy && !meta.replicas.contains(&node.id)
    });
    if let Some(node) = gone {
        decision.writes.push(Write::Node(node.id, NodeState::Removed));
        decision.writes.push(Write::Row(meta.without_learner(node.id)));
        let text = format!("{} is not a member any more", node.text());
        decision.doing.push(Doing::plain(text));
    }
}

/// Who is to get a replica or a vote must be there at this moment: if it has just died, the change would wait for it, and others could have it.
fn not_heard(view: &View, row: &ShardRow) -> Option<String> {
    let node = row.change?.add.filter(|node| !view.is_heard(*node))?;
    Some(format!(
        "{}: {} does not answer now, and was to get a replica",
        shard_name(row),
        view.name(node)
    ))
}

/// Why the operation is not done though nothing can be begun.
fn obstacle(view: &View) -> Option<String> {
    if let Some(reason) = reseed::obstacle(view) {
        return Some(reason);
    }
    let leaving = |id: &u64| {
        let state = view.state(*id);
        matches!(state, NodeState::Draining | NodeState::Lost | NodeState::Leaving)
    };
    for row in view.data() {
        if let Some(node) = row.replicas.iter().find(|id| leaving(id)) {
            let others = view.in_state(NodeState::Up);
            let others = others.filter(|node| !row.hosts().any(|host| host == node.id));
            let missing = silent(others);
            return Some(format!(
                "{}: no node that answers can take the replica of {}{}{missing}",
                shard_name(row),
                view.name(*node),
                if missing.is_empty() { "" } else { ": " }
            ));
        }
    }
    if let Some(node) = view.in_state(NodeState::Joining).next() {
        return Some(format!("{} has not joined yet", node.text()));
    }
    let node = view.in_state(NodeState::Leaving).next()?;
    Some(format!(
        "no other node can have the vote of {} in the meta shard",
        node.text()
    ))
}
