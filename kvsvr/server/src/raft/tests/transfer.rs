//! The two sides of a snapshot transfer against each other, with interruptions and damage.

use std::future::pending;

use kvsvr_client::transport::STREAM_QUEUE;
use tokio::sync::{Notify, oneshot};

use super::{
    sides::{
        Hooked, Meta, Source, Target, Trouble, assert_installed, chunk_message, cut, offer, offer_message,
        plain, transfer, whole,
    },
    *,
};
use crate::{
    limits::{SNAPSHOT_CHUNKS_PER_SYNC, SNAPSHOT_PATIENCE},
    raft::{
        network::{NetworkFactory, Peers},
        promises::Promises,
        snapshot::{
            SnapshotData, Staged, TransferError,
            chunk::{Position, next_chunk},
            meta_of,
        },
        types::Vote,
    },
};

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_transferred() {
    let (source, target) = (Source::new("a", 60), Target::new());
    let chunks = whole(&source, &target).await;
    assert!(chunks.len() > 20, "{} chunks", chunks.len());
    assert_eq!(chunks, (0..chunks.len() as u64).collect::<Vec<_>>());
    assert_installed(&source, &target);
}

/// A sync for each chunk would cost a slow disk most of its time.
#[tokio::test(start_paused = true)]
async fn chunks_are_synced_together() {
    let (source, target) = (Source::new("a", 60), Target::new());
    let chunks = whole(&source, &target).await.len() as u64;
    // Some more for the names of the files, and for what is removed in the end.
    let syncs = target.disk.syncs();
    assert!(
        syncs < chunks / SNAPSHOT_CHUNKS_PER_SYNC + 12,
        "{syncs} for {chunks}"
    );
}

/// What a broken connection leaves behind is in the page cache; what the next transfer goes on from is durable.
#[tokio::test(start_paused = true)]
async fn what_is_gone_on_from_is_durable() {
    let (source, target) = (Source::new("a", 60), Target::new());
    cut(&source, &target, 11).await;
    cut(&source, &target, 1).await;
    for seed in 0..4 {
        let back = target.crashed(seed);
        let first = whole(&source, &back).await[0];
        assert!((11..=12).contains(&first), "goes on at {first}");
    }
}

/// The sender takes only a silent receiver for dead, not a busy one.
#[tokio::test(start_paused = true)]
async fn an_installation_may_take_longer_than_the_sender_is_patient() {
    let (source, mut target) = (Source::new("a", 60), Target::new());
    target.install_takes = SNAPSHOT_PATIENCE * 10;
    whole(&source, &target).await;
    assert_installed(&source, &target);
}

#[tokio::test(start_paused = true)]
async fn what_was_there_before_is_replaced() {
    let (source, target) = (Source::new("a", 60), Target::new());
    // More rows than the snapshot has, and others.
    apply(&*target.engine, SHARD, 40, 99);
    apply(&*target.engine, OTHER_SHARD, 20, 5);
    let other = hash(&target.engine, OTHER_SHARD);
    whole(&source, &target).await;
    assert_eq!(hash(&target.engine, SHARD), hash(&source.engine, SHARD));
    assert_eq!(hash(&target.engine, OTHER_SHARD), other);
}

#[tokio::test(start_paused = true)]
async fn an_empty_tail_chunk_is_fine() {
    let (mut source, target) = (Source::new("a", 60), Target::new());
    // One pair a chunk: the last chunk is empty.
    source.sender.chunk_bytes = 1;
    whole(&source, &target).await;
    assert_installed(&source, &target);
}

/// Where the interruptions of the tests below happen: at the offer, at the first chunk, in the window, after it.
const CUTS: [usize; 5] = [0, 1, 2, 9, 20];

#[tokio::test(start_paused = true)]
async fn goes_on_after_a_broken_connection() {
    for after in CUTS {
        let (source, target) = (Source::new("a", 60), Target::new());
        cut(&source, &target, after).await;
        let chunks = whole(&source, &target).await;
        assert_eq!(chunks.first(), Some(&(after as u64)), "cut after {after}");
        assert_installed(&source, &target);
    }
}

