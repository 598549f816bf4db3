//! The streams of the API that follow a shard's change log: Watch and Consumer.
//!
//! Any replica serves them, from its applied state, through its [`Hub`]. A stream's messages are [`WatchResponse`](pb::WatchResponse)s:
//!
//! - the first one comes at once and says after which revision the stream begins;
//! - events come as whole revisions, in order, a message holding about [`WATCH_MESSAGE_BYTES`] of them;
//! - when nothing was sent for [`WATCH_HEARTBEAT`] a message without events says how far the stream is. So a client that hears nothing for
//!   several of these times has lost its stream, and one that hears something can resume from a recent revision, however
//!   rare its events are;
//! - a stream that would begin below the compaction floor is told so at once, whatever is still in memory; one that is under way may be
//!   behind the floor for as long as its events are in the hub's ring;
//! - the last one, if the stream is ended from this side, says why: COMPACTED with the first revision that can still be had, FENCED,
//!   or what [`WatchSource::serving`] says.
//!
//! A client that does not read holds up its own stream only: the stream reads no more events while
//! [`WATCH_UNSENT_MESSAGES`] wait for the client. After [`WATCH_STALL`] it is ended without a word; its client can resume.
//!
//! Which shard a request is for, and whether it is on this node, has been decided before. Acknowledging what a consumer has done is a
//! command, not a matter of its stream.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kvsvr_client::transport::StreamSender;
use kvsvr_core::{
    event::{Event, EventKind},
    limits::{MAX_KEY, MAX_PARTITION_NAME},
    types::{Partition, Revision, ShardId},
};
use kvsvr_proto::v1::{self as pb, ErrorCode, watch_event::Kind};
use prost::Message as _;
use tokio::sync::mpsc::PermitIterator;

use crate::{
    hub::{EventBatch, EventFilter, Hub, Subscription, SubscriptionError},
    limits::{
        CONSUMER_OPEN_POLL, CONSUMER_OPEN_WAIT, HUB_FULL_RETRY_MS, WATCH_CHECK, WATCH_HEARTBEAT,
        WATCH_MESSAGE_BYTES, WATCH_STALL, WATCH_UNSENT_MESSAGES,
    },
    service::CallError,
    shard::error,
    time::{Instant, sleep, sleep_until, timeout},
};

/// What the streams need of a shard's replica.
pub trait WatchSource: Send + Sync {
    /// The shard.
    fn shard(&self) -> ShardId;

    /// Where its events pass through.
    fn hub(&self) -> &Arc<Hub>;

    /// Up to and including this revision events are compacted, in the applied state.
    fn floor(&self) -> Revision;

    /// Why this replica can not serve streams now, if so. NO_LEADER when it has heard of no leader for too long (what it has is
    /// old, and its watchers must not take silence for peace), NOT_READY, WRONG_SHARD. Asked at the start and then every
    /// [`WATCH_CHECK`]; must not block for long.
    fn serving(&self) -> Result<(), pb::Error>;

    /// The consumer of this name in the applied state. Asked like [`WatchSource::serving`].
    fn consumer(&self, name: &str) -> Option<ConsumerPosition>;
}

/// Who owns a consumer and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerPosition {
    /// Goes up with each owner.
    pub epoch: u64,
    /// Everything up to and including this revision is done.
    pub cursor: Revision,
}

/// Serves a watch until the client leaves or the stream must end. The last message says why it ended.
pub async fn serve_watch(
    source: &dyn WatchSource,
    request: pb::WatchRequest,
    output: StreamSender,
) -> Result<(), CallError> {
    let filter = filter_of(&request)?;
    let after = if request.from_now {
        source.hub().head()
    } else {
        request.after_revision
    };
    let start = Start {
        after,
        filter,
        with_values: request.with_values,
        owner: None,
    };
    serve(source, Ok(start), &output, &Timing::default()).await;
    Ok(())
}

