//! [`Transport`] over gRPC: one HTTP/2 connection for each node and [`Class`], made when first needed, shared, and made anew
//! after it broke.
//!
//! Messages are bytes already; the codec here moves them verbatim. What failed before a connection stood is
//! [`TransportError::Unreachable`], what failed afterwards is [`TransportError::Broken`]: when in doubt, the request was sent.
//! There are no retries here.

use std::{collections::BTreeMap, error::Error as _, fmt, sync::Arc};

use bytes::{Buf, BufMut, Bytes};
use futures::{FutureExt, future::BoxFuture};
use http::uri::PathAndQuery;
use kvsvr_proto::v1;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, timeout},
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

use crate::{
    limits::{
        CODEC_BUFFER, CONNECT_TIMEOUT, CONNECTION_WINDOW, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT,
        MAX_MESSAGE, STREAM_WINDOW,
    },
    transport::{
        Class, Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver, StreamSender, Transport, TransportError,
    },
};

/// Moves messages that are encoded already. For clients and servers.
#[derive(Clone, Copy, Debug, Default)]
pub struct BytesCodec;

impl BytesCodec {
    fn settings() -> BufferSettings {
        BufferSettings::new(CODEC_BUFFER, CODEC_BUFFER)
    }
}

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        Self::settings()
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    /// A view of the receive buffer, not a copy.
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        Self::settings()
    }
}

/// The production transport. Cheap to clone; clones share the connections.
#[derive(Clone, Default)]
pub struct GrpcTransport(Arc<Pool>);

#[derive(Default)]
struct Pool {
    slots: Mutex<BTreeMap<(String, Class), Slot>>,
}

/// The place of one connection. The async mutex lets one caller connect while the others wait for it.
type Slot = Arc<tokio::sync::Mutex<Connection>>;

#[derive(Default)]
struct Connection {
    channel: Option<Channel>,
    /// Counts the connections made, so that a failure drops only the one that it happened on.
    generation: u64,
}

impl GrpcTransport {
    /// A transport without connections; they are made when needed.
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for GrpcTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrpcTransport({} connections)", self.0.slots.lock().len())
    }
}

/// A use of a connection: knows how to name its errors and how to give the connection up.
struct Lease {
    pool: Arc<Pool>,
    address: String,
    class: Class,
    generation: u64,
    channel: Channel,
}

impl Pool {
    /// The connection, made now if there is none.
    async fn connect(self: Arc<Self>, address: String, class: Class) -> Result<Lease, TransportError> {
        let slot = self
            .slots
            .lock()
            .entry((address.clone(), class))
            .or_default()
            .clone();
        let mut connection = slot.lock().await;
        let channel = match &connection.channel {
            Some(channel) => channel.clone(),
            None => {
                let channel = dial(&address).await?;
                connection.channel = Some(channel.clone());
                connection.generation += 1;
                channel
            }
        };
        let generation = connection.generation;
        drop(connection);
        Ok(Lease {
            pool: self,
            address,
            class,
            generation,
            channel,
        })
    }
}

async fn dial(address: &str) -> Result<Channel, TransportError> {
    let unreachable = |reason: String| TransportError::Unreachable {
        address: address.to_owned(),
        reason,
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| unreachable(format!("not a HOST:PORT address: {e}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    // The endpoint's own timeout covers the TCP handshake only.
    match timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(e)) => Err(unreachable(chain(&e))),
        Err(_) => Err(unreachable(format!("no connection within {CONNECT_TIMEOUT:?}"))),
    }
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = e.source();
    }
    text
}

impl Lease {
    /// A gRPC client that can send. An error is definite: nothing was sent yet.
    async fn client(&self) -> Result<Grpc<Channel>, TransportError> {
        let mut client = Grpc::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        match client.ready().await {
            Ok(()) => Ok(client),
            Err(e) => {
                self.give_up();
                Err(TransportError::Unreachable {
                    address: self.address.clone(),
                    reason: chain(&e),
                })
            }
        }
    }

    /// The next use makes a new connection.
    fn give_up(&self) {
        let slot = self
            .pool
            .slots
            .lock()
            .get(&(self.address.clone(), self.class))
            .cloned();
        // If somebody holds the slot, a new connection is being made already.
        if let Some(slot) = slot
            && let Ok(mut connection) = slot.try_lock()
            && connection.generation == self.generation
        {
            connection.channel = None;
        }
    }

