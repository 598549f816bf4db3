//! The two sides of a snapshot transfer, with the trouble that may come between them.

use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering},
};

use kvsvr_client::transport::STREAM_QUEUE;
use kvsvr_core::{
    engine::{EngineSnapshot, WriteBatch},
    types::Revision,
};
use kvsvr_proto::v1 as pb;
use tokio::sync::Notify;

use super::*;
use crate::{
    disk::{DynDisk, mem::MemDisk},
    metrics::Metrics,
    raft::{
        network::{NetworkFactory, Peers},
        promises::Promises,
        snapshot::{
            Snapshot, SnapshotData, SnapshotReceiver, SnapshotSender, TransferError, TransferStatus, meta_of,
        },
        types::{TypeConfig, Vote, of},
    },
};

pub(super) type Meta = of::SnapshotMetaOf<TypeConfig>;

type AfterWrite = Box<dyn Fn(u64) -> Result<(), EngineError> + Send + Sync>;

/// An engine that does something after each write, which it is told the number of. Refuses to block the async tasks.
pub(super) struct Hooked {
    inner: Arc<MemEngine>,
    after_write: AfterWrite,
    writes: AtomicU64,
    /// The thread of the async tasks.
    not_on: ThreadId,
}

impl Hooked {
    pub(super) fn new(
        inner: Arc<MemEngine>,
        after_write: impl Fn(u64) -> Result<(), EngineError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            after_write: Box::new(after_write),
            writes: AtomicU64::new(0),
            not_on: thread::current().id(),
        }
    }
}

impl EngineRead for Hooked {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.get(cf, key)
    }
    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.inner.scan(cf, range, visit)
    }
}

impl Engine for Hooked {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        assert_ne!(self.not_on, thread::current().id(), "writing blocks");
        self.inner.write(batch)?;
        (self.after_write)(self.writes.fetch_add(1, Ordering::Relaxed) + 1)
    }
    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        self.inner.snapshot()
    }
    fn flush(&self) -> Result<(), EngineError> {
        assert_ne!(self.not_on, thread::current().id(), "flushing blocks");
        self.inner.flush()
    }
    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.get_durable(cf, key)
    }
    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.inner.set_garbage_floor(shard, floor);
    }
}

/// The offer of a snapshot.
pub(super) fn offer(snapshot_id: &str, meta: &Meta) -> pb::SnapshotOffer {
    pb::SnapshotOffer {
        vote: Some(convert::pb_vote(&Vote::new(2, 1))),
        snapshot_id: snapshot_id.to_owned(),
        last_log_id: meta.last_log_id.as_ref().map(convert::pb_log_id),
        membership: Some(convert::pb_stored_membership(&meta.last_membership)),
        ..Default::default()
    }
}

pub(super) fn offer_message(offer: &pb::SnapshotOffer) -> Bytes {
    let message = pb::SnapshotChunk {
        offer: Some(offer.clone()),
        ..Default::default()
    };
    message.encode_to_vec().into()
}

pub(super) fn chunk_message(number: u64, data: Bytes, last: bool) -> Bytes {
    let message = pb::SnapshotChunk {
        number,
        crc32c: crc32c::crc32c(&data),
        data,
        last,
        ..Default::default()
    };
    message.encode_to_vec().into()
}

/// What happens to the chunks on the way to the receiver.
#[derive(Clone, Default)]
pub(super) struct Trouble {
    /// Both sides stop for good when the receiver has taken so many chunks.
    pub(super) cut_after: Option<usize>,
    /// A bit of the data of this chunk flips.
    pub(super) damage: Option<usize>,
    /// The receiver gets no more than so many chunks until it is told to go on.
    pub(super) wait: Option<(usize, Arc<Notify>)>,
}

/// The receiver's end of the stream.
struct Incoming {
    requests: mpsc::Receiver<Bytes>,
    trouble: Trouble,
    /// Numbers of the chunks that came.
    seen: Arc<Mutex<Vec<u64>>>,
    cut: Arc<Notify>,
}

impl Incoming {
    fn pass(&self, message: Bytes) -> Bytes {
        let mut chunk = pb::SnapshotChunk::decode(message.clone()).unwrap();
        if chunk.offer.is_some() {
            return message;
        }
        let mut seen = self.seen.lock();
        seen.push(chunk.number);
        if self.trouble.damage == Some(seen.len() - 1) {
            let mut data = chunk.data.to_vec();
            let middle = data.len() / 2;
            data[middle] ^= 4;
            chunk.data = data.into();
            return chunk.encode_to_vec().into();
        }
        message
    }
}

