//! A start applies the log, and readers see what it applied.

use futures::stream;
use kvsvr_core::{keys, rows::DataRow};
use openraft::storage::RaftStateMachine;
use tokio::{sync::oneshot, time::Instant};

use super::*;
use crate::{
    buffer::BufferedEngine,
    disk::mem::MemDisk,
    metrics::Metrics,
    raft::{apply::StateMachine, log::LogStore},
    store::StoreId,
    wal::{EntryKind, EntryRecord, Wal, WalOptions},
};

const LEASE: u64 = 7;

/// A node's engine, as in production: write buffer with row cache, what is durable.
struct Layers {
    engine: Arc<BufferedEngine>,
    durable: Arc<MemEngine>,
}

impl Layers {
    fn over(durable: MemEngine) -> Self {
        Self::with_buffer(durable, 1 << 20)
    }

    fn with_buffer(durable: MemEngine, buffer_bytes: usize) -> Self {
        let durable = Arc::new(durable);
        let engine = Arc::new(BufferedEngine::new(durable.clone(), buffer_bytes, 1 << 20));
        Self { engine, durable }
    }

    fn load(&self) -> StateMachine {
        let metrics = Metrics::new().shard(SHARD);
        StateMachine::load(
            SHARD,
            self.engine.clone(),
            Some(self.engine.clone()),
            1 << 20,
            metrics,
        )
        .unwrap()
    }

    fn value(&self) -> Option<Bytes> {
        let key = keys::data_key(SHARD, &Partition::local("user"), b"lock");
        let row = self.engine.get(Cf::Data, &key).unwrap();
        row.map(|row| DataRow::decode(&row).unwrap().value)
    }
}

fn record(index: u64, op: Op) -> EntryRecord {
    let command = Command {
        partition: Partition::local("user"),
        session: None,
        op,
    };
    EntryRecord {
        position: at(index),
        kind: EntryKind::Batch,
        payload: encode_batch(1_000 + index, &[encode_command(&command)]),
    }
}

async fn apply_one(machine: &mut StateMachine, index: u64, op: Op) {
    let entry = convert::entry(record(index, op)).unwrap();
    machine.apply(stream::iter([Ok((entry, None))])).await.unwrap();
}

fn put(value: &'static str, lease: u64) -> Op {
    Op::Put {
        key: Bytes::from_static(b"lock"),
        value: Bytes::from_static(value.as_bytes()),
        ttl_ms: 0,
        lease,
    }
}

/// To load the state is to read the keys that are attached to leases: that must not leave them in the row cache.
#[tokio::test]
async fn a_replayed_change_of_a_leased_key_is_seen() {
    let before = Layers::over(MemEngine::new());
    let mut survivor = before.load();
    let grant = Op::LeaseGrant {
        id: LEASE,
        ttl_ms: 60_000,
    };
    apply_one(&mut survivor, 0, grant).await;
    apply_one(&mut survivor, 1, put("old", LEASE)).await;
    before.engine.flush().unwrap();
    assert_eq!(before.value().as_deref(), Some(&b"old"[..]));

    let after = Layers::over(before.durable.crash());
    let mut machine = after.load();
    apply_one(&mut machine, 2, put("new", 0)).await;
    assert_eq!(after.value().as_deref(), Some(&b"new"[..]));
    apply_one(&mut machine, 3, put("newest", 0)).await;
    assert_eq!(after.value().as_deref(), Some(&b"newest"[..]));

    apply_one(&mut survivor, 2, put("new", 0)).await;
    apply_one(&mut survivor, 3, put("newest", 0)).await;
    let hash = |layers: &Layers| state_hash(&*layers.engine, SHARD).unwrap();
    assert_eq!(hash(&after), hash(&before));
}

/// Replicas that are asked for the state at one index tell the same, in whatever batches they apply; a state that is gone is not told.
#[tokio::test]
async fn the_state_at_an_index_has_one_hash() {
    let entries = |indexes: std::ops::Range<u64>| {
        let entries = indexes.map(|index| {
            let value = ["a", "b", "c"][(index % 3) as usize];
            Ok((convert::entry(record(index, put(value, 0))).unwrap(), None))
        });
        stream::iter(entries.collect::<Vec<_>>())
    };
    let mut hashes = Vec::new();
    for batches in [[0..4, 4..9, 9..9], [0..1, 1..9, 9..9], [0..6, 6..7, 7..9]] {
        let layers = Layers::over(MemEngine::new());
        let mut machine = layers.load();
        let other = machine.clone();
        let asked =
            tokio::spawn(async move { tokio::join!(other.hash_at(5), other.hash_at(7), other.hash_at(5)) });
        tokio::task::yield_now().await;
        for batch in batches {
            machine.apply(entries(batch)).await.unwrap();
        }
        let (five, seven, again) = asked.await.unwrap();
        let (five, seven, again) = (five.unwrap(), seven.unwrap(), again.unwrap());
        assert_eq!((five.applied, seven.applied, again), (5, 7, five));
        assert!(five.hash.is_some() && five.hash != seven.hash);
        let gone = machine.hash_at(3).await.unwrap();
        assert_eq!((gone.applied, gone.hash), (8, None));
        let now = machine.hash_at(0).await.unwrap();
        assert_eq!(now, machine.hash_at(8).await.unwrap());
        assert_eq!(
            now.hash,
            state_hash(&*layers.engine, SHARD).ok().map(|(_, hash)| hash)
        );
        hashes.push((five, seven, now));
    }
    assert!(hashes.iter().all(|told| *told == hashes[0]), "{hashes:?}");
}

/// What is committed and nothing else; and it waits for nobody, since nobody else makes room in the write buffer during a start.
#[tokio::test(start_paused = true)]
async fn a_replay_stops_at_what_is_committed_and_makes_room_itself() {
    let options = WalOptions::new(StoreId([7; 16]), 1, Arc::new(|_| {}));
    let (wal, _) = Wal::open(Arc::new(MemDisk::new(1)), options).await.unwrap();
    let large = || Op::Put {
        key: Bytes::from_static(b"lock"),
        value: Bytes::from(vec![7; 1 << 20]),
        ttl_ms: 0,
        lease: 0,
    };
    let records = (0..30).map(|index| record(index, large())).collect();
    let (sender, durable) = oneshot::channel();
    wal.append(SHARD, records, Box::new(move |done| sender.send(done).unwrap()));
    durable.await.unwrap().unwrap();
    wal.save_committed(SHARD, Some(at(19)));

    let layers = Layers::with_buffer(MemEngine::new(), 64 << 10);
    let machine = layers.load();
    let started = Instant::now();
    machine.replay(&LogStore::new(wal, SHARD)).await.unwrap();
    assert_eq!(machine.head().applied_next(), 20);
    assert_eq!(machine.head().revision(), 20);
    assert_eq!(started.elapsed(), Duration::ZERO, "in virtual time");
}
