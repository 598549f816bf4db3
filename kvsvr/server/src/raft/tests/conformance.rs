//! openraft's storage conformance suite on the log store and the state machine.
//!
//! Two things of the suite do not fit as they are: it applies entries with gaps, which the state machine rightly calls corrupt (a
//! blank entry fills each gap here); and it hands a snapshot that one store built to another without a network, so a snapshot
//! carries its chunks here, made and installed by the code that transfers them.

use std::{io, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use kvsvr_client::transport::STREAM_QUEUE;
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError,
    entry::RaftEntry,
    storage::{EntryResponder, RaftStateMachine, SnapshotMeta},
    testing::log::{StoreBuilder, Suite},
};

use super::*;
use crate::{
    disk::{DynDisk, fs::FsDisk, mem::MemDisk},
    metrics::Metrics,
    raft::{
        apply::StateMachine,
        log::LogStore,
        snapshot::{
            SnapshotData, SnapshotReceiver, TransferStatus,
            chunk::{Position, next_chunk},
        },
        types::{Entry, LogId, TypeConfig, of},
    },
    store::StoreId,
    wal::{Wal, WalOptions},
};

type Meta = of::SnapshotMetaOf<TypeConfig>;
type Built = of::SnapshotOf<TypeConfig, Chunks>;

/// The state machine as the suite wants it.
#[derive(Clone)]
struct Filling {
    machine: StateMachine,
    engine: Arc<MemEngine>,
    disk: DynDisk,
}

/// The chunks of a snapshot, one row each.
type Chunks = Vec<Bytes>;
const CHUNK_BYTES: usize = 1;

fn chunks(engine: &MemEngine) -> Chunks {
    let mut chunks = Vec::new();
    let mut position = Some(Position::default());
    while let Some(after) = position {
        let chunk = next_chunk(engine, SHARD, &after, CHUNK_BYTES).unwrap();
        position = chunk.next;
        chunks.push(chunk.data);
    }
    chunks
}

impl Filling {
    async fn current(&mut self) -> io::Result<Option<Built>> {
        let current = self.machine.get_current_snapshot().await?;
        Ok(current.map(|snapshot| Built {
            meta: snapshot.meta,
            snapshot: chunks(&self.engine.crash()),
        }))
    }

    /// Stages the chunks as if they had been sent.
    async fn stage(&self, meta: &Meta, chunks: Chunks) -> SnapshotData {
        let receiver = SnapshotReceiver::new(
            self.disk.clone(),
            0,
            Arc::new(TransferStatus::default()),
            Metrics::new(),
        );
        let (requests, input) = mpsc::channel(STREAM_QUEUE);
        let (output, mut answers) = mpsc::channel(STREAM_QUEUE);
        let offer = sides::offer("elsewhere/3-0", meta);
        let last = chunks.len() - 1;
        let sending = async {
            requests.send(sides::offer_message(&offer)).await.unwrap();
            for (number, data) in chunks.into_iter().enumerate() {
                let message = sides::chunk_message(number as u64, data, number == last);
                requests.send(message).await.unwrap();
            }
        };
        let mut staged = None;
        let mut input = sides::plain(input);
        let install = |vote, _, data| {
            staged = Some(data);
            // What is handed to openraft outlives the transfer.
            async move { Err(format!("kept, {vote}")) }
        };
        let receiving = async {
            let received = receiver
                .receive(SHARD, offer.clone(), &mut input, &output, install)
                .await;
            drop(output);
            received
        };
        let answered = async { while answers.recv().await.is_some() {} };
        let ((), received, ()) = futures::join!(sending, receiving, answered);
        assert!(received.unwrap_err().to_string().contains("kept"));
        staged.unwrap()
    }
}

