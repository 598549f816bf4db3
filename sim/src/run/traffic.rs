//! What the messages of a run tell: who asked for votes and who granted them, who handed a shard over, and events that must happen in a sweep
//! ([`EVENTS`](crate::sometimes::EVENTS)). Only messages that arrived count, but for what must be durable as soon as it is said.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kvsvr_client::transport::Method;
use kvsvr_core::types::{LogPosition, ShardId};
use kvsvr_proto::v1::{
    AppendRequest, AppendResponse, ErrorCode, ExecFrame, ExecReplyFrame, Outcome, ReadIndexResponse,
    SnapshotAck, TransferLeadershipRequest, VoteRequest, VoteResponse, append_response, exec_reply, outcome,
};
use parking_lot::Mutex;
use prost::Message as _;

use crate::{
    invariants::Said,
    net::{self, Direction, Fate, SimNet},
};

/// What is seen of the network.
#[derive(Default)]
pub(super) struct Traffic {
    /// What machines have said by it.
    pub(super) said: Said,
    pub(super) messages: Vec<net::Event>,
    /// How often each event happened.
    pub(super) events: BTreeMap<&'static str, u64>,
    /// Members of shards may change: it matters who answers a leader, and when.
    members_change: bool,
    /// Streams of entries, by the connection and the stream in it.
    appends: BTreeMap<(u64, u64), Appending>,
    /// Heartbeats that are not answered yet, by the connection and the call in it.
    heartbeats: BTreeMap<(u64, u64), Appending>,
    /// Requests for votes that are not answered yet, by the connection and the call in it.
    ballots: BTreeMap<(u64, u64), Ballot>,
}

/// A stream of entries, or a heartbeat.
#[derive(Clone, Copy)]
struct Appending {
    shard: ShardId,
    /// Of its leader.
    term: u64,
    leader: u64,
    follower: u64,
    incarnation: u64,
}

impl Appending {
    fn of(request: AppendRequest) -> Option<Self> {
        let (envelope, vote) = (request.envelope?, request.vote?);
        Some(Self {
            shard: ShardId(envelope.shard),
            term: vote.term,
            leader: vote.node_id,
            follower: envelope.to_node,
            incarnation: envelope.to_incarnation,
        })
    }
}

/// A request for a vote.
#[derive(Clone, Copy)]
struct Ballot {
    shard: ShardId,
    term: u64,
    candidate: u64,
    voter: u64,
    incarnation: u64,
}

impl Traffic {
    pub(super) fn watch(
        net: &SimNet,
        addresses: &[String],
        messages: bool,
        members_change: bool,
    ) -> Arc<Mutex<Self>> {
        let traffic = Arc::new(Mutex::new(Self {
            members_change,
            ..Self::default()
        }));
        let (noted, addresses) = (traffic.clone(), addresses.to_vec());
        net.observe(Arc::new(move |event, message| {
            let mut traffic = noted.lock();
            if messages {
                traffic.messages.push(event.clone());
            }
            let machine = addresses.iter().position(|address| **address == *event.from);
            match event.direction {
                Direction::Request => {
                    if let Some(machine) = machine {
                        traffic.note(machine, event, message);
                    }
                    if !matches!(event.fate, Fate::Dropped | Fate::ResetBefore) {
                        traffic.count_request(event.method, machine.is_some(), message);
                    }
                }
                Direction::Answer => {
                    traffic.note_vote(event, message);
                    traffic.note_stored(event, message);
                    traffic.note_answered(event, message);
                    if !matches!(event.fate, Fate::Dropped | Fate::ResetBefore) {
                        traffic.count_answer(event.method, message);
                    }
                }
            }
        }));
        traffic
    }

    fn note(&mut self, machine: usize, event: &net::Event, message: &Bytes) -> Option<()> {
        match event.method {
            // The one who asked, or leads, may not be there any more.
            Method::RaftTransferLeadership | Method::RaftVote if event.fate == Fate::Replayed => {}
            Method::RaftTransferLeadership => {
                let request = TransferLeadershipRequest::decode(message.clone()).ok()?;
                let shard = ShardId(request.envelope?.shard);
                let term = request.from_leader?.term;
                self.said.handed_over.insert((machine, shard, term));
            }
            Method::RaftVote => {
                let request = VoteRequest::decode(message.clone()).ok()?;
                let envelope = request.envelope?;
                let shard = ShardId(envelope.shard);
                let vote = request.vote?;
                let asked = self.said.asked.entry((envelope.from_node, shard)).or_default();
                *asked = (vote.term, vote.node_id).max(*asked);
                let ballot = Ballot {
                    shard,
                    term: vote.term,
                    candidate: vote.node_id,
                    voter: envelope.to_node,
                    incarnation: envelope.to_incarnation,
                };
                self.ballots.insert(event.call?, ballot);
            }
            // The first message on a stream says whose it is; the term stays that of its leader.
            Method::RaftAppend if !self.appends.contains_key(&event.call?) => {
                let appending = Appending::of(AppendRequest::decode(message.clone()).ok()?)?;
                self.appends.insert(event.call?, appending);
            }
            Method::RaftHeartbeat if self.members_change => {
                let heartbeat = Appending::of(AppendRequest::decode(message.clone()).ok()?)?;
                self.heartbeats.insert(event.call?, heartbeat);
            }
            _ => {}
        }
        Some(())
    }

