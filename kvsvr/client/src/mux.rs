//! One `Kv/Exec` stream to a node, shared by any number of callers.
//!
//! Requests that wait when the socket is free leave together in one frame; there is no timer that holds them back. Replies are
//! matched by id and come in any order. When the stream breaks, every request that was handed to it ends with
//! [`TransportError::Broken`] (its outcome is unknown), every one that was not with [`TransportError::Unreachable`]; the next
//! call opens a new stream, after a pause if the node could not be reached.
//!
//! Cost: one lock for each request put in, one for each frame out, one for each frame of replies. There are no retries and no
//! routing here. Deadlines are kept to within [`SWEEP_IDLE`](crate::limits::SWEEP_IDLE), so that a request costs no timer.

mod driver;
mod slab;

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kvsvr_proto::v1::{ExecReply, ExecRequest, exec_request};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::{Notify, oneshot},
    time::{Duration, Instant, timeout},
};

use self::slab::Slab;
use crate::{
    limits::{MAX_PENDING, MAX_QUEUED_BYTES},
    transport::{Transport, TransportError},
};

/// The answer to one request.
pub type ExecResult = Result<ExecReply, TransportError>;

/// The stream to one node. Cheap to clone; it closes when the last clone is gone.
#[derive(Clone)]
pub struct NodeStream {
    shared: Arc<Shared>,
    _guard: Arc<CloseGuard>,
}

/// What callers, writer and reader share.
struct Shared {
    transport: Arc<dyn Transport>,
    address: Arc<str>,
    state: Mutex<State>,
    /// Wakes the writer: there are requests, or the stream is to close.
    work: Notify,
    /// Wakes callers that wait for room.
    room: Notify,
    /// Smoothed time from sending a frame to the reply to its first request, in microseconds; 0 = not measured.
    rtt_us: AtomicU64,
}

struct State {
    /// Not handed to the stream yet.
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    /// Handed to the stream, waiting for the reply.
    sent: Slab<Sent>,
    /// A writer task exists.
    running: bool,
    /// The writer sleeps until there is work.
    parked: bool,
    /// Callers wait for room.
    crowded: bool,
    closed: bool,
    /// No connection is tried before this, because of `last_error`.
    blocked_until: Option<Instant>,
    last_error: String,
    pause: Duration,
    /// The frame whose round trip is being measured: its first id and when it was sent.
    sample: Option<(u64, Instant)>,
}

struct Waiting {
    request: ExecRequest,
    bytes: usize,
    sent: Sent,
}

struct Sent {
    reply: oneshot::Sender<ExecResult>,
    started: Instant,
    deadline: Instant,
}

/// Closes the stream when the last handle is dropped; the tasks hold `Shared` only.
struct CloseGuard(Arc<Shared>);

impl Drop for CloseGuard {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.work.notify_one();
    }
}

impl fmt::Debug for NodeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeStream({})", self.shared.address)
    }
}

/// What became of an attempt to put requests in.
enum Put {
    Done,
    /// There is no room.
    Full,
}

