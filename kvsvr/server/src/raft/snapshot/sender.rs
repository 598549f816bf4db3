//! The sending half of a transfer: the dialogue, and the window of chunks on their way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kvsvr_client::transport::{Class, Method, StreamReceiver, StreamSender};
use kvsvr_core::{engine::EngineError, types::ShardId};
use kvsvr_proto::v1 as pb;
use prost::Message;
use tokio::sync::Semaphore;

use super::{
    Checkpoints, Snapshot, TransferError, TransferStatus, blocking,
    chunk::{Position, next_chunk},
    holds::Holds,
    peer,
    source::{Reading, Sources},
};
use crate::{
    limits::{
        MAX_SNAPSHOT_CHUNKS_IN_FLIGHT, MAX_SNAPSHOTS_SENDING, SNAPSHOT_BYTES_PER_SECOND,
        SNAPSHOT_CHUNK_BYTES, SNAPSHOT_PATIENCE,
    },
    metrics::Metrics,
    raft::{
        convert,
        network::NetworkFactory,
        types::{PeerNode, Vote},
    },
    time::{sleep, timeout},
};

/// Sends snapshots of this node's shards.
pub struct SnapshotSender {
    sources: Arc<Sources>,
    holds: Holds,
    /// Bytes of a chunk; one pair may pass it.
    pub(in crate::raft) chunk_bytes: usize,
    slots: Semaphore,
    status: Arc<TransferStatus>,
    metrics: Arc<Metrics>,
}

impl SnapshotSender {
    /// Sends from `checkpoints`.
    pub fn new(
        checkpoints: Arc<dyn Checkpoints>,
        store_id: String,
        status: Arc<TransferStatus>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            sources: Arc::new(Sources::new(checkpoints, store_id)),
            holds: Holds::default(),
            chunk_bytes: SNAPSHOT_CHUNK_BYTES,
            slots: Semaphore::new(MAX_SNAPSHOTS_SENDING),
            status,
            metrics,
        }
    }

    /// Removes checkpoints that no transfer can use any more: all but the newest of each shard and those that are being sent. Blocks.
    pub fn remove_stale(&self) -> Result<(), EngineError> {
        self.sources.remove_stale()
    }

    /// Removes checkpoints of interrupted transfers that nobody has gone on with since the last call; all that are not being sent, if that is
    /// `urgent`. Blocks.
    pub fn remove_idle(&self, urgent: bool) -> Result<(), EngineError> {
        self.sources.remove_idle(urgent)
    }

    /// The last log index in the snapshot that a node is being sent: it needs the log behind that. `None` if it is sent none, or has
    /// not been heard of for [`SNAPSHOT_PATIENCE`].
    pub fn held_index(&self, shard: ShardId, target: u64) -> Option<u64> {
        self.holds.index(shard, target)
    }

    /// Sends the shard's snapshot to a peer and returns the peer's vote. `snapshot` says how new it must be at least.
    pub async fn send(
        &self,
        network: &NetworkFactory,
        target: u64,
        node: &PeerNode,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<Vote, TransferError> {
        let _slot = self.slots.acquire().await.map_err(peer)?;
        let shard = network.shard;
        let sent = self.send_with_slot(network, target, node, vote, snapshot).await;
        self.status.set(shard, None);
        sent
    }

    async fn send_with_slot(
        &self,
        network: &NetworkFactory,
        target: u64,
        node: &PeerNode,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<Vote, TransferError> {
        let shard = network.shard;
        let required = snapshot.meta.last_log_id.map_or(0, |id| id.index);
        let opened = network
            .peers
            .transport
            .open(&node.address, Class::Bulk, Method::RaftSnapshot);
        let (sender, receiver) = opened.await.map_err(peer)?;
        let mut stream = ChunkStream {
            sender,
            receiver,
            next: 0,
            acked: 0,
            holds: &self.holds,
            shard,
            target,
        };
        let mut offer = pb::SnapshotOffer {
            envelope: Some(network.peers.envelope(shard, target, node)),
            vote: Some(convert::pb_vote(&vote)),
            required_index: required,
            ..Default::default()
        };
        let begun = stream.exchange(&offer).await?;
        // The log may be purged while the checkpoint is made, which holds no less than this.
        self.holds.begin(shard, target, required);
        let sources = self.sources.clone();
        let reading = blocking(move || sources.open(shard, required, &begun.resume_id)).await?;
        self.holds.begin(shard, target, reading.index());
        offer.snapshot_id = reading.id();
        offer.last_log_id = reading.meta.last_log_id.as_ref().map(convert::pb_log_id);
        offer.membership = Some(convert::pb_stored_membership(&reading.meta.last_membership));
        let begun = stream.exchange(&offer).await?;
        tracing::info!(%shard, target, snapshot = offer.snapshot_id, from_chunk = begun.next_chunk, "sending a snapshot");
        stream.next = begun.next_chunk;
        stream.acked = begun.next_chunk;
        let after = Position::decode(&begun.resume_after)?;
        self.send_chunks(&mut stream, &reading, after).await?;
        let vote = stream.installed().await?;
        tracing::info!(%shard, target, "the snapshot is installed");
        blocking(move || Ok(reading.finish()?)).await?;
        Ok(vote)
    }

    /// Sends what comes after a position.
    async fn send_chunks(
        &self,
        stream: &mut ChunkStream<'_>,
        reading: &Reading,
        after: Position,
    ) -> Result<(), TransferError> {
        let (shard, bytes) = (stream.shard, self.chunk_bytes);
        let mut position = Some(after);
        while let Some(after) = position {
            let source = reading.source.clone();
            let chunk = blocking(move || next_chunk(&*source, shard, &after, bytes)).await?;
            position = chunk.next;
            self.status.set(
                shard,
                Some(format!(
                    "sending to node {}: chunk {}",
                    stream.target, stream.next
                )),
            );
            self.metrics.snapshot_sent(chunk.data.len());
            let pause = Duration::from_secs_f64(chunk.data.len() as f64 / SNAPSHOT_BYTES_PER_SECOND as f64);
            stream.send(chunk.data, position.is_none()).await?;
            if position.is_some() {
                sleep(pause).await;
            }
        }
        Ok(())
    }
}

/// The sending side of a dialogue, with a window of unacknowledged chunks.
struct ChunkStream<'a> {
    sender: StreamSender,
    receiver: StreamReceiver,
    next: u64,
    acked: u64,
    holds: &'a Holds,
    shard: ShardId,
    target: u64,
}

