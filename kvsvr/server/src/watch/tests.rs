use std::collections::BTreeMap;

use kvsvr_client::transport::STREAM_QUEUE;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::{
    sync::mpsc::{Receiver, channel},
    task::{JoinHandle, yield_now},
};

use super::*;
use crate::hub::{
    event_bytes,
    testing::{Model, hub, publish},
};

/// A replica whose leader and consumers are what the test says.
struct Replica {
    hub: Arc<Hub>,
    model: Arc<Model>,
    refusal: Mutex<Option<pb::Error>>,
    consumers: Mutex<BTreeMap<String, ConsumerPosition>>,
}

impl Replica {
    fn new(ring: usize) -> Arc<Self> {
        let model = Arc::new(Model::default());
        let (refusal, consumers) = (Mutex::default(), Mutex::default());
        Arc::new(Self {
            hub: hub(&model, ring),
            model,
            refusal,
            consumers,
        })
    }

    fn publish(&self, sizes: &[usize]) {
        publish(&self.hub, &self.model, sizes);
    }

    fn set_consumer(&self, name: &str, epoch: u64, cursor: Revision) {
        self.consumers
            .lock()
            .insert(name.into(), ConsumerPosition { epoch, cursor });
    }

    /// Starts a stream with short times.
    fn open(self: &Arc<Self>, start: Result<Start, pb::Error>) -> Client {
        let (output, input) = channel(STREAM_QUEUE);
        let replica = self.clone();
        let task = tokio::spawn(async move { serve(&*replica, start, &output, &SHORT).await });
        Client { input, task }
    }

    fn watch(self: &Arc<Self>, request: pb::WatchRequest) -> Client {
        let (output, input) = channel(STREAM_QUEUE);
        let replica = self.clone();
        let task = tokio::spawn(async move { serve_watch(&*replica, request, output).await.unwrap() });
        Client { input, task }
    }

    async fn consume(self: &Arc<Self>, name: &str, epoch: u64) -> Client {
        let request = pb::ConsumerStreamRequest {
            shard: 1,
            name: name.into(),
            epoch,
        };
        self.open(start_of_consumer(&**self, request, &SHORT).await)
    }

    fn wanted(&self, after: Revision, up_to: Revision) -> Vec<pb::WatchEvent> {
        let all = self.model.wanted(after, up_to, &EventFilter::default());
        all.iter().map(|event| wire_event(event, true)).collect()
    }
}

impl WatchSource for Replica {
    fn shard(&self) -> ShardId {
        ShardId(1)
    }
    fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
    fn floor(&self) -> Revision {
        self.model.floor()
    }
    fn serving(&self) -> Result<(), pb::Error> {
        self.refusal.lock().clone().map_or(Ok(()), Err)
    }
    fn consumer(&self, name: &str) -> Option<ConsumerPosition> {
        self.consumers.lock().get(name).copied()
    }
}

const SHORT: Timing = Timing {
    heartbeat: Duration::from_millis(20),
    check: Duration::from_millis(10),
    stall: Duration::from_secs(30),
    open_wait: Duration::from_millis(200),
};

fn everything(after: Revision) -> Start {
    Start {
        after,
        filter: EventFilter::default(),
        with_values: true,
        owner: None,
    }
}

/// The client's side of a stream.
struct Client {
    input: Receiver<Bytes>,
    task: JoinHandle<()>,
}

impl Client {
    async fn message(&mut self) -> Option<pb::WatchResponse> {
        let message = timeout(Duration::from_secs(20), self.input.recv())
            .await
            .expect("a message in time");
        message.map(|bytes| pb::WatchResponse::decode(bytes).unwrap())
    }

    /// The next message, which has no error.
    async fn good(&mut self) -> pb::WatchResponse {
        let message = self.message().await.expect("the stream goes on");
        assert_eq!(message.error, None);
        message
    }

    /// The next message that has events.
    async fn news(&mut self) -> pb::WatchResponse {
        loop {
            let message = self.good().await;
            if !message.events.is_empty() {
                return message;
            }
        }
    }

    /// All events up to a revision.
    async fn until(&mut self, revision: Revision) -> Vec<pb::WatchEvent> {
        let mut events = Vec::new();
        loop {
            let message = self.good().await;
            events.extend(message.events);
            if message.revision >= revision {
                return events;
            }
        }
    }

    /// The error that ends the stream.
    async fn error(mut self) -> (ErrorCode, pb::Error) {
        while let Some(message) = self.message().await {
            if let Some(error) = message.error {
                assert!(self.message().await.is_none(), "the error is the last message");
                self.task.await.unwrap();
                return (error.code(), error);
            }
        }
        panic!("the stream ended without an error");
    }
}

