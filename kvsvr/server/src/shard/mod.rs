//! One replica of a shard: Raft, state machine, proposer, reader, change log.

pub mod clock;
pub mod error;
pub mod group;
pub mod leader;
pub mod proposer;
pub mod reader;
pub mod reply;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kvsvr_core::{
    engine::Engine,
    error::Corrupt,
    types::{Revision, ShardId},
};
use kvsvr_proto::v1::{self as pb, ErrorCode, exec_reply::Result as Answer};
use openraft::{Config, Raft, SnapshotPolicy, async_runtime::WatchReceiver as _};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::{
    clock::StampClock,
    leader::LeaderView,
    proposer::{Proposal, Proposer},
    reader::{Read, ReadContext, Reader},
    reply::ReplyTo,
};
use crate::{
    buffer::BufferedEngine,
    config::Timing,
    disk::DynDisk,
    hub::Hub,
    limits::{MAX_SCANS, PREFERRED_LEADER_HEARTBEATS, SNAPSHOT_TRANSFER_TIMEOUT, WATCH_MAX_AGE},
    metrics::ShardMetrics,
    raft::{
        apply::{Head, StateMachine},
        log::LogStore,
        network::{NetworkFactory, Peers},
        promises::Promises,
        snapshot::{Durable, SnapshotSender, Staged, TransferStatus},
        types::{PeerNode, TypeConfig},
    },
    time::Instant,
    wal::Wal,
    watch::{ConsumerPosition, WatchSource},
};

/// What a replica is made of.
pub struct ShardParts {
    /// The shard.
    pub id: ShardId,
    /// Which of the node's replicas of the shard, of all that it had.
    pub incarnation: u64,
    /// The node's WAL.
    pub wal: Wal,
    /// The node's engine, row cache included.
    pub engine: Arc<dyn Engine>,
    /// The engine's write buffer.
    pub buffer: Arc<BufferedEngine>,
    /// The node's files, for snapshots being received.
    pub disk: DynDisk,
    /// The way to other nodes.
    pub peers: Peers,
    /// Sends snapshots.
    pub snapshots: Arc<SnapshotSender>,
    /// What transfers are going on.
    pub transfers: Arc<TransferStatus>,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// One function per observation.
    pub metrics: Arc<ShardMetrics>,
    /// Bytes of recent events kept for watchers.
    pub hub_bytes: usize,
}

/// One replica.
pub struct Shard {
    id: ShardId,
    incarnation: u64,
    /// It was stopped for good.
    retired: Arc<AtomicBool>,
    lag_samples: Mutex<group::LagSamples>,
    /// Held while a step of a change of the group is under way.
    changing: Arc<tokio::sync::Mutex<()>>,
    node_id: u64,
    raft: Raft<TypeConfig, StateMachine>,
    machine: StateMachine,
    engine: Arc<dyn Engine>,
    proposer: Proposer,
    reader: Reader,
    reads: Arc<ReadContext>,
    leader: Arc<LeaderView>,
    clock: Arc<StampClock>,
    /// A task that expires what is due is at work.
    expiring: AtomicBool,
    wal: Wal,
    snapshots: Arc<SnapshotSender>,
    transfers: Arc<TransferStatus>,
    heartbeat: Duration,
    /// Term in which leadership was last handed to the preferred leader, so that it is tried once only.
    handed_over: Mutex<u64>,
}

fn raft_config(cluster: &str, timing: Timing) -> io::Result<Config> {
    let config = Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        install_snapshot_timeout: SNAPSHOT_TRANSFER_TIMEOUT.as_millis() as u64,
        max_payload_entries: crate::limits::MAX_APPEND_ENTRIES,
        // Snapshots and purges are this node's decision, see `Shard::purge`.
        snapshot_policy: SnapshotPolicy::Never,
        // Building a snapshot would otherwise purge all but so many entries behind it.
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(timing.election_max_ms * 2),
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(io::Error::other)
}

impl Shard {
    /// Loads the replica's state and applies what its log has committed. It takes part in nothing yet.
    pub async fn recover(parts: &ShardParts) -> io::Result<StateMachine> {
        let id = parts.id;
        if let Some(staged) = Staged::interrupted(&parts.disk, id).await? {
            tracing::warn!(shard = %id, "a snapshot was being installed when the node stopped; installing it again");
            staged
                .install(parts.buffer.clone())
                .await
                .map_err(io::Error::other)?;
        }
        let machine = StateMachine::load(
            id,
            parts.engine.clone(),
            Some(parts.buffer.clone()),
            parts.hub_bytes,
            parts.metrics.clone(),
        )?;
        machine.replay(&LogStore::new(parts.wal.clone(), id)).await?;
        Ok(machine)
    }

