//! The sending half of a transfer: which checkpoint is read, and the window of chunks on their way.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use kvsvr_client::transport::{Class, Method, StreamReceiver, StreamSender};
use kvsvr_core::{
    engine::{EngineError, EngineRead},
    types::ShardId,
};
use kvsvr_proto::v1 as pb;
use parking_lot::Mutex;
use prost::Message;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Checkpoints, Snapshot, TransferError, TransferStatus,
    chunk::{Position, next_chunk},
    meta_of, peer,
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
};

/// Sends snapshots of this node's shards.
pub struct SnapshotSender {
    checkpoints: Arc<dyn Checkpoints>,
    /// How many transfers read a checkpoint, by its name. Locked while checkpoints come and go.
    readers: Mutex<BTreeMap<String, usize>>,
    /// Tells this node's snapshots from others'.
    store_id: String,
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
            checkpoints,
            readers: Mutex::default(),
            store_id,
            chunk_bytes: SNAPSHOT_CHUNK_BYTES,
            slots: Semaphore::new(MAX_SNAPSHOTS_SENDING),
            status,
            metrics,
        }
    }

    /// Removes checkpoints that no transfer can use any more: all but the newest of each shard and those that are being sent.
    pub fn remove_stale(&self) -> Result<(), EngineError> {
        self.remove_stale_but(&self.readers.lock())
    }

    fn remove_stale_but(&self, readers: &BTreeMap<String, usize>) -> Result<(), EngineError> {
        let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
        let parsed: Vec<_> = self
            .checkpoints
            .list()?
            .into_iter()
            .map(|name| (parse_name(&name), name))
            .collect();
        for (shard, index) in parsed.iter().filter_map(|(p, _)| *p) {
            let entry = newest.entry(shard).or_default();
            *entry = (*entry).max(index);
        }
        for (parsed, name) in &parsed {
            let newest = parsed.is_some_and(|(shard, index)| newest.get(&shard) == Some(&index));
            if !newest && !readers.contains_key(name) {
                self.checkpoints.remove(name)?;
            }
        }
        Ok(())
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
        let (sender, mut receiver) = opened.await.map_err(peer)?;
        let mut offer = pb::SnapshotOffer {
            envelope: Some(network.peers.envelope(shard, target, node)),
            vote: Some(convert::pb_vote(&vote)),
            required_index: required,
            ..Default::default()
        };
        let begun = exchange(&sender, &mut receiver, &offer).await?;
        let (reading, source) = self.source(shard, required, &begun.resume_id)?;
        let meta = meta_of(&*source, shard)?.ok_or_else(|| peer("the checkpoint is empty"))?;
        // Another checkpoint of the same name may hold a newer state; at equal positions the states are equal.
        let position = meta.last_log_id.map_or(0, |id| id.index);
        offer.snapshot_id = format!("{}/{}@{position}", self.store_id, reading.name);
        offer.last_log_id = meta.last_log_id.as_ref().map(convert::pb_log_id);
        offer.membership = Some(convert::pb_stored_membership(&meta.last_membership));
        let begun = exchange(&sender, &mut receiver, &offer).await?;
        tracing::info!(%shard, target, snapshot = offer.snapshot_id, from_chunk = begun.next_chunk, "sending a snapshot");
        let mut stream = ChunkStream {
            sender,
            receiver,
            next: begun.next_chunk,
            acked: begun.next_chunk,
        };
        let mut position = Some(Position::decode(&begun.resume_after)?);
        while let Some(after) = position {
            let chunk = next_chunk(&*source, shard, &after, self.chunk_bytes)?;
            position = chunk.next;
            self.status.set(
                shard,
                Some(format!("sending to node {target}: chunk {}", stream.next)),
            );
            self.metrics.snapshot_sent(chunk.data.len());
            let pause = Duration::from_secs_f64(chunk.data.len() as f64 / SNAPSHOT_BYTES_PER_SECOND as f64);
            stream.send(chunk.data, position.is_none()).await?;
            if position.is_some() {
                tokio::time::sleep(pause).await;
            }
        }
        let vote = stream.installed().await?;
        tracing::info!(%shard, target, "the snapshot is installed");
        reading.finish()?;
        Ok(vote)
    }

    /// The checkpoint that the receiver has begun to receive, if it is ours and new enough; else a new one.
    fn source(
        &self,
        shard: ShardId,
        required: u64,
        resume: &str,
    ) -> Result<(Reading<'_>, Source), TransferError> {
        let ours = resume
            .strip_prefix(&self.store_id)
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|rest| rest.rsplit_once('@'))
            .map(|(name, _)| name);
        let of_shard = |name: &str| parse_name(name).is_some_and(|(s, _)| s == shard.0);
        let mut readers = self.readers.lock();
        if let Some(name) = ours.filter(|name| of_shard(name))
            && let Some(source) = self.checkpoints.open(name)?
            // What it holds decides, not its name: making a checkpoint flushes, so after a restart of this node more is required
            // than when it was named.
            && applied_index(&*source, shard)? >= required
        {
            return Ok((self.reading(&mut readers, name.to_owned()), source));
        }
        // The name holds the required index, a lower bound of what is in it: the flush may have gone on meanwhile.
        let name = format!("{}-{required}", shard.0);
        if self.checkpoints.open(&name)?.is_none() {
            self.checkpoints.create(&name)?;
        }
        let source = self
            .checkpoints
            .open(&name)?
            .ok_or_else(|| peer("the new checkpoint vanished"))?;
        let reading = self.reading(&mut readers, name);
        self.remove_stale_but(&readers)?;
        Ok((reading, source))
    }

    fn reading(&self, readers: &mut BTreeMap<String, usize>, name: String) -> Reading<'_> {
        *readers.entry(name.clone()).or_default() += 1;
        Reading { sender: self, name }
    }
}