/// Serves the events after a consumer's cursor to its owner, with values, until the client leaves, another owner takes over (FENCED, within
/// [`WATCH_CHECK`] of this replica's applying it) or the stream must end. The last message says why it ended.
pub async fn serve_consumer(
    source: &dyn WatchSource,
    request: pb::ConsumerStreamRequest,
    output: StreamSender,
) -> Result<(), CallError> {
    let timing = Timing::default();
    let start = start_of_consumer(source, request, &timing).await;
    serve(source, start, &output, &timing).await;
    Ok(())
}

/// The times that the streams keep.
struct Timing {
    heartbeat: Duration,
    check: Duration,
    stall: Duration,
    open_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: WATCH_HEARTBEAT,
            check: WATCH_CHECK,
            stall: WATCH_STALL,
            open_wait: CONSUMER_OPEN_WAIT,
        }
    }
}

/// Where a stream begins and what it carries.
struct Start {
    after: Revision,
    filter: EventFilter,
    with_values: bool,
    owner: Option<Owner>,
}

/// The consumer that a stream belongs to.
struct Owner {
    name: String,
    epoch: u64,
}

impl Owner {
    /// Still the owner?
    fn check(&self, found: Option<ConsumerPosition>) -> Result<(), pb::Error> {
        match found {
            None => Err(self.unknown_consumer()),
            Some(found) if found.epoch > self.epoch => Err(error::definite(
                ErrorCode::Fenced,
                format!(
                    "consumer {:?} was taken over: epoch {} is past, {} is the owner's; open it again to take it back",
                    self.name, self.epoch, found.epoch
                ),
            )),
            Some(_) => Ok(()),
        }
    }

    fn unknown_consumer(&self) -> pb::Error {
        error::definite(
            ErrorCode::NotFound,
            format!(
                "there is no consumer {:?} in this shard; open it first",
                self.name
            ),
        )
    }
}

/// Why a stream ends.
enum End {
    /// The client has left, or does not read.
    Gone,
    /// Said to the client.
    Error(pb::Error),
}

impl From<pb::Error> for End {
    fn from(error: pb::Error) -> Self {
        End::Error(error)
    }
}

fn filter_of(request: &pb::WatchRequest) -> Result<EventFilter, CallError> {
    let malformed = |what: String| Err(CallError::Malformed(what));
    let Some(partition) = &request.partition else {
        return if request.key_prefix.is_empty() {
            Ok(EventFilter::default())
        } else {
            malformed("a key prefix needs a partition".into())
        };
    };
    let name = &partition.name;
    if name.is_empty() || name.len() > MAX_PARTITION_NAME {
        return malformed(format!(
            "a partition's name has 1 to {MAX_PARTITION_NAME} bytes, not {}",
            name.len()
        ));
    }
    let Ok(region) = u16::try_from(partition.region) else {
        return malformed(format!(
            "a region is at most {}, not {}",
            u16::MAX,
            partition.region
        ));
    };
    if request.key_prefix.len() > MAX_KEY {
        return malformed(format!(
            "a key prefix has at most {MAX_KEY} bytes, not {}",
            request.key_prefix.len()
        ));
    }
    let partition = Some(Partition {
        region,
        name: name.clone(),
    });
    Ok(EventFilter {
        partition,
        key_prefix: request.key_prefix.clone(),
    })
}

/// Waits a little for the command that opened the consumer: this replica may be behind the one that answered it.
async fn start_of_consumer(
    source: &dyn WatchSource,
    request: pb::ConsumerStreamRequest,
    timing: &Timing,
) -> Result<Start, pb::Error> {
    let owner = Owner {
        name: request.name,
        epoch: request.epoch,
    };
    let deadline = Instant::now() + timing.open_wait;
    loop {
        let found = source.consumer(&owner.name);
        if let Some(found) = found.filter(|found| found.epoch >= owner.epoch) {
            owner.check(Some(found))?;
            let filter = EventFilter::default();
            return Ok(Start {
                after: found.cursor,
                filter,
                with_values: true,
                owner: Some(owner),
            });
        }
        source.serving()?;
        if Instant::now() >= deadline {
            return Err(match found {
                None => owner.unknown_consumer(),
                Some(found) => error::definite(
                    ErrorCode::NotReady,
                    format!(
                        "this replica knows consumer {:?} at epoch {}, not yet {}; try again or another replica",
                        owner.name, found.epoch, owner.epoch
                    ),
                ),
            });
        }
        sleep(CONSUMER_OPEN_POLL).await;
    }
}

