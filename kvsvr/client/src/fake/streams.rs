//! The server side of the fake's streams.

use bytes::Bytes;
use kvsvr_proto::v1::{self, exec_reply, exec_request};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Duration, sleep},
};

use super::{Fake, Fault, error};
use crate::transport::{Method, TransportError};

type Output = mpsc::Sender<Result<Bytes, TransportError>>;

enum Answered {
    Reply(v1::ExecReply),
    Silence,
    Break,
}

impl Fake {
    fn breaks(&self) -> u64 {
        self.cluster.lock().breaks
    }

    async fn until_broken(&self, seen: u64) {
        loop {
            let changed = self.changed.notified();
            if self.breaks() != seen {
                return;
            }
            changed.await;
        }
    }

    fn answer(&self, address: &str, request: v1::ExecRequest) -> Answered {
        let mut guard = self.cluster.lock();
        let cluster = &mut *guard;
        cluster.received.push((address.to_owned(), request.clone()));
        let reply = |result| {
            Answered::Reply(v1::ExecReply {
                id: request.id,
                map_epoch: cluster.map.epoch,
                result: Some(result),
            })
        };
        let leads = cluster.leaders[&request.shard] == cluster.id(address);
        match request.op.unwrap() {
            exec_request::Op::Read(read) => {
                if let Some(code) = cluster.read_errors.get(address) {
                    return reply(exec_reply::Result::Error(error(*code)));
                }
                reply(exec_reply::Result::Read(
                    cluster.shards[&request.shard].read(read),
                ))
            }
            exec_request::Op::Command(bytes) => {
                let reachable = cluster
                    .map
                    .nodes
                    .iter()
                    .any(|n| n.id == cluster.leaders[&request.shard]);
                if !leads && (request.hops > 0 || !reachable) {
                    return reply(exec_reply::Result::Error(cluster.not_leader(request.shard)));
                }
                let command = v1::Command::decode(bytes).unwrap();
                if let Some(partition) = &command.partition {
                    let slot = u32::from(kvsvr_proto::slot(partition.region as u16, &partition.name));
                    let info = cluster.map.shards.iter().find(|s| s.id == request.shard).unwrap();
                    if !(info.first_slot..=info.last_slot).contains(&slot) {
                        return reply(exec_reply::Result::Error(error(v1::ErrorCode::WrongShard)));
                    }
                }
                let is_open = matches!(command.op, Some(v1::command::Op::SessionOpen(_)));
                let faults = if is_open {
                    &mut cluster.open_faults
                } else {
                    &mut cluster.faults
                };
                let fault = faults.pop_front();
                let shard = cluster.shards.get_mut(&request.shard).unwrap();
                match fault.unwrap_or(Fault::None) {
                    Fault::BreakBefore => Answered::Break,
                    Fault::BreakAfter => {
                        shard.apply(command);
                        Answered::Break
                    }
                    Fault::Silence => {
                        shard.apply(command);
                        Answered::Silence
                    }
                    Fault::Answer(error) => reply(exec_reply::Result::Error(error)),
                    Fault::None => {
                        let outcome = shard.apply(command);
                        reply(exec_reply::Result::Outcome(outcome.encode_to_vec().into()))
                    }
                }
            }
        }
    }
}

pub(super) async fn exec(fake: Fake, address: String, mut input: mpsc::Receiver<Bytes>, output: Output) {
    let seen = fake.breaks();
    loop {
        let frame = tokio::select! {
            biased;
            () = fake.until_broken(seen) => break,
            frame = input.recv() => frame,
        };
        let Some(frame) = frame else { return };
        let delay = fake.cluster.lock().read_delay;
        let requests = v1::ExecFrame::decode(frame).unwrap().requests;
        let mut replies = Vec::new();
        let mut broken = false;
        for request in requests {
            match fake.answer(&address, request) {
                Answered::Reply(reply) => replies.push(reply),
                Answered::Silence => {}
                Answered::Break => {
                    broken = true;
                    break;
                }
            }
        }
        // Replies come in another order than the requests.
        replies.reverse();
        fake.wake();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if !replies.is_empty() {
            let frame = v1::ExecReplyFrame { replies };
            if output.send(Ok(frame.encode_to_vec().into())).await.is_err() {
                return;
            }
        }
        if broken {
            break;
        }
    }
    let reason = "connection reset".to_owned();
    let _ = output.send(Err(TransportError::Broken { address, reason })).await;
}

