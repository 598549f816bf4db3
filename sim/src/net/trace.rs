//! What the network did: counts, a hash of all of it, and an observer for pictures.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use kvsvr_client::transport::{Class, Method};
use twox_hash::XxHash3_64;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the client of the connection.
    Request,
    /// From its server.
    Answer,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// It arrived.
    Delivered,
    /// It did not arrive: its connection broke while it was on the way.
    Dropped,
    /// It arrived a second time, later.
    Duplicated,
    /// It arrived again on a later stream.
    Replayed,
    /// It did not arrive, and broke its connection.
    ResetBefore,
    /// It arrived, and then broke its connection.
    ResetAfter,
}

/// One message's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Since the begin of the simulation.
    pub at: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// The host that sent it.
    pub from: Arc<str>,
    /// The host that it was for.
    pub to: Arc<str>,
    /// Of the connection.
    pub class: Class,
    /// Of its call or stream.
    pub method: Method,
    /// The connection, and the call or stream in it: an answer has those of its request. `None` for what came by no connection.
    pub call: Option<(u64, u64)>,
    /// Which way it went.
    pub direction: Direction,
    /// Its length.
    pub bytes: usize,
    /// What became of it.
    pub fate: Fate,
}

/// Called for each message with what it carries, outside of all locks of the network.
pub type Observer = Arc<dyn Fn(&Event, &Bytes) + Send + Sync>;

/// How many messages of each kind had which fate.
pub type Counts = BTreeMap<(Method, Direction, Fate), u64>;

#[derive(Default)]
pub(super) struct Trace {
    pub(super) hash: u64,
    pub(super) counts: Counts,
    pub(super) observer: Option<Observer>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:016x})", self.hash)
    }
}

impl Trace {
    /// Takes a message in. The caller tells the observer.
    pub(super) fn add(&mut self, event: &Event, payload: &Bytes) -> Option<Observer> {
        let mut line = Vec::with_capacity(96);
        line.extend_from_slice(&event.at.as_nanos().to_le_bytes());
        for host in [&event.from, &event.to] {
            line.extend_from_slice(host.as_bytes());
            line.push(0);
        }
        line.extend_from_slice(&[
            event.class as u8,
            event.method as u8,
            event.direction as u8,
            event.fate as u8,
        ]);
        line.extend_from_slice(&XxHash3_64::oneshot(payload).to_le_bytes());
        self.hash = XxHash3_64::oneshot_with_seed(self.hash, &line);
        let kind = (event.method, event.direction, event.fate);
        *self.counts.entry(kind).or_default() += 1;
        self.observer.clone()
    }
}
