//! Where answers go: back into the stream that a request came on, or to a waiting call.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use kvsvr_proto::v1::{self as pb, ErrorCode, exec_reply::Result as Answer, read_result};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::error;
use crate::limits::{MAX_ANSWER_BYTES, MAX_REPLY_FRAME_BYTES, MAX_UNREAD_REPLY_BYTES};

/// The answers that wait to be written to one Exec stream. Their number is bounded by the requests that the stream may have in
/// flight (see [`ReplyQueue::in_flight`]), their bytes by [`ReplyQueue::has_room`], which reads ask before they are carried out.
#[derive(Debug, Default)]
pub struct ReplyQueue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// Requests taken from the stream and not yet written back.
    in_flight: AtomicUsize,
    /// Notified when `in_flight` falls.
    written: Notify,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: Vec<pb::ExecReply>,
    /// Of `answers`, by [`size`].
    bytes: usize,
}

impl Waiting {
    /// As many answers as fit in a frame; one answer may be larger than that.
    fn frame(&mut self, max: usize) -> Vec<pb::ExecReply> {
        if self.answers.len() <= max && self.bytes <= MAX_REPLY_FRAME_BYTES {
            self.bytes = 0;
            return std::mem::take(&mut self.answers);
        }
        let (mut count, mut bytes) = (0, 0);
        for answer in self.answers.iter().take(max) {
            let more = size(answer);
            if count > 0 && bytes + more > MAX_REPLY_FRAME_BYTES {
                break;
            }
            count += 1;
            bytes += more;
        }
        self.bytes -= bytes;
        let rest = self.answers.split_off(count);
        std::mem::replace(&mut self.answers, rest)
    }
}

/// The answer, or why there is none if it does not fit into a message: the stream is others' too and must not end of it.
fn fitting(reply: pb::ExecReply) -> pb::ExecReply {
    let bytes = size(&reply);
    if bytes <= MAX_ANSWER_BYTES {
        return reply;
    }
    let what = format!("the answer has {bytes} bytes, an answer may have {MAX_ANSWER_BYTES}");
    let failure = match reply.result {
        Some(Answer::Outcome(_)) => error::definite(
            ErrorCode::ResultForgotten,
            format!("the command was applied, but {what}; let it read less"),
        ),
        _ => error::definite(ErrorCode::Refused, format!("{what}; ask for less at a time")),
    };
    pb::ExecReply {
        result: Some(Answer::Error(failure)),
        ..reply
    }
}

/// About the bytes of an answer on the wire.
fn size(reply: &pb::ExecReply) -> usize {
    const OVERHEAD: usize = 64;
    OVERHEAD
        + match &reply.result {
            Some(Answer::Outcome(bytes)) => bytes.len(),
            Some(Answer::Read(pb::ReadResult {
                result: Some(read_result::Result::Get(get)),
                ..
            })) => get.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len()),
            Some(other) => other.encoded_len(),
            None => 0,
        }
}

impl ReplyQueue {
    /// Queues one answer.
    pub fn push(&self, answer: pb::ExecReply) {
        let answer = fitting(answer);
        let bytes = size(&answer);
        let mut waiting = self.waiting.lock();
        waiting.bytes += bytes;
        waiting.answers.push(answer);
        drop(waiting);
        self.wake.notify_one();
    }

    /// Queues several answers with one wake-up.
    pub fn extend(&self, answers: impl IntoIterator<Item = pb::ExecReply>) {
        let mut waiting = self.waiting.lock();
        for answer in answers.into_iter().map(fitting) {
            waiting.bytes += size(&answer);
            waiting.answers.push(answer);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// False while so much waits that more answers of reads must not be added: the client does not read them.
    pub fn has_room(&self) -> bool {
        self.waiting.lock().bytes < MAX_UNREAD_REPLY_BYTES
    }

    /// The waiting answers for one frame, up to `max`; waits for the first. `None` after [`ReplyQueue::close`].
    pub async fn take(&self, max: usize) -> Option<Vec<pb::ExecReply>> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                let frame = waiting.frame(max);
                if !waiting.answers.is_empty() {
                    self.wake.notify_one();
                }
                if !frame.is_empty() {
                    return Some(frame);
                }
            }
            if self.closed.load(Ordering::Acquire) && self.in_flight() == 0 {
                return None;
            }
            self.wake.notified().await;
        }
    }

    /// Requests taken and not yet answered on the wire.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// `count` requests were taken from the stream.
    pub fn begin(&self, count: usize) {
        self.in_flight.fetch_add(count, Ordering::AcqRel);
    }

    /// `count` answers were written.
    pub fn end(&self, count: usize) {
        self.in_flight.fetch_sub(count, Ordering::AcqRel);
        self.written.notify_one();
        self.wake.notify_one();
    }

    /// Waits until fewer than `max` requests are in flight.
    pub async fn wait_below(&self, max: usize) {
        while self.in_flight() >= max {
            self.written.notified().await;
        }
    }

    /// No more requests come: [`ReplyQueue::take`] ends when nothing is in flight.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// Who waits for an answer.
#[derive(Debug)]
pub enum ReplyTo {
    /// A request of an Exec stream.
    Stream {
        /// The stream's queue.
        queue: Arc<ReplyQueue>,
        /// The request's id on it.
        id: u64,
    },
    /// A unary call.
    Call(oneshot::Sender<Answer>),
}

