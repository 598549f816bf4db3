//! The HTTP port: what operators, load balancers and Prometheus ask a node.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a page that links the others |
//! | `/healthz` | 200 while the process is alive |
//! | `/readyz` | 200 while the node serves; else 503 and `{"ready": false, "reasons": [...]}` |
//! | `/status` | the node's status as JSON; `messages` says what is wrong |
//! | `/metrics` | Prometheus text |
//!
//! It only reads, has no authentication and serves no data. Each answer has a deadline, so that a node that hangs says so.

mod status;

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use futures::future::BoxFuture;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use kvsvr_proto::v1::NodeStatus;
use serde_json::json;
use tokio::{net::TcpStream, pin, select};
use tower::ServiceExt as _;

use crate::{
    limits::{GREETING_MS, HTTP_ANSWER_MS, MAX_HTTP_CONNECTIONS},
    listen::{BindError, Latch, Listener, Rules},
    metrics::{Metrics, resident_bytes},
    time::{Instant, timeout},
};

/// What the port shows of a node.
pub trait NodeView: Send + Sync + 'static {
    /// Whether the node serves; if not, why not, for people.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// The node's status.
    fn status(&self) -> BoxFuture<'static, NodeStatus>;

    /// Sets the gauges that are read from elsewhere; called before the metrics are shown.
    fn refresh(&self, metrics: &Metrics);
}

/// A bound HTTP port.
#[derive(Debug)]
pub struct HttpServer {
    listener: Listener,
}

