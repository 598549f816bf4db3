//! The network between simulated hosts: [`Transport`](kvsvr_client::transport::Transport) and
//! [`Service`] as HTTP/2 over TCP carries them, with everything that goes wrong there.
//!
//! Each client process has one connection for each target and [`Class`](kvsvr_client::transport::Class), made when first needed.
//! Messages of a connection arrive in order in each direction, lost ones after a retransmission; what waits is bounded by windows.
//! A connection ends for all its calls and streams at once, on both sides if they hear of it: a cut link or a machine without power
//! leaves the other side with a half-open connection, which keep-alive pings find. Between hosts there are directed [`Link`]s whose
//! [`LinkSpec`] can be changed at any time.
//!
//! All chance is of random [`Stream`]s by link and fault, all waiting is on the simulation's own clock, and nothing depends on the
//! order of a hash map, so a seed gives one [`SimNet::hash`]. It relies on that one thread runs the simulation, and does not model
//! name resolution, a listening queue, or HTTP/2's limits on streams and headers.

use std::{
    collections::BTreeMap,
    fmt,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use kvsvr::service::Service;
use kvsvr_client::transport::{Class, Method};
use madsim::runtime::NodeHandle;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{clock::sleep_exactly, random::Stream};

mod connection;
mod deliver;
mod endpoint;
mod link;
mod replay;
#[cfg(test)]
mod tests;
mod trace;

use connection::{Connection, Ending, Side};
pub use endpoint::Endpoint;
use link::Link;
pub use link::LinkSpec;
use trace::Trace;
pub use trace::{Counts, Direction, Event, Fate, Observer};

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct SimNet(Arc<Inner>);

struct Inner {
    seed: u64,
    /// Runs what belongs to no host: packets on their way.
    node: NodeHandle,
    state: Mutex<State>,
    /// A link or a host is not any more what it was.
    changed: Notify,
}

#[derive(Default)]
struct State {
    hosts: BTreeMap<Arc<str>, Host>,
    links: BTreeMap<(Arc<str>, Arc<str>), Link>,
    default: LinkSpec,
    connections: BTreeMap<u64, Weak<Connection>>,
    next_connection: u64,
    trace: Trace,
}

/// A machine with at most one process.
struct Host {
    powered: bool,
    paused: bool,
    /// Counts its processes.
    incarnation: u64,
    process: Option<Process>,
}

/// A running process.
#[derive(Clone)]
struct Process {
    node: NodeHandle,
    /// While it listens.
    service: Option<Arc<dyn Service>>,
}

/// What a packet finds at a host.
enum Reached {
    Process(Process),
    /// The machine answers that there is no such connection.
    Gone,
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNet({:016x})", self.hash())
    }
}

