//! The gRPC port: carries the calls of peers, clients and tools to a [`Service`].
//!
//! One port serves `kvsvr.v1` (through [`Service`], without generated stubs: messages stay the bytes they are, so that production
//! and simulator run the same handlers), `grpc.health.v1` and server reflection. The HTTP/2 connections are hyper's; framing, statuses
//! and metadata are tonic's. What holds for every connection: a preface in time ([`greeting`]), pings that find dead peers, bounded
//! streams, windows, headers and messages, bounded bytes of incomplete messages ([`codec`]), and a cap on the number of connections
//! ([`listen`](crate::listen)). Bytes that are not HTTP/2 end their connection and nothing else.
//!
//! It does not authenticate and does not encrypt. It has no deadline for a call: the service has, and a client that gives up resets
//! its stream, which drops the service's future.

mod codec;
mod greeting;
mod router;
mod status;
mod stream;
#[cfg(test)]
mod tests;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{pin, select};
use tonic_health::server::{HealthReporter, HealthService};

use self::{greeting::Greeting, router::Router};
use crate::{
    limits::{
        CONNECTION_WINDOW_BYTES, GREETING_MS, KEEPALIVE_INTERVAL_MS, KEEPALIVE_TIMEOUT_MS, MAX_CONNECTIONS,
        MAX_HEADER_BYTES, MAX_HTTP2_FRAME_BYTES, MAX_STREAMS_PER_CONNECTION, STREAM_WINDOW_BYTES,
    },
    listen::{BindError, Latch, Listener, Rules},
    metrics::Metrics,
    service::Service,
};

/// The services whose health is reported, besides the empty name that stands for the whole node.
const SERVICES: [&str; 5] = [
    "kvsvr.v1.Admin",
    "kvsvr.v1.Consumer",
    "kvsvr.v1.Kv",
    "kvsvr.v1.Raft",
    "kvsvr.v1.Watch",
];

/// What the server needs besides the service.
#[derive(Clone, Debug)]
pub struct GrpcOptions {
    /// Connections at a time; the next one is closed at once.
    pub max_connections: usize,
    /// How long calls may take to end after a shutdown; then their connections are cut.
    pub drain: Duration,
    /// How long a new connection may take to send the HTTP/2 preface.
    pub greeting: Duration,
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            drain: Duration::from_secs(2),
            greeting: Duration::from_millis(GREETING_MS),
        }
    }
}

/// A bound gRPC port.
#[derive(Debug)]
pub struct GrpcServer {
    listener: Listener,
    health: HealthReporter,
}

impl GrpcServer {
    /// Binds HOST:PORT (the setting `listen`). Connections wait in the system's queue until [`GrpcServer::serve`].
    pub async fn bind(address: &str) -> Result<GrpcServer, BindError> {
        let listener = Listener::bind("listen", address).await?;
        Ok(GrpcServer {
            listener,
            health: HealthReporter::new(),
        })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Sets what `grpc.health.v1` answers. NOT_SERVING until it is set.
    pub fn health(&self) -> Health {
        Health(self.health.clone())
    }

    /// Serves until `shutdown` resolves, then ends in order: no new connections, no new calls on old ones, bidirectional streams see
    /// the end of their input, watches end with UNAVAILABLE; what is left after `options.drain` is cut. A node that still needs its
    /// peers (to hand over leadership) must not resolve `shutdown` before that is done.
    pub async fn serve(
        self,
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
        options: GrpcOptions,
        shutdown: impl Future<Output = ()>,
    ) {
        self.health().set_serving(false).await;
        let stop = Latch::new();
        let router = Arc::new(Router::new(
            service,
            HealthService::from_health_reporter(self.health),
            stop.clone(),
        ));
        let rules = Rules {
            name: "gRPC",
            max_connections: options.max_connections,
            drain: options.drain,
            metrics: metrics.listener("grpc"),
        };
        let http2 = http2_settings();
        let serve = |stream, peer| {
            let stream = Greeting::new(stream, options.greeting);
            connection(
                http2.clone(),
                TokioIo::new(stream),
                Arc::clone(&router),
                peer,
                stop.clone(),
            )
        };
        self.listener.run(rules, shutdown, stop.clone(), serve).await;
    }
}

/// Sets the serving status of a [`GrpcServer`].
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

impl Health {
    /// SERVING or NOT_SERVING, for the node and for each of its services.
    pub async fn set_serving(&self, serving: bool) {
        let status = match serving {
            true => tonic_health::ServingStatus::Serving,
            false => tonic_health::ServingStatus::NotServing,
        };
        for service in SERVICES.into_iter().chain([""]) {
            self.0.set_service_status(service, status).await;
        }
    }
}

fn http2_settings() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .max_frame_size(MAX_HTTP2_FRAME_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(Duration::from_millis(KEEPALIVE_INTERVAL_MS))
        .keep_alive_timeout(Duration::from_millis(KEEPALIVE_TIMEOUT_MS));
    builder
}

/// Drives one connection until the peer ends it, it breaks, or the node has stopped and its calls have ended.
async fn connection(
    http2: http2::Builder<TokioExecutor>,
    io: TokioIo<Greeting>,
    router: Arc<Router>,
    peer: SocketAddr,
    stop: Latch,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let router = Arc::clone(&router);
        async move { Ok::<_, std::convert::Infallible>(router.route(request, peer).await) }
    });
    let connection = http2.serve_connection(io, service);
    pin!(connection);
    let result = select! {
        biased;
        result = connection.as_mut() => result,
        () = stop.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a gRPC connection broke");
    }
}
