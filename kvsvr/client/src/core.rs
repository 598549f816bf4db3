//! The engine behind [`Client`](crate::Client): carries one command or one read through as many tries as it takes.
//!
//! It owns the router, one [`NodeStream`] for each node, one session for each shard and the shard map's refresh. What to do after a
//! failure is decided in [`retry`](crate::retry), where to go in [`router`](crate::router); here is the loop.

mod map;
mod reply;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use kvsvr_proto::v1::{self, command, exec_request, outcome};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use tokio::time::{Duration, Instant, sleep};

use self::reply::{Verdict, accept_outcome, accept_read};
use crate::{
    error::{Certainty, Code, Error, Result},
    limits::MAX_TIMEOUT,
    mux::NodeStream,
    retry::{Next, Repeat, Step, Tries},
    router::{Place, Router, Target},
    session::{ShardSession, Ticket},
    time::millis,
    transport::{Class, Method, Transport},
    types::{ReadFrom, ReadMode},
};

/// What all handles of a client share.
pub(crate) struct Core {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) try_timeout: Duration,
    /// Writes carry session and sequence number.
    pub(crate) sessions_on: bool,
    router: RwLock<Router>,
    streams: RwLock<BTreeMap<Arc<str>, NodeStream>>,
    sessions: Mutex<BTreeMap<u32, Arc<ShardSession>>>,
    started: Instant,
    /// The map's epoch and the time of its last fetch, for a cheap look on each call.
    epoch: AtomicU64,
    fetched_ms: AtomicU64,
    /// Held by the caller who fetches the map.
    fetching: tokio::sync::Mutex<()>,
    /// A fetch in the background is under way.
    background: AtomicBool,
    spread: AtomicUsize,
}

/// An answer and the node that gave it.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) address: Arc<str>,
}

/// How the tries of one request ended without an answer.
enum Ended {
    /// Begin anew: the shard or the session is another now.
    Anew {
        new_session: bool,
    },
    Failed(Error),
}

/// How to choose a node.
#[derive(Clone, Copy)]
enum Choice {
    Leader,
    Replica(ReadFrom, usize),
}

/// One request, whatever its try.
struct Job<T> {
    place: Place,
    shard: u32,
    choice: Choice,
    deadline: Instant,
    accept: fn(v1::ExecReply, &Target) -> Verdict<T>,
}

impl<T> Job<T> {
    fn request(&self, op: exec_request::Op, hops: u32, left: Duration) -> v1::ExecRequest {
        v1::ExecRequest {
            shard: self.shard,
            meta: self.shard == 0,
            hops,
            timeout_ms: timeout_ms(left),
            op: Some(op),
            ..Default::default()
        }
    }
}

