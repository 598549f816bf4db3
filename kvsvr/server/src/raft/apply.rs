//! openraft's state machine on kvsvr-core's [`Machine`] and the engine.
//!
//! All entries at hand become one engine batch, or several if they touch so much that the machine takes only some at a time. The order
//! after each is fixed: engine (with the row cache), then the change log's subscribers, then the published head, then the replies; so
//! whoever sees a reply or a head also sees the data.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use kvsvr_core::{
    engine::Engine,
    event::EventKind,
    hash::state_hash,
    machine::{Entry as CoreEntry, Machine, Payload},
    types::{Revision, ShardId, StampMs},
};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine, SnapshotMeta},
};
use openraft_rt::AsyncRuntime;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, oneshot};

use super::{
    convert,
    log::LogStore,
    runtime::Runtime,
    snapshot::{Durable, Snapshot, SnapshotData, meta_of},
    types::{Entry, LogId, StoredMembership, TypeConfig, of},
};
use crate::{
    buffer::BufferedEngine,
    history::ShardHistory,
    hub::Hub,
    limits::{BUFFER_ROOM_PATIENCE, MAX_APPLY_BYTES, MAX_APPLY_ENTRIES},
    metrics::ShardMetrics,
    time::Instant,
};

type Responder = ApplyResponder<TypeConfig>;

/// What readers of a shard need to know of its applied state, without asking the state machine's task.
#[derive(Debug, Default)]
pub struct Head {
    /// Index of the last applied entry, plus one; 0 = none.
    applied_next: AtomicU64,
    revision: AtomicU64,
    floor: AtomicU64,
    stamp: AtomicU64,
    /// Odd while a snapshot is being installed: the engine's content is not a state of the shard.
    installs: AtomicU64,
    /// The shard's rows are being removed, or are gone.
    retired: AtomicBool,
    /// The shard is being restored from a backup.
    restoring: AtomicBool,
    changed: Notify,
}

impl Head {
    /// The newest revision that can be read.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }
    /// Reads and watches below it are refused.
    pub fn floor(&self) -> Revision {
        self.floor.load(Ordering::Acquire)
    }
    /// Stamp of the last applied batch, unix milliseconds.
    pub fn stamp(&self) -> StampMs {
        self.stamp.load(Ordering::Acquire)
    }
    /// Index after the last applied entry.
    pub fn applied_next(&self) -> u64 {
        self.applied_next.load(Ordering::Acquire)
    }
    /// Counts snapshot installations: even and unchanged over a read means that the read saw a state of the shard.
    /// Odd for ever once the rows are being removed, and while the shard is restored from a backup.
    pub fn installs(&self) -> u64 {
        if self.retired.load(Ordering::Acquire) || self.restoring.load(Ordering::Acquire) {
            return u64::MAX;
        }
        self.installs.load(Ordering::Acquire)
    }

    /// The shard is being restored from a backup: its content is no state of it.
    pub fn is_restoring(&self) -> bool {
        self.restoring.load(Ordering::Acquire)
    }

