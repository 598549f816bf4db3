//! Snapshot transfer: a shard's key ranges in checksummed chunks, resumable from either side.
//!
//! A snapshot is the engine's last flush, kept as a *checkpoint* under a name (hard links in RocksDB: no copy is made). Because
//! the checkpoint survives a restart of the sender and the received chunks survive one of the receiver, a transfer that was
//! interrupted goes on where it stopped. The receiver stages all chunks in a file before it touches the shard, then installs them
//! under a marker, so that a crash in the middle is repaired by installing again at the next start.
//!
//! Dialogue on one stream ([`Class::Bulk`], so replication never waits for it): the sender offers without naming a snapshot; the
//! receiver answers which transfer it has begun and how far it got; the sender offers that one again, or a new one; then chunks
//! and acknowledgements; after the last chunk the receiver installs and answers with its vote.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvsvr_client::transport::{Class, Method, StreamReceiver, StreamSender};
use kvsvr_core::{
    engine::{Cf, Engine, EngineError, EngineRead, Scan, WriteBatch},
    keys,
    read::shard_head,
    types::ShardId,
};
use kvsvr_proto::v1 as pb;
use openraft::storage::SnapshotMeta;
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    sync::{OwnedMutexGuard, Semaphore},
    time::timeout,
};

use super::{
    convert,
    network::NetworkFactory,
    types::{LogId, PeerNode, StoredMembership, TypeConfig, Vote, of},
};
use crate::{
    disk::{DiskFile, DynDisk},
    limits::{
        MAX_SNAPSHOT_CHUNKS_IN_FLIGHT, MAX_SNAPSHOTS_SENDING, SNAPSHOT_BYTES_PER_SECOND,
        SNAPSHOT_CHUNK_BYTES, SNAPSHOT_PATIENCE,
    },
    metrics::Metrics,
};

/// What openraft carries from the builder to the network, and from the network to the state machine.
#[derive(Debug)]
pub enum SnapshotData {
    /// The local engine's durable state; turned into a checkpoint when it is sent.
    Local,
    /// Chunks staged by [`SnapshotReceiver`], complete and verified.
    Staged(Staged),
}

/// openraft's snapshot with our data.
pub type Snapshot = of::SnapshotOf<TypeConfig, SnapshotData>;
type Meta = of::SnapshotMetaOf<TypeConfig>;

/// Named, durable views of the engine's flushed state.
pub trait Checkpoints: Send + Sync + 'static {
    /// Makes one. Blocks. An existing one of that name is an error.
    fn create(&self, name: &str) -> Result<(), EngineError>;
    /// Opens one for reading, if it is there. Blocks.
    fn open(&self, name: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError>;
    /// Removes one, if it is there. Blocks.
    fn remove(&self, name: &str) -> Result<(), EngineError>;
    /// The names of all.
    fn list(&self) -> Result<Vec<String>, EngineError>;
}

/// The durable state of an engine, for reads of single keys.
pub struct Durable<'a>(pub &'a dyn Engine);

impl EngineRead for Durable<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get_durable(cf, key)
    }
    fn scan(&self, _: Cf, _: Scan<'_>, _: kvsvr_core::engine::Visit<'_>) -> Result<(), EngineError> {
        Err(EngineError::Io("the durable state has no scans".into()))
    }
}

/// The snapshot meta of a state: its applied position and membership. `None` if nothing was applied yet.
pub fn meta_of(engine: &dyn EngineRead, shard: ShardId) -> Result<Option<Meta>, std::io::Error> {
    let head = shard_head(engine, shard).map_err(std::io::Error::other)?;
    let Some(applied) = head.applied else {
        return Ok(None);
    };
    let last_membership =
        convert::decode_stored_membership(&head.membership).map_err(std::io::Error::other)?;
    Ok(Some(SnapshotMeta {
        last_log_id: Some(convert::log_id(applied)),
        last_membership,
    }))
}