impl ChunkStream<'_> {
    async fn exchange(&mut self, offer: &pb::SnapshotOffer) -> Result<pb::SnapshotAck, TransferError> {
        let message = pb::SnapshotChunk {
            offer: Some(offer.clone()),
            ..Default::default()
        };
        self.sender
            .send(message.encode_to_vec().into())
            .await
            .map_err(peer)?;
        self.receive_ack().await
    }

    /// The next answer. A receiver that is busy says so in time, and is waited for.
    async fn receive_ack(&mut self) -> Result<pb::SnapshotAck, TransferError> {
        loop {
            let bytes = timeout(SNAPSHOT_PATIENCE, self.receiver.next())
                .await
                .map_err(|_| peer(format!("no answer within {SNAPSHOT_PATIENCE:?}")))?
                .ok_or_else(|| peer("the peer closed the stream"))?
                .map_err(peer)?;
            let ack = pb::SnapshotAck::decode(bytes).map_err(peer)?;
            if !ack.error.is_empty() {
                return Err(peer(ack.error));
            }
            self.holds.heard(self.shard, self.target);
            if !ack.busy {
                return Ok(ack);
            }
        }
    }

    async fn send(&mut self, data: Bytes, last: bool) -> Result<(), TransferError> {
        while self.next - self.acked >= MAX_SNAPSHOT_CHUNKS_IN_FLIGHT {
            self.acked = self.receive_ack().await?.next_chunk;
        }
        let crc32c = crc32c::crc32c(&data);
        let chunk = pb::SnapshotChunk {
            number: self.next,
            data,
            crc32c,
            last,
            ..Default::default()
        };
        self.next += 1;
        let sending = self.sender.send(chunk.encode_to_vec().into());
        let sent = timeout(SNAPSHOT_PATIENCE, sending)
            .await
            .map_err(|_| peer("the peer does not take data"))?;
        match sent {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reason().await),
        }
    }

    /// Why the peer takes no more: it says so after the acknowledgements that are still on their way.
    async fn reason(&mut self) -> TransferError {
        loop {
            if let Err(error) = self.receive_ack().await {
                return error;
            }
        }
    }

    async fn installed(&mut self) -> Result<Vote, TransferError> {
        loop {
            let ack = self.receive_ack().await?;
            if ack.installed {
                return convert::from_pb_vote(ack.vote.as_ref()).map_err(peer);
            }
        }
    }
}
