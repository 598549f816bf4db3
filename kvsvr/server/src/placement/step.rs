//! The next step of one shard.

use std::collections::BTreeSet;

use kvsvr_proto::count;

use super::{
    reseed,
    state::{Change, NodeState, Progress, Real, ShardRow, View, majority},
};
use crate::limits::RETARGET_AFTER_MS;

/// What is to be done next with a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Store this row.
    Row(ShardRow),
    /// Make a node a member that does not vote.
    AddLearner {
        /// The node.
        node: u64,
        /// Of its replica.
        incarnation: u64,
    },
    /// Hand leadership to a node.
    MoveLeader(u64),
    /// Change the voters, through a joint configuration. Who does not vote any more stays as a learner.
    ChangeVoters(BTreeSet<u64>),
    /// End a joint configuration that another leader has left.
    FinishJoint(BTreeSet<u64>),
    /// Take out a member that does not vote.
    DropLearner(u64),
    /// Nothing now, for a reason.
    Wait(String),
    /// It is as it should be.
    Settled,
}

impl Step {
    /// In words; empty if there is nothing to tell.
    pub fn text(&self, view: &View) -> String {
        let ids = |set: &BTreeSet<u64>| set.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        match self {
            Step::Row(_) => "note it in the shard map".to_owned(),
            Step::AddLearner { node, .. } => format!("add {} as a learner", view.name(*node)),
            Step::MoveLeader(node) => format!("hand leadership to {}", view.name(*node)),
            Step::ChangeVoters(voters) => format!("change the voters to {}", ids(voters)),
            Step::FinishJoint(voters) => format!("finish the change of voters to {}", ids(voters)),
            Step::DropLearner(node) => format!("drop the replica of {}", view.name(*node)),
            Step::Wait(reason) => reason.clone(),
            Step::Settled => String::new(),
        }
    }
}

/// The beginning of a change, in words.
pub(super) fn begin_text(change: Change) -> String {
    match (change.add, change.remove) {
        (Some(add), Some(remove)) => format!("begin to move a replica from node {remove} to node {add}"),
        (Some(add), None) => format!("begin to add a voter, node {add}"),
        (None, Some(remove)) => format!("begin to take the vote from node {remove}"),
        (None, None) => String::new(),
    }
}

/// The next step of a shard. Never more than one change at a time, never fewer live voters than before, unless there are more than wanted,
/// or the one that goes is to be made anew ([`reseed`]).
pub(super) fn step(view: &View, row: &ShardRow) -> Step {
    let Some(real) = view.real.get(&row.id) else {
        return Step::Wait("its leader is not known".to_owned());
    };
    if !real.committed {
        return Step::Wait("a change of its members is being committed".to_owned());
    }
    let voters = match &real.configs[..] {
        [voters] => voters,
        [_, ..] if kvsvr_core::mutant!("joint-left-alone") => {
            return Step::Wait("a joint configuration".to_owned());
        }
        [.., target] => return Step::FinishJoint(target.clone()),
        [] => return Step::Wait("it has no members yet".to_owned()),
    };
    if row.voters() != *voters {
        return Step::Row(row.follow(voters, &real.learners));
    }
    // What is left of a step that came late: no such node has a replica, or not that one.
    let is_stray = |id: &&u64| !row.learners.contains(id) || !real.is_meant(row, **id);
    if let Some(stray) = real.learners.iter().find(is_stray) {
        return drop_learner(view, real, *stray);
    }
    let step = match row.change {
        Some(change) => change_step(view, row, real, voters, change),
        None => learners_step(view, row, real),
    };
    // Who is evicted leads rather than nobody: with no voter that may lead in its place there is nothing to wait for.
    let may_take_over = |id: &u64| *id != real.leader && !view.evicted(*id);
    if step == Step::Settled && view.evicted(real.leader) && voters.iter().any(may_take_over) {
        return hand_over(view, row, real, voters);
    }
    step
}

/// A row is not what its group is, or something is left over in a group, so that there is work without an operation. No change of members leaves
/// that when it ends; a recovery of the quorum does.
pub fn differs(view: &View) -> bool {
    view.rows.values().any(|row| {
        let step = step(view, row);
        matches!(
            step,
            Step::Row(_) | Step::AddLearner { .. } | Step::DropLearner(_) | Step::FinishJoint(_)
        )
    })
}

/// Learners without a change: the meta shard keeps them, others do not.
fn learners_step(view: &View, row: &ShardRow, real: &Real) -> Step {
    for node in row.learners.iter().copied() {
        let member = real.learners.contains(&node);
        match (row.is_meta(), member) {
            (true, true) => {}
            (true, false) => {
                return Step::AddLearner {
                    node,
                    incarnation: row.incarnation(node),
                };
            }
            (false, true) => return drop_learner(view, real, node),
            (false, false) => return Step::Row(row.without_learner(node)),
        }
    }
    Step::Settled
}