/// Why a transfer failed; it is tried again later.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The network or the peer.
    #[error("snapshot transfer: {0}")]
    Peer(String),
    /// The local engine.
    #[error("snapshot source: {0}")]
    Engine(#[from] EngineError),
    /// The local disk.
    #[error("snapshot staging: {0}")]
    Io(#[from] std::io::Error),
    /// What was received and checked is not any more what it was.
    #[error("snapshot staging: {path} is incomplete or damaged at byte {byte}; {then}")]
    Damaged {
        /// Relative to the data directory.
        path: String,
        /// Where the first frame starts that is not valid.
        byte: u64,
        /// What happens then.
        then: &'static str,
    },
}

fn peer(error: impl ToString) -> TransferError {
    TransferError::Peer(error.to_string())
}

/// What is being transferred, for status.
#[derive(Debug, Default)]
pub struct TransferStatus(Mutex<BTreeMap<ShardId, String>>);

impl TransferStatus {
    fn set(&self, shard: ShardId, text: Option<String>) {
        let mut map = self.0.lock();
        match text {
            Some(text) => map.insert(shard, text),
            None => map.remove(&shard),
        };
    }
    /// One line for a shard; empty if nothing is going on.
    pub fn get(&self, shard: ShardId) -> String {
        self.0.lock().get(&shard).cloned().unwrap_or_default()
    }
}

/// Sends snapshots of this node's shards.
pub struct SnapshotSender {
    checkpoints: Arc<dyn Checkpoints>,
    /// How many transfers read a checkpoint, by its name. Locked while checkpoints come and go.
    readers: Mutex<BTreeMap<String, usize>>,
    /// Tells this node's snapshots from others'.
    store_id: String,
    /// Bytes of a chunk; one pair may pass it.
    pub(super) chunk_bytes: usize,
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

/// Where a chunk ends: the last pair in it. The default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Number of the column family; `key` is empty before its first pair.
    cf: u8,
    key: Bytes,
}

impl Position {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + self.key.len());
        out.put_u8(self.cf);
        out.put_slice(&self.key);
        out.freeze()
    }
    fn decode(bytes: &Bytes) -> Result<Self, TransferError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        if usize::from(bytes[0]) >= Cf::ALL.len() {
            return Err(peer("the resume position is malformed"));
        }
        Ok(Self {
            cf: bytes[0],
            key: bytes.slice(1..),
        })
    }
}

pub(super) struct Chunk {
    pub(super) data: Bytes,
    /// Where the next one starts; `None` after the last.
    pub(super) next: Option<Position>,
}

/// The pairs after a position, up to about `bytes`: (cf u8, key length u32, value length u32, key, value)*.
pub(super) fn next_chunk(
    source: &dyn EngineRead,
    shard: ShardId,
    after: &Position,
    bytes: usize,
) -> Result<Chunk, TransferError> {
    let mut data = BytesMut::new();
    let mut position = after.clone();
    let (first, end) = keys::shard_range(shard);
    while let Some(cf) = Cf::ALL.get(usize::from(position.cf)).copied() {
        let mut start = BytesMut::from(if position.key.is_empty() {
            &first[..]
        } else {
            &position.key[..]
        });
        if !position.key.is_empty() {
            start.put_u8(0); // the smallest key after it
        }
        let mut last = None;
        let scan = Scan {
            start: &start,
            end: &end,
            reverse: false,
        };
        source.scan(cf, scan, &mut |key, value| {
            put_pair(&mut data, position.cf, key, value);
            if data.len() < bytes {
                return ControlFlow::Continue(());
            }
            last = Some(Bytes::copy_from_slice(key));
            ControlFlow::Break(())
        })?;
        if let Some(key) = last {
            let next = Some(Position { cf: position.cf, key });
            return Ok(Chunk {
                data: data.freeze(),
                next,
            });
        }
        position = Position {
            cf: position.cf + 1,
            key: Bytes::new(),
        };
    }
    Ok(Chunk {
        data: data.freeze(),
        next: None,
    })
}

