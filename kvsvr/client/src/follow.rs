//! A stream of change-log events that survives broken connections and changes of leader: what watches and consumers share.
//!
//! The position is the last revision that was delivered; a new stream starts after it and events up to it are dropped, so there is
//! neither gap nor duplicate. Nothing is buffered here: a reader that does not read makes the server stop sending (HTTP/2 flow
//! control) and, if that lasts, end the stream, which is then opened again from the same position.

use std::sync::Arc;

use bytes::Bytes;
use kvsvr_proto::v1;
use prost::Message as _;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    core::Core,
    error::{Code, Error, Result},
    limits::{CONNECT_TIMEOUT, MAP_TIMEOUT, MAX_WATCH_PAUSE, WATCH_IDLE, WATCH_PAUSE},
    retry::pause,
    router::{Place, Target},
    transport::{Class, Method, StreamReceiver, TransportError},
    types::ReadFrom,
};

/// What is followed.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The position is set here before each use.
    Watch(v1::WatchRequest),
    /// The server knows the consumer's cursor.
    Consumer(v1::ConsumerStreamRequest),
}

/// One step.
#[derive(Debug)]
pub(crate) enum Step {
    /// All matching events up to the revision, of which those after the last step.
    Events {
        revision: u64,
        events: Vec<v1::WatchEvent>,
    },
    /// Events after the position have been compacted.
    Compacted { resume_from: u64 },
}

pub(crate) struct Follow {
    core: Arc<Core>,
    place: Place,
    source: Source,
    from: ReadFrom,
    /// The last revision delivered. `None`: wherever the server starts.
    position: Option<u64>,
    stream: Option<Stream>,
    /// Streams that broke since the last message.
    failures: u32,
    /// Nothing is opened before. Kept here because the caller may drop the waiting future and ask again, however often.
    not_before: Option<Instant>,
    avoid: Vec<u64>,
    /// Something has been received.
    proven: bool,
    /// The last stream that brought something broke, and no other one has brought anything since.
    broken: bool,
    /// How often another stream has brought something then.
    resumptions: u64,
}

struct Stream {
    receiver: StreamReceiver,
    target: Target,
}

impl Follow {
    pub(crate) fn new(
        core: Arc<Core>,
        place: Place,
        source: Source,
        from: ReadFrom,
        position: Option<u64>,
    ) -> Self {
        Self {
            core,
            place,
            source,
            from,
            position,
            stream: None,
            failures: 0,
            not_before: None,
            avoid: Vec::new(),
            proven: false,
            broken: false,
            resumptions: 0,
        }
    }

    /// How often it went on with a new stream.
    pub(crate) fn resumptions(&self) -> u64 {
        self.resumptions
    }

    /// The last revision delivered.
    pub(crate) fn position(&self) -> Option<u64> {
        self.position
    }

    /// Goes on after this revision.
    pub(crate) fn set_position(&mut self, revision: u64) {
        self.position = Some(revision);
        self.stream = None;
        self.broken = false;
    }

    /// The next step. Cancel-safe. Waits as long as it takes; an error is final.
    pub(crate) async fn next(&mut self) -> Result<Step> {
        loop {
            if self.stream.is_none() {
                self.open().await?;
            }
            let Some(stream) = &mut self.stream else { continue };
            let address = stream.target.address.clone();
            let error = match timeout(WATCH_IDLE, stream.receiver.next()).await {
                Ok(Some(Ok(message))) => match self.take(message, &address)? {
                    Some(step) => return Ok(step),
                    None => continue,
                },
                Ok(Some(Err(error))) => Error::from(error),
                Ok(None) => Error::unknown(Code::Disconnected, format!("{address} ended the stream")),
                Err(_) => Error::unknown(
                    Code::Timeout,
                    format!("{address} sent nothing for {WATCH_IDLE:?}"),
                ),
            };
            if let Some(step) = self.failed(error)? {
                return Ok(step);
            }
        }
    }

