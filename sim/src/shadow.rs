//! A replica that is not part of the cluster: it applies what is committed, entry by entry, and keeps every change.
//!
//! It reads committed entries from the logs of the real replicas as soon as they are seen, before these purge them. What it keeps is the
//! committed log that the checker `committed` resolves unknown outcomes with. It runs the same state machine on an engine in memory: it shows what the
//! log says, not that the state machine is right; that is what the other checkers are for.

use std::collections::{BTreeMap, btree_map::Entry};

use kvsvr::wal::{EntryKind, EntryRecord, Wal};
use kvsvr_client::Partition;
use kvsvr_core::{
    engine::Engine,
    event::EventKind,
    machine::{self, Machine, Payload},
    mem::MemEngine,
    types::{META_SHARD, ShardId},
};
use kvsvr_jepsen::{check::Commit, history::Change, workload::names};

use crate::invariants::Replica;

/// Payload bytes of one reading.
const READ_BYTES: usize = 1 << 20;

/// The committed logs of all data shards.
#[derive(Default)]
pub struct Shadow {
    shards: BTreeMap<ShardId, Follower>,
}

struct Follower {
    shard: ShardId,
    machine: Machine,
    engine: MemEngine,
    next: u64,
    commits: Vec<Commit>,
    /// Entries are gone before they were read.
    gap: bool,
}

impl Shadow {
    fn follower(&mut self, shard: ShardId) -> Option<&mut Follower> {
        match self.shards.entry(shard) {
            Entry::Occupied(follower) => Some(follower.into_mut()),
            Entry::Vacant(place) => {
                let engine = MemEngine::new();
                let machine = Machine::load(shard, &engine).ok()?;
                Some(place.insert(Follower {
                    shard,
                    machine,
                    engine,
                    next: 0,
                    commits: Vec::new(),
                    gap: false,
                }))
            }
        }
    }

    /// Reads what a replica knows to be committed, as far as it is new.
    pub async fn follow(&mut self, replica: &Replica, wal: &Wal) {
        let shard = replica.shard;
        let Some(committed) = replica.committed.filter(|_| shard != META_SHARD) else {
            return;
        };
        let Some(follower) = self.follower(shard) else {
            return;
        };
        while follower.next <= committed && !follower.gap {
            // A disk that fails now may work later, and there are other replicas.
            let Ok(records) = wal.read(shard, follower.next..committed + 1, READ_BYTES).await else {
                return;
            };
            let Some(first) = records.first() else { return };
            if first.position.index > follower.next {
                // Another replica may still have it.
                return;
            }
            follower.apply(records);
        }
    }

    /// The committed log from the beginning, by shard and index; `None` if a part of it was never seen. `committed` is the highest
    /// committed index of each data shard.
    pub fn commits(&self, committed: &BTreeMap<ShardId, u64>) -> Option<Vec<Commit>> {
        let complete = committed.iter().all(|(shard, index)| {
            let follower = self.shards.get(shard);
            *shard == META_SHARD || follower.is_some_and(|f| !f.gap && f.next > *index)
        });
        let all = self.shards.values().flat_map(|follower| follower.commits.clone());
        complete.then(|| all.collect())
    }
}

impl Follower {
    fn apply(&mut self, records: Vec<EntryRecord>) {
        for record in records {
            let index = record.position.index;
            let payload = match record.kind {
                EntryKind::Batch => Payload::Batch(record.payload),
                // Who is a member changes no key.
                EntryKind::Blank | EntryKind::Membership => Payload::Blank,
            };
            let entry = machine::Entry {
                position: record.position,
                payload,
            };
            let applied = self.machine.apply(&self.engine, std::slice::from_ref(&entry));
            let Ok(applied) = applied else {
                self.gap = true;
                return;
            };
            if self.engine.write(applied.batch).is_err() {
                self.gap = true;
                return;
            }
            let mut by_revision: BTreeMap<u64, Vec<Change>> = BTreeMap::new();
            for event in &applied.events {
                let changes = by_revision.entry(event.revision).or_default();
                let value = (event.kind == EventKind::Put).then_some(&event.value[..]);
                let expired = event.kind == EventKind::Expire;
                let partition = Partition::new(event.partition.region, event.partition.name.clone());
                changes.extend(names::change(
                    &partition,
                    &event.key,
                    value,
                    event.revision,
                    expired,
                ));
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
        }
    }
}
