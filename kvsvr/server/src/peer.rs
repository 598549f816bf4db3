//! The receiving half of the peer protocol: votes, replication, read indices, snapshots.
//!
//! Every message says which cluster, node and store it is for, and is refused by any other; and which store it is from, which must be the
//! one that the shard's membership has for that node. So a node that lost its disk and comes back empty can neither be asked nor ask under its
//! old identity.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use kvsvr_client::transport::{Method, StreamReceiver, StreamSender};
use kvsvr_core::types::ShardId;
use kvsvr_proto::v1::{self as pb, ErrorCode};
use openraft::raft::{StreamAppendResult, TransferLeaderRequest};
use prost::Message;

use crate::{
    controller,
    node::Node,
    raft::{
        convert,
        snapshot::Snapshot,
        types::{PeerNode, TypeConfig},
    },
    service::CallError,
    shard::{Shard, error, group::GroupStep},
    store::MEMBER_LOST,
};

fn malformed(e: impl ToString) -> CallError {
    CallError::Malformed(e.to_string())
}

fn refused(message: String) -> CallError {
    CallError::Api(Box::new(error::definite(ErrorCode::Refused, message)))
}

fn stopped(shard: ShardId, e: impl ToString) -> CallError {
    let message = format!("shard {shard}: this replica has stopped: {}", e.to_string());
    CallError::Api(Box::new(error::definite(ErrorCode::NotReady, message)))
}

fn encoded(message: impl Message) -> Result<Bytes, CallError> {
    Ok(message.encode_to_vec().into())
}

/// The replica that a message is for.
fn addressee(node: &Node, envelope: Option<&pb::Envelope>) -> Result<Arc<Shard>, CallError> {
    let envelope = envelope.ok_or_else(|| malformed("no envelope"))?;
    node.check_envelope(envelope).map_err(refused)?;
    let id = ShardId(envelope.shard);
    let shard = node.shard(id).ok_or_else(|| {
        let message = format!("node {} has no replica of shard {id} yet", envelope.to_node);
        CallError::Api(Box::new(error::definite(ErrorCode::NotReady, message)))
    })?;
    let from = shard.member(envelope.from_node);
    if shard.incarnation() != envelope.to_incarnation && !kvsvr_core::mutant!("incarnation-not-checked") {
        if from
            .as_ref()
            .is_none_or(|member| member.store_id == envelope.from_store)
        {
            node.note_incarnation(&shard, envelope.to_incarnation);
        }
        let message = format!(
            "shard {id}: the replica of node {} is number {}, not {}: it was destroyed and made anew, and knows nothing of what the other promised",
            envelope.to_node,
            shard.incarnation(),
            envelope.to_incarnation
        );
        return Err(CallError::Api(Box::new(error::definite(
            ErrorCode::NotReady,
            message,
        ))));
    }
    match from {
        Some(member) if member.store_id != envelope.from_store => Err(refused(format!(
            "shard {id} knows node {} with store {}, not {}: its disk was lost or replaced. A node without its log cannot come back under its old identity: \
             start it with its old data directory. {MEMBER_LOST}",
            envelope.from_node, member.store_id, envelope.from_store
        ))),
        _ => Ok(shard),
    }
}

/// An answer to a leader, with what this node promises by it (see [`promises`](crate::raft::promises)).
fn acknowledgement(node: &Node, result: &StreamAppendResult<TypeConfig>) -> pb::AppendResponse {
    let promised = node.settings().timing.election_max_ms;
    pb::AppendResponse {
        promise_ms: u32::try_from(promised).unwrap_or(u32::MAX),
        ..convert::pb_append_result(result)
    }
}

/// Answers one request of a peer.
pub async fn call(node: &Node, method: Method, request: Bytes) -> Result<Bytes, CallError> {
    match method {
        Method::RaftVote | Method::RaftPreVote => {
            let message = pb::VoteRequest::decode(request).map_err(malformed)?;
            let shard = addressee(node, message.envelope.as_ref())?;
            let mut request = convert::from_pb_vote_request(&message).map_err(malformed)?;
            if kvsvr_core::mutant!("vote-for-any-log") {
                let last = node.wal().shard(shard.id()).last;
                request.last_log_id = request.last_log_id.max(last.map(convert::log_id));
            }
            let response = if method == Method::RaftVote {
                shard.raft().vote(request).await
            } else {
                shard.raft().pre_vote(request).await
            };
            let response = response.map_err(|e| stopped(shard.id(), e))?;
            encoded(convert::pb_vote_response(&response))
        }
        Method::RaftHeartbeat => {
            let message = pb::AppendRequest::decode(request).map_err(malformed)?;
            let shard = addressee(node, message.envelope.as_ref())?;
            let request = convert::from_pb_append(message).map_err(malformed)?;
            let (prev, last) = (request.prev_log_id, request.entries.last().map(|e| e.log_id));
            let response = shard
                .raft()
                .append_entries(request)
                .await
                .map_err(|e| stopped(shard.id(), e))?;
            encoded(acknowledgement(
                node,
                &response.into_stream_result(prev, last.or(prev)),
            ))
        }
        Method::RaftTransferLeadership => {
            let message = pb::TransferLeadershipRequest::decode(request).map_err(malformed)?;
            let shard = addressee(node, message.envelope.as_ref())?;
            let request = TransferLeaderRequest::new(
                convert::from_pb_vote(message.from_leader.as_ref()).map_err(malformed)?,
                message.to_node,
                message.last_log_id.as_ref().map(convert::from_pb_log_id),
            );
            let response = shard
                .raft()
                .handle_transfer_leader(request)
                .await
                .map_err(|e| stopped(shard.id(), e))?;
            let result = response.err().map(|e| e.to_string()).unwrap_or_default();
            encoded(pb::TransferLeadershipResponse { result })
        }
        Method::RaftReadIndex => read_index(node, request).await,
        Method::RaftGroup | Method::RaftChangeGroup => group(node, method, request).await,
        _ => Err(CallError::Unsupported(method.path())),
    }
}

