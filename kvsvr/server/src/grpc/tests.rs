//! The port on loopback with a fake [`Service`], driven by generated clients.

mod connections;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use kvsvr_client::transport::{Method, StreamReceiver, StreamSender};
use kvsvr_proto::v1::{
    self as pb, admin_client::AdminClient, kv_client::KvClient, watch_client::WatchClient,
};
use prost::Message as _;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tonic::{
    Code, Request as GrpcRequest,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

use super::*;
use crate::service::CallError;

/// Longer than anything here takes; it only keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers by what the key of a request says.
#[derive(Default)]
struct FakeNode {
    /// Streams whose future exists.
    open: Arc<AtomicUsize>,
    /// Gets a message when a stream's future is dropped.
    closed: Option<mpsc::UnboundedSender<Method>>,
}

struct OpenStream {
    method: Method,
    open: Arc<AtomicUsize>,
    closed: Option<mpsc::UnboundedSender<Method>>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
        if let Some(closed) = &self.closed {
            let _ = closed.send(self.method);
        }
    }
}

fn api(code: pb::ErrorCode, message: &str) -> CallError {
    let error = pb::Error {
        code: code.into(),
        message: message.into(),
        leader_address: "10.0.0.2:7101".into(),
        ..Default::default()
    };
    CallError::Api(Box::new(error))
}

impl Service for FakeNode {
    fn call(&self, method: Method, request: Bytes) -> BoxFuture<'static, Result<Bytes, CallError>> {
        async move {
            match method {
                Method::KvGet => {
                    let request =
                        pb::GetRequest::decode(request).map_err(|e| CallError::Malformed(e.to_string()))?;
                    match &request.key[..] {
                        b"no leader" => Err(api(pb::ErrorCode::NoLeader, "shard 3 has no leader")),
                        b"empty" => Ok(Bytes::new()),
                        key => {
                            let kv = pb::KeyValue {
                                value: key.repeat(2).into(),
                                ..Default::default()
                            };
                            Ok(pb::GetResponse {
                                revision: 7,
                                kv: Some(kv),
                                ..Default::default()
                            }
                            .encode_to_vec()
                            .into())
                        }
                    }
                }
                _ => Err(CallError::Unsupported("the fake node has no such method")),
            }
        }
        .boxed()
    }

    fn open(
        &self,
        method: Method,
        mut input: StreamReceiver,
        output: StreamSender,
    ) -> BoxFuture<'static, Result<(), CallError>> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let guard = OpenStream {
            method,
            open: Arc::clone(&self.open),
            closed: self.closed.clone(),
        };
        async move {
            let _guard = guard;
            match method {
                Method::WatchWatch => watch(input, output).await,
                _ => {
                    while let Some(message) = input.next().await {
                        let Ok(message) = message else { break };
                        let frame = pb::ExecFrame::decode(message)
                            .map_err(|e| CallError::Malformed(e.to_string()))?;
                        if frame.requests.iter().any(|request| request.id == 13) {
                            return Err(api(pb::ErrorCode::Overloaded, "too much"));
                        }
                        let reply = |r: &pb::ExecRequest| pb::ExecReply {
                            id: r.id,
                            ..Default::default()
                        };
                        let replies = frame.requests.iter().map(reply).collect();
                        if output
                            .send(pb::ExecReplyFrame { replies }.encode_to_vec().into())
                            .await
                            .is_err()
                        {
                            break;
                        }
                    }
                    Ok(())
                }
            }
        }
        .boxed()
    }
}

/// Sends `after_revision` events and ends; with 0 it stays open after one.
async fn watch(mut input: StreamReceiver, output: StreamSender) -> Result<(), CallError> {
    let request = input.next().await.expect("one request").expect("no error");
    assert!(
        input.next().await.is_none(),
        "a server-streaming call has one request"
    );
    let wanted = pb::WatchRequest::decode(request)
        .expect("a watch request")
        .after_revision;
    for revision in 1..=wanted.max(1) {
        let event = pb::WatchResponse {
            revision,
            ..Default::default()
        };
        output
            .send(event.encode_to_vec().into())
            .await
            .expect("the client reads");
    }
    if wanted == 0 {
        output.closed().await;
    }
    Ok(())
}

