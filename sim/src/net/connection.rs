//! A connection: two ends, each with its streams, and a pipe in each direction.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use kvsvr_client::transport::{Class, Method, TransportError};
use madsim::task::AbortHandle;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc::UnboundedSender},
    time::{Instant, sleep, sleep_until},
};

use super::{Direction, Fate, MOMENT, SimNet};
use crate::{clock::sleep_exactly, random::Stream};

/// Bytes of one stream that are not consumed yet; a message may pass it once.
pub(super) const STREAM_WINDOW: i64 = kvsvr_client::limits::STREAM_WINDOW as i64;
/// The same of all streams of a connection, by the side that receives: clients have room for all, servers do not.
const CONNECTION_WINDOWS: [i64; 2] = [
    kvsvr_client::limits::CONNECTION_WINDOW as i64,
    kvsvr::limits::CONNECTION_WINDOW_BYTES as i64,
];
/// Bytes that a frame has beside its message.
const OVERHEAD: usize = 64;

/// An item of a stream, or the answer to a call.
pub(super) type Item = Result<Bytes, TransportError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client = 0,
    Server = 1,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    fn direction(self) -> Direction {
        match self {
            Self::Client => Direction::Request,
            Self::Server => Direction::Answer,
        }
    }
}

/// The process at an end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) host: Arc<str>,
    pub(super) incarnation: u64,
}

/// What travels. The numbers are of streams; a call is a stream with one message each way.
#[derive(Debug)]
pub(super) enum Frame {
    Call(u64, Method, Bytes),
    Open(u64, Method),
    Data(u64, Method, Bytes),
    /// The client has sent all.
    End(u64),
    /// To a call.
    Answer(u64, Method, Item),
    /// The server has ended a stream.
    Status(u64, Option<TransportError>),
    /// The client gives the stream up.
    Cancel(u64),
    /// Bytes of a stream were consumed.
    Window(u64, usize),
    Ping,
    Pong,
    /// The connection is no more. Not sent again when it is lost.
    Reset,
}

impl Frame {
    /// What is counted and traced: the stream, its method and the message.
    pub(super) fn message(&self) -> Option<(u64, Method, Bytes)> {
        match self {
            Self::Call(stream, method, message) | Self::Data(stream, method, message) => {
                Some((*stream, *method, message.clone()))
            }
            Self::Answer(stream, method, item) => Some((*stream, *method, item.clone().unwrap_or_default())),
            _ => None,
        }
    }
}

/// What the other side hears of the end of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing.
    Silent,
    /// A reset in place of what was on the way.
    AtOnce,
    /// A reset after it.
    AfterWhatWasSent,
}

/// A frame on its way.
pub(super) struct Flight {
    arrival: Instant,
    /// Since the begin of the simulation.
    pub(super) sent: Duration,
    pub(super) frame: Frame,
}

struct Pipe {
    state: Mutex<PipeState>,
    wake: Notify,
}

struct PipeState {
    /// With their arrivals; one that would overtake the one before it waits for that.
    frames: VecDeque<Flight>,
    /// Counts how often what was on the way was thrown away.
    epoch: u64,
    closed: bool,
}

pub(super) struct StreamEnd {
    pub(super) method: Method,
    /// Whoever reads. `None` when the other side has sent all.
    pub(super) inbox: Option<UnboundedSender<Item>>,
    /// Bytes that may be sent.
    pub(super) credit: i64,
    /// The server's tasks for it.
    pub(super) tasks: Vec<AbortHandle>,
}

impl StreamEnd {
    pub(super) fn new(method: Method, inbox: Option<UnboundedSender<Item>>) -> Self {
        Self {
            method,
            inbox,
            credit: STREAM_WINDOW,
            tasks: Vec::new(),
        }
    }
}

pub(super) struct End {
    pub(super) broken: Option<&'static str>,
    pub(super) streams: BTreeMap<u64, StreamEnd>,
    /// Bytes that may be sent on all streams together.
    pub(super) credit: i64,
    /// When anything arrived last.
    pub(super) heard: Instant,
    /// The other side has been told that this one is no more.
    bounced: bool,
}

pub(super) struct ConnectionState {
    pub(super) ends: [End; 2],
    next_stream: u64,
    /// Calls whose answers are lost, and the connection with them.
    pub(super) lose_answers: BTreeSet<u64>,
    /// Streams whose first message has come to the server.
    pub(super) heads: BTreeSet<u64>,
    chance: Stream,
}

/// See the module.
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) class: Class,
    pub(super) net: SimNet,
    peers: [Peer; 2],
    pub(super) state: Mutex<ConnectionState>,
    /// A stream of the side ended, or it may send more.
    pub(super) changed: [Notify; 2],
    pipes: [Pipe; 2],
}