/// Lets the other tasks of the runtime go as far as they can.
async fn settle() {
    for _ in 0..200 {
        yield_now().await;
    }
}

fn request_for(partition: &str, prefix: &str) -> pb::WatchRequest {
    let partition = Some(pb::Partition {
        region: 0,
        name: Bytes::copy_from_slice(partition.as_bytes()),
    });
    pb::WatchRequest {
        partition,
        key_prefix: Bytes::copy_from_slice(prefix.as_bytes()),
        ..Default::default()
    }
}

#[tokio::test]
async fn begins_with_its_position_then_sends_what_matches() {
    let replica = Replica::new(1 << 20);
    replica.publish(&[1, 1, 1]);
    let mut client = replica.watch(pb::WatchRequest {
        with_values: true,
        ..request_for("p1", "key/1")
    });
    assert_eq!(client.good().await, pb::WatchResponse::default());
    // Only revision 4 is of partition p1 and has a second key.
    replica.publish(&[2, 2, 2]);
    let message = client.news().await;
    assert_eq!(message.revision, 6);
    let [event] = &message.events[..] else {
        panic!("{message:?}")
    };
    let kv = event.kv.clone().unwrap();
    assert_eq!((&kv.key[..], kv.mod_rev, kv.value.len()), (&b"key/1"[..], 4, 149));
    assert_eq!(event.partition.clone().unwrap().name, "p1");
}

#[tokio::test]
async fn values_are_left_out_unless_wanted() {
    let replica = Replica::new(1 << 20);
    replica.publish(&[2]);
    let mut client = replica.watch(pb::WatchRequest::default());
    let message = client.news().await;
    assert_eq!(message.events.len(), 2);
    assert!(
        message
            .events
            .iter()
            .all(|e| e.kv.as_ref().unwrap().value.is_empty())
    );
}

#[tokio::test]
async fn from_now_leaves_out_what_was() {
    let replica = Replica::new(1 << 20);
    replica.publish(&[1, 1]);
    let mut client = replica.watch(pb::WatchRequest {
        from_now: true,
        with_values: true,
        ..Default::default()
    });
    assert_eq!(client.good().await.revision, 2);
    replica.publish(&[1]);
    assert_eq!(client.until(3).await, replica.wanted(2, 3));
}

