//! What a leader keeps of its log for a member that is being sent a snapshot.

use kvsvr_client::transport::STREAM_QUEUE;
use kvsvr_proto::v1 as pb;
use tokio::time::Instant;

use super::*;
use crate::{
    buffer::BufferedEngine,
    config::Timing,
    disk::{DynDisk, mem::MemDisk},
    limits::{PURGE_PATIENCE, SNAPSHOT_PATIENCE},
    metrics::Metrics,
    raft::{
        network::Peers,
        snapshot::{SnapshotSender, TransferStatus},
    },
    shard::{Shard, ShardParts},
    store::StoreId,
    wal::{Wal, WalOptions},
};

/// A little more than this many bytes make one entry.
const VALUE: usize = 1 << 10;
/// Three entries.
const KEEP: u64 = 4 * VALUE as u64;

/// A group of one voter; node 2 is to become a learner.
struct Leader {
    shard: Arc<Shard>,
    engine: Arc<MemEngine>,
    ends: mpsc::UnboundedReceiver<(Class, Method, PeerEnd)>,
}

impl Leader {
    async fn start() -> Self {
        let disk: DynDisk = Arc::new(MemDisk::new(1));
        let options = WalOptions::new(StoreId([7; 16]), 1, Arc::new(|_| {}));
        let (wal, _) = Wal::open(disk.clone(), options).await.unwrap();
        let engine = Arc::new(MemEngine::new());
        let checkpoints = Arc::new(MemCheckpoints {
            engine: Mutex::new(engine.clone()),
            not_on: Some(thread::current().id()),
            ..Default::default()
        });
        let (metrics, transfers) = (Metrics::new(), Arc::new(TransferStatus::default()));
        let sender = SnapshotSender::new(checkpoints, "a".into(), transfers.clone(), metrics.clone());
        let (transport, ends) = Wire::new(STREAM_QUEUE);
        let parts = ShardParts {
            incarnation: 0,
            id: SHARD,
            wal,
            engine: engine.clone(),
            // Stays empty: what this test flushes is the engine itself.
            buffer: Arc::new(BufferedEngine::new(engine.clone(), 1 << 20, 1 << 20)),
            disk,
            peers: Peers {
                transport,
                cluster_id: "c".into(),
                node_id: 1,
                store_id: "store-1".into(),
            },
            snapshots: Arc::new(sender),
            transfers,
            timing: Timing::FAST,
            metrics: metrics.shard(SHARD),
            hub_bytes: 1 << 20,
        };
        let machine = Shard::recover(&parts).await.unwrap();
        let shard = Shard::start(parts, machine, |_| {}).await.unwrap();
        let members = BTreeMap::from([(1, peer_node(1))]);
        shard.raft().initialize(members).await.unwrap();
        let elected = shard.raft().wait(None);
        elected
            .metrics(|m| m.current_leader == Some(1), "leads")
            .await
            .unwrap();
        Self { shard, engine, ends }
    }

    async fn put(&self) {
        let put = Op::Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::from(vec![1; VALUE]),
            ttl_ms: 0,
            lease: 0,
        };
        let command = encode_command(&Command {
            partition: Partition::local("user"),
            session: None,
            op: put,
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        self.shard.propose_one(command, deadline).await.unwrap();
    }

    /// Writes entries, flushes, and purges what need not be kept. Returns the last index that is gone.
    async fn write(&self, entries: u64) -> u64 {
        for _ in 0..entries {
            self.put().await;
        }
        self.engine.flush().unwrap();
        self.shard.purge(KEEP).await.unwrap();
        // Raft purges before it takes this.
        self.put().await;
        self.shard.status().purged_index
    }

    /// The learner lacks purged log: it is sent a snapshot. Returns its end of the transfer and the snapshot's index.
    async fn begin_transfer(&mut self) -> (PeerEnd, u64) {
        assert!(self.write(20).await > 0, "the learner needs a snapshot");
        self.shard
            .raft()
            .add_learner(2, peer_node(2), false)
            .await
            .unwrap();
        let mut end = loop {
            match self.ends.recv().await.unwrap() {
                (_, Method::RaftSnapshot, end) => break end,
                (.., end) => drop(tokio::spawn(lack_all(end))),
            }
        };
        let mut index = 0;
        for _ in 0..2 {
            let message = pb::SnapshotChunk::decode(end.requests.recv().await.unwrap()).unwrap();
            let offer = message.offer.unwrap();
            index = offer.last_log_id.map_or(0, |id| id.index);
            answer(&end).await;
        }
        (end, index)
    }
}

/// Has no entry that is asked for.
async fn lack_all(mut end: PeerEnd) {
    while let Some(request) = end.requests.recv().await {
        let mut conflict = pb::AppendResponse {
            log_id: pb::AppendRequest::decode(request).unwrap().prev_log_id,
            ..Default::default()
        };
        conflict.set_kind(pb::append_response::Kind::Conflict);
        let _ = end.answers.send(Ok(conflict.encode_to_vec().into())).await;
    }
}

async fn answer(end: &PeerEnd) {
    let ack = pb::SnapshotAck::default().encode_to_vec();
    end.answers.send(Ok(ack.into())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_log_behind_a_snapshot_stays_until_it_is_installed() {
    let mut leader = Leader::start().await;
    let (_end, snapshot) = leader.begin_transfer().await;
    for _ in 0..2 {
        assert_eq!(leader.write(10).await, snapshot);
    }
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_takes_too_long_does_not_hold_up_purging_for_ever() {
    let mut leader = Leader::start().await;
    let (_end, snapshot) = leader.begin_transfer().await;
    let bound = KEEP * PURGE_PATIENCE / VALUE as u64;
    assert!(leader.write(bound).await > snapshot);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_without_progress_does_not_hold_up_purging() {
    let mut leader = Leader::start().await;
    let (_end, snapshot) = leader.begin_transfer().await;
    // In virtual time.
    tokio::time::sleep(SNAPSHOT_PATIENCE).await;
    assert!(leader.write(10).await > snapshot);
}
