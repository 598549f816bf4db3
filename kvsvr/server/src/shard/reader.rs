//! The one task that serves a shard's linearizable reads.
//!
//! One confirmation of leadership is in flight at a time; it serves every read that arrived before it started (the scheme of etcd's
//! read loop; Raft dissertation, section 6.4). At the leader the confirmation is the lease, with a margin for clock drift, or a round of heartbeats
//! when the lease is too old; at a follower it is one call to the leader. A read is then answered from the applied state as soon as
//! that contains the confirmed index. The confirmed moment lies between the read's arrival and its answer, so a pause of this process
//! makes an answer late, never stale.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kvsvr_client::transport::Method;
use kvsvr_core::{engine::EngineRead, types::Partition};
use kvsvr_proto::v1::{self as pb, ErrorCode, exec_reply::Result as Answer};
use openraft::{
    Raft,
    errors::{LinearizableReadError, RaftError},
    raft::linearizable_read::LinearizerOption,
};
use openraft_rt::AsyncRuntime;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::{
    error,
    leader::LeaderView,
    reply::{ReplyTo, send_all},
};
use crate::{
    convert as api,
    limits::{
        FRESHNESS_PROBE_INTERVAL, LEASE_DRIFT_PERCENT, MAX_APPEND_SPREAD, MAX_READS_PER_ROUND,
        MAX_UNREAD_REPLY_BYTES, NO_LEADER_RETRY_MS, OVERLOADED_RETRY_MS, READ_CONFIRM_TIMEOUT,
    },
    metrics::{ReadKind, ShardMetrics},
    raft::{
        apply::{Head, StateMachine},
        network::Peers,
        promises::Promises,
        runtime::Runtime,
        types::TypeConfig,
    },
    time::{Instant, sleep, timeout, timeout_at},
};

/// What to read.
#[derive(Debug)]
pub enum ReadOp {
    /// The newest value of a key.
    Get(Partition, Bytes),
    /// Anything else.
    Other(Box<pb::ReadRequest>),
}

/// One read on its way.
#[derive(Debug)]
pub struct Read {
    /// What.
    pub op: ReadOp,
    /// Who waits for it.
    pub reply: ReplyTo,
    /// When the answer is of no use any more.
    pub deadline: Instant,
}

/// What reads need of a shard.
pub struct ReadContext {
    /// The shard's number.
    pub shard: u32,
    /// The consensus.
    pub raft: Raft<TypeConfig, StateMachine>,
    /// The applied state's head.
    pub head: Arc<Head>,
    /// The applied state.
    pub engine: Arc<dyn kvsvr_core::engine::Engine>,
    /// Who leads.
    pub leader: Arc<LeaderView>,
    /// The way to the leader.
    pub peers: Peers,
    /// What the members promise a leader.
    pub promises: Arc<Promises>,
    /// One function per observation.
    pub metrics: Arc<ShardMetrics>,
    /// Places for reads that may take long.
    pub scans: Arc<Semaphore>,
    /// When the applied state was last known to contain everything acknowledged before.
    pub fresh_at: Mutex<Option<Instant>>,
}

impl ReadContext {
    /// Waits until the applied state contains everything that was acknowledged before the call.
    pub async fn barrier(&self) -> Result<(), pb::Error> {
        let started = Instant::now();
        if kvsvr_core::mutant!("age-of-last-try") {
            *self.fresh_at.lock() = Some(started);
        }
        let index = match timeout(READ_CONFIRM_TIMEOUT, self.confirm()).await {
            Ok(confirmed) => confirmed?,
            Err(_) => return Err(self.no_quorum()),
        };
        if let Some(index) = index
            && !kvsvr_core::mutant!("follower-read-without-wait")
        {
            timeout(READ_CONFIRM_TIMEOUT, self.head.wait_applied(index))
                .await
                .map_err(|_| {
                    error::retry(
                        ErrorCode::Overloaded,
                        format!(
                            "shard {}: this replica is behind; it has not applied entry {index} yet",
                            self.shard
                        ),
                        NO_LEADER_RETRY_MS,
                    )
                })?;
        }
        let mut fresh = self.fresh_at.lock();
        *fresh = (*fresh).max(Some(started));
        Ok(())
    }

