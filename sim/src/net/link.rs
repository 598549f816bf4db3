//! One direction between two hosts: what happens to what is sent over it.

use std::{collections::VecDeque, fmt::Display, time::Duration};

use bytes::Bytes;
use kvsvr_client::transport::Method;
use tokio::time::Instant;

use crate::random::Stream;

/// The first wait of TCP before it sends a lost segment again (RFC 6298: at least 1 s; Linux: 200 ms). Doubles each time.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// A segment that is lost again and again for so long breaks its connection.
const MAX_RETRANSMISSION: Duration = Duration::from_secs(20);
/// Recorded calls and streams that a link may replay.
const RECORDS: usize = 32;
/// Messages of one recorded stream.
const RECORDED_MESSAGES: usize = 64;
/// Bytes of one recording; larger ones are not kept.
const RECORDED_BYTES: usize = 1 << 20;

/// How one direction of a link behaves. All of it can be changed at any time.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkSpec {
    /// The least time of travel.
    pub floor: Duration,
    /// Mean of what an exponential distribution adds to it.
    pub mean: Duration,
    /// What is added evenly from nothing up to this.
    pub jitter: Duration,
    /// Bytes a second, all connections together.
    pub bandwidth: Option<u64>,
    /// Probability that a message is lost and has to be sent again; the connection waits for it.
    pub loss: f64,
    /// Nothing arrives, and TCP sends again until the connection breaks: one-way.
    pub cut: bool,
    /// Nothing arrives until it is let go; then all of it does, in order.
    pub clogged: bool,
    /// Probability that a message breaks its connection before it arrives.
    pub reset_before: f64,
    /// Probability that a message arrives, and then the connection breaks: of a call, the answer is lost.
    pub reset_after: f64,
    /// Probability that a call is carried out a second time, later.
    pub duplicate: f64,
    /// Probability that with a message an older call or stream of this link is played again to the same host.
    pub replay: f64,
    /// How much later duplicates and replays come, at most.
    pub replay_delay: Duration,
}

impl Default for LinkSpec {
    /// A good network within one data centre.
    fn default() -> Self {
        Self {
            floor: Duration::from_micros(100),
            mean: Duration::from_micros(100),
            jitter: Duration::ZERO,
            bandwidth: None,
            loss: 0.0,
            cut: false,
            clogged: false,
            reset_before: 0.0,
            reset_after: 0.0,
            duplicate: 0.0,
            replay: 0.0,
            replay_delay: Duration::from_secs(5),
        }
    }
}

impl LinkSpec {
    /// The same with these delays.
    pub fn with_delay(self, floor: Duration, mean: Duration) -> Self {
        Self { floor, mean, ..self }
    }
}

/// What a link does with a message that has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accident {
    None,
    ResetBefore,
    ResetAfter,
}

/// A call or a stream as a misbehaving proxy would remember it.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    /// Of the stream: connection and number.
    pub(super) key: (u64, u64),
    pub(super) method: Method,
    pub(super) unary: bool,
    pub(super) messages: Vec<Bytes>,
    bytes: usize,
}

/// A direction of a link with its chance.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) spec: LinkSpec,
    /// When it was cut last, while it is.
    pub(super) cut_since: Option<Instant>,
    /// When all that was sent so far has left the sender.
    free_at: Instant,
    delays: Stream,
    losses: Stream,
    resets: Stream,
    duplicates: Stream,
    replays: Stream,
    recordings: VecDeque<Recording>,
}

impl Link {
    pub(super) fn new(seed: u64, from: &str, to: &str, spec: LinkSpec) -> Self {
        let stream = |what: &dyn Display| Stream::new(seed, &[&"link", &from, &to, what]);
        Self {
            spec,
            cut_since: None,
            free_at: Instant::now(),
            delays: stream(&"delay"),
            losses: stream(&"loss"),
            resets: stream(&"reset"),
            duplicates: stream(&"duplicate"),
            replays: stream(&"replay"),
            recordings: VecDeque::new(),
        }
    }

