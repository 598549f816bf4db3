//! The seam between what carries requests to a node (gRPC in production, the simulator's network) and what answers them.

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr_client::transport::{Method, StreamReceiver, StreamSender};
use thiserror::Error;

/// Why a call was not answered. Everything that the API defines is an `Error` message inside an answer; this is for calls that
/// do not get that far.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// The bytes are not the message that the method takes, or break a rule. gRPC INVALID_ARGUMENT.
    #[error("malformed request: {0}")]
    Malformed(String),
    /// The API's own error, for unary calls of people and tools. Becomes a gRPC status with the encoded `Error` as details.
    #[error("{}", .0.message)]
    Api(Box<kvsvr_proto::v1::Error>),
    /// The method exists, but not in this form (unary instead of stream). gRPC UNIMPLEMENTED.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}

/// Answers the methods of the wire protocol.
pub trait Service: Send + Sync + 'static {
    /// One request, one encoded answer.
    fn call(&self, method: Method, request: Bytes) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// A bidirectional stream (server-streaming methods get their one request through `input`). Ends when the returned future
    /// does; an `Err` becomes the stream's final status.
    fn open(
        &self,
        method: Method,
        input: StreamReceiver,
        output: StreamSender,
    ) -> BoxFuture<'static, Result<(), CallError>>;
}
