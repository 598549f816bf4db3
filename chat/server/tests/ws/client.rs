//! A backend, and a client that speaks JSON.

use std::{collections::BTreeMap, net::SocketAddr, ops::Deref, time::Duration};

use chat::{Chat, system_seams};
use chat_core::secrets::Secrets;
use chat_logic::Seams;
use chat_proto::v1::{
    ClientFrame, Code, Error, Hello, Ready, Request, ServerFrame, Tokens, client_frame, reply, request,
    server_frame::Body,
};
use futures::{SinkExt, StreamExt};
use kvsvr::local::LocalCluster;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, Utf8Bytes},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where clients connect.
pub(crate) struct Door(pub(crate) SocketAddr);

pub(crate) struct World {
    door: Door,
    cluster: LocalCluster,
    pub(crate) chat: Chat,
    /// Whose end is that of a process: all tasks are gone at once.
    process: Option<Runtime>,
}

/// A process with everything but the cluster.
async fn process(cluster: &LocalCluster, listen: SocketAddr, name: &str) -> (Runtime, Chat) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (client, name) = (cluster.client(), name.to_owned());
    let chat = runtime
        .spawn(async move { chat(client, listen, name).await })
        .await
        .unwrap();
    (runtime, chat)
}

async fn chat(client: kvsvr_client::Client, listen: SocketAddr, name: String) -> Chat {
    let start = || Chat::start(client.clone(), secrets(), seams(), listen, name.clone());
    listening(start).await
}

pub(crate) fn secrets() -> Secrets {
    Secrets::new(1, BTreeMap::from([(1, vec![7; 32])])).unwrap()
}

/// Passwords cost little.
pub(crate) fn seams() -> Seams {
    Seams {
        argon2: argon2::Params::new(8, 1, 1, None).unwrap(),
        ..system_seams()
    }
}

/// Whoever listened there before may take a moment to be gone.
pub(crate) async fn listening<T, F: Future<Output = std::io::Result<T>>>(start: impl Fn() -> F) -> T {
    let mut tries = 0;
    loop {
        match start().await {
            Ok(started) => return started,
            Err(error) => assert!(tries < 1_000, "{error}"),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        let cluster = LocalCluster::start(2).await;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, chat) = process(&cluster, listen, "test").await;
        Self {
            door: Door(chat.address),
            cluster,
            chat,
            process: Some(process),
        }
    }

    /// Everything but the cluster dies, and another one begins at the same address.
    pub(crate) async fn restart(&mut self, name: &str) {
        self.process.take().unwrap().shutdown_background();
        let (process, chat) = process(&self.cluster, self.chat.address, name).await;
        (self.process, self.chat) = (Some(process), chat);
    }
}

impl Deref for World {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Door {
    async fn http(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let request = format!(
            "{head} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // A server that has read enough may close before all is written.
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or(0), answer)
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.http(&format!("POST {path}"), body).await
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.http(&format!("GET {path}"), "").await
    }

    pub(crate) async fn tokens(&self, path: &str, name: &str) -> Tokens {
        let body = format!(r#"{{"name":"{name}","password":"correct horse","device":"a test"}}"#);
        let (status, answer) = self.post(path, &body).await;
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    }

    pub(crate) async fn login(&self, name: &str) -> Tokens {
        self.tokens("/v1/login", name).await
    }

    pub(crate) async fn stranger(&self) -> Client {
        let (socket, _) = connect_async(format!("ws://{}/v1/ws", self.0)).await.unwrap();
        Client {
            socket,
            user: 0,
            ready: Ready::default(),
            tokens: Tokens::default(),
            next_id: 1,
            hints: Vec::new(),
        }
    }

    pub(crate) async fn hello(&self, tokens: &Tokens, session: Vec<u8>) -> Result<Client, Error> {
        let mut client = self.stranger().await;
        let hello = Hello {
            version: 1,
            access_token: tokens.access_token.clone(),
            session: session.into(),
        };
        client.write(1, client_frame::Body::Hello(hello)).await;
        match client.read().await.body {
            Some(Body::Ready(ready)) => client.ready = ready,
            Some(Body::Error(error)) => return Err(error),
            other => panic!("{other:?}"),
        }
        client.user = tokens.user;
        client.tokens = tokens.clone();
        Ok(client)
    }

    pub(crate) async fn with_tokens(&self, tokens: Tokens) -> Client {
        self.hello(&tokens, Vec::new()).await.unwrap()
    }

    /// A new user.
    pub(crate) async fn connect(&self, name: &str) -> Client {
        let tokens = self.tokens("/v1/register", name).await;
        self.with_tokens(tokens).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.shutdown_background();
        }
    }
}

pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) user: u64,
    pub(crate) ready: Ready,
    pub(crate) tokens: Tokens,
    next_id: u32,
    /// That came while something else was waited for.
    hints: Vec<Body>,
}

impl Client {
    pub(crate) async fn write_raw(&mut self, text: Utf8Bytes) {
        drop(self.socket.send(Message::Text(text)).await);
    }

    pub(crate) async fn write(&mut self, id: u32, body: client_frame::Body) {
        let frame = ClientFrame { id, body: Some(body) };
        self.write_raw(serde_json::to_string(&frame).unwrap().into())
            .await;
    }

    async fn read(&mut self) -> ServerFrame {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("nothing came");
            if let Message::Text(text) = message.expect("closed").unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// The connection ends, whatever comes before that.
    pub(crate) async fn closed(&mut self) {
        while let Some(Ok(_)) = timeout(PATIENCE, self.socket.next())
            .await
            .expect("it stays open")
        {}
    }

    pub(crate) async fn close(mut self) {
        drop(self.socket.close(None).await);
        self.closed().await;
    }

    pub(crate) async fn error(&mut self) -> Error {
        match self.read().await.body {
            Some(Body::Error(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn ask(&mut self, request: request::Request) -> u32 {
        self.next_id += 1;
        let request = Request {
            request: Some(request),
        };
        self.write(self.next_id, client_frame::Body::Request(request))
            .await;
        self.next_id
    }

    /// The next answer, of whatever request.
    pub(crate) async fn answer(&mut self) -> (u32, Result<reply::Reply, Code>) {
        loop {
            let frame = self.read().await;
            match frame.body.unwrap() {
                Body::Reply(reply) => return (frame.id, Ok(reply.reply.unwrap())),
                Body::Error(error) => return (frame.id, Err(error.code())),
                hint => self.hints.push(hint),
            }
        }
    }

    pub(crate) async fn call(&mut self, request: request::Request) -> Result<reply::Reply, Code> {
        let id = self.ask(request).await;
        let (answered, answer) = self.answer().await;
        assert_eq!(answered, id);
        answer
    }

    /// Waits for a hint that is looked for; others are forgotten.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(&Body) -> Option<T>) -> T {
        let hints = std::mem::take(&mut self.hints);
        for (at, hint) in hints.iter().enumerate() {
            if let Some(found) = wanted(hint) {
                self.hints = hints[at + 1..].to_vec();
                return found;
            }
        }
        loop {
            if let Some(found) = wanted(&self.read().await.body.unwrap()) {
                return found;
            }
        }
    }
}
