//! The committed log, replayed: what each change found and left.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::verdict::{Findings, Witness},
    Commit,
};
use crate::history::{Call, Change, Key, Operation, Reply, Revision};

/// A key while the log is replayed.
#[derive(Clone, Copy, Default)]
struct State {
    value: Option<u64>,
    /// Puts since its creation; items, of a list.
    version: u64,
}

/// A change and what it found.
struct Step {
    change: Change,
    before: Option<u64>,
    /// Version, or place in the list, after it.
    version: u64,
}

/// The log by shard and revision.
pub(super) struct Replay<'a> {
    pub(super) commits: BTreeMap<(u32, Revision), &'a Commit>,
    /// Shards of which revisions are missing.
    pub(super) incomplete: BTreeSet<u32>,
    steps: BTreeMap<(u32, Revision), Vec<Step>>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(operations: &[Operation], log: &'a [Commit], findings: &mut Findings) -> Self {
        let mut commits: BTreeMap<(u32, Revision), &Commit> = BTreeMap::new();
        for commit in log.iter().filter(|commit| !commit.changes.is_empty()) {
            let other = *commits.entry((commit.shard, commit.revision)).or_insert(commit);
            if other != commit {
                let text = format!("{other:?} and {commit:?} are of one revision");
                findings.push(Witness::new("log", text));
            }
        }
        let mut incomplete = BTreeSet::new();
        let mut next: BTreeMap<u32, Revision> = BTreeMap::new();
        // Those that changed only what no workload makes are revisions too.
        let all: BTreeSet<_> = log.iter().map(|commit| (commit.shard, commit.revision)).collect();
        for (shard, revision) in &all {
            let expected = next.entry(*shard).or_insert(1);
            if revision != expected && incomplete.insert(*shard) {
                findings.unknown(format!("the log of shard {shard} lacks revision {expected}"));
            }
            *expected = revision + 1;
        }
        let mut replay = Self {
            commits,
            incomplete,
            steps: BTreeMap::new(),
        };
        replay.run(operations);
        replay
    }

    fn run(&mut self, operations: &[Operation]) {
        let lists: BTreeSet<Key> = operations
            .iter()
            .filter_map(|operation| match operation.call {
                Call::Append { list, .. } => Some(list),
                _ => None,
            })
            .collect();
        let mut keys: BTreeMap<Key, State> = BTreeMap::new();
        for (place, commit) in &self.commits {
            let steps = commit.changes.iter().map(|change| {
                let state = keys.entry(change.key).or_default();
                let before = state.value;
                let is_kept = before.is_some() || lists.contains(&change.key);
                state.value = change.value;
                state.version = match change.value {
                    Some(_) if is_kept => state.version + 1,
                    Some(_) => 1,
                    None => 0,
                };
                Step {
                    change: *change,
                    before,
                    version: state.version,
                }
            });
            self.steps.insert(*place, steps.collect());
        }
    }

    fn step(&self, place: (u32, Revision), key: Key) -> Option<&Step> {
        let steps = self.steps.get(&place)?;
        steps
            .iter()
            .find(|step| step.change.key == key && !step.change.expired)
    }

    /// The commit is what this call would have done.
    pub(super) fn explains(&self, place: (u32, Revision), call: &Call) -> bool {
        let step = |key: &Key| self.step(place, *key);
        let grew = |key: Key, by: i64| {
            self.step(place, key).is_some_and(|step| {
                let before = step.before.unwrap_or(0) as i64;
                step.change.value == Some(before.wrapping_add(by) as u64)
            })
        };
        match call {
            Call::Write { key, value, .. } | Call::Append { list: key, value } => {
                step(key).is_some_and(|step| step.change.value == Some(*value))
            }
            Call::Cas { key, from, to } => {
                step(key).is_some_and(|step| step.change.value == Some(*to) && step.before == Some(*from))
            }
            Call::Delete { key } => step(key).is_some_and(|step| step.change.value.is_none()),
            Call::Increment { key, delta } => grew(*key, *delta),
            Call::Transfer {
                partition,
                from,
                to,
                amount,
            } => {
                let key = |key: &u32| Key {
                    partition: *partition,
                    key: *key,
                };
                let amount = *amount as i64;
                grew(key(from), amount.wrapping_neg()) && grew(key(to), amount)
            }
            _ => false,
        }
    }

    /// What the call was told, or would have been.
    pub(super) fn reply(&self, place: (u32, Revision), call: &Call) -> Option<Reply> {
        let revision = place.1;
        Some(match call {
            Call::Write { key, .. } | Call::Cas { key, .. } => Reply::Written {
                revision,
                version: self.step(place, *key)?.version,
            },
            Call::Delete { .. } => Reply::Deleted {
                revision,
                existed: true,
            },
            Call::Increment { key, .. } => Reply::Number {
                revision,
                value: self.step(place, *key)?.change.value? as i64,
            },
            Call::Append { list, .. } => Reply::Appended {
                revision,
                seq: self.step(place, *list)?.version,
            },
            Call::Transfer { .. } => Reply::Written { revision, version: 0 },
            _ => return None,
        })
    }
}
