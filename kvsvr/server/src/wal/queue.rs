//! Work on its way to the writer, under the same lock as the index.
//!
//! Pure state. Each change is made to the index at once and queued as a record; the records reach the disk in the order of the
//! calls. Two kinds do not wake the writer, since nobody waits for them: purges, which keep their place in the queue, and
//! committed positions, of which only the newest counts.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::Arc,
};

use kvsvr_core::types::{LogPosition, ShardId};

use super::{
    Done, EntryRecord, VoteRecord,
    codec::Record,
    index::{Freed, Index, Place},
    segment::{Segment, Spare},
};

/// A segment and how many entries in it are in use.
pub(crate) struct InUse {
    pub(crate) segment: Arc<Segment>,
    pub(crate) live: u64,
}

/// A record to be written.
pub(crate) struct Queued {
    pub(crate) shard: ShardId,
    pub(crate) record: Record,
    /// The unique number of an entry's append.
    id: u64,
}

/// A change to be written.
struct Op {
    records: Vec<Queued>,
    freed: Freed,
    done: Option<Done>,
    /// Somebody waits for it.
    urgent: bool,
    payload: usize,
}

/// What is written as one block.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Queued>,
    /// Bytes of the records.
    pub(crate) body_len: usize,
    freed: Vec<Freed>,
    pub(crate) done: Vec<Done>,
    payload: usize,
}

/// Everything that callers and the writer share.
pub(crate) struct State {
    pub(crate) index: Index,
    queue: VecDeque<Op>,
    /// Operations in the queue that somebody waits for.
    urgent: usize,
    pub(crate) queued_bytes: usize,
    /// Shards whose committed position is newer than on disk.
    committed: BTreeSet<ShardId>,
    next_id: u64,
    pub(crate) segments: BTreeMap<u64, InUse>,
    pub(crate) spares: Vec<Spare>,
    /// A spare file is being made.
    pub(crate) allocating: bool,
    /// Counts the files made.
    pub(crate) allocated: u64,
    pub(crate) closed: bool,
    failed: Option<(io::ErrorKind, String)>,
}

impl State {
    pub(crate) fn new(index: Index, segments: BTreeMap<u64, InUse>, spares: Vec<Spare>) -> Self {
        Self {
            index,
            queue: VecDeque::new(),
            urgent: 0,
            queued_bytes: 0,
            committed: BTreeSet::new(),
            next_id: 0,
            segments,
            spares,
            allocating: false,
            allocated: 0,
            closed: false,
            failed: None,
        }
    }

