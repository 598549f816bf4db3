//! One client's connection: one task, which reads requests, carries many out at a time, and writes answers and hints.
//!
//! Messages to one conversation are sent one after the other, in the order in which they came. Everything else may overtake.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use chat_proto::{
    kind_of,
    v1::{
        ClientFrame, Code, Error, GoAway, Hello, Pong, Ready, Request, ServerFrame, Typing, client_frame,
        request, server_frame::Body,
    },
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    backend::Identity,
    codec::Codec,
    gateway::Gateway,
    hub::{Key, Seat},
    limits::{
        COALESCE, DEAD_AFTER, HEARTBEAT, HELLO_TIMEOUT, MAX_FRAME, MAX_REQUESTS, MAX_WATCHED,
        RECONNECT_WITHIN, TYPING_EVERY, WRITE_TIMEOUT,
    },
};

/// The protocol's version.
const VERSION: u32 = 1;

/// Why a connection ends.
enum End {
    /// The client went, or its network did.
    Gone,
    /// The client did what it must not do.
    Wrong(Error),
    /// The device is not logged in any more.
    LoggedOut(Error),
    /// The server drains.
    Draining,
    /// Another connection has taken the session.
    Replaced,
}

fn error(code: Code, message: impl Into<String>) -> Error {
    Error {
        code: code.into(),
        message: message.into(),
        retry_after_ms: 0,
    }
}

fn wrong(message: impl Into<String>) -> End {
    End::Wrong(error(Code::Protocol, message))
}

/// Serves a client until it goes or must go.
pub(crate) async fn serve(mut socket: WebSocket, codec: Codec, gateway: Arc<Gateway>) {
    let greeted = timeout(HELLO_TIMEOUT, greet(&mut socket, codec, &gateway)).await;
    let seat = match greeted {
        Ok(Ok(seat)) => seat,
        Ok(Err(end)) => return part(&mut socket, codec, end).await,
        Err(_) => return part(&mut socket, codec, wrong("no hello came")).await,
    };
    let mut connection = Connection {
        socket,
        codec,
        gateway,
        seat,
        running: FuturesUnordered::new(),
        lines: HashMap::new(),
        heard: Instant::now(),
        typed: None,
        tell_at: None,
    };
    let end = connection.run().await;
    let for_good = !matches!(end, End::Gone | End::Replaced);
    connection.gateway.hub().leave(&connection.seat, for_good);
    part(&mut connection.socket, codec, end).await;
}

async fn write(socket: &mut WebSocket, message: Message) -> Result<(), End> {
    match timeout(WRITE_TIMEOUT, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Gone),
    }
}

/// The last words.
async fn part(socket: &mut WebSocket, codec: Codec, end: End) {
    let (body, code) = match end {
        End::Gone | End::Replaced => (None, close_code::NORMAL),
        End::Wrong(error) | End::LoggedOut(error) => (Some(Body::Error(error)), close_code::POLICY),
        End::Draining => {
            let within = RECONNECT_WITHIN.as_millis() as u32;
            let go_away = GoAway {
                reason: "the server restarts".to_owned(),
                reconnect_after_ms: rand::random_range(0..=within),
            };
            (Some(Body::GoAway(go_away)), close_code::RESTART)
        }
    };
    if let Some(body) = body {
        let frame = ServerFrame {
            id: 0,
            body: Some(body),
        };
        if write(socket, codec.encode(&frame)).await.is_err() {
            return;
        }
    }
    let close = CloseFrame {
        code,
        reason: "".into(),
    };
    drop(write(socket, Message::Close(Some(close))).await);
}

/// The first frame must be a hello with a good token.
async fn greet(socket: &mut WebSocket, codec: Codec, gateway: &Gateway) -> Result<Seat, End> {
    let (id, hello) = loop {
        let message = match socket.recv().await {
            Some(Ok(message)) => message,
            Some(Err(_)) | None => return Err(End::Gone),
        };
        match codec.decode(message) {
            None => {}
            Some(Err(text)) => return Err(wrong(text)),
            Some(Ok(ClientFrame {
                id,
                body: Some(client_frame::Body::Hello(hello)),
            })) => break (id, hello),
            Some(Ok(_)) => return Err(wrong("the first frame must be a hello")),
        }
    };
    let Hello {
        version,
        access_token,
        session,
    } = hello;
    if version != VERSION {
        return Err(wrong(format!(
            "this server speaks version {VERSION}, not {version}"
        )));
    }
    let who = gateway
        .backend()
        .identify(&access_token)
        .await
        .map_err(End::LoggedOut)?;
    let seat = gateway
        .hub()
        .take_seat(who, Key::try_from(&session[..]).ok(), rand::random())
        .map_err(|_| End::Wrong(error(Code::RateLimited, "this user has too many connections")))?;
    let ready = Ready {
        session: seat.session.key.to_vec().into(),
        resumed: seat.resumed,
        user: who.user,
        device: who.device,
        server_ms: gateway.now_ms(),
        heartbeat_ms: HEARTBEAT.as_millis() as u32,
        max_frame_bytes: MAX_FRAME as u32,
        max_requests: MAX_REQUESTS as u32,
    };
    let frame = ServerFrame {
        id,
        body: Some(Body::Ready(ready)),
    };
    match write(socket, codec.encode(&frame)).await {
        Ok(()) => Ok(seat),
        Err(end) => {
            gateway.hub().leave(&seat, false);
            Err(end)
        }
    }
}

/// What came of something that was under way.
enum Done {
    Answer(Box<ServerFrame>),
    Nothing,
    LoggedOut(Error),
}

/// Messages to one conversation wait in line.
type Line = Arc<Mutex<()>>;

