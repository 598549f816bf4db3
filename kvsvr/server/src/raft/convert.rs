//! openraft's types to and from our own messages and records, so that none of them is ever persisted or sent.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvsvr_core::types::LogPosition;
use kvsvr_proto::v1 as pb;
use openraft::{
    EntryPayload,
    entry::RaftEntry,
    raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse},
    vote::RaftLeaderId,
};
use prost::Message;

use super::types::{Batch, Entry, LogId, Membership, PeerNode, StoredMembership, TypeConfig, Vote, of};
use crate::wal::{EntryKind, EntryRecord, VoteRecord};

/// A message lacks what it must have.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed peer message: {0}")]
pub struct Malformed(pub &'static str);

/// A log id as the state machine knows it.
pub fn position(id: &LogId) -> LogPosition {
    LogPosition {
        index: id.index,
        term: id.leader_id.term,
        node: id.leader_id.node_id,
    }
}

/// A log id as openraft knows it.
pub fn log_id(position: LogPosition) -> LogId {
    LogId::new(
        of::CommittedLeaderIdOf::<TypeConfig>::new(position.term, position.node),
        position.index,
    )
}

/// A log id as it is sent.
pub fn pb_log_id(id: &LogId) -> pb::PbLogId {
    pb::PbLogId {
        term: id.leader_id.term,
        node_id: id.leader_id.node_id,
        index: id.index,
    }
}

/// A received log id.
pub fn from_pb_log_id(id: &pb::PbLogId) -> LogId {
    log_id(LogPosition {
        index: id.index,
        term: id.term,
        node: id.node_id,
    })
}

/// A vote as it is stored.
pub fn vote_record(vote: &Vote) -> VoteRecord {
    VoteRecord {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// A stored vote.
pub fn vote(record: VoteRecord) -> Vote {
    let mut vote = Vote::new(record.term, record.node);
    vote.committed = record.committed;
    vote
}

/// A vote as it is sent.
pub fn pb_vote(vote: &Vote) -> pb::PbVote {
    pb::PbVote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// A received vote.
pub fn from_pb_vote(received: Option<&pb::PbVote>) -> Result<Vote, Malformed> {
    let pb::PbVote {
        term,
        node_id: node,
        committed,
    } = *received.ok_or(Malformed("no vote"))?;
    Ok(vote(VoteRecord {
        term,
        node,
        committed,
    }))
}

/// A membership as it is stored and sent.
pub fn pb_membership(membership: &Membership) -> pb::PbMembership {
    pb::PbMembership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|ids| pb::PbNodeSet {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| pb::PbPeer {
                id: *id,
                address: node.address.clone(),
                store_id: node.store_id.clone(),
                incarnation: node.incarnation,
            })
            .collect(),
    }
}

/// A stored or received membership.
pub fn from_pb_membership(membership: pb::PbMembership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|set| set.ids.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, PeerNode> = membership
        .nodes
        .into_iter()
        .map(|peer| {
            (
                peer.id,
                PeerNode {
                    address: peer.address,
                    store_id: peer.store_id,
                    incarnation: peer.incarnation,
                },
            )
        })
        .collect();
    Membership::new(configs, nodes).map_err(|_| Malformed("a voter without a node"))
}

/// A membership with its log id, as it is stored in the state machine and sent with a snapshot.
pub fn pb_stored_membership(membership: &StoredMembership) -> pb::PbStoredMembership {
    pb::PbStoredMembership {
        log_id: membership.log_id().as_ref().map(pb_log_id),
        membership: Some(pb_membership(membership.membership())),
    }
}

/// A stored or received membership with its log id.
pub fn from_pb_stored_membership(membership: pb::PbStoredMembership) -> Result<StoredMembership, Malformed> {
    let id = membership.log_id.as_ref().map(from_pb_log_id);
    let inner = membership.membership.ok_or(Malformed("no membership"))?;
    Ok(StoredMembership::new(id, from_pb_membership(inner)?))
}

/// The state machine's opaque membership bytes.
pub fn decode_stored_membership(bytes: &[u8]) -> Result<StoredMembership, Malformed> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    let message =
        pb::PbStoredMembership::decode(bytes).map_err(|_| Malformed("membership does not decode"))?;
    from_pb_stored_membership(message)
}

/// An entry as the WAL keeps it.
pub fn record(entry: Entry) -> EntryRecord {
    let position = position(&entry.log_id);
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(batch) => (EntryKind::Batch, batch.0),
        EntryPayload::Membership(membership) => (
            EntryKind::Membership,
            pb_membership(&membership).encode_to_vec().into(),
        ),
    };
    EntryRecord {
        position,
        kind,
        payload,
    }
}

/// An entry from the WAL.
pub fn entry(record: EntryRecord) -> Result<Entry, Malformed> {
    let payload = match record.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Batch => EntryPayload::Normal(Batch(record.payload)),
        EntryKind::Membership => {
            let message = pb::PbMembership::decode(record.payload)
                .map_err(|_| Malformed("membership entry does not decode"))?;
            EntryPayload::Membership(from_pb_membership(message)?)
        }
    };
    Ok(Entry::new(log_id(record.position), payload))
}

