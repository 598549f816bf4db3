//! A device: connected as long as it can be, in sync, and with everything sent that was to be sent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use chat_proto::v1::{
    Code, Error, Pull, Reply, Request, Send, Sent, Sync, Tokens, reply::Reply as R, request::Request as Q,
};
use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    accounts,
    connection::{Connection, Hint, Lost},
    model::{History, Model, News},
};

/// How a device behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Gateways, HOST:PORT. One after the other is tried.
    pub addresses: Vec<String>,
    /// Where it begins with conversations.
    pub history: History,
    /// Newest messages of each conversation in a sync.
    pub messages: u32,
    /// The shortest and the longest time before it connects again.
    pub backoff: (Duration, Duration),
}

impl Options {
    /// Of these gateways, with all messages.
    pub fn new(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            history: History::All,
            messages: 20,
            backoff: (Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

/// What a device tells whoever has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// It knows something new.
    News(News),
    /// It is connected; whether hints were kept meanwhile.
    Connected {
        /// Nothing was missed.
        resumed: bool,
    },
    /// All that was there has been told.
    InSync,
    /// The connection is lost.
    Lost(Lost),
    /// Something that is forgotten at once: typing, presence.
    Hint(Hint),
    /// The device is logged out, and does nothing any more.
    LoggedOut,
}

/// After a message that nobody has answered.
const SEND_PAUSE: Duration = Duration::from_millis(200);

/// A message that is to be sent, and who waits for it.
struct Outgoing {
    send: Send,
    done: oneshot::Sender<Result<Sent, Error>>,
}

#[derive(Default)]
struct Outbox {
    /// By conversation: they are sent one after the other.
    waiting: BTreeMap<String, VecDeque<Outgoing>>,
}

struct Shared {
    options: Options,
    tokens: Mutex<Tokens>,
    outbox: Mutex<Outbox>,
    /// There is something in the outbox.
    filled: Notify,
    connection: Mutex<Option<Arc<Connection>>>,
    happened: mpsc::UnboundedSender<Happened>,
}

/// See the module. Dropping it ends it.
pub struct Client {
    shared: Arc<Shared>,
    happened: tokio::sync::Mutex<mpsc::UnboundedReceiver<Happened>>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// A device with these tokens.
    pub fn start(options: Options, tokens: Tokens) -> Self {
        let (sender, happened) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            options,
            tokens: Mutex::new(tokens),
            outbox: Mutex::default(),
            filled: Notify::new(),
            connection: Mutex::new(None),
            happened: sender,
        });
        let task = tokio::spawn(live(Arc::clone(&shared)));
        Self {
            shared,
            happened: tokio::sync::Mutex::new(happened),
            task,
        }
    }

    /// What happens next. Cancel-safe. `None`: it has ended.
    pub async fn happened(&self) -> Option<Happened> {
        self.happened.lock().await.recv().await
    }

    /// The newest tokens: to be kept by whoever wants to start again.
    pub fn tokens(&self) -> Tokens {
        self.shared.tokens.lock().clone()
    }

