//! The port for operators: `/healthz`, `/readyz` and `/metrics`. It only reads, and is not for clients.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// What the port shows of a process.
pub(crate) trait View: Send + Sync + 'static {
    /// Whether it serves; if not, why not, for people.
    fn ready(&self) -> Result<(), String>;
    /// What it measures, as Prometheus reads it.
    fn metrics(&self) -> Result<String, prometheus::Error>;
}

/// Serves until the task is aborted.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn serve(listen: SocketAddr, view: Arc<dyn View>) -> Result<JoinHandle<()>, String> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| format!("--http {listen}: {error}"))?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(view);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the port for operators has ended");
        }
    }))
}

async fn ready(State(view): State<Arc<dyn View>>) -> Response {
    match view.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn metrics(State(view): State<Arc<dyn View>>) -> Response {
    match view.metrics() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written\n").into_response()
        }
    }
}