struct Running {
    address: SocketAddr,
    health: Health,
    metrics: Arc<Metrics>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

async fn start_with(node: FakeNode, options: GrpcOptions) -> Running {
    let server = GrpcServer::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = oneshot::channel();
    let (address, health, metrics) = (server.local_addr(), server.health(), Metrics::new());
    let serve = server.serve(Arc::new(node), metrics.clone(), options, async move {
        drop(stopped.await)
    });
    Running {
        address,
        health,
        metrics,
        stop: Some(stop),
        task: tokio::spawn(serve),
    }
}

async fn start() -> Running {
    start_with(FakeNode::default(), GrpcOptions::default()).await
}

impl Running {
    async fn channel(&self) -> Channel {
        Endpoint::new(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    async fn get(&self, key: &[u8]) -> Result<pb::GetResponse, tonic::Status> {
        let request = pb::GetRequest {
            key: key.to_vec().into(),
            ..Default::default()
        };
        let mut client = KvClient::new(self.channel().await).max_decoding_message_size(64 << 20);
        client.get(request).await.map(tonic::Response::into_inner)
    }

    /// Stops the server and waits for it.
    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

fn frame(ids: &[u64]) -> pb::ExecFrame {
    pb::ExecFrame {
        requests: ids
            .iter()
            .map(|id| pb::ExecRequest {
                id: *id,
                ..Default::default()
            })
            .collect(),
    }
}

/// An open Exec stream of which `first` has been answered.
async fn exec(
    running: &Running,
    first: u64,
) -> (mpsc::Sender<pb::ExecFrame>, tonic::Streaming<pb::ExecReplyFrame>) {
    let (frames, receiver) = mpsc::channel(4);
    let requests = futures::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|m| (m, r)) });
    let mut replies = KvClient::new(running.channel().await)
        .exec(requests)
        .await
        .unwrap()
        .into_inner();
    frames.send(frame(&[first])).await.unwrap();
    assert_eq!(replies.message().await.unwrap().unwrap().replies[0].id, first);
    (frames, replies)
}

#[tokio::test]
async fn unary_calls() {
    let running = start().await;
    let answer = running.get(b"ab").await.unwrap();
    assert_eq!(
        (answer.revision, &answer.kv.unwrap().value[..]),
        (7, &b"abab"[..])
    );
    assert_eq!(running.get(b"empty").await.unwrap(), pb::GetResponse::default());
    let large = running.get(&vec![b'x'; 6 << 20]).await.unwrap();
    assert_eq!(large.kv.unwrap().value.len(), 12 << 20);
    running.stop().await;
}

#[tokio::test]
async fn errors_have_a_code_a_message_and_details() {
    let running = start().await;
    let status = running.get(b"no leader").await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "NO_LEADER: shard 3 has no leader")
    );
    let details = pb::Error::decode(status.details()).unwrap();
    assert_eq!(
        (details.code(), &details.leader_address[..]),
        (pb::ErrorCode::NoLeader, "10.0.0.2:7101")
    );

    let status = AdminClient::new(running.channel().await)
        .status(pb::StatusRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = running.get(&vec![b'x'; 17 << 20]).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let status = running.get(&vec![b'x'; 9 << 20]).await.unwrap_err();
    assert!(status.message().contains("the answer has"), "{status:?}");
    assert!(running.get(b"still serving").await.is_ok());
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let running = start().await;
    let mut grpc = tonic::client::Grpc::new(running.channel().await);
    for path in ["/kvsvr.v1.Kv/Nothing", "/kvsvr.v9.Kv/Get", "/"] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost_codec();
        let request = GrpcRequest::new(pb::StatusRequest {});
        let result: Result<tonic::Response<pb::StatusResponse>, _> = grpc
            .unary(request, http::uri::PathAndQuery::from_static(path), codec)
            .await;
        let status = result.unwrap_err();
        assert!(
            status.code() == Code::Unimplemented && status.message().contains(path),
            "{status:?}"
        );
    }
}

#[tokio::test]
async fn malformed_requests_are_invalid() {
    let running = start().await;
    let mut grpc = tonic::client::Grpc::new(running.channel().await);
    grpc.ready().await.unwrap();
    // A health request whose field 1 is a string where a GetRequest has a message.
    let request = GrpcRequest::new(HealthCheckRequest {
        service: "\u{1}\u{1}\u{1}".into(),
    });
    let result: Result<tonic::Response<pb::GetResponse>, _> = grpc
        .unary(
            request,
            http::uri::PathAndQuery::from_static("/kvsvr.v1.Kv/Get"),
            tonic_prost_codec(),
        )
        .await;
    let status = result.unwrap_err();
    assert!(
        status.code() == Code::InvalidArgument && status.message().starts_with("INVALID: "),
        "{status:?}"
    );
}