    /// Starts the replica with its recovered state. `fatal` is called when it stops by itself.
    pub async fn start(
        parts: ShardParts,
        machine: StateMachine,
        fatal: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let id = parts.id;
        let node_id = parts.peers.node_id;
        let promises = Arc::new(Promises::new(parts.timing.election_max_ms));
        let network = NetworkFactory {
            peers: parts.peers.clone(),
            shard: id,
            snapshots: parts.snapshots.clone(),
            promises: promises.clone(),
        };
        let config = Arc::new(raft_config(&parts.peers.cluster_id, parts.timing)?);
        let log = LogStore::new(parts.wal.clone(), id);
        let raft = Raft::new(node_id, config, network, log, machine.clone())
            .await
            .map_err(|e| io::Error::other(format!("shard {id}: Raft does not start: {e}")))?;
        let leader = Arc::new(LeaderView::new(node_id));
        let following = leader.clone().follow(id.0, raft.clone());
        let retired = Arc::new(AtomicBool::new(false));
        let stopped = retired.clone();
        tokio::spawn(async move {
            let reason = following.await;
            if !stopped.load(Ordering::Acquire) {
                fatal(format!("shard {id}: {reason}"));
            }
        });
        let reads = Arc::new(ReadContext {
            shard: id.0,
            raft: raft.clone(),
            head: machine.head().clone(),
            engine: parts.engine.clone(),
            leader: leader.clone(),
            peers: parts.peers,
            promises,
            metrics: parts.metrics.clone(),
            scans: Arc::new(Semaphore::new(MAX_SCANS)),
            fresh_at: Mutex::new(None),
        });
        let clock = Arc::new(StampClock::new(machine.head().clone(), leader.clone()));
        Ok(Arc::new(Self {
            id,
            incarnation: parts.incarnation,
            retired,
            lag_samples: Mutex::default(),
            changing: Arc::default(),
            node_id,
            proposer: Proposer::spawn(id.0, raft.clone(), clock.clone(), parts.metrics),
            clock,
            expiring: AtomicBool::new(false),
            reader: Reader::spawn(reads.clone()),
            raft,
            machine,
            engine: parts.engine,
            reads,
            leader,
            wal: parts.wal,
            snapshots: parts.snapshots,
            transfers: parts.transfers,
            heartbeat: Duration::from_millis(parts.timing.heartbeat_ms),
            handed_over: Mutex::new(0),
        }))
    }

    /// The shard.
    pub fn id(&self) -> ShardId {
        self.id
    }
    /// The consensus.
    pub fn raft(&self) -> &Raft<TypeConfig, StateMachine> {
        &self.raft
    }
    /// The applied state.
    pub fn machine(&self) -> &StateMachine {
        &self.machine
    }
    /// The applied state's head.
    pub fn head(&self) -> &Arc<Head> {
        self.machine.head()
    }
    /// The storage of the applied state.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }
    /// The change log's subscribers.
    pub fn hub(&self) -> &Arc<Hub> {
        self.machine.hub()
    }
    /// Reads of the applied state.
    pub fn reads(&self) -> &Arc<ReadContext> {
        &self.reads
    }
    /// The clock that stamps entries.
    pub fn clock(&self) -> &StampClock {
        &self.clock
    }
    /// True for the first who asks; the others until [`Shard::expired`] get false.
    pub fn begin_expiring(&self) -> bool {
        !self.expiring.swap(true, Ordering::AcqRel)
    }
    /// Ends what [`Shard::begin_expiring`] began.
    pub fn expired(&self) {
        self.expiring.store(false, Ordering::Release);
    }
    /// Who leads.
    pub fn leader(&self) -> &LeaderView {
        &self.leader
    }
    /// A member, by the newest membership that this replica has in its log.
    pub fn member(&self, id: u64) -> Option<PeerNode> {
        let metrics = self.raft.metrics();
        let membership = &metrics.borrow_watched().membership_config;
        membership.membership().get_node(&id).cloned()
    }
    /// Queues commands for the log. Only the leader commits them; others answer NOT_LEADER.
    pub fn propose(&self, proposals: Vec<Proposal>) {
        self.proposer.propose(proposals);
    }

