//! The one task that writes the log: drain, one write, one sync, callbacks.
//!
//! It owns the end of the last segment and the state of every shard *as written*, which a new segment begins with; what callers
//! see in the index may be ahead of it. An error of a write or a sync is final.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use kvsvr_core::types::ShardId;

use super::{
    Shared, WalWrite,
    codec::{BlockBuilder, FLAG_CLOSE, FLAG_STATE, Record, SECTOR, SegmentHeader, ShardState, block_len},
    queue::{Batch, InUse, Queued},
    scan::allocated_path,
    segment::{self, Segment, Spare},
};
use crate::{
    limits::WAL_SPACE_CHECK_BYTES,
    time::{Instant, timeout},
};

/// The end of the log.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Arc<Segment>,
    /// Where the next block goes.
    pub(super) end: u64,
    pub(super) next_seq: u64,
    pub(super) written: BTreeMap<ShardId, ShardState>,
    /// The last block has no records, so nothing is lost if it is taken for torn.
    pub(super) sealed: bool,
    pub(super) unchecked_bytes: u64,
}

enum Step {
    Write(Batch),
    Stop,
}

impl Writer {
    /// Runs until the WAL is closed or fails.
    pub(super) async fn run(mut self) {
        keep_spare(&self.shared);
        loop {
            let result = match self.next().await {
                Step::Write(batch) => self.write(batch).await,
                Step::Stop => return,
            };
            if let Err(error) = result {
                return fail(&self.shared, &error, Vec::new());
            }
        }
    }

    /// Waits for work. Lazy work and the seal come when there was nothing else for a while, or at the end.
    async fn next(&self) -> Step {
        loop {
            let unsettled = {
                let mut state = self.shared.state.lock();
                let unsettled = !self.sealed || state.has_work();
                if state.is_urgent() || (state.closed && unsettled) {
                    return Step::Write(state.take_batch(self.shared.options.write_bytes));
                }
                if state.closed {
                    return Step::Stop;
                }
                unsettled
            };
            let woken = self.shared.wake.notified();
            if !unsettled {
                woken.await;
            } else if timeout(self.shared.options.seal_after, woken).await.is_err() {
                return Step::Write(
                    self.shared
                        .state
                        .lock()
                        .take_batch(self.shared.options.write_bytes),
                );
            }
        }
    }

    /// Writes one block and tells those who wait. After an error nothing more may be written.
    async fn write(&mut self, mut batch: Batch) -> io::Result<()> {
        match self.write_block(&batch.records, batch.body_len).await {
            Ok(offsets) => {
                let number = self.active.number;
                self.shared.state.lock().complete(&mut batch, number, &offsets);
                self.sealed = batch.records.is_empty();
                for done in batch.done {
                    done(Ok(()));
                }
                self.retire().await
            }
            Err(error) => {
                fail(&self.shared, &error, batch.done);
                Err(error)
            }
        }
    }

    /// The places of the records in the segment.
    async fn write_block(&mut self, records: &[Queued], body_len: usize) -> io::Result<Vec<u32>> {
        self.make_room(body_len).await?;
        let mut block = BlockBuilder::new(self.active.salt, body_len);
        let mut offsets = Vec::with_capacity(records.len());
        for queued in records {
            let offset = self.end + block.push(queued.shard, &queued.record) as u64;
            offsets.push(u32::try_from(offset).unwrap_or(u32::MAX));
            self.note(queued.shard, &queued.record);
        }
        let started = Instant::now();
        let bytes = self.put(block, 0).await?;
        let (duration, records) = (started.elapsed(), records.len());
        let pace = &self.shared.pace;
        pace.lock().note(self.shared.opened.elapsed(), duration);
        (self.shared.options.on_write)(WalWrite {
            duration,
            bytes,
            records,
        });
        self.unchecked_bytes += bytes as u64;
        if self.unchecked_bytes >= WAL_SPACE_CHECK_BYTES {
            self.unchecked_bytes = 0;
            let shared = self.shared.clone();
            tokio::spawn(async move {
                if let Err(error) = shared.look_at_space().await {
                    tracing::warn!(%error, "cannot find out how much space is left");
                }
            });
        }
        Ok(offsets)
    }

    /// Keeps `written` up to date.
    fn note(&mut self, shard: ShardId, record: &Record) {
        if *record == Record::Forget {
            self.written.remove(&shard);
        } else {
            self.written.entry(shard).or_default().apply(record);
        }
    }

    /// Writes a block at the end and syncs. Returns its size.
    async fn put(&mut self, block: BlockBuilder, flags: u32) -> io::Result<usize> {
        let buffers = block.finish(self.active.epoch, self.end, self.next_seq, flags);
        let bytes = buffers.iter().map(Bytes::len).sum();
        let synced = !kvsvr_core::mutant!("ack-before-fsync");
        let written = self.active.file.write_at(self.end, buffers, synced).await;
        if !kvsvr_core::mutant!("fsync-error-ignored") {
            written?;
        }
        self.end += bytes as u64;
        self.next_seq += 1;
        Ok(bytes)
    }

