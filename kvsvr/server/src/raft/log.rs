//! openraft's log storage on the node's [`Wal`].

use std::{fmt::Debug, io, ops::Bound, ops::RangeBounds};

use kvsvr_core::types::ShardId;
use openraft::{
    OptionalSend,
    storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::{
    convert,
    types::{Entry, LogId, TypeConfig, Vote},
};
use crate::{
    limits::{MAX_APPEND_BYTES, MAX_READ_ALL_BYTES},
    wal::{Done, Wal},
};

/// The log of one shard.
#[derive(Clone, Debug)]
pub struct LogStore {
    wal: Wal,
    shard: ShardId,
}

impl LogStore {
    /// The shard's part of the WAL.
    pub fn new(wal: Wal, shard: ShardId) -> Self {
        Self { wal, shard }
    }

    /// The first index that is there, and the index after the last one that is committed.
    pub(super) fn committed_range(&self) -> (u64, u64) {
        let log = self.wal.shard(self.shard);
        (
            log.first_index,
            log.committed.map_or(0, |position| position.index + 1),
        )
    }

    /// Entries of a range, as many as fit into `max_bytes` of payload, at least one if there is one.
    pub(super) async fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let records = self.wal.read(self.shard, start..end, max_bytes).await?;
        records
            .into_iter()
            .map(|r| convert::entry(r).map_err(io::Error::other))
            .collect()
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index + 1,
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// A callback and the future that waits for it.
fn waiter() -> (Done, impl Future<Output = io::Result<()>>) {
    let (sender, receiver) = oneshot::channel();
    let done: Done = Box::new(move |result| {
        // The waiting side may be gone at shutdown; nobody is left to tell then.
        let _ = sender.send(result);
    });
    (done, async move {
        receiver
            .await
            .map_err(|_| io::Error::other("the WAL writer has stopped"))?
    })
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, MAX_READ_ALL_BYTES).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.wal.shard(self.shard).vote;
        let known = vote.filter(|_| !kvsvr_core::mutant!("vote-forgotten-at-restart"));
        Ok(known.map(convert::vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, MAX_APPEND_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let log = self.wal.shard(self.shard);
        Ok(LogState {
            last_purged_log_id: log.purged.map(convert::log_id),
            last_log_id: log.last.map(convert::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, saved) = waiter();
        self.wal.save_vote(self.shard, convert::vote_record(vote), done);
        if kvsvr_core::mutant!("vote-not-synced") {
            return Ok(());
        }
        saved.await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.wal
            .save_committed(self.shard, committed.as_ref().map(convert::position));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.wal.shard(self.shard).committed.map(convert::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(convert::record).collect();
        if kvsvr_core::mutant!("append-acked-when-queued") {
            self.wal.append(self.shard, records, Box::new(|_| {}));
            callback.io_completed(Ok(()));
            return Ok(());
        }
        self.wal.append(
            self.shard,
            records,
            Box::new(move |result| callback.io_completed(result)),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let (done, truncated) = waiter();
        self.wal.truncate_after(self.shard, last.map(|id| id.index), done);
        truncated.await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.wal.purge(self.shard, convert::position(&upto));
        Ok(())
    }
}
