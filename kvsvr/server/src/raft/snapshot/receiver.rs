//! The receiving half of a transfer.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use kvsvr_client::transport::{StreamReceiver, StreamSender};
use kvsvr_core::{keys, types::ShardId};
use kvsvr_proto::v1 as pb;
use openraft::storage::SnapshotMeta;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, mpsc::error::TrySendError};

use super::{
    Meta, SnapshotData, TransferError, TransferStatus,
    chunk::{Position, pairs},
    peer,
    staged::{CHUNKS, Exclusive, FRAME_HEADER, FrameReader, LAST_FRAME, OFFER, Staged, remove, staging},
};
use crate::{
    disk::{DiskFile, DynDisk},
    limits::{SNAPSHOT_BUSY_INTERVAL, SNAPSHOT_CHUNKS_PER_SYNC, SNAPSHOT_PATIENCE},
    metrics::Metrics,
    raft::{
        convert,
        types::{LogId, StoredMembership, Vote},
    },
    store::STAGING_DIR,
    time::timeout,
};

/// Receives snapshots into the staging directory.
#[derive(Clone)]
pub struct SnapshotReceiver {
    disk: DynDisk,
    reserve_bytes: u64,
    /// One transfer at a time for each shard. The lock goes with the staged snapshot: the task that serves a transfer may be
    /// dropped while Raft installs what it has received.
    locks: Arc<Mutex<BTreeMap<ShardId, Arc<tokio::sync::Mutex<()>>>>>,
    /// Ends the transfers of a shard whose replica is being destroyed.
    ends: Arc<Mutex<BTreeMap<ShardId, Arc<Notify>>>>,
    status: Arc<TransferStatus>,
    metrics: Arc<Metrics>,
}

/// What one transfer has staged so far.
struct Staging {
    offer: pb::SnapshotOffer,
    /// The keys of the shard.
    range: (Bytes, Bytes),
    file: Arc<dyn DiskFile>,
    offset: u64,
    chunks: u64,
    /// How many of the chunks were synced; only these are acknowledged.
    durable: u64,
    /// Where the last chunk ends.
    position: Position,
}

