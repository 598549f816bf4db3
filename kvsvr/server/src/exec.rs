//! The multiplexed Exec stream: frames of requests in, answers out as they are ready.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use kvsvr_client::transport::{StreamReceiver, StreamSender};
use kvsvr_core::{codec::decode_command, command::Op, types::Partition};
use kvsvr_proto::v1::{
    self as pb, ErrorCode, exec_reply::Result as Answer, exec_request::Op as ExecOp, read_mode::Mode,
};
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint},
};

use crate::{
    convert as api,
    limits::{
        MAX_EXEC_IN_FLIGHT, MAX_FORWARDED_BYTES, MAX_REPLIES_PER_FRAME, MAX_REQUESTS_PER_FRAME,
        OVERLOADED_RETRY_MS,
    },
    metrics::ReadKind,
    node::Node,
    service::CallError,
    shard::{
        Shard, error,
        proposer::{Proposal, deadline},
        reader::{Read, ReadOp},
        reply::{ReplyQueue, ReplyTo, send_all},
    },
    time::{outside, timeout_at},
};

/// Serves one stream until it ends.
pub async fn serve(
    node: Arc<Node>,
    mut input: StreamReceiver,
    output: StreamSender,
) -> Result<(), CallError> {
    let queue = Arc::new(ReplyQueue::default());
    let writer = tokio::spawn(write(node.clone(), queue.clone(), output));
    let _open = node.metrics().exec_stream_opened();
    let served = loop {
        // The socket is not read while too much is unanswered: a client that does not read its answers stops itself.
        queue.wait_below(MAX_EXEC_IN_FLIGHT).await;
        match input.next().await {
            None => break Ok(()),
            Some(Err(_)) => break Ok(()),
            Some(Ok(bytes)) => match decode_frame(bytes) {
                Ok(frame) => {
                    queue.begin(frame.requests.len());
                    node.metrics().exec_frame(frame.requests.len());
                    dispatch(&node, frame.requests, &queue);
                }
                Err(reason) => break Err(CallError::Malformed(reason)),
            },
        }
        if writer.is_finished() {
            break Ok(());
        }
    };
    queue.close();
    served
}

/// A frame takes a message's bytes and many times that in memory when its requests are tiny, so they are counted first.
fn decode_frame(bytes: Bytes) -> Result<pb::ExecFrame, String> {
    let mut rest = &bytes[..];
    let mut count = 0;
    while !rest.is_empty() {
        // Fields of other kinds are left to the decoder.
        let Ok((_, WireType::LengthDelimited)) = decode_key(&mut rest) else {
            break;
        };
        let len = decode_varint(&mut rest)
            .ok()
            .and_then(|len| usize::try_from(len).ok());
        let Some(len) = len.filter(|len| *len <= rest.len()) else {
            break;
        };
        rest = &rest[len..];
        count += 1;
        if count > MAX_REQUESTS_PER_FRAME {
            return Err(format!(
                "a frame has at most {MAX_REQUESTS_PER_FRAME} requests; send several frames"
            ));
        }
    }
    pb::ExecFrame::decode(bytes).map_err(|e| e.to_string())
}

/// Writes answers; everything that waits when the stream takes data goes into one frame.
async fn write(node: Arc<Node>, queue: Arc<ReplyQueue>, output: StreamSender) {
    loop {
        let Ok(permit) = output.reserve().await else {
            return;
        };
        let taken = tokio::select! { biased;
            taken = queue.take(MAX_REPLIES_PER_FRAME) => taken,
            () = output.closed() => None,
        };
        let Some(mut replies) = taken else {
            return;
        };
        let count = replies.len();
        if let Some(first) = replies.first_mut() {
            first.map_epoch = node.map_epoch();
        }
        permit.send(pb::ExecReplyFrame { replies }.encode_to_vec().into());
        queue.end(count);
    }
}

/// The requests of one frame for one shard.
#[derive(Default)]
struct Group {
    proposals: Vec<Proposal>,
    reads: Vec<Read>,
    /// For another node, if this one does not lead.
    forward: Vec<(pb::ExecRequest, ReplyTo)>,
}

fn dispatch(node: &Arc<Node>, requests: Vec<pb::ExecRequest>, queue: &Arc<ReplyQueue>) {
    let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
    let mut refused = Vec::new();
    for request in requests {
        let reply = ReplyTo::Stream {
            queue: queue.clone(),
            id: request.id,
        };
        if let Err((reply, failure)) = sort(node, request, reply, &mut groups) {
            refused.push((reply, Answer::Error(failure)));
        }
    }
    send_all(refused);
    for (shard, group) in groups {
        submit(node, shard, group);
    }
}

/// Handles one request as if it had come on a stream.
pub fn dispatch_one(node: &Arc<Node>, request: pb::ExecRequest, reply: ReplyTo) {
    let mut groups = BTreeMap::new();
    match sort(node, request, reply, &mut groups) {
        Ok(()) => groups
            .into_iter()
            .for_each(|(shard, group)| submit(node, shard, group)),
        Err((reply, failure)) => reply.send(Answer::Error(failure)),
    }
}