    /// The index that a read must wait for; `None` if nothing was ever committed.
    pub async fn confirm(&self) -> Result<Option<u64>, pb::Error> {
        if self.leader.is_me() {
            return self.confirm_as_leader().await;
        }
        let Some((id, node)) = self.leader.leader() else {
            return Err(error::not_leader(self.shard, None));
        };
        let envelope = self
            .peers
            .envelope(kvsvr_core::types::ShardId(self.shard), id, &node);
        let request = pb::ReadIndexRequest {
            envelope: Some(envelope),
        };
        let answer: pb::ReadIndexResponse = self
            .peers
            .control(
                &node.address,
                Method::RaftReadIndex,
                &request,
                READ_CONFIRM_TIMEOUT,
            )
            .await
            .map_err(|e| {
                error::retry(
                    ErrorCode::NoLeader,
                    format!("shard {}: the leader does not confirm reads: {e}", self.shard),
                    NO_LEADER_RETRY_MS,
                )
            })?;
        if !answer.error.is_empty() {
            return Err(error::retry(
                ErrorCode::NoLeader,
                answer.error,
                NO_LEADER_RETRY_MS,
            ));
        }
        Ok(answer.read_index.map(|id| id.index))
    }

    /// Maximum age of a quorum's acknowledgement for a lease read.
    pub fn lease(&self) -> Duration {
        let mut lease = self.promises.shortest() * (100 - LEASE_DRIFT_PERCENT) / 100;
        if kvsvr_core::mutant!("lease-longer-than-promised") {
            lease *= 10;
        }
        // What openraft may credit a peer with too much, see `raft::network`.
        lease.saturating_sub(MAX_APPEND_SPREAD)
    }

    /// Like [`ReadContext::confirm`], at the leader only.
    pub async fn confirm_as_leader(&self) -> Result<Option<u64>, pb::Error> {
        if self.leader.is_me() && kvsvr_core::mutant!("read-without-quorum") {
            return Ok(self.head.applied_next().checked_sub(1));
        }
        let option = LinearizerOption::new(Some(self.lease()), true);
        match self.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Ok(Some(linearizer.read_log_id().index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                let leader = forward.leader_id.zip(forward.leader_node);
                Err(error::not_leader(
                    self.shard,
                    leader.map(|(id, node)| (id, node.address)),
                ))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(self.no_quorum()),
            Err(RaftError::Fatal(fatal)) => Err(error::definite(
                ErrorCode::NotReady,
                format!("shard {}: this replica has stopped: {fatal}", self.shard),
            )),
        }
    }

    fn no_quorum(&self) -> pb::Error {
        error::retry(
            ErrorCode::NoLeader,
            format!(
                "shard {}: no quorum confirms the leader; a majority of the replicas must be up",
                self.shard
            ),
            NO_LEADER_RETRY_MS,
        )
    }

    /// Age of the applied state: how long ago it was known to contain everything acknowledged. `None`: never known.
    pub fn age(&self) -> Option<Duration> {
        self.fresh_at.lock().map(|at| at.elapsed())
    }

    /// Reads the applied state, unless the answer would only wait for a client that does not read.
    pub fn answer(&self, op: ReadOp, to: &ReplyTo, age: Duration) -> Answer {
        if to.has_room() {
            return self.execute(op, age);
        }
        Answer::Error(error::retry(
            ErrorCode::Overloaded,
            format!("more than {MAX_UNREAD_REPLY_BYTES} bytes of answers wait for this client to read them"),
            OVERLOADED_RETRY_MS,
        ))
    }

    /// Answers a read that may take long, on a blocking thread, a few at a time. Its age is that of the state when the read begins.
    pub async fn answer_other(
        self: Arc<Self>,
        request: Box<pb::ReadRequest>,
        reply: ReplyTo,
        deadline: Instant,
        allowed: Duration,
    ) {
        let Ok(Ok(_place)) = timeout_at(deadline, self.scans.clone().acquire_owned()).await else {
            let message = format!(
                "shard {}: the read's time ran out while other scans were served",
                self.shard
            );
            reply.send(Answer::Error(error::retry(
                ErrorCode::Overloaded,
                message,
                OVERLOADED_RETRY_MS,
            )));
            return;
        };
        let age = self.age().unwrap_or(Duration::MAX);
        if age > allowed {
            reply.send(Answer::Error(self.too_stale(allowed)));
            return;
        }
        let context = self.clone();
        let read = Runtime::spawn_blocking(move || {
            let answer = context.answer(ReadOp::Other(request), &reply, age);
            reply.send(answer);
        });
        if let Err(e) = read.await {
            tracing::error!(shard = self.shard, "a read died, which is a bug: {e}");
        }
    }

    /// The error of a bounded read that no state here is new enough for.
    pub fn too_stale(&self, allowed: Duration) -> pb::Error {
        let age = self.age().map(|age| format!("{age:.1?}"));
        let message = format!(
            "this replica of shard {} is {} old, the read allows {allowed:?}",
            self.shard,
            age.as_deref().unwrap_or("of unknown age, that is too")
        );
        error::definite(ErrorCode::TooStale, message)
    }

    /// Reads the applied state.
    fn execute(&self, op: ReadOp, age: Duration) -> Answer {
        let installs = self.head.installs();
        let engine: &dyn EngineRead = &*self.engine;
        let result = match op {
            ReadOp::Get(partition, key) => api::read_get(engine, self.shard, &partition, &key, &self.head),
            ReadOp::Other(request) => {
                let snapshot = self.engine.snapshot();
                api::read_other(&*snapshot, self.shard, *request)
            }
        };
        let replaced = installs % 2 == 1 || installs != self.head.installs();
        if self.head.is_restoring() {
            return Answer::Error(error::restoring(self.shard));
        }
        if replaced && !kvsvr_core::mutant!("read-during-install") {
            return Answer::Error(error::retry(
                ErrorCode::NotReady,
                format!(
                    "shard {}: this replica is installing a snapshot, or has been given up; read at another one",
                    self.shard
                ),
                NO_LEADER_RETRY_MS,
            ));
        }
        match result {
            Ok(mut read) => {
                read.age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                Answer::Read(read)
            }
            Err(failure) => Answer::Error(failure),
        }
    }
}

/// The queue in front of the task.
#[derive(Clone, Debug)]
pub struct Reader {
    queue: mpsc::UnboundedSender<Vec<Read>>,
}

impl Reader {
    /// Starts the task. It ends when all clones of the handle are gone.
    pub fn spawn(context: Arc<ReadContext>) -> Self {
        let (queue, receiver) = mpsc::unbounded_channel();
        tokio::spawn(run(context, receiver));
        Self { queue }
    }