struct Connection {
    socket: WebSocket,
    codec: Codec,
    gateway: Arc<Gateway>,
    seat: Seat,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    lines: HashMap<String, Line>,
    heard: Instant,
    typed: Option<Instant>,
    /// When hints of changes are told.
    tell_at: Option<Instant>,
}

impl Connection {
    fn who(&self) -> Identity {
        self.seat.session.who
    }

    async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        let session = Arc::clone(&self.seat.session);
        let dead_at = self.heard + DEAD_AFTER;
        let tell_in = self
            .tell_at
            .map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        tokio::select! {
            biased;
            () = session.woken() => self.woken().await,
            Some(done) = self.running.next() => self.done(done).await,
            () = sleep(tell_in), if self.tell_at.is_some() => self.tell_changed().await,
            message = self.socket.recv(), if self.running.len() < MAX_REQUESTS => match message {
                Some(Ok(message)) => self.read(message).await,
                Some(Err(_)) | None => Err(End::Gone),
            },
            () = sleep_until(dead_at) => Err(End::Gone),
        }
    }

    async fn woken(&mut self) -> Result<(), End> {
        if self.gateway.is_draining() {
            return Err(End::Draining);
        }
        if !self.seat.session.is_served_by(self.seat.connection) {
            return Err(End::Replaced);
        }
        while let Some(message) = self.seat.session.next(self.codec) {
            write(&mut self.socket, message).await?;
        }
        if self.seat.session.has_changed() {
            self.tell_at.get_or_insert_with(|| Instant::now() + COALESCE);
        }
        Ok(())
    }

    async fn tell_changed(&mut self) -> Result<(), End> {
        self.tell_at = None;
        let Some((message, account)) = self.seat.session.take_changed(self.codec) else {
            return Ok(());
        };
        if account {
            // Perhaps this device was logged out.
            let still_there = self.gateway.backend().still_there(self.who());
            self.running.push(Box::pin(async move {
                match still_there.await {
                    Err(error) if error.code() == Code::Unauthenticated => Done::LoggedOut(error),
                    _ => Done::Nothing,
                }
            }));
        }
        write(&mut self.socket, message).await
    }

    async fn done(&mut self, done: Done) -> Result<(), End> {
        if self.running.is_empty() {
            self.lines.clear();
        }
        match done {
            Done::Answer(frame) => write(&mut self.socket, self.codec.encode(&frame)).await,
            Done::Nothing => Ok(()),
            Done::LoggedOut(error) => Err(End::LoggedOut(error)),
        }
    }

    async fn read(&mut self, message: Message) -> Result<(), End> {
        self.heard = Instant::now();
        if let Message::Close(_) = message {
            return Err(End::Gone);
        }
        let Some(frame) = self.codec.decode(message) else {
            return Ok(());
        };
        let ClientFrame { id, body } = frame.map_err(wrong)?;
        match body {
            Some(client_frame::Body::Request(request)) => self.request(id, request),
            Some(client_frame::Body::Typing(typing)) => self.typing(typing),
            Some(client_frame::Body::WatchPresence(watch)) => self.watch(id, watch.users)?,
            Some(client_frame::Body::Ping(_)) => {
                let pong = ServerFrame {
                    id,
                    body: Some(Body::Pong(Pong {})),
                };
                write(&mut self.socket, self.codec.encode(&pong)).await?;
            }
            Some(client_frame::Body::Hello(_)) => return Err(wrong("hello may come once only")),
            None => {
                let text = "this frame is empty, or one that this server does not know";
                let frame = ServerFrame {
                    id,
                    body: Some(Body::Error(error(Code::Invalid, text))),
                };
                write(&mut self.socket, self.codec.encode(&frame)).await?;
            }
        }
        Ok(())
    }

    fn request(&mut self, id: u32, request: Request) {
        let line = match &request.request {
            Some(request::Request::Send(send)) => Some(send.conversation.clone()),
            Some(request::Request::Forward(forward)) => Some(forward.to.clone()),
            _ => None,
        };
        let line = line.map(|conversation| Arc::clone(self.lines.entry(conversation).or_default()));
        let (gateway, who) = (Arc::clone(&self.gateway), self.who());
        let (kind, since) = (request.request.as_ref().map_or("unknown", kind_of), self.heard);
        self.running.push(Box::pin(async move {
            let _turn = match line {
                Some(line) => Some(line.lock_owned().await),
                None => None,
            };
            let answer = gateway.backend().call(who, request).await;
            let code = answer.as_ref().err().map(Error::code);
            gateway.measured().answered(kind, since.elapsed(), code);
            let body = match answer {
                Ok(reply) => Body::Reply(reply),
                Err(error) => Body::Error(error),
            };
            Done::Answer(Box::new(ServerFrame { id, body: Some(body) }))
        }));
    }

    fn typing(&mut self, typing: Typing) {
        let now = Instant::now();
        if self.typed.is_some_and(|typed| now - typed < TYPING_EVERY) {
            return;
        }
        self.typed = Some(now);
        let typing = self.gateway.backend().typing(self.who(), typing.conversation);
        self.running.push(Box::pin(async move {
            drop(typing.await);
            Done::Nothing
        }));
    }

    fn watch(&mut self, id: u32, users: Vec<u64>) -> Result<(), End> {
        if users.len() > MAX_WATCHED {
            return Err(wrong(format!("at most {MAX_WATCHED} users may be watched")));
        }
        let (gateway, session) = (Arc::clone(&self.gateway), Arc::clone(&self.seat.session));
        self.running.push(Box::pin(async move {
            let body = match gateway.backend().visible(session.who, users).await {
                Ok(users) => Body::Presence(gateway.hub().watch(&session, &users)),
                Err(error) => Body::Error(error),
            };
            Done::Answer(Box::new(ServerFrame { id, body: Some(body) }))
        }));
        Ok(())
    }
}
