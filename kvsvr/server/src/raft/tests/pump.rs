//! Replication streams over a scripted peer: window, order, deadlines, ends.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, stream};
use kvsvr_proto::v1::{self as pb, append_response::Kind};
use openraft::{
    EntryPayload,
    base::BoxStream,
    entry::RaftEntry,
    errors::RPCError,
    network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult},
};
use tokio::time::{Instant, timeout};

use super::*;
use crate::{
    limits::{MAX_APPEND_BYTES_IN_FLIGHT, MAX_APPEND_SPREAD, MAX_APPENDS_IN_FLIGHT, MIN_APPEND_DEADLINE},
    metrics::Metrics,
    raft::{
        network::{Network, NetworkFactory, Peers},
        promises::Promises,
        snapshot::{SnapshotSender, TransferStatus},
        types::{Batch, Entry, LogId, TypeConfig, Vote},
    },
};

type Item = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Longer than any queue of these tests gets.
const ENDLESS: usize = 1_000;

fn id(index: u64) -> LogId {
    convert::log_id(at(index))
}

fn request(index: u64, bytes: usize) -> AppendEntriesRequest<TypeConfig> {
    let payload = EntryPayload::Normal(Batch(vec![0; bytes].into()));
    AppendEntriesRequest {
        vote: Vote::new_committed(2, 1),
        prev_log_id: index.checked_sub(1).map(id),
        entries: vec![Entry::new(id(index), payload)],
        leader_commit: None,
    }
}

fn answer(index: u64) -> Bytes {
    let response = pb::AppendResponse {
        log_id: Some(convert::pb_log_id(&id(index))),
        ..Default::default()
    };
    response.encode_to_vec().into()
}

struct Setup {
    network: Network,
    promises: Arc<Promises>,
    wire: Arc<Wire>,
    ends: mpsc::UnboundedReceiver<(Class, Method, PeerEnd)>,
}

async fn setup(queue: usize, heartbeat: bool) -> Setup {
    let (wire, ends) = Wire::new(queue);
    let status = Arc::new(TransferStatus::default());
    let checkpoints = Arc::new(MemCheckpoints::default());
    let promises = Arc::new(Promises::new(1000));
    let mut factory = NetworkFactory {
        peers: Peers {
            transport: wire.clone(),
            cluster_id: "c".into(),
            node_id: 1,
            store_id: "store-1".into(),
        },
        shard: SHARD,
        promises: promises.clone(),
        snapshots: Arc::new(SnapshotSender::new(
            checkpoints,
            "s".into(),
            status,
            Metrics::new(),
        )),
    };
    let network = if heartbeat {
        factory.new_heartbeat_client(2, &peer_node(2)).await
    } else {
        factory.new_client(2, &peer_node(2)).await
    };
    Setup {
        network,
        promises,
        wire,
        ends,
    }
}

const TTL: Duration = Duration::from_millis(100);

impl Setup {
    /// Opens the stream of answers, and gives the peer's end of it.
    async fn append<'a>(
        &'a mut self,
        input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    ) -> (BoxStream<'a, Item>, PeerEnd) {
        let answers = self
            .network
            .stream_append(input, RPCOption::new(TTL))
            .await
            .unwrap();
        let (class, method, end) = self.ends.recv().await.unwrap();
        assert_eq!((class, method), (Class::Data, Method::RaftAppend));
        (answers, end)
    }
}

/// Requests of the given size without end, and how many were taken.
fn endless(
    bytes: usize,
) -> (
    impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin,
    Arc<AtomicUsize>,
) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let requests = stream::iter(0..).map(move |index| {
        count.fetch_add(1, Ordering::Relaxed);
        request(index, bytes)
    });
    (requests, taken)
}

fn matched(item: Option<Item>) -> u64 {
    item.unwrap().unwrap().unwrap().unwrap().index
}

