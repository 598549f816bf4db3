//! What a put costs a node from the committed log entry to RocksDB's files: state machine, row cache, write buffer, flush, and the ring of
//! events. No network, no Raft, no log. docs/performance.md has the figures.
//!
//! `cargo test --release -p kvsvr --lib apply_times -- --ignored --nocapture`; with `--no-default-features` without RocksDB and on the
//! system's allocator.

use std::{
    fs,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr_core::{
    codec::{encode_batch, encode_command},
    command::{Command, Op, SessionSeq},
    engine::{Cf, EachRow, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, WriteBatch},
    machine::{Entry, Machine, Payload},
    types::{LogPosition, Partition, Revision, ShardId},
};

use crate::{
    buffer::BufferedEngine,
    hub::{EventFilter, History, Hub, Replayed, SubscriptionError},
    limits::{BUFFER_BYTES, HUB_RING_BYTES, ROW_CACHE_BYTES},
    test_keys::{KEYS, Random},
};

// As the node has it.
#[cfg(feature = "grpc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SHARD: ShardId = ShardId(1);
const PUTS: u64 = 1_000_000;
const VALUE: usize = 256;

/// Takes everything and keeps nothing: what is left to measure is above the engine.
struct Nothing;

impl EngineRead for Nothing {
    fn get(&self, _: Cf, _: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(None)
    }

    fn scan(&self, _: Cf, _: Scan<'_>, _: Visit<'_>) -> Result<(), EngineError> {
        Ok(())
    }
}

impl EngineSnapshot for Nothing {}

impl Engine for Nothing {
    fn write(&self, _: WriteBatch) -> Result<(), EngineError> {
        Ok(())
    }

    fn write_rows(&self, rows: EachRow<'_>, _: usize) -> Result<(), EngineError> {
        let mut bytes = 0;
        rows(&mut |(_, key, row)| bytes += key.len() + row.map_or(0, <[u8]>::len));
        std::hint::black_box(bytes);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        Box::new(Nothing)
    }

    fn flush(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn get_durable(&self, _: Cf, _: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(None)
    }

    fn set_garbage_floor(&self, _: ShardId, _: Revision) {}
}

/// Nobody asks it.
struct NoHistory;

impl History for NoHistory {
    fn replay<'a>(
        &'a self,
        _: Revision,
        _: usize,
        _: &'a EventFilter,
    ) -> BoxFuture<'a, Result<Replayed, SubscriptionError>> {
        unreachable!("nobody subscribes")
    }
}

/// Processor time in milliseconds: of the process, or of this thread.
fn processor_ms(of: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{of}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    // The kernel counts in hundredths of a second for everybody.
    ticks.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}

/// Log entries of puts on random keys, as a client library with one session sends them.
struct Puts {
    random: Random,
    index: u64,
    seq: u64,
    in_flight: u64,
}

impl Puts {
    fn command(&self, key: u64, session: Option<SessionSeq>, op: Op) -> Bytes {
        encode_command(&Command {
            partition: Partition {
                region: 0,
                name: format!("user{key:08}").into(),
            },
            session,
            op,
        })
    }

    fn entry(&mut self, commands: &[Bytes]) -> Entry {
        self.index += 1;
        Entry {
            position: LogPosition {
                index: self.index,
                term: 1,
                node: 1,
            },
            payload: Payload::Batch(encode_batch(1_000 + self.index, commands)),
        }
    }

    fn puts(&mut self, keys: impl Iterator<Item = u64>) -> Entry {
        let commands: Vec<Bytes> = keys
            .map(|key| {
                self.seq += 1;
                let session = SessionSeq {
                    session: 1,
                    seq: self.seq,
                    acked_below: self.seq.saturating_sub(self.in_flight).max(1),
                };
                let op = Op::Put {
                    key: Bytes::from_static(b"profile"),
                    value: vec![self.seq as u8; VALUE].into(),
                    ttl_ms: 0,
                    lease: 0,
                };
                self.command(key, Some(session), op)
            })
            .collect();
        self.entry(&commands)
    }
}