fn change_step(view: &View, row: &ShardRow, real: &Real, voters: &BTreeSet<u64>, change: Change) -> Step {
    let adding = change.add.filter(|id| !voters.contains(id));
    let removing = change.remove.filter(|id| voters.contains(id));
    // So many voters were too many when this was begun, and are not any more.
    let leaver = reseed::leaver(view, row);
    let needed = adding.is_none() && voters.len() <= view.wanted_voters(row) && leaver.is_none();
    if adding.is_none() && removing.is_none() || needed || given_up(view, row, adding) {
        // What is left over goes as without a change.
        return Step::Row(reseed::without_vote(view, row));
    }
    if adding.is_some()
        && removing.is_some_and(|id| id != real.leader)
        && kvsvr_core::mutant!("replace-removes-first")
    {
        let rest = voters.iter().copied().filter(|id| Some(*id) != removing);
        return Step::ChangeVoters(rest.collect());
    }
    if let Some(node) = adding {
        if !real.learners.contains(&node) {
            let incarnation = row.incarnation(node);
            return Step::AddLearner { node, incarnation };
        }
        let progress = real.progress(node);
        if !progress.caught_up {
            return Step::Wait(catching_up(view, node, progress));
        }
    }
    let mut next = voters.clone();
    next.extend(adding);
    if let Some(node) = removing {
        next.remove(&node);
        if real.leader == node && voters.len() == 1 {
            // There is nobody to hand over to before there are two.
            next.insert(node);
        } else if real.leader == node {
            return hand_over(view, row, real, &next);
        }
    }
    if leaver.is_some() {
        return match reseed::vote_is_needed(view, real, &next) {
            Some(reason) => Step::Wait(reason),
            None => Step::ChangeVoters(next),
        };
    }
    let (before, after) = (real.live(voters), real.live(&next));
    if after < before.min(view.wanted_voters(row)) || after < majority(next.len()) {
        return Step::Wait(format!(
            "{after} of the {} voters after the change answer, now it is {before} of {}; the others must come back first",
            next.len(),
            voters.len()
        ));
    }
    Step::ChangeVoters(next)
}

/// Who is to be added should not get it any more.
fn given_up(view: &View, row: &ShardRow, adding: Option<u64>) -> bool {
    let Some(node) = adding else { return false };
    let silent = view.nodes.get(&node).and_then(|n| n.silent_ms);
    let state = view.state(node);
    // The vote of the meta shard may go to a node that drains.
    let able = state == NodeState::Up || row.is_meta() && state == NodeState::Draining;
    !able || silent.is_some_and(|ms| ms >= RETARGET_AFTER_MS)
}

fn catching_up(view: &View, node: u64, progress: Progress) -> String {
    if !view.nodes.get(&node).is_some_and(super::Node::reachable) {
        return format!(
            "{} does not answer; when it has been silent for {} s another node takes its place, if there is one",
            view.name(node),
            RETARGET_AFTER_MS / 1000
        );
    }
    let time = match progress.lag_ms {
        Some(ms) => format!(" and {:.1} s", ms as f64 / 1000.0),
        None => String::new(),
    };
    format!(
        "{} catches up, {}{time} behind",
        view.name(node),
        count(progress.lag_entries, "entry")
    )
}

fn hand_over(view: &View, row: &ShardRow, real: &Real, next: &BTreeSet<u64>) -> Step {
    // Who is evicted leads only rather than nobody. Who is to vote after this step cannot lead before it.
    let others = row
        .replicas
        .iter()
        .filter(|id| **id != real.leader && next.contains(*id));
    let only_evicted = others.copied().all(|id| view.evicted(id));
    let able = |id: &&u64| {
        let progress = real.progress(**id);
        let wanted = **id != real.leader && (only_evicted || !view.evicted(**id));
        wanted && next.contains(*id) && progress.heard && progress.caught_up
    };
    match row.replicas.iter().find(able) {
        Some(to) => Step::MoveLeader(*to),
        None => Step::Wait(format!(
            "{} leads, and no other voter is caught up to take over",
            view.name(real.leader)
        )),
    }
}

/// A learner hears of its end before it is dropped, if it hears anything, and is not stuck.
fn drop_learner(view: &View, real: &Real, node: u64) -> Step {
    let progress = real.progress(node);
    let sick = progress.lag_ms.is_some_and(|ms| ms >= RETARGET_AFTER_MS);
    if progress.heard
        && !progress.caught_up
        && !sick
        && view.nodes.get(&node).is_some_and(super::Node::reachable)
    {
        return Step::Wait(format!("{} is told that its replica ends", view.name(node)));
    }
    Step::DropLearner(node)
}
