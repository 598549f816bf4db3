use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use kvsvr_proto::v1::{ExecFrame, ExecReplyFrame};
use tokio::sync::mpsc;

use super::*;
use crate::{
    fake::{Receiver, settle},
    transport::{Class, Method, STREAM_QUEUE, StreamReceiver, StreamSender},
};

type Stream = (mpsc::Receiver<Bytes>, mpsc::Sender<Result<Bytes, TransportError>>);

/// Hands the server's end of each stream that is opened to the test; refuses while there is nobody to take it.
struct Scripted(mpsc::Sender<Stream>);

impl Transport for Scripted {
    fn call(
        &self,
        _: &str,
        _: Class,
        _: Method,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        unreachable!("a stream does not call")
    }

    fn open(
        &self,
        address: &str,
        class: Class,
        method: Method,
    ) -> BoxFuture<'static, Result<(StreamSender, StreamReceiver), TransportError>> {
        assert_eq!((class, method), (Class::Data, Method::KvExec));
        let (sender, input) = mpsc::channel(STREAM_QUEUE);
        let (output, receiver) = mpsc::channel(STREAM_QUEUE);
        let result = match self.0.try_send((input, output)) {
            Ok(()) => Ok((sender, StreamReceiver::new(Receiver(receiver)))),
            Err(_) => {
                let reason = "connection refused".to_owned();
                Err(TransportError::Unreachable {
                    address: address.to_owned(),
                    reason,
                })
            }
        };
        async move { result }.boxed()
    }
}

fn pair() -> (NodeStream, mpsc::Receiver<Stream>) {
    let (server, streams) = mpsc::channel(1);
    (NodeStream::new(Arc::new(Scripted(server)), "n:1"), streams)
}

