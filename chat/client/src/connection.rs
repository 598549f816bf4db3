//! One connection: requests and their answers, and the hints that come in between. When it breaks it is over: [`Client`](crate::Client) makes the next one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use chat_proto::v1::{
    Changed, ClientFrame, Code, Error, Hello, Ping, Presence, Push, Ready, Reply, Request, ServerFrame,
    Typing, WatchPresence, client_frame, server_frame::Body,
};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use prost::Message as _;
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue, protocol::WebSocketConfig},
};

/// The subprotocol.
const PROTOCOL: &str = "kvchat.v1+protobuf";
/// For connecting and for the answer to the hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Hints that wait to be looked at. With more the connection does not read on.
const MAX_HINTS: usize = 1_024;
/// A server that answers no ping for so long is gone.
const PONG_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of the socket's buffers.
const BUFFER: usize = 4 * 1024;

/// The connection is over. What was asked for may have been done.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum Lost {
    /// The server cannot be reached, or has gone.
    #[error("the connection is lost: {0}")]
    Network(String),
    /// The server has said why.
    #[error("the server ended the connection: {}", .0.message)]
    Refused(Error),
}

impl Lost {
    fn network(error: impl std::fmt::Display) -> Self {
        Self::Network(error.to_string())
    }
}

/// What comes without having been asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Hint {
    /// A message.
    Push(Push),
    /// A sync will find something.
    Changed(Changed),
    /// Somebody is writing.
    Typing(Typing),
    /// Who is there.
    Presence(Presence),
    /// The server stops: come back after so long.
    GoAway(Duration),
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Waiting = Arc<parking_lot::Mutex<Option<HashMap<u32, oneshot::Sender<Result<Reply, Error>>>>>>;

/// See the module.
pub struct Connection {
    /// What the server said at the beginning.
    pub ready: Ready,
    writer: Arc<Mutex<SplitSink<Socket, Message>>>,
    waiting: Waiting,
    hints: Mutex<mpsc::Receiver<Hint>>,
    next_id: AtomicU32,
    tasks: [JoinHandle<()>; 2],
    why: Arc<parking_lot::Mutex<Option<Lost>>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn write(writer: &Mutex<SplitSink<Socket, Message>>, frame: &ClientFrame) -> Result<(), Lost> {
    let message = Message::Binary(frame.encode_to_vec().into());
    writer.lock().await.send(message).await.map_err(Lost::network)
}

impl Connection {
    /// Connects to a gateway at HOST:PORT. `session`: of a connection that broke, or empty.
    ///
    /// # Errors
    /// [`Lost::Refused`] with `UNAUTHENTICATED`: refresh the token.
    pub async fn open(address: &str, access_token: &str, session: &[u8]) -> Result<Self, Lost> {
        let opened = timeout(CONNECT_TIMEOUT, Self::greet(address, access_token, session)).await;
        opened.map_err(|_| Lost::Network(format!("{address} does not answer")))?
    }

    async fn greet(address: &str, access_token: &str, session: &[u8]) -> Result<Self, Lost> {
        let request = format!("ws://{address}/v1/ws").into_client_request();
        let mut request = request.map_err(Lost::network)?;
        let protocol = HeaderValue::from_static(PROTOCOL);
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0);
        let connected = connect_async_with_config(request, Some(config), true).await;
        let (socket, _) = connected.map_err(Lost::network)?;
        let (mut writer, mut reader) = socket.split();
        let hello = ClientFrame {
            id: 1,
            body: Some(client_frame::Body::Hello(Hello {
                version: 1,
                access_token: access_token.to_owned(),
                session: session.to_vec().into(),
            })),
        };
        let message = Message::Binary(hello.encode_to_vec().into());
        writer.send(message).await.map_err(Lost::network)?;
        let ready = match next(&mut reader).await?.body {
            Some(Body::Ready(ready)) => ready,
            Some(Body::Error(error)) => return Err(Lost::Refused(error)),
            other => {
                return Err(Lost::Network(format!(
                    "an answer to hello that is none: {other:?}"
                )));
            }
        };
        Ok(Self::run(ready, writer, reader))
    }

    fn run(ready: Ready, writer: SplitSink<Socket, Message>, reader: SplitStream<Socket>) -> Self {
        let writer = Arc::new(Mutex::new(writer));
        let waiting = Waiting::new(parking_lot::Mutex::new(Some(HashMap::new())));
        let why = Arc::new(parking_lot::Mutex::new(None));
        let (sender, hints) = mpsc::channel(MAX_HINTS);
        let heartbeat = Duration::from_millis(ready.heartbeat_ms.max(1_000).into());
        let tasks = [
            tokio::spawn(read(
                reader,
                Arc::clone(&waiting),
                sender,
                Arc::clone(&why),
                heartbeat + PONG_TIMEOUT,
            )),
            tokio::spawn(beat(Arc::clone(&writer), heartbeat)),
        ];
        Self {
            ready,
            writer,
            waiting,
            hints: Mutex::new(hints),
            next_id: AtomicU32::new(2),
            tasks,
            why,
        }
    }