    /// Queues linearizable reads.
    pub fn read(&self, reads: Vec<Read>) {
        self.reader.read(reads);
    }

    /// Proposes one command and waits for its outcome.
    pub async fn propose_one(&self, command: Bytes, deadline: Instant) -> Result<Bytes, pb::Error> {
        let (reply, answer) = ReplyTo::call();
        self.propose(vec![Proposal {
            command,
            reply,
            deadline,
        }]);
        match answer.await {
            Ok(Answer::Outcome(outcome)) => Ok(outcome),
            Ok(Answer::Error(error)) => Err(error),
            Ok(Answer::Read(_)) | Err(_) => Err(error::unknown(
                ErrorCode::Internal,
                "the proposal was dropped without an answer",
            )),
        }
    }

    /// Marks a snapshot point at the engine's last flush and purges the log that nobody needs: what is flushed, and either acknowledged by
    /// all members or far behind. About `keep_bytes` of the newest entries stay. A member that is being sent a snapshot counts as one that has
    /// acknowledged what the snapshot contains. Never what is not applied (openraft issue 2116).
    pub async fn purge(&self, keep_bytes: u64) -> io::Result<()> {
        let durable = if kvsvr_core::mutant!("purge-beyond-flushed") {
            kvsvr_core::read::shard_head(&*self.engine, self.id)
        } else {
            self.durable_head()
        };
        let durable = durable.map_err(io::Error::other)?;
        self.engine.set_garbage_floor(self.id, durable.floor);
        let Some(flushed) = durable.applied.map(|p| p.index) else {
            return Ok(());
        };
        let metrics = self.raft.metrics().borrow_watched().clone();
        let purged = metrics.purged.map_or(0, |id| id.index);
        // What openraft's core knows to be applied, which may be less than what is.
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        let mut upto = flushed
            .min(applied)
            .min(self.wal.index_before(self.id, keep_bytes));
        if let Some(replication) = &metrics.replication {
            let patience = keep_bytes.saturating_mul(crate::limits::PURGE_PATIENCE);
            let patience = self.wal.index_before(self.id, patience);
            let has = replication.iter().map(|(id, matched)| {
                let sent = self.snapshots.held_index(self.id, *id).unwrap_or(0);
                matched.map_or(0, |id| id.index).max(sent)
            });
            // A member that is only a little behind is served from the log, whatever another one lacks.
            let slowest = has.filter(|has| *has >= patience).min();
            upto = slowest.map_or(upto, |slowest| upto.min(slowest));
        }
        if upto <= purged {
            return Ok(());
        }
        if metrics.snapshot.is_none_or(|id| id.index < upto) {
            self.raft.trigger().snapshot().await.map_err(io::Error::other)?;
            let wait = self.raft.wait(Some(Duration::from_secs(10)));
            let reached = wait.metrics(
                |m| m.snapshot.is_some_and(|id| id.index >= upto),
                "snapshot point",
            );
            reached.await.map_err(io::Error::other)?;
        }
        self.raft
            .trigger()
            .purge_log(upto)
            .await
            .map_err(io::Error::other)
    }

    /// This replica is not the only one that votes.
    pub fn has_other_voters(&self) -> bool {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        membership.voter_ids().any(|id| id != self.node_id)
    }

