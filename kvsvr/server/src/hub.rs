//! The watch hub of a shard's replica: from the apply loop, which publishes events, to the subscribers that follow them.
//!
//! The apply loop calls [`Hub::publish`] once for each engine batch, *after* the engine has it. The hub keeps the newest events in a
//! ring that is bounded in bytes. A [`Subscription`] is a position in the shard's change log, nothing else: the hub holds nothing for it
//! and sends nothing to it. It reads from the ring, and when its position has left the ring, from the change log in the engine
//! ([`History`]) on its own task, until its position is back in the ring.
//!
//! **No gap, no duplicate, order kept:** each answer covers the revisions (position, `up_to`] completely, and sets the position to `up_to`. The
//! ring always holds all events of the revisions (`evicted`, `head`]; it is read only from positions in there, everything else comes from the
//! engine. It does not matter that the engine may already be newer than the ring's head: what was delivered from it
//! lies before the position when it is published.
//!
//! **Publishing never waits for a subscriber:** there is one lock, the ring's. A subscriber holds it only while it clones at most
//! [`HUB_READ_CHUNKS`] references; filtering, copying and replay happen outside it. Publishing wakes all waiting subscribers
//! of the shard, which costs it some tens of nanoseconds for each.
//!
//! **No lost wake-up:** a subscriber registers for the next wake-up before it looks for the last time.
//!
//! The hub does not know the network, does not time anything and does not decide who may subscribe: see [`watch`](crate::watch).

use std::{
    collections::VecDeque,
    ops::Range,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr_core::{
    engine::EngineError,
    event::Event,
    types::{Partition, Revision},
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

use crate::limits::{HUB_EVENT_OVERHEAD, HUB_MAX_SUBSCRIBERS, HUB_READ_CHUNKS};

/// Which events a subscriber wants. The default wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only this partition's.
    pub partition: Option<Partition>,
    /// Only keys that begin with this.
    pub key_prefix: Bytes,
}

impl EventFilter {
    /// True if an event of this key is wanted.
    pub fn matches(&self, partition: &Partition, key: &[u8]) -> bool {
        self.partition.as_ref().is_none_or(|wanted| wanted == partition) && key.starts_with(&self.key_prefix)
    }
}

/// Events read from the change log in the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// In revision order, whole revisions.
    pub events: Vec<Event>,
    /// All wanted events after the asked revision up to and including this one are in `events`.
    pub up_to: Revision,
}

/// Why the change log could not be read, or a subscription does not go on.
#[derive(Debug, Error)]
pub enum SubscriptionError {
    /// Events that the subscriber has not seen are gone.
    #[error("events up to revision {floor} have been compacted")]
    Compacted {
        /// The greatest revision whose events are gone: go on after it.
        floor: Revision,
    },
    /// The replica has left this node.
    #[error("this node no longer has a replica of the shard")]
    Closed,
    /// The engine failed.
    #[error("reading the change log: {0}")]
    Engine(#[from] EngineError),
    /// The change log ends before revisions that were published: a fault of this program.
    #[error("the change log has nothing after revision {after}, but revision {head} was published")]
    Stuck {
        /// Where reading began.
        after: Revision,
        /// The newest published revision.
        head: Revision,
    },
}

/// The change log of one shard in the engine.
pub trait History: Send + Sync + 'static {
    /// The events that match, after the revision `after`. Reads one consistent state of the engine, at most about `max_bytes` of
    /// events (at least one whole revision if there is one), and says how far it came, also if nothing matched.
    fn replay<'a>(
        &'a self,
        after: Revision,
        max_bytes: usize,
        filter: &'a EventFilter,
    ) -> BoxFuture<'a, Result<Replayed, SubscriptionError>>;
}

/// More subscribers than [`HUB_MAX_SUBSCRIBERS`].
#[derive(Clone, Copy, Debug, Error)]
#[error("the shard has {HUB_MAX_SUBSCRIBERS} subscribers on this node already")]
pub struct TooManySubscribers;

/// Where a shard's events pass through on one node. See the module.
pub struct Hub {
    history: Arc<dyn History>,
    ring: Mutex<Ring>,
    /// Notified when the head moves and at the close.
    changed: Notify,
    capacity: usize,
    subscribers: AtomicUsize,
}

