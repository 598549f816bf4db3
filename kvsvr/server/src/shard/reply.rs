//! Where answers go: back into the stream that a request came on, or to a waiting call.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use kvsvr_proto::v1::{self as pb, exec_reply::Result as Answer};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// The answers that wait to be written to one Exec stream. Its length is bounded by the requests that the stream may have in
/// flight (see [`ReplyQueue::in_flight`]).
#[derive(Debug, Default)]
pub struct ReplyQueue {
    answers: Mutex<Vec<pb::ExecReply>>,
    wake: Notify,
    /// Requests taken from the stream and not yet written back.
    in_flight: AtomicUsize,
    /// Notified when `in_flight` falls.
    written: Notify,
    closed: AtomicBool,
}

impl ReplyQueue {
    /// Queues one answer.
    pub fn push(&self, answer: pb::ExecReply) {
        self.answers.lock().push(answer);
        self.wake.notify_one();
    }

    /// Queues several answers with one wake-up.
    pub fn extend(&self, answers: impl IntoIterator<Item = pb::ExecReply>) {
        self.answers.lock().extend(answers);
        self.wake.notify_one();
    }

    /// The waiting answers, up to `max`; waits for the first. `None` after [`ReplyQueue::close`].
    pub async fn take(&self, max: usize) -> Option<Vec<pb::ExecReply>> {
        loop {
            {
                let mut answers = self.answers.lock();
                if answers.len() > max {
                    self.wake.notify_one();
                    let rest = answers.split_off(max);
                    return Some(std::mem::replace(&mut *answers, rest));
                }
                if !answers.is_empty() {
                    return Some(std::mem::take(&mut *answers));
                }
            }
            if self.closed.load(Ordering::Acquire) {
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
    }

    /// Waits until fewer than `max` requests are in flight.
    pub async fn wait_below(&self, max: usize) {
        while self.in_flight() >= max {
            self.written.notified().await;
        }
    }

    /// No more requests come: [`ReplyQueue::take`] ends after what is queued when nothing is in flight.
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

/// Sends many answers; neighbours on one stream share a lock and a wake-up.
pub fn send_all(answers: impl IntoIterator<Item = (ReplyTo, Answer)>) {
    let mut run: Option<(Arc<ReplyQueue>, Vec<pb::ExecReply>)> = None;
    for (to, answer) in answers {
        match to {
            ReplyTo::Stream { queue, id } => {
                let reply = pb::ExecReply {
                    id,
                    map_epoch: 0,
                    result: Some(answer),
                };
                match &mut run {
                    Some((current, replies)) if Arc::ptr_eq(current, &queue) => replies.push(reply),
                    _ => {
                        if let Some((current, replies)) = run.replace((queue, vec![reply])) {
                            current.extend(replies);
                        }
                    }
                }
            }
            call @ ReplyTo::Call(_) => call.send(answer),
        }
    }
    if let Some((queue, replies)) = run {
        queue.extend(replies);
    }
}