    /// A member that is caught up and was heard of within the last heartbeats, `preferred` before others.
    pub fn transfer_target(&self, preferred: Option<u64>) -> Option<(u64, PeerNode)> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let replication = metrics.replication.as_ref()?;
        let heartbeat = metrics.heartbeat.as_ref()?;
        let last = metrics.last_log_index.unwrap_or(0);
        let recent = self.heartbeat * PREFERRED_LEADER_HEARTBEATS;
        let membership = metrics.membership_config.membership();
        let ready = |id: &u64| {
            let matched = replication
                .get(id)
                .and_then(|m| m.as_ref())
                .map_or(0, |m| m.index);
            let heard = heartbeat.get(id).and_then(|at| at.as_ref());
            let near = last.saturating_sub(matched) <= crate::limits::TRANSFER_MAX_LAG;
            near && heard.is_some_and(|at| openraft::async_runtime::Instant::elapsed(&**at) < recent)
        };
        let mut candidates: Vec<u64> = membership.voter_ids().filter(|id| *id != self.node_id).collect();
        candidates.sort_by_key(|id| (Some(*id) != preferred, *id));
        let id = candidates.into_iter().find(ready)?;
        membership.get_node(&id).map(|node| (id, node.clone()))
    }

    /// Hands leadership to the member that the shard map prefers, once in a term.
    pub async fn prefer_leader(&self, preferred: u64) -> io::Result<()> {
        if preferred == self.node_id || !self.leader.is_me() {
            return Ok(());
        }
        let term = self.raft.metrics().borrow_watched().current_term;
        if *self.handed_over.lock() == term {
            return Ok(());
        }
        match self.transfer_target(Some(preferred)) {
            Some((id, _)) if id == preferred => {
                *self.handed_over.lock() = term;
                tracing::info!(shard = %self.id, to = preferred, "handing leadership to the preferred node");
                self.raft
                    .trigger()
                    .transfer_leader(preferred)
                    .await
                    .map_err(io::Error::other)
            }
            _ => Ok(()),
        }
    }

    /// The shard's head as of the engine's last flush.
    ///
    /// # Errors
    /// The engine cannot read it, or it is damaged.
    pub fn durable_head(&self) -> Result<kvsvr_core::read::Head, Corrupt> {
        kvsvr_core::read::shard_head(&Durable(&*self.engine), self.id)
    }

    /// Everything an operator wants to know of this replica.
    pub fn status(&self) -> pb::ReplicaStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let log = self.wal.shard(self.id);
        let durable = self.durable_head().ok();
        let matched: BTreeMap<u64, u64> = metrics
            .replication
            .iter()
            .flatten()
            .map(|(id, matched)| (*id, matched.as_ref().map_or(0, |m| m.index)))
            .collect();
        pb::ReplicaStatus {
            shard: self.id.0,
            role: format!("{:?}", metrics.state).to_lowercase(),
            term: metrics.current_term,
            leader: metrics.current_leader.unwrap_or(0),
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: log.committed.map_or(0, |p| p.index),
            applied_index: self.head().applied_next().saturating_sub(1),
            purged_index: log.purged.map_or(0, |p| p.index),
            flushed_index: durable.and_then(|d| d.applied).map_or(0, |p| p.index),
            revision: self.head().revision(),
            floor: self.head().floor(),
            queue: self.proposer.queued_bytes() as u64,
            matched: matched.into_iter().collect(),
            snapshot: self.transfers.get(self.id),
        }
    }

    /// Sets the gauges.
    pub fn observe(&self, gauges: &ShardMetrics) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let last = metrics.last_log_index.unwrap_or(0);
        let slowest = metrics
            .replication
            .iter()
            .flat_map(|r| r.values().map(|m| m.as_ref().map_or(0, |m| m.index)))
            .min();
        gauges.replication_lag(slowest.map_or(0, |slowest| last.saturating_sub(slowest)));
        let committed = self.wal.shard(self.id).committed.map_or(0, |p| p.index);
        gauges.apply_lag((committed + 1).saturating_sub(self.head().applied_next()));
        gauges.position(self.revision(), self.head().floor(), self.leader.is_me());
    }

    /// The newest revision that this replica has applied.
    pub fn revision(&self) -> Revision {
        self.head().revision()
    }

    /// Stops Raft.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(shard = %self.id, "Raft's task ended badly: {error}");
        }
    }
}

impl WatchSource for Shard {
    fn shard(&self) -> ShardId {
        self.id
    }

    fn hub(&self) -> &Arc<Hub> {
        self.machine.hub()
    }

    fn floor(&self) -> Revision {
        self.head().floor()
    }

    fn serving(&self) -> Result<(), pb::Error> {
        match self.reads.age() {
            _ if self.is_retired() => Err(error::not_leader(self.id.0, None)),
            _ if self.head().is_restoring() => Err(error::restoring(self.id.0)),
            Some(age) if age <= WATCH_MAX_AGE => Ok(()),
            // Just started: nobody has confirmed anything yet.
            None if self.leader.leader().is_some() => Ok(()),
            _ => Err(error::not_leader(self.id.0, None)),
        }
    }

    fn consumer(&self, name: &str) -> Option<ConsumerPosition> {
        self.machine.with_machine(|machine, _| {
            let row = machine.consumer(name.as_bytes())?;
            Some(ConsumerPosition {
                epoch: row.epoch,
                cursor: row.cursor,
            })
        })
    }
}
