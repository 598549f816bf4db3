//! The one task that proposes a shard's commands.
//!
//! It drains its queue into one log entry, a batch of commands with one stamp, and keeps several entries in flight. Under load the
//! batches grow by themselves; nothing ever waits for a timer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kvsvr_core::{
    codec::{encode_batch, encode_outcome},
    command::OutcomeResult,
};
use kvsvr_proto::v1::{self as pb, ErrorCode, exec_reply::Result as Answer};
use openraft::{
    Raft,
    errors::{ClientWriteError, ForwardReason, ForwardToLeader, RaftError},
};
use tokio::sync::mpsc;

use super::{
    clock::StampClock,
    error,
    reply::{ReplyTo, send_all},
};
use crate::{
    limits::{
        MAX_BATCH_BYTES, MAX_BATCH_COMMANDS, MAX_ENTRIES_IN_FLIGHT, MAX_QUEUED_BYTES, NO_LEADER_RETRY_MS,
        OVERLOADED_RETRY_MS,
    },
    metrics::ShardMetrics,
    raft::{
        apply::StateMachine,
        types::{Batch, Replies, TypeConfig},
    },
    time::{Instant, timeout_at},
};

/// One command on its way into the log.
#[derive(Debug)]
pub struct Proposal {
    /// Encoded; already checked against the limits.
    pub command: Bytes,
    /// Who waits for the outcome.
    pub reply: ReplyTo,
    /// When the outcome is of no use any more.
    pub deadline: Instant,
}

/// The queue in front of the task.
#[derive(Clone, Debug)]
pub struct Proposer {
    queue: mpsc::UnboundedSender<Vec<Proposal>>,
    /// Bytes in the queue and in flight: what bounds the unbounded channel.
    bytes: Arc<AtomicUsize>,
    shard: u32,
}

/// Bookkeeping bytes counted for a proposal besides its command.
const PROPOSAL_OVERHEAD: usize = 128;

fn cost(proposal: &Proposal) -> usize {
    proposal.command.len() + PROPOSAL_OVERHEAD
}

impl Proposer {
    /// Starts the task. It ends when all clones of the handle are gone.
    pub fn spawn(
        shard: u32,
        raft: Raft<TypeConfig, StateMachine>,
        clock: Arc<StampClock>,
        metrics: Arc<ShardMetrics>,
    ) -> Self {
        let (queue, receiver) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        let task = Task {
            shard,
            raft,
            clock,
            metrics,
            bytes: bytes.clone(),
            waiting: Vec::new(),
        };
        tokio::spawn(task.run(receiver));
        Self { queue, bytes, shard }
    }

    /// Queues commands. When the queue is full they are answered `OVERLOADED` at once.
    pub fn propose(&self, proposals: Vec<Proposal>) {
        let cost: usize = proposals.iter().map(cost).sum();
        if self.bytes.fetch_add(cost, Ordering::AcqRel) + cost > MAX_QUEUED_BYTES {
            self.bytes.fetch_sub(cost, Ordering::AcqRel);
            let message = format!(
                "shard {}: more than {MAX_QUEUED_BYTES} bytes of writes wait",
                self.shard
            );
            let answer = error::retry(ErrorCode::Overloaded, message, OVERLOADED_RETRY_MS);
            send_all(
                proposals
                    .into_iter()
                    .map(|p| (p.reply, Answer::Error(answer.clone()))),
            );
            return;
        }
        if let Err(unsent) = self.queue.send(proposals) {
            let answer = error::definite(ErrorCode::NotReady, "the node is stopping");
            send_all(
                unsent
                    .0
                    .into_iter()
                    .map(|p| (p.reply, Answer::Error(answer.clone()))),
            );
        }
    }

    /// Bytes of commands that wait or are in flight.
    pub fn queued_bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }
}

type Written = Result<Replies, pb::Error>;

struct InFlight {
    replies: Vec<ReplyTo>,
    cost: usize,
    started: Instant,
}