impl ReplyTo {
    /// A waiting call and its answer.
    pub fn call() -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (ReplyTo::Call(sender), receiver)
    }

    /// False while the answer of a read would only wait for a client that does not read.
    pub fn has_room(&self) -> bool {
        match self {
            ReplyTo::Stream { queue, .. } => queue.has_room(),
            ReplyTo::Call(_) => true,
        }
    }

    /// Answers. Who has gone away gets nothing.
    pub fn send(self, answer: Answer) {
        match self {
            ReplyTo::Stream { queue, id } => {
                queue.push(pb::ExecReply {
                    id,
                    map_epoch: 0,
                    result: Some(answer),
                });
            }
            ReplyTo::Call(sender) => {
                let _ = sender.send(answer);
            }
        }
    }
}

/// Sends many answers; neighbours on one stream share a lock and a wake-up. What is queued is never more than a frame behind what the
/// iterator has produced, so that [`ReplyTo::has_room`] is right for an iterator that reads as it goes.
pub fn send_all(answers: impl IntoIterator<Item = (ReplyTo, Answer)>) {
    let mut run = Run::default();
    for (to, answer) in answers {
        match to {
            ReplyTo::Stream { queue, id } => run.add(
                queue,
                pb::ExecReply {
                    id,
                    map_epoch: 0,
                    result: Some(answer),
                },
            ),
            call @ ReplyTo::Call(_) => call.send(answer),
        }
    }
    run.flush();
}

/// Answers for one stream that are not queued yet.
#[derive(Default)]
struct Run {
    queue: Option<Arc<ReplyQueue>>,
    replies: Vec<pb::ExecReply>,
    bytes: usize,
}

impl Run {
    fn add(&mut self, queue: Arc<ReplyQueue>, reply: pb::ExecReply) {
        let same = self
            .queue
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, &queue));
        if !same || self.bytes >= MAX_REPLY_FRAME_BYTES {
            self.flush();
            self.queue = Some(queue);
        }
        self.bytes += size(&reply);
        self.replies.push(reply);
    }

    fn flush(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.extend(self.replies.drain(..));
        }
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt as _;

    use super::*;

    fn outcome(id: u64, bytes: usize) -> pb::ExecReply {
        pb::ExecReply {
            id,
            map_epoch: 0,
            result: Some(Answer::Outcome(Bytes::from(vec![0; bytes]))),
        }
    }

    fn take(queue: &ReplyQueue, max: usize) -> Vec<u64> {
        let frame = queue.take(max).now_or_never().flatten().unwrap_or_default();
        frame.iter().map(|reply| reply.id).collect()
    }

    #[test]
    fn frames_are_bounded_in_number_and_bytes() {
        let queue = ReplyQueue::default();
        queue.extend((0..5).map(|id| outcome(id, 10)));
        assert_eq!(take(&queue, 3), [0, 1, 2]);
        assert_eq!(take(&queue, 3), [3, 4]);
        assert_eq!(take(&queue, 3), [0; 0], "nothing waits");
        // One answer may be larger than a frame, but then it travels alone.
        queue.extend([
            outcome(5, 10),
            outcome(6, MAX_REPLY_FRAME_BYTES * 2),
            outcome(7, 10),
        ]);
        for id in 5..8 {
            assert_eq!(take(&queue, 512), [id]);
        }
    }

    #[test]
    fn an_answer_that_fits_in_no_message_becomes_an_error() {
        let queue = ReplyQueue::default();
        queue.push(outcome(1, MAX_ANSWER_BYTES));
        queue.extend([outcome(2, 10)]);
        let frame = queue.take(8).now_or_never().flatten().unwrap();
        let Some(Answer::Error(failure)) = &frame[0].result else {
            panic!("{:?}", frame[0].result);
        };
        assert_eq!(
            (failure.code(), failure.unknown),
            (ErrorCode::ResultForgotten, false)
        );
        assert!(matches!(frame[1].result, Some(Answer::Outcome(_))));
    }

    #[test]
    fn a_closed_queue_waits_for_what_is_in_flight() {
        let queue = ReplyQueue::default();
        queue.begin(1);
        queue.close();
        let mut taken = std::pin::pin!(queue.take(8));
        assert_eq!(taken.as_mut().now_or_never(), None);
        queue.push(outcome(1, 10));
        let frame = taken.as_mut().now_or_never().flatten().unwrap();
        assert_eq!(frame.len(), 1);
        queue.end(1);
        assert_eq!(queue.take(8).now_or_never(), Some(None));
    }

    #[test]
    fn there_is_room_until_too_much_waits() {
        let queue = Arc::new(ReplyQueue::default());
        // The iterator looks before each answer, as reads do.
        let mut produced = 0;
        send_all((0..100).map_while(|id| {
            let to = ReplyTo::Stream {
                queue: queue.clone(),
                id,
            };
            let answer = Answer::Outcome(Bytes::from(vec![0; MAX_REPLY_FRAME_BYTES]));
            to.has_room().then(|| {
                produced += 1;
                (to, answer)
            })
        }));
        assert!(
            produced <= MAX_UNREAD_REPLY_BYTES / MAX_REPLY_FRAME_BYTES + 1,
            "{produced}"
        );
        assert!(!queue.has_room());
        for id in 0..produced {
            assert_eq!(take(&queue, 512), [id as u64]);
        }
        assert!(queue.has_room());
    }
}