    /// Queues linearizable reads. The queue is bounded by the requests that streams and calls may have in flight.
    pub fn read(&self, reads: Vec<Read>) {
        if let Err(unsent) = self.queue.send(reads) {
            let answer = Answer::Error(error::definite(ErrorCode::NotReady, "the node is stopping"));
            send_all(unsent.0.into_iter().map(|read| (read.reply, answer.clone())));
        }
    }
}

async fn run(context: Arc<ReadContext>, mut queue: mpsc::UnboundedReceiver<Vec<Read>>) {
    let mut groups: Vec<Vec<Read>> = Vec::new();
    loop {
        let taken = tokio::select! { biased;
            taken = queue.recv_many(&mut groups, MAX_READS_PER_ROUND) => taken,
            () = sleep(FRESHNESS_PROBE_INTERVAL) => {
                // Nobody reads: keep the age of the state known, for bounded reads when the leader is gone.
                let _ = context.barrier().await;
                continue;
            }
        };
        if taken == 0 {
            return;
        }
        match context.barrier().await {
            Ok(()) => {
                if kvsvr_core::mutant!("read-index-reused") {
                    std::iter::from_fn(|| queue.try_recv().ok()).for_each(|late| groups.push(late));
                }
                serve(&context, groups.drain(..).flatten());
            }
            Err(failure) => {
                context.metrics.rejected(failure.code());
                let answer = Answer::Error(failure);
                send_all(
                    groups
                        .drain(..)
                        .flatten()
                        .map(|read| (read.reply, answer.clone())),
                );
            }
        }
    }
}

fn serve(context: &Arc<ReadContext>, reads: impl Iterator<Item = Read>) {
    let now = Instant::now();
    let mut count = 0;
    let answers = reads.filter_map(|read| {
        count += 1;
        if read.deadline <= now {
            let late = error::definite(
                ErrorCode::Overloaded,
                "the read's time ran out before it was served",
            );
            return Some((read.reply, Answer::Error(late)));
        }
        match read.op {
            op @ ReadOp::Get(..) => {
                let answer = context.answer(op, &read.reply, Duration::ZERO);
                Some((read.reply, answer))
            }
            ReadOp::Other(request) => {
                // On its own task, so that point reads do not wait for it.
                let reading = context
                    .clone()
                    .answer_other(request, read.reply, read.deadline, Duration::MAX);
                tokio::spawn(reading);
                None
            }
        }
    });
    send_all(answers);
    context.metrics.read(ReadKind::Linearizable, count);
}