struct Task {
    shard: u32,
    raft: Raft<TypeConfig, StateMachine>,
    clock: Arc<StampClock>,
    metrics: Arc<ShardMetrics>,
    bytes: Arc<AtomicUsize>,
    /// Taken from the queue, not yet proposed; oldest first.
    waiting: Vec<Vec<Proposal>>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Vec<Proposal>>) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, (InFlight, Written)>> =
            FuturesUnordered::new();
        let mut open = true;
        while open || !in_flight.is_empty() {
            let room = in_flight.len() < MAX_ENTRIES_IN_FLIGHT;
            tokio::select! { biased;
                Some((entry, written)) = in_flight.next(), if !in_flight.is_empty() => {
                    self.finish(entry, written);
                }
                taken = queue.recv_many(&mut self.waiting, MAX_BATCH_COMMANDS), if room && open => {
                    open = taken > 0;
                }
            }
            while !self.waiting.is_empty() && in_flight.len() < MAX_ENTRIES_IN_FLIGHT {
                in_flight.push(self.propose_next());
            }
        }
    }

    /// Makes one entry of what waits.
    fn propose_next(&mut self) -> BoxFuture<'static, (InFlight, Written)> {
        let mut commands = Vec::new();
        let mut entry = InFlight {
            replies: Vec::new(),
            cost: 0,
            started: Instant::now(),
        };
        let mut deadline = entry.started;
        let mut groups = std::mem::take(&mut self.waiting).into_iter();
        let mut rest = Vec::new();
        for group in groups.by_ref() {
            let mut group = group.into_iter();
            for proposal in group.by_ref() {
                let bytes = cost(&proposal);
                let full = entry.cost + bytes > MAX_BATCH_BYTES || commands.len() >= MAX_BATCH_COMMANDS;
                if full && !commands.is_empty() {
                    rest.push(std::iter::once(proposal).chain(group).collect());
                    break;
                }
                entry.cost += bytes;
                deadline = deadline.max(proposal.deadline);
                commands.push(proposal.command);
                entry.replies.push(proposal.reply);
            }
            if !rest.is_empty() {
                break;
            }
        }
        rest.extend(groups);
        self.waiting = rest;
        self.metrics
            .queued(commands.len(), self.bytes.load(Ordering::Relaxed));
        let batch = Batch(encode_batch(self.clock.now(), &commands));
        let raft = self.raft.clone();
        let shard = self.shard;
        Box::pin(async move {
            let written = match timeout_at(deadline, raft.client_write(batch)).await {
                Ok(Ok(response)) => Ok(response.data),
                Ok(Err(failure)) => Err(write_error(shard, failure)),
                Err(_) => Err(error::unknown(
                    ErrorCode::Timeout,
                    format!("shard {shard}: no quorum confirmed the write in time; it may still happen"),
                )),
            };
            (entry, written)
        })
    }

    fn finish(&self, entry: InFlight, written: Written) {
        self.bytes.fetch_sub(entry.cost, Ordering::AcqRel);
        self.metrics.committed(entry.started.elapsed());
        match written {
            Ok(outcomes) => {
                assert_eq!(
                    outcomes.len(),
                    entry.replies.len(),
                    "one outcome for each command"
                );
                self.metrics.wrote(outcomes.len() as u64);
                for outcome in &outcomes {
                    if let OutcomeResult::Rejected(rejection) = &outcome.result {
                        self.metrics.rejected(rejection.code);
                    }
                }
                let answers = outcomes
                    .iter()
                    .map(|outcome| Answer::Outcome(encode_outcome(outcome)));
                send_all(entry.replies.into_iter().zip(answers));
            }
            Err(failure) => {
                self.metrics.rejected(failure.code());
                send_all(
                    entry
                        .replies
                        .into_iter()
                        .map(|to| (to, Answer::Error(failure.clone()))),
                );
            }
        }
    }
}

/// What a failed write means to who asked for it.
fn write_error(shard: u32, failure: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> pb::Error {
    match failure {
        // openraft gives this answer before it appends anything.
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => forward_error(shard, forward),
        RaftError::APIError(
            e @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        ) => error::definite(ErrorCode::Refused, format!("shard {shard}: {e}")),
        // The entry was appended, then lost its place: another node may have committed it.
        RaftError::APIError(e @ ClientWriteError::LogEntryDiscarded(_)) => error::unknown(
            ErrorCode::Timeout,
            format!("shard {shard}: the leader changed: {e}"),
        ),
        // The entry may have been sent out before. The node is on its way down: as if it were gone already.
        RaftError::Fatal(fatal) => error::unknown(
            ErrorCode::Disconnected,
            format!("shard {shard}: this replica has stopped: {fatal}"),
        ),
    }
}

fn forward_error(shard: u32, forward: ForwardToLeader<TypeConfig>) -> pb::Error {
    match forward.reason {
        ForwardReason::LeaseExpired => error::retry(
            ErrorCode::NoLeader,
            format!("shard {shard}: the leader is not confirmed by a quorum at this moment"),
            NO_LEADER_RETRY_MS,
        ),
        _ => error::not_leader(
            shard,
            forward
                .leader_id
                .zip(forward.leader_node)
                .map(|(id, node)| (id, node.address)),
        ),
    }
}

/// A deadline `timeout_ms` from now; 0 means the server's default.
pub fn deadline(timeout_ms: u32) -> Instant {
    let timeout = if timeout_ms == 0 {
        crate::limits::DEFAULT_REQUEST_TIMEOUT
    } else {
        Duration::from_millis(timeout_ms.into()).min(crate::limits::MAX_REQUEST_TIMEOUT)
    };
    Instant::now() + timeout
}