impl Core {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        endpoints: Vec<Arc<str>>,
        try_timeout: Duration,
        sessions_on: bool,
    ) -> Self {
        Self {
            transport,
            try_timeout,
            sessions_on,
            router: RwLock::new(Router::new(endpoints)),
            streams: RwLock::default(),
            sessions: Mutex::default(),
            started: Instant::now(),
            epoch: AtomicU64::new(0),
            fetched_ms: AtomicU64::new(0),
            fetching: tokio::sync::Mutex::default(),
            background: AtomicBool::new(false),
            spread: AtomicUsize::new(0),
        }
    }

    /// Time since the client was made, the router's clock.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn router(&self) -> &RwLock<Router> {
        &self.router
    }

    fn stream(&self, address: &Arc<str>) -> NodeStream {
        if let Some(stream) = self.streams.read().get(address) {
            return stream.clone();
        }
        let new = || NodeStream::new(self.transport.clone(), address.clone());
        self.streams
            .write()
            .entry(address.clone())
            .or_insert_with(new)
            .clone()
    }

    fn session(&self, shard: u32) -> Arc<ShardSession> {
        self.sessions.lock().entry(shard).or_default().clone()
    }

    /// Carries out a command.
    pub(crate) async fn execute(
        self: &Arc<Self>,
        place: Place,
        mut command: v1::Command,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<Answer<v1::Outcome>> {
        let mut tries = Tries::new(repeat);
        loop {
            let shard = self
                .locate(place, deadline)
                .await
                .map_err(|e| tries.last_error(e))?;
            let ticket = match repeat {
                Repeat::Deduplicated => Some(
                    self.ticket(shard, deadline)
                        .await
                        .map_err(|e| tries.last_error(e))?,
                ),
                _ => None,
            };
            let op = || {
                if let Some(ticket) = &ticket {
                    if crate::mutant!("retry-without-session") && command.seq == ticket.seq {
                        (command.session, command.seq, command.acked_below) = (0, 0, 0);
                        return exec_request::Op::Command(command.encode_to_vec().into());
                    }
                    command.session = ticket.session;
                    command.seq = ticket.seq;
                    command.acked_below = ticket.acked_below();
                }
                exec_request::Op::Command(command.encode_to_vec().into())
            };
            let job = Job {
                place,
                shard,
                choice: Choice::Leader,
                deadline,
                accept: accept_outcome,
            };
            match self.tries(job, op, &mut tries).await {
                Ok(answer) => return Ok(answer),
                Err(Ended::Failed(error)) => return Err(error),
                Err(Ended::Anew { new_session }) => {
                    if let Some(ticket) = ticket.filter(|_| new_session) {
                        self.session(shard).expired(ticket.session);
                    }
                }
            }
        }
    }

    async fn ticket(self: &Arc<Self>, shard: u32, deadline: Instant) -> Result<Ticket> {
        let session = self.session(shard);
        match session.try_begin() {
            Some(ticket) => Ok(ticket),
            None => Box::pin(session.begin(deadline, || self.open_session(shard, deadline))).await,
        }
    }

    /// A session nobody uses is closed by the server in time, so opening may be repeated. An error is definite: whether the opening took
    /// effect does not matter, the caller's own write was not sent.
    async fn open_session(self: &Arc<Self>, shard: u32, deadline: Instant) -> Result<u64> {
        let op = command::Op::SessionOpen(v1::SessionOpen {});
        let command = v1::Command {
            op: Some(op),
            ..v1::Command::default()
        };
        let op = || exec_request::Op::Command(command.encode_to_vec().into());
        let mut tries = Tries::new(Repeat::Read);
        let job = Job {
            place: Place::Shard(shard),
            shard,
            choice: Choice::Leader,
            deadline,
            accept: accept_outcome,
        };
        match self.tries(job, op, &mut tries).await {
            Ok(Answer {
                value:
                    v1::Outcome {
                        result: Some(outcome::Result::Session(s)),
                        ..
                    },
                ..
            }) if s.id != 0 => Ok(s.id),
            Ok(answer) => Err(Error {
                certainty: Certainty::Definite,
                ..Error::unexpected("no session id", &answer.address)
            }),
            Err(Ended::Failed(e)) => Err(Error {
                certainty: Certainty::Definite,
                ..e
            }),
            Err(Ended::Anew { .. }) => Err(Error::definite(
                Code::WrongShard,
                "the shard has moved: try again",
            )),
        }
    }

    /// Carries out a read.
    pub(crate) async fn read(
        self: &Arc<Self>,
        place: Place,
        request: &v1::ReadRequest,
        from: ReadFrom,
        deadline: Instant,
    ) -> Result<Answer<v1::ReadResult>> {
        let mut tries = Tries::new(Repeat::Read);
        let choice = match from {
            ReadFrom::Leader => Choice::Leader,
            from => Choice::Replica(from, self.spread.fetch_add(1, Ordering::Relaxed)),
        };
        loop {
            let shard = self.locate(place, deadline).await?;
            let op = || exec_request::Op::Read(request.clone());
            let job = Job {
                place,
                shard,
                choice,
                deadline,
                accept: accept_read,
            };
            match self.tries(job, op, &mut tries).await {
                Ok(answer) => return Ok(answer),
                Err(Ended::Failed(error)) => return Err(error),
                Err(Ended::Anew { .. }) => {}
            }
        }
    }

    /// Sends a request until it is answered, or begins anew, or fails for good. `op` makes it for each try anew: what a write acknowledges
    /// must go on while it is tried, or the server's memory of the session could fill up behind it.
    ///
    /// The first try is nearly always the only one. What the others need is kept apart, since a future is moved about whole: so it stays small.
    async fn tries<T>(
        self: &Arc<Self>,
        job: Job<T>,
        mut op: impl FnMut() -> exec_request::Op + Send,
        tries: &mut Tries,
    ) -> std::result::Result<Answer<T>, Ended> {
        let Some(target) = self.choose(job.shard, job.choice, &[]) else {
            return Err(Ended::Failed(tries.last_error(no_such_shard(job.place))));
        };
        match self.once(&job, &target, &mut op, 1, tries).await {
            Verdict::Done(value) => Ok(self.done(&job, value, target, 1, tries)),
            Verdict::Refused(error) => Err(Ended::Failed(tries.refusal(error))),
            Verdict::Failed(error) => Box::pin(self.try_again(job, op, tries, target, error)).await,
        }
    }

    /// Goes on after the first try has failed.
    async fn try_again<T>(
        self: &Arc<Self>,
        job: Job<T>,
        mut op: impl FnMut() -> exec_request::Op + Send,
        tries: &mut Tries,
        mut target: Target,
        mut error: Error,
    ) -> std::result::Result<Answer<T>, Ended> {
        let shard = job.shard;
        let mut avoid = Vec::new();
        loop {
            let left = job.deadline.saturating_duration_since(Instant::now());
            let replicas = self.router.read().replicas(shard);
            let step = tries.judge(&error, left, replicas, rand::random_range(0.0..1.0));
            tracing::debug!(node = %target.address, shard, %error, ?step, "try failed");
            let Step::Retry { after, next } = step else {
                return Err(Ended::Failed(tries.last_error(error)));
            };
            if !after.is_zero() {
                sleep(after).await;
            }
            let mut hops = 1;
            match next {
                Next::Route => {}
                Next::Leader { node, address } => {
                    if self.router.write().leader_is(shard, node, &address, self.now()) {
                        avoid.retain(|n| *n != node);
                    } else {
                        // We cannot reach the leader, this node perhaps can.
                        hops = 0;
                    }
                }
                Next::Other => self.turn_away(&target, &error, &mut avoid, replicas),
                Next::NewSession => return Err(Ended::Anew { new_session: true }),
                Next::RefreshMap => {
                    // Without an answer the old map has to do.
                    let _ = self
                        .fetch_map(job.deadline, self.epoch.load(Ordering::Relaxed))
                        .await;
                    return Err(Ended::Anew { new_session: false });
                }
            }
            if hops > 0 {
                target = match self.choose(shard, job.choice, &avoid) {
                    Some(target) => target,
                    None => return Err(Ended::Failed(tries.last_error(no_such_shard(job.place)))),
                };
            }
            error = match self.once(&job, &target, &mut op, hops, tries).await {
                Verdict::Done(value) => return Ok(self.done(&job, value, target, hops, tries)),
                Verdict::Refused(error) => return Err(Ended::Failed(tries.refusal(error))),
                Verdict::Failed(error) => error,
            };
        }
    }

    /// One try.
    async fn once<T>(
        self: &Arc<Self>,
        job: &Job<T>,
        target: &Target,
        op: &mut (impl FnMut() -> exec_request::Op + Send),
        hops: u32,
        tries: &Tries,
    ) -> Verdict<T> {
        let now = Instant::now();
        let until = match tries.may_repeat() {
            true => job.deadline.min(now + self.try_timeout),
            false => job.deadline,
        };
        let stream = self.stream(&target.address);
        let pending = stream.start(
            job.request(op(), hops, until.saturating_duration_since(now)),
            until,
        );
        let reply = match pending {
            Ok(pending) => pending.reply().await,
            Err(error) => Err(error),
        };
        match reply {
            Ok(reply) => {
                self.look_at_epoch(reply.map_epoch, now);
                (job.accept)(reply, target)
            }
            Err(error) => Verdict::Failed(error.into()),
        }
    }

    /// The answer; and who gave it leads, if others were asked in vain.
    fn done<T>(&self, job: &Job<T>, value: T, target: Target, hops: u32, tries: &Tries) -> Answer<T> {
        if tries.failed() > 0 && matches!(job.choice, Choice::Leader) && hops > 0 {
            self.learn_leader(&target);
        }
        Answer {
            value,
            address: target.address,
        }
    }

    fn choose(&self, shard: u32, choice: Choice, avoid: &[u64]) -> Option<Target> {
        let router = self.router.read();
        match choice {
            Choice::Leader => router.leader(shard, avoid, self.now()),
            Choice::Replica(from, spread) => {
                router.replica(shard, from, avoid, self.now(), spread, |a| self.distance(a))
            }
        }
    }

    /// A node's round trip; zero if it has not been measured, so that it will be.
    pub(crate) fn distance(&self, address: &str) -> Duration {
        self.streams
            .read()
            .get(address)
            .map_or(Duration::ZERO, NodeStream::round_trip)
    }

    fn learn_leader(&self, target: &Target) {
        self.router
            .write()
            .leader_is(target.shard, target.node, "", self.now());
    }

    /// The next try goes to another node, and if the fault is the node's, so do other calls.
    fn turn_away(&self, target: &Target, error: &Error, avoid: &mut Vec<u64>, replicas: usize) {
        match error.code {
            Code::Unreachable | Code::Disconnected | Code::NotReady => {
                self.router.write().penalize(&target.address, self.now());
            }
            Code::NoLeader | Code::NotLeader => self.router.write().not_leader(target.shard, target.node),
            _ => {}
        }
        if avoid.len() + 1 >= replicas {
            avoid.clear();
        }
        avoid.push(target.node);
    }

    /// One unary call to one node, without retries.
    pub(crate) async fn call<Q: Message, R: Message + Default>(
        &self,
        address: &str,
        method: Method,
        request: &Q,
        time: Duration,
    ) -> Result<R> {
        let request = Bytes::from(request.encode_to_vec());
        let answer = self
            .transport
            .call(address, Class::Control, method, request, time)
            .await?;
        R::decode(answer)
            .map_err(|e| Error::unexpected(&format!("an answer that does not decode ({e})"), address))
    }
}

/// On the wire: whole milliseconds, 0 = the server's default.
fn timeout_ms(left: Duration) -> u32 {
    u32::try_from(millis(left.min(MAX_TIMEOUT)).max(1)).unwrap_or(u32::MAX)
}

fn no_such_shard(place: Place) -> Error {
    match place {
        Place::Slot(slot) => Error::definite(
            Code::NotReady,
            format!("the shard map has no shard for slot {slot}: see `kvctl cluster status`"),
        ),
        Place::Shard(id) => Error::definite(
            Code::NotFound,
            format!("there is no shard {id}: see `kvctl cluster status`"),
        ),
    }
}

/// The message of a read.
pub(crate) fn read_request(
    partition: v1::Partition,
    mode: ReadMode,
    op: v1::read_request::Op,
) -> v1::ReadRequest {
    v1::ReadRequest {
        partition: Some(partition),
        mode: Some(mode.to_proto()),
        op: Some(op),
    }
}
