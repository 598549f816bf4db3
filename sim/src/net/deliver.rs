//! What a frame does at the other side.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr::service::CallError;
use kvsvr_client::transport::{Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver, TransportError};
use tokio::{
    select,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Fate, MOMENT, Process,
    connection::{Connection, Flight, Frame, Item, Side, StreamEnd},
    link::Accident,
    replay,
};

impl Connection {
    /// A frame has arrived at the process of the other side, which is the one that the connection is with.
    pub(super) fn deliver(self: &Arc<Self>, from: Side, flight: Flight, process: &Process) {
        self.state.lock().ends[from.other() as usize].heard = Instant::now();
        let frame = &flight.frame;
        match frame.message() {
            None => self.deliver_control(from, flight.frame, process),
            Some((stream, ..)) => {
                let accident = self.accident(from, frame);
                let lost = self.state.lock().lose_answers.remove(&stream);
                if accident == Accident::ResetBefore || lost {
                    let fate = if lost { Fate::Dropped } else { Fate::ResetBefore };
                    self.trace(from, &flight, fate);
                    self.reset("connection reset");
                    return;
                }
                let after = accident == Accident::ResetAfter;
                self.trace(
                    from,
                    &flight,
                    if after { Fate::ResetAfter } else { Fate::Delivered },
                );
                if from == Side::Client {
                    replay::consider(self, frame, stream);
                }
                let call = matches!(frame, Frame::Call(..));
                self.deliver_message(from, flight.frame, process);
                if after && call {
                    self.state.lock().lose_answers.insert(stream);
                } else if after {
                    self.reset_soon();
                }
            }
        }
    }

    fn accident(&self, from: Side, frame: &Frame) -> Accident {
        let (here, there) = (&self.peer(from).host, &self.peer(from.other()).host);
        // An answer to a call ends it: after that there is nothing to lose.
        let answer = matches!(frame, Frame::Answer(..));
        match self.net.with_link(here, there, |link| link.accident()) {
            Accident::ResetAfter if answer => Accident::None,
            accident => accident,
        }
    }

    /// Breaks the connection when what was delivered just now has been looked at.
    fn reset_soon(self: &Arc<Self>) {
        let this = self.clone();
        self.net.0.node.spawn(async move {
            sleep(MOMENT).await;
            this.reset("connection reset");
        });
    }

    fn deliver_message(self: &Arc<Self>, from: Side, frame: Frame, process: &Process) {
        let to = from.other();
        match frame {
            Frame::Call(stream, method, message) => self.serve_call(stream, method, message, process),
            Frame::Answer(stream, _, item) => {
                if let Some(open) = self.remove(to, stream)
                    && let Some(inbox) = open.inbox
                {
                    let _ = inbox.send(item);
                }
            }
            Frame::Data(stream, _, message) => {
                let bytes = message.len();
                let inbox = {
                    let mut state = self.state.lock();
                    let open = state.ends[to as usize].streams.get_mut(&stream);
                    open.and_then(|open| open.inbox.clone())
                };
                // Nobody reads any more: the room is free again.
                if inbox.is_none_or(|inbox| inbox.send(Ok(message)).is_err()) {
                    self.consumed(to, stream, bytes);
                }
            }
            _ => {}
        }
    }

    fn deliver_control(self: &Arc<Self>, from: Side, frame: Frame, process: &Process) {
        let to = from.other();
        match frame {
            Frame::Open(stream, method) => self.serve_stream(stream, method, process),
            Frame::End(stream) => {
                let inbox = {
                    let mut state = self.state.lock();
                    let open = state.ends[to as usize].streams.get_mut(&stream);
                    open.and_then(|open| open.inbox.take())
                };
                drop(inbox);
            }
            Frame::Status(stream, error) => {
                if let Some(open) = self.remove(to, stream)
                    && let (Some(inbox), Some(error)) = (open.inbox, error)
                {
                    let _ = inbox.send(Err(error));
                }
            }
            Frame::Cancel(stream) => {
                if let Some(open) = self.remove(to, stream) {
                    open.tasks.iter().for_each(|task| task.abort());
                    if let Some(inbox) = open.inbox {
                        let _ = inbox.send(Err(self.broken(to, "the stream was reset")));
                    }
                }
            }
            Frame::Window(stream, bytes) => {
                {
                    let mut state = self.state.lock();
                    let end = &mut state.ends[to as usize];
                    end.credit += bytes as i64;
                    if let Some(open) = end.streams.get_mut(&stream) {
                        open.credit += bytes as i64;
                    }
                }
                self.changed[to as usize].notify_waiters();
            }
            Frame::Ping => self.send(to, Frame::Pong),
            Frame::Reset => self.break_end(to, "connection reset by peer", super::Ending::Silent),
            _ => {}
        }
    }

