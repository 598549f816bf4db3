//! Watches: the events of a partition or a shard, in revision order, without gap or duplicate.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use kvsvr_proto::v1::{self, watch_event};
use tokio::time::Instant;

use crate::{
    client::Client,
    core::{self, Core},
    error::{Code, Error, Result},
    follow::{Follow, Source, Step},
    router::Place,
    time::timeout_at,
    types::{KeyValue, Partition, ReadFrom, ReadMode},
};

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchStart {
    /// With the first change after the watch was made.
    #[default]
    Now,
    /// With the first event of a greater revision than this; 0 = with everything there is.
    After(u64),
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    what: What,
    prefix: Bytes,
    start: WatchStart,
    with_values: bool,
    progress: bool,
    read_from: Option<ReadFrom>,
}

#[derive(Clone, Debug)]
enum What {
    Partition(Partition),
    Shard(u32),
}

impl WatchOptions {
    fn new(what: What) -> Self {
        Self {
            what,
            prefix: Bytes::new(),
            start: WatchStart::Now,
            with_values: true,
            progress: false,
            read_from: None,
        }
    }

    /// The events of a partition.
    pub fn partition(partition: Partition) -> Self {
        Self::new(What::Partition(partition))
    }

    /// The events of a whole shard; 0 is the meta shard.
    pub fn shard(shard: u32) -> Self {
        Self::new(What::Shard(shard))
    }

    /// Only keys that begin so. For partitions.
    pub fn prefix(self, prefix: impl Into<Bytes>) -> Self {
        Self {
            prefix: prefix.into(),
            ..self
        }
    }

    /// Where to begin.
    pub fn start(self, start: WatchStart) -> Self {
        Self { start, ..self }
    }

    /// Leave the values out.
    pub fn without_values(self) -> Self {
        Self {
            with_values: false,
            ..self
        }
    }

    /// Deliver [`WatchItem::Progress`], too.
    pub fn progress(self) -> Self {
        Self {
            progress: true,
            ..self
        }
    }

    /// Which replica to watch at. Default: the client's `read_from`.
    pub fn read_from(self, from: ReadFrom) -> Self {
        Self {
            read_from: Some(from),
            ..self
        }
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It has a new value.
    Put,
    /// It was deleted by a command.
    Delete,
    /// It was deleted because its TTL or its lease ended.
    Expire,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key's partition.
    pub partition: Partition,
    /// The pair after the change. Deleted: key and `mod_rev` only.
    pub kv: KeyValue,
}

impl Event {
    /// The shard's revision of the change.
    pub fn revision(&self) -> u64 {
        self.kv.mod_rev
    }

    pub(crate) fn from_proto(event: v1::WatchEvent) -> Result<Self> {
        let kind = match event.kind() {
            watch_event::Kind::Put => EventKind::Put,
            watch_event::Kind::Delete => EventKind::Delete,
            watch_event::Kind::Expire => EventKind::Expire,
            watch_event::Kind::Unspecified => return Err(bad_event("of an unknown kind")),
        };
        let partition = event.partition.and_then(Partition::from_proto);
        let partition = partition.ok_or_else(|| bad_event("without a partition"))?;
        let kv = event.kv.ok_or_else(|| bad_event("without a key"))?;
        Ok(Self { kind, partition, kv })
    }
}

fn bad_event(what: &str) -> Error {
    Error::unknown(
        Code::Internal,
        format!("the server sent an event {what}: client and server do not fit together, or this is a bug"),
    )
}

pub(crate) fn events(events: Vec<v1::WatchEvent>) -> Result<Vec<Event>> {
    events.into_iter().map(Event::from_proto).collect()
}

/// Events of whole revisions.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchBatch {
    /// All matching events up to this revision have been delivered.
    pub revision: u64,
    /// In revision order, the events of one revision together.
    pub events: Vec<Event>,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchItem {
    /// Changes.
    Events(WatchBatch),
    /// There are no matching events up to this revision that have not been delivered. Only if asked for.
    Progress {
        /// The revision.
        revision: u64,
    },
    /// Events after the last delivered revision have been compacted away. Read what you follow, then go on with
    /// [`Watch::resume_from`].
    Compacted {
        /// The first revision that can still be watched.
        resume_from: u64,
    },
}

/// A running watch. Broken connections and changes of leader are handled inside.
pub struct Watch {
    follow: Follow,
    progress: bool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch(at revision {:?})", self.follow.position())
    }
}