impl Connection {
    /// A new connection whose packets are on their way.
    pub(super) fn start(net: SimNet, id: u64, class: Class, peers: [Peer; 2]) -> Arc<Self> {
        let now = Instant::now();
        let end = |receiver: Side| End {
            broken: None,
            streams: BTreeMap::new(),
            credit: CONNECTION_WINDOWS[receiver as usize],
            heard: now,
            bounced: false,
        };
        let pipe = || Pipe {
            state: Mutex::new(PipeState {
                frames: VecDeque::new(),
                epoch: 0,
                closed: false,
            }),
            wake: Notify::new(),
        };
        let chance = Stream::new(net.0.seed, &[&"connection", &id]);
        let state = ConnectionState {
            ends: [end(Side::Server), end(Side::Client)],
            next_stream: 0,
            lose_answers: BTreeSet::new(),
            heads: BTreeSet::new(),
            chance,
        };
        let this = Arc::new(Self {
            id,
            class,
            net,
            peers,
            state: Mutex::new(state),
            changed: [Notify::new(), Notify::new()],
            pipes: [pipe(), pipe()],
        });
        for side in [Side::Client, Side::Server] {
            this.net.0.node.spawn(this.clone().carry(side));
        }
        this
    }

    pub(super) fn peer(&self, side: Side) -> &Peer {
        &self.peers[side as usize]
    }

    pub(super) fn is_broken(&self, side: Side) -> bool {
        self.state.lock().ends[side as usize].broken.is_some()
    }

    /// The error for whoever uses the connection on this side.
    pub(super) fn broken(&self, side: Side, reason: &str) -> TransportError {
        TransportError::Broken {
            address: self.peer(side.other()).host.to_string(),
            reason: reason.to_owned(),
        }
    }

    /// Begins a stream or call on the client's side. Its messages, and its end, go to the inbox.
    pub(super) fn begin(&self, method: Method, inbox: UnboundedSender<Item>) -> u64 {
        let mut state = self.state.lock();
        state.next_stream += 1;
        let stream = state.next_stream;
        let end = &mut state.ends[Side::Client as usize];
        match end.broken {
            Some(reason) => {
                let _ = inbox.send(Err(self.broken(Side::Client, reason)));
            }
            None => {
                end.streams.insert(stream, StreamEnd::new(method, Some(inbox)));
            }
        }
        stream
    }

    /// Puts a frame on its way.
    pub(super) fn send(&self, from: Side, frame: Frame) {
        if self.is_broken(from) {
            return;
        }
        let bytes = OVERHEAD + frame.message().map_or(0, |(_, _, message)| message.len());
        let (here, there) = (&self.peer(from).host, &self.peer(from.other()).host);
        let Some(arrival) = self.net.with_link(here, there, |link| link.arrival(bytes)) else {
            self.break_end(from, "too many packets are lost", Ending::Silent);
            return;
        };
        let pipe = &self.pipes[from as usize];
        pipe.state.lock().push(arrival, frame);
        pipe.wake.notify_one();
    }

