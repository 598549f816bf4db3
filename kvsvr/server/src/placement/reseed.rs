//! The replica of one shard on one node is destroyed, and copied anew from the others: for one that holds something else than they do.
//!
//! Its vote is taken, it is dropped, and the same node gets an empty one of a greater incarnation, in the steps of any change of a shard. What differs:
//! its vote counts for nothing, so it may be taken though one voter fewer answers then; and until the new one votes, nothing else moves. How
//! far it is, the row says: the replica votes and is to go, is no voter, or votes again. If the node is not to have replicas any more, another one
//! gets the new copy, as with every shard that lacks one.

use std::collections::BTreeSet;

use kvsvr_proto::count;

use super::{
    check::{known, name, no_leader},
    state::{Change, Node, OpKind, Operation, Real, ShardRow, View, majority},
};
use crate::limits::LEARNER_MAX_LAG;

/// The shard and the node of an operation that makes a replica anew, as long as it has not ended.
pub(super) fn under_way(view: &View) -> Option<(u32, u64)> {
    let operation = view.operation.filter(|op| !op.state.ended())?;
    of(operation)
}

fn of(operation: Operation) -> Option<(u32, u64)> {
    match operation.kind {
        OpKind::Reseed { shard, node } => Some((shard, node)),
        _ => None,
    }
}

/// The shard lacks a voter, or will: nothing is moved meanwhile for the sake of evenness.
pub(super) fn is_unfinished(view: &View) -> bool {
    under_way(view).is_some_and(|(shard, node)| {
        let row = view.rows.get(&shard);
        row.is_some_and(|row| row.change.is_some() || lacks_voter(view, row, node))
    })
}

/// Neither the node has a replica that votes again, nor others have enough.
fn lacks_voter(view: &View, row: &ShardRow, node: u64) -> bool {
    !row.replicas.contains(&node) && row.replicas.len() < view.wanted_voters(row)
}

/// The node that had the replica, if it may have the new one.
pub(super) fn home(view: &View, row: &ShardRow) -> Option<u64> {
    let (shard, node) = under_way(view)?;
    let is_free = row.id == shard && !row.replicas.contains(&node);
    (is_free && view.may_receive(node)).then_some(node)
}

/// The voter whose vote such an operation takes now.
pub(super) fn leaver(view: &View, row: &ShardRow) -> Option<u64> {
    let (shard, node) = under_way(view)?;
    let goes = row.change == Some(removal(node));
    (shard == row.id && goes).then_some(node)
}

/// The shard's row once the vote is taken. The meta shard keeps a replica on every node: it is to be another one.
pub(super) fn without_vote(view: &View, row: &ShardRow) -> ShardRow {
    let mut row = row.clone();
    if let Some(node) = leaver(view, &row).filter(|node| row.is_meta() && row.learners.contains(node)) {
        row.incarnations.insert(node, row.changes + 1);
    }
    row.change = None;
    row
}

/// Why the vote cannot be taken now: all others answer and have all entries, and are enough.
pub(super) fn vote_is_needed(view: &View, real: &Real, rest: &BTreeSet<u64>) -> Option<String> {
    let is_behind = |id: &&u64| {
        let progress = real.progress(**id);
        !progress.heard || !progress.caught_up
    };
    let behind = rest.iter().find(is_behind);
    let behind = behind.filter(|_| !kvsvr_core::mutant!("reseed-without-the-others"))?;
    Some(format!(
        "the replica of {} does not answer, or is behind: without the odd one all others are needed",
        view.name(*behind)
    ))
}

/// Why the operation has not ended though nothing can be begun.
pub(super) fn obstacle(view: &View) -> Option<String> {
    let (shard, node) = under_way(view)?;
    let row = view.rows.get(&shard).filter(|row| lacks_voter(view, row, node))?;
    Some(format!(
        "{}: neither {} nor another node can take its new replica now",
        name(row),
        view.name(node)
    ))
}

fn removal(node: u64) -> Change {
    Change {
        add: None,
        remove: Some(node),
    }
}

/// The row with which it begins.
pub(super) fn begun(view: &View, shard: u32, node: u64) -> Option<ShardRow> {
    Some(view.rows.get(&shard)?.begin(removal(node)))
}

/// The operation is taken back, and there is nothing to take back any more in this row: without its vote the replica is no use.
pub(super) fn goes_on(row: &ShardRow, operation: Operation) -> bool {
    of(operation).is_some_and(|(shard, node)| shard == row.id && !row.replicas.contains(&node))
}

/// Refuses what would leave too few good replicas, or cannot end.
pub(super) fn check(view: &View, shard: u32, node: u64) -> Result<(), String> {
    let Some(row) = view.rows.get(&shard) else {
        let last = view.rows.keys().next_back().copied().unwrap_or(0);
        return Err(format!(
            "there is no shard {shard}; shards are 0 (meta) to {last}"
        ));
    };
    let found = known(view, node)?;
    if !row.replicas.contains(&node) {
        return Err(format!(
            "node {node} has no replica of {} that votes; nodes {:?} have",
            name(row),
            row.replicas
        ));
    }
    if !found.reachable() {
        return Err(format!(
            "{} does not answer, so it could not take the new copy: start it first; if it does not start any more, replace it (kvctl member replace)",
            found.text()
        ));
    }
    no_leader(view)?;
    let rest: BTreeSet<u64> = row.replicas.iter().copied().filter(|id| *id != node).collect();
    if rest.len() < majority(row.replicas.len()) {
        return Err(format!(
            "{} has {}: without the one on node {node} there is no majority to copy from",
            name(row),
            count(row.replicas.len(), "voter")
        ));
    }
    let Some(real) = view.real.get(&shard) else {
        return Ok(());
    };
    let settled = row.change.is_none() && real.committed && real.configs == [row.voters()];
    if !settled || !row.is_meta() && !row.learners.is_empty() {
        return Err(format!(
            "{}: its members are being changed; wait for the end of that",
            name(row)
        ));
    }
    if kvsvr_core::mutant!("reseed-without-the-others") {
        return Ok(());
    }
    for other in rest {
        let progress = real.progress(other);
        if !view.nodes.get(&other).is_some_and(Node::reachable) || !progress.heard {
            return Err(format!(
                "{}: its replica on node {other} does not answer, and the copy needs all but that of node {node}. Bring node {other} back first",
                name(row)
            ));
        }
        // How late it is the leader knows from a few looks only, and the vote waits until it is not.
        if progress.lag_entries > LEARNER_MAX_LAG {
            return Err(format!(
                "{}: its replica on node {other} is {} behind, and the copy needs all but that of node {node}; try again when it has caught up",
                name(row),
                count(progress.lag_entries, "entry")
            ));
        }
    }
    Ok(())
}