    /// Notes a vote that was granted.
    fn note_vote(&mut self, event: &net::Event, message: &Bytes) -> Option<()> {
        if event.method != Method::RaftVote {
            return None;
        }
        let ballot = self.ballots.remove(&event.call?)?;
        if !VoteResponse::decode(message.clone()).ok()?.granted {
            return None;
        }
        let Ballot {
            shard,
            term,
            candidate,
            voter,
            incarnation,
        } = ballot;
        let of_replica = (voter, incarnation, shard);
        let granted = self.said.granted.entry(of_replica).or_default();
        *granted = (term, candidate).max(*granted);
        if !matches!(event.fate, Fate::Dropped | Fate::ResetBefore) {
            self.said
                .votes
                .entry((shard, term, candidate))
                .or_default()
                .insert(voter);
        }
        Some(())
    }

    /// Notes entries that were acknowledged.
    fn note_stored(&mut self, event: &net::Event, message: &Bytes) -> Option<()> {
        if event.method != Method::RaftAppend {
            return None;
        }
        let appending = *self.appends.get(&event.call?)?;
        let (shard, term) = (appending.shard, appending.term);
        let leader = (term, appending.leader);
        let answer = AppendResponse::decode(message.clone()).ok()?;
        if !matches!(
            answer.kind(),
            append_response::Kind::Success | append_response::Kind::Partial
        ) {
            return None;
        }
        let last = answer.log_id?;
        let position = LogPosition {
            index: last.index,
            term: last.term,
            node: last.node_id,
        };
        let stored = self
            .said
            .stored
            .entry((appending.follower, appending.incarnation, shard))
            .or_insert((leader, position));
        if (stored.0, stored.1.index) < (leader, position.index) {
            *stored = (leader, position);
        }
        if !matches!(event.fate, Fate::Dropped | Fate::ResetBefore) {
            let heard = self
                .said
                .heard
                .entry((shard, term, appending.leader))
                .or_default()
                .entry(appending.follower)
                .or_default();
            *heard = position.index.max(*heard);
        }
        Some(())
    }

    /// Notes when a follower has answered its leader.
    fn note_answered(&mut self, event: &net::Event, message: &Bytes) -> Option<()> {
        let appending = match event.method {
            Method::RaftHeartbeat => self.heartbeats.remove(&event.call?)?,
            Method::RaftAppend if self.members_change => *self.appends.get(&event.call?)?,
            _ => return None,
        };
        if message.is_empty() || matches!(event.fate, Fate::Dropped | Fate::ResetBefore) {
            return None;
        }
        let answer = AppendResponse::decode(message.clone()).ok()?;
        let is_no = matches!(
            answer.kind(),
            append_response::Kind::Refused | append_response::Kind::HigherVote
        );
        if !is_no {
            let leader = (appending.shard, appending.term, appending.leader);
            let answered = self.said.answered.entry(leader).or_default();
            answered.insert(appending.follower, event.at);
        }
        Some(())
    }

    fn count(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }

    fn count_request(&mut self, method: Method, of_a_node: bool, message: &Bytes) -> Option<()> {
        match method {
            Method::KvExec if of_a_node => {
                let frame = ExecFrame::decode(message.clone()).ok()?;
                if frame.requests.iter().any(|request| request.hops > 0) {
                    self.count("request_forwarded");
                }
            }
            _ => {}
        }
        Some(())
    }

    fn count_answer(&mut self, method: Method, message: &Bytes) -> Option<()> {
        // A call that failed has an answer without a byte.
        if message.is_empty() {
            return None;
        }
        match method {
            Method::RaftPreVote => {
                let answer = VoteResponse::decode(message.clone()).ok()?;
                if !answer.granted {
                    self.count("pre_vote_refused");
                }
            }
            Method::RaftAppend | Method::RaftHeartbeat => {
                let answer = AppendResponse::decode(message.clone()).ok()?;
                match answer.kind() {
                    append_response::Kind::HigherVote => self.count("old_leader_refused"),
                    append_response::Kind::Conflict => self.count("append_conflicted"),
                    append_response::Kind::Refused if answer.message.contains("its disk was lost") => {
                        self.count("stranger_refused");
                    }
                    _ => {}
                }
            }
            Method::RaftReadIndex => {
                let answer = ReadIndexResponse::decode(message.clone()).ok()?;
                if answer.error.is_empty() {
                    self.count("follower_read_confirmed");
                }
            }
            Method::RaftSnapshot => {
                let answer = SnapshotAck::decode(message.clone()).ok()?;
                // The first answer on a stream: what was staged of an earlier transfer is there to go on with.
                if !answer.resume_id.is_empty() {
                    self.count("snapshot_resume_offered");
                }
            }
            Method::KvExec => {
                let frame = ExecReplyFrame::decode(message.clone()).ok()?;
                for reply in frame.replies {
                    match reply.result.and_then(refusal) {
                        Some(ErrorCode::NoLeader) => self.count("refused_without_a_leader"),
                        Some(ErrorCode::TooStale) => self.count("refused_as_too_stale"),
                        Some(ErrorCode::NotLeader) => self.count("sent_to_the_leader"),
                        Some(ErrorCode::SessionExpired) => self.count("session_closed"),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// Why a request was refused, if it was.
fn refusal(result: exec_reply::Result) -> Option<ErrorCode> {
    match result {
        exec_reply::Result::Error(error) => Some(error.code()),
        exec_reply::Result::Outcome(bytes) => match Outcome::decode(bytes).ok()?.result? {
            outcome::Result::Rejected(rejection) => Some(rejection.code()),
            _ => None,
        },
        exec_reply::Result::Read(_) => None,
    }
}