impl Watch {
    /// What comes next; waits for it as long as it takes. Cancel-safe: nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The watch is not possible (no such shard, an invalid request). Everything that may pass is waited for.
    pub async fn next(&mut self) -> Result<WatchItem> {
        loop {
            match self.follow.next().await? {
                Step::Compacted { resume_from } => return Ok(WatchItem::Compacted { resume_from }),
                Step::Events { revision, events } if !events.is_empty() => {
                    return Ok(WatchItem::Events(WatchBatch {
                        revision,
                        events: self::events(events)?,
                    }));
                }
                Step::Events { revision, .. } if self.progress => {
                    return Ok(WatchItem::Progress { revision });
                }
                Step::Events { .. } => {}
            }
        }
    }

    /// The last revision up to which everything has been delivered; also where the watch began. `None`: not known yet.
    pub fn revision(&self) -> Option<u64> {
        self.follow.position()
    }

    /// How often a connection broke and the watch has gone on from where it was, without a gap or a repetition.
    pub fn resumptions(&self) -> u64 {
        self.follow.resumptions()
    }

    /// Goes on with the events of this revision and later ones.
    pub fn resume_from(&mut self, revision: u64) {
        self.follow.set_position(revision.saturating_sub(1));
    }
}

impl Client {
    /// Begins a watch. A watch from now on sees every change that is made after this call has returned.
    ///
    /// # Errors
    /// The shard could not be asked where "now" is; see [`Error`].
    pub async fn watch(&self, options: WatchOptions) -> Result<Watch> {
        let deadline = self.deadline();
        let (place, partition) = match options.what {
            What::Partition(partition) => (Place::Slot(partition.slot()), Some(partition)),
            What::Shard(shard) => (Place::Shard(shard), None),
        };
        let shard = self.core.locate(place, deadline).await?;
        let position = match options.start {
            WatchStart::After(revision) => Some(revision),
            WatchStart::Now => match partition.clone().or_else(|| any_partition(&self.core, shard)) {
                Some(partition) => Some(head(&self.core, &partition, deadline).await?),
                // The meta shard has no partitions: its node says where "now" is.
                None => None,
            },
        };
        let request = v1::WatchRequest {
            partition: partition.as_ref().map(Partition::to_proto),
            key_prefix: options.prefix,
            with_values: options.with_values,
            ..v1::WatchRequest::default()
        };
        let from = options.read_from.unwrap_or(self.read_from());
        let mut follow = Follow::new(self.core.clone(), place, Source::Watch(request), from, position);
        if position.is_none() {
            // The first message has no events, it says where the stream begins.
            let began = timeout_at(deadline, follow.next()).await;
            began.map_err(|_| Error::definite(Code::Timeout, "no node has begun the watch in time"))??;
        }
        Ok(Watch {
            follow,
            progress: options.progress,
        })
    }
}

/// The newest revision of a partition's shard, linearizable.
pub(crate) async fn head(core: &Arc<Core>, partition: &Partition, deadline: Instant) -> Result<u64> {
    let get = v1::read_request::Op::Get(v1::Get {
        key: Bytes::from_static(b"\0"),
        revision: 0,
    });
    let request = core::read_request(partition.to_proto(), ReadMode::Linearizable, get);
    let answer = core
        .read(
            Place::Slot(partition.slot()),
            &request,
            ReadFrom::Leader,
            deadline,
        )
        .await?;
    Ok(answer.value.revision)
}

/// Some partition of a shard, for reads that only want the shard's revision.
fn any_partition(core: &Core, shard: u32) -> Option<Partition> {
    if shard == 0 {
        return None;
    }
    let router = core.router().read();
    // Names hash to slots evenly: a shard of a single slot takes 4096 names on average.
    (0u32..1 << 18)
        .map(|n| Partition::local(n.to_be_bytes().to_vec()))
        .find(|p| router.shard(Place::Slot(p.slot())) == Some(shard))
}