    fn error(&self, status: &Status) -> TransportError {
        let error = classify(&self.address, status);
        if matches!(
            error,
            TransportError::Unreachable { .. } | TransportError::Broken { .. }
        ) {
            self.give_up();
        }
        error
    }
}

/// What a gRPC status means to a caller.
fn classify(address: &str, status: &Status) -> TransportError {
    let address = address.to_owned();
    if !status.details().is_empty()
        && let Ok(error) = v1::Error::decode(status.details())
    {
        return TransportError::Api {
            address,
            error: Box::new(error),
        };
    }
    let mut cause = status.source();
    while let Some(e) = cause {
        if e.is::<tonic::ConnectError>() {
            return TransportError::Unreachable {
                address,
                reason: chain(status),
            };
        }
        cause = e.source();
    }
    match status.code() {
        Code::InvalidArgument
        | Code::Unimplemented
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated => TransportError::Rejected {
            address,
            reason: status.message().to_owned(),
        },
        _ => TransportError::Broken {
            address,
            reason: chain(status),
        },
    }
}

fn path(method: Method) -> PathAndQuery {
    PathAndQuery::from_static(method.path())
}

async fn unary(
    pool: Arc<Pool>,
    address: String,
    class: Class,
    method: Method,
    request: Bytes,
) -> Result<Bytes, TransportError> {
    if request.len() > MAX_MESSAGE {
        let reason = format!("the request has {} bytes, more than {MAX_MESSAGE}", request.len());
        return Err(TransportError::Rejected { address, reason });
    }
    let lease = pool.connect(address, class).await?;
    let mut client = lease.client().await?;
    match client
        .unary(Request::new(request), path(method), BytesCodec)
        .await
    {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(lease.error(&status)),
    }
}

impl Transport for GrpcTransport {
    fn call(
        &self,
        address: &str,
        class: Class,
        method: Method,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let address = address.to_owned();
        let call = unary(self.0.clone(), address.clone(), class, method, request);
        async move {
            match timeout(deadline, call).await {
                Ok(result) => result,
                Err(_) => Err(TransportError::Timeout {
                    address,
                    after: deadline,
                }),
            }
        }
        .boxed()
    }

    fn open(
        &self,
        address: &str,
        class: Class,
        method: Method,
    ) -> BoxFuture<'static, Result<(StreamSender, StreamReceiver), TransportError>> {
        let pool = self.0.clone();
        let address = address.to_owned();
        async move {
            let lease = pool.connect(address, class).await?;
            let mut client = lease.client().await?;
            let (sender, mut queue) = mpsc::channel(STREAM_QUEUE);
            let input = futures::stream::poll_fn(move |cx| queue.poll_recv(cx));
            let (mut opened, opening) = oneshot::channel();
            // A server may answer only after the first message, so the answer is awaited elsewhere.
            tokio::spawn(async move {
                let call = client.streaming(Request::new(input), path(method), BytesCodec);
                tokio::select! {
                    biased;
                    result = call => drop(opened.send(result)),
                    () = opened.closed() => {}
                }
            });
            Ok((
                sender,
                StreamReceiver::new(Receiver {
                    lease,
                    state: State::Opening(opening),
                }),
            ))
        }
        .boxed()
    }
}

struct Receiver {
    lease: Lease,
    state: State,
}

enum State {
    Opening(oneshot::Receiver<Result<Response<Streaming<Bytes>>, Status>>),
    Open(Box<Streaming<Bytes>>),
    Ended,
}

impl Receiver {
    async fn next(&mut self) -> Option<Result<Bytes, TransportError>> {
        if let State::Opening(opening) = &mut self.state {
            match opening.await {
                Ok(Ok(response)) => self.state = State::Open(Box::new(response.into_inner())),
                Ok(Err(status)) => return Some(Err(self.fail(&status))),
                Err(_) => {
                    return Some(Err(
                        self.fail(&Status::unavailable("the stream could not be opened"))
                    ));
                }
            }
        }
        let State::Open(stream) = &mut self.state else {
            return None;
        };
        match stream.message().await {
            Ok(Some(message)) => Some(Ok(message)),
            Ok(None) => {
                self.state = State::Ended;
                None
            }
            Err(status) => Some(Err(self.fail(&status))),
        }
    }

    fn fail(&mut self, status: &Status) -> TransportError {
        self.state = State::Ended;
        self.lease.error(status)
    }
}

impl ReceiveMessages for Receiver {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        self.next().boxed()
    }
}

#[cfg(test)]
mod tests;
