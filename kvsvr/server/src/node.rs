//! A node: its replicas, what it knows of the cluster, and who it is. Put together from parts that the simulator has forms of its own of.

mod claims;
mod health;
mod rates;
mod replicas;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kvsvr_client::{mux::NodeStream, transport::Transport};
use kvsvr_core::{
    engine::Engine,
    types::{META_SHARD, ShardId},
};
use kvsvr_proto::v1::{self as pb, ErrorCode};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc};

use crate::{
    budget::Budget,
    buffer::BufferedEngine,
    cache::CacheStats,
    config::Settings,
    disk::DynDisk,
    limits::MAX_FORWARDED_BYTES,
    metrics::Metrics,
    raft::{
        apply::StateMachine,
        network::Peers,
        snapshot::{Checkpoints, SnapshotReceiver, SnapshotSender, TransferStatus},
    },
    shard::{Shard, ShardParts, error},
    store::{Identity, ReplicaRecord, Store},
    time::{Instant, sleep_until},
    topology::{self, SlotTable},
    wal::Wal,
};

/// This release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a node is made of.
pub struct NodeParts {
    /// How it behaves.
    pub settings: Settings,
    /// HOST:PORT that others reach it at.
    pub address: String,
    /// Its data directory.
    pub store: Store,
    /// Its files.
    pub disk: DynDisk,
    /// Its log.
    pub wal: Wal,
    /// Where its state becomes durable; the node puts its write buffer and its row cache before it.
    pub engine: Arc<dyn Engine>,
    /// The engine's checkpoints, for snapshots.
    pub checkpoints: Arc<dyn Checkpoints>,
    /// The way to other nodes.
    pub transport: Arc<dyn Transport>,
    /// One function per observation.
    pub metrics: Arc<Metrics>,
    /// What the process wants to add to the status: bytes on disk, memory, ...
    pub probe: Arc<dyn StatusProbe>,
    /// When this process began, or later: the one before it had ended by then.
    pub started: Instant,
}

/// What only the process around a node knows.
pub trait StatusProbe: Send + Sync + 'static {
    /// Fills in the fields that the node itself does not know.
    fn fill(&self, status: &mut pb::NodeStatus);
}

/// A cluster id as people and messages see it.
pub fn cluster_text(identity: Identity) -> String {
    format!("{:016x}", identity.cluster_id)
}

#[derive(Default)]
struct MapState {
    map: Option<pb::ShardMap>,
    table: SlotTable,
}

/// A running node.
pub struct Node {
    settings: Settings,
    address: String,
    store_id: String,
    store: tokio::sync::Mutex<Store>,
    /// Held while this node becomes a member.
    joining: tokio::sync::Mutex<()>,
    disk: DynDisk,
    wal: Wal,
    buffer: Arc<BufferedEngine>,
    transport: Arc<dyn Transport>,
    metrics: Arc<Metrics>,
    probe: Arc<dyn StatusProbe>,
    transfers: Arc<TransferStatus>,
    receiver: SnapshotReceiver,
    snapshots: Arc<SnapshotSender>,
    identity: RwLock<Option<Identity>>,
    /// The state of replicas that have not started yet.
    recovered: Mutex<BTreeMap<ShardId, StateMachine>>,
    shards: RwLock<BTreeMap<ShardId, Arc<Shard>>>,
    map: RwLock<Arc<MapState>>,
    map_epoch: AtomicU64,
    links: Mutex<BTreeMap<String, NodeStream>>,
    forwarding: Arc<Budget>,
    /// The newest replicas of shards that were made, or destroyed, after the cluster was.
    incarnations: Mutex<BTreeMap<ShardId, ReplicaRecord>>,
    /// The newest of this node's replicas of the meta shard that peers have spoken to.
    meta_incarnation: AtomicU64,
    /// There is a newer one. One task waits for it.
    meta_renewed: Notify,
    /// Why peers' messages were refused last.
    refusal: Mutex<Option<claims::Refusal>>,
    /// The nodes whose places this one was given since it started.
    replaces: Mutex<BTreeSet<u64>>,
    /// Something about the placement of replicas has changed.
    placement_changed: Notify,
    /// Why writes are refused now.
    writes_refused: RwLock<Option<String>>,
    fatal: mpsc::UnboundedSender<String>,
    /// How much of the log was applied when the engine was flushed last.
    flushed_bytes: AtomicU64,
    /// What was counted in the last seconds.
    rates: Mutex<rates::Rates>,
    started: Instant,
}

