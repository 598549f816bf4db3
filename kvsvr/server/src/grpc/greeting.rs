//! A connection that must speak in time.
//!
//! Pings find a peer that is gone only once the HTTP/2 connection stands. Before that this wrapper is what closes a connection on which
//! nothing, or not enough, is sent.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::time::{Sleep, sleep};

/// Bytes of the HTTP/2 connection preface (RFC 9113, section 3.4); hyper checks what they are.
const PREFACE: usize = 24;

/// A stream whose reads fail if the preface has not arrived in time.
pub(super) struct Greeting {
    stream: TcpStream,
    /// `None` once the preface has arrived.
    deadline: Option<Pin<Box<Sleep>>>,
    received: usize,
}

impl Greeting {
    pub(super) fn new(stream: TcpStream, within: Duration) -> Self {
        Self {
            stream,
            deadline: Some(Box::pin(sleep(within))),
            received: 0,
        }
    }
}

impl AsyncRead for Greeting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, into);
        if self.deadline.is_none() {
            return result;
        }
        self.received += into.filled().len() - before;
        if self.received >= PREFACE {
            self.deadline = None;
        }
        let late = match &mut self.deadline {
            Some(deadline) => result.is_pending() && deadline.as_mut().poll(cx).is_ready(),
            None => false,
        };
        match late {
            true => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no HTTP/2 preface in time",
            ))),
            false => result,
        }
    }
}

impl AsyncWrite for Greeting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
