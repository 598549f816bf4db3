//! Links between processes on loopback, for a machine where the harness is not root: a TCP proxy before each node.
//!
//! A node advertises the address of its proxy, one for all who connect to it, since peers and clients learn one address of a node. Who
//! connects is found by the connection's port: the process that owns the socket, among those that were named; anybody else is
//! [`HostId::CLIENTS`]. The connection's two directions are two links.
//!
//! It is less than the [`switch`](super::switch): it sees bytes, not packets. A cut holds bytes back and lets new connections wait, and
//! both go on when it heals, as TCP's own retransmission would have it; delay and jitter keep the order; loss breaks the connection,
//! for each piece that is read with that probability; there is no duplication, reordering or capture. The handshake is the
//! machine's own, so that a connection to a node that is cut off begins and then hears nothing.

mod peer;
mod pump;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::Notify,
};

use super::{
    command::context,
    link::{HostId, Link, LinkControl, LinkRules, LinkStats},
};

/// How long a connection may wait before it is tried again at the proxy, when nobody listens for accepts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// All proxies of a cluster. Connections break when it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

/// What all connections look at.
struct Shared {
    state: Mutex<State>,
    /// Rules have changed.
    changed: Notify,
}

struct State {
    seed: u64,
    links: BTreeMap<Link, LinkState>,
    processes: BTreeMap<HostId, u32>,
}

struct LinkState {
    rules: LinkRules,
    chance: StdRng,
    stats: LinkStats,
}

/// What becomes of a piece of a connection's bytes.
enum Decision {
    Break,
    Arrive(Instant),
}

impl State {
    fn link(&mut self, link: Link) -> &mut LinkState {
        let seed = self.seed;
        self.links.entry(link).or_insert_with(|| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&seed.to_le_bytes());
            key[8] = link.from.number();
            key[9] = link.to.number();
            LinkState {
                rules: LinkRules::default(),
                chance: StdRng::from_seed(key),
                stats: LinkStats::default(),
            }
        })
    }
}

impl Shared {
    /// The fate of a piece that is sent now. Draws the same numbers whatever the rules are.
    fn decide(&self, link: Link, now: Instant) -> Decision {
        let mut state = self.state.lock();
        let state = state.link(link);
        let (loss, jitter) = (state.chance.random::<f64>(), state.chance.random::<f64>());
        if loss < state.rules.loss {
            state.stats.lost += 1;
            return Decision::Break;
        }
        let jitter = state.rules.jitter.mul_f64(jitter);
        state.stats.delayed += u64::from(!state.rules.delay.is_zero());
        state.stats.jittered += u64::from(!jitter.is_zero());
        Decision::Arrive(now + state.rules.delay + jitter)
    }

    /// Waits until the link is not cut.
    async fn passable(&self, link: Link) {
        let mut counted = false;
        loop {
            // Before the look at the rules: a change after that look is not missed.
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock();
                let state = state.link(link);
                if !state.rules.cut {
                    return;
                }
                state.stats.cut += u64::from(!counted);
                counted = true;
            }
            changed.await;
        }
    }

    fn delivered(&self, link: Link, len: usize) {
        let mut state = self.state.lock();
        let stats = &mut state.link(link).stats;
        stats.delivered += 1;
        stats.delivered_bytes += len as u64;
    }
}

impl Proxy {
    /// Starts without any node. The seed decides all chance.
    pub fn start(seed: u64) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()
            .map_err(context("start the proxy's runtime"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    seed,
                    links: BTreeMap::new(),
                    processes: BTreeMap::new(),
                }),
                changed: Notify::new(),
            }),
            runtime: Some(runtime),
        })
    }

    /// Listens for connections to a host, and carries them to where it listens itself. Returns the address, whose port is chosen if that
    /// is 0.
    pub fn expose(&self, host: HostId, listen: SocketAddr, target: SocketAddr) -> io::Result<SocketAddr> {
        let runtime = self
            .runtime
            .as_ref()
            .ok_or_else(|| io::Error::other("the proxy has ended"))?;
        let listener = runtime
            .block_on(TcpListener::bind(listen))
            .map_err(context(format!("listen at {listen} for {host}")))?;
        let address = listener.local_addr()?;
        runtime.spawn(accept(Arc::clone(&self.shared), listener, host, target));
        Ok(address)
    }

    /// Names the process that a host is now; `None` if it is down. Connections that exist keep the links that they have.
    pub fn set_process(&self, host: HostId, pid: Option<u32>) {
        let processes = &mut self.shared.state.lock().processes;
        match pid {
            Some(pid) => processes.insert(host, pid),
            None => processes.remove(&host),
        };
    }
}

/// Finds the process of a connection of its own.
pub(super) fn try_lookup() -> io::Result<()> {
    let (listener, us) = (std::net::TcpListener::bind(("127.0.0.1", 0))?, HostId::CLIENTS);
    let local = listener.local_addr()?;
    let peer = std::net::TcpStream::connect(local)?;
    let processes = BTreeMap::from([(us, std::process::id())]);
    match peer::find(peer.local_addr()?, local, &processes) {
        Some(_) => Ok(()),
        None => Err(io::Error::other("the kernel does not tell whose a connection is")),
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl LinkControl for Proxy {
    fn set(&self, link: Link, rules: LinkRules) {
        self.shared.state.lock().link(link).rules = rules;
        self.shared.changed.notify_waiters();
    }

    fn rules(&self, link: Link) -> LinkRules {
        let state = self.shared.state.lock();
        state
            .links
            .get(&link)
            .map_or_else(LinkRules::default, |state| state.rules)
    }

    fn stats(&self) -> BTreeMap<Link, LinkStats> {
        let state = self.shared.state.lock();
        state
            .links
            .iter()
            .map(|(&link, state)| (link, state.stats))
            .collect()
    }

    fn heal(&self) {
        for state in self.shared.state.lock().links.values_mut() {
            state.rules = LinkRules::default();
        }
        self.shared.changed.notify_waiters();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, to: HostId, target: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((client, peer)) => {
                tokio::spawn(carry(Arc::clone(&shared), client, peer, to, target));
            }
            // Out of file descriptors, or the client has gone already: neither ends a proxy.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// One connection, from its beginning to its end.
async fn carry(shared: Arc<Shared>, mut client: TcpStream, peer: SocketAddr, to: HostId, target: SocketAddr) {
    let processes = shared.state.lock().processes.clone();
    let from = client
        .local_addr()
        .ok()
        .and_then(|local| peer::find(peer, local, &processes));
    let link = Link {
        from: from.unwrap_or(HostId::CLIENTS),
        to,
    };
    shared.passable(link).await;
    let Ok(mut server) = TcpStream::connect(target).await else {
        pump::reset(&client);
        return;
    };
    // Nagle's algorithm would delay what the ends do not want delayed.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let broken = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            pump::run(&shared, link, from_client, to_server),
            pump::run(&shared, link.reverse(), from_server, to_client),
        )
        .is_err()
    };
    if broken {
        pump::reset(&client);
        pump::reset(&server);
    }
}

#[cfg(test)]
mod tests;