    /// Why no more work is taken.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        match &self.failed {
            Some((kind, text)) => Some(io::Error::new(
                *kind,
                format!("the log has failed before: {text}"),
            )),
            None if self.closed => Some(io::Error::other("the log is shut down")),
            None => None,
        }
    }

    fn push(&mut self, records: Vec<Queued>, freed: Freed, done: Option<Done>) {
        let payload = records.iter().map(|queued| queued.record.len()).sum();
        let urgent = done.is_some();
        self.urgent += usize::from(urgent);
        self.queued_bytes += payload;
        self.queue.push_back(Op {
            records,
            freed,
            done,
            urgent,
            payload,
        });
    }

    fn push_one(&mut self, shard: ShardId, record: Record, freed: Freed, done: Option<Done>) {
        self.push(vec![Queued { shard, record, id: 0 }], freed, done);
    }

    /// Queues entries in parts of about `write_bytes`; `done` goes with the last.
    pub(crate) fn append(
        &mut self,
        shard: ShardId,
        entries: Vec<EntryRecord>,
        write_bytes: usize,
        done: Done,
    ) -> Result<(), (Done, String)> {
        let mut expected = self.index.get(shard).and_then(|shard| shard.next_index());
        for entry in &entries {
            let index = entry.position.index;
            if expected.is_some_and(|expected| expected != index) {
                return Err((
                    done,
                    format!("shard {shard}: entry {index} does not follow the log's last entry"),
                ));
            }
            expected = Some(index + 1);
        }
        let (mut part, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            if bytes >= write_bytes {
                self.push(std::mem::take(&mut part), Freed::new(), None);
                bytes = 0;
            }
            let id = self.next_id;
            self.next_id += 1;
            self.index.append(shard, &entry, id);
            bytes += entry.payload.len();
            part.push(Queued {
                shard,
                record: Record::Entry(entry),
                id,
            });
        }
        self.push(part, Freed::new(), Some(done));
        Ok(())
    }

    pub(crate) fn save_vote(&mut self, shard: ShardId, vote: VoteRecord, done: Done) {
        self.index.entry(shard).vote = Some(vote);
        self.push_one(shard, Record::Vote(vote), Freed::new(), Some(done));
    }

    pub(crate) fn save_committed(&mut self, shard: ShardId, committed: Option<LogPosition>) {
        let index = self.index.entry(shard);
        if index.committed != committed {
            index.committed = committed;
            self.committed.insert(shard);
        }
    }

    pub(crate) fn truncate_after(
        &mut self,
        shard: ShardId,
        last_kept: Option<u64>,
        done: Done,
    ) -> Result<(), (Done, String)> {
        let log = self.index.entry(shard);
        if let Some(purged) = log.purged
            && last_kept.is_none_or(|kept| kept < purged.index)
        {
            let text = format!(
                "shard {shard}: truncation below the purged index {}",
                purged.index
            );
            return Err((done, text));
        }
        let kept = match last_kept {
            None => None,
            Some(kept) => match log.position(kept) {
                Some(position) => Some(position),
                None if log.last().is_some_and(|last| last.index < kept) => log.last(),
                None => None,
            },
        };
        let freed = self.index.truncate_after(shard, kept.map(|kept| kept.index));
        self.push_one(shard, Record::Truncate(kept), freed, Some(done));
        Ok(())
    }

    pub(crate) fn purge(&mut self, shard: ShardId, upto: LogPosition) {
        if self.refusal().is_some() || self.index.entry(shard).purged >= Some(upto) {
            return;
        }
        let freed = self.index.purge(shard, upto);
        self.push_one(shard, Record::Purged(upto), freed, None);
    }

    pub(crate) fn forget(&mut self, shard: ShardId, done: Done) {
        let freed = self.index.forget(shard);
        self.committed.remove(&shard);
        self.push_one(shard, Record::Forget, freed, Some(done));
    }

    /// Somebody waits for something to be written.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent > 0
    }

    /// Something could be written.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.committed.is_empty()
    }

    /// The next block: operations until `limit` bytes of records are reached.
    pub(crate) fn take_batch(&mut self, limit: usize) -> Batch {
        let mut batch = Batch::default();
        while batch.body_len < limit
            && let Some(op) = self.queue.pop_front()
        {
            self.urgent -= usize::from(op.urgent);
            batch.body_len += op.payload;
            batch.payload += op.payload;
            batch.records.extend(op.records);
            batch.freed.push(op.freed);
            batch.done.extend(op.done);
        }
        // Only when everything else is in this block: a position must not be durable before what it refers to.
        if self.queue.is_empty() {
            for shard in std::mem::take(&mut self.committed) {
                let committed = self.index.get(shard).and_then(|shard| shard.committed);
                let record = Record::Committed(committed);
                batch.body_len += record.len();
                batch.records.push(Queued { shard, record, id: 0 });
            }
        }
        batch
    }

    /// The batch is durable in `segment`; `offsets` are the places of its records.
    pub(crate) fn complete(&mut self, batch: &mut Batch, segment: u64, offsets: &[u32]) {
        let (mut live, mut gone) = (0, 0);
        for (queued, offset) in batch.records.iter().zip(offsets) {
            if let Record::Entry(entry) = &queued.record {
                let place = Place::At {
                    segment,
                    offset: *offset,
                };
                let placed = self
                    .index
                    .placed(queued.shard, entry.position.index, queued.id, place);
                *(if placed { &mut live } else { &mut gone }) += 1;
            }
        }
        // What purged or truncated the others may not be durable yet: they are in use until the whole present queue is.
        if let Some(last) = self.queue.back_mut().filter(|_| gone > 0) {
            *last.freed.entry(segment).or_default() += gone;
            live += gone;
        }
        if let Some(in_use) = self.segments.get_mut(&segment) {
            in_use.live += live;
        }
        for (segment, count) in batch.freed.drain(..).flatten() {
            if let Some(in_use) = self.segments.get_mut(&segment) {
                in_use.live -= count;
            }
        }
        self.queued_bytes -= batch.payload;
        self.index.evict();
    }

    /// Removes segments without live entries that no read is using, except the active one.
    pub(crate) fn take_dead(&mut self, active: u64) -> Vec<Arc<Segment>> {
        let dead: Vec<u64> = self
            .segments
            .iter()
            .filter(|(number, in_use)| {
                **number != active && in_use.live == 0 && Arc::strong_count(&in_use.segment) == 1
            })
            .map(|(number, _)| *number)
            .collect();
        dead.iter()
            .filter_map(|number| self.segments.remove(number))
            .map(|in_use| in_use.segment)
            .collect()
    }

    /// Refuses everything from now on, and gives back the callbacks of what was queued.
    pub(crate) fn fail(&mut self, error: &io::Error) -> Vec<Done> {
        self.failed.get_or_insert((error.kind(), error.to_string()));
        self.urgent = 0;
        self.queue.drain(..).filter_map(|op| op.done).collect()
    }
}
