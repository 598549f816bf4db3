//! The two halves of a stream between gRPC and [`Service::open`](crate::service::Service::open).
//!
//! The service's future runs as a task of its own, so that it makes progress while the peer does not read; it ends with the response
//! stream: when the peer resets the call or its connection breaks, the task is aborted. When the node stops, the input of a
//! bidirectional stream ends, as if the peer had finished sending; a server-streaming call ends with UNAVAILABLE.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, future::BoxFuture};
use kvsvr_client::transport::{ReceiveMessages, TransportError};
use tokio::{select, sync::mpsc, task::JoinHandle};
use tonic::{Code, Status, Streaming};

use super::status::status;
use crate::{listen::Latch, service::CallError};

/// The request messages of a bidirectional stream.
pub(super) struct Inbound {
    pub(super) messages: Streaming<Bytes>,
    pub(super) peer: SocketAddr,
    pub(super) stop: Latch,
}

impl ReceiveMessages for Inbound {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        async move {
            if self.stop.is_set() {
                return None;
            }
            let message = select! {
                biased;
                message = self.messages.message() => message,
                () = self.stop.wait() => return None,
            };
            match message {
                Ok(message) => message.map(Ok),
                Err(status) => Some(Err(broken(self.peer, &status))),
            }
        }
        .boxed()
    }
}

/// What a request stream that ended early means to the service: the peer broke a rule, or is gone.
fn broken(peer: SocketAddr, status: &Status) -> TransportError {
    let (address, reason) = (peer.to_string(), status.message().to_owned());
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted | Code::Internal => {
            TransportError::Rejected { address, reason }
        }
        _ => TransportError::Broken { address, reason },
    }
}

/// The one request of a server-streaming call.
pub(super) struct Single(pub(super) Option<Bytes>);

impl ReceiveMessages for Single {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        let request = self.0.take();
        async move { request.map(Ok) }.boxed()
    }
}

/// The response messages, then the status.
pub(super) struct Outbound {
    messages: mpsc::Receiver<Bytes>,
    task: JoinHandle<Result<(), CallError>>,
    state: State,
    /// Server-streaming calls only: resolves when the node stops.
    stopped: Option<BoxFuture<'static, ()>>,
}

enum State {
    Running,
    /// The service's future has ended: what it had sent still goes out, then this.
    Ended(Option<Status>),
}

impl Outbound {
    /// `stop` for calls whose input cannot end them.
    pub(super) fn new(
        messages: mpsc::Receiver<Bytes>,
        task: JoinHandle<Result<(), CallError>>,
        stop: Option<Latch>,
    ) -> Self {
        let stopped = stop.map(|stop| async move { stop.wait().await }.boxed());
        Self {
            messages,
            task,
            state: State::Running,
            stopped,
        }
    }

    /// Nothing is queued: looks whether the service has ended, or is to end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(result) = self.task.poll_unpin(cx) {
            let last = match result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(status(error)),
                Err(error) => {
                    tracing::error!(%error, "a stream's task panicked: this is a bug, please report it");
                    Some(Status::internal("INTERNAL: the stream failed on the server"))
                }
            };
            return self.end(last);
        }
        if self
            .stopped
            .as_mut()
            .is_none_or(|stopped| stopped.poll_unpin(cx).is_pending())
        {
            return Poll::Pending;
        }
        self.task.abort();
        self.end(Some(Status::unavailable(
            "NOT_READY: the node is stopping; go on at another node",
        )))
    }

    fn end(&mut self, last: Option<Status>) -> Poll<()> {
        self.state = State::Ended(last);
        // Senders that outlive the service's future keep nothing open.
        self.messages.close();
        Poll::Ready(())
    }
}

impl Stream for Outbound {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let drained = match self.messages.poll_recv(cx) {
                Poll::Ready(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Poll::Ready(None) => true,
                Poll::Pending => false,
            };
            match &mut self.state {
                State::Ended(last) if drained => return Poll::Ready(last.take().map(Err)),
                State::Ended(_) => return Poll::Pending,
                State::Running => match self.poll_end(cx) {
                    Poll::Ready(()) => {}
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.task.abort();
    }
}