/// A replica without Raft.
struct Replica {
    machine: Machine,
    engine: Arc<BufferedEngine>,
    hub: Arc<Hub>,
    flushing: Option<JoinHandle<()>>,
    flushes: usize,
}

impl Replica {
    fn new(inner: Arc<dyn Engine>) -> Self {
        let engine = Arc::new(BufferedEngine::new(inner, BUFFER_BYTES, ROW_CACHE_BYTES));
        Self {
            machine: Machine::load(SHARD, &*engine).unwrap(),
            engine,
            hub: Hub::new(Arc::new(NoHistory), 0, HUB_RING_BYTES),
            flushing: None,
            flushes: 0,
        }
    }

    fn apply(&mut self, entries: &[Entry]) {
        let applied = self.machine.apply(&*self.engine, entries).unwrap();
        assert_eq!(applied.replies.len(), entries.len());
        self.engine.write(applied.batch).unwrap();
        self.hub.publish(applied.revision, applied.events.into());
        if self.engine.needs_flush() && self.flushing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.wait();
            self.flushes += 1;
            let engine = self.engine.clone();
            self.flushing = Some(thread::spawn(move || engine.flush().unwrap()));
        }
    }

    fn wait(&mut self) {
        if let Some(flushing) = self.flushing.take() {
            flushing.join().unwrap();
        }
    }
}

fn measure(name: &str, inner: Arc<dyn Engine>, per_entry: u64) {
    let mut puts = Puts {
        random: Random(88_172_645_463_325_252),
        index: 0,
        seq: 0,
        in_flight: 2 * per_entry,
    };
    let mut replica = Replica::new(inner);
    let open = puts.command(0, None, Op::SessionOpen);
    let open = puts.entry(&[open]);
    replica.apply(&[open]);
    for first in (0..KEYS).step_by(500) {
        let entry = puts.puts(first..first + 500);
        replica.apply(&[entry]);
    }
    let (mut all, mut applying, mut made, mut took) = (0, 0, 0, 0);
    // In parts, so that the log needs little memory; making it is not counted.
    while made < PUTS {
        let entries: Vec<Entry> = (0..50_000 / per_entry)
            .map(|_| {
                let keys: Vec<u64> = (0..per_entry).map(|_| puts.random.next()).collect();
                puts.puts(keys.into_iter())
            })
            .collect();
        made += entries.len() as u64 * per_entry;
        let before = (processor_ms("self"), processor_ms("thread-self"), Instant::now());
        for entry in &entries {
            replica.apply(std::slice::from_ref(entry));
        }
        if made >= PUTS {
            replica.wait();
        }
        all += processor_ms("self") - before.0;
        applying += processor_ms("thread-self") - before.1;
        took += before.2.elapsed().as_millis();
    }
    let per_put = |ms: u64| ms as f64 * 1000.0 / made as f64;
    println!(
        "{name}, {per_entry} puts in an entry: {:.2} us of processor time for each put, {:.2} of them to apply; {} flushes, {took} ms",
        per_put(all),
        per_put(applying),
        replica.flushes,
    );
}

#[test]
#[ignore = "prints times; run it alone and in a release build"]
fn times_without_an_engine() {
    for per_entry in [32, 500, 500] {
        measure("no engine", Arc::new(Nothing), per_entry);
    }
}

#[cfg(feature = "rocks")]
#[test]
#[ignore = "prints times; run it alone and in a release build"]
fn times_with_rocksdb() {
    for per_entry in [32, 500, 500] {
        let dir = tempfile::tempdir().unwrap();
        let options = crate::rocks::RocksOptions::default();
        let engine = crate::rocks::RocksEngine::open(dir.path(), &options).unwrap();
        measure("RocksDB", engine, per_entry);
    }
}
