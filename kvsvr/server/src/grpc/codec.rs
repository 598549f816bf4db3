//! The codec of a gRPC message that is passed on as the bytes it is, and the bound on bytes of messages that are still arriving.
//!
//! A peer may announce a message of [`MAX_MESSAGE_BYTES`] and send it slowly, on many streams of many connections. Each byte that
//! has arrived and does not belong to a complete message yet is counted in one [`Intake`]; a call that would pass its limit ends with
//! RESOURCE_EXHAUSTED. It does not wait: calls that all hold a part and wait for the rest would wait for ever. Bytes that nobody has
//! read yet are bounded by the windows of HTTP/2 instead.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::limits::{CALL_BUFFER_BYTES, ENCODE_BATCH_BYTES, MAX_MESSAGE_BYTES};

/// Bytes before each message: a flag and the length.
const PREFIX: usize = 5;

/// Bytes of incomplete messages, all calls together.
#[derive(Debug)]
pub(super) struct Intake {
    used: AtomicUsize,
    limit: usize,
}

impl Intake {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit,
        })
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// One call's part of the intake; given back when the call's request ends.
#[derive(Debug)]
struct Share {
    intake: Arc<Intake>,
    held: AtomicUsize,
}

impl Share {
    fn arrived(&self, bytes: usize) -> Result<(), Status> {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        let before = self.intake.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.intake.limit {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "OVERLOADED: the node is receiving {before} bytes of incomplete messages, at most {} are allowed; try again later",
            self.intake.limit
        )))
    }

    fn completed(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.intake.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.intake
            .used
            .fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
    }
}

/// A request body that counts what arrives.
pub(super) struct MeteredBody<B> {
    inner: B,
    share: Arc<Share>,
}

/// Wraps the body of a call and makes the codec that decodes it. Neither is of use without the other.
pub(super) fn meter<B>(inner: B, intake: &Arc<Intake>) -> (MeteredBody<B>, RawCodec) {
    let share = Arc::new(Share {
        intake: Arc::clone(intake),
        held: AtomicUsize::new(0),
    });
    (
        MeteredBody {
            inner,
            share: Arc::clone(&share),
        },
        RawCodec { share },
    )
}

impl<B> HttpBody for MeteredBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        Poll::Ready(Some(match self.share.arrived(bytes) {
            Ok(()) => Ok(frame),
            Err(status) => Err(status.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Messages as the bytes they are.
#[derive(Debug)]
pub(super) struct RawCodec {
    share: Arc<Share>,
}

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawEncoder;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> RawDecoder {
        RawDecoder {
            share: Arc::clone(&self.share),
        }
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(CALL_BUFFER_BYTES, ENCODE_BATCH_BYTES)
}

/// Writes a message as it is.
#[derive(Debug)]
pub(super) struct RawEncoder;

impl Encoder for RawEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if message.len() > MAX_MESSAGE_BYTES {
            let size = message.len();
            return Err(Status::out_of_range(format!(
                "the answer has {size} bytes, the limit is {MAX_MESSAGE_BYTES}"
            )));
        }
        into.reserve(message.len());
        into.put(message);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// Splits a complete message off the receive buffer without a copy.
#[derive(Debug)]
pub(super) struct RawDecoder {
    share: Arc<Share>,
}

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        self.share.completed(PREFIX + length);
        Ok(Some(from.copy_to_bytes(length)))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tonic::{Code, Streaming};

    use super::*;

    /// A body that arrives in the given parts.
    struct Parts(std::collections::VecDeque<Bytes>);

    impl HttpBody for Parts {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            let next = self.0.pop_front();
            Poll::Ready(next.map(|part| Ok(Frame::data(part))))
        }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(message);
        bytes
    }

    fn receive(parts: Vec<Bytes>, intake: &Arc<Intake>) -> Streaming<Bytes> {
        let (body, mut codec) = meter(Parts(parts.into()), intake);
        Streaming::new_request(codec.decoder(), body, None, Some(MAX_MESSAGE_BYTES))
    }

    #[tokio::test]
    async fn messages_come_out_as_they_went_in_and_leave_nothing_counted() {
        let messages: Vec<Vec<u8>> = vec![b"one".to_vec(), Vec::new(), vec![7; 100_000], b"last".to_vec()];
        let wire: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        for part in [1, 3, 4096, wire.len()] {
            let intake = Intake::new(1 << 20);
            let parts = wire.chunks(part).map(Bytes::copy_from_slice).collect();
            let received: Vec<_> = receive(parts, &intake).map(Result::unwrap).collect().await;
            assert_eq!(received, messages, "in parts of {part}");
            assert_eq!(intake.used(), 0);
        }
    }

    #[tokio::test]
    async fn incomplete_messages_are_bounded_over_all_calls() {
        let intake = Intake::new(1000);
        let part = Bytes::from(framed(&[1; 900]));
        // The first call has sent most of its message and is waiting for the rest.
        let (mut first, _codec) = meter(Parts(vec![part.slice(..800)].into()), &intake);
        let frame = futures::future::poll_fn(|cx| Pin::new(&mut first).poll_frame(cx)).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap().len(), 800);
        assert_eq!(intake.used(), 800);

        let status = receive(vec![part.clone()], &intake)
            .next()
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().starts_with("OVERLOADED: "), "{status:?}");
        assert_eq!(intake.used(), 800, "the refused call gave back its part");

        drop((first, _codec));
        assert_eq!(intake.used(), 0);
        assert_eq!(
            receive(vec![part], &intake).next().await.unwrap().unwrap().len(),
            900
        );
    }
}