impl Hub {
    /// A hub whose newest published revision is `head` (what the engine has), and whose ring holds at most `capacity` bytes.
    pub fn new(history: Arc<dyn History>, head: Revision, capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            history,
            ring: Mutex::new(Ring {
                evicted: head,
                head,
                ..Ring::default()
            }),
            changed: Notify::new(),
            capacity,
            subscribers: AtomicUsize::new(0),
        })
    }

    /// Publishes the events of the revisions after the last published one, up to and including `revision`, which the engine must
    /// have. Called by the shard's apply loop alone.
    ///
    /// # Panics
    /// If events are not of these revisions.
    pub fn publish(&self, revision: Revision, events: Arc<[Event]>) {
        let bytes = events.iter().map(event_bytes).sum();
        let evicted = {
            let mut ring = self.ring.lock();
            if revision == ring.head && events.is_empty() {
                return;
            }
            let first = events.first().map_or(revision, |e| e.revision);
            let last = events.last().map_or(revision, |e| e.revision);
            assert!(
                ring.head < first && first <= last && last <= revision,
                "published revisions {first}..={last} up to {revision} after {}",
                ring.head
            );
            ring.push(
                Chunk {
                    last: revision,
                    events,
                    bytes,
                },
                self.capacity,
            )
        };
        self.changed.notify_waiters();
        // Freed only now: neither the ring's lock nor the subscribers wait for it.
        drop(evicted);
    }

    /// The engine's content was replaced, atomically, by that of a snapshot with revision `head`. Subscribers go on from the engine.
    ///
    /// # Panics
    /// If `head` is before what was published: an installed snapshot never takes a shard back.
    pub fn reset(&self, head: Revision) {
        let old = {
            let mut ring = self.ring.lock();
            assert!(
                head >= ring.head,
                "reset to revision {head} after {} was published",
                ring.head
            );
            let closed = ring.closed;
            std::mem::replace(
                &mut *ring,
                Ring {
                    evicted: head,
                    head,
                    closed,
                    ..Ring::default()
                },
            )
        };
        self.changed.notify_waiters();
        drop(old);
    }

    /// Ends all subscriptions: the replica leaves this node.
    pub fn close(&self) {
        self.ring.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// The newest published revision. The engine has everything up to it.
    pub fn head(&self) -> Revision {
        self.ring.lock().head
    }

    /// Subscriptions that exist.
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Bytes of events in the ring.
    pub fn ring_bytes(&self) -> usize {
        self.ring.lock().bytes
    }

    fn look(&self, position: Revision, max_bytes: usize) -> Option<Found> {
        let found = self.ring.lock().look(position, max_bytes);
        #[cfg(test)]
        tests::after_look();
        found
    }

    /// Follows the events after the revision `after`, which may lie before the ring and after the head.
    pub fn subscribe(
        self: &Arc<Self>,
        after: Revision,
        filter: EventFilter,
    ) -> Result<Subscription, TooManySubscribers> {
        if self.subscribers.fetch_add(1, Ordering::Relaxed) >= HUB_MAX_SUBSCRIBERS {
            self.subscribers.fetch_sub(1, Ordering::Relaxed);
            return Err(TooManySubscribers);
        }
        Ok(Subscription {
            hub: self.clone(),
            position: after,
            filter: Arc::new(filter),
        })
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

/// The bytes that an event counts for.
pub fn event_bytes(event: &Event) -> usize {
    event.partition.name.len() + event.key.len() + event.value.len() + HUB_EVENT_OVERHEAD
}

/// A position in a shard's change log.
pub struct Subscription {
    hub: Arc<Hub>,
    position: Revision,
    filter: Arc<EventFilter>,
}

impl Subscription {
    /// The next events: all that match of the revisions after the position up to [`EventBatch::up_to`], about `max_bytes` at most (but at
    /// least one whole revision). Waits for one if there is none. The answer may have no event: nothing matched, but
    /// the position moved. Cancel-safe: the position moves only with an answer.
    pub async fn next(&mut self, max_bytes: usize) -> Result<EventBatch, SubscriptionError> {
        let (parts, up_to) = match self.found(max_bytes).await {
            Found::Closed => return Err(SubscriptionError::Closed),
            Found::Events { chunks, up_to } => cut(chunks, self.position, max_bytes, up_to),
            Found::Behind { head } if kvsvr_core::mutant!("watch-compacted-too-far") => {
                return Err(SubscriptionError::Compacted { floor: head });
            }
            Found::Behind { head } => {
                // A long replay gives the other tasks of its thread a turn between its steps.
                tokio::task::yield_now().await;
                let replayed = self
                    .hub
                    .history
                    .replay(self.position, max_bytes.max(1), &self.filter)
                    .await?;
                if replayed.up_to <= self.position {
                    return Err(SubscriptionError::Stuck {
                        after: self.position,
                        head,
                    });
                }
                let events: Arc<[Event]> = replayed.events.into();
                let all = 0..events.len();
                (vec![(events, all)], replayed.up_to)
            }
        };
        self.position = up_to;
        Ok(EventBatch {
            parts,
            filter: self.filter.clone(),
            up_to,
        })
    }

    /// Everything that matches up to and including this revision has been answered.
    pub fn position(&self) -> Revision {
        self.position
    }

    /// What there is after the position; waits until there is something.
    async fn found(&self, max_bytes: usize) -> Found {
        loop {
            if let Some(found) = self.hub.look(self.position, max_bytes) {
                return found;
            }
            // Registered before the second look: a wake-up between that look and the wait is not lost.
            let mut changed = pin!(self.hub.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = self.hub.look(self.position, max_bytes) {
                return found;
            }
            changed.await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// The matching events of some consecutive revisions, each revision complete.
#[derive(Debug)]
pub struct EventBatch {
    parts: Vec<Part>,
    filter: Arc<EventFilter>,
    /// The last of the revisions; it need not have a matching event.
    pub up_to: Revision,
}

impl EventBatch {
    /// In revision order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.parts
            .iter()
            .flat_map(|(events, range)| &events[range.clone()])
            .filter(|event| self.filter.matches(&event.partition, &event.key))
    }
}

/// Some of the events of one publication.
type Part = (Arc<[Event]>, Range<usize>);

/// One publication: the events of the revisions after the previous chunk up to and including `last`.
struct Chunk {
    last: Revision,
    events: Arc<[Event]>,
    bytes: usize,
}

/// All events of the revisions (`evicted`, `head`].
#[derive(Default)]
struct Ring {
    chunks: VecDeque<Chunk>,
    /// Of all chunks.
    bytes: usize,
    evicted: Revision,
    head: Revision,
    closed: bool,
}

/// What a look at the ring found.
enum Found {
    /// Publications with events after the position, and the revision that they reach.
    Events {
        chunks: Vec<Arc<[Event]>>,
        up_to: Revision,
    },
    /// The ring begins after the position.
    Behind { head: Revision },
    /// There will be nothing more.
    Closed,
}

impl Ring {
    /// Appends the chunk and gives back the ones that it pushes out.
    fn push(&mut self, chunk: Chunk, capacity: usize) -> Vec<Chunk> {
        self.head = chunk.last;
        let mut evicted = Vec::new();
        if chunk.events.is_empty() {
            return evicted;
        }
        self.bytes += chunk.bytes;
        self.chunks.push_back(chunk);
        while self.bytes > capacity {
            let Some(oldest) = self.chunks.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
            self.evicted = oldest.last;
            evicted.push(oldest);
        }
        evicted
    }

    /// `None`: nothing after the position has been published.
    fn look(&self, position: Revision, max_bytes: usize) -> Option<Found> {
        if self.closed {
            return Some(Found::Closed);
        }
        if position >= self.head {
            return None;
        }
        if position < self.evicted && !kvsvr_core::mutant!("watch-drops-what-left-the-ring") {
            return Some(Found::Behind { head: self.head });
        }
        let first = self.chunks.partition_point(|chunk| chunk.last <= position);
        let mut chunks = Vec::new();
        let mut bytes = 0;
        for chunk in self.chunks.range(first..) {
            chunks.push(chunk.events.clone());
            bytes += chunk.bytes;
            if bytes >= max_bytes || chunks.len() == HUB_READ_CHUNKS {
                return Some(Found::Events {
                    chunks,
                    up_to: chunk.last,
                });
            }
        }
        Some(Found::Events {
            chunks,
            up_to: self.head,
        })
    }
}

/// Leaves out what lies at or before the position and what goes past `max_bytes`, never a part of a revision, never the first one.
/// Gives the revision that the rest reaches; `reach` is that of all chunks.
fn cut(
    chunks: Vec<Arc<[Event]>>,
    position: Revision,
    max_bytes: usize,
    reach: Revision,
) -> (Vec<Part>, Revision) {
    let mut parts = Vec::with_capacity(chunks.len());
    let (mut bytes, mut up_to) = (0, position);
    for events in chunks {
        let start = events.partition_point(|event| event.revision <= position);
        let mut end = start;
        for revision in events[start..].chunk_by(|a, b| a.revision == b.revision) {
            let more: usize = revision.iter().map(event_bytes).sum();
            if bytes > 0 && bytes + more > max_bytes {
                parts.push((events, start..end));
                return (parts, up_to);
            }
            bytes += more;
            end += revision.len();
            up_to = revision[0].revision;
        }
        parts.push((events, start..end));
    }
    (parts, reach)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