impl Node {
    /// Starts the replicas that the disk says this node has. The receiver gets the reason when one of them stops by itself: then the
    /// process must end.
    pub async fn start(parts: NodeParts) -> io::Result<(Arc<Node>, mpsc::UnboundedReceiver<String>)> {
        let (fatal, fatal_receiver) = mpsc::unbounded_channel();
        let transfers = Arc::new(TransferStatus::default());
        let store_id = parts.store.meta().store_id.to_string();
        let snapshots = SnapshotSender::new(
            parts.checkpoints.clone(),
            store_id.clone(),
            transfers.clone(),
            parts.metrics.clone(),
        );
        snapshots.remove_stale().map_err(io::Error::other)?;
        let settings = parts.settings;
        let buffer = Arc::new(BufferedEngine::new(
            parts.engine,
            settings.write_buffer_bytes,
            settings.row_cache_bytes,
        ));
        let node = Arc::new(Node {
            receiver: SnapshotReceiver::new(
                parts.disk.clone(),
                settings.disk_reserve_bytes,
                transfers.clone(),
                parts.metrics.clone(),
            ),
            snapshots: Arc::new(snapshots),
            transfers,
            identity: RwLock::new(parts.store.identity()),
            recovered: Mutex::default(),
            shards: RwLock::default(),
            map: RwLock::default(),
            map_epoch: AtomicU64::new(0),
            links: Mutex::default(),
            forwarding: Arc::new(Budget::new(MAX_FORWARDED_BYTES)),
            incarnations: Mutex::default(),
            meta_incarnation: AtomicU64::new(0),
            meta_renewed: Notify::new(),
            refusal: Mutex::new(None),
            replaces: Mutex::default(),
            placement_changed: Notify::new(),
            writes_refused: RwLock::new(None),
            fatal,
            flushed_bytes: AtomicU64::new(0),
            rates: Mutex::default(),
            started: Instant::now(),
            settings,
            address: parts.address,
            store_id,
            store: tokio::sync::Mutex::new(parts.store),
            joining: tokio::sync::Mutex::new(()),
            disk: parts.disk,
            wal: parts.wal,
            buffer,
            transport: parts.transport,
            metrics: parts.metrics,
            probe: parts.probe,
        });
        if let Some(identity) = node.identity() {
            node.recover_shards(identity).await?;
            node.outlast_promises(parts.started).await?;
            node.start_member().await?;
        }
        Ok((node, fatal_receiver))
    }

    /// By acknowledging a leader's messages a replica promises not to vote for another one until an election timeout later; leaders serve
    /// reads on that (Raft dissertation, section 6.4.1). The promise is in memory only, so a node that comes back takes part when it has run out.
    /// The setting may have been another one then.
    async fn outlast_promises(&self, started: Instant) -> io::Result<()> {
        let store = self.store.lock().await;
        let promised = |shard: &ShardId| self.wal.shard(*shard).vote.is_some();
        if self.wal.shards().iter().any(promised) && !kvsvr_core::mutant!("promise-not-outlasted") {
            let before = store.promised_ms().await.map_err(io::Error::other)?;
            let longest = before.max(self.settings.timing.election_max_ms);
            sleep_until(started + Duration::from_millis(longest)).await;
        }
        Ok(())
    }

    /// Starts the meta shard and follows what it says.
    async fn start_member(self: &Arc<Self>) -> io::Result<()> {
        let promise = self.settings.timing.election_max_ms;
        let store = self.store.lock().await;
        store.set_promised_ms(promise).await.map_err(io::Error::other)?;
        drop(store);
        let meta = self.start_meta().await?;
        self.load_map(&meta).await?;
        tokio::spawn(self.clone().follow_meta(meta));
        Ok(())
    }

    fn shard_parts(&self, id: ShardId, identity: Identity) -> ShardParts {
        ShardParts {
            id,
            incarnation: self.incarnations.lock().get(&id).map_or(0, |r| r.incarnation),
            wal: self.wal.clone(),
            engine: self.buffer.clone(),
            buffer: self.buffer.clone(),
            disk: self.disk.clone(),
            peers: Peers {
                transport: self.transport.clone(),
                cluster_id: cluster_text(identity).into(),
                node_id: identity.node_id,
                store_id: self.store_id.as_str().into(),
            },
            snapshots: self.snapshots.clone(),
            transfers: self.transfers.clone(),
            timing: self.settings.timing,
            metrics: self.metrics.shard(id),
            hub_bytes: self.settings.hub_bytes,
        }
    }

    /// Ends the process: `reason` is logged by whoever runs it.
    pub fn fail(&self, reason: String) {
        let _ = self.fatal.send(reason);
    }

