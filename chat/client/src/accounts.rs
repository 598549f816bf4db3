//! Registering, logging in and refreshing, over HTTP.

use bytes::Bytes;
use chat_proto::v1::{Code, Error, Login, Refresh, Register, Tokens};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

/// Bytes of an answer, at most.
const MAX_ANSWER: usize = 64 * 1024;

/// Nobody has answered: it may have been done.
fn lost(error: &dyn std::fmt::Display) -> Error {
    Error {
        code: Code::UnknownOutcome.into(),
        message: format!("no answer: {error}"),
        retry_after_ms: 0,
    }
}

/// A new account. `address` is HOST:PORT of a gateway.
///
/// # Errors
/// What the server says; `UNKNOWN_OUTCOME` if it says nothing.
pub async fn register(address: &str, request: &Register) -> Result<Tokens, Error> {
    post(address, "/v1/register", request).await
}

/// A new device of an account.
///
/// # Errors
/// As [`register`].
pub async fn login(address: &str, request: &Login) -> Result<Tokens, Error> {
    post(address, "/v1/login", request).await
}

/// New tokens. After no answer the same token may be shown again.
///
/// # Errors
/// As [`register`].
pub async fn refresh(address: &str, refresh_token: &str) -> Result<Tokens, Error> {
    let request = Refresh {
        refresh_token: refresh_token.to_owned(),
    };
    post(address, "/v1/refresh", &request).await
}

async fn post(address: &str, path: &str, body: &impl Serialize) -> Result<Tokens, Error> {
    let body = serde_json::to_vec(body).map_err(|error| lost(&error))?;
    let stream = TcpStream::connect(address).await.map_err(|error| lost(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| lost(&error))?;
    // It ends with the answer, or when the sender is dropped.
    tokio::spawn(async move { drop(connection.await) });
    let request = http::Request::post(path)
        .header(http::header::HOST, address)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| lost(&error))?;
    let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
    let is_good = response.status().is_success();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| lost(&error))?.to_bytes();
    if is_good {
        serde_json::from_slice(&body).map_err(|error| lost(&error))
    } else {
        Err(serde_json::from_slice(&body).unwrap_or_else(|error| lost(&error)))
    }
}
