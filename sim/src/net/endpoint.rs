//! The client's side: a process's connections, and [`Transport`] on them.

use std::{collections::BTreeMap, fmt, future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr::limits::{KEEPALIVE_INTERVAL_MS, KEEPALIVE_TIMEOUT_MS};
use kvsvr_client::{
    limits::{CONNECT_TIMEOUT, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, MAX_MESSAGE},
    transport::{
        Class, Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver, StreamSender, Transport, TransportError,
    },
};
use parking_lot::Mutex;
use tokio::{select, sync::mpsc, time::timeout};

use super::{
    Reached, SimNet,
    connection::{Connection, Ending, Frame, Item, Peer, Side},
    deliver::Incoming,
};

/// A process's way to others. Clones share its connections, which close when the last one and all streams are gone.
#[derive(Clone)]
pub struct Endpoint(Arc<Pool>);

struct Pool {
    net: SimNet,
    host: Arc<str>,
    incarnation: u64,
    slots: Mutex<BTreeMap<(String, Class), Slot>>,
}

/// The place of one connection; one caller connects while the others wait for it.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Use>>>>;

/// A use of a connection, which closes it when it is the last.
struct Use(Arc<Connection>);

impl Drop for Use {
    fn drop(&mut self) {
        self.0.break_end(Side::Client, "closed", Ending::AfterWhatWasSent);
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({}, process {})", self.0.host, self.0.incarnation)
    }
}

fn unreachable(address: &str, reason: &str) -> TransportError {
    TransportError::Unreachable {
        address: address.to_owned(),
        reason: reason.to_owned(),
    }
}

impl Endpoint {
    pub(super) fn new(net: SimNet, host: Arc<str>, incarnation: u64) -> Self {
        Self(Arc::new(Pool {
            net,
            host,
            incarnation,
            slots: Mutex::default(),
        }))
    }

    /// The host whose process this is.
    pub fn host(&self) -> &str {
        &self.0.host
    }
}

impl Pool {
    /// The connection, made now if there is none or the last one broke.
    async fn connect(&self, address: &str, class: Class) -> Result<Arc<Use>, TransportError> {
        let slot = self
            .slots
            .lock()
            .entry((address.to_owned(), class))
            .or_default()
            .clone();
        let mut slot = slot.lock().await;
        if let Some(usable) = slot.as_ref().filter(|used| !used.0.is_broken(Side::Client)) {
            return Ok(usable.clone());
        }
        let dialled = match timeout(CONNECT_TIMEOUT, self.dial(address, class)).await {
            Ok(dialled) => dialled?,
            Err(_) => {
                let reason = format!("no connection within {CONNECT_TIMEOUT:?}");
                return Err(unreachable(address, &reason));
            }
        };
        let dialled = Arc::new(Use(dialled));
        *slot = Some(dialled.clone());
        Ok(dialled)
    }

    async fn dial(&self, address: &str, class: Class) -> Result<Arc<Connection>, TransportError> {
        let (net, host) = (&self.net, &self.host);
        if !net.knows(address) {
            return Err(unreachable(address, "there is no such host"));
        }
        net.travel(host, address).await;
        let reached = net.reach(address, None).await;
        net.travel(address, host).await;
        let Reached::Process(process) = reached else {
            return Err(unreachable(address, "connection refused"));
        };
        if process.service.is_none() {
            return Err(unreachable(address, "connection refused"));
        }
        let Some(connection) = net.connection(class, host, self.incarnation, address) else {
            // This process is no more, or the other one has ended meanwhile.
            return pending().await;
        };
        tokio::spawn(
            connection
                .clone()
                .keep_alive(Side::Client, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT),
        );
        process.node.spawn(connection.clone().keep_alive(
            Side::Server,
            Duration::from_millis(KEEPALIVE_INTERVAL_MS),
            Duration::from_millis(KEEPALIVE_TIMEOUT_MS),
        ));
        Ok(connection)
    }

    async fn unary(
        self: Arc<Self>,
        address: String,
        class: Class,
        method: Method,
        request: Bytes,
    ) -> Result<Bytes, TransportError> {
        if request.len() > MAX_MESSAGE {
            let reason = format!("the request has {} bytes, more than {MAX_MESSAGE}", request.len());
            return Err(TransportError::Rejected { address, reason });
        }
        let used = self.connect(&address, class).await?;
        let connection = &used.0;
        let (inbox, messages) = mpsc::unbounded_channel();
        let stream = connection.begin(method, inbox);
        // Dropping it before the answer is there cancels the call.
        let mut incoming = Incoming::new(connection.clone(), Side::Client, stream, messages);
        connection.send(Side::Client, Frame::Call(stream, method, request));
        match incoming.next().await {
            Some(answer) => answer,
            None => Err(connection.broken(Side::Client, "the call was lost")),
        }
    }
}

impl SimNet {
    fn knows(&self, host: &str) -> bool {
        self.0.state.lock().hosts.contains_key(host)
    }

    /// A new connection between two running processes.
    fn connection(&self, class: Class, from: &str, incarnation: u64, to: &str) -> Option<Arc<Connection>> {
        let mut state = self.0.state.lock();
        let peer = |host: &str| {
            let (name, host) = state.hosts.get_key_value(host)?;
            host.process.as_ref()?;
            Some(Peer {
                host: name.clone(),
                incarnation: host.incarnation,
            })
        };
        let peers = [peer(from)?, peer(to)?];
        if peers[0].incarnation != incarnation {
            return None;
        }
        state.next_connection += 1;
        let id = state.next_connection;
        drop(state);
        let connection = Connection::start(self.clone(), id, class, peers);
        let mut state = self.0.state.lock();
        state.connections.retain(|_, other| other.strong_count() > 0);
        state.connections.insert(id, Arc::downgrade(&connection));
        Some(connection)
    }
}

/// The reading half that a client gets: it holds the connection.
struct ClientReceiver {
    incoming: Incoming,
    /// Dropped after the stream.
    _used: Arc<Use>,
}

impl ReceiveMessages for ClientReceiver {
    fn receive(&mut self) -> BoxFuture<'_, Option<Item>> {
        Box::pin(self.incoming.next())
    }
}

