//! The committed log of a run, which the checker `committed` resolves unknown outcomes with ([`CommittedLog`]).
//!
//! It reads committed entries from the logs of the real replicas as soon as they are seen, before these purge them.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use kvsvr::wal::{EntryKind, EntryRecord, Wal};
use kvsvr_core::{
    codec::{decode_batch, decode_command},
    machine::{self, Payload},
    types::{META_SHARD, ShardId},
};
use kvsvr_jepsen::{check::Commit, committed_log::CommittedLog};

use crate::invariants::Replica;

/// Payload bytes of one reading.
const READ_BYTES: usize = 1 << 20;

/// The committed logs of all data shards.
#[derive(Default)]
pub struct Shadow {
    shards: BTreeMap<ShardId, CommittedLog>,
    /// What sessions have sent: shard, session, number.
    sent: BTreeSet<(ShardId, u64, u64)>,
    again: u64,
}

impl Shadow {
    /// How many committed commands were a repetition of an earlier one.
    pub fn committed_again(&self) -> u64 {
        self.again
    }

    fn note_repetitions(&mut self, shard: ShardId, records: &[EntryRecord]) {
        let batches = records.iter().filter(|record| record.kind == EntryKind::Batch);
        for batch in batches.filter_map(|record| decode_batch(&record.payload).ok()) {
            let commands = batch
                .commands
                .iter()
                .filter_map(|command| decode_command(command).ok());
            for of in commands.filter_map(|command| command.session) {
                let is_new = self.sent.insert((shard, of.session, of.seq));
                self.again += u64::from(!is_new);
            }
        }
    }

    fn log(&mut self, shard: ShardId) -> Option<&mut CommittedLog> {
        match self.shards.entry(shard) {
            Entry::Occupied(log) => Some(log.into_mut()),
            Entry::Vacant(place) => Some(place.insert(CommittedLog::new(shard)?)),
        }
    }

    /// Reads what a replica knows to be committed, as far as it is new.
    pub async fn follow(&mut self, replica: &Replica, wal: &Wal) {
        let shard = replica.shard;
        let Some(committed) = replica.committed.filter(|_| shard != META_SHARD) else {
            return;
        };
        let Some(log) = self.log(shard) else {
            return;
        };
        let mut wanted = log.next();
        while let Some(next) = wanted.filter(|next| *next <= committed) {
            // A disk that fails now may work later, and there are other replicas.
            let Ok(records) = wal.read(shard, next..committed + 1, READ_BYTES).await else {
                return;
            };
            let Some(first) = records.first() else { return };
            if first.position.index > next {
                // Another replica may still have it.
                return;
            }
            self.note_repetitions(shard, &records);
            let Some(log) = self.log(shard) else { return };
            log.apply(records.into_iter().map(entry));
            wanted = log.next();
        }
    }

    /// The committed log from the beginning, by shard and index; `None` if a part of it was never seen. `committed` is the highest
    /// committed index of each data shard.
    pub fn commits(&self, committed: &BTreeMap<ShardId, u64>) -> Option<Vec<Commit>> {
        let complete = committed.iter().all(|(shard, index)| {
            let next = self.shards.get(shard).and_then(CommittedLog::next);
            *shard == META_SHARD || next.is_some_and(|next| next > *index)
        });
        let all = self.shards.values().flat_map(|log| log.commits().to_vec());
        complete.then(|| all.collect())
    }
}

/// An entry as the state machine takes it.
fn entry(record: EntryRecord) -> machine::Entry {
    let payload = match record.kind {
        EntryKind::Batch => Payload::Batch(record.payload),
        // Who is a member changes no key.
        EntryKind::Blank | EntryKind::Membership => Payload::Blank,
    };
    machine::Entry {
        position: record.position,
        payload,
    }
}