#[tokio::test(start_paused = true)]
async fn goes_on_after_a_restart_of_the_receiver() {
    for (seed, after) in CUTS.into_iter().enumerate() {
        let (source, target) = (Source::new("a", 60), Target::new());
        apply(&*target.engine, SHARD, 5, 0);
        cut(&source, &target, after).await;
        let back = target.crashed(seed as u64);
        assert_eq!(hash(&back.engine, SHARD), hash(&target.engine, SHARD));
        let chunks = whole(&source, &back).await;
        // What was acknowledged is there; of the rest perhaps something.
        let after = after as u64;
        let acknowledged = after - after % SNAPSHOT_CHUNKS_PER_SYNC;
        assert!((acknowledged..=after).contains(&chunks[0]), "cut after {after}");
        assert_installed(&source, &back);
    }
}

#[tokio::test(start_paused = true)]
async fn goes_on_after_a_restart_of_the_sender() {
    for after in CUTS {
        let (source, target) = (Source::new("a", 60), Target::new());
        cut(&source, &target, after).await;
        let source = source.restarted();
        let chunks = whole(&source, &target).await;
        assert_eq!(chunks.first(), Some(&(after as u64)), "cut after {after}");
        assert_installed(&source, &target);
    }
}

#[tokio::test(start_paused = true)]
async fn starts_anew_when_another_node_sends() {
    let (first, target) = (Source::new("a", 60), Target::new());
    cut(&first, &target, 9).await;
    let second = Source::new("b", 61);
    assert_eq!(whole(&second, &target).await.first(), Some(&0));
    assert_installed(&second, &target);
}

#[tokio::test(start_paused = true)]
async fn starts_anew_when_the_begun_snapshot_is_too_old() {
    let (source, target) = (Source::new("a", 60), Target::new());
    cut(&source, &target, 9).await;
    apply(&*source.engine, SHARD, 70, 0);
    assert_eq!(whole(&source, &target).await.first(), Some(&0));
    assert_eq!(hash(&target.engine, SHARD), hash(&source.engine, SHARD));
    assert_eq!(source.checkpoints.list().unwrap(), Vec::<String>::new());
}

/// Of the checkpoints of interrupted transfers only the newest is of use.
#[tokio::test(start_paused = true)]
async fn abandoned_checkpoints_go() {
    let source = Source::new("a", 60);
    cut(&source, &Target::new(), 3).await;
    assert_eq!(source.checkpoints.list().unwrap(), ["3-60"]);
    apply(&*source.engine, SHARD, 70, 0);
    cut(&source, &Target::new(), 3).await;
    assert_eq!(source.checkpoints.list().unwrap(), ["3-70"]);
    source.checkpoints.create("leftover").unwrap();
    let source = source.restarted();
    assert_eq!(source.checkpoints.list().unwrap(), ["3-70"]);
}

/// Two nodes are sent the same checkpoint: the one that is done first does not take it away from the other, nor does a newer one.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_stays_while_it_is_read() {
    let source = Source::new("a", 60);
    let (slow, fast, third) = (Target::new(), Target::new(), Target::new());
    let begun = hash(&source.engine, SHARD);
    // Waits for the others in the middle of its transfer.
    let gate = Arc::new(Notify::new());
    let trouble = Trouble {
        wait: Some((9, gate.clone())),
        ..Trouble::default()
    };
    let slowly = transfer(&source, &slow, slow.engine.clone(), trouble);
    let meanwhile = async {
        whole(&source, &fast).await;
        assert_eq!(source.checkpoints.list().unwrap(), ["3-60"]);
        apply(&*source.engine, SHARD, 70, 0);
        cut(&source, &third, 3).await;
        assert_eq!(source.checkpoints.list().unwrap(), ["3-60", "3-70"]);
        gate.notify_one();
    };
    let (slowly, ()) = futures::join!(slowly, meanwhile);
    slowly.sent.unwrap().unwrap();
    assert_eq!(hash(&slow.engine, SHARD), begun);
    assert_eq!(hash(&fast.engine, SHARD), begun);
    assert_eq!(source.checkpoints.list().unwrap(), ["3-70"]);
}

