//! The gateway: what all its connections share, and its routes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State, WebSocketUpgrade, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use chat_proto::v1::{Code, Error, Login, Refresh, Register, Tokens};
use tokio::{sync::Notify, time::sleep};

use crate::{
    backend::{Answer, Backend},
    codec::{Codec, JSON, PROTOBUF},
    connection,
    hub::{FORGET_EVERY, Hub},
    limits::{MAX_CONNECTIONS, MAX_FRAME, SOCKET_BUFFER},
    metrics::Metrics,
    web,
};

/// Bytes of the largest body of a request without a token.
const MAX_BODY: usize = 16 * 1024;

/// See the module.
pub struct Gateway {
    backend: Arc<dyn Backend>,
    hub: Arc<Hub>,
    connections: AtomicUsize,
    metrics: Metrics,
    /// The last connection has gone.
    gone: Notify,
    is_draining: AtomicBool,
}

impl Gateway {
    /// In front of these services. Hints for users come by the hub.
    pub fn new(backend: Arc<dyn Backend>, hub: Arc<Hub>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            backend,
            hub,
            metrics,
            connections: AtomicUsize::new(0),
            gone: Notify::new(),
            is_draining: AtomicBool::new(false),
        })
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn measured(&self) -> &Metrics {
        &self.metrics
    }

    /// What is measured, as Prometheus reads it.
    ///
    /// # Errors
    /// See [`Metrics::render`].
    pub fn metrics(&self) -> Result<String, prometheus::Error> {
        let Metrics {
            connections,
            sessions,
            links,
            lagging,
            ..
        } = &self.metrics;
        connections.set(self.connections() as i64);
        sessions.set(self.hub.sessions() as i64);
        links.set(self.backend.links() as i64);
        lagging.inc_by(self.hub.lagging().saturating_sub(lagging.get()));
        self.metrics.render()
    }

    /// Why no clients should be sent here now.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("draining".to_owned());
        }
        let missing = self.backend.missing();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = missing.iter().map(|service| service.name()).collect();
        Err(format!("services that are not there: {}", names.join(", ")))
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// From now on nobody is let in, and who is connected is told to come back a little later, elsewhere.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        self.hub.wake_all();
    }

    /// There is no connection any more.
    pub async fn all_gone(&self) {
        loop {
            let gone = self.gone.notified();
            if self.connections() == 0 {
                return;
            }
            gone.await;
        }
    }

    /// Forgets sessions that have no connection any more, for ever.
    pub async fn keep_house(&self) {
        loop {
            sleep(FORGET_EVERY).await;
            self.hub.forget_gone();
        }
    }

    /// All routes.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/v1/ws", any(upgrade))
            .route("/v1/register", post(register))
            .route("/v1/login", post(login))
            .route("/v1/refresh", post(refresh))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(Arc::clone(self))
            .merge(web::router())
    }
}

async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    match gateway.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

/// Counts a connection as long as it is kept.
struct Counted(Arc<Gateway>);

impl Counted {
    fn new(gateway: &Arc<Gateway>) -> Option<Self> {
        let before = gateway.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Self(Arc::clone(gateway));
        (before < MAX_CONNECTIONS).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.gone.notify_waiters();
        }
    }
}

async fn upgrade(State(gateway): State<Arc<Gateway>>, upgrade: WebSocketUpgrade) -> Response {
    if gateway.is_draining() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the server restarts: connect elsewhere, or a little later\n",
        )
            .into_response();
    }
    let Some(counted) = Counted::new(&gateway) else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "too many connections: connect elsewhere\n",
        )
            .into_response();
    };
    let upgrade = upgrade
        .protocols([JSON, PROTOBUF])
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .read_buffer_size(SOCKET_BUFFER)
        .write_buffer_size(0);
    let named = upgrade.selected_protocol().and_then(|name| name.to_str().ok());
    let codec = named.and_then(Codec::named).unwrap_or_default();
    upgrade.on_upgrade(move |socket| async move {
        connection::serve(socket, codec, gateway).await;
        drop(counted);
    })
}

type Asked<T> = Result<Json<T>, JsonRejection>;

async fn register(State(gateway): State<Arc<Gateway>>, request: Asked<Register>) -> Response {
    with_tokens(request, |request| gateway.backend().register(request)).await
}

async fn login(State(gateway): State<Arc<Gateway>>, request: Asked<Login>) -> Response {
    with_tokens(request, |request| gateway.backend().login(request)).await
}

async fn refresh(State(gateway): State<Arc<Gateway>>, request: Asked<Refresh>) -> Response {
    with_tokens(request, |request| gateway.backend().refresh(request)).await
}

async fn with_tokens<T>(request: Asked<T>, call: impl FnOnce(T) -> Answer<Tokens>) -> Response {
    let request = match request {
        Ok(Json(request)) => request,
        Err(rejection) => {
            return failed(&Error {
                code: Code::Invalid.into(),
                message: rejection.body_text(),
                retry_after_ms: 0,
            });
        }
    };
    match call(request).await {
        // Tokens are for nobody's cache.
        Ok(tokens) => ([(header::CACHE_CONTROL, "no-store")], Json(tokens)).into_response(),
        Err(error) => failed(&error),
    }
}

/// The status of HTTP that says the same as a code.
fn status(code: Code) -> StatusCode {
    match code {
        Code::Unauthenticated | Code::WrongPassword => StatusCode::UNAUTHORIZED,
        Code::Forbidden | Code::NotContacts | Code::Blocked | Code::Muted => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::NameTaken | Code::GroupFull | Code::Reused | Code::Fixed | Code::TooLate => {
            StatusCode::CONFLICT
        }
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable | Code::UnknownOutcome => StatusCode::SERVICE_UNAVAILABLE,
        Code::Invalid | Code::Protocol | Code::Unspecified => StatusCode::BAD_REQUEST,
    }
}

fn failed(error: &Error) -> Response {
    let mut response = (status(error.code()), Json(error)).into_response();
    if error.retry_after_ms > 0 {
        let seconds = error.retry_after_ms.div_ceil(1000);
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
