//! A listening port: binds it, accepts connections up to a cap, and ends them in order when the node stops.
//!
//! What is spoken on a connection is the caller's business (`grpc`, `http`). A connection beyond the cap is closed at once: an
//! accepted connection that nobody serves would cost memory and leave the peer waiting. When the system has no file handles left,
//! accepting pauses and goes on; it never ends the process. There is no cap per peer address.

use std::{fmt, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    select,
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    limits::{ACCEPT_RETRY_MS, REFUSAL_LOG_MS},
    metrics::{GaugeGuard, ListenerMetrics},
    time::{Instant, sleep, timeout},
};

/// Why a port could not be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another process has the port.
    #[error(
        "PORT_IN_USE: {setting} = {address} is taken by another process. Stop it (`ss -ltnp` shows which one it is), or choose \
         another port with {setting}"
    )]
    InUse {
        /// The setting that names the address.
        setting: &'static str,
        /// HOST:PORT as configured.
        address: String,
    },
    /// The address is not HOST:PORT, or the host is not known.
    #[error(
        "BAD_ADDRESS: {setting} = {address}: {source}. It must be HOST:PORT with a host that resolves on this machine"
    )]
    BadAddress {
        /// The setting that names the address.
        setting: &'static str,
        /// HOST:PORT as configured.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The host has no such address, or the port needs privileges.
    #[error(
        "CANNOT_LISTEN: {setting} = {address}: {source}. It must be an address of this machine (`ip addr` lists them; 0.0.0.0 is \
         all of them), and ports below 1024 need privileges"
    )]
    Refused {
        /// The setting that names the address.
        setting: &'static str,
        /// HOST:PORT as configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound port that does not accept yet: early connections wait in the system's queue.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Binds HOST:PORT; the first of the host's addresses that can be bound. `setting` is named in errors.
    pub async fn bind(setting: &'static str, address: &str) -> Result<Listener, BindError> {
        let bad = |source| BindError::BadAddress {
            setting,
            address: address.to_owned(),
            source,
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for candidate in lookup_host(address).await.map_err(bad)? {
            match Self::bind_one(candidate).await {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        let address = address.to_owned();
        Err(match last.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { setting, address },
            io::ErrorKind::NotFound => bad(last),
            _ => BindError::Refused {
                setting,
                address,
                source: last,
            },
        })
    }

    async fn bind_one(address: SocketAddr) -> io::Result<Listener> {
        let inner = TcpListener::bind(address).await?;
        let local = inner.local_addr()?;
        Ok(Listener { inner, local })
    }

    /// The bound address; tells the port when port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Accepts until `shutdown` resolves. `serve` drives one connection to its end and is told by its [`Latch`] to end it in order.
    /// After `shutdown` the port is closed, and connections that have not ended after `drain` are cut.
    pub(crate) async fn run<C>(
        self,
        rules: Rules,
        shutdown: impl Future<Output = ()>,
        stop: Latch,
        serve: impl Fn(TcpStream, SocketAddr) -> C,
    ) where
        C: Future<Output = ()> + Send + 'static,
    {
        let mut acceptor = Acceptor {
            rules,
            refusals: Quiet::new(),
            failures: Quiet::new(),
            open: JoinSet::new(),
        };
        {
            let mut shutdown = std::pin::pin!(shutdown);
            loop {
                select! {
                    biased;
                    () = &mut shutdown => break,
                    Some(_) = acceptor.open.join_next() => {}
                    accepted = self.inner.accept() => match accepted {
                        Ok((stream, peer)) => acceptor.admit(stream, peer, &serve),
                        Err(error) => acceptor.failed(&error).await,
                    },
                }
            }
        }
        drop(self.inner);
        stop.set();
        acceptor.drain().await;
    }
}

/// What a listener holds its connections to.
#[derive(Debug)]
pub(crate) struct Rules {
    /// For logs: `gRPC`, `HTTP`.
    pub(crate) name: &'static str,
    /// Connections at a time.
    pub(crate) max_connections: usize,
    /// How long connections may take to end after a shutdown.
    pub(crate) drain: Duration,
    /// Counts connections.
    pub(crate) metrics: ListenerMetrics,
}

struct Acceptor {
    rules: Rules,
    refusals: Quiet,
    failures: Quiet,
    open: JoinSet<()>,
}

impl Acceptor {
    fn admit<C>(&mut self, stream: TcpStream, peer: SocketAddr, serve: &impl Fn(TcpStream, SocketAddr) -> C)
    where
        C: Future<Output = ()> + Send + 'static,
    {
        if self.open.len() >= self.rules.max_connections {
            self.rules.metrics.refused();
            if let Some(count) = self.refusals.due() {
                tracing::warn!(
                    listener = self.rules.name, %peer, max_connections = self.rules.max_connections, refused = count,
                    "too many connections, new ones are closed; raise max_connections or find the client that leaks them"
                );
            }
            return;
        }
        // A frame must not wait for the acknowledgement of the previous one.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(listener = self.rules.name, %peer, %error, "the connection ended before it was served");
            return;
        }
        let guard: GaugeGuard = self.rules.metrics.opened();
        let connection = serve(stream, peer);
        self.open.spawn(async move {
            let _guard = guard;
            connection.await;
        });
    }

    /// A peer that was gone before it was accepted is nothing; anything else is a lack of system resources.
    async fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
        ) {
            return;
        }
        if let Some(count) = self.failures.due() {
            tracing::error!(
                listener = self.rules.name, %error, times = count, open = self.open.len(),
                "cannot accept connections; if file handles have run out, raise the limit (ulimit -n, LimitNOFILE=)"
            );
        }
        sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
    }

    async fn drain(mut self) {
        let all = async { while self.open.join_next().await.is_some() {} };
        if timeout(self.rules.drain, all).await.is_err() {
            tracing::info!(
                listener = self.rules.name,
                open = self.open.len(),
                "cutting connections that did not end in time"
            );
        }
        self.open.shutdown().await;
    }
}