impl NodeStream {
    /// A stream to a node (HOST:PORT). It is opened by the first call.
    pub fn new(transport: Arc<dyn Transport>, address: impl Into<Arc<str>>) -> Self {
        let state = State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            sent: Slab::new(),
            running: false,
            parked: false,
            crowded: false,
            closed: false,
            blocked_until: None,
            last_error: String::new(),
            pause: Duration::ZERO,
            sample: None,
        };
        let shared = Arc::new(Shared {
            transport,
            address: address.into(),
            state: Mutex::new(state),
            work: Notify::new(),
            room: Notify::new(),
            rtt_us: AtomicU64::new(0),
        });
        Self {
            _guard: Arc::new(CloseGuard(shared.clone())),
            shared,
        }
    }

    /// The node's address.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Smoothed round trip as seen by requests; zero = not measured yet.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.shared.rtt_us.load(Ordering::Relaxed))
    }

    /// Sends a request and waits for its reply. The request's id is set here.
    ///
    /// # Errors
    /// [`TransportError::Unreachable`]: it was not sent. [`TransportError::Broken`], [`TransportError::Timeout`]: it was sent and its
    /// outcome is unknown. Dropping the future gives the reply up, not the request.
    pub async fn call(&self, request: ExecRequest, deadline: Instant) -> ExecResult {
        self.start(request, deadline)?.reply().await
    }

    /// Puts a request in, if there is room. The caller's future need not have room for the request then, only for what waits.
    pub(crate) fn start(
        &self,
        request: ExecRequest,
        deadline: Instant,
    ) -> Result<Pending<'_>, TransportError> {
        let (reply, receiver) = oneshot::channel();
        let mut waiting = Some(Waiting::new(request, reply, deadline));
        self.shared.put(|| waiting.take())?;
        Ok(Pending {
            stream: self,
            receiver,
            crowded: waiting.map(Box::new),
        })
    }

    /// Sends requests together and waits for all replies, which are in the order of the requests.
    pub async fn call_many(&self, requests: Vec<ExecRequest>, deadline: Instant) -> Vec<ExecResult> {
        let mut receivers = Vec::with_capacity(requests.len());
        let mut waiting: VecDeque<Waiting> = requests
            .into_iter()
            .map(|request| {
                let (reply, receiver) = oneshot::channel();
                receivers.push(receiver);
                Waiting::new(request, reply, deadline)
            })
            .collect();
        let mut failed = None;
        while failed.is_none() && !waiting.is_empty() {
            failed = match self.shared.put(|| waiting.pop_front()) {
                Ok(Put::Done) => None,
                Ok(Put::Full) => {
                    let next = waiting.pop_front();
                    self.wait_for_room(next, deadline).await.err()
                }
                Err(error) => Some(error),
            };
        }
        drop(waiting);
        let mut replies = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            replies.push(receiver.await.unwrap_or_else(|_| {
                Err(failed
                    .clone()
                    .unwrap_or_else(|| self.shared.broken("the client was shut down")))
            }));
        }
        replies
    }

    /// Puts a request in as soon as there is room.
    async fn wait_for_room(
        &self,
        mut waiting: Option<Waiting>,
        deadline: Instant,
    ) -> Result<(), TransportError> {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Put::Done = self.shared.put(|| waiting.take())? {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if timeout(left, room).await.is_err() {
                return Err(self.shared.unreachable("too many requests wait for this node"));
            }
        }
    }
}

/// A request whose reply is waited for.
pub(crate) struct Pending<'a> {
    stream: &'a NodeStream,
    receiver: oneshot::Receiver<ExecResult>,
    /// There was no room for it yet.
    crowded: Option<Box<Waiting>>,
}

impl Pending<'_> {
    /// Its reply.
    pub(crate) async fn reply(self) -> ExecResult {
        if let Some(waiting) = self.crowded {
            let deadline = waiting.sent.deadline;
            Box::pin(self.stream.wait_for_room(Some(*waiting), deadline)).await?;
        }
        self.receiver
            .await
            .unwrap_or_else(|_| Err(self.stream.shared.broken("the client was shut down")))
    }
}

impl Waiting {
    fn new(request: ExecRequest, reply: oneshot::Sender<ExecResult>, deadline: Instant) -> Self {
        let bytes = match &request.op {
            Some(exec_request::Op::Command(command)) => command.len(),
            Some(exec_request::Op::Read(read)) => read.encoded_len(),
            None => 0,
        };
        Self {
            request,
            bytes,
            sent: Sent {
                reply,
                started: Instant::now(),
                deadline,
            },
        }
    }
}

impl Shared {
    /// Puts in what `next` gives until that is nothing. `next` is not called when there is no room.
    fn put(self: &Arc<Self>, mut next: impl FnMut() -> Option<Waiting>) -> Result<Put, TransportError> {
        let mut state = self.state.lock();
        if let Some(until) = state.blocked_until {
            if Instant::now() < until {
                let reason = format!("{} (trying again shortly)", state.last_error);
                return Err(TransportError::Unreachable {
                    address: self.address.to_string(),
                    reason,
                });
            }
            state.blocked_until = None;
        }
        let mut result = Put::Done;
        loop {
            if state.is_full() {
                state.crowded = true;
                result = Put::Full;
                break;
            }
            let Some(waiting) = next() else { break };
            state.queued_bytes += waiting.bytes;
            state.queue.push_back(waiting);
        }
        let wake = std::mem::take(&mut state.parked);
        let start = !std::mem::replace(&mut state.running, true);
        drop(state);
        if start {
            tokio::spawn(driver::run(self.clone()));
        } else if wake {
            self.work.notify_one();
        }
        Ok(result)
    }

    fn broken(&self, reason: &str) -> TransportError {
        TransportError::Broken {
            address: self.address.to_string(),
            reason: reason.to_owned(),
        }
    }

    fn unreachable(&self, reason: &str) -> TransportError {
        TransportError::Unreachable {
            address: self.address.to_string(),
            reason: reason.to_owned(),
        }
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.queue.len() + self.sent.len() >= MAX_PENDING || self.queued_bytes >= MAX_QUEUED_BYTES
    }

    /// True once after callers began to wait for room and there is some.
    fn has_news_of_room(&mut self) -> bool {
        self.crowded && !self.is_full() && std::mem::take(&mut self.crowded)
    }
}

#[cfg(test)]
mod tests;