#[tokio::test]
async fn a_backlog_comes_in_messages_of_bounded_size() {
    let replica = Replica::new(1 << 20);
    for _ in 0..1_000 {
        replica.publish(&[3, 5]);
    }
    let mut client = replica.open(Ok(everything(0)));
    let (mut events, mut messages, mut revision) = (Vec::new(), 0, 0);
    while revision < 2_000 {
        let message = client.good().await;
        let before_the_last = replica.model.wanted(
            revision,
            message.revision.saturating_sub(1),
            &EventFilter::default(),
        );
        assert!(before_the_last.iter().map(event_bytes).sum::<usize>() <= WATCH_MESSAGE_BYTES);
        assert_eq!(
            message.events,
            replica.wanted(revision, message.revision),
            "whole revisions"
        );
        revision = message.revision;
        events.extend(message.events);
        messages += 1;
    }
    assert!(messages > 5);
    assert_eq!(events, replica.wanted(0, 2_000));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_few_messages_and_nobody_up() {
    let replica = Replica::new(50_000);
    let mut slow = replica.open(Ok(everything(0)));
    let mut quick = replica.open(Ok(everything(0)));
    for round in 0..1_000 {
        replica.publish(&[4]);
        settle().await;
        assert!(slow.input.len() <= WATCH_UNSENT_MESSAGES);
        assert_eq!(quick.until(round + 1).await, replica.wanted(round, round + 1));
    }
    assert_eq!(slow.input.len(), WATCH_UNSENT_MESSAGES);
    assert_eq!(
        slow.until(1_000).await,
        replica.wanted(0, 1_000),
        "it missed nothing"
    );
}

#[tokio::test]
async fn progress_is_told_when_nothing_matches_or_happens() {
    let replica = Replica::new(1 << 20);
    let filter = EventFilter {
        partition: Some(Partition::local("nobody")),
        key_prefix: Bytes::new(),
    };
    let mut client = replica.open(Ok(Start {
        filter,
        ..everything(0)
    }));
    assert_eq!(client.good().await.revision, 0);
    replica.publish(&[1, 1]);
    assert_eq!(client.until(2).await, []);
    assert_eq!(client.good().await.revision, 2, "also when there is no progress");
}

#[tokio::test]
async fn compaction_is_told_with_where_to_go_on() {
    let replica = Replica::new(600);
    (0..20).for_each(|_| replica.publish(&[1]));
    replica.model.compact(10);
    let (code, error) = replica.open(Ok(everything(9))).error().await;
    assert_eq!(
        (code, error.revision, error.unknown),
        (ErrorCode::Compacted, 11, false)
    );
    let mut client = replica.open(Ok(everything(error.revision - 1)));
    assert_eq!(client.until(20).await, replica.wanted(10, 20));
}

#[tokio::test]
async fn compaction_refuses_new_streams_and_lets_old_ones_read_the_ring() {
    let replica = Replica::new(1 << 20);
    (0..20).for_each(|_| replica.publish(&[1]));
    let mut begun = replica.open(Ok(everything(0)));
    assert_eq!(begun.good().await.revision, 0);
    replica.model.compact(10);
    let (code, error) = replica.open(Ok(everything(9))).error().await;
    assert_eq!(
        (code, error.revision),
        (ErrorCode::Compacted, 11),
        "it is in the ring"
    );
    assert_eq!(begun.until(20).await, replica.wanted(0, 20));
    let mut client = replica.open(Ok(everything(10)));
    assert_eq!(client.until(20).await, replica.wanted(10, 20));
}

#[tokio::test]
async fn ends_when_the_replica_can_not_serve() {
    let replica = Replica::new(1 << 20);
    let mut client = replica.open(Ok(everything(0)));
    client.good().await;
    *replica.refusal.lock() = Some(error::definite(ErrorCode::NoLeader, "none heard of"));
    assert_eq!(client.error().await.0, ErrorCode::NoLeader);
    assert_eq!(
        replica.open(Ok(everything(0))).error().await.0,
        ErrorCode::NoLeader
    );

    *replica.refusal.lock() = None;
    let client = replica.open(Ok(everything(0)));
    replica.hub.close();
    assert_eq!(client.error().await.0, ErrorCode::WrongShard);
}

#[tokio::test]
async fn ends_when_the_client_leaves_or_reads_nothing() {
    let replica = Replica::new(1 << 20);
    let (output, input) = channel(STREAM_QUEUE);
    let long = Duration::from_secs(3600);
    let silent = Timing {
        heartbeat: long,
        check: long,
        ..SHORT
    };
    let leave = async {
        settle().await;
        drop(input);
    };
    let both = async { tokio::join!(serve(&*replica, Ok(everything(0)), &output, &silent), leave) };
    timeout(Duration::from_secs(20), both)
        .await
        .expect("it ends at once when the client leaves");

    let (output, mut input) = channel(STREAM_QUEUE);
    let stall = Timing {
        stall: Duration::from_millis(50),
        ..SHORT
    };
    serve(&*replica, Ok(everything(0)), &output, &stall).await;
    drop(output);
    let mut messages = 0;
    while input.recv().await.is_some() {
        messages += 1;
    }
    assert_eq!(messages, WATCH_UNSENT_MESSAGES);
    assert_eq!(replica.hub.subscribers(), 0);
}

#[tokio::test]
async fn a_consumer_begins_after_its_cursor_and_ends_when_fenced() {
    let replica = Replica::new(1 << 20);
    replica.publish(&[1, 1, 1]);
    replica.set_consumer("mailer", 4, 2);
    let mut client = replica.consume("mailer", 4).await;
    let first = client.good().await;
    assert_eq!((first.revision, first.consumer_epoch), (2, 4));
    assert_eq!(client.until(3).await, replica.wanted(2, 3));
    replica.set_consumer("mailer", 5, 2);
    assert_eq!(
        client.error().await.0,
        ErrorCode::Fenced,
        "although nothing happens in the shard"
    );
    assert_eq!(
        replica.consume("mailer", 4).await.error().await.0,
        ErrorCode::Fenced
    );
}

#[tokio::test]
async fn a_busy_consumer_is_fenced_too() {
    let replica = Replica::new(1 << 20);
    replica.set_consumer("mailer", 1, 0);
    let mut client = replica.consume("mailer", 1).await;
    client.good().await;
    replica.set_consumer("mailer", 2, 0);
    for _ in 0..1_000_000 {
        replica.publish(&[1]);
        if let Some(error) = client.message().await.unwrap().error {
            assert_eq!(error.code(), ErrorCode::Fenced);
            return;
        }
    }
    panic!("never fenced");
}

#[tokio::test]
async fn a_consumer_that_is_not_there_yet_is_waited_for() {
    let replica = Replica::new(1 << 20);
    assert_eq!(
        replica.consume("mailer", 1).await.error().await.0,
        ErrorCode::NotFound
    );
    replica.set_consumer("mailer", 1, 0);
    assert_eq!(
        replica.consume("mailer", 2).await.error().await.0,
        ErrorCode::NotReady
    );

    let opening = {
        let replica = replica.clone();
        tokio::spawn(async move { replica.consume("mailer", 2).await })
    };
    settle().await;
    replica.set_consumer("mailer", 2, 0);
    let mut client = opening.await.unwrap();
    assert_eq!(client.good().await.consumer_epoch, 2);
    replica.consumers.lock().clear();
    assert_eq!(client.error().await.0, ErrorCode::NotFound);
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let replica = Replica::new(1 << 20);
    let long = "x".repeat(MAX_KEY + 1);
    let far = pb::Partition {
        region: 70_000,
        name: "p".into(),
    };
    let bad = [
        (
            request_for("", ""),
            "a partition's name has 1 to 256 bytes, not 0",
        ),
        (
            request_for(&long[..300], ""),
            "a partition's name has 1 to 256 bytes, not 300",
        ),
        (
            request_for("p", &long),
            "a key prefix has at most 4096 bytes, not 4097",
        ),
        (
            pb::WatchRequest {
                partition: Some(far),
                ..Default::default()
            },
            "a region is at most 65535, not 70000",
        ),
        (
            pb::WatchRequest {
                key_prefix: "k".into(),
                ..Default::default()
            },
            "a key prefix needs a partition",
        ),
    ];
    for (request, why) in bad {
        let answer = serve_watch(&*replica, request, channel(1).0).await;
        assert_eq!(answer, Err(CallError::Malformed(why.into())));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<usize>),
    /// Applied by a snapshot.
    Reset(Vec<usize>),
    Compact {
        keep: u64,
    },
    /// The client reads this many messages, if they come at once.
    Read(usize),
    /// The connection breaks; the client resumes.
    Break,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let sizes = || prop::collection::vec(1..4_usize, 1..6);
    let step = prop_oneof![
        8 => sizes().prop_map(Step::Publish),
        1 => sizes().prop_map(Step::Reset),
        1 => (0..40_u64).prop_map(|keep| Step::Compact { keep }),
        6 => (1..4_usize).prop_map(Step::Read),
        1 => Just(Step::Break),
    ];
    prop::collection::vec(step, 1..60)
}

/// A client that resumes: what it has, and what it was told is compacted.
struct Resuming {
    client: Client,
    revision: Revision,
    events: Vec<pb::WatchEvent>,
    compacted: Vec<(Revision, Revision)>,
}

impl Resuming {
    fn resume(&mut self, replica: &Arc<Replica>) {
        self.client = replica.open(Ok(everything(self.revision)));
    }

    fn take(&mut self, replica: &Arc<Replica>, message: &pb::WatchResponse) {
        if let Some(error) = &message.error {
            assert_eq!(error.code(), ErrorCode::Compacted);
            self.compacted.push((self.revision, error.revision - 1));
            self.revision = error.revision - 1;
            self.resume(replica);
            return;
        }
        assert!(message.revision >= self.revision);
        self.revision = message.revision;
        self.events.extend(message.events.clone());
    }
}

async fn run(steps: Vec<Step>, ring: usize) {
    let replica = Replica::new(ring);
    let client = replica.open(Ok(everything(0)));
    let mut resuming = Resuming {
        client,
        revision: 0,
        events: Vec::new(),
        compacted: Vec::new(),
    };
    for step in steps {
        match step {
            Step::Publish(sizes) => replica.publish(&sizes),
            Step::Reset(sizes) => {
                let (head, _) = replica.model.apply(&sizes);
                replica.hub.reset(head);
            }
            Step::Compact { keep } => replica.model.compact(replica.hub.head().saturating_sub(keep)),
            Step::Read(messages) => {
                for _ in 0..messages {
                    settle().await;
                    let Ok(bytes) = resuming.client.input.try_recv() else {
                        break;
                    };
                    resuming.take(&replica, &pb::WatchResponse::decode(bytes).unwrap());
                }
            }
            Step::Break => resuming.resume(&replica),
        }
    }
    let head = replica.hub.head();
    while resuming.revision < head {
        let message = resuming.client.message().await.unwrap();
        resuming.take(&replica, &message);
    }
    let gone = |revision: u64| {
        resuming
            .compacted
            .iter()
            .any(|(from, to)| (from + 1..=*to).contains(&revision))
    };
    let mut wanted = replica.wanted(0, head);
    wanted.retain(|event| !gone(event.kv.as_ref().unwrap().mod_rev));
    assert_eq!(resuming.events, wanted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_client_that_resumes_sees_every_event_once(steps in steps(), ring in 0..6_000_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(steps, ring));
    }
}