fn unreachable(item: Option<Item>) -> String {
    match item {
        Some(Err(RPCError::Unreachable(error))) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn decoded(end: &mut PeerEnd) -> pb::AppendRequest {
    pb::AppendRequest::decode(end.requests.recv().await.unwrap()).unwrap()
}

/// openraft must not hear of what it did not ask for.
#[tokio::test(start_paused = true)]
async fn an_answer_to_nothing_is_refused() {
    let mut setup = setup(ENDLESS, false).await;
    let (_later, requests) = futures::channel::mpsc::unbounded();
    let (mut answers, end) = setup.append(requests).await;
    end.answers.send(Ok(answer(0))).await.unwrap();
    assert!(unreachable(answers.next().await).contains("answered no request"));
    assert!(answers.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn requests_and_answers_keep_their_order() {
    let mut setup = setup(ENDLESS, false).await;
    let (mut answers, mut end) = setup.append(stream::iter((0..3).map(|i| request(i, 10)))).await;
    let (mut sent, mut envelopes) = (Vec::new(), Vec::new());
    assert!(answers.next().now_or_never().is_none());
    for index in 0..3 {
        let message = decoded(&mut end).await;
        envelopes.push(message.envelope.clone());
        sent.push(format!("{:?}", convert::from_pb_append(message).unwrap()));
        end.answers.send(Ok(answer(index))).await.unwrap();
    }
    let wanted = (0..3).map(|i| format!("{:?}", request(i, 10)));
    assert_eq!(sent, wanted.collect::<Vec<_>>());
    let envelope = pb::Envelope {
        cluster_id: "c".into(),
        from_node: 1,
        to_node: 2,
        to_store: "store-2".into(),
        shard: SHARD.0,
        from_store: "store-1".into(),
        to_incarnation: 0,
    };
    assert_eq!(
        envelopes,
        [Some(envelope), None, None],
        "only the first says whom it is for"
    );
    for index in 0..3 {
        assert_eq!(matched(answers.next().await), index);
    }
    // The input has ended: so does the stream in this direction, and when the peer ends it, too, that is a clean end.
    assert!(end.requests.recv().await.is_none());
    drop(end);
    assert!(answers.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_window_is_bounded_in_requests() {
    let mut setup = setup(ENDLESS, false).await;
    let (requests, taken) = endless(1);
    let (mut answers, end) = setup.append(requests).await;
    assert!(answers.next().now_or_never().is_none());
    assert_eq!(taken.load(Ordering::Relaxed), MAX_APPENDS_IN_FLIGHT);
    for index in 0..5 {
        end.answers.send(Ok(answer(index))).await.unwrap();
        assert_eq!(matched(answers.next().await), index);
    }
    assert!(answers.next().now_or_never().is_none());
    assert_eq!(taken.load(Ordering::Relaxed), MAX_APPENDS_IN_FLIGHT + 5);
}

#[tokio::test(start_paused = true)]
async fn the_window_is_bounded_in_bytes() {
    let mut setup = setup(ENDLESS, false).await;
    let (requests, taken) = endless(MAX_APPEND_BYTES_IN_FLIGHT / 4);
    let (mut answers, end) = setup.append(requests).await;
    assert!(answers.next().now_or_never().is_none());
    assert_eq!(taken.load(Ordering::Relaxed), 4);
    end.answers.send(Ok(answer(0))).await.unwrap();
    assert_eq!(matched(answers.next().await), 0);
    assert!(answers.next().now_or_never().is_none());
    assert_eq!(taken.load(Ordering::Relaxed), 5);
}

/// openraft would count an answer to the first one for those without entries that follow it.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_long_after_an_unanswered_request() {
    let mut setup = setup(ENDLESS, false).await;
    let (later, requests) = futures::channel::mpsc::unbounded();
    let (mut answers, mut end) = setup.append(requests).await;
    later.unbounded_send(request(0, 1)).unwrap();
    assert!(answers.next().now_or_never().is_none());
    decoded(&mut end).await;
    tokio::time::advance(MAX_APPEND_SPREAD).await;
    later.unbounded_send(request(1, 1)).unwrap();
    assert!(answers.next().now_or_never().is_none());
    assert!(end.requests.try_recv().is_err());
    end.answers.send(Ok(answer(0))).await.unwrap();
    assert_eq!(matched(answers.next().await), 0);
    assert!(answers.next().now_or_never().is_none());
    decoded(&mut end).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_the_window_goes_alone() {
    let mut setup = setup(ENDLESS, false).await;
    let (requests, taken) = endless(MAX_APPEND_BYTES_IN_FLIGHT + 1);
    let (mut answers, end) = setup.append(requests).await;
    assert!(answers.next().now_or_never().is_none());
    assert_eq!(taken.load(Ordering::Relaxed), 1);
    end.answers.send(Ok(answer(0))).await.unwrap();
    assert_eq!(matched(answers.next().await), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_is_unreachable() {
    let mut setup = setup(ENDLESS, false).await;
    let (requests, _) = endless(1);
    let (mut answers, end) = setup.append(requests).await;
    let started = Instant::now();
    assert!(unreachable(answers.next().await).contains("no answer within"));
    assert_eq!(started.elapsed(), MIN_APPEND_DEADLINE);
    assert!(answers.next().await.is_none(), "an error is the last item");
    drop(end);
}

/// Each answer gives the next one the full time again.
#[tokio::test(start_paused = true)]
async fn a_slow_peer_is_not_unreachable() {
    let mut setup = setup(ENDLESS, false).await;
    let (requests, _) = endless(1);
    let (mut answers, end) = setup.append(requests).await;
    for index in 0..5 {
        let pause = MIN_APPEND_DEADLINE - Duration::from_millis(1);
        assert!(timeout(pause, answers.next()).await.is_err());
        end.answers.send(Ok(answer(index))).await.unwrap();
        assert_eq!(matched(answers.next().await), index);
    }
}

/// Without a request there is nothing to wait for.
#[tokio::test(start_paused = true)]
async fn an_idle_stream_has_no_deadline() {
    let mut setup = setup(ENDLESS, false).await;
    let (later, requests) = futures::channel::mpsc::unbounded();
    let (mut answers, end) = setup.append(requests).await;
    let day = Duration::from_secs(86_400);
    assert!(timeout(day, answers.next()).await.is_err());
    later.unbounded_send(request(0, 1)).unwrap();
    assert!(answers.next().now_or_never().is_none());
    end.answers.send(Ok(answer(0))).await.unwrap();
    assert_eq!(matched(answers.next().await), 0);
    assert!(timeout(day, answers.next()).await.is_err());
    // The peer ends an idle stream: nothing is lost.
    drop(end);
    assert!(answers.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_data_is_unreachable() {
    let mut setup = setup(2, false).await;
    let (requests, taken) = endless(1);
    let (mut answers, end) = setup.append(requests).await;
    let started = Instant::now();
    assert!(unreachable(answers.next().await).contains("does not take data"));
    assert_eq!(started.elapsed(), MIN_APPEND_DEADLINE);
    assert_eq!(taken.load(Ordering::Relaxed), 3);
    drop(end);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_early_is_unreachable() {
    let mut setup = setup(ENDLESS, false).await;
    let (requests, _) = endless(1);
    let (mut answers, end) = setup.append(requests).await;
    assert!(answers.next().now_or_never().is_none());
    end.answers.send(Ok(answer(0))).await.unwrap();
    let PeerEnd {
        requests,
        answers: to,
    } = end;
    drop(to);
    assert_eq!(matched(answers.next().await), 0, "what it answered counts");
    assert!(unreachable(answers.next().await).contains("closed the stream"));
    assert!(answers.next().await.is_none());
    drop(requests);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_when_the_input_ends_is_answered() {
    let mut setup = setup(ENDLESS, false).await;
    let (mut answers, mut end) = setup.append(stream::iter([request(0, 1), request(1, 1)])).await;
    assert!(answers.next().now_or_never().is_none());
    assert_eq!(decoded(&mut end).await.entries.len(), 1);
    decoded(&mut end).await;
    assert!(end.requests.recv().await.is_none());
    for index in 0..2 {
        end.answers.send(Ok(answer(index))).await.unwrap();
        assert_eq!(matched(answers.next().await), index);
    }
    // Answered completely, but the peer does not end its direction: there is no deadline for that.
    assert!(answers.next().now_or_never().is_none());
    drop(end);
    assert!(answers.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn conflicts_and_votes_reach_openraft() {
    let mut setup = setup(ENDLESS, false).await;
    let (requests, _) = endless(1);
    let (mut answers, end) = setup.append(requests).await;
    assert!(answers.next().now_or_never().is_none());
    let mut conflict = pb::AppendResponse {
        log_id: Some(convert::pb_log_id(&id(7))),
        ..Default::default()
    };
    conflict.set_kind(Kind::Conflict);
    let mut higher = pb::AppendResponse {
        vote: Some(convert::pb_vote(&Vote::new(9, 3))),
        ..Default::default()
    };
    higher.set_kind(Kind::HigherVote);
    for message in [conflict, higher] {
        end.answers
            .send(Ok(message.encode_to_vec().into()))
            .await
            .unwrap();
    }
    let first = answers.next().await.unwrap().unwrap();
    assert!(matches!(first, Err(StreamAppendError::Conflict(found)) if found == id(7)));
    let second = answers.next().await.unwrap().unwrap();
    assert!(matches!(second, Err(StreamAppendError::HigherVote(vote)) if vote == Vote::new(9, 3)));
}

/// Answers that end the stream: a refusal, a conflict without its place, bytes that are no message, a broken connection.
#[tokio::test(start_paused = true)]
async fn refusals_and_garbage_are_unreachable() {
    let mut refusal = pb::AppendResponse {
        message: "its disk was lost".into(),
        ..Default::default()
    };
    refusal.set_kind(Kind::Refused);
    let mut conflict = pb::AppendResponse::default();
    conflict.set_kind(Kind::Conflict);
    let cases: [(Result<Bytes, TransportError>, &str); 4] = [
        (Ok(refusal.encode_to_vec().into()), "its disk was lost"),
        (Ok(conflict.encode_to_vec().into()), "conflict without log id"),
        (Ok(Bytes::from_static(b"\xff\xff\xff")), "does not decode"),
        (Err(broken("reset")), "reset"),
    ];
    for (message, text) in cases {
        let mut setup = setup(ENDLESS, false).await;
        let (requests, _) = endless(1);
        let (mut answers, end) = setup.append(requests).await;
        assert!(answers.next().now_or_never().is_none());
        end.answers.send(message).await.unwrap();
        let error = unreachable(answers.next().await);
        assert!(error.contains(text), "{error}");
        assert!(answers.next().await.is_none());
    }
}

/// Heartbeats are single calls with a deadline of their own, on a connection of their own.
#[tokio::test(start_paused = true)]
async fn heartbeats_are_calls() {
    let mut setup = setup(ENDLESS, true).await;
    *setup.wire.answer.lock() = Some(Ok(answer(0)));
    let input = stream::iter([request(0, 0), request(0, 0)]);
    let answers: Vec<_> = setup
        .network
        .stream_append(input, RPCOption::new(TTL))
        .await
        .unwrap()
        .collect()
        .await;
    assert_eq!(answers.len(), 2);
    assert!(answers.into_iter().all(|item| matched(Some(item)) == 0));
    for (class, method, request, deadline) in setup.wire.calls.lock().iter() {
        assert_eq!((*class, *method), (Class::Control, Method::RaftHeartbeat));
        assert_eq!(*deadline, RPCOption::new(TTL).hard_ttl());
        let request = pb::AppendRequest::decode(request.clone()).unwrap();
        assert_eq!(request.envelope.unwrap().to_store, "store-2");
    }
    assert!(setup.ends.try_recv().is_err(), "no stream was opened");
    *setup.wire.answer.lock() = None;
    let input = stream::iter([request(0, 0)]);
    let mut answers = setup
        .network
        .stream_append(input, RPCOption::new(TTL))
        .await
        .unwrap();
    assert!(unreachable(answers.next().await).contains("nobody answers"));
}

/// Whatever carries an acknowledgement, the leader knows how long it holds before it counts.
#[tokio::test(start_paused = true)]
async fn acknowledgements_say_how_long_they_hold() {
    let promising = |promise_ms: u32| {
        let response = pb::AppendResponse {
            promise_ms,
            ..pb::AppendResponse::decode(answer(0)).unwrap()
        };
        Bytes::from(response.encode_to_vec())
    };
    let mut streaming = setup(ENDLESS, false).await;
    let promises = streaming.promises.clone();
    let (mut answers, end) = streaming
        .append(stream::iter([request(0, 10), request(1, 0)]))
        .await;
    assert!(answers.next().now_or_never().is_none());
    assert_eq!(promises.shortest(), Duration::from_millis(1000), "its own");
    for ms in [700, 900] {
        end.answers.send(Ok(promising(ms))).await.unwrap();
        assert_eq!(matched(answers.next().await), 0);
        assert_eq!(promises.shortest(), Duration::from_millis(ms.into()));
    }

    let mut calling = setup(ENDLESS, true).await;
    *calling.wire.answer.lock() = Some(Ok(promising(600)));
    let input = stream::iter([request(0, 0)]);
    let option = RPCOption::new(TTL);
    let mut answers = calling.network.stream_append(input, option).await.unwrap();
    assert_eq!(matched(answers.next().await), 0);
    assert_eq!(calling.promises.shortest(), Duration::from_millis(600));
}

/// A peer that takes no messages, as after the loss of its disk, says so to each stream that is opened.
#[tokio::test(start_paused = true)]
async fn a_refusal_promises_nothing_and_takes_nothing_back() {
    let mut setup = setup(ENDLESS, false).await;
    let promises = setup.promises.clone();
    let (mut answers, end) = setup.append(stream::iter([request(0, 10)])).await;
    assert!(answers.next().now_or_never().is_none());
    let mut refusal = pb::AppendResponse::default();
    refusal.set_kind(pb::append_response::Kind::Refused);
    end.answers
        .send(Ok(refusal.encode_to_vec().into()))
        .await
        .unwrap();
    unreachable(answers.next().await);
    assert_eq!(promises.shortest(), Duration::from_millis(1000));
}