/// Lets one log line through in each interval and counts the rest.
struct Quiet {
    last: Option<Instant>,
    held_back: u64,
}

impl Quiet {
    fn new() -> Self {
        Self {
            last: None,
            held_back: 0,
        }
    }

    /// The number of events since the last line if a line is due now.
    fn due(&mut self) -> Option<u64> {
        self.held_back += 1;
        let interval = Duration::from_millis(REFUSAL_LOG_MS);
        if self.last.is_some_and(|last| last.elapsed() < interval) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.held_back))
    }
}

/// A flag that is set once and can be waited for by any number of tasks.
#[derive(Clone)]
pub(crate) struct Latch(Arc<Semaphore>);

impl Latch {
    /// Not set.
    pub(crate) fn new() -> Self {
        // A semaphore without permits: waiting for one ends only when it is closed.
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn set(&self) {
        self.0.close();
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_closed()
    }

    /// Resolves once it is set. Cancel-safe.
    pub(crate) async fn wait(&self) {
        let closed = self.0.acquire().await;
        debug_assert!(closed.is_err(), "a latch has no permits");
    }
}

impl fmt::Debug for Latch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Latch").field(&self.is_set()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_advice() {
        let first = Listener::bind("listen", "127.0.0.1:0").await.unwrap();
        let address = first.local_addr().to_string();
        let error = Listener::bind("listen", &address).await.unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.starts_with("PORT_IN_USE: ") && text.contains(&address) && text.contains("choose"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_address_must_have_a_port_and_belong_to_the_machine() {
        for address in ["127.0.0.1", "", "127.0.0.1:http", "127.0.0.1:99999"] {
            let error = Listener::bind("http", address).await.unwrap_err();
            assert!(
                matches!(error, BindError::BadAddress { .. }),
                "{address}: {error:?}"
            );
            assert!(error.to_string().contains("HOST:PORT"));
        }
        // A documentation address (RFC 5737): no machine has it.
        let error = Listener::bind("listen", "192.0.2.1:7101").await.unwrap_err();
        assert!(matches!(error, BindError::Refused { .. }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn log_lines_are_held_back_and_counted() {
        let mut quiet = Quiet::new();
        assert_eq!(quiet.due(), Some(1));
        assert_eq!((quiet.due(), quiet.due()), (None, None));
        tokio::time::advance(Duration::from_millis(REFUSAL_LOG_MS)).await;
        assert_eq!(quiet.due(), Some(3));
    }

    #[tokio::test]
    async fn a_latch_wakes_early_and_late_waiters() {
        let latch = Latch::new();
        let early = tokio::spawn({
            let latch = latch.clone();
            async move { latch.wait().await }
        });
        assert!(!latch.is_set());
        latch.set();
        early.await.unwrap();
        latch.wait().await;
        assert!(latch.is_set());
    }
}