impl RaftStateMachine<TypeConfig> for Filling {
    type SnapshotData = Chunks;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.machine.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let (applied, _) = self.machine.applied_state().await?;
        let mut next = applied.map(|id| id.index + 1);
        let mut filled = Vec::new();
        for (entry, responder) in entries.try_collect::<Vec<_>>().await? {
            let id = entry.log_id;
            for index in next.unwrap_or(id.index)..id.index {
                let blank = Entry::new(LogId::new(id.leader_id, index), EntryPayload::Blank);
                filled.push(Ok((blank, None)));
            }
            next = Some(id.index + 1);
            filled.push(Ok((entry, responder)));
        }
        self.machine.apply(stream::iter(filled)).await
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<of::CommittedLeaderIdOf<TypeConfig>, u64, PeerNode>,
        snapshot: Chunks,
    ) -> Result<(), io::Error> {
        let staged = self.stage(meta, snapshot).await;
        self.machine.install_snapshot(meta, staged).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Built>, io::Error> {
        self.current().await
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Filling {
    type SnapshotData = Chunks;

    async fn build_snapshot(&mut self) -> Result<Built, io::Error> {
        // A snapshot is the engine's last flush, and flushes are the node's decision.
        self.engine.flush().map_err(io::Error::other)?;
        // The suite purges the log of a state machine that has applied nothing. A node never does.
        Ok(self.current().await?.unwrap_or_else(|| Built {
            meta: Meta::default(),
            snapshot: Chunks::new(),
        }))
    }
}

/// Builds stores in memory, or on the real disk.
struct Builder {
    real_disk: bool,
}

type Directory = Option<tempfile::TempDir>;

impl StoreBuilder<TypeConfig, LogStore, Filling, Directory> for Builder {
    async fn build(&self) -> Result<(Directory, LogStore, Filling), StorageError<TypeConfig>> {
        let directory = self.real_disk.then(|| tempfile::tempdir().unwrap());
        let disk: DynDisk = match &directory {
            Some(directory) => Arc::new(FsDisk::new(directory.path()).unwrap()),
            None => Arc::new(MemDisk::new(1)),
        };
        // A failure reaches the suite by the callbacks. At the end of a test the directory goes before the writer has stopped.
        let fatal = |_: &io::Error| {};
        let options = WalOptions {
            // So small that segments are closed and used again all the time.
            segment_bytes: 8 << 10,
            ..WalOptions::new(StoreId([7; 16]), 1, Arc::new(fatal))
        };
        let (wal, _) = Wal::open(disk.clone(), options).await.unwrap();
        let engine = Arc::new(MemEngine::new());
        let machine =
            StateMachine::load(SHARD, engine.clone(), None, 1 << 20, Metrics::new().shard(SHARD)).unwrap();
        let filling = Filling {
            machine,
            engine,
            disk,
        };
        Ok((directory, LogStore::new(wal, SHARD), filling))
    }
}

#[tokio::test(start_paused = true)]
async fn stores_in_memory_conform() {
    Suite::test_all(Builder { real_disk: false }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stores_on_the_real_disk_conform() {
    Suite::test_all(Builder { real_disk: true }).await.unwrap();
}

/// The suite cannot build commands, so it applies none.
#[tokio::test]
async fn commands_are_answered_in_order() {
    let (_, _, mut filling) = Builder { real_disk: false }.build().await.unwrap();
    let entries = (0..5).map(|index| {
        let record = super::entry(index, 0);
        let payload = match record.payload {
            Payload::Batch(bytes) => EntryPayload::Normal(crate::raft::types::Batch(bytes)),
            _ => EntryPayload::Membership(membership([1, 2, 3])),
        };
        Ok((Entry::new(convert::log_id(record.position), payload), None))
    });
    filling.apply(stream::iter(entries).boxed()).await.unwrap();
    let reference = MemEngine::new();
    super::apply(&reference, SHARD, 4, 0);
    assert_eq!(hash(&filling.engine, SHARD), hash(&reference, SHARD));
    assert_eq!(filling.machine.head().applied_next(), 5);
    assert_eq!(filling.machine.head().revision(), 4);
}

/// A gap is corruption: the node must stop, not guess.
#[tokio::test]
async fn gaps_are_refused() {
    let (_, _, filling) = Builder { real_disk: false }.build().await.unwrap();
    let mut machine = filling.machine;
    let blank = |index| Ok((Entry::new(convert::log_id(at(index)), EntryPayload::Blank), None));
    machine.apply(stream::iter([blank(0), blank(1)])).await.unwrap();
    let error = machine.apply(stream::iter([blank(3)])).await.unwrap_err();
    assert!(error.to_string().contains("does not follow"), "{error}");
    assert_eq!(machine.head().applied_next(), 2);
}

/// The machine takes only as many entries at a time as it can hold what they delete; the rest must follow.
#[tokio::test]
async fn entries_that_the_machine_leaves_are_applied_next() {
    const DELETES: usize = 10;
    let entries = kvsvr_core::limits::APPLY_STOP_BYTES / kvsvr_core::limits::MAX_VALUE / DELETES + 2;
    let (_, _, filling) = Builder { real_disk: false }.build().await.unwrap();
    let mut machine = filling.machine;
    let entry = |index: usize, ops: Vec<Op>| {
        let command = |op| {
            encode_command(&Command {
                partition: Partition::local("p"),
                session: None,
                op,
            })
        };
        let commands: Vec<Bytes> = ops.into_iter().map(command).collect();
        let payload = EntryPayload::Normal(crate::raft::types::Batch(encode_batch(1, &commands)));
        Ok((Entry::new(convert::log_id(at(index as u64)), payload), None))
    };
    let key = |i: usize| Bytes::from(i.to_string());
    let puts = (0..entries * DELETES).map(|i| {
        let put = Op::Put {
            key: key(i),
            value: vec![7; kvsvr_core::limits::MAX_VALUE].into(),
            ttl_ms: 0,
            lease: 0,
        };
        entry(i, vec![put])
    });
    machine.apply(stream::iter(puts)).await.unwrap();
    let filled = entries * DELETES;
    let deletes = (0..entries).map(|n| {
        let keys = n * DELETES..(n + 1) * DELETES;
        entry(filled + n, keys.map(|i| Op::Delete { key: key(i) }).collect())
    });
    machine.apply(stream::iter(deletes)).await.unwrap();
    assert_eq!(machine.head().applied_next(), (filled + entries) as u64);
    assert_eq!(machine.head().revision(), 2 * filled as u64);
    assert_eq!(filling.engine.rows(Cf::Data), []);
}