    /// Sends a message, as often as it takes; in order in each conversation. It is sent even if nobody waits.
    ///
    /// # Errors
    /// The server will not take it.
    pub async fn send(&self, send: Send) -> Result<Sent, Error> {
        let (done, sent) = oneshot::channel();
        {
            let mut outbox = self.shared.outbox.lock();
            let line = outbox.waiting.entry(send.conversation.clone()).or_default();
            line.push_back(Outgoing { send, done });
        }
        self.shared.filled.notify_one();
        sent.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Asks the server, once, by the connection that there is.
    ///
    /// # Errors
    /// What the server says; `UNAVAILABLE` without a connection.
    pub async fn call(&self, request: Q) -> Result<R, Error> {
        let connection = self.shared.connection.lock().clone();
        let connection = connection.ok_or_else(ended)?;
        call(&connection, request).await
    }
}

fn ended() -> Error {
    Error {
        code: Code::Unavailable.into(),
        message: "there is no connection".to_owned(),
        retry_after_ms: 0,
    }
}

async fn call(connection: &Connection, request: Q) -> Result<R, Error> {
    let request = Request {
        request: Some(request),
    };
    let Reply { reply } = connection.call(request).await?;
    reply.ok_or_else(|| Error {
        code: Code::Protocol.into(),
        message: "the answer is empty".to_owned(),
        retry_after_ms: 0,
    })
}

/// Connects again and again.
async fn live(shared: Arc<Shared>) {
    let mut model = Model::new(shared.options.history);
    let (mut session, mut tries, mut turn) = (Vec::new(), 0, 0);
    loop {
        let address = shared.options.addresses[turn % shared.options.addresses.len()].clone();
        let token = shared.tokens.lock().access_token.clone();
        let lost = match Connection::open(&address, &token, &session).await {
            Ok(connection) => {
                tries = 0;
                session = connection.ready.session.to_vec();
                let connection = Arc::new(connection);
                *shared.connection.lock() = Some(Arc::clone(&connection));
                let lost = serve(&shared, &mut model, &connection).await;
                *shared.connection.lock() = None;
                lost
            }
            Err(lost) => lost,
        };
        shared.tell(Happened::Lost(lost.clone()));
        turn += 1;
        if matches!(&lost, Lost::Refused(error) if error.code() == Code::Unauthenticated) {
            match shared.refresh(&address).await {
                Ok(()) => continue,
                Err(error) if error.code() == Code::Unauthenticated => {
                    shared.tell(Happened::LoggedOut);
                    return;
                }
                Err(_) => {}
            }
        }
        tries += 1;
        sleep(shared.pause(tries)).await;
    }
}

impl Shared {
    fn tell(&self, happened: Happened) {
        // Nobody listens any more when the client is dropped.
        drop(self.happened.send(happened));
    }

    async fn refresh(&self, address: &str) -> Result<(), Error> {
        let token = self.tokens.lock().refresh_token.clone();
        let tokens = accounts::refresh(address, &token).await?;
        *self.tokens.lock() = tokens;
        Ok(())
    }