    /// Writes a block without records: everything before it is known to be durable from now on.
    pub(super) async fn seal(&mut self) -> io::Result<()> {
        self.make_room(0).await?;
        self.put(BlockBuilder::new(self.active.salt, 0), 0).await?;
        self.sealed = true;
        Ok(())
    }

    /// Goes on to the next segment if a block of this size does not fit. There is always room for the block that closes.
    async fn make_room(&mut self, body_len: usize) -> io::Result<()> {
        if self.end + (block_len(body_len) + block_len(0)) as u64 <= self.active.capacity {
            return Ok(());
        }
        self.put(BlockBuilder::new(self.active.salt, 0), FLAG_CLOSE)
            .await?;
        let (segment, end) = begin(
            &self.shared,
            self.active.number + 1,
            self.next_seq,
            &self.written,
            body_len,
        )
        .await?;
        (self.active, self.end) = (segment, end);
        self.next_seq += 1;
        keep_spare(&self.shared);
        Ok(())
    }

    /// Recycles segments that hold nothing any more. Only called after a block behind the state of the last segment is durable.
    async fn retire(&mut self) -> io::Result<()> {
        let (dead, keep) = {
            let mut state = self.shared.state.lock();
            let keep = self.shared.options.spares.saturating_sub(state.spares.len());
            (state.take_dead(self.active.number), keep)
        };
        if dead.is_empty() {
            return Ok(());
        }
        let capacity = self.shared.options.capacity();
        let spares = segment::retire(&self.shared.disk, dead, keep, capacity).await?;
        self.shared.state.lock().spares.extend(spares);
        Ok(())
    }
}

/// Makes a new segment that begins with the state of all shards and has room for a block of `body_len`. Returns it and its end.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    number: u64,
    seq: u64,
    written: &BTreeMap<ShardId, ShardState>,
    body_len: usize,
) -> io::Result<(Arc<Segment>, u64)> {
    let records: Vec<(ShardId, Record)> = written
        .iter()
        .map(|(shard, state)| (*shard, Record::State(*state)))
        .collect();
    let state_len = block_len(records.iter().map(|(_, record)| record.len()).sum());
    let start = (SECTOR + state_len) as u64;
    let normal = shared.options.capacity();
    let capacity = normal.max(start + (block_len(body_len) + block_len(0)) as u64);

    let epoch = mix(shared.options.seed ^ mix(number) ^ mix(seq ^ (1 << 63)));
    let header = SegmentHeader {
        store_id: shared.options.store_id,
        number,
        epoch,
        capacity,
    };
    let mut block = BlockBuilder::new(header.salt(), state_len);
    for (shard, record) in &records {
        block.push(*shard, record);
    }
    let block = block.finish(epoch, SECTOR as u64, seq, FLAG_STATE);
    let spare = take_spare(shared, capacity).await?;
    let segment = Arc::new(segment::put_to_use(&shared.disk, spare, &header, block).await?);
    let in_use = InUse {
        segment: segment.clone(),
        live: 0,
    };
    shared.state.lock().segments.insert(number, in_use);
    Ok((segment, start))
}

/// A spare file of the normal size, or a new one.
async fn take_spare(shared: &Shared, capacity: u64) -> io::Result<Spare> {
    let path = {
        let mut state = shared.state.lock();
        if capacity == shared.options.capacity()
            && let Some(spare) = state.spares.pop()
        {
            return Ok(spare);
        }
        state.allocated += 1;
        allocated_path(state.allocated)
    };
    segment::allocate(&shared.disk, path, capacity).await
}

/// Makes a spare file in the background if there is none. If that fails, the next segment tries again.
pub(super) fn keep_spare(shared: &Arc<Shared>) {
    let path = {
        let mut state = shared.state.lock();
        let enough = !state.spares.is_empty() || shared.options.spares == 0;
        if enough || state.allocating || state.closed {
            return;
        }
        state.allocating = true;
        state.allocated += 1;
        allocated_path(state.allocated)
    };
    let shared = shared.clone();
    tokio::spawn(async move {
        let result = segment::allocate(&shared.disk, path, shared.options.capacity()).await;
        let mut state = shared.state.lock();
        state.allocating = false;
        match result {
            Ok(spare) => state.spares.push(spare),
            Err(error) => {
                tracing::warn!(%error, "cannot allocate the next log segment: free some disk space")
            }
        }
    });
}

/// Ends the log: the hook first, which in production does not return, then everybody who waits.
fn fail(shared: &Shared, error: &io::Error, done: Vec<super::Done>) {
    let text = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!(
            "the disk is full, the log cannot be written ({error}). Free some space in the data directory's file system and \
             start the node again; nothing that was acknowledged is lost"
        ),
        kind => format!(
            "the log cannot be written ({kind}: {error}). What has reached the disk is unknown, so the node must stop; check the \
             disk and start the node again"
        ),
    };
    let error = io::Error::new(error.kind(), text);
    let (first, queued) = {
        let mut state = shared.state.lock();
        (state.refusal().is_none() || state.closed, state.fail(&error))
    };
    if first {
        (shared.options.on_fatal)(&error);
    }
    for done in done.into_iter().chain(queued) {
        done(Err(io::Error::new(error.kind(), error.to_string())));
    }
}

/// Spreads the bits of a number (the finaliser of SplitMix64).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