/// What a follower asked for, whichever way.
struct Ask {
    shard: u32,
    partition: Option<v1::Partition>,
    prefix: Bytes,
    after: u64,
    consumer: Option<(String, u64)>,
}

pub(super) async fn follow(
    fake: Fake,
    address: String,
    method: Method,
    mut input: mpsc::Receiver<Bytes>,
    output: Output,
) {
    let seen = fake.breaks();
    let Some(request) = input.recv().await else { return };
    let mut ask = fake.ask(method, request);
    let mut sent = 0;
    loop {
        let changed = fake.changed.notified();
        if fake.breaks() != seen {
            let reason = "connection reset".to_owned();
            let _ = output.send(Err(TransportError::Broken { address, reason })).await;
            return;
        }
        let (responses, delay, limit) = fake.responses(&mut ask);
        for response in responses {
            sleep(delay).await;
            sent += response.events.len();
            let last = response.error.is_some();
            if output.send(Ok(response.encode_to_vec().into())).await.is_err() || last {
                return;
            }
            if limit > 0 && sent >= limit {
                return;
            }
        }
        tokio::select! {
            biased;
            _ = output.closed() => return,
            () = changed => {}
            // A lost wake-up costs time, not correctness.
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
}

impl Fake {
    fn ask(&self, method: Method, request: Bytes) -> Ask {
        let cluster = self.cluster.lock();
        if method == Method::ConsumerStream {
            let r = v1::ConsumerStreamRequest::decode(request).unwrap();
            let after = cluster.shards[&r.shard]
                .consumers
                .get(&r.name)
                .map_or(0, |(_, cursor)| *cursor);
            let consumer = Some((r.name, r.epoch));
            return Ask {
                shard: r.shard,
                partition: None,
                prefix: Bytes::new(),
                after,
                consumer,
            };
        }
        let r = v1::WatchRequest::decode(request).unwrap();
        let after = if r.from_now {
            cluster.shards[&r.shard].revision
        } else {
            r.after_revision
        };
        let after = after
            .saturating_sub(cluster.watch_repeats)
            .max(cluster.shards[&r.shard].floor.min(after));
        Ask {
            shard: r.shard,
            partition: r.partition,
            prefix: r.key_prefix,
            after,
            consumer: None,
        }
    }

    /// One message for each revision, and one that says how far they go.
    fn responses(&self, ask: &mut Ask) -> (Vec<v1::WatchResponse>, Duration, usize) {
        let cluster = self.cluster.lock();
        let shard = &cluster.shards[&ask.shard];
        let failed = |code, revision| {
            let error = v1::Error {
                revision,
                ..error(code)
            };
            let response = v1::WatchResponse {
                error: Some(error),
                ..v1::WatchResponse::default()
            };
            (vec![response], Duration::ZERO, 0)
        };
        if let Some((name, epoch)) = &ask.consumer
            && shard.consumers.get(name).is_none_or(|(now, _)| now != epoch)
        {
            return failed(v1::ErrorCode::Fenced, 0);
        }
        if ask.after < shard.floor {
            return failed(v1::ErrorCode::Compacted, shard.floor + 1);
        }
        let mut responses = Vec::new();
        for event in &shard.log {
            let kv = event.kv.as_ref().unwrap();
            let wanted = ask
                .partition
                .as_ref()
                .is_none_or(|p| Some(p) == event.partition.as_ref());
            if kv.mod_rev > ask.after && wanted && kv.key.starts_with(&ask.prefix) {
                responses.push(v1::WatchResponse {
                    revision: kv.mod_rev,
                    events: vec![event.clone()],
                    ..v1::WatchResponse::default()
                });
            }
        }
        if shard.revision > ask.after {
            responses.push(v1::WatchResponse {
                revision: shard.revision,
                ..v1::WatchResponse::default()
            });
        }
        ask.after = ask.after.max(shard.revision);
        (responses, cluster.watch_delay, cluster.watch_breaks_after)
    }
}