impl SnapshotReceiver {
    /// Stages on `disk`, as long as `reserve_bytes` stay free.
    pub fn new(
        disk: DynDisk,
        reserve_bytes: u64,
        status: Arc<TransferStatus>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            disk,
            reserve_bytes,
            locks: Arc::default(),
            ends: Arc::default(),
            status,
            metrics,
        }
    }

    /// Removes what is staged for a shard.
    pub(crate) async fn remove(&self, shard: ShardId, _exclusive: Exclusive) -> std::io::Result<()> {
        remove(&self.disk, shard).await
    }

    fn end(&self, shard: ShardId) -> Arc<Notify> {
        self.ends.lock().entry(shard).or_default().clone()
    }

    /// Gives up what is being received for a shard, waits until nothing is installed, and keeps it so.
    pub(crate) async fn give_up(&self, shard: ShardId) -> Exclusive {
        self.end(shard).notify_waiters();
        self.exclusive(shard).await
    }

    /// Waits until nothing is received for a shard, nor installed, and keeps it so.
    async fn exclusive(&self, shard: ShardId) -> Exclusive {
        let lock = self.locks.lock().entry(shard).or_default().clone();
        Arc::new(lock.lock_owned().await)
    }

    /// The receiving side of the dialogue. `install` hands the complete snapshot to Raft and returns the vote to answer with.
    pub async fn receive<F>(
        &self,
        shard: ShardId,
        first: pb::SnapshotOffer,
        input: &mut StreamReceiver,
        output: &StreamSender,
        install: impl FnOnce(Vote, Meta, SnapshotData) -> F,
    ) -> Result<(), TransferError>
    where
        F: Future<Output = Result<Vote, String>>,
    {
        let end = self.end(shard);
        let ended = end.notified();
        let exclusive = busy(output, self.exclusive(shard)).await?;
        let received = tokio::select! {
            received = self.receive_chunks(shard, first, input, output) => received,
            () = ended => Err(peer("this replica is being destroyed")),
        };
        self.status.set(shard, None);
        if received.as_ref().is_err_and(TransferError::is_space) {
            // The log needs the space more, and a node that starts again finds it.
            remove(&self.disk, shard).await?;
        }
        let mut staging = received?;
        staging.sync().await?;
        let vote = convert::from_pb_vote(staging.offer.vote.as_ref()).map_err(peer)?;
        let last_log_id: Option<LogId> = staging.offer.last_log_id.as_ref().map(convert::from_pb_log_id);
        let membership = staging
            .offer
            .membership
            .ok_or_else(|| peer("an offer without membership"))?;
        let last_membership: StoredMembership =
            convert::from_pb_stored_membership(membership).map_err(peer)?;
        let meta = SnapshotMeta {
            last_log_id,
            last_membership,
        };
        let staged = Staged {
            shard,
            disk: self.disk.clone(),
            exclusive: Some(exclusive.clone()),
        };
        let vote = busy(output, install(vote, meta, SnapshotData::Staged(staged)))
            .await?
            .map_err(peer)?;
        // Raft does not install what is older than its own state; then the chunks are of no use any more.
        remove(&self.disk, shard).await?;
        drop(exclusive);
        let vote = Some(convert::pb_vote(&vote));
        reply(
            output,
            pb::SnapshotAck {
                installed: true,
                vote,
                ..Default::default()
            },
        )
        .await
    }

    async fn receive_chunks(
        &self,
        shard: ShardId,
        _first: pb::SnapshotOffer,
        input: &mut StreamReceiver,
        output: &StreamSender,
    ) -> Result<Staging, TransferError> {
        let begun = busy(output, self.resume(shard)).await??;
        self.check_space(begun.as_ref().map_or(0, |staging| staging.offset), 0)
            .await?;
        let resume_id = begun
            .as_ref()
            .map(|s| s.offer.snapshot_id.clone())
            .unwrap_or_default();
        reply(
            output,
            pb::SnapshotAck {
                resume_id,
                ..Default::default()
            },
        )
        .await?;
        let offer = receive_chunk(input)
            .await?
            .offer
            .ok_or_else(|| peer("a chunk before its offer"))?;
        let mut staging = match begun {
            Some(staging) if staging.offer.snapshot_id == offer.snapshot_id => Staging { offer, ..staging },
            _ => self.begin(shard, offer).await?,
        };
        reply(output, staging.ack()).await?;
        loop {
            let chunk = receive_chunk(input).await?;
            if chunk.number != staging.chunks || crc32c::crc32c(&chunk.data) != chunk.crc32c {
                return Err(peer(format!("chunk {} is damaged or out of order", chunk.number)));
            }
            self.metrics.snapshot_received(chunk.data.len());
            self.status
                .set(shard, Some(format!("receiving: chunk {}", chunk.number)));
            let last = chunk.last;
            self.check_space(staging.offset, (FRAME_HEADER + chunk.data.len()) as u64)
                .await?;
            staging.append(chunk).await?;
            if last {
                return Ok(staging);
            }
            if staging.chunks - staging.durable >= SNAPSHOT_CHUNKS_PER_SYNC {
                staging.sync().await?;
                reply(output, staging.ack()).await?;
            }
        }
    }

    /// Refuses what would leave less than the reserve when it is staged and then installed, which writes all of it once more: without
    /// space the log cannot go on, and the node ends.
    async fn check_space(&self, staged: u64, next: u64) -> Result<(), TransferError> {
        let free = self.disk.free_bytes().await?;
        let needed = self.reserve_bytes.saturating_add(staged + 2 * next);
        if free >= needed {
            return Ok(());
        }
        Err(TransferError::Space {
            free_mib: free >> 20,
            needed_mib: needed.div_ceil(1 << 20),
        })
    }

    /// What an interrupted transfer has left.
    async fn resume(&self, shard: ShardId) -> Result<Option<Staging>, TransferError> {
        let dir = staging(shard);
        let offer = match self.disk.read(&format!("{dir}/{OFFER}")).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Ok(offer) = pb::SnapshotOffer::decode(offer) else {
            return Ok(None);
        };
        let file = self.disk.open(&format!("{dir}/{CHUNKS}"), true).await?;
        let mut reader = FrameReader::new(file.clone()).await?;
        let mut position = Position::default();
        while let Some(data) = reader.next().await? {
            pairs(data, |cf, key, _| {
                position = Position { cf: cf as u8, key };
            })?;
        }
        file.set_len(reader.offset).await?;
        // What is found may be in the page cache only, after a broken connection.
        file.sync().await?;
        Ok(Some(Staging {
            offer,
            range: keys::shard_range(shard),
            file,
            offset: reader.offset,
            chunks: reader.frames,
            durable: reader.frames,
            position,
        }))
    }

    async fn begin(&self, shard: ShardId, offer: pb::SnapshotOffer) -> Result<Staging, TransferError> {
        let dir = staging(shard);
        remove(&self.disk, shard).await?;
        self.disk.create_dir(&dir).await?;
        let file = self.disk.open(&format!("{dir}/{CHUNKS}"), true).await?;
        let marker = self.disk.open(&format!("{dir}/{OFFER}"), true).await?;
        marker
            .write_at(0, vec![offer.encode_to_vec().into()], false)
            .await?;
        marker.sync().await?;
        self.disk.sync_dir(&dir).await?;
        self.disk.sync_dir(STAGING_DIR).await?;
        // It may be new, too: without its name all of this is lost.
        self.disk.sync_dir("").await?;
        Ok(Staging {
            offer,
            range: keys::shard_range(shard),
            file,
            offset: 0,
            chunks: 0,
            durable: 0,
            position: Position::default(),
        })
    }
}