impl SimNet {
    /// A network without hosts. Must be called inside the simulation.
    pub fn new(seed: u64) -> Self {
        let node = madsim::runtime::Handle::current()
            .create_node()
            .name("network")
            .build();
        Self(Arc::new(Inner {
            seed,
            node,
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// A process begins on a host, which gets power if it had none; its tasks run on `node`. What it sends goes through the endpoint.
    pub fn boot(&self, host: &str, node: NodeHandle) -> Endpoint {
        let name: Arc<str> = host.into();
        let mut state = self.0.state.lock();
        let entry = state.hosts.entry(name.clone()).or_insert(Host {
            powered: true,
            paused: false,
            incarnation: 0,
            process: None,
        });
        entry.powered = true;
        entry.paused = false;
        entry.incarnation += 1;
        entry.process = Some(Process { node, service: None });
        let incarnation = entry.incarnation;
        drop(state);
        self.0.changed.notify_waiters();
        Endpoint::new(self.clone(), name, incarnation)
    }

    /// The host's process answers calls from now on. Without it connections to the host are refused.
    pub fn listen(&self, host: &str, service: Arc<dyn Service>) {
        let mut state = self.0.state.lock();
        if let Some(process) = state.hosts.get_mut(host).and_then(|host| host.process.as_mut()) {
            process.service = Some(service);
        }
    }

    /// The host's process ends now, by itself or killed. The machine stays: it resets what the process had open, after what was on the
    /// way or in place of it, and refuses connections. To be called before the process's tasks are ended.
    pub fn end_process(&self, host: &str) {
        let ended = self.end(host, true);
        let mut chance = Stream::new(self.0.seed, &[&"process end", &host, &ended.1]);
        for (connection, side) in ended.0 {
            let ending = match chance.chance(0.5) {
                true => Ending::AfterWhatWasSent,
                false => Ending::AtOnce,
            };
            connection.break_end(side, "the process ended", ending);
        }
        self.0.changed.notify_waiters();
    }

    /// The host's machine loses power: nobody hears of it. To be called before its tasks are ended.
    pub fn end_machine(&self, host: &str) {
        for (connection, side) in self.end(host, false).0 {
            connection.break_end(side, "the machine is off", Ending::Silent);
        }
        self.0.changed.notify_waiters();
    }

    /// The ends of connections that a host's process had, and the number of that process.
    fn end(&self, host: &str, powered: bool) -> (Vec<(Arc<Connection>, Side)>, u64) {
        let mut state = self.0.state.lock();
        let Some(entry) = state.hosts.get_mut(host) else {
            return (Vec::new(), 0);
        };
        entry.powered = powered;
        entry.paused = false;
        let process = entry.process.take();
        let incarnation = entry.incarnation;
        state
            .connections
            .retain(|_, connection| connection.strong_count() > 0);
        let connections: Vec<_> = state.connections.values().filter_map(Weak::upgrade).collect();
        drop(state);
        drop(process);
        let of_host = connections.into_iter().flat_map(|connection| {
            let sides = [Side::Client, Side::Server].map(|side| (connection.clone(), side));
            sides.into_iter().filter(|(connection, side)| {
                let peer = connection.peer(*side);
                &*peer.host == host && peer.incarnation == incarnation
            })
        });
        (of_host.collect(), incarnation)
    }

    /// The host's process stands still, and with it what it would answer: its connections stay, and nothing on them moves.
    pub fn pause(&self, host: &str, paused: bool) {
        if let Some(entry) = self.0.state.lock().hosts.get_mut(host) {
            entry.paused = paused;
        }
        self.0.changed.notify_waiters();
    }

    /// Sets what links are like that were not set one by one.
    pub fn set_default(&self, spec: LinkSpec) {
        self.0.state.lock().default = spec;
    }

    /// Changes the link from one host to another, in this direction.
    pub fn change_link(&self, from: &str, to: &str, change: impl FnOnce(&mut LinkSpec)) {
        self.with_link(from, to, |link| {
            let mut spec = link.spec.clone();
            change(&mut spec);
            link.set(spec);
        });
        self.0.changed.notify_waiters();
    }

    /// The link from one host to another, in this direction.
    pub fn link(&self, from: &str, to: &str) -> LinkSpec {
        self.with_link(from, to, |link| link.spec.clone())
    }

    /// All links are again as the default says.
    pub fn heal(&self) {
        let mut state = self.0.state.lock();
        let default = state.default.clone();
        state
            .links
            .values_mut()
            .for_each(|link| link.set(default.clone()));
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// One number for all that was delivered, and what was not, and when.
    pub fn hash(&self) -> u64 {
        self.0.state.lock().trace.hash
    }

    /// How many messages of each kind had which fate.
    pub fn counts(&self) -> Counts {
        self.0.state.lock().trace.counts.clone()
    }

    /// Sets who is told of each message.
    pub fn observe(&self, observer: Observer) {
        self.0.state.lock().trace.observer = Some(observer);
    }

    /// Connections that at least one side believes to have.
    pub fn open_connections(&self) -> usize {
        let connections: Vec<_> = {
            let state = self.0.state.lock();
            state.connections.values().filter_map(Weak::upgrade).collect()
        };
        let open = |connection: &Arc<Connection>| {
            !connection.is_broken(Side::Client) || !connection.is_broken(Side::Server)
        };
        connections.iter().filter(|connection| open(connection)).count()
    }

    fn with_link<T>(&self, from: &str, to: &str, use_it: impl FnOnce(&mut Link) -> T) -> T {
        let mut state = self.0.state.lock();
        let State { links, default, .. } = &mut *state;
        let key = (Arc::from(from), Arc::from(to));
        let link = links
            .entry(key)
            .or_insert_with(|| Link::new(self.0.seed, from, to, default.clone()));
        use_it(link)
    }

    /// Waits until a packet gets over the link. False if it is lost, which only happens to those that are not sent again.
    async fn pass(&self, from: &str, to: &str, sent_again: bool) -> bool {
        let mut cut_since = None;
        loop {
            let changed = self.0.changed.notified();
            let mut changed = pin!(changed);
            changed.as_mut().enable();
            let blocked = self.with_link(from, to, |link| {
                cut_since = cut_since.or(link.cut_since);
                (link.spec.cut, link.spec.clogged)
            });
            match blocked {
                (true, _) if !sent_again => return false,
                (false, false) => match cut_since.take() {
                    None => return true,
                    Some(since) => {
                        let wait = self.with_link(from, to, |link| link.after_cut(since.elapsed()));
                        sleep_exactly(Instant::now() + wait).await;
                    }
                },
                _ => changed.await,
            }
        }
    }

    /// Waits until a packet for a host finds a machine and a process that is not paused, or no process. With the number of a process,
    /// only that one will do.
    async fn reach(&self, host: &str, incarnation: Option<u64>) -> Reached {
        loop {
            let changed = self.0.changed.notified();
            let mut changed = pin!(changed);
            changed.as_mut().enable();
            let found = {
                let state = self.0.state.lock();
                match state.hosts.get(host) {
                    None => Some(Reached::Gone),
                    Some(entry) if !entry.powered || entry.paused => None,
                    Some(entry) if incarnation.is_some_and(|number| number != entry.incarnation) => {
                        Some(Reached::Gone)
                    }
                    Some(entry) => Some(match &entry.process {
                        Some(process) => Reached::Process(process.clone()),
                        None => Reached::Gone,
                    }),
                }
            };
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }

    /// One trip of a packet that belongs to no connection.
    async fn travel(&self, from: &str, to: &str) {
        let wait = self.with_link(from, to, Link::travel);
        sleep_exactly(Instant::now() + wait).await;
        self.pass(from, to, true).await;
    }

    fn record(&self, event: &Event, payload: &Bytes) {
        let observer = self.0.state.lock().trace.add(event, payload);
        if let Some(observer) = observer {
            observer(event, payload);
        }
    }

    fn event(
        &self,
        from: &Arc<str>,
        to: &Arc<str>,
        method: Method,
        class: Class,
        direction: Direction,
    ) -> Event {
        let at = madsim::time::TimeHandle::current().elapsed();
        Event {
            at,
            sent: at,
            from: from.clone(),
            to: to.clone(),
            class,
            method,
            call: None,
            direction,
            bytes: 0,
            fate: Fate::Delivered,
        }
    }
}

/// A short time, for what follows something else in another process.
const MOMENT: Duration = Duration::from_millis(1);
