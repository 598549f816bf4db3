//! From the path of a call to who answers it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::body::Incoming;
use kvsvr_client::transport::{Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver};
use tokio::sync::mpsc;
use tonic::{
    Status, Streaming,
    body::Body,
    server::{Grpc, NamedService},
};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

use super::{
    codec::{Intake, RawCodec, meter},
    status::status,
    stream::{Inbound, Outbound, Single},
};
use crate::{
    limits::{MAX_INTAKE_BYTES, MAX_MESSAGE_BYTES},
    listen::Latch,
    service::Service,
};

/// The form of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Unary,
    ServerStreaming,
    Bidirectional,
}

fn form(method: Method) -> Form {
    match method {
        Method::KvExec | Method::RaftAppend | Method::RaftSnapshot => Form::Bidirectional,
        Method::WatchWatch | Method::ConsumerStream | Method::AdminBackup => Form::ServerStreaming,
        _ => Form::Unary,
    }
}

type Handler = Box<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// All that the port serves.
pub(super) struct Router {
    service: Arc<dyn Service>,
    /// Services made by tonic, by the prefix of their paths.
    others: Vec<(String, Handler)>,
    intake: Arc<Intake>,
    stop: Latch,
}

impl Router {
    pub(super) fn new(service: Arc<dyn Service>, health: HealthService, stop: Latch) -> Self {
        let mut others = vec![erase(HealthServer::new(health))];
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(kvsvr_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // The descriptors are compiled in and tested: if they cannot be read the node still serves, without reflection.
        match (reflection().build_v1(), reflection().build_v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => others.extend([erase(v1), erase(v1alpha)]),
            (Err(error), _) | (_, Err(error)) => tracing::warn!(%error, "no server reflection"),
        }
        Self {
            service,
            others,
            intake: Intake::new(MAX_INTAKE_BYTES),
            stop,
        }
    }

    /// Answers one call.
    pub(super) async fn route(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let is_grpc = request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if !is_grpc {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let path = request.uri().path();
        match Method::from_path(path) {
            Some(method) => match form(method) {
                Form::Unary => self.unary(method, request).await,
                Form::ServerStreaming => self.server_streaming(method, request).await,
                Form::Bidirectional => self.bidirectional(method, request, peer).await,
            },
            None => match self
                .others
                .iter()
                .find(|(prefix, _)| path.starts_with(prefix.as_str()))
            {
                Some((_, handler)) => handler(request.map(Body::new)).await,
                None => Status::unimplemented(format!("this node has no method {path}")).into_http(),
            },
        }
    }

    async fn unary(&self, method: Method, request: Request<Incoming>) -> Response<Body> {
        let (mut grpc, request) = self.grpc(request);
        let service = &self.service;
        let handler = tower::service_fn(move |request: tonic::Request<Bytes>| {
            let answer = service.call(method, request.into_inner());
            async move { answer.await.map(tonic::Response::new).map_err(status) }
        });
        grpc.unary(handler, request).await
    }

    async fn server_streaming(&self, method: Method, request: Request<Incoming>) -> Response<Body> {
        let (mut grpc, request) = self.grpc(request);
        let handler = tower::service_fn(|request: tonic::Request<Bytes>| {
            let input = Single(Some(request.into_inner()));
            let output = self.open(method, input, Some(self.stop.clone()));
            async move { Ok::<_, Status>(tonic::Response::new(output)) }
        });
        grpc.server_streaming(handler, request).await
    }

    async fn bidirectional(
        &self,
        method: Method,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<Body> {
        let (mut grpc, request) = self.grpc(request);
        let handler = tower::service_fn(|request: tonic::Request<Streaming<Bytes>>| {
            let input = Inbound {
                messages: request.into_inner(),
                peer,
                stop: self.stop.clone(),
            };
            let output = self.open(method, input, None);
            async move { Ok::<_, Status>(tonic::Response::new(output)) }
        });
        grpc.streaming(handler, request).await
    }

    fn open(&self, method: Method, input: impl ReceiveMessages + 'static, stop: Option<Latch>) -> Outbound {
        let (sender, messages) = mpsc::channel(STREAM_QUEUE);
        let task = tokio::spawn(self.service.open(method, StreamReceiver::new(input), sender));
        Outbound::new(messages, task, stop)
    }

    fn grpc(
        &self,
        request: Request<Incoming>,
    ) -> (Grpc<RawCodec>, Request<super::codec::MeteredBody<Incoming>>) {
        let (head, body) = request.into_parts();
        let (body, codec) = meter(body, &self.intake);
        let grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE_BYTES);
        (grpc, Request::from_parts(head, body))
    }
}

/// A service made by tonic as a plain function, with the prefix of its paths.
fn erase<S>(service: S) -> (String, Handler)
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let handler = move |request| {
        let mut service = service.clone();
        async move {
            match service.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        .boxed()
    };
    (format!("/{}/", S::NAME), Box::new(handler))
}