async fn serve(
    source: &dyn WatchSource,
    start: Result<Start, pb::Error>,
    output: &StreamSender,
    timing: &Timing,
) {
    let end = match start {
        Ok(start) => follow(source, start, output, timing).await,
        Err(error) => End::Error(error),
    };
    if let End::Error(error) = end {
        let last = pb::WatchResponse {
            error: Some(error),
            ..Default::default()
        };
        // A client that is gone or does not read needs no reason.
        let _ = timeout(timing.stall, output.send(last.encode_to_vec().into())).await;
    }
}

async fn follow(source: &dyn WatchSource, start: Start, output: &StreamSender, timing: &Timing) -> End {
    let floor = source.floor();
    if start.after < floor {
        let compacted = SubscriptionError::Compacted { floor };
        return match source.serving() {
            Ok(()) => End::Error(subscription_error(source.shard(), &compacted)),
            Err(error) => End::Error(error),
        };
    }
    let subscription = match source.hub().subscribe(start.after, start.filter) {
        Ok(subscription) => subscription,
        Err(full) => {
            return End::Error(error::retry(
                ErrorCode::Overloaded,
                format!("shard {}: {full}; use another replica", source.shard()),
                HUB_FULL_RETRY_MS,
            ));
        }
    };
    let now = Instant::now();
    let stream = Stream {
        source,
        output,
        timing,
        subscription,
        with_values: start.with_values,
        owner: start.owner,
        sent_at: now,
        checked_at: now,
    };
    match stream.run().await {
        Err(end) => end,
        Ok(never) => match never {},
    }
}

/// A stream at work.
struct Stream<'a> {
    source: &'a dyn WatchSource,
    output: &'a StreamSender,
    timing: &'a Timing,
    subscription: Subscription,
    with_values: bool,
    owner: Option<Owner>,
    sent_at: Instant,
    checked_at: Instant,
}

/// Places in the stream's queue.
type Room<'a> = PermitIterator<'a, Bytes>;

impl<'a> Stream<'a> {
    async fn run(mut self) -> Result<std::convert::Infallible, End> {
        self.check()?;
        let room = self.room().await?;
        self.send(room, Vec::new());
        loop {
            // Before events are read: while the client does not take messages, none are in memory for it.
            let room = self.room().await?;
            let wake = (self.sent_at + self.timing.heartbeat).min(self.checked_at + self.timing.check);
            let events = tokio::select! {
                biased;
                batch = self.subscription.next(WATCH_MESSAGE_BYTES) => self.events(batch)?,
                () = self.output.closed() => return Err(End::Gone),
                () = sleep_until(wake) => Vec::new(),
            };
            // Also when there is always something to read.
            let now = Instant::now();
            if now >= self.checked_at + self.timing.check {
                self.check()?;
                self.checked_at = now;
            }
            if !events.is_empty() || now >= self.sent_at + self.timing.heartbeat {
                self.send(room, events);
            }
        }
    }

    fn check(&self) -> Result<(), End> {
        self.source.serving()?;
        if let Some(owner) = &self.owner {
            owner.check(self.source.consumer(&owner.name))?;
        }
        Ok(())
    }

