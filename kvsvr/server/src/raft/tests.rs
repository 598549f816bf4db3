//! Tests of the glue to openraft, and what they share: a source of snapshots and a wire in memory.
//!
//! Time is virtual (`start_paused`): a pause costs nothing, and a deadline passes when nothing else can happen.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread::{self, ThreadId},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr_client::transport::{
    Class, Method, ReceiveMessages, StreamReceiver, StreamSender, Transport, TransportError,
};
use kvsvr_core::{
    codec::{encode_batch, encode_command},
    command::{Command, Op},
    engine::{Cf, Engine, EngineError, EngineRead, Scan, Visit},
    hash::state_hash,
    machine::{Entry as CoreEntry, Machine, Payload},
    mem::MemEngine,
    types::{LogPosition, Partition, ShardId},
};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;

use super::{
    convert,
    snapshot::Checkpoints,
    types::{Membership, PeerNode, StoredMembership},
};

mod conformance;
mod convert_tests;
mod crashes;
mod pump;
mod purge;
mod replay;
mod sides;
mod space;
mod transfer;

const SHARD: ShardId = ShardId(3);
const OTHER_SHARD: ShardId = ShardId(4);

fn peer_node(id: u64) -> PeerNode {
    PeerNode {
        address: format!("n{id}:1"),
        store_id: format!("store-{id}"),
        incarnation: 0,
    }
}

fn membership(ids: impl IntoIterator<Item = u64>) -> Membership {
    let nodes: BTreeMap<u64, PeerNode> = ids.into_iter().map(|id| (id, peer_node(id))).collect();
    Membership::new(vec![nodes.keys().copied().collect()], nodes).unwrap()
}

fn at(index: u64) -> LogPosition {
    LogPosition {
        index,
        term: 2,
        node: 1,
    }
}

/// The log of a shard: a membership, then one put for each entry. Values differ with `seed`.
fn entry(index: u64, seed: u64) -> CoreEntry {
    let position = at(index);
    if index == 0 {
        let stored = StoredMembership::new(Some(convert::log_id(position)), membership([1, 2, 3]));
        let bytes = convert::pb_stored_membership(&stored).encode_to_vec();
        return CoreEntry {
            position,
            payload: Payload::Membership(bytes.into()),
        };
    }
    let put = Op::Put {
        key: Bytes::from(format!("key-{:03}", index % 50)),
        value: Bytes::from(vec![(index ^ seed) as u8; 40]),
        ttl_ms: if index.is_multiple_of(7) { 1_000_000 } else { 0 },
        lease: 0,
    };
    let command = Command {
        partition: Partition::local(format!("user-{}", index % 3)),
        session: None,
        op: put,
    };
    let batch = encode_batch(1_000 + index, &[encode_command(&command)]);
    CoreEntry {
        position,
        payload: Payload::Batch(batch),
    }
}

/// Applies the entries up to `last` that are not applied yet, and flushes.
fn apply(engine: &dyn Engine, shard: ShardId, last: u64, seed: u64) {
    let mut machine = Machine::load(shard, engine).unwrap();
    let next = machine.applied().map_or(0, |p| p.index + 1);
    let entries: Vec<CoreEntry> = (next..=last).map(|index| entry(index, seed)).collect();
    let applied = machine.apply(engine, &entries).unwrap();
    engine.write(applied.batch).unwrap();
    engine.flush().unwrap();
}

/// Runs once, on the engine.
type Hook = Box<dyn FnOnce(&MemEngine) + Send>;

/// Checkpoints of a [`MemEngine`]: what it would have after a crash.
#[derive(Default)]
struct MemCheckpoints {
    engine: Mutex<Arc<MemEngine>>,
    named: Mutex<BTreeMap<String, Arc<MemEngine>>>,
    /// Runs before a checkpoint is made.
    before_create: Mutex<Option<Hook>>,
    /// The thread of the async tasks, on which none may be opened.
    not_on: Option<ThreadId>,
}

struct Opened(Arc<MemEngine>);

impl EngineRead for Opened {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(cf, key)
    }
    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.0.scan(cf, range, visit)
    }
}

impl Checkpoints for MemCheckpoints {
    fn create(&self, name: &str) -> Result<(), EngineError> {
        let engine = self.engine.lock().clone();
        if let Some(hook) = self.before_create.lock().take() {
            hook(&engine);
        }
        let replaced = self
            .named
            .lock()
            .insert(name.to_owned(), Arc::new(engine.crash()));
        assert!(replaced.is_none(), "checkpoint {name} was there already");
        Ok(())
    }
    fn open(&self, name: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError> {
        assert_ne!(self.not_on, Some(thread::current().id()), "opening blocks");
        let found = self.named.lock().get(name).cloned();
        Ok(found.map(|engine| Box::new(Opened(engine)) as _))
    }
    fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.named.lock().remove(name);
        Ok(())
    }
    fn list(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.named.lock().keys().cloned().collect())
    }
}

fn broken(reason: &str) -> TransportError {
    TransportError::Broken {
        address: "n2:1".into(),
        reason: reason.into(),
    }
}

type Answers = mpsc::Sender<Result<Bytes, TransportError>>;

/// The peer's end of a stream that was opened.
struct PeerEnd {
    requests: mpsc::Receiver<Bytes>,
    answers: Answers,
}

struct AnswerStream(mpsc::Receiver<Result<Bytes, TransportError>>);

impl ReceiveMessages for AnswerStream {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        Box::pin(self.0.recv())
    }
}

/// A [`Transport`] that hands the other end of each stream to the test, and answers calls with what the test says.
struct Wire {
    opened: mpsc::UnboundedSender<(Class, Method, PeerEnd)>,
    /// Messages that a stream holds before its sender waits.
    queue: usize,
    calls: Mutex<Vec<(Class, Method, Bytes, Duration)>>,
    answer: Mutex<Option<Result<Bytes, TransportError>>>,
}

impl Wire {
    fn new(queue: usize) -> (Arc<Self>, mpsc::UnboundedReceiver<(Class, Method, PeerEnd)>) {
        let (opened, ends) = mpsc::unbounded_channel();
        let wire = Wire {
            opened,
            queue,
            calls: Mutex::default(),
            answer: Mutex::default(),
        };
        (Arc::new(wire), ends)
    }
}

impl Transport for Wire {
    fn call(
        &self,
        _address: &str,
        class: Class,
        method: Method,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.calls.lock().push((class, method, request, deadline));
        let answer = self
            .answer
            .lock()
            .clone()
            .unwrap_or_else(|| Err(broken("nobody answers")));
        Box::pin(async { answer })
    }

    fn open(
        &self,
        _address: &str,
        class: Class,
        method: Method,
    ) -> BoxFuture<'static, Result<(StreamSender, StreamReceiver), TransportError>> {
        let (sender, requests) = mpsc::channel(self.queue);
        let (answers, receiver) = mpsc::channel(self.queue);
        let sent = self.opened.send((class, method, PeerEnd { requests, answers }));
        Box::pin(async move {
            sent.map_err(|_| broken("the peer is gone"))?;
            Ok((sender, StreamReceiver::new(AnswerStream(receiver))))
        })
    }
}

fn hash(engine: &MemEngine, shard: ShardId) -> (Option<LogPosition>, u64) {
    state_hash(engine, shard).unwrap()
}