impl ReceiveMessages for Incoming {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        Box::pin(async {
            if self.trouble.cut_after == Some(self.seen.lock().len()) {
                // The one before was taken completely, or this one would not be asked for.
                self.cut.notify_one();
                return pending().await;
            }
            if let Some((_, gate)) = self
                .trouble
                .wait
                .take_if(|(after, _)| *after == self.seen.lock().len())
            {
                gate.notified().await;
            }
            let message = self.requests.recv().await?;
            Some(Ok(self.pass(message)))
        })
    }
}

/// A stream without trouble.
pub(super) fn plain(requests: mpsc::Receiver<Bytes>) -> StreamReceiver {
    StreamReceiver::new(Incoming {
        requests,
        trouble: Trouble::default(),
        seen: Arc::default(),
        cut: Arc::default(),
    })
}

/// A node that sends.
pub(super) struct Source {
    pub(super) engine: Arc<MemEngine>,
    pub(super) checkpoints: Arc<MemCheckpoints>,
    store: &'static str,
    pub(super) sender: SnapshotSender,
}

impl Source {
    /// Its shard has applied the entries up to `last`.
    pub(super) fn new(store: &'static str, last: u64) -> Self {
        let engine = Arc::new(MemEngine::new());
        apply(&*engine, SHARD, last, 0);
        apply(&*engine, OTHER_SHARD, 9, 1);
        let checkpoints = Arc::new(MemCheckpoints {
            engine: Mutex::new(engine.clone()),
            not_on: Some(thread::current().id()),
            ..Default::default()
        });
        Self::on(store, engine, checkpoints)
    }

    pub(super) fn on(store: &'static str, engine: Arc<MemEngine>, checkpoints: Arc<MemCheckpoints>) -> Self {
        let status = Arc::new(TransferStatus::default());
        let mut sender = SnapshotSender::new(checkpoints.clone(), store.into(), status, Metrics::new());
        sender.chunk_bytes = 300;
        Self {
            engine,
            checkpoints,
            store,
            sender,
        }
    }

    /// The node as it comes back after a power failure.
    pub(super) fn restarted(self) -> Self {
        let engine = Arc::new(self.engine.crash());
        *self.checkpoints.engine.lock() = engine.clone();
        let back = Self::on(self.store, engine, self.checkpoints);
        back.sender.remove_stale().unwrap();
        back
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            meta: meta_of(&*self.engine, SHARD).unwrap().unwrap(),
            snapshot: SnapshotData::Local,
        }
    }
}

/// Bytes that a receiver leaves free.
pub(super) const RESERVE: u64 = 5_000;

/// A node that receives.
pub(super) struct Target {
    pub(super) engine: Arc<MemEngine>,
    pub(super) disk: MemDisk,
    pub(super) receiver: SnapshotReceiver,
    pub(super) install_takes: Duration,
}

impl Target {
    pub(super) fn new() -> Self {
        Self::on(Arc::new(MemEngine::new()), MemDisk::new(1))
    }

    pub(super) fn on(engine: Arc<MemEngine>, disk: MemDisk) -> Self {
        let status = Arc::new(TransferStatus::default());
        let receiver = SnapshotReceiver::new(Arc::new(disk.clone()), RESERVE, status, Metrics::new());
        Self {
            engine,
            disk,
            receiver,
            install_takes: Duration::ZERO,
        }
    }

    /// The node as it comes back after a power failure, before it does anything.
    pub(super) fn crashed(&self, seed: u64) -> Self {
        Self::on(Arc::new(self.engine.crash()), self.disk.crash(seed))
    }

    pub(super) fn dyn_disk(&self) -> DynDisk {
        Arc::new(self.disk.clone())
    }

    pub(super) fn staged_files(&self) -> Vec<String> {
        let paths = self.disk.paths().into_iter();
        paths.filter(|path| path.starts_with("staging/")).collect()
    }

    /// What Raft does with a complete snapshot: it installs it unless it is older than what is applied.
    pub(super) async fn install(
        engine: Arc<dyn Engine>,
        meta: Meta,
        data: SnapshotData,
    ) -> Result<Vote, String> {
        let applied = Machine::load(SHARD, &*engine).unwrap().applied();
        let SnapshotData::Staged(staged) = data else {
            return Err("not a staged snapshot".into());
        };
        if meta.last_log_id > applied.map(convert::log_id) {
            staged.install(engine).await.map_err(|e| e.to_string())?;
        }
        Ok(Vote::new(2, 1))
    }