fn pb_entry(entry: Entry) -> pb::PbEntry {
    let payload = match entry.payload {
        EntryPayload::Blank => pb::pb_entry::Payload::Blank(true),
        EntryPayload::Normal(batch) => pb::pb_entry::Payload::Batch(batch.0),
        EntryPayload::Membership(membership) => pb::pb_entry::Payload::Membership(pb_membership(&membership)),
    };
    pb::PbEntry {
        log_id: Some(pb_log_id(&entry.log_id)),
        payload: Some(payload),
    }
}

fn from_pb_entry(entry: pb::PbEntry) -> Result<Entry, Malformed> {
    let id = entry
        .log_id
        .as_ref()
        .map(from_pb_log_id)
        .ok_or(Malformed("entry without log id"))?;
    let payload = match entry.payload.ok_or(Malformed("entry without payload"))? {
        pb::pb_entry::Payload::Blank(_) => EntryPayload::Blank,
        pb::pb_entry::Payload::Batch(bytes) => EntryPayload::Normal(Batch(bytes)),
        pb::pb_entry::Payload::Membership(membership) => {
            EntryPayload::Membership(from_pb_membership(membership)?)
        }
    };
    Ok(Entry::new(id, payload))
}

/// An append request as it is sent; the envelope is the caller's.
pub fn pb_append(request: AppendEntriesRequest<TypeConfig>) -> pb::AppendRequest {
    pb::AppendRequest {
        envelope: None,
        vote: Some(pb_vote(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(pb_log_id),
        entries: request.entries.into_iter().map(pb_entry).collect(),
        leader_commit: request.leader_commit.as_ref().map(pb_log_id),
    }
}

/// A received append request.
pub fn from_pb_append(request: pb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: from_pb_vote(request.vote.as_ref())?,
        prev_log_id: request.prev_log_id.as_ref().map(from_pb_log_id),
        entries: request
            .entries
            .into_iter()
            .map(from_pb_entry)
            .collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(from_pb_log_id),
    })
}

/// The answer to an append request as it is sent.
pub fn pb_append_result(result: &StreamAppendResult<TypeConfig>) -> pb::AppendResponse {
    use pb::append_response::Kind;
    let mut response = pb::AppendResponse::default();
    match result {
        Ok(matching) => response.log_id = matching.as_ref().map(pb_log_id),
        Err(StreamAppendError::Conflict(id)) => {
            response.set_kind(Kind::Conflict);
            response.log_id = Some(pb_log_id(id));
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            response.set_kind(Kind::HigherVote);
            response.vote = Some(pb_vote(vote));
        }
    }
    response
}

/// The received answer to an append request. The outer error is a refusal: this peer does not take our messages.
pub fn from_pb_append_result(
    response: pb::AppendResponse,
) -> Result<Result<StreamAppendResult<TypeConfig>, String>, Malformed> {
    use pb::append_response::Kind;
    let id = response.log_id.as_ref().map(from_pb_log_id);
    Ok(Ok(match response.kind() {
        Kind::Success | Kind::Partial => Ok(id),
        Kind::Conflict => Err(StreamAppendError::Conflict(
            id.ok_or(Malformed("conflict without log id"))?,
        )),
        Kind::HigherVote => Err(StreamAppendError::HigherVote(from_pb_vote(
            response.vote.as_ref(),
        )?)),
        Kind::Refused => return Ok(Err(response.message)),
    }))
}

/// A vote request as it is sent; the envelope is the caller's.
pub fn pb_vote_request(request: &VoteRequest<TypeConfig>, envelope: pb::Envelope) -> pb::VoteRequest {
    pb::VoteRequest {
        envelope: Some(envelope),
        vote: Some(pb_vote(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(pb_log_id),
        leader_transfer: request.leadership_transfer,
    }
}

/// A received vote request.
pub fn from_pb_vote_request(request: &pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, Malformed> {
    Ok(VoteRequest {
        vote: from_pb_vote(request.vote.as_ref())?,
        last_log_id: request.last_log_id.as_ref().map(from_pb_log_id),
        leadership_transfer: request.leader_transfer,
    })
}

/// The answer to a vote request as it is sent.
pub fn pb_vote_response(response: &VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(pb_vote(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(pb_log_id),
    }
}

/// The received answer to a vote request.
pub fn from_pb_vote_response(response: &pb::VoteResponse) -> Result<VoteResponse<TypeConfig>, Malformed> {
    Ok(VoteResponse {
        vote: from_pb_vote(response.vote.as_ref())?,
        vote_granted: response.granted,
        last_log_id: response.last_log_id.as_ref().map(from_pb_log_id),
    })
}