    fn serve_call(self: &Arc<Self>, stream: u64, method: Method, message: Bytes, process: &Process) {
        let this = self.clone();
        let Some(service) = process.service.clone() else {
            return self.send(
                Side::Server,
                Frame::Answer(stream, method, Err(self.not_serving())),
            );
        };
        let task = process.node.spawn(async move {
            let answer = service.call(method, message).await;
            let answer = answer.map_err(|error| this.failure(error));
            this.state.lock().ends[Side::Server as usize]
                .streams
                .remove(&stream);
            this.send(Side::Server, Frame::Answer(stream, method, answer));
        });
        let mut open = StreamEnd::new(method, None);
        open.tasks.push(task.abort_handle());
        self.state.lock().ends[Side::Server as usize]
            .streams
            .insert(stream, open);
    }

    fn serve_stream(self: &Arc<Self>, stream: u64, method: Method, process: &Process) {
        let Some(service) = process.service.clone() else {
            return self.send(Side::Server, Frame::Status(stream, Some(self.not_serving())));
        };
        let (inbox, messages) = mpsc::unbounded_channel();
        let (output, queue) = mpsc::channel(STREAM_QUEUE);
        let input = Incoming::new(self.clone(), Side::Server, stream, messages);
        let input = StreamReceiver::new(input);
        let serving = process
            .node
            .spawn(async move { service.open(method, input, output).await });
        let mut open = StreamEnd::new(method, Some(inbox));
        open.tasks.push(serving.abort_handle());
        let feeding = process
            .node
            .spawn(self.clone().feed_answers(stream, queue, serving));
        open.tasks.push(feeding.abort_handle());
        self.state.lock().ends[Side::Server as usize]
            .streams
            .insert(stream, open);
    }

    /// Sends what the service gives, and when that has ended its status.
    async fn feed_answers(
        self: Arc<Self>,
        stream: u64,
        mut queue: mpsc::Receiver<Bytes>,
        mut serving: JoinHandle<Result<(), CallError>>,
    ) {
        let mut drained = false;
        let ended = loop {
            select! { biased;
                message = queue.recv(), if !drained => match message {
                    Some(message) => if !self.put(Side::Server, stream, message).await {
                        return;
                    },
                    None => drained = true,
                },
                ended = &mut serving => break ended,
            }
        };
        // Senders that outlive the service's future keep nothing open.
        queue.close();
        while let Some(message) = queue.recv().await {
            if !self.put(Side::Server, stream, message).await {
                return;
            }
        }
        let error = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(self.failure(error)),
            Err(_) => Some(self.broken(Side::Client, "the stream failed on the server")),
        };
        self.remove(Side::Server, stream);
        self.send(Side::Server, Frame::Status(stream, error));
    }

    fn not_serving(&self) -> TransportError {
        self.broken(Side::Client, "the process does not serve any more")
    }

    /// What a service's error is to the client.
    fn failure(&self, error: CallError) -> TransportError {
        let address = self.peer(Side::Server).host.to_string();
        match error {
            CallError::Api(error) => TransportError::Api { address, error },
            other => TransportError::Rejected {
                address,
                reason: other.to_string(),
            },
        }
    }
}

/// The reading half of a stream, on either side.
pub(super) struct Incoming {
    connection: Arc<Connection>,
    side: Side,
    stream: u64,
    messages: mpsc::UnboundedReceiver<Item>,
    /// The other side has ended it.
    ended: bool,
}

impl Incoming {
    pub(super) fn new(
        connection: Arc<Connection>,
        side: Side,
        stream: u64,
        messages: mpsc::UnboundedReceiver<Item>,
    ) -> Self {
        Self {
            connection,
            side,
            stream,
            messages,
            ended: false,
        }
    }

    pub(super) async fn next(&mut self) -> Option<Item> {
        if self.ended {
            return None;
        }
        let item = self.messages.recv().await;
        match &item {
            Some(Ok(message)) => self.connection.consumed(self.side, self.stream, message.len()),
            _ => self.ended = true,
        }
        item
    }
}

impl ReceiveMessages for Incoming {
    fn receive(&mut self) -> BoxFuture<'_, Option<Item>> {
        Box::pin(self.next())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.messages.close();
        let mut unread = 0;
        while let Ok(item) = self.messages.try_recv() {
            unread += item.map_or(0, |message| message.len());
        }
        self.connection.consumed(self.side, self.stream, unread);
        // A client that does not read any more gives the stream up; a service that has ended says so itself.
        if self.side == Side::Client && self.connection.remove(self.side, self.stream).is_some() {
            self.connection.send(self.side, Frame::Cancel(self.stream));
        }
    }
}