    fn publish(&self, machine: &Machine) {
        self.floor.store(machine.floor(), Ordering::Release);
        self.stamp.store(machine.last_stamp(), Ordering::Release);
        self.revision.store(machine.revision(), Ordering::Release);
        self.applied_next
            .store(machine.applied().map_or(0, |p| p.index + 1), Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until `reached`, which is called again after each change.
    pub async fn wait_for(&self, reached: impl Fn(&Head) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the entry at `index` is applied.
    pub async fn wait_applied(&self, index: u64) {
        self.wait_for(|head| head.applied_next() > index).await;
    }
}

/// The state machine of one shard.
#[derive(Clone)]
pub struct StateMachine {
    shared: Arc<Shared>,
}

struct Shared {
    shard: ShardId,
    engine: Arc<dyn Engine>,
    /// The part of the engine that takes writes in.
    buffer: Option<Arc<BufferedEngine>>,
    /// Owned by openraft's state machine task; others look at it for status and the expiry driver.
    applier: Mutex<Applier>,
    head: Arc<Head>,
    hub: Arc<Hub>,
    metrics: Arc<ShardMetrics>,
    /// States that somebody wants the hash of.
    marks: Mutex<Vec<Mark>>,
}

/// Somebody wants the hash of the state after the entry at this index.
struct Mark {
    index: u64,
    told: oneshot::Sender<StateHash>,
}

/// The hash of a replica's state, for comparison with other replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// The last entry in it.
    pub applied: u64,
    /// `None`: the state that was asked for was gone already.
    pub hash: Option<u64>,
}

struct Applier {
    /// Nothing is applied any more.
    retired: bool,
    machine: Machine,
}

impl StateMachine {
    /// Loads the shard's state. `buffer`: the engine's write buffer, if it has one. Watchers are served from `hub_bytes` of recent events.
    pub fn load(
        shard: ShardId,
        engine: Arc<dyn Engine>,
        buffer: Option<Arc<BufferedEngine>>,
        hub_bytes: usize,
        metrics: Arc<ShardMetrics>,
    ) -> io::Result<Self> {
        let machine = Machine::load(shard, &*engine).map_err(io::Error::other)?;
        let head = Arc::new(Head::default());
        head.publish(&machine);
        head.restoring.store(machine.is_restoring(), Ordering::Release);
        let history = ShardHistory::new(shard, engine.clone(), head.clone());
        let hub = Hub::new(Arc::new(history), machine.revision(), hub_bytes);
        let shared = Shared {
            shard,
            engine,
            buffer,
            applier: Mutex::new(Applier {
                retired: false,
                machine,
            }),
            head,
            hub,
            metrics,
            marks: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Applies what the log says is committed, as openraft would when it starts: but before it starts, while the node may not take part yet.
    /// Leaves it to openraft if the log begins after what was applied.
    pub async fn replay(&self, log: &LogStore) -> io::Result<()> {
        let (first, end) = log.committed_range();
        loop {
            let next = self.shared.head.applied_next();
            if next < first || next >= end {
                return Ok(());
            }
            let entries = log.read(next, end, MAX_APPLY_BYTES).await?;
            let batch: Vec<CoreEntry> = entries.into_iter().map(core_entry).collect();
            if batch.is_empty() {
                return Ok(());
            }
            // Nobody else makes room yet.
            self.room(Duration::ZERO).await?;
            let nobody_waits = batch.iter().map(|_| None).collect();
            self.apply_batch(&batch, nobody_waits).await?;
        }
    }

    /// Applies nothing any more, and has no read of the rows succeed, from when this returns: they are about to be removed.
    pub fn retire(&self) {
        self.shared.applier.lock().retired = true;
        self.shared.head.retired.store(true, Ordering::Release);
    }

    /// Where watchers subscribe.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    /// What readers need.
    pub fn head(&self) -> &Arc<Head> {
        &self.shared.head
    }

    /// Looks at the machine between two batches.
    pub fn with_machine<T>(&self, look: impl FnOnce(&Machine, &dyn Engine) -> T) -> T {
        let applier = self.shared.applier.lock();
        look(&applier.machine, &*self.shared.engine)
    }

    /// The same, if no batch is being applied right now: for who comes again anyway and must not hold up a thread.
    pub fn try_with_machine<T>(&self, look: impl FnOnce(&Machine, &dyn Engine) -> T) -> Option<T> {
        let applier = self.shared.applier.try_lock()?;
        Some(look(&applier.machine, &*self.shared.engine))
    }

    /// Waits until the write buffer has room: a write that finds none would block this thread. After `patience` it makes room.
    async fn room(&self, patience: Duration) -> io::Result<()> {
        let Some(buffer) = &self.shared.buffer else {
            return Ok(());
        };
        while !buffer.room(patience).await {
            // Whoever should make room does not, or is slow. If it fails, so does the replica.
            let buffer = buffer.clone();
            Runtime::spawn_blocking(move || buffer.relieve())
                .await?
                .map_err(io::Error::other)?;
        }
        Ok(())
    }

    async fn apply_batch(&self, entries: &[CoreEntry], responders: Vec<Option<Responder>>) -> io::Result<()> {
        let mut responders = responders.into_iter();
        let mut rest = entries;
        while !rest.is_empty() {
            let until = self.until_mark(rest);
            let taken = self.apply_some(&rest[..until], &mut responders)?;
            rest = &rest[taken..];
            self.reach_marks().await?;
        }
        Ok(())
    }

    /// The hash of the state after the entry at `index`, which is waited for; 0: of the present state. Two replicas that are asked for the same
    /// index must give the same hash, however busy they are.
    pub async fn hash_at(&self, index: u64) -> io::Result<StateHash> {
        let (told, hash) = oneshot::channel();
        let mark = Mark { index, told };
        {
            // Nothing is applied meanwhile.
            let applier = self.shared.applier.lock();
            let applied = applier.machine.applied().map_or(0, |p| p.index);
            if applied > index && index > 0 {
                return Ok(StateHash { applied, hash: None });
            }
            if applied < index {
                self.shared.marks.lock().push(mark);
            } else {
                drop(self.start_hash(vec![mark]));
            }
        }
        hash.await
            .map_err(|_| io::Error::other("the state cannot be read, or the replica has ended"))
    }

    /// How many of these entries there are up to the next one after which the state is wanted.
    fn until_mark(&self, entries: &[CoreEntry]) -> usize {
        let marks = self.shared.marks.lock();
        let first = entries.first().map_or(0, |entry| entry.position.index);
        let wanted = marks
            .iter()
            .map(|mark| mark.index)
            .filter(|index| *index >= first);
        let ends = wanted.map(|index| (index - first + 1) as usize);
        ends.min().unwrap_or(entries.len()).min(entries.len())
    }

    /// Has the state hashed if somebody wants that, and goes on when it is held.
    async fn reach_marks(&self) -> io::Result<()> {
        let applied = self.shared.head.applied_next().saturating_sub(1);
        let due: Vec<Mark> = {
            let mut marks = self.shared.marks.lock();
            marks.retain(|mark| !mark.told.is_closed());
            marks.extract_if(.., |mark| mark.index <= applied).collect()
        };
        let (reached, passed): (Vec<Mark>, Vec<Mark>) =
            due.into_iter().partition(|mark| mark.index == applied);
        for mark in passed {
            // Whoever asked may have gone.
            let _ = mark.told.send(StateHash { applied, hash: None });
        }
        if reached.is_empty() {
            return Ok(());
        }
        self.start_hash(reached)
            .await
            .map_err(|_| io::Error::other("the state cannot be held for its hash"))
    }

    /// Has the present state hashed in another thread. Done when that thread holds the state; who does not wait for that may be told that
    /// it was another one.
    fn start_hash(&self, marks: Vec<Mark>) -> oneshot::Receiver<()> {
        let (hold, held) = oneshot::channel();
        let (shard, engine) = (self.shared.shard, self.shared.engine.clone());
        let hashing = move || {
            let state = engine.snapshot();
            let _ = hold.send(());
            match state_hash(&*state, shard) {
                Ok((position, hash)) => {
                    let applied = position.map_or(0, |p| p.index);
                    for mark in marks {
                        let right = mark.index == 0 || mark.index == applied;
                        let hash = right.then_some(hash);
                        let _ = mark.told.send(StateHash { applied, hash });
                    }
                }
                Err(error) => tracing::error!(%shard, "the replica's state cannot be hashed: {error}"),
            }
        };
        // It goes on by itself.
        drop(Runtime::spawn_blocking(hashing));
        held
    }

    /// Applies the first entries, as many as the machine takes at a time, and returns how many those were.
    fn apply_some(
        &self,
        entries: &[CoreEntry],
        responders: &mut impl Iterator<Item = Option<Responder>>,
    ) -> io::Result<usize> {
        let started = Instant::now();
        let shared = &*self.shared;
        let mut applier = shared.applier.lock();
        let Applier { retired, machine } = &mut *applier;
        if *retired {
            return Err(retired_error());
        }
        let applied = machine
            .apply(&*shared.engine, entries)
            .map_err(io::Error::other)?;
        if machine.is_restoring() || applied.restored {
            shared.head.restoring.store(true, Ordering::Release);
        }
        shared.engine.write(applied.batch).map_err(io::Error::other)?;
        let expired = applied
            .events
            .iter()
            .filter(|event| event.kind == EventKind::Expire)
            .count();
        if expired > 0 {
            shared.metrics.expired(expired as u64);
        }
        if applied.restored {
            // As if a snapshot had been installed; who follows is not told that nothing happened until then.
            shared.hub.reset(applied.revision);
        } else {
            shared.hub.publish(applied.revision, applied.events.into());
        }
        shared.head.publish(machine);
        if applied.restored {
            shared.head.installs.fetch_add(2, Ordering::AcqRel);
            shared.head.restoring.store(false, Ordering::Release);
        }
        drop(applier);
        let taken = applied.replies.len();
        let mut commands = 0;
        // The replies come first in the zip: it must not take the responder of an entry that is left.
        for (replies, responder) in applied.replies.into_iter().zip(responders) {
            commands += replies.len();
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        shared.metrics.applied(commands, started.elapsed());
        Ok(taken)
    }

    fn durable_meta(&self) -> io::Result<Option<of::SnapshotMetaOf<TypeConfig>>> {
        if kvsvr_core::mutant!("purge-beyond-flushed") {
            return meta_of(&*self.shared.engine, self.shared.shard);
        }
        meta_of(&Durable(&*self.shared.engine), self.shared.shard)
    }

    fn snapshot(&self) -> io::Result<Option<Snapshot>> {
        Ok(self.durable_meta()?.map(|meta| Snapshot {
            meta,
            snapshot: SnapshotData::Local,
        }))
    }
}

fn retired_error() -> io::Error {
    io::Error::other("this replica was stopped for good")
}

/// An entry as the state machine takes it.
pub(crate) fn core_entry(entry: Entry) -> CoreEntry {
    let position = convert::position(&entry.log_id);
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        #[cfg(feature = "mutants")]
        EntryPayload::Normal(batch) => Payload::Batch(crate::mutants::stamped_here(batch.0)),
        #[cfg(not(feature = "mutants"))]
        EntryPayload::Normal(batch) => Payload::Batch(batch.0),
        EntryPayload::Membership(membership) => {
            let stored = StoredMembership::new(Some(entry.log_id), membership);
            Payload::Membership(convert::pb_stored_membership(&stored).encode_to_vec().into())
        }
    };
    CoreEntry { position, payload }
}

fn payload_len(entry: &CoreEntry) -> usize {
    match &entry.payload {
        Payload::Batch(bytes) | Payload::Membership(bytes) => bytes.len(),
        Payload::Blank => 0,
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applier = self.shared.applier.lock();
        let machine = &applier.machine;
        let membership = convert::decode_stored_membership(machine.membership()).map_err(io::Error::other)?;
        Ok((machine.applied().map(convert::log_id), membership))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut entries = entries;
        while let Some(first) = entries.try_next().await? {
            let mut batch = Vec::new();
            let mut responders = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some((entry, responder)) = next {
                let entry = core_entry(entry);
                bytes += payload_len(&entry);
                batch.push(entry);
                responders.push(responder);
                let full = bytes >= MAX_APPLY_BYTES || batch.len() >= MAX_APPLY_ENTRIES;
                // Only what is there already: waiting for more would delay these.
                next = if full {
                    None
                } else {
                    entries.next().now_or_never().flatten().transpose()?
                };
            }
            self.room(BUFFER_ROOM_PATIENCE).await?;
            #[cfg(feature = "mutants")]
            crate::mutants::claim_applied(&*self.shared.engine, self.shared.shard, &batch).await;
            self.apply_batch(&batch, responders).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<of::CommittedLeaderIdOf<TypeConfig>, u64, super::types::PeerNode>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let SnapshotData::Staged(staged) = snapshot else {
            // openraft gives back our own snapshot when the log starts after it: the state is already there.
            return Ok(());
        };
        let shared = &*self.shared;
        // Who retires it waits for what is staged to be let go before anything is removed.
        if shared.applier.lock().retired {
            return Err(retired_error());
        }
        shared.head.installs.fetch_add(1, Ordering::AcqRel);
        staged
            .install(shared.engine.clone())
            .await
            .map_err(io::Error::other)?;
        let machine = Machine::load(shared.shard, &*shared.engine).map_err(io::Error::other)?;
        if machine.applied().map(convert::log_id) != meta.last_log_id {
            return Err(io::Error::other(format!(
                "shard {}: the installed snapshot is at {:?}, but was announced as {:?}",
                shared.shard,
                machine.applied(),
                meta.last_log_id
            )));
        }
        {
            let mut applier = shared.applier.lock();
            applier.machine = machine;
            if !kvsvr_core::mutant!("watch-gap-at-snapshot") {
                shared.hub.reset(applier.machine.revision());
            }
            shared.head.publish(&applier.machine);
            let restoring = applier.machine.is_restoring();
            shared.head.restoring.store(restoring, Ordering::Release);
            shared.head.installs.fetch_add(1, Ordering::AcqRel);
        }
        self.reach_marks().await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.snapshot()
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.snapshot()?
            .ok_or_else(|| io::Error::other("nothing has been flushed yet"))
    }
}
