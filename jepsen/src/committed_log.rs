//! A shard's committed log as the checker [`committed`](crate::check::committed) takes it: a replica that is not part of the cluster, which
//! applies what is committed, entry by entry, and keeps every change.
//!
//! It runs the product's state machine on an engine in memory: it shows what the log says, not that the state machine is right; that is
//! what the other checkers are for. Where the entries come from is the caller's affair.

use std::{collections::BTreeMap, fmt};

use kvsvr_client::Partition;
use kvsvr_core::{
    engine::Engine as _,
    event::EventKind,
    machine::{Entry, Machine},
    mem::MemEngine,
    types::ShardId,
};

use crate::{
    check::Commit,
    history::Change,
    workload::names::{self, Raw},
};

/// The log of one data shard.
pub struct CommittedLog {
    shard: ShardId,
    machine: Machine,
    engine: MemEngine,
    next: u64,
    commits: Vec<Commit>,
    broken: bool,
}

impl CommittedLog {
    /// Empty. `None` if the state machine has no such state, which does not happen.
    pub fn new(shard: ShardId) -> Option<Self> {
        let engine = MemEngine::new();
        let machine = Machine::load(shard, &engine).ok()?;
        Some(Self {
            shard,
            machine,
            engine,
            next: 0,
            commits: Vec::new(),
            broken: false,
        })
    }

    /// Index of the entry that is wanted; `None` after one that could not be applied.
    pub fn next(&self) -> Option<u64> {
        (!self.broken).then_some(self.next)
    }

    /// How many entries were applied: the index of the first that is not known.
    pub fn applied(&self) -> u64 {
        self.next
    }

    /// The changes of all entries so far.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// Applies entries, of which the first is the one that is wanted. The log must not be asked for more if one cannot be applied.
    pub fn apply(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            if self.broken {
                return;
            }
            self.broken = entry.position.index != self.next || !self.apply_one(entry);
        }
    }

    fn apply_one(&mut self, entry: Entry) -> bool {
        let index = entry.position.index;
        let Ok(applied) = self.machine.apply(&self.engine, &[entry]) else {
            return false;
        };
        if self.engine.write(applied.batch).is_err() {
            return false;
        }
        let mut by_revision: BTreeMap<u64, Vec<Change>> = BTreeMap::new();
        for event in &applied.events {
            let changes = by_revision.entry(event.revision).or_default();
            let value = (event.kind == EventKind::Put).then_some(&event.value[..]);
            let raw = Raw {
                key: &event.key,
                value,
                revision: event.revision,
                expired: event.kind == EventKind::Expire,
                create_rev: event.create_rev,
                version: event.version,
                lease: event.lease,
            };
            let partition = Partition::new(event.partition.region, event.partition.name.clone());
            // What is strange there is for who is shown it to say.
            let change = names::change(&partition, raw);
            changes.extend(change.ok().flatten());
        }
        let shard = self.shard.0;
        self.commits
            .extend(by_revision.into_iter().map(|(revision, changes)| Commit {
                shard,
                index,
                revision,
                changes,
            }));
        self.next = index + 1;
        true
    }
}

impl fmt::Debug for CommittedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommittedLog")
            .field("shard", &self.shard)
            .field("next", &self.next)
            .field("commits", &self.commits.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_core::{machine::Payload, types::LogPosition};

    use super::*;

    #[test]
    fn after_a_gap_nothing_is_wanted() {
        let blank = |index| Entry {
            position: LogPosition {
                index,
                term: 1,
                node: 1,
            },
            payload: Payload::Blank,
        };
        let mut log = CommittedLog::new(ShardId(1)).unwrap();
        log.apply([blank(0), blank(1)]);
        assert_eq!(log.next(), Some(2));
        log.apply([blank(3), blank(2)]);
        assert_eq!((log.next(), log.commits().len()), (None, 0));
        assert_eq!(log.applied(), 2);
    }
}
