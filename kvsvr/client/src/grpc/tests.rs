//! Over real sockets, against tonic's generated server: the bytes codec and the typed one must understand each other.

use kvsvr_proto::v1::{
    ExecFrame, ExecReply, ExecReplyFrame, ExecRequest, exec_reply, exec_request,
    kv_server::{Kv, KvServer},
};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

use super::*;
use crate::mux::NodeStream;

/// Echoes; the key says what else to do.
struct Echo;

type Replies = ReceiverStream<Result<ExecReplyFrame, Status>>;

#[tonic::async_trait]
impl Kv for Echo {
    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let put = request.into_inner().put.unwrap_or_default();
        match &put.key[..] {
            b"api error" => {
                let error = v1::Error {
                    code: v1::ErrorCode::Overloaded.into(),
                    ..v1::Error::default()
                };
                let details = error.encode_to_vec().into();
                Err(Status::with_details(
                    Code::ResourceExhausted,
                    "overloaded",
                    details,
                ))
            }
            b"invalid" => Err(Status::invalid_argument("a rule is broken")),
            b"slow" => std::future::pending().await,
            _ => Ok(Response::new(v1::PutResponse {
                revision: put.value.len() as u64,
                version: 1,
            })),
        }
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let kv = v1::KeyValue {
            value: vec![7; MAX_MESSAGE + 1].into(),
            ..v1::KeyValue::default()
        };
        Ok(Response::new(v1::GetResponse {
            kv: Some(kv),
            ..v1::GetResponse::default()
        }))
    }

    async fn range(&self, _: Request<v1::RangeRequest>) -> Result<Response<v1::RangeResponse>, Status> {
        Err(Status::unavailable("going away"))
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Status::unimplemented("no delete"))
    }

    async fn txn(&self, _: Request<v1::TxnRequest>) -> Result<Response<v1::TxnResponse>, Status> {
        Err(Status::unimplemented("no txn"))
    }

    async fn execute(&self, _: Request<v1::ExecuteRequest>) -> Result<Response<v1::ExecuteResponse>, Status> {
        Err(Status::unimplemented("no execute"))
    }

    type ExecStream = Replies;

    /// Answers the stream only after its first frame, as a server may.
    async fn exec(&self, request: Request<Streaming<ExecFrame>>) -> Result<Response<Replies>, Status> {
        let mut input = request.into_inner();
        let (output, replies) = mpsc::channel(16);
        let mut frame = input.message().await?;
        tokio::spawn(async move {
            while let Some(f) = frame {
                let replies = f.requests.into_iter().map(echo).collect();
                if output.send(Ok(ExecReplyFrame { replies })).await.is_err() {
                    return;
                }
                frame = input.message().await.unwrap_or(None);
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}

fn echo(request: ExecRequest) -> ExecReply {
    let Some(exec_request::Op::Command(bytes)) = request.op else {
        panic!("not a command")
    };
    ExecReply {
        id: request.id,
        map_epoch: 0,
        result: Some(exec_reply::Result::Outcome(bytes)),
    }
}

async fn serve(listener: TcpListener) -> JoinHandle<()> {
    tokio::spawn(async move {
        let kv = KvServer::new(Echo).max_encoding_message_size(usize::MAX);
        let server = tonic::transport::Server::builder().add_service(kv);
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    })
}

async fn server() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (address, serve(listener).await)
}

fn put(key: &'static str, value: usize) -> Bytes {
    let put = v1::Put {
        key: key.into(),
        value: vec![1; value].into(),
        ..v1::Put::default()
    };
    v1::PutRequest {
        partition: None,
        put: Some(put),
    }
    .encode_to_vec()
    .into()
}

const LONG: Duration = Duration::from_secs(20);

async fn call(
    transport: &GrpcTransport,
    address: &str,
    method: Method,
    request: Bytes,
) -> Result<Bytes, TransportError> {
    transport
        .call(address, Class::Control, method, request, LONG)
        .await
}

#[tokio::test]
async fn unary_calls_and_what_their_failures_mean() {
    let (address, _server) = server().await;
    let transport = GrpcTransport::new();
    let answer = call(&transport, &address, Method::KvPut, put("k", 100_000))
        .await
        .unwrap();
    assert_eq!(v1::PutResponse::decode(answer).unwrap().revision, 100_000);

    let error = call(&transport, &address, Method::KvPut, put("api error", 0))
        .await
        .unwrap_err();
    let TransportError::Api { error, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(error.code(), v1::ErrorCode::Overloaded);

    let error = call(&transport, &address, Method::KvPut, put("invalid", 0))
        .await
        .unwrap_err();
    assert!(matches!(error, TransportError::Rejected { .. }), "{error}");
    let error = call(&transport, &address, Method::KvDelete, Bytes::new())
        .await
        .unwrap_err();
    assert!(matches!(error, TransportError::Rejected { .. }), "{error}");
    let error = call(&transport, &address, Method::KvPut, put("k", MAX_MESSAGE))
        .await
        .unwrap_err();
    assert!(matches!(error, TransportError::Rejected { .. }), "{error}");

    // The answer is too large for this side: the operation happened.
    let error = call(&transport, &address, Method::KvGet, Bytes::new())
        .await
        .unwrap_err();
    assert!(error.is_unknown(), "{error}");
    let error = call(&transport, &address, Method::KvRange, Bytes::new())
        .await
        .unwrap_err();
    assert!(error.is_unknown(), "{error}");

    let short = Duration::from_millis(50);
    let error = transport
        .call(&address, Class::Data, Method::KvPut, put("slow", 0), short)
        .await
        .unwrap_err();
    assert!(matches!(error, TransportError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn nobody_there_is_definite() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let transport = GrpcTransport::new();
    for address in [&free[..], "not an address", "127.0.0.1:99999"] {
        let error = call(&transport, address, Method::KvPut, put("k", 1))
            .await
            .unwrap_err();
        assert!(
            matches!(error, TransportError::Unreachable { .. }),
            "{address}: {error}"
        );
        let error = transport
            .open(address, Class::Data, Method::KvExec)
            .await
            .map(|_| ())
            .unwrap_err();
        assert!(
            matches!(error, TransportError::Unreachable { .. }),
            "{address}: {error}"
        );
    }
}

#[tokio::test]
async fn the_mux_over_a_real_connection_and_a_restart_of_the_server() {
    let (address, server) = server().await;
    let transport = Arc::new(GrpcTransport::new());
    let stream = NodeStream::new(transport, &address[..]);
    let request = |n: usize| {
        let op = exec_request::Op::Command(vec![n as u8; n].into());
        ExecRequest {
            op: Some(op),
            ..ExecRequest::default()
        }
    };
    let soon = || Instant::now() + LONG;
    let calls = (0..2000).map(|n| stream.call(request(n), soon()));
    for (n, result) in futures::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(
            result.unwrap().result,
            Some(exec_reply::Result::Outcome(vec![n as u8; n].into()))
        );
    }
    server.abort();
    let _ = server.await;
    // The connection breaks, or none can be made; after that the new server answers.
    let listener = loop {
        if let Ok(listener) = TcpListener::bind(&address).await {
            break listener;
        }
        tokio::task::yield_now().await;
    };
    let _server = serve(listener).await;
    let deadline = soon();
    while let Err(error) = stream.call(request(3), soon()).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn dropping_the_sender_ends_the_stream_in_order() {
    let (address, _server) = server().await;
    let (sender, mut receiver) = GrpcTransport::new()
        .open(&address, Class::Data, Method::KvExec)
        .await
        .unwrap();
    let op = exec_request::Op::Command(Bytes::from_static(b"x"));
    let frame = ExecFrame {
        requests: vec![ExecRequest {
            id: 9,
            op: Some(op),
            ..ExecRequest::default()
        }],
    };
    sender.send(frame.encode_to_vec().into()).await.unwrap();
    drop(sender);
    let reply = ExecReplyFrame::decode(receiver.next().await.unwrap().unwrap()).unwrap();
    assert_eq!(reply.replies[0].id, 9);
    assert!(receiver.next().await.is_none());
    assert!(receiver.next().await.is_none());
}
