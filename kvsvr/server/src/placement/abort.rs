//! Taking an operation back: what is stored then, or why it is refused.

use std::collections::BTreeSet;

use super::{
    decide::Write,
    reseed,
    state::{NodeState, OpKind, OpState, Operation, ShardRow, View},
};

/// Refuses what cannot be taken back.
pub(super) fn check(view: &View, id: u64) -> Result<(), String> {
    let Some(op) = view.operation.filter(|op| op.id == id) else {
        return Err(format!("there is no operation {id} that could be aborted"));
    };
    let gone = match op.kind {
        OpKind::Remove(node) | OpKind::Replace(node, _) => view.state(node) == NodeState::Removed,
        _ => false,
    };
    match op.state {
        OpState::Running if gone => Err(format!(
            "operation {id} ({}) cannot be aborted any more: the node is removed already",
            op.kind.text()
        )),
        OpState::Running | OpState::Aborting => Ok(()),
        state => Err(format!("operation {id} is {} already", state.name())),
    }
}

/// Nodes become what they were, and what is under way is given up. What has been moved already is moved again as the then wanted placement asks.
/// Asked again, it ends where it stands: what is left to move may need a node that only another operation can bring.
pub(super) fn take_back(view: &View) -> Vec<Write> {
    let Some(op) = view.operation else {
        return Vec::new();
    };
    let mut writes = if op.state == OpState::Aborting {
        leave_as_it_is(view, op.kind)
    } else {
        undo(op)
    };
    let ends = writes.contains(&Write::Operation(OpState::Aborted));
    let stays = |row: &ShardRow| {
        op.state == OpState::Running && reseed::goes_on(row, op) || ends && has_surplus(view, row)
    };
    let changing = view
        .rows
        .values()
        .filter(|row| row.change.is_some() && !stays(row));
    writes.extend(changing.map(|row| {
        Write::Row(ShardRow {
            change: None,
            ..row.clone()
        })
    }));
    writes
}

/// A lone voter that moves is two for a while. That goes on to its end: once nothing is under way nobody takes the second one away.
fn has_surplus(view: &View, row: &ShardRow) -> bool {
    let real = view.real.get(&row.id);
    let votes = real.into_iter().flat_map(|real| &real.configs).map(BTreeSet::len);
    let most = votes.chain([row.replicas.len()]).max();
    !row.is_meta() && most > Some(view.replication)
}

/// The nodes become what they were.
fn undo(op: Operation) -> Vec<Write> {
    let mut writes = vec![Write::Operation(OpState::Aborting)];
    writes.extend(match op.kind {
        OpKind::Add(node) => vec![Write::Node(node, NodeState::Leaving)],
        OpKind::Drain(node)
        | OpKind::Undrain(node)
        | OpKind::Remove(node)
        | OpKind::Repair(node)
        | OpKind::Return(node) => vec![Write::Node(node, op.was)],
        OpKind::Replace(old, new) => vec![Write::Node(old, op.was), Write::Node(new, NodeState::Leaving)],
        OpKind::Evict(node) => vec![Write::Evicted(node, false)],
        OpKind::Restore(node) => vec![Write::Evicted(node, true)],
        OpKind::Slow(node) => vec![Write::Slow(node, false)],
        OpKind::Quick(node) => vec![Write::Slow(node, true)],
        // The labels stay: they are what the operator says of the machine, and wanted for the rest.
        OpKind::Label(_) => vec![Write::Operation(OpState::Aborted)],
        OpKind::Reseed { .. } => Vec::new(),
    });
    writes
}

/// A new node that votes already is a member: nobody may be able to take what it has, and a node on its way out could not be asked to stay.
fn leave_as_it_is(view: &View, kind: OpKind) -> Vec<Write> {
    let mut writes = vec![Write::Operation(OpState::Aborted)];
    if let OpKind::Add(node) | OpKind::Replace(_, node) = kind
        && view.rows.values().any(|row| row.replicas.contains(&node))
    {
        writes.push(Write::Node(node, NodeState::Up));
    }
    writes
}