/// The index that a follower's reads wait for.
async fn read_index(node: &Node, request: Bytes) -> Result<Bytes, CallError> {
    let message = pb::ReadIndexRequest::decode(request).map_err(malformed)?;
    let shard = addressee(node, message.envelope.as_ref())?;
    encoded(match shard.reads().confirm_as_leader().await {
        Ok(index) => pb::ReadIndexResponse {
            read_index: index.map(|index| pb::PbLogId {
                index,
                ..Default::default()
            }),
            ..Default::default()
        },
        Err(e) => pb::ReadIndexResponse {
            leader: e.leader_node,
            error: e.message,
            ..Default::default()
        },
    })
}

/// A shard's group, and a step of a change of it.
async fn group(node: &Node, method: Method, request: Bytes) -> Result<Bytes, CallError> {
    if method == Method::RaftGroup {
        let message = pb::GroupRequest::decode(request).map_err(malformed)?;
        let shard = addressee(node, message.envelope.as_ref())?;
        return encoded(shard.group().await);
    }
    let message = pb::ChangeGroupRequest::decode(request).map_err(malformed)?;
    let shard = addressee(node, message.envelope.as_ref())?;
    let step = group_step(message.step).ok_or_else(|| malformed("no step"))?;
    let decided_on = message.membership_id.as_ref().map(convert::from_pb_log_id);
    let wanted = controller::row_is(node, message.row_changes, shard.id());
    let changed = shard.change_group(decided_on, step, wanted).await;
    encoded(pb::GroupResponse {
        error: changed.err().unwrap_or_default(),
        ..Default::default()
    })
}

fn group_step(step: Option<pb::change_group_request::Step>) -> Option<GroupStep> {
    use pb::change_group_request::Step;
    Some(match step? {
        Step::AddLearner(peer) => GroupStep::AddLearner(
            peer.id,
            PeerNode {
                address: peer.address,
                store_id: peer.store_id,
                incarnation: peer.incarnation,
            },
        ),
        Step::Voters(set) => GroupStep::Voters(set.ids.into_iter().collect()),
        Step::DropLearner(node) => GroupStep::DropLearner(node),
        Step::MoveLeader(node) => GroupStep::MoveLeader(node),
    })
}

/// Serves one stream of a peer.
pub async fn open(
    node: Arc<Node>,
    method: Method,
    mut input: StreamReceiver,
    output: StreamSender,
) -> Result<(), CallError> {
    let Some(first) = input.next().await else {
        return Ok(());
    };
    let first = first.map_err(malformed)?;
    match method {
        Method::RaftAppend => append(&node, first, input, output).await,
        Method::RaftSnapshot => snapshot(&node, first, input, output).await,
        _ => Err(CallError::Unsupported(method.path())),
    }
}

/// One shard's replication stream: requests go into Raft as they come, answers back in order.
async fn append(
    node: &Node,
    first: Bytes,
    input: StreamReceiver,
    output: StreamSender,
) -> Result<(), CallError> {
    let first = pb::AppendRequest::decode(first).map_err(malformed)?;
    let shard = match addressee(node, first.envelope.as_ref()) {
        Ok(shard) => shard,
        Err(error) => {
            let mut refusal = pb::AppendResponse {
                message: error.to_string(),
                ..Default::default()
            };
            refusal.set_kind(pb::append_response::Kind::Refused);
            // The sender may be gone; then nobody needs the reason.
            let _ = output.send(refusal.encode_to_vec().into()).await;
            return Ok(());
        }
    };
    let first = convert::from_pb_append(first).map_err(malformed)?;
    let rest = futures::stream::unfold(input, |mut input| async move {
        // A broken or malformed stream ends here; the leader opens a new one.
        let message = pb::AppendRequest::decode(input.next().await?.ok()?).ok()?;
        Some((convert::from_pb_append(message).ok()?, input))
    });
    let requests = futures::stream::once(async { first }).chain(rest);
    let mut answers = std::pin::pin!(shard.raft().stream_append(Box::pin(requests)));
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(|e| stopped(shard.id(), e))?;
        let message = acknowledgement(node, &answer).encode_to_vec();
        if output.send(message.into()).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn snapshot(
    node: &Node,
    first: Bytes,
    mut input: StreamReceiver,
    output: StreamSender,
) -> Result<(), CallError> {
    let chunk = pb::SnapshotChunk::decode(first).map_err(malformed)?;
    let offer = chunk.offer.ok_or_else(|| malformed("no offer"))?;
    let shard = addressee(node, offer.envelope.as_ref())?;
    let raft = shard.raft();
    let install = |vote, meta, data| async move {
        let snapshot = Snapshot { meta, snapshot: data };
        let response = raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|e| e.to_string())?;
        Ok(response.vote)
    };
    let received = node
        .snapshot_receiver()
        .receive(shard.id(), offer, &mut input, &output, install)
        .await;
    if let Err(e) = received {
        tracing::warn!(shard = %shard.id(), "receiving a snapshot failed; it goes on when the leader tries again: {e}");
        let ack = pb::SnapshotAck {
            error: e.to_string(),
            ..Default::default()
        };
        let _ = output.send(ack.encode_to_vec().into()).await;
    }
    Ok(())
}