    /// Sends a message of a stream as soon as the other side has room. False if the stream is no more.
    pub(super) async fn put(&self, from: Side, stream: u64, message: Bytes) -> bool {
        let method = loop {
            let changed = self.changed[from as usize].notified();
            let mut changed = pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                let end = &mut state.ends[from as usize];
                let Some(open) = end.streams.get_mut(&stream) else {
                    return false;
                };
                if open.credit > 0 && end.credit > 0 {
                    open.credit -= message.len() as i64;
                    end.credit -= message.len() as i64;
                    break open.method;
                }
            }
            changed.await;
        };
        self.send(from, Frame::Data(stream, method, message));
        true
    }

    /// Waits until a stream is no more on this side.
    pub(super) async fn gone(&self, side: Side, stream: u64) {
        loop {
            let changed = self.changed[side as usize].notified();
            let mut changed = pin!(changed);
            changed.as_mut().enable();
            if !self.state.lock().ends[side as usize]
                .streams
                .contains_key(&stream)
            {
                return;
            }
            changed.await;
        }
    }

    /// The reader has taken bytes, or will not take them: the other side may send as many.
    pub(super) fn consumed(&self, side: Side, stream: u64, bytes: usize) {
        if bytes > 0 {
            self.send(side, Frame::Window(stream, bytes));
        }
    }

    /// Takes a stream off a side. What it has received and not read can still be read. `None` if there is none.
    pub(super) fn remove(&self, side: Side, stream: u64) -> Option<StreamEnd> {
        let removed = self.state.lock().ends[side as usize].streams.remove(&stream);
        self.changed[side as usize].notify_waiters();
        removed
    }

    /// The connection is no more for this side: all its calls and streams end.
    pub(super) fn break_end(&self, side: Side, reason: &'static str, ending: Ending) {
        let (streams, late) = {
            let mut state = self.state.lock();
            let late = state.chance.chance(0.5);
            let end = &mut state.ends[side as usize];
            if end.broken.is_some() {
                return;
            }
            end.broken = Some(reason);
            (std::mem::take(&mut end.streams), late)
        };
        self.close_pipe(side, ending);
        let mut tasks = Vec::new();
        for (_, stream) in streams {
            if let Some(inbox) = &stream.inbox {
                let _ = inbox.send(Err(self.broken(side, reason)));
            }
            tasks.extend(stream.tasks);
        }
        self.changed[side as usize].notify_waiters();
        if !late {
            tasks.iter().for_each(AbortHandle::abort);
        } else if !tasks.is_empty() {
            // A handler may see the end of its stream before it is ended itself.
            self.net.0.node.spawn(async move {
                sleep(MOMENT).await;
                tasks.iter().for_each(AbortHandle::abort);
            });
        }
    }

    /// Both sides hear of the end at once.
    pub(super) fn reset(&self, reason: &'static str) {
        self.break_end(Side::Client, reason, Ending::Silent);
        self.break_end(Side::Server, reason, Ending::Silent);
    }

    fn close_pipe(&self, side: Side, ending: Ending) {
        let (here, there) = (&self.peer(side).host, &self.peer(side.other()).host);
        let arrival = self
            .net
            .with_link(here, there, |link| Instant::now() + link.travel());
        let pipe = &self.pipes[side as usize];
        let mut state = pipe.state.lock();
        let mut dropped = VecDeque::new();
        if ending != Ending::AfterWhatWasSent {
            state.epoch += 1;
            dropped = std::mem::take(&mut state.frames);
        }
        if ending != Ending::Silent {
            state.push(arrival, Frame::Reset);
        }
        state.closed = true;
        drop(state);
        pipe.wake.notify_one();
        dropped
            .iter()
            .for_each(|flight| self.trace(side, flight, Fate::Dropped));
    }

    /// Notes what became of a frame, if it is one with a message.
    pub(super) fn trace(&self, from: Side, flight: &Flight, fate: Fate) {
        let Some((stream, method, message)) = flight.frame.message() else {
            return;
        };
        let (here, there) = (&self.peer(from).host, &self.peer(from.other()).host);
        let mut event = self.net.event(here, there, method, self.class, from.direction());
        event.sent = flight.sent;
        event.call = Some((self.id, stream));
        event.bytes = message.len();
        event.fate = fate;
        self.net.record(&event, &message);
    }

    /// Takes the frames of one direction to the other side.
    async fn carry(self: Arc<Self>, from: Side) {
        while let Some((epoch, flight)) = self.next(from).await {
            sleep_exactly(flight.arrival).await;
            let (here, there) = (&self.peer(from).host, self.peer(from.other()));
            if !self
                .net
                .pass(here, &there.host, !matches!(flight.frame, Frame::Reset))
                .await
            {
                continue;
            }
            let reached = self.net.reach(&there.host, Some(there.incarnation)).await;
            if self.pipes[from as usize].state.lock().epoch != epoch {
                self.trace(from, &flight, Fate::Dropped);
                continue;
            }
            match reached {
                super::Reached::Process(process) if !self.is_broken(from.other()) => {
                    self.deliver(from, flight, &process);
                }
                _ => self.bounce(from),
            }
        }
    }

    async fn next(&self, from: Side) -> Option<(u64, Flight)> {
        let pipe = &self.pipes[from as usize];
        loop {
            {
                let mut state = pipe.state.lock();
                let epoch = state.epoch;
                match state.frames.pop_front() {
                    Some(flight) => return Some((epoch, flight)),
                    None if state.closed => return None,
                    None => {}
                }
            }
            pipe.wake.notified().await;
        }
    }

    /// A frame found no connection on the other side: the machine there says so.
    fn bounce(self: &Arc<Self>, from: Side) {
        if std::mem::replace(&mut self.state.lock().ends[from as usize].bounced, true) {
            return;
        }
        let this = self.clone();
        self.net.0.node.spawn(async move {
            let (here, there) = (&this.peer(from).host, &this.peer(from.other()).host);
            this.net.travel(there, here).await;
            let Peer { host, incarnation } = this.peer(from);
            if let super::Reached::Process(_) = this.net.reach(host, Some(*incarnation)).await {
                this.break_end(from, "connection reset by peer", Ending::Silent);
            }
        });
    }

    fn heard(&self, side: Side) -> Option<Instant> {
        let state = self.state.lock();
        let end = &state.ends[side as usize];
        end.broken.is_none().then_some(end.heard)
    }

    /// Finds out that the other side is gone without having said so. To be run by the side's process.
    pub(super) async fn keep_alive(self: Arc<Self>, side: Side, interval: Duration, timeout: Duration) {
        while let Some(heard) = self.heard(side) {
            sleep_until(heard + interval).await;
            if self.heard(side) != Some(heard) {
                continue;
            }
            self.send(side, Frame::Ping);
            sleep(timeout).await;
            if self.heard(side) == Some(heard) {
                self.break_end(side, "keep-alive timed out", Ending::AtOnce);
            }
        }
    }
}

impl PipeState {
    fn push(&mut self, arrival: Instant, frame: Frame) {
        if !self.closed {
            let sent = madsim::time::TimeHandle::current().elapsed();
            self.frames.push_back(Flight { arrival, sent, frame });
        }
    }
}