    /// Waits until fewer than [`WATCH_UNSENT_MESSAGES`] wait for the client.
    async fn room(&self) -> Result<Room<'a>, End> {
        let places = self.output.max_capacity();
        let free = places + 1 - WATCH_UNSENT_MESSAGES.min(places);
        match timeout(self.timing.stall, self.output.reserve_many(free)).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                tracing::debug!(
                    shard = %self.source.shard(),
                    revision = self.subscription.position(),
                    "ended a watch stream whose client reads nothing"
                );
                Err(End::Gone)
            }
        }
    }

    /// Sends a message: these events, all that matched up to the subscription's position.
    fn send(&mut self, mut room: Room<'a>, events: Vec<pb::WatchEvent>) {
        #[cfg(feature = "mutants")]
        let events = self.send_half(&mut room, events);
        let message = pb::WatchResponse {
            revision: self.subscription.position(),
            events,
            error: None,
            consumer_epoch: self.owner.as_ref().map_or(0, |owner| owner.epoch),
        };
        if let Some(place) = room.next() {
            place.send(message.encode_to_vec().into());
        }
        self.sent_at = Instant::now();
    }

    /// Sends the first half of the events by itself, in the middle of a revision or not, and gives the others back.
    #[cfg(feature = "mutants")]
    fn send_half(&self, room: &mut Room<'a>, mut events: Vec<pb::WatchEvent>) -> Vec<pb::WatchEvent> {
        if events.len() < 2 || !kvsvr_core::mutant!("watch-splits-revision") {
            return events;
        }
        let rest = events.split_off(events.len() / 2);
        let last = events.last().and_then(|event| event.kv.as_ref());
        let message = pb::WatchResponse {
            revision: last.map_or(0, |kv| kv.mod_rev),
            consumer_epoch: self.owner.as_ref().map_or(0, |owner| owner.epoch),
            events,
            error: None,
        };
        if let Some(place) = room.next() {
            place.send(message.encode_to_vec().into());
        }
        rest
    }

    fn events(&self, batch: Result<EventBatch, SubscriptionError>) -> Result<Vec<pb::WatchEvent>, End> {
        match batch {
            Ok(batch) => {
                let wire = |event| wire_event(event, self.with_values);
                if kvsvr_core::mutant!("watch-orders-by-key") {
                    let mut events: Vec<&Event> = batch.events().collect();
                    events.sort_by(|a, b| a.key.cmp(&b.key));
                    return Ok(events.into_iter().map(wire).collect());
                }
                Ok(batch.events().map(wire).collect())
            }
            Err(e) => Err(End::Error(subscription_error(self.source.shard(), &e))),
        }
    }
}

fn subscription_error(shard: ShardId, e: &SubscriptionError) -> pb::Error {
    let message = format!("shard {shard}: {e}");
    match e {
        SubscriptionError::Compacted { floor } => pb::Error {
            revision: floor + 1,
            ..error::definite(
                ErrorCode::Compacted,
                format!(
                    "{message}; read the state anew, or go on with the events from {} on",
                    floor + 1
                ),
            )
        },
        SubscriptionError::Closed => error::definite(ErrorCode::WrongShard, message),
        SubscriptionError::Engine(kvsvr_core::engine::EngineError::Corrupt(_)) => {
            error::definite(ErrorCode::Corrupt, message)
        }
        SubscriptionError::Engine(_) | SubscriptionError::Stuck { .. } => {
            error::definite(ErrorCode::Internal, message)
        }
    }
}

fn wire_event(event: &Event, with_values: bool) -> pb::WatchEvent {
    let kind = match event.kind {
        EventKind::Put => Kind::Put,
        EventKind::Delete => Kind::Delete,
        EventKind::Expire => Kind::Expire,
    };
    let Partition { region, name } = event.partition.clone();
    pb::WatchEvent {
        kind: kind.into(),
        partition: Some(pb::Partition {
            region: region.into(),
            name,
        }),
        kv: Some(pb::KeyValue {
            key: event.key.clone(),
            value: if with_values {
                event.value.clone()
            } else {
                Bytes::new()
            },
            create_rev: event.create_rev,
            mod_rev: event.revision,
            version: event.version,
            lease: event.lease,
            expires_at_ms: event.expires_at,
        }),
    }
}

#[cfg(test)]
mod tests;