/// Sends what the client gives until it ends the stream, or the stream ends.
async fn feed(used: Arc<Use>, stream: u64, mut queue: mpsc::Receiver<Bytes>) {
    let connection = &used.0;
    loop {
        select! { biased;
            () = connection.gone(Side::Client, stream) => return,
            message = queue.recv() => match message {
                Some(message) => if !connection.put(Side::Client, stream, message).await {
                    return;
                },
                None => break,
            },
        }
    }
    connection.send(Side::Client, Frame::End(stream));
}

impl Transport for Endpoint {
    fn call(
        &self,
        address: &str,
        class: Class,
        method: Method,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (pool, address) = (self.0.clone(), address.to_owned());
        Box::pin(async move {
            let calling = pool.unary(address.clone(), class, method, request);
            match timeout(deadline, calling).await {
                Ok(answer) => answer,
                Err(_) => Err(TransportError::Timeout {
                    address,
                    after: deadline,
                }),
            }
        })
    }

    fn open(
        &self,
        address: &str,
        class: Class,
        method: Method,
    ) -> BoxFuture<'static, Result<(StreamSender, StreamReceiver), TransportError>> {
        let (pool, address) = (self.0.clone(), address.to_owned());
        Box::pin(async move {
            let used = pool.connect(&address, class).await?;
            let connection = &used.0;
            let (inbox, messages) = mpsc::unbounded_channel();
            let stream = connection.begin(method, inbox);
            connection.send(Side::Client, Frame::Open(stream, method));
            let (sender, queue) = mpsc::channel(STREAM_QUEUE);
            tokio::spawn(feed(used.clone(), stream, queue));
            let incoming = Incoming::new(connection.clone(), Side::Client, stream, messages);
            let receiver = ClientReceiver {
                incoming,
                _used: used,
            };
            Ok((sender, StreamReceiver::new(receiver)))
        })
    }
}