/// The same node offers a snapshot under the same conditions, but its content is another one: nothing of the two is mixed.
#[tokio::test(start_paused = true)]
async fn starts_anew_when_the_sender_has_lost_its_checkpoint() {
    let (source, target) = (Source::new("a", 60), Target::new());
    cut(&source, &target, 9).await;
    let name = source.checkpoints.list().unwrap().remove(0);
    source.checkpoints.remove(&name).unwrap();
    // A flush between the request for a snapshot at 60 and its checkpoint.
    *source.checkpoints.before_create.lock() = Some(Box::new(|engine| {
        apply(engine, SHARD, 75, 0);
    }));
    let chunks = whole(&source, &target).await;
    assert_eq!(chunks.first(), Some(&0));
    assert_installed(&source, &target);
}

/// The sender loses a checkpoint and makes the same again: the transfer may go on, because equal positions have equal states.
#[tokio::test(start_paused = true)]
async fn goes_on_with_a_checkpoint_of_the_same_position() {
    let (source, target) = (Source::new("a", 60), Target::new());
    cut(&source, &target, 9).await;
    let name = source.checkpoints.list().unwrap().remove(0);
    source.checkpoints.remove(&name).unwrap();
    assert_eq!(whole(&source, &target).await.first(), Some(&9));
    assert_installed(&source, &target);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_chunk_is_refused_and_sent_again() {
    for damage in [0, 3, 12] {
        let (source, target) = (Source::new("a", 60), Target::new());
        let trouble = Trouble {
            damage: Some(damage),
            ..Trouble::default()
        };
        let outcome = transfer(&source, &target, target.engine.clone(), trouble).await;
        let error = outcome.sent.unwrap().unwrap_err().to_string();
        assert!(error.contains(&format!("chunk {damage} is damaged")), "{error}");
        let chunks = whole(&source, &target).await;
        assert_eq!(chunks.first(), Some(&(damage as u64)));
        assert_installed(&source, &target);
    }
}

/// Everything from the damaged frame on is sent again.
#[tokio::test(start_paused = true)]
async fn a_damaged_staging_file_is_cut_and_sent_again() {
    let staged = format!("staging/{SHARD}/chunks");
    // In the header of the first frame, in its data, and in a frame in the middle.
    for (offset, first) in [(3, 0..1), (40, 0..1), (2_000, 1..12)] {
        let (source, target) = (Source::new("a", 60), Target::new());
        cut(&source, &target, 12).await;
        assert!(target.disk.flip_bit(&staged, offset, 3));
        let back = target.crashed(offset);
        let chunks = whole(&source, &back).await;
        assert!(first.contains(&chunks[0]), "goes on at {}", chunks[0]);
        assert_installed(&source, &back);
    }
}

/// Damage that comes after the last chunk was checked: nothing of the shard is touched.
#[tokio::test(start_paused = true)]
async fn a_staging_file_that_is_damaged_before_the_install_is_refused() {
    let (source, target) = (Source::new("a", 60), Target::new());
    apply(&*target.engine, SHARD, 5, 0);
    let before = hash(&target.engine, SHARD);
    let disk = target.disk.clone();
    let engine = target.engine.clone();
    let install = |_, meta, data| async move {
        assert!(disk.flip_bit(&format!("staging/{SHARD}/chunks"), 100, 0));
        Target::install(engine, meta, data).await
    };
    let received = receive_whole(&source, &target, install).await;
    let error = received.unwrap_err().to_string();
    assert!(error.contains("incomplete or damaged"), "{error}");
    assert_eq!(hash(&target.engine, SHARD), before);
    whole(&source, &target).await;
    assert_installed(&source, &target);
}

/// Damage that comes between the check and the installation: what is then missing is not taken for all.
#[tokio::test(start_paused = true)]
async fn a_staging_file_that_is_damaged_within_the_install_is_not_taken_for_whole() {
    let (source, target) = (Source::new("a", 60), Target::new());
    let flip_last = {
        let disk = target.disk.clone();
        move || {
            let path = format!("staging/{SHARD}/chunks");
            let last = disk.peek(&path).unwrap().len() as u64 - 1;
            assert!(disk.flip_bit(&path, last, 0));
        }
    };
    let damaging = {
        let flip_last = flip_last.clone();
        Hooked::new(target.engine.clone(), move |writes| {
            if writes == 1 {
                flip_last();
            }
            Ok(())
        })
    };
    let install = |_, meta, data| Target::install(Arc::new(damaging), meta, data);
    let received = receive_whole(&source, &target, install).await;
    let error = received.unwrap_err().to_string();
    assert!(error.contains("this replica cannot start"), "{error}");
    // It is the same after a restart, until the file is what it was.
    let begun = async || {
        let found = Staged::interrupted(&target.dyn_disk(), SHARD).await;
        found.unwrap().expect("still to be installed")
    };
    let error = begun().await.install(target.engine.clone()).await.unwrap_err();
    assert!(error.to_string().contains("this replica cannot start"), "{error}");
    flip_last();
    begun().await.install(target.engine.clone()).await.unwrap();
    assert_installed(&source, &target);
}

/// The target receives the whole shard in one chunk.
async fn receive_whole<F: Future<Output = Result<Vote, String>>>(
    source: &Source,
    target: &Target,
    install: impl FnOnce(Vote, Meta, SnapshotData) -> F,
) -> Result<(), TransferError> {
    let (requests, input) = mpsc::channel(10);
    let (output, _acks) = mpsc::channel(1_000);
    let meta = meta_of(&*source.engine, SHARD).unwrap().unwrap();
    let offer = offer("a/x", &meta);
    requests.send(offer_message(&offer)).await.unwrap();
    let data = whole_chunk(source);
    requests.send(chunk_message(0, data, true)).await.unwrap();
    let mut input = plain(input);
    target
        .receiver
        .receive(SHARD, offer, &mut input, &output, install)
        .await
}

/// The whole shard in one chunk.
fn whole_chunk(source: &Source) -> Bytes {
    let position = Position::default();
    let chunk = next_chunk(&*source.engine, SHARD, &position, usize::MAX).unwrap();
    assert!(chunk.next.is_none());
    chunk.data
}

#[tokio::test(start_paused = true)]
async fn an_older_snapshot_is_not_installed() {
    let (source, target) = (Source::new("a", 60), Target::new());
    apply(&*target.engine, SHARD, 61, 0);
    let before = hash(&target.engine, SHARD);
    whole(&source, &target).await;
    assert_eq!(hash(&target.engine, SHARD), before);
    assert!(target.staged_files().is_empty(), "{:?}", target.staged_files());
    assert!(
        Staged::interrupted(&target.dyn_disk(), SHARD)
            .await
            .unwrap()
            .is_none()
    );
}

/// A chunk with a row of another shard, or of an earlier place, is not from a sound sender.
#[tokio::test(start_paused = true)]
async fn rows_that_do_not_belong_are_refused() {
    let (source, target) = (Source::new("a", 60), Target::new());
    let meta = meta_of(&*source.engine, SHARD).unwrap().unwrap();
    let foreign = {
        let start = Position::default();
        next_chunk(&*source.engine, OTHER_SHARD, &start, usize::MAX)
    };
    let twice = [&whole_chunk(&source)[..], &whole_chunk(&source)[..]].concat();
    for data in [foreign.unwrap().data, twice.into()] {
        let (requests, input) = mpsc::channel(10);
        let (output, _acks) = mpsc::channel(10);
        let offer = offer("a/x", &meta);
        requests.send(offer_message(&offer)).await.unwrap();
        requests.send(chunk_message(0, data, true)).await.unwrap();
        let install = |_, _, _| async { panic!("nothing to install") };
        let received = target
            .receiver
            .receive(SHARD, offer, &mut plain(input), &output, install)
            .await;
        let error = received.unwrap_err().to_string();
        assert!(error.contains("does not belong"), "{error}");
    }
}

/// The connection of the first transfer breaks while Raft installs its snapshot; a node's gRPC listener drops the task that serves
/// it then. The next transfer must not touch the files that are being installed.
#[tokio::test(start_paused = true)]
async fn a_transfer_waits_for_the_installation_of_the_one_before() {
    let (source, target) = (Source::new("a", 60), Target::new());
    let (handed, installing) = oneshot::channel();
    let meta = meta_of(&*source.engine, SHARD).unwrap().unwrap();
    let offer = offer("a/x", &meta);
    let (requests, input) = mpsc::channel(10);
    let (output, _acks) = mpsc::channel(10);
    requests.send(offer_message(&offer)).await.unwrap();
    let chunk = chunk_message(0, whole_chunk(&source), true);
    requests.send(chunk).await.unwrap();
    let install = |_, meta: Meta, data| {
        let _ = handed.send((meta, data));
        pending()
    };
    let (meta, data) = {
        let mut input = plain(input);
        let receiving = target
            .receiver
            .receive(SHARD, offer.clone(), &mut input, &output, install);
        tokio::select! { biased;
            _ = receiving => panic!("it waits for Raft"),
            handed = installing => handed.unwrap(),
        }
    };

    let second = Source::new("b", 62);
    let transferring = whole(&second, &target);
    tokio::pin!(transferring);
    let early = tokio::time::timeout(SNAPSHOT_PATIENCE * 3, transferring.as_mut()).await;
    assert!(early.is_err(), "it waits");
    let staged = format!("staging/{SHARD}/chunks");
    assert!(target.staged_files().contains(&staged));
    Target::install(target.engine.clone(), meta, data).await.unwrap();
    assert_eq!(hash(&target.engine, SHARD), hash(&source.engine, SHARD));
    transferring.await;
    assert_installed(&second, &target);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_ends_the_transfer() {
    let source = Source::new("a", 10);
    let (wire, mut ends) = Wire::new(STREAM_QUEUE);
    let network = NetworkFactory {
        peers: Peers {
            transport: wire,
            cluster_id: "c".into(),
            node_id: 1,
            store_id: "store-1".into(),
        },
        shard: SHARD,
        promises: Arc::new(Promises::new(1000)),
        snapshots: Arc::new(Source::new("idle", 1).sender),
    };
    let node = peer_node(2);
    let sending = source
        .sender
        .send(&network, 2, &node, Vote::new(2, 1), source.snapshot());
    let (sent, _end) = futures::join!(sending, ends.recv());
    assert!(sent.unwrap_err().to_string().contains("no answer within"));

    let target = Target::new();
    let (_requests, input) = mpsc::channel(1);
    let (output, _acks) = mpsc::channel(10);
    let install = |_, _, _| async { panic!("nothing to install") };
    let received = target
        .receiver
        .receive(SHARD, Default::default(), &mut plain(input), &output, install)
        .await;
    assert!(received.unwrap_err().to_string().contains("nothing came for"));
}

/// Not only when its peer has been silent for long: the node's other shards wait.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_destroyed_does_not_wait_for_its_transfer() {
    let target = Target::new();
    let (_requests, input) = mpsc::channel(1);
    let (output, mut acks) = mpsc::channel(10);
    let install = |_, _, _| async { panic!("nothing to install") };
    let mut input = plain(input);
    let receiving = target
        .receiver
        .receive(SHARD, Default::default(), &mut input, &output, install);
    let destroying = async {
        acks.recv().await.unwrap();
        target.receiver.give_up(SHARD).await
    };
    let both = async { tokio::join!(receiving, destroying) };
    let (received, _exclusive) = tokio::time::timeout(SNAPSHOT_PATIENCE / 2, both).await.unwrap();
    assert!(received.unwrap_err().to_string().contains("being destroyed"));
}

/// An interrupted transfer goes on from its checkpoint; if nobody does, the checkpoint goes, and with it the files that it keeps.
#[tokio::test(start_paused = true)]
async fn an_idle_checkpoint_is_removed() {
    let (source, target) = (Source::new("a", 60), Target::new());
    let cut = || Trouble {
        cut_after: Some(2),
        ..Trouble::default()
    };
    let begin = async || {
        let outcome = transfer(&source, &target, target.engine.clone(), cut()).await;
        assert!(outcome.sent.is_none());
    };
    let names = || source.checkpoints.list().unwrap().len();
    begin().await;
    source.sender.remove_idle(false).unwrap();
    assert_eq!(names(), 1, "the receiver may come back");
    begin().await;
    source.sender.remove_idle(false).unwrap();
    assert_eq!(names(), 1, "it was read since");
    source.sender.remove_idle(false).unwrap();
    assert_eq!(names(), 0);
    begin().await;
    source.sender.remove_idle(true).unwrap();
    assert_eq!(names(), 0, "the disk is full");
    let outcome = transfer(&source, &target, target.engine.clone(), Trouble::default()).await;
    outcome.sent.unwrap().unwrap();
    assert_installed(&source, &target);
}