pub(crate) fn put_pair(out: &mut BytesMut, cf: u8, key: &[u8], value: &[u8]) {
    out.put_u8(cf);
    out.put_u32_le(key.len() as u32);
    out.put_u32_le(value.len() as u32);
    out.put_slice(key);
    out.put_slice(value);
}

/// Calls `each` for the pairs of a chunk; an error if it is malformed.
pub(crate) fn pairs(mut data: Bytes, mut each: impl FnMut(Cf, Bytes, Bytes)) -> Result<(), TransferError> {
    while data.has_remaining() {
        let malformed = || peer("a chunk is malformed");
        if data.remaining() < 9 {
            return Err(malformed());
        }
        let cf = Cf::ALL
            .get(usize::from(data.get_u8()))
            .copied()
            .ok_or_else(malformed)?;
        let (key_len, value_len) = (data.get_u32_le() as usize, data.get_u32_le() as usize);
        if data.remaining() < key_len + value_len {
            return Err(malformed());
        }
        let key = data.split_to(key_len);
        each(cf, key, data.split_to(value_len));
    }
    Ok(())
}

/// A complete, verified snapshot in `staging/<shard>/`.
#[derive(Debug)]
pub struct Staged {
    shard: ShardId,
    disk: DynDisk,
    /// Keeps other transfers from the staging directory for as long as this is in use.
    exclusive: Option<Exclusive>,
}

type Exclusive = Arc<OwnedMutexGuard<()>>;

/// The offer of a transfer that is being received (encoded [`pb::SnapshotOffer`]).
const OFFER: &str = "OFFER";
/// The offer of a transfer that is complete: it is installed now, again after a crash.
const INSTALL: &str = "INSTALL";
/// Frames {number u64, length u32, crc32c u32, data}.
const CHUNKS: &str = "chunks";
const FRAME_HEADER: usize = 16;
/// Set in the number of the last chunk's frame.
const LAST_FRAME: u64 = 1 << 63;

fn staging(shard: ShardId) -> String {
    format!("staging/{shard}")
}

impl Staged {
    /// The transfer that a crash interrupted while it was being installed, if there is one.
    pub async fn interrupted(disk: &DynDisk, shard: ShardId) -> std::io::Result<Option<Staged>> {
        let names = disk.list(&staging(shard)).await?;
        let found = names.iter().any(|n| n == INSTALL);
        Ok(found.then(|| Staged {
            shard,
            disk: disk.clone(),
            exclusive: None,
        }))
    }

    /// Replaces the shard's content by the staged one. Atomic over crashes together with [`Staged::interrupted`].
    pub async fn install(self, engine: &dyn Engine) -> Result<(), TransferError> {
        let dir = staging(self.shard);
        let begun = self.disk.list(&dir).await?.iter().any(|name| name == INSTALL);
        let file = self.disk.open(&format!("{dir}/{CHUNKS}"), false).await?;
        let mut check = FrameReader::new(file.clone()).await?;
        while check.next().await?.is_some() {}
        if !check.complete {
            return Err(TransferError::Damaged {
                path: format!("{dir}/{CHUNKS}"),
                byte: check.offset,
                then: if begun {
                    "the shard was being replaced by it, so this replica cannot start: replace this node by a new one"
                } else {
                    "it is sent again from there"
                },
            });
        }
        if !begun {
            self.disk
                .rename(&format!("{dir}/{OFFER}"), &format!("{dir}/{INSTALL}"))
                .await?;
            self.disk.sync_dir(&dir).await?;
        }
        let mut clear = WriteBatch::default();
        let (start, end) = keys::shard_range(self.shard);
        for cf in Cf::ALL {
            clear.delete_range(cf, start.clone(), end.clone());
        }
        engine.write(clear)?;
        let mut reader = FrameReader::new(file).await?;
        while let Some(data) = reader.next().await? {
            let mut batch = WriteBatch::default();
            pairs(data, |cf, key, value| batch.put(cf, key, value))?;
            engine.write(batch)?;
        }
        engine.flush()?;
        remove(&self.disk, self.shard).await?;
        drop(self.exclusive);
        Ok(())
    }
}