type Refused = (ReplyTo, pb::Error);

/// Checks a request and puts it into its shard's group.
fn sort(
    node: &Arc<Node>,
    mut request: pb::ExecRequest,
    reply: ReplyTo,
    groups: &mut BTreeMap<u32, Group>,
) -> Result<(), Refused> {
    match request.op.take() {
        Some(ExecOp::Command(bytes)) => match command_shard(node, &request, &bytes) {
            Ok(shard) => {
                add_command(
                    node,
                    request,
                    bytes,
                    reply,
                    groups.entry(shard).or_default(),
                    shard,
                );
                Ok(())
            }
            Err(failure) => Err((reply, failure)),
        },
        Some(ExecOp::Read(read)) => match read_place(node, &request, &read) {
            Ok((shard, partition)) => {
                add_read(
                    node,
                    request,
                    read,
                    partition,
                    reply,
                    groups.entry(shard).or_default(),
                    shard,
                );
                Ok(())
            }
            Err(failure) => Err((reply, failure)),
        },
        None => Err((
            reply,
            error::definite(
                ErrorCode::Invalid,
                "the request has no operation this server knows",
            ),
        )),
    }
}

fn command_shard(node: &Node, request: &pb::ExecRequest, bytes: &Bytes) -> Result<u32, pb::Error> {
    let command = decode_command(bytes).map_err(api::rejection)?;
    if matches!(command.op, Op::Restore { .. }) {
        return Err(error::definite(
            ErrorCode::Refused,
            "backups are restored by kvctl snapshot restore, not by commands",
        ));
    }
    if request.meta {
        return Err(error::definite(
            ErrorCode::Refused,
            "the meta shard takes no client writes",
        ));
    }
    // Commands on a shard as a whole name it by number, and no partition.
    let slot = (!command.partition.name.is_empty()).then(|| command.partition.slot());
    node.route(request.shard, false, slot)
}

fn add_command(
    node: &Node,
    mut request: pb::ExecRequest,
    command: Bytes,
    reply: ReplyTo,
    group: &mut Group,
    shard: u32,
) {
    let leads = node.shard_number(shard).is_some_and(|s| s.leader().is_me());
    if leads || request.hops > 0 {
        group.proposals.push(Proposal {
            command,
            reply,
            deadline: deadline(request.timeout_ms),
        });
    } else {
        request.op = Some(ExecOp::Command(command));
        group.forward.push((request, reply));
    }
}

fn read_place(
    node: &Node,
    request: &pb::ExecRequest,
    read: &pb::ReadRequest,
) -> Result<(u32, Partition), pb::Error> {
    let partition = api::partition(read.partition.as_ref())?;
    if let Some(pb::read_request::Op::Get(get)) = &read.op {
        api::check_key(&get.key)?;
    }
    let shard = node.route(request.shard, request.meta, Some(partition.slot()))?;
    Ok((shard, partition))
}

fn add_read(
    node: &Arc<Node>,
    mut request: pb::ExecRequest,
    read: pb::ReadRequest,
    partition: Partition,
    reply: ReplyTo,
    group: &mut Group,
    shard: u32,
) {
    if node.shard_number(shard).is_none() && request.hops == 0 {
        request.op = Some(ExecOp::Read(read));
        group.forward.push((request, reply));
        return;
    }
    let mode = read.mode.as_ref().and_then(|m| m.mode);
    let op = match read.op {
        Some(pb::read_request::Op::Get(get)) if get.revision == 0 => ReadOp::Get(partition, get.key),
        _ => ReadOp::Other(Box::new(read)),
    };
    let read = Read {
        op,
        reply,
        deadline: deadline(request.timeout_ms),
    };
    match mode {
        None | Some(Mode::Linearizable(_)) => group.reads.push(read),
        Some(mode) => weaker_read(node, shard, mode, read),
    }
}

fn submit(node: &Arc<Node>, number: u32, group: Group) {
    let shard = node.shard_number(number);
    if let Some(shard) = &shard {
        if !group.proposals.is_empty() {
            match node.writes_refused() {
                None => shard.propose(group.proposals),
                Some(reason) => {
                    let answer = Answer::Error(error::definite(ErrorCode::Refused, reason));
                    send_all(group.proposals.into_iter().map(|p| (p.reply, answer.clone())));
                }
            }
        }
        if !group.reads.is_empty() {
            shard.read(group.reads);
        }
    } else {
        let answer = Answer::Error(error::definite(
            ErrorCode::NotReady,
            format!("this node has no replica of shard {number} yet"),
        ));
        let proposals = group.proposals.into_iter().map(|p| p.reply);
        let reads = group.reads.into_iter().map(|r| r.reply);
        send_all(proposals.chain(reads).map(|reply| (reply, answer.clone())));
    }
    if !group.forward.is_empty() {
        forward(node, number, shard.as_deref(), group.forward);
    }
}

