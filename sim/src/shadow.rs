//! The committed log of a run, which the checker `committed` resolves unknown outcomes with ([`CommittedLog`]).
//!
//! It reads committed entries from the logs of the real replicas as soon as they are seen, before these purge them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
};

use kvsvr::wal::{EntryKind, EntryRecord, Wal};
use kvsvr_core::{
    codec::{decode_batch, decode_command},
    machine::{self, Payload},
    types::{META_SHARD, ShardId},
};
use kvsvr_jepsen::{check::Commit, committed_log::CommittedLog};
use kvsvr_proto::v1::PbMembership;
use parking_lot::Mutex;
use prost::Message as _;

use crate::members::Memberships;

/// Payload bytes of one reading.
const READ_BYTES: usize = 1 << 20;

/// The committed logs of all data shards.
#[derive(Default)]
pub struct Shadow {
    shards: BTreeMap<ShardId, CommittedLog>,
    /// What sessions have sent: shard, session, number.
    sent: BTreeSet<(ShardId, u64, u64)>,
    again: u64,
    memberships: Memberships,
}

/// From where on the log of a shard is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which shard.
    pub shard: ShardId,
    /// The first entry that is not known.
    pub entry: u64,
    /// False: it was read and could not be applied. True: it was not read.
    pub applies: bool,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shard,
            entry,
            applies,
        } = self;
        let why = if *applies {
            "was not read"
        } else {
            "cannot be applied"
        };
        write!(
            f,
            "the log of shard {shard} is not known from entry {entry} on, which {why}"
        )
    }
}

impl Shadow {
    /// How many committed commands were a repetition of an earlier one.
    pub fn committed_again(&self) -> u64 {
        self.again
    }

    /// Who the members of the shards were.
    pub fn memberships(&self) -> &Memberships {
        &self.memberships
    }

    /// Up to which index, not included, the log of a shard is known.
    pub fn known(&self, shard: ShardId) -> u64 {
        self.shards.get(&shard).map_or(0, CommittedLog::applied)
    }

    fn note_memberships(&mut self, shard: ShardId, records: &[EntryRecord]) {
        let memberships = records
            .iter()
            .filter(|record| record.kind == EntryKind::Membership);
        for record in memberships {
            // One that does not decode ends the nodes that apply it.
            if let Ok(membership) = PbMembership::decode(record.payload.clone()) {
                self.memberships.take(shard, record.position.index, membership);
            }
        }
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

    /// The entry of a data shard that is wanted; `None` after one that could not be applied.
    fn next(&mut self, shard: ShardId) -> Option<u64> {
        self.log(shard).and_then(|log| log.next())
    }

    /// Takes committed entries in. Those that are known already are passed by; after a gap another replica may have what is missing.
    fn take(&mut self, shard: ShardId, mut records: Vec<EntryRecord>) {
        let Some(next) = self.next(shard) else { return };
        records.retain(|record| record.position.index >= next);
        if records.first().is_none_or(|first| first.position.index > next) {
            return;
        }
        self.note_repetitions(shard, &records);
        self.note_memberships(shard, &records);
        if let Some(log) = self.log(shard) {
            log.apply(records.into_iter().map(entry));
        }
    }

    /// The committed log from the beginning, by shard and index. `committed` is the highest committed index of each data shard.
    ///
    /// # Errors
    /// What is not known of it.
    pub fn commits(&self, committed: &BTreeMap<ShardId, u64>) -> Result<Vec<Commit>, Vec<Gap>> {
        let mut gaps = Vec::new();
        for (&shard, &index) in committed {
            let log = self.shards.get(&shard);
            let entry = log.map_or(0, CommittedLog::applied);
            let applies = log.is_none_or(|log| log.next().is_some());
            if entry <= index {
                gaps.push(Gap {
                    shard,
                    entry,
                    applies,
                });
            }
        }
        if gaps.is_empty() {
            let commits = self.shards.values().flat_map(|log| log.commits().to_vec());
            return Ok(commits.collect());
        }
        Err(gaps)
    }
}

/// Reads what a replica knows to be committed, up to this index, as far as it is new. Several may do so at a time.
pub async fn follow(shadow: &Mutex<Shadow>, shard: ShardId, committed: u64, wal: &Wal) {
    let next = || shadow.lock().next(shard);
    let mut wanted = next().filter(|_| shard != META_SHARD);
    while let Some(from) = wanted.filter(|from| *from <= committed) {
        // A disk that fails now may work later, and there are other replicas.
        let Ok(records) = wal.read(shard, from..committed + 1, READ_BYTES).await else {
            return;
        };
        shadow.lock().take(shard, records);
        wanted = next().filter(|next| *next > from);
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

#[cfg(test)]
mod tests {
    use kvsvr_core::types::LogPosition;

    use super::*;

    fn record(index: u64, payload: Option<&'static [u8]>) -> machine::Entry {
        machine::Entry {
            position: LogPosition {
                index,
                term: 1,
                node: 1,
            },
            payload: payload.map_or(Payload::Blank, |payload| Payload::Batch(payload.into())),
        }
    }

    #[test]
    fn entries_are_taken_once_and_in_order() {
        let shard = ShardId(1);
        let mut shadow = Shadow::default();
        let records = |indexes: std::ops::Range<u64>| -> Vec<EntryRecord> {
            let record = |index| EntryRecord {
                position: record(index, None).position,
                kind: EntryKind::Blank,
                payload: Default::default(),
            };
            indexes.map(record).collect()
        };
        shadow.take(shard, records(0..3));
        shadow.take(shard, records(5..6));
        assert_eq!(shadow.next(shard), Some(3));
        shadow.take(shard, records(1..5));
        shadow.take(shard, records(2..4));
        assert_eq!(shadow.next(shard), Some(5));
    }

    #[test]
    fn what_is_not_known_is_told() {
        let (one, two) = (ShardId(1), ShardId(2));
        let mut shadow = Shadow::default();
        let committed = |index| BTreeMap::from([(one, index)]);
        shadow.log(one).unwrap().apply([record(0, None), record(1, None)]);
        assert_eq!(shadow.commits(&committed(1)), Ok(Vec::new()));
        let gap = |shard, entry, applies| Gap {
            shard,
            entry,
            applies,
        };
        assert_eq!(shadow.commits(&committed(2)), Err(vec![gap(one, 2, true)]));
        let unread = shadow.commits(&BTreeMap::from([(one, 1), (two, 0)]));
        assert_eq!(unread, Err(vec![gap(two, 0, true)]));
        shadow
            .log(one)
            .unwrap()
            .apply([record(2, Some(b"not a batch")), record(3, None)]);
        let gaps = shadow.commits(&committed(3)).unwrap_err();
        assert_eq!(
            gaps[0].to_string(),
            "the log of shard 1 is not known from entry 2 on, which cannot be applied"
        );
    }
}