    /// Full jitter (Brooker 2015, "Exponential backoff and jitter").
    fn pause(&self, tries: u32) -> Duration {
        let (shortest, longest) = self.options.backoff;
        let most = shortest.saturating_mul(1 << tries.min(16)).min(longest);
        most.mul_f64(rand::random_range(0.0..=1.0))
    }
}

/// Until the connection is lost.
async fn serve(shared: &Shared, model: &mut Model, connection: &Arc<Connection>) -> Lost {
    shared.tell(Happened::Connected {
        resumed: connection.ready.resumed,
    });
    let sending = keep_sending(shared, connection);
    tokio::pin!(sending);
    let mut is_due = true;
    loop {
        if std::mem::take(&mut is_due) {
            let synced = tokio::select! {
                biased;
                never = &mut sending => match never {},
                synced = sync(shared, model, connection) => synced,
            };
            match synced {
                Ok(()) => shared.tell(Happened::InSync),
                // Without an answer the connection tells why; else it is tried again with the next hint.
                Err(error) => tracing::debug!(message = error.message, "a sync was not answered"),
            }
        }
        let hint = tokio::select! {
            biased;
            never = &mut sending => match never {},
            hint = connection.hint() => hint,
        };
        match hint {
            Ok(Hint::Push(push)) => {
                model.push(push);
                is_due = model.gap().is_some();
                tell_news(shared, model);
            }
            Ok(Hint::Changed(_)) => is_due = true,
            Ok(Hint::GoAway(after)) => {
                sleep(after).await;
                return Lost::Network("the server stops".to_owned());
            }
            Ok(hint) => shared.tell(Happened::Hint(hint)),
            Err(lost) => return lost,
        }
    }
}

fn tell_news(shared: &Shared, model: &mut Model) {
    while let Some(news) = model.next_news() {
        shared.tell(Happened::News(news));
    }
}

/// Everything that there is.
async fn sync(shared: &Shared, model: &mut Model, connection: &Connection) -> Result<(), Error> {
    loop {
        let request = Sync {
            snapshot: model.snapshot().to_vec().into(),
            conversations: 0,
            messages: shared.options.messages,
        };
        let R::Delta(delta) = call(connection, Q::Sync(request)).await? else {
            return Err(ended());
        };
        let more = delta.more;
        model.delta(delta);
        tell_news(shared, model);
        fill(shared, model, connection).await?;
        if !more {
            return Ok(());
        }
    }
}

/// Pulls what is missing, and what has changed.
async fn fill(shared: &Shared, model: &mut Model, connection: &Connection) -> Result<(), Error> {
    while let Some((conversation, asked)) = model.gap() {
        pull(model, connection, &conversation, asked).await?;
        tell_news(shared, model);
    }
    while let Some((conversation, seq)) = model.take_stale() {
        pull(model, connection, &conversation, seq..=seq).await?;
        tell_news(shared, model);
    }
    Ok(())
}

async fn pull(
    model: &mut Model,
    connection: &Connection,
    conversation: &str,
    asked: std::ops::RangeInclusive<u64>,
) -> Result<(), Error> {
    let request = Pull {
        conversation: conversation.to_owned(),
        from_seq: *asked.start(),
        to_seq: *asked.end(),
        limit: 0,
        backwards: false,
    };
    let R::Page(page) = call(connection, Q::Pull(request)).await? else {
        return Err(ended());
    };
    model.page(conversation, &asked, page);
    Ok(())
}

/// Sends what is to be sent, for ever.
async fn keep_sending(shared: &Shared, connection: &Arc<Connection>) -> Infallible {
    loop {
        send_all(shared, connection).await;
        // Somebody who tries again at once would find nothing better.
        sleep(SEND_PAUSE).await;
    }
}

/// The first message of each conversation, then the next one, for as long as there is a connection.
async fn send_all(shared: &Shared, connection: &Arc<Connection>) {
    let mut running = FuturesUnordered::new();
    let mut busy = BTreeSet::new();
    loop {
        let next: Vec<Send> = {
            let outbox = shared.outbox.lock();
            let lines = outbox.waiting.iter().filter(|(id, _)| !busy.contains(*id));
            lines
                .filter_map(|(_, line)| Some(line.front()?.send.clone()))
                .collect()
        };
        for send in next {
            busy.insert(send.conversation.clone());
            running.push(send_one(Arc::clone(connection), send));
        }
        tokio::select! {
            biased;
            Some((conversation, answer)) = running.next() => {
                busy.remove(&conversation);
                if shared.sent(&conversation, answer) {
                    return;
                }
            }
            () = shared.filled.notified() => {}
        }
    }
}

/// As often as the server says that it can be tried again.
async fn send_one(connection: Arc<Connection>, send: Send) -> (String, Result<Sent, Error>) {
    loop {
        let answer = match call(&connection, Q::Send(send.clone())).await {
            Ok(R::Sent(sent)) => Ok(sent),
            Ok(_) => Err(ended()),
            Err(error) => Err(error),
        };
        match answer {
            Err(error) if error.retry_after_ms > 0 && can_pass(&error) => {
                sleep(Duration::from_millis(error.retry_after_ms.into())).await;
            }
            answer => return (send.conversation, answer),
        }
    }
}

/// It may be taken at another time.
fn can_pass(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::RateLimited | Code::Unavailable | Code::UnknownOutcome
    )
}

impl Shared {
    /// A message was answered. True: by nobody, the connection is of no use.
    fn sent(&self, conversation: &str, answer: Result<Sent, Error>) -> bool {
        if answer.as_ref().is_err_and(can_pass) {
            return true;
        }
        let mut outbox = self.outbox.lock();
        let Some(line) = outbox.waiting.get_mut(conversation) else {
            return false;
        };
        if let Some(outgoing) = line.pop_front() {
            drop(outgoing.done.send(answer));
        }
        if line.is_empty() {
            outbox.waiting.remove(conversation);
        }
        false
    }
}