fn tonic_prost_codec<A, B>() -> tonic_prost::ProstCodec<A, B>
where
    A: prost::Message + Send + 'static,
    B: prost::Message + Default + Send + 'static,
{
    tonic_prost::ProstCodec::default()
}

#[tokio::test]
async fn bidirectional_streams() {
    let running = start().await;
    let (frames, mut replies) = exec(&running, 1).await;
    for n in 20..60 {
        frames.send(frame(&[n, n + 1000])).await.unwrap();
        let reply = replies.message().await.unwrap().unwrap();
        assert_eq!(
            reply.replies.iter().map(|r| r.id).collect::<Vec<_>>(),
            [n, n + 1000]
        );
    }
    drop(frames);
    assert!(
        replies.message().await.unwrap().is_none(),
        "the service ended without an error"
    );

    let (frames, mut replies) = exec(&running, 1).await;
    frames.send(frame(&[13])).await.unwrap();
    let status = replies.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "OVERLOADED: too much")
    );
    running.stop().await;
}

#[tokio::test]
async fn server_streaming() {
    let running = start().await;
    let request = pb::WatchRequest {
        after_revision: 100,
        ..Default::default()
    };
    let events = WatchClient::new(running.channel().await)
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    let revisions: Vec<u64> = events.map(|event| event.unwrap().revision).collect().await;
    assert_eq!(revisions, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_is_gone_ends_the_services_stream() {
    let (closed, mut closings) = mpsc::unbounded_channel();
    let node = FakeNode {
        closed: Some(closed),
        ..Default::default()
    };
    let open = Arc::clone(&node.open);
    let running = start_with(node, GrpcOptions::default()).await;

    let (frames, replies) = exec(&running, 1).await;
    let mut events = WatchClient::new(running.channel().await)
        .watch(pb::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().revision, 1);
    assert_eq!(open.load(Ordering::SeqCst), 2);
    drop(events);
    assert_eq!(
        timeout(PATIENCE, closings.recv()).await.unwrap(),
        Some(Method::WatchWatch)
    );
    drop((frames, replies));
    assert_eq!(
        timeout(PATIENCE, closings.recv()).await.unwrap(),
        Some(Method::KvExec)
    );
    assert_eq!(open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn stopping_ends_streams_in_order() {
    let running = start().await;
    let (_frames, mut replies) = exec(&running, 1).await;
    let mut events = WatchClient::new(running.channel().await)
        .watch(pb::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    events.message().await.unwrap();
    let address = running.address;
    running.stop().await;
    assert!(
        replies.message().await.unwrap().is_none(),
        "the input ended, so the service ended"
    );
    assert_eq!(events.message().await.unwrap_err().code(), Code::Unavailable);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let running = start().await;
    let ask = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(running.channel().await);
    let answers = client
        .server_reflection_info(futures::stream::iter([ask]))
        .await
        .unwrap();
    let answer = answers
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|service| &service.name[..]).collect();
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(names.contains(&service), "{service} is not in {names:?}");
    }

    let ask = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol("kvsvr.v1.Kv".into()),
        ),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(running.channel().await);
    let answers = client
        .server_reflection_info(futures::stream::iter([ask]))
        .await
        .unwrap();
    let answer = answers
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    use v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse;
    assert!(matches!(answer, FileDescriptorResponse(_)), "{answer:?}");
}

#[tokio::test]
async fn health_follows_the_handle() {
    let running = start().await;
    let mut client = HealthClient::new(running.channel().await);
    // 1 is SERVING, 2 is NOT_SERVING in grpc.health.v1.
    for (serving, expected) in [(None, 2), (Some(true), 1), (Some(false), 2)] {
        if let Some(serving) = serving {
            running.health.set_serving(serving).await;
        }
        for service in ["", "kvsvr.v1.Kv"] {
            let answer = client
                .check(HealthCheckRequest {
                    service: service.into(),
                })
                .await
                .unwrap();
            assert_eq!(answer.into_inner().status, expected, "{service:?}");
        }
    }
    let status = client
        .check(HealthCheckRequest {
            service: "nobody".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