    /// Serves one stream as a node does.
    async fn serve(
        &self,
        mut input: StreamReceiver,
        answers: Answers,
        engine: Arc<dyn Engine>,
    ) -> Result<(), TransferError> {
        let (output, acks) = mpsc::channel(STREAM_QUEUE);
        let install = |_, meta, data| async {
            tokio::time::sleep(self.install_takes).await;
            Self::install(engine, meta, data).await
        };
        let serving = async {
            let first = pb::SnapshotChunk::decode(input.next().await.unwrap().unwrap()).unwrap();
            let served = self
                .receiver
                .receive(SHARD, first.offer.unwrap(), &mut input, &output, install)
                .await;
            if let Err(error) = &served {
                let ack = pb::SnapshotAck {
                    error: error.to_string(),
                    ..Default::default()
                };
                let _ = output.send(ack.encode_to_vec().into()).await;
            }
            drop(output);
            served
        };
        futures::join!(serving, forward(acks, answers)).0
    }
}

async fn forward(mut from: mpsc::Receiver<Bytes>, to: Answers) {
    while let Some(message) = from.recv().await {
        // The other side may have given up.
        let _ = to.send(Ok(message)).await;
    }
}

/// How a transfer went.
pub(super) struct Outcome {
    /// `None` if it was cut.
    pub(super) sent: Option<Result<Vote, TransferError>>,
    pub(super) chunks: Vec<u64>,
}

/// One transfer. When it is cut, both sides are dropped where they are.
pub(super) async fn transfer(
    source: &Source,
    target: &Target,
    engine: Arc<dyn Engine>,
    trouble: Trouble,
) -> Outcome {
    let (wire, mut ends) = Wire::new(STREAM_QUEUE);
    let (seen, cut) = (Arc::<Mutex<Vec<u64>>>::default(), Arc::<Notify>::default());
    let peers = Peers {
        transport: wire,
        cluster_id: "c".into(),
        node_id: 1,
        store_id: "store-1".into(),
    };
    // The factory holds a sender of snapshots, which a transfer does not use.
    let idle = Source::on("idle", source.engine.clone(), Arc::default());
    let network = NetworkFactory {
        peers,
        shard: SHARD,
        promises: Arc::new(Promises::new(1000)),
        snapshots: Arc::new(idle.sender),
    };
    let node = peer_node(2);
    let sending = source
        .sender
        .send(&network, 2, &node, Vote::new(2, 1), source.snapshot());
    let serving = async {
        let (class, method, end) = ends.recv().await.unwrap();
        assert_eq!((class, method), (Class::Bulk, Method::RaftSnapshot));
        let input = Incoming {
            requests: end.requests,
            trouble,
            seen: seen.clone(),
            cut: cut.clone(),
        };
        // Its error reaches the sender, too.
        let _ = target
            .serve(StreamReceiver::new(input), end.answers, engine)
            .await;
    };
    let sent = tokio::select! { biased;
        (sent, ()) = futures::future::join(sending, serving) => Some(sent),
        () = cut.notified() => None,
    };
    let chunks = seen.lock().clone();
    Outcome { sent, chunks }
}

pub(super) async fn whole(source: &Source, target: &Target) -> Vec<u64> {
    let outcome = transfer(source, target, target.engine.clone(), Trouble::default()).await;
    outcome.sent.unwrap().unwrap();
    outcome.chunks
}

pub(super) async fn cut(source: &Source, target: &Target, after: usize) {
    let trouble = Trouble {
        cut_after: Some(after),
        ..Trouble::default()
    };
    let outcome = transfer(source, target, target.engine.clone(), trouble).await;
    assert!(outcome.sent.is_none() && outcome.chunks.len() == after);
}

/// The target has the shard's state, durably, nothing of other shards, and no leftovers.
pub(super) fn assert_installed(source: &Source, target: &Target) {
    let durable = target.engine.crash();
    assert_eq!(hash(&durable, SHARD), hash(&source.engine, SHARD));
    assert_eq!(hash(&target.engine, SHARD), hash(&source.engine, SHARD));
    assert_eq!(hash(&durable, OTHER_SHARD).0, None);
    assert!(target.staged_files().is_empty(), "{:?}", target.staged_files());
    assert_eq!(source.checkpoints.list().unwrap(), Vec::<String>::new());
}