    /// Opens the stream, after a pause if the last ones broke.
    async fn open(&mut self) -> Result<()> {
        if self.failures > 0 {
            let failures = self.failures - 1;
            let until = *self.not_before.get_or_insert_with(|| {
                Instant::now()
                    + pause(
                        WATCH_PAUSE,
                        MAX_WATCH_PAUSE,
                        failures,
                        rand::random_range(0.0..1.0),
                    )
            });
            sleep_until(until).await;
            self.not_before = None;
        }
        let shard = match self.core.locate(self.place, Instant::now() + MAP_TIMEOUT).await {
            Ok(shard) => shard,
            Err(error) if error.code == Code::NotFound => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "cannot follow the change log yet");
                self.failures += 1;
                return Ok(());
            }
        };
        let spread = self.failures as usize;
        let target = {
            let router = self.core.router().read();
            router.replica(shard, self.from, &self.avoid, self.core.now(), spread, |a| {
                self.core.distance(a)
            })
        };
        let Some(target) = target else {
            return Err(Error::definite(
                Code::NotFound,
                format!("there is no shard {shard}"),
            ));
        };
        let (method, request) = self.request(shard);
        match open_stream(&self.core, &target, method, request).await {
            Ok(receiver) => self.stream = Some(Stream { receiver, target }),
            Err(error) => {
                tracing::debug!(%error, "cannot open a stream of events");
                self.core
                    .router()
                    .write()
                    .penalize(&target.address, self.core.now());
                self.failures += 1;
            }
        }
        Ok(())
    }

    fn request(&self, shard: u32) -> (Method, Bytes) {
        match &self.source {
            Source::Watch(request) => {
                let mut request = request.clone();
                request.shard = shard;
                request.meta = shard == 0;
                request.from_now = self.position.is_none();
                let late = self.proven && crate::mutant!("watch-resumes-one-late");
                request.after_revision = self.position.unwrap_or(0) + u64::from(late);
                (Method::WatchWatch, request.encode_to_vec().into())
            }
            Source::Consumer(request) => (Method::ConsumerStream, request.encode_to_vec().into()),
        }
    }

    /// What one message brings.
    fn take(&mut self, message: Bytes, address: &str) -> Result<Option<Step>> {
        let response = v1::WatchResponse::decode(message)
            .map_err(|e| Error::unexpected(&format!("events that do not decode ({e})"), address))?;
        if let Some(error) = response.error {
            return self.failed(Error::from_proto(error, address));
        }
        self.failures = 0;
        self.avoid.clear();
        self.proven = true;
        self.resumptions += u64::from(std::mem::take(&mut self.broken));
        let seen = self.position.unwrap_or(0);
        let mut events = response.events;
        events.retain(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_rev > seen));
        let revision = response.revision.max(seen);
        self.position = Some(revision);
        Ok(Some(Step::Events { revision, events }))
    }

    /// The stream broke: a step that says so, a final error, or `None` to open it again.
    fn failed(&mut self, error: Error) -> Result<Option<Step>> {
        let Some(stream) = self.stream.take() else {
            return Ok(None);
        };
        self.failures += 1;
        let Target { shard, node, address } = stream.target;
        tracing::debug!(%error, shard, "stream of events broke");
        match error.code {
            Code::Compacted => {
                return Ok(Some(Step::Compacted {
                    resume_from: error.revision,
                }));
            }
            Code::NotLeader => {
                let (leader, at) = error.leader.unwrap_or((0, String::new()));
                let now = self.core.now();
                if leader == 0 || !self.core.router().write().leader_is(shard, leader, &at, now) {
                    self.avoid(node, shard);
                }
            }
            Code::NoLeader => self.core.router().write().not_leader(shard, node),
            Code::Disconnected | Code::Unreachable | Code::NotReady => {
                self.core.router().write().penalize(&address, self.core.now());
            }
            Code::Timeout | Code::TooStale | Code::Internal | Code::Corrupt => self.avoid(node, shard),
            Code::WrongShard => {
                self.core.refresh_map();
                // Until the new map is there.
                self.avoid(node, shard);
            }
            Code::Overloaded => {}
            // A replica that lags may not have what another has delivered.
            Code::FutureRevision if self.proven => self.avoid(node, shard),
            _ => return Err(error),
        }
        self.broken |= self.proven;
        Ok(None)
    }

    fn avoid(&mut self, node: u64, shard: u32) {
        if self.avoid.len() + 1 >= self.core.router().read().replicas(shard) {
            self.avoid.clear();
        }
        self.avoid.push(node);
    }
}

/// Opens a stream and sends its one request. The sending half ends with it: a gRPC server begins to answer a call with one request when
/// that has ended.
async fn open_stream(
    core: &Core,
    target: &Target,
    method: Method,
    request: Bytes,
) -> std::result::Result<StreamReceiver, TransportError> {
    open_at(core, &target.address, method, request).await
}

/// The same at an address.
pub(crate) async fn open_at(
    core: &Core,
    address: &str,
    method: Method,
    request: Bytes,
) -> std::result::Result<StreamReceiver, TransportError> {
    let unreachable = |reason: &str| TransportError::Unreachable {
        address: address.to_owned(),
        reason: reason.to_owned(),
    };
    let open = async {
        let (sender, receiver) = core.transport.open(address, Class::Bulk, method).await?;
        let sent = sender.send(request).await;
        sent.map_err(|_| unreachable("the stream ended at once"))?;
        Ok(receiver)
    };
    match timeout(CONNECT_TIMEOUT * 2, open).await {
        Ok(result) => result,
        Err(_) => Err(unreachable("the stream could not be opened in time")),
    }
}