    /// Makes this node a member, durably, and starts the meta shard, unless it has that identity already. Goes on when the caller has gone.
    ///
    /// # Errors
    /// `PermissionDenied` if it is a member under another identity; whatever the disk says.
    pub async fn join(self: &Arc<Self>, identity: Identity) -> io::Result<()> {
        let node = self.clone();
        let joining = async move {
            let _one_at_a_time = node.joining.lock().await;
            match node.identity() {
                None => node.become_member(identity).await,
                Some(mine) if mine == identity => Ok(()),
                Some(mine) => Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!(
                        "this node is node {} of cluster {} already",
                        mine.node_id,
                        cluster_text(mine)
                    ),
                )),
            }
        };
        tokio::spawn(joining).await.map_err(io::Error::other)?
    }

    async fn become_member(self: &Arc<Self>, identity: Identity) -> io::Result<()> {
        self.store
            .lock()
            .await
            .set_identity(identity)
            .await
            .map_err(io::Error::other)?;
        tracing::info!(
            cluster = cluster_text(identity),
            node = identity.node_id,
            "joined a cluster"
        );
        *self.identity.write() = Some(identity);
        if let Err(e) = self.start_member().await {
            // It has joined and does not run: a restart must try again.
            self.fail(format!("the meta shard does not start: {e}"));
            return Err(e);
        }
        Ok(())
    }

    /// The shard map with the leaders that this node's replicas know; `None` if nobody knows a cluster with this node.
    ///
    /// # Errors
    /// `NOT_READY` if peers know this address as another node's.
    pub fn shard_map(&self) -> Result<Option<pb::ShardMap>, pb::Error> {
        match self.map_with_leaders() {
            None if self.check_unclaimed().is_err() => Err(self.not_ready()),
            map => Ok(map),
        }
    }

    /// The shard of a request: named, or by slot.
    pub fn route(&self, shard: u32, meta: bool, slot: Option<u16>) -> Result<u32, pb::Error> {
        if meta {
            return Ok(META_SHARD.0);
        }
        let state = self.map.read().clone();
        let Some(map) = &state.map else {
            return Err(self.not_ready());
        };
        if shard != 0 {
            let Some(info) = map.shards.iter().find(|s| s.id == shard) else {
                return Err(error::definite(
                    ErrorCode::NotFound,
                    format!("there is no shard {shard}"),
                ));
            };
            // A client with an old map must not write a partition into a shard that no longer has it.
            let slots = info.first_slot..=info.last_slot;
            return match slot.map(u32::from).filter(|slot| !slots.contains(slot)) {
                None => Ok(shard),
                Some(slot) => Err(error::definite(
                    ErrorCode::WrongShard,
                    format!(
                        "slot {slot} is not in shard {shard}; the shard map is at epoch {}",
                        map.epoch
                    ),
                )),
            };
        }
        slot.and_then(|slot| state.table.shard(slot)).ok_or_else(|| {
            error::definite(
                ErrorCode::Invalid,
                "the request names neither a partition nor a shard",
            )
        })
    }

    fn not_ready(&self) -> pb::Error {
        let message = match (self.identity(), self.refusal.lock().clone()) {
            (_, Some(refusal)) => refusal.text,
            (None, None) => {
                "this node is not part of a cluster yet: kvctl cluster bootstrap makes one".to_owned()
            }
            (Some(_), None) => {
                "this node has not received the shard map yet, or its replica is starting".to_owned()
            }
        };
        error::retry(ErrorCode::NotReady, message, crate::limits::NO_LEADER_RETRY_MS)
    }

    /// A replica on this node.
    pub fn shard(&self, id: ShardId) -> Option<Arc<Shard>> {
        self.shards.read().get(&id).cloned()
    }
    /// A replica on this node, by number.
    pub fn shard_number(&self, number: u32) -> Option<Arc<Shard>> {
        self.shard(ShardId(number))
    }
    /// A replica on this node, or why there is none.
    pub fn replica(&self, number: u32) -> Result<Arc<Shard>, pb::Error> {
        self.shard_number(number).ok_or_else(|| {
            let state = self.map.read().clone();
            let me = self.identity().map_or(0, |i| i.node_id);
            let mine = |map: &pb::ShardMap| {
                map.shards
                    .iter()
                    .any(|s| s.id == number && topology::hosts(s).any(|host| host == me))
            };
            // No map yet, or the replica is about to start.
            if state.map.as_ref().is_none_or(mine) {
                return self.not_ready();
            }
            let map = state.map.as_ref();
            let is_known = map.is_some_and(|map| map.shards.iter().any(|s| s.id == number));
            // It was moved away, and the client has an old map: that is not the end of what it follows.
            let code = match is_known && !kvsvr_core::mutant!("watch-ends-with-its-replica") {
                true => ErrorCode::WrongShard,
                false => ErrorCode::NotFound,
            };
            error::definite(code, format!("this node has no replica of shard {number}"))
        })
    }
    /// All replicas on this node.
    pub fn shards(&self) -> Vec<Arc<Shard>> {
        self.shards.read().values().cloned().collect()
    }
    /// The address of a node that has a replica of a shard.
    pub fn any_replica(&self, number: u32) -> Option<String> {
        let state = self.map.read().clone();
        let map = state.map.as_ref()?;
        let info = map.shards.iter().find(|s| s.id == number)?;
        let me = self.identity().map_or(0, |i| i.node_id);
        let other = info.replicas.iter().find(|id| **id != me)?;
        map.nodes
            .iter()
            .find(|n| n.id == *other)
            .map(|n| n.address.clone())
    }
    /// The Exec stream to another node, for forwarding.
    pub fn link(&self, address: &str) -> NodeStream {
        let mut links = self.links.lock();
        if let Some(link) = links.get(address) {
            return link.clone();
        }
        let link = NodeStream::new(self.transport.clone(), address.to_owned());
        links.insert(address.to_owned(), link.clone());
        link
    }
    /// Bytes of requests that may wait for other nodes.
    pub fn forwarding(&self) -> &Arc<Budget> {
        &self.forwarding
    }
    /// Epoch of the newest shard map; 0 before there is one.
    pub fn map_epoch(&self) -> u64 {
        self.map_epoch.load(Ordering::Acquire)
    }
    /// Says that the placement of replicas is to be looked at.
    pub fn placement_changed(&self) -> &Notify {
        &self.placement_changed
    }
    /// The shard map with the leaders that this node's replicas know, without nodes that were removed.
    pub fn map_with_leaders(&self) -> Option<pb::ShardMap> {
        let mut map = self.map.read().map.clone()?;
        map.nodes
            .retain(|node| node.state() != pb::NodeState::NodeRemoved);
        for info in &mut map.shards {
            let leader = self.shard_number(info.id).and_then(|s| s.leader().leader());
            info.leader = leader.map_or(0, |(id, _)| id);
        }
        Some(map)
    }
    /// Cluster and node id, once joined.
    pub fn identity(&self) -> Option<Identity> {
        *self.identity.read()
    }
    /// Identity of the data directory.
    pub fn store_id(&self) -> &str {
        &self.store_id
    }
    /// HOST:PORT that others reach this node at.
    pub fn address(&self) -> &str {
        &self.address
    }
    /// The way to other nodes.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }
    /// One function per observation.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
    /// Sends snapshots.
    pub fn snapshot_sender(&self) -> &Arc<SnapshotSender> {
        &self.snapshots
    }
    /// Receives snapshots.
    pub fn snapshot_receiver(&self) -> &SnapshotReceiver {
        &self.receiver
    }
    /// How it behaves.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    /// The node's log.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }
    /// The node's state, with its rows that are not flushed and the row cache.
    pub fn buffer(&self) -> &Arc<BufferedEngine> {
        &self.buffer
    }
    /// What the node's row cache has done and holds.
    pub fn cache(&self) -> CacheStats {
        self.buffer.cache_stats()
    }
    /// The node's state.
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.buffer.clone()
    }
    /// The node's files.
    pub fn disk(&self) -> &DynDisk {
        &self.disk
    }
    /// Bytes of log entries that a restart would apply again.
    pub fn unflushed_bytes(&self) -> u64 {
        self.wal
            .appended_bytes()
            .saturating_sub(self.flushed_bytes.load(Ordering::Acquire))
    }
    /// Bytes of log entries that are applied, of all that were ever appended.
    pub fn applied_bytes(&self) -> u64 {
        let appended = self.wal.appended_bytes();
        let waiting = |shard: &Arc<Shard>| self.wal.bytes_from(shard.id(), shard.head().applied_next());
        appended.saturating_sub(self.shards().iter().map(waiting).sum())
    }
    /// The engine has been flushed when this many bytes of the log were applied.
    pub fn flushed(&self, applied_bytes: u64) {
        self.flushed_bytes.fetch_max(applied_bytes, Ordering::AcqRel);
    }
    /// Why writes are refused now, if they are.
    pub fn writes_refused(&self) -> Option<String> {
        self.writes_refused.read().clone()
    }
    /// Refuses writes, or takes them again.
    pub fn refuse_writes(&self, reason: Option<String>) {
        *self.writes_refused.write() = reason;
    }
}