    pub(super) fn set(&mut self, spec: LinkSpec) {
        self.cut_since = spec.cut.then(|| self.cut_since.unwrap_or_else(Instant::now));
        if spec.bandwidth.is_none() {
            // What is sent from now on does not wait for what was slow.
            self.free_at = Instant::now();
        }
        self.spec = spec;
    }

    /// One trip of a packet.
    pub(super) fn travel(&mut self) -> Duration {
        let jitter = self.delays.below(self.spec.jitter.as_nanos() as u64);
        self.spec.floor + self.delays.exponential(self.spec.mean) + Duration::from_nanos(jitter)
    }

    /// When what is sent now arrives; `None` if it is lost so often that the connection breaks.
    pub(super) fn arrival(&mut self, bytes: usize) -> Option<Instant> {
        let sent = self.free_at.max(Instant::now());
        self.free_at = match self.spec.bandwidth {
            Some(rate) => sent + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64),
            None => sent,
        };
        let (mut wait, mut timeout) = (Duration::ZERO, RETRANSMISSION);
        while self.losses.chance(self.spec.loss) {
            // Half of the time later packets tell of the gap (fast retransmit), else the timer does.
            if wait.is_zero() && self.losses.below(2) == 0 {
                wait += self.travel() * 2;
            } else {
                wait += timeout;
                timeout *= 2;
            }
            if wait > MAX_RETRANSMISSION {
                return None;
            }
        }
        Some(self.free_at + wait + self.travel())
    }

    /// How long after the end of a cut the next retransmission is due.
    pub(super) fn after_cut(&mut self, cut_for: Duration) -> Duration {
        let longest = cut_for.min(MAX_RETRANSMISSION).max(RETRANSMISSION);
        Duration::from_nanos(self.losses.below(longest.as_nanos() as u64))
    }

    pub(super) fn accident(&mut self) -> Accident {
        if self.resets.chance(self.spec.reset_before) {
            Accident::ResetBefore
        } else if self.resets.chance(self.spec.reset_after) {
            Accident::ResetAfter
        } else {
            Accident::None
        }
    }

    /// Whether a call is to be carried out again, and when.
    pub(super) fn duplicate(&mut self) -> Option<Duration> {
        self.duplicates
            .chance(self.spec.duplicate)
            .then(|| Duration::from_nanos(self.duplicates.below(self.spec.replay_delay.as_nanos() as u64)))
    }

    /// Whether something old is to be played again, what, and when.
    pub(super) fn replay(&mut self) -> Option<(Recording, Duration)> {
        if self.recordings.is_empty() || !self.replays.chance(self.spec.replay) {
            return None;
        }
        let chosen = self.replays.index(self.recordings.len());
        let delay = Duration::from_nanos(self.replays.below(self.spec.replay_delay.as_nanos() as u64));
        Some((self.recordings[chosen].clone(), delay))
    }

    /// Remembers a message, while replays are on.
    pub(super) fn record(
        &mut self,
        key: (u64, u64),
        method: Method,
        unary: bool,
        first: bool,
        message: &Bytes,
    ) {
        if self.spec.replay <= 0.0 {
            return;
        }
        if let Some(recording) = self.recordings.iter_mut().find(|recording| recording.key == key) {
            let room = recording.messages.len() < RECORDED_MESSAGES
                && recording.bytes + message.len() <= RECORDED_BYTES;
            if room {
                recording.bytes += message.len();
                recording.messages.push(message.clone());
            }
            return;
        }
        // A stream whose head was not recorded means nothing when it is played again.
        if !first || message.len() > RECORDED_BYTES {
            return;
        }
        if self.recordings.len() >= RECORDS {
            self.recordings.pop_front();
        }
        self.recordings.push_back(Recording {
            key,
            method,
            unary,
            messages: vec![message.clone()],
            bytes: message.len(),
        });
    }
}