fn request(text: &str) -> ExecRequest {
    let op = exec_request::Op::Command(Bytes::copy_from_slice(text.as_bytes()));
    ExecRequest {
        op: Some(op),
        ..ExecRequest::default()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn frame(input: &mut mpsc::Receiver<Bytes>) -> Vec<ExecRequest> {
    ExecFrame::decode(input.recv().await.unwrap()).unwrap().requests
}

/// The reply says what the request said.
fn echo(request: &ExecRequest) -> ExecReply {
    use kvsvr_proto::v1::exec_reply;
    let Some(exec_request::Op::Command(bytes)) = request.op.clone() else {
        panic!("{request:?}")
    };
    ExecReply {
        id: request.id,
        map_epoch: 0,
        result: Some(exec_reply::Result::Outcome(bytes)),
    }
}

fn said(reply: ExecReply) -> Bytes {
    match reply.result {
        Some(kvsvr_proto::v1::exec_reply::Result::Outcome(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

async fn reply(output: &mpsc::Sender<Result<Bytes, TransportError>>, replies: Vec<ExecReply>) {
    output
        .send(Ok(ExecReplyFrame { replies }.encode_to_vec().into()))
        .await
        .unwrap();
}

fn spawn_calls(stream: &NodeStream, n: usize) -> Vec<tokio::task::JoinHandle<ExecResult>> {
    (0..n)
        .map(|i| {
            let stream = stream.clone();
            tokio::spawn(async move { stream.call(request(&i.to_string()), soon()).await })
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_share_a_frame_and_replies_find_their_callers_in_any_order() {
    let (stream, mut streams) = pair();
    let calls = spawn_calls(&stream, 50);
    let (mut input, output) = streams.recv().await.unwrap();
    let mut requests = frame(&mut input).await;
    assert_eq!(requests.len(), 50);
    requests.reverse();
    let (first, second) = requests.split_at(20);
    reply(&output, first.iter().map(echo).collect()).await;
    reply(&output, second.iter().map(echo).collect()).await;
    for (i, call) in calls.into_iter().enumerate() {
        assert_eq!(said(call.await.unwrap().unwrap()), i.to_string());
    }
    assert!(stream.round_trip() > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn while_the_transport_is_busy_requests_gather() {
    let (stream, mut streams) = pair();
    let mut calls = spawn_calls(&stream, 1);
    let (mut input, output) = streams.recv().await.unwrap();
    settle().await; // the first frame is in the transport's queue
    for _ in 0..40 {
        calls.extend(spawn_calls(&stream, 5));
        settle().await;
    }
    let mut sizes = Vec::new();
    let mut requests = Vec::new();
    while requests.len() < 201 {
        let frame = frame(&mut input).await;
        sizes.push(frame.len());
        requests.extend(frame);
    }
    assert!(sizes.len() <= 4, "{sizes:?}");
    reply(&output, requests.iter().map(echo).collect()).await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_break_tells_sent_from_not_sent_and_the_next_call_reconnects() {
    let (stream, mut streams) = pair();
    let sent = spawn_calls(&stream, 3);
    let (mut input, output) = streams.recv().await.unwrap();
    frame(&mut input).await;
    // The transport's queue fills up: what comes later waits here.
    let mut later = Vec::new();
    for _ in 0..4 {
        later.extend(spawn_calls(&stream, 2));
        settle().await;
    }
    let reason = "connection reset".to_owned();
    output
        .send(Err(TransportError::Broken {
            address: "n:1".into(),
            reason,
        }))
        .await
        .unwrap();
    for call in sent {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, TransportError::Broken { .. }), "{error}");
        assert!(error.to_string().contains("connection reset"), "{error}");
    }
    let mut definite = 0;
    for call in later {
        definite += usize::from(!call.await.unwrap().unwrap_err().is_unknown());
    }
    assert!(
        definite > 0,
        "those that were not handed over are known not to have been sent"
    );
    let call = spawn_calls(&stream, 1);
    let (mut input, output) = streams.recv().await.unwrap();
    let requests = frame(&mut input).await;
    reply(&output, requests.iter().map(echo).collect()).await;
    for call in call {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_node_is_not_tried_again_at_once() {
    let (stream, mut streams) = pair();
    streams.close();
    let error = stream.call(request("a"), soon()).await.unwrap_err();
    assert!(matches!(&error, TransportError::Unreachable { .. }), "{error}");
    let error = stream.call(request("a"), soon()).await.unwrap_err();
    assert!(error.to_string().contains("trying again shortly"), "{error}");
    // In virtual time.
    tokio::time::sleep(crate::limits::MAX_RECONNECT_PAUSE * 2).await;
    let error = stream.call(request("a"), soon()).await.unwrap_err();
    assert!(!error.to_string().contains("trying again shortly"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn deadlines_pass_and_late_replies_find_nobody() {
    let (stream, mut streams) = pair();
    let deadline = Instant::now() + Duration::from_millis(200);
    let call = {
        let stream = stream.clone();
        tokio::spawn(async move { stream.call(request("late"), deadline).await })
    };
    let (mut input, output) = streams.recv().await.unwrap();
    let late = frame(&mut input).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Timeout { .. }), "{error}");
    assert!(deadline.elapsed() <= crate::limits::SWEEP_IDLE);
    // The same slot, another request.
    let call = spawn_calls(&stream, 1);
    let requests = frame(&mut input).await;
    reply(&output, late.iter().map(echo).collect()).await;
    reply(&output, requests.iter().map(echo).collect()).await;
    for call in call {
        assert_eq!(said(call.await.unwrap().unwrap()), "0");
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_sent_by_its_deadline_is_definite() {
    let (stream, mut streams) = pair();
    let mut stuck = spawn_calls(&stream, 1);
    let (_input, _output) = streams.recv().await.unwrap();
    for _ in 0..3 {
        settle().await;
        stuck.extend(spawn_calls(&stream, 1));
    }
    settle().await;
    let error = stream
        .call(request("x"), Instant::now() + Duration::from_millis(100))
        .await
        .unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn call_many_keeps_the_order() {
    let (stream, mut streams) = pair();
    let many: Vec<_> = (0..1200).map(|i| request(&i.to_string())).collect();
    let call = {
        let stream = stream.clone();
        tokio::spawn(async move { stream.call_many(many, soon()).await })
    };
    let (mut input, output) = streams.recv().await.unwrap();
    let mut left = 1200;
    while left > 0 {
        let requests = frame(&mut input).await;
        assert!(requests.len() <= crate::limits::MAX_FRAME_REQUESTS);
        left -= requests.len();
        reply(&output, requests.iter().rev().map(echo).collect()).await;
    }
    for (i, result) in call.await.unwrap().into_iter().enumerate() {
        assert_eq!(said(result.unwrap()), i.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn pending_requests_are_bounded_and_room_is_announced() {
    let (stream, mut streams) = pair();
    let calls = spawn_calls(&stream, MAX_PENDING + 10);
    let (mut input, output) = streams.recv().await.unwrap();
    let mut answered = 0;
    while answered < MAX_PENDING + 10 {
        let requests = frame(&mut input).await;
        {
            let state = stream.shared.state.lock();
            assert!(state.queue.len() + state.sent.len() <= MAX_PENDING);
        }
        answered += requests.len();
        reply(&output, requests.iter().map(echo).collect()).await;
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_breaks_the_stream() {
    let (stream, mut streams) = pair();
    let calls = spawn_calls(&stream, 1);
    let (mut input, output) = streams.recv().await.unwrap();
    frame(&mut input).await;
    output
        .send(Ok(Bytes::from_static(b"\xff\xff\xff")))
        .await
        .unwrap();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, TransportError::Broken { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_stream() {
    let (stream, mut streams) = pair();
    let call = spawn_calls(&stream, 1);
    let (mut input, output) = streams.recv().await.unwrap();
    let requests = frame(&mut input).await;
    reply(&output, requests.iter().map(echo).collect()).await;
    for call in call {
        call.await.unwrap().unwrap();
    }
    drop(stream);
    assert_eq!(input.recv().await, None);
}