/// Sends requests to the shard's leader, one hop. Their deadlines go with them.
fn forward(node: &Arc<Node>, number: u32, shard: Option<&Shard>, requests: Vec<(pb::ExecRequest, ReplyTo)>) {
    let target = match shard {
        Some(shard) => shard.leader().leader().map(|(_, peer)| peer.address),
        None => node.any_replica(number),
    };
    let Some(address) = target else {
        let answer = Answer::Error(error::not_leader(number, None));
        send_all(requests.into_iter().map(|(_, reply)| (reply, answer.clone())));
        return;
    };
    node.metrics().forwarded(requests.len() as u64);
    for (mut request, reply) in requests {
        request.hops = 1;
        let Some(held) = node.forwarding().hold(request.encoded_len()) else {
            let message = format!(
                "more than {MAX_FORWARDED_BYTES} bytes of requests wait for other nodes; ask the leader itself"
            );
            reply.send(Answer::Error(error::retry(
                ErrorCode::Overloaded,
                message,
                OVERLOADED_RETRY_MS,
            )));
            continue;
        };
        let node = node.clone();
        let address = address.clone();
        tokio::spawn(async move {
            reply.send(forward_one(&node, number, address, request).await);
            drop(held);
        });
    }
}

async fn forward_one(node: &Arc<Node>, number: u32, mut address: String, request: pb::ExecRequest) -> Answer {
    let until = deadline(request.timeout_ms);
    let write = matches!(request.op, Some(ExecOp::Command(_)));
    // A node without a replica of the shard does not know its leader; the first one asked may.
    for last in [false, true] {
        match node.link(&address).call(request.clone(), outside(until)).await {
            Ok(pb::ExecReply {
                result: Some(Answer::Error(e)),
                ..
            }) if !last && e.code() == ErrorCode::NotLeader && !e.leader_address.is_empty() => {
                address = e.leader_address;
            }
            Ok(pb::ExecReply {
                result: Some(answer), ..
            }) => return answer,
            Ok(_) => break,
            Err(e) if e.is_unknown() && write => {
                return Answer::Error(error::unknown(ErrorCode::Disconnected, e.to_string()));
            }
            Err(e) => {
                let message = format!("shard {number}: its leader does not answer: {e}");
                return Answer::Error(error::retry(
                    ErrorCode::NoLeader,
                    message,
                    crate::limits::NO_LEADER_RETRY_MS,
                ));
            }
        }
    }
    Answer::Error(error::unknown(
        ErrorCode::Internal,
        "the leader's answer is empty",
    ))
}

/// Reads that need no confirmation by the leader.
fn weaker_read(node: &Arc<Node>, number: u32, mode: Mode, read: Read) {
    let Some(shard) = node.shard_number(number) else {
        let message = format!("this node has no replica of shard {number}");
        read.reply
            .send(Answer::Error(error::definite(ErrorCode::NotReady, message)));
        return;
    };
    match mode {
        Mode::Local(_) => answer(&shard, read, ReadKind::Local, Duration::MAX),
        Mode::AtLeast(revision)
            if shard.revision() >= revision || kvsvr_core::mutant!("at-least-not-waited") =>
        {
            answer(&shard, read, ReadKind::AtLeast, Duration::MAX);
        }
        Mode::MaxStalenessMs(max) if is_fresh(&shard, Duration::from_millis(max)) => {
            answer(&shard, read, ReadKind::Bounded, Duration::from_millis(max));
        }
        Mode::AtLeast(revision) => {
            tokio::spawn(async move {
                let reached = shard.head().wait_for(|head| head.revision() >= revision);
                if timeout_at(read.deadline, reached).await.is_ok() {
                    answer(&shard, read, ReadKind::AtLeast, Duration::MAX);
                } else {
                    let message =
                        format!("this replica of shard {number} has not reached revision {revision}");
                    read.reply
                        .send(Answer::Error(error::definite(ErrorCode::TooStale, message)));
                }
            });
        }
        Mode::MaxStalenessMs(max) => {
            tokio::spawn(async move {
                let max = Duration::from_millis(max);
                // A confirmation makes the state fresh; without a leader its age decides.
                let confirmed = shard.reads().barrier().await;
                if confirmed.is_ok() || is_fresh(&shard, max) {
                    answer(&shard, read, ReadKind::Bounded, max);
                } else {
                    let failure = shard.reads().too_stale(max);
                    read.reply.send(Answer::Error(failure));
                }
            });
        }
        Mode::Linearizable(_) => shard.read(vec![read]),
    }
}

fn is_fresh(shard: &Shard, max: Duration) -> bool {
    shard.reads().age().is_some_and(|age| age <= max)
}

/// `allowed`: the age up to which the state may be read.
fn answer(shard: &Arc<Shard>, read: Read, kind: ReadKind, allowed: Duration) {
    shard.reads().metrics.read(kind, 1);
    let Read { op, reply, deadline } = read;
    match op {
        ReadOp::Get(..) => {
            let age = shard.reads().age().unwrap_or(Duration::MAX);
            let answer = shard.reads().answer(op, &reply, age);
            reply.send(answer);
        }
        ReadOp::Other(request) => {
            let reads = shard.reads().clone();
            tokio::spawn(async move { reads.answer_other(request, reply, deadline, allowed).await });
        }
    }
}
