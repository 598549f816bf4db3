//! The tasks behind a [`NodeStream`](super::NodeStream): the writer, which also connects, and for each connection a reader, which
//! also keeps the deadlines.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use kvsvr_proto::v1::{ExecFrame, ExecReplyFrame};
use prost::Message as _;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{Sent, Shared, State, Waiting};
use crate::{
    limits::{
        CONNECT_TIMEOUT, MAX_FRAME_BYTES, MAX_FRAME_REQUESTS, MAX_RECONNECT_PAUSE, RECONNECT_PAUSE, SWEEP,
        SWEEP_IDLE,
    },
    transport::{Class, Method, StreamReceiver, StreamSender, TransportError},
};

/// A broken connection's state: set by the reader, seen by the writer.
#[derive(Default)]
struct Link {
    broken: AtomicBool,
    news: Notify,
    /// The writer cannot send any more.
    stuck: Notify,
}

impl Link {
    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
        self.news.notify_one();
    }
}

/// Connects, writes until the connection breaks, and so on until the stream is closed or the node cannot be reached.
pub(super) async fn run(shared: Arc<Shared>) {
    while let Some((sender, receiver)) = connect(&shared).await {
        let link = Arc::new(Link::default());
        tokio::spawn(read(shared.clone(), link.clone(), receiver));
        if write(&shared, &link, sender).await == Written::Closed {
            return;
        }
        // The reader has answered everyone before it said that the link is broken. Connect when somebody calls.
        if !work(&shared, None).await {
            return;
        }
    }
}

/// Opens the stream. `None`: it could not be opened and everyone who waits has been told so, or it is closed; the task ends.
async fn connect(shared: &Arc<Shared>) -> Option<(StreamSender, StreamReceiver)> {
    let mut open = pin!(timeout(
        CONNECT_TIMEOUT * 2,
        shared
            .transport
            .open(&shared.address, Class::Data, Method::KvExec)
    ));
    let result = loop {
        tokio::select! {
            biased;
            result = &mut open => break result,
            () = sleep(SWEEP) => {
                sweep(shared);
            }
        }
    };
    let error = match result {
        Ok(Ok(stream)) => {
            shared.state.lock().pause = RECONNECT_PAUSE;
            return Some(stream);
        }
        // The address is said again below.
        Ok(Err(TransportError::Unreachable { reason, .. })) => reason,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the stream to {} could not be opened in time", shared.address),
    };
    tracing::debug!(address = %shared.address, error, "cannot open a stream");
    let waiting: Vec<Sent> = {
        let mut state = shared.state.lock();
        state.pause = (state.pause * 2).clamp(RECONNECT_PAUSE, MAX_RECONNECT_PAUSE);
        // Clients that lost the same node do not all come back at the same moment.
        let pause = state.pause.mul_f64(rand::random_range(0.5..1.0));
        state.blocked_until = Some(Instant::now() + pause);
        state.last_error.clone_from(&error);
        state.running = false;
        state.queued_bytes = 0;
        state.queue.drain(..).map(|w| w.sent).collect()
    };
    fail(waiting, &shared.unreachable(&error));
    shared.room.notify_waiters();
    None
}

#[derive(PartialEq, Eq)]
enum Written {
    Broken,
    Closed,
}

/// Waits until requests wait. False: the stream is closed.
async fn work(shared: &Shared, link: Option<&Link>) -> bool {
    loop {
        {
            let mut state = shared.state.lock();
            if state.closed {
                return false;
            }
            if !state.queue.is_empty() || link.is_some_and(Link::is_broken) {
                return true;
            }
            state.parked = true;
        }
        match link {
            Some(link) => tokio::select! {
                biased;
                () = link.news.notified() => {}
                () = shared.work.notified() => {}
            },
            None => shared.work.notified().await,
        }
    }
}

/// Sends frames: all requests that wait whenever the transport has taken what it was given.
async fn write(shared: &Shared, link: &Link, sender: StreamSender) -> Written {
    loop {
        if !work(shared, Some(link)).await {
            return Written::Closed;
        }
        if link.is_broken() {
            return Written::Broken;
        }
        // Let callers that are ready to run put their requests in first. A caller who is alone has nobody to wait for.
        let is_shared = shared.state.lock().sent.len() > 0;
        if is_shared {
            tokio::task::yield_now().await;
        }
        // The transport's queue is only there to keep it busy: one frame in it, the rest gathers here and leaves together.
        let permits = tokio::select! {
            biased;
            () = link.news.notified() => continue,
            permits = sender.reserve_many(sender.max_capacity().saturating_sub(1).max(1)) => permits,
        };
        let Ok(mut permits) = permits else {
            // The reader gets the reason from the transport, usually at once, and tells everyone.
            if timeout(SWEEP_IDLE, broken(link)).await.is_err() {
                link.stuck.notify_one();
                broken(link).await;
            }
            return Written::Broken;
        };
        if let (Some(frame), Some(permit)) = (next_frame(shared, link), permits.next()) {
            permit.send(frame);
        }
    }
}

async fn broken(link: &Link) {
    while !link.is_broken() {
        link.news.notified().await;
    }
}

