//! Unknown outcomes resolved from the committed log, and the history held against that log.
//!
//! The idea is that of etcd's robustness tests (`tests/robustness/validate/patch_history.go`): a checker is fast and sharp when it knows what
//! became of every operation. Whoever holds the logs of all nodes merges them after the run, when nothing can be committed any more, and
//! replays them into [`Commit`]s.
//!
//! [`resolve`] turns an operation of unknown outcome into a failed one if the log has no such change, and into an acknowledged one if it has,
//! which returned when the revision, or a later one, was first told to anybody. Operations that do the same are taken in the order of their
//! invocation: if any assignment explains the history, that one does, since an earlier invocation allows more. Operations keep their
//! [`id`](crate::history::Operation::id)s. Sends and receptions stay unknown, because the log does not name them, and so do different
//! operations that write one value.
//!
//! Rules:
//! - **log**: one revision is one change, the same wherever it stands.
//! - **lost**: every acknowledged change is in the log as it was acknowledged.
//! - **phantom**: every change in the log, expiry left out, was asked for, before anybody was told of it. Keys that no operation of the
//!   history changes are not looked at.

mod patch;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::{patch::Patch, replay::Replay};
use super::{
    Context, History, facts,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, Change, End, Event, Key, Operation, Reply, Revision};

/// A command of the committed log that changed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The shard.
    pub shard: u32,
    /// The log entry's index.
    pub index: u64,
    /// The shard's revision after it.
    pub revision: Revision,
    /// What it changed, each with this revision.
    pub changes: Vec<Change>,
}

/// A history with its unknown outcomes resolved.
#[derive(Debug)]
pub struct Resolved {
    /// The history, with other ends where they are known now. Places differ from those of the history before.
    pub events: Vec<Event>,
    /// What the log says about the history.
    pub verdict: Verdict,
}

/// Resolves unknown outcomes. The log must have every change of every shard from revision 1 on; a shard of which one is missing is
/// unknown, and left as it is.
pub fn resolve(events: &[Event], log: &[Commit], context: &Context<'_>) -> Resolved {
    let mut findings = Findings::default();
    let history = History::new(events);
    let replay = Replay::new(&history.operations, log, &mut findings);
    findings.count("commits", replay.commits.len() as u64);
    let mut unclaimed: BTreeSet<(u32, Revision)> = replay.commits.keys().copied().collect();
    for operation in &history.operations {
        if let End::Ok(_, reply) = &operation.end {
            acknowledged(operation, reply, &replay, context, &mut unclaimed, &mut findings);
        }
    }
    let mut patch = Patch::new(&history, context);
    for class in classes(&history.operations, context).values() {
        let Some(first) = class.first() else { continue };
        let shard = facts::partition(&first.call)
            .map(context.shard_of)
            .unwrap_or_default();
        if replay.incomplete.contains(&shard) {
            continue;
        }
        let matching: Vec<Revision> = unclaimed
            .range((shard, 0)..=(shard, Revision::MAX))
            .filter(|place| replay.explains(**place, &first.call))
            .map(|(_, revision)| *revision)
            .collect();
        if !matching.is_empty() && class.iter().any(|operation| operation.call != first.call) {
            for revision in matching {
                unclaimed.remove(&(shard, revision));
            }
            continue;
        }
        let mut committed = matching.into_iter();
        for operation in class {
            match committed.next() {
                None => patch.fail(operation),
                Some(revision) => {
                    unclaimed.remove(&(shard, revision));
                    findings.count("resolved", 1);
                    if let Some(reply) = replay.reply((shard, revision), &operation.call) {
                        patch.succeed(operation, shard, revision, reply, &mut findings);
                    }
                }
            }
        }
    }
    phantoms(&unclaimed, &replay, &history.operations, context, &mut findings);
    Resolved {
        events: patch.events(),
        verdict: findings.verdict(),
    }
}

/// An acknowledged change must be in the log.
fn acknowledged(
    operation: &Operation,
    reply: &Reply,
    replay: &Replay<'_>,
    context: &Context<'_>,
    unclaimed: &mut BTreeSet<(u32, Revision)>,
    findings: &mut Findings,
) {
    let Some((revision, changed)) = facts::changes(operation, reply) else {
        return;
    };
    let Some(first) = changed.first() else { return };
    let place = (context.shard(first.key), revision);
    unclaimed.remove(&place);
    if replay.incomplete.contains(&place.0) {
        return;
    }
    findings.count("acknowledged", 1);
    let commit = replay.commits.get(&place);
    let is_there = commit.is_some_and(|commit| {
        changed.iter().all(|fact| {
            let change = commit.changes.iter().find(|change| change.key == fact.key);
            change.is_some_and(|change| fact.is_shown_by(change, &operation.call))
        })
    });
    if !is_there {
        let found = commit.map_or("nothing".to_owned(), |commit| format!("{:?}", commit.changes));
        let text = format!(
            "{} was acknowledged, but shard {} has {found} at revision {revision}",
            describe(operation),
            place.0
        );
        findings.push(Witness::new("lost", text).operations([operation.id]));
    }
}

/// What makes operations of unknown outcome look the same in the log.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Value(Key, u64),
    Gone(Key),
    Added(Key, i64),
    Moved(Key, Key, u64),
}

fn class_of(call: &Call) -> Option<Class> {
    Some(match call {
        Call::Delete { key } => Class::Gone(*key),
        Call::Increment { key, delta } => Class::Added(*key, *delta),
        Call::Transfer { amount, .. } => match facts::changed_keys(call)[..] {
            [from, to] => Class::Moved(from, to, *amount),
            _ => return None,
        },
        call => {
            let (key, value) = facts::written_value(call)?;
            Class::Value(key, value)
        }
    })
}

fn classes<'a>(
    operations: &'a [Operation],
    context: &Context<'_>,
) -> BTreeMap<(u32, Class), Vec<&'a Operation>> {
    let mut classes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for operation in operations {
        if operation.end == End::Unknown
            && let Some(class) = class_of(&operation.call)
            && let Some(partition) = facts::partition(&operation.call)
        {
            let shard = (context.shard_of)(partition);
            classes.entry((shard, class)).or_default().push(operation);
        }
    }
    classes
}

fn phantoms(
    unclaimed: &BTreeSet<(u32, Revision)>,
    replay: &Replay<'_>,
    operations: &[Operation],
    context: &Context<'_>,
    findings: &mut Findings,
) {
    let mut changed: BTreeSet<Key> = BTreeSet::new();
    let mut unresolved: BTreeSet<Key> = context.accounts.keys().copied().collect();
    for operation in operations {
        let keys = facts::changed_keys(&operation.call);
        changed.extend(&keys);
        if operation.end == End::Unknown && class_of(&operation.call).is_none() {
            unresolved.extend(keys);
        }
    }
    for place in unclaimed
        .iter()
        .filter(|(shard, _)| !replay.incomplete.contains(shard))
    {
        let Some(commit) = replay.commits.get(place) else {
            continue;
        };
        let is_asked_for = |change: &Change| {
            change.expired || unresolved.contains(&change.key) || !changed.contains(&change.key)
        };
        if !commit.changes.iter().all(is_asked_for) {
            let text = format!("shard {}: nobody asked for {:?}", place.0, commit.changes);
            findings.push(Witness::new("phantom", text));
        }
    }
}