/// Removes what is staged, if there is anything.
async fn remove(disk: &DynDisk, shard: ShardId) -> std::io::Result<()> {
    let dir = staging(shard);
    if disk.list(&dir).await?.is_empty() {
        return Ok(());
    }
    // The marker goes first, durably: with it and without the chunks the node could not start.
    disk.remove(&format!("{dir}/{INSTALL}")).await?;
    disk.sync_dir(&dir).await?;
    disk.remove_dir(&dir).await?;
    disk.sync_dir("staging").await
}

/// Reads the valid frames of a chunk file, and stops at the first that is not.
struct FrameReader {
    file: Arc<dyn DiskFile>,
    offset: u64,
    len: u64,
    frames: u64,
    /// The frame of the last chunk was read.
    complete: bool,
}

impl FrameReader {
    async fn new(file: Arc<dyn DiskFile>) -> std::io::Result<Self> {
        let len = file.len().await?;
        Ok(Self {
            file,
            offset: 0,
            len,
            frames: 0,
            complete: false,
        })
    }

    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        if self.len - self.offset < FRAME_HEADER as u64 {
            return Ok(None);
        }
        let mut header = self.file.read_at(self.offset, FRAME_HEADER).await?;
        let (number, len, crc) = (header.get_u64_le(), header.get_u32_le(), header.get_u32_le());
        let start = self.offset + FRAME_HEADER as u64;
        if number & !LAST_FRAME != self.frames || u64::from(len) > self.len - start {
            return Ok(None);
        }
        let data = self.file.read_at(start, len as usize).await?;
        if crc32c::crc32c(&data) != crc {
            return Ok(None);
        }
        self.offset = start + u64::from(len);
        self.frames += 1;
        self.complete = number & LAST_FRAME != 0;
        Ok(Some(data))
    }
}

/// Receives snapshots into the staging directory.
#[derive(Clone)]
pub struct SnapshotReceiver {
    disk: DynDisk,
    /// One transfer at a time for each shard. The lock goes with the staged snapshot: the task that serves a transfer may be
    /// dropped while Raft installs what it has received.
    locks: Arc<Mutex<BTreeMap<ShardId, Arc<tokio::sync::Mutex<()>>>>>,
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
    /// Where the last chunk ends.
    position: Position,
}

impl SnapshotReceiver {
    /// Stages on `disk`.
    pub fn new(disk: DynDisk, status: Arc<TransferStatus>, metrics: Arc<Metrics>) -> Self {
        Self {
            disk,
            locks: Arc::default(),
            status,
            metrics,
        }
    }

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
        let exclusive = self.exclusive(shard).await;
        let received = self.receive_chunks(shard, first, input, output).await;
        self.status.set(shard, None);
        let staging = received?;
        staging.file.sync().await?;
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
        let vote = install(vote, meta, SnapshotData::Staged(staged))
            .await
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
        let begun = self.resume(shard).await?;
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
            staging.append(chunk).await?;
            if last {
                return Ok(staging);
            }
            reply(output, staging.ack()).await?;
        }
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
        Ok(Some(Staging {
            offer,
            range: keys::shard_range(shard),
            file,
            offset: reader.offset,
            chunks: reader.frames,
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
            .write_at(0, vec![offer.encode_to_vec().into()], true)
            .await?;
        marker.sync().await?;
        self.disk.sync_dir(&dir).await?;
        self.disk.sync_dir("staging").await?;
        Ok(Staging {
            offer,
            range: keys::shard_range(shard),
            file,
            offset: 0,
            chunks: 0,
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
            .write_at(self.offset, vec![header.freeze(), chunk.data], true)
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

async fn reply(output: &StreamSender, ack: pb::SnapshotAck) -> Result<(), TransferError> {
    output.send(ack.encode_to_vec().into()).await.map_err(peer)
}
