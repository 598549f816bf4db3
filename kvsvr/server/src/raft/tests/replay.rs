//! A start applies the log past the row cache, and readers see what it applied.

use futures::stream;
use kvsvr_core::{keys, rows::DataRow};
use openraft::storage::RaftStateMachine;

use super::*;
use crate::{
    buffer::BufferedEngine,
    cache::CachedEngine,
    metrics::Metrics,
    raft::apply::StateMachine,
    wal::{EntryKind, EntryRecord},
};

const LEASE: u64 = 7;

/// A node's engine, as in production: row cache, write buffer, what is durable.
struct Layers {
    engine: Arc<CachedEngine>,
    buffer: Arc<BufferedEngine>,
    durable: Arc<MemEngine>,
}

impl Layers {
    fn over(durable: MemEngine) -> Self {
        let durable = Arc::new(durable);
        let buffer = Arc::new(BufferedEngine::new(durable.clone(), 1 << 20));
        let engine = Arc::new(CachedEngine::new(buffer.clone(), 1 << 20));
        Self {
            engine,
            buffer,
            durable,
        }
    }

    fn load(&self) -> StateMachine {
        let metrics = Metrics::new().shard(SHARD);
        StateMachine::load(
            SHARD,
            self.engine.clone(),
            Some(self.buffer.clone()),
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

async fn apply_one(machine: &mut StateMachine, index: u64, op: Op) {
    let command = Command {
        partition: Partition::local("user"),
        session: None,
        op,
    };
    let record = EntryRecord {
        position: at(index),
        kind: EntryKind::Batch,
        payload: encode_batch(1_000 + index, &[encode_command(&command)]),
    };
    let entry = convert::entry(record).unwrap();
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
    survivor.end_replay();
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
    machine.end_replay();
    assert_eq!(after.value().as_deref(), Some(&b"new"[..]));
    apply_one(&mut machine, 3, put("newest", 0)).await;
    assert_eq!(after.value().as_deref(), Some(&b"newest"[..]));

    apply_one(&mut survivor, 2, put("new", 0)).await;
    apply_one(&mut survivor, 3, put("newest", 0)).await;
    let hash = |layers: &Layers| state_hash(&*layers.engine, SHARD).unwrap();
    assert_eq!(hash(&after), hash(&before));
}