    /// Asks the server.
    ///
    /// # Errors
    /// What the server says. `UNKNOWN_OUTCOME` if the connection breaks before.
    pub async fn call(&self, request: Request) -> Result<Reply, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let is_open = self
            .waiting
            .lock()
            .as_mut()
            .map(|waiting| waiting.insert(id, sender));
        if is_open.is_none() {
            return Err(not_sent());
        }
        let frame = ClientFrame {
            id,
            body: Some(client_frame::Body::Request(request)),
        };
        if write(&self.writer, &frame).await.is_err() {
            return Err(no_answer());
        }
        answer.await.unwrap_or_else(|_| Err(no_answer()))
    }

    /// Says that the user is writing.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn typing(&self, conversation: &str) -> Result<(), Lost> {
        let typing = Typing {
            conversation: conversation.to_owned(),
            user: 0,
        };
        let frame = ClientFrame {
            id: 0,
            body: Some(client_frame::Body::Typing(typing)),
        };
        write(&self.writer, &frame).await
    }

    /// Watches these users, and no others.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn watch_presence(&self, users: Vec<u64>) -> Result<(), Lost> {
        let frame = ClientFrame {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            body: Some(client_frame::Body::WatchPresence(WatchPresence { users })),
        };
        write(&self.writer, &frame).await
    }

    /// The next hint. Cancel-safe.
    ///
    /// # Errors
    /// The connection is over, and why.
    pub async fn hint(&self) -> Result<Hint, Lost> {
        let hint = self.hints.lock().await.recv().await;
        hint.ok_or_else(|| {
            let why = self.why.lock().clone();
            why.unwrap_or_else(|| Lost::Network("closed".to_owned()))
        })
    }
}

fn not_sent() -> Error {
    Error {
        code: Code::Unavailable.into(),
        message: "the connection is lost".to_owned(),
        retry_after_ms: 0,
    }
}

fn no_answer() -> Error {
    Error {
        code: Code::UnknownOutcome.into(),
        message: "the connection broke before an answer came".to_owned(),
        retry_after_ms: 0,
    }
}

async fn next(reader: &mut SplitStream<Socket>) -> Result<ServerFrame, Lost> {
    loop {
        match reader.next().await {
            Some(Ok(Message::Binary(bytes))) => return ServerFrame::decode(bytes).map_err(Lost::network),
            Some(Ok(Message::Close(_))) | None => return Err(Lost::Network("closed".to_owned())),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Lost::network(error)),
        }
    }
}

async fn read(
    mut reader: SplitStream<Socket>,
    waiting: Waiting,
    hints: mpsc::Sender<Hint>,
    why: Arc<parking_lot::Mutex<Option<Lost>>>,
    silence: Duration,
) {
    let end = loop {
        let frame = match timeout(silence, next(&mut reader)).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(lost)) => break lost,
            Err(_) => break Lost::Network("the server says nothing any more".to_owned()),
        };
        let answered = |answer| {
            let waiting = waiting
                .lock()
                .as_mut()
                .and_then(|waiting| waiting.remove(&frame.id));
            if let Some(waiting) = waiting {
                drop(waiting.send(answer));
            }
        };
        let hint = match frame.body {
            Some(Body::Reply(reply)) => {
                answered(Ok(reply));
                continue;
            }
            Some(Body::Error(error)) if frame.id != 0 => {
                answered(Err(error));
                continue;
            }
            Some(Body::Error(error)) => break Lost::Refused(error),
            Some(Body::Push(push)) => Hint::Push(push),
            Some(Body::Changed(changed)) => Hint::Changed(changed),
            Some(Body::Typing(typing)) => Hint::Typing(typing),
            Some(Body::Presence(presence)) => Hint::Presence(presence),
            Some(Body::GoAway(go_away)) => {
                Hint::GoAway(Duration::from_millis(go_away.reconnect_after_ms.into()))
            }
            Some(Body::Ready(_) | Body::Pong(_)) | None => continue,
        };
        if hints.send(hint).await.is_err() {
            break Lost::Network("closed".to_owned());
        }
    };
    why.lock().get_or_insert(end);
    // Whoever waits is told by the sender's end.
    waiting.lock().take();
}

async fn beat(writer: Arc<Mutex<SplitSink<Socket, Message>>>, every: Duration) {
    let mut ticks = interval(every);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let ping = ClientFrame {
            id: 0,
            body: Some(client_frame::Body::Ping(Ping {})),
        };
        if write(&writer, &ping).await.is_err() {
            return;
        }
    }
}