impl Staging {
    fn ack(&self) -> pb::SnapshotAck {
        pb::SnapshotAck {
            next_chunk: self.chunks,
            resume_after: self.position.encode(),
            ..Default::default()
        }
    }

    /// Makes all chunks durable. Not by synchronous writes: those go where the log's do, and would delay appends and votes.
    async fn sync(&mut self) -> std::io::Result<()> {
        self.file.sync().await?;
        self.durable = self.chunks;
        Ok(())
    }

    /// Writes a chunk; it is durable after [`Staging::sync`].
    async fn append(&mut self, chunk: pb::SnapshotChunk) -> Result<(), TransferError> {
        let (start, end) = &self.range;
        let (mut position, mut sound) = (self.position.clone(), true);
        pairs(chunk.data.clone(), |cf, key, _| {
            let at = Position { cf: cf as u8, key };
            sound &= at > position && at.key >= start && (end.is_empty() || at.key < end);
            position = at;
        })?;
        if !sound {
            let number = chunk.number;
            return Err(peer(format!(
                "chunk {number} has a row that does not belong there"
            )));
        }
        self.position = position;
        let mut header = BytesMut::with_capacity(FRAME_HEADER);
        header.put_u64_le(chunk.number | if chunk.last { LAST_FRAME } else { 0 });
        header.put_u32_le(chunk.data.len() as u32);
        header.put_u32_le(chunk.crc32c);
        let len = (FRAME_HEADER + chunk.data.len()) as u64;
        self.file
            .write_at(self.offset, vec![header.freeze(), chunk.data], false)
            .await?;
        self.offset += len;
        self.chunks += 1;
        Ok(())
    }
}

async fn receive_chunk(input: &mut StreamReceiver) -> Result<pb::SnapshotChunk, TransferError> {
    let bytes = timeout(SNAPSHOT_PATIENCE, input.next())
        .await
        .map_err(|_| peer(format!("nothing came for {SNAPSHOT_PATIENCE:?}")))?
        .ok_or_else(|| peer("the sender closed the stream"))?
        .map_err(peer)?;
    pb::SnapshotChunk::decode(bytes).map_err(peer)
}

/// Waits for `work`, and says now and then that it goes on: the sender takes a silent receiver for dead.
async fn busy<T>(output: &StreamSender, work: impl Future<Output = T>) -> Result<T, TransferError> {
    let mut work = pin!(work);
    loop {
        if let Ok(done) = timeout(SNAPSHOT_BUSY_INTERVAL, work.as_mut()).await {
            return Ok(done);
        }
        let busy = pb::SnapshotAck {
            busy: true,
            ..Default::default()
        };
        // One that finds no place is no loss: then answers are waiting that the sender has not read.
        if let Err(TrySendError::Closed(_)) = output.try_send(busy.encode_to_vec().into()) {
            return Err(peer("the sender closed the stream"));
        }
    }
}

async fn reply(output: &StreamSender, ack: pb::SnapshotAck) -> Result<(), TransferError> {
    output.send(ack.encode_to_vec().into()).await.map_err(peer)
}