impl HttpServer {
    /// Binds HOST:PORT (the setting `http`).
    pub async fn bind(address: &str) -> Result<HttpServer, BindError> {
        Ok(HttpServer {
            listener: Listener::bind("http", address).await?,
        })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` resolves; requests that are being answered then have a moment to end.
    pub async fn serve(
        self,
        view: Arc<dyn NodeView>,
        metrics: Arc<Metrics>,
        shutdown: impl Future<Output = ()>,
    ) {
        let answer_within = Duration::from_millis(HTTP_ANSWER_MS);
        let rules = Rules {
            name: "HTTP",
            max_connections: MAX_HTTP_CONNECTIONS,
            drain: Duration::from_secs(1),
            metrics: metrics.listener("http"),
        };
        let router = router(Arc::new(Shown {
            view,
            metrics,
            started: Instant::now(),
            answer_within,
        }));
        let stop = Latch::new();
        let serve = |stream, peer| connection(stream, peer, router.clone(), stop.clone());
        self.listener.run(rules, shutdown, stop.clone(), serve).await;
    }
}

struct Shown {
    view: Arc<dyn NodeView>,
    metrics: Arc<Metrics>,
    started: Instant,
    answer_within: Duration,
}

fn router(shown: Arc<Shown>) -> Router {
    Router::new()
        .route("/", get(|| async { Html(INDEX) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(shown)
}

async fn readyz(State(shown): State<Arc<Shown>>) -> Response {
    match shown.view.ready() {
        Ok(()) => Json(json!({ "ready": true })).into_response(),
        Err(reasons) => unavailable(json!({ "ready": false, "reasons": reasons })),
    }
}

async fn status(State(shown): State<Arc<Shown>>) -> Response {
    match timeout(shown.answer_within, shown.view.status()).await {
        Ok(status) => Json(status::to_json(status)).into_response(),
        Err(_) => unavailable(json!({
            "messages": [format!("the node did not give its status within {:?}: it hangs or is overloaded", shown.answer_within)]
        })),
    }
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    shown.metrics.process(resident_bytes(), shown.started.elapsed());
    shown.view.refresh(&shown.metrics);
    match shown.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot show metrics: {error}\n"),
        )
            .into_response(),
    }
}

fn unavailable(body: serde_json::Value) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

const INDEX: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>kvsvr</title>
<style>body{font:16px/1.6 system-ui,sans-serif;margin:3em auto;max-width:36em;padding:0 1em}</style>
<h1>kvsvr</h1>
<ul>
<li><a href=/status>/status</a> what this node does, and what is wrong
<li><a href=/metrics>/metrics</a> numbers, for Prometheus
<li><a href=/readyz>/readyz</a> whether it serves, and why not
<li><a href=/healthz>/healthz</a> whether the process is alive
</ul>
";

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, stop: Latch) {
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let response: Result<Response, Infallible> = router.oneshot(request).await;
            response
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(GREETING_MS))
        .serve_connection(TokioIo::new(stream), service);
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
        tracing::debug!(%peer, %error, "an HTTP connection broke");
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use parking_lot::Mutex;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::oneshot,
    };

    use super::*;

    /// Not ready for the reasons it holds; its status never comes if `hangs`.
    struct FakeNode {
        reasons: Mutex<Vec<String>>,
        hangs: bool,
    }

    impl NodeView for FakeNode {
        fn ready(&self) -> Result<(), Vec<String>> {
            let reasons = self.reasons.lock().clone();
            if reasons.is_empty() { Ok(()) } else { Err(reasons) }
        }

        fn status(&self) -> BoxFuture<'static, NodeStatus> {
            if self.hangs {
                return futures::future::pending().boxed();
            }
            let messages = vec!["shard 2 has no leader".to_owned()];
            async {
                NodeStatus {
                    node_id: 7,
                    messages,
                    ..Default::default()
                }
            }
            .boxed()
        }

        fn refresh(&self, metrics: &Metrics) {
            metrics.disk_free(4321);
        }
    }

    struct Running {
        address: SocketAddr,
        node: Arc<FakeNode>,
        stop: oneshot::Sender<()>,
        task: tokio::task::JoinHandle<()>,
    }

    async fn start() -> Running {
        let server = HttpServer::bind("127.0.0.1:0").await.unwrap();
        let (address, (stop, stopped)) = (server.local_addr(), oneshot::channel());
        let node = Arc::new(FakeNode {
            reasons: Mutex::new(Vec::new()),
            hangs: false,
        });
        let serve = server.serve(node.clone(), Metrics::new(), async move { drop(stopped.await) });
        Running {
            address,
            node,
            stop,
            task: tokio::spawn(serve),
        }
    }

    /// The status code, headers and body of a GET.
    async fn check(address: SocketAddr, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    #[tokio::test]
    async fn every_path_answers() {
        let running = start().await;
        let (code, head, body) = check(running.address, "/").await;
        assert!(code == 200 && head.contains("text/html"));
        for path in ["/status", "/metrics", "/readyz", "/healthz"] {
            assert!(body.contains(&format!("href={path}")), "{path}");
        }
        assert_eq!(check(running.address, "/healthz").await.2, "ok\n");
        let (code, head, body) = check(running.address, "/status").await;
        assert!(code == 200 && head.contains("application/json"));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap()["messages"][0],
            "shard 2 has no leader"
        );
        let (code, head, body) = check(running.address, "/metrics").await;
        assert!(code == 200 && head.contains("version=0.0.4"));
        assert!(
            body.contains("kvsvr_disk_free_bytes 4321")
                && body.contains("kvsvr_connections{listener=\"http\"} 1")
        );
        assert_eq!(check(running.address, "/nothing").await.0, 404);
    }

    #[tokio::test]
    async fn readiness_says_why_not() {
        let running = start().await;
        assert_eq!(check(running.address, "/readyz").await.0, 200);
        running.node.reasons.lock().push("not part of a cluster".into());
        let (code, _, body) = check(running.address, "/readyz").await;
        assert_eq!(code, 503);
        assert_eq!(body, r#"{"ready":false,"reasons":["not part of a cluster"]}"#);
        assert_eq!(check(running.address, "/healthz").await.0, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_hangs_says_so() {
        let node = Arc::new(FakeNode {
            reasons: Mutex::new(Vec::new()),
            hangs: true,
        });
        let answer_within = Duration::from_secs(5);
        let shown = Arc::new(Shown {
            view: node,
            metrics: Metrics::new(),
            started: Instant::now(),
            answer_within,
        });
        let response = status(State(shown)).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn garbage_ends_its_connection_only() {
        let running = start().await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(&[0xff; 4096]).await.unwrap();
        let mut answer = Vec::new();
        // An answer and an end, or a reset: not a hang.
        drop(stream.read_to_end(&mut answer).await);
        assert_eq!(check(running.address, "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn it_stops_with_an_idle_connection_open() {
        let running = start().await;
        let _idle = TcpStream::connect(running.address).await.unwrap();
        check(running.address, "/healthz").await;
        running.stop.send(()).unwrap();
        running.task.await.unwrap();
        assert!(TcpStream::connect(running.address).await.is_err());
    }
}