/// The last log index applied to a state; 0 before the first.
fn applied_index(source: &dyn EngineRead, shard: ShardId) -> Result<u64, TransferError> {
    let meta = meta_of(source, shard)?;
    Ok(meta.and_then(|meta| meta.last_log_id).map_or(0, |id| id.index))
}

type Source = Box<dyn EngineRead + Send + Sync>;

/// A transfer's use of a checkpoint. Several may read the same one; it outlives those that are interrupted.
struct Reading<'a> {
    sender: &'a SnapshotSender,
    name: String,
}

impl Reading<'_> {
    /// The transfer is complete: nothing goes on from this checkpoint, unless others read it.
    fn finish(self) -> Result<(), EngineError> {
        let readers = self.sender.readers.lock();
        let result = match readers.get(&self.name) {
            Some(1) => self.sender.checkpoints.remove(&self.name),
            _ => Ok(()),
        };
        drop(readers);
        result
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut readers = self.sender.readers.lock();
        match readers.get_mut(&self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(readers.remove(&self.name)),
        }
    }
}

fn parse_name(name: &str) -> Option<(u32, u64)> {
    let (shard, index) = name.split_once('-')?;
    Some((shard.parse().ok()?, index.parse().ok()?))
}

async fn exchange(
    sender: &StreamSender,
    receiver: &mut StreamReceiver,
    offer: &pb::SnapshotOffer,
) -> Result<pb::SnapshotAck, TransferError> {
    let message = pb::SnapshotChunk {
        offer: Some(offer.clone()),
        ..Default::default()
    };
    sender.send(message.encode_to_vec().into()).await.map_err(peer)?;
    receive_ack(receiver).await
}

async fn receive_ack(receiver: &mut StreamReceiver) -> Result<pb::SnapshotAck, TransferError> {
    let bytes = timeout(SNAPSHOT_PATIENCE, receiver.next())
        .await
        .map_err(|_| peer(format!("no answer within {SNAPSHOT_PATIENCE:?}")))?
        .ok_or_else(|| peer("the peer closed the stream"))?
        .map_err(peer)?;
    let ack = pb::SnapshotAck::decode(bytes).map_err(peer)?;
    if ack.error.is_empty() {
        Ok(ack)
    } else {
        Err(peer(ack.error))
    }
}

/// The sending side of a transfer: a window of unacknowledged chunks.
struct ChunkStream {
    sender: StreamSender,
    receiver: StreamReceiver,
    next: u64,
    acked: u64,
}

impl ChunkStream {
    async fn send(&mut self, data: Bytes, last: bool) -> Result<(), TransferError> {
        while self.next - self.acked >= MAX_SNAPSHOT_CHUNKS_IN_FLIGHT {
            self.acked = receive_ack(&mut self.receiver).await?.next_chunk;
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
            if let Err(error) = receive_ack(&mut self.receiver).await {
                return error;
            }
        }
    }

    async fn installed(&mut self) -> Result<Vote, TransferError> {
        loop {
            let ack = receive_ack(&mut self.receiver).await?;
            if ack.installed {
                return convert::from_pb_vote(ack.vote.as_ref()).map_err(peer);
            }
        }
    }
}