/// Takes waiting requests into one frame and registers them for their replies.
fn next_frame(shared: &Shared, link: &Link) -> Option<Bytes> {
    let mut state = shared.state.lock();
    // Under the lock: after the reader has broken the link nothing may be registered that nobody would answer.
    if link.is_broken() {
        return None;
    }
    let mut requests = Vec::with_capacity(state.queue.len().min(MAX_FRAME_REQUESTS));
    let mut bytes = 0;
    while let Some(waiting) = state.queue.front()
        && requests.len() < MAX_FRAME_REQUESTS
        && (requests.is_empty() || bytes + waiting.bytes <= MAX_FRAME_BYTES)
    {
        let Some(waiting) = state.queue.pop_front() else {
            break;
        };
        bytes += waiting.bytes;
        let mut request = waiting.request;
        request.id = state.sent.insert(waiting.sent);
        requests.push(request);
    }
    state.queued_bytes -= bytes;
    let first = requests.first()?.id;
    if state.sample.is_none() {
        state.sample = Some((first, Instant::now()));
    }
    let news = state.has_news_of_room();
    drop(state);
    if news {
        shared.room.notify_waiters();
    }
    let frame = ExecFrame { requests };
    let mut buffer = BytesMut::with_capacity(frame.encoded_len());
    frame.encode_raw(&mut buffer);
    Some(buffer.freeze())
}

/// Matches replies to requests until the stream breaks, and keeps the deadlines.
async fn read(shared: Arc<Shared>, link: Arc<Link>, mut receiver: StreamReceiver) {
    let mut tick = Box::pin(sleep(SWEEP));
    let reason = loop {
        tokio::select! {
            biased;
            message = receiver.next() => match message {
                Some(Ok(message)) => {
                    if let Err(error) = deliver(&shared, message) {
                        break format!("not a frame of replies: {error}");
                    }
                }
                Some(Err(TransportError::Broken { reason, .. })) => break reason,
                Some(Err(error)) => break error.to_string(),
                None => break "the node closed the stream".to_owned(),
            },
            () = link.stuck.notified() => break "the node takes no more requests".to_owned(),
            () = &mut tick => {
                tick = Box::pin(sleep(sweep(&shared)));
                if shared.state.lock().closed {
                    return;
                }
            }
        }
    };
    tracing::debug!(address = %shared.address, reason, "stream ended");
    let (sent, queued) = {
        let mut state = shared.state.lock();
        link.set_broken();
        state.sample = None;
        state.queued_bytes = 0;
        (
            state.sent.drain(),
            state.queue.drain(..).map(|w| w.sent).collect(),
        )
    };
    fail(sent, &shared.broken(&reason));
    fail(queued, &shared.unreachable(&reason));
    shared.room.notify_waiters();
}

fn deliver(shared: &Shared, message: Bytes) -> Result<(), prost::DecodeError> {
    let frame = ExecReplyFrame::decode(message)?;
    let mut answered = Vec::with_capacity(frame.replies.len());
    let news = {
        let mut state = shared.state.lock();
        for reply in frame.replies {
            if let Some((id, at)) = state.sample
                && id == reply.id
            {
                state.sample = None;
                measure(shared, at);
            }
            // A reply that came after its deadline has no taker.
            if let Some(sent) = state.sent.remove(reply.id) {
                answered.push((sent.reply, reply));
            }
        }
        state.has_news_of_room()
    };
    for (sender, reply) in answered {
        // The caller may have gone away.
        let _ = sender.send(Ok(reply));
    }
    if news {
        shared.room.notify_waiters();
    }
    Ok(())
}

/// Exponentially weighted moving average with weight 1/8, as TCP's.
fn measure(shared: &Shared, sent_at: Instant) {
    let sample = u64::try_from(sent_at.elapsed().as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    let old = shared.rtt_us.load(Ordering::Relaxed);
    let new = if old == 0 {
        sample
    } else {
        old - old / 8 + sample / 8
    };
    shared.rtt_us.store(new.max(1), Ordering::Relaxed);
}

/// Ends the requests whose deadline has passed. Returns when to look again.
fn sweep(shared: &Shared) -> tokio::time::Duration {
    let now = Instant::now();
    let (queued, sent, news, next) = {
        let mut state = shared.state.lock();
        let queued = remove_expired(&mut state, now);
        let sent = state.sent.remove_if(|sent| sent.deadline <= now);
        let busy = state.sent.len() > 0 || !state.queue.is_empty();
        // A frame whose first request was given up would block the measurement for ever.
        if !sent.is_empty() {
            state.sample = None;
        }
        (
            queued,
            sent,
            state.has_news_of_room(),
            if busy { SWEEP } else { SWEEP_IDLE },
        )
    };
    fail(
        queued,
        &shared.unreachable("the deadline passed before the request could be sent"),
    );
    for sent in sent {
        let after = sent.deadline.saturating_duration_since(sent.started);
        let error = TransportError::Timeout {
            address: shared.address.to_string(),
            after,
        };
        let _ = sent.reply.send(Err(error));
    }
    if news {
        shared.room.notify_waiters();
    }
    next
}

fn remove_expired(state: &mut State, now: Instant) -> Vec<Sent> {
    if state.queue.iter().all(|w| w.sent.deadline > now) {
        return Vec::new();
    }
    let (expired, kept): (VecDeque<Waiting>, _) = state.queue.drain(..).partition(|w| w.sent.deadline <= now);
    state.queue = kept;
    state.queued_bytes = state.queue.iter().map(|w| w.bytes).sum();
    expired.into_iter().map(|w| w.sent).collect()
}

fn fail(waiting: Vec<Sent>, error: &TransportError) {
    for sent in waiting {
        let _ = sent.reply.send(Err(error.clone()));
    }
}
