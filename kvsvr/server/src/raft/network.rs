//! The sending half of the peer protocol: what openraft calls to reach another node.
//!
//! Three kinds of messages travel on three connections to a peer (see [`Class`]), so that a heartbeat never waits behind log
//! replication, nor that behind a snapshot. Replication is pipelined: requests are sent while earlier ones are unanswered, at most
//! [`MAX_APPENDS_IN_FLIGHT`] and [`MAX_APPEND_BYTES_IN_FLIGHT`]. openraft puts no deadline on a replication stream, so this
//! does, and says `Unreachable`, which makes openraft back off, whenever a peer does not answer.
//!
//! An answer to a request also counts, in openraft, for requests without entries that were sent after it: the leader's lease is then
//! reckoned from the sending of those, though the peer may never have got them. So none is sent later than [`MAX_APPEND_SPREAD`] after
//! the oldest unanswered one, and lease reads leave that much of the lease unused.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use kvsvr_client::transport::{Class, Method, StreamReceiver, StreamSender, Transport, TransportError};
use kvsvr_core::types::ShardId;
use kvsvr_proto::v1 as pb;
use openraft::{
    OptionalSend,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use prost::Message;

use super::{
    convert,
    promises::Promises,
    snapshot::{SnapshotData, SnapshotSender},
    types::{PeerNode, TypeConfig, Vote, of},
};
use crate::{
    limits::{
        MAX_APPEND_BYTES_IN_FLIGHT, MAX_APPEND_SPREAD, MAX_APPENDS_IN_FLIGHT, MIN_APPEND_DEADLINE,
        TRANSFER_DEADLINE,
    },
    time::{Instant, sleep_until, timeout},
};

type RpcError = RPCError<TypeConfig>;

/// What all shards of a node share for reaching its peers.
#[derive(Clone)]
pub struct Peers {
    /// Carries the messages.
    pub transport: Arc<dyn Transport>,
    /// The cluster both sides belong to.
    pub cluster_id: Arc<str>,
    /// This node.
    pub node_id: u64,
    /// Its data directory.
    pub store_id: Arc<str>,
}

impl Peers {
    /// Who speaks to whom.
    pub fn envelope(&self, shard: ShardId, to: u64, node: &PeerNode) -> pb::Envelope {
        pb::Envelope {
            cluster_id: self.cluster_id.to_string(),
            from_node: self.node_id,
            to_node: to,
            to_store: node.store_id.clone(),
            shard: shard.0,
            from_store: self.store_id.to_string(),
            to_incarnation: node.incarnation,
        }
    }

    /// One control request.
    pub async fn control<Q: Message, A: Message + Default>(
        &self,
        address: &str,
        method: Method,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, TransportError> {
        let bytes = self
            .transport
            .call(address, Class::Control, method, encode(request), deadline)
            .await?;
        A::decode(bytes).map_err(|e| TransportError::Rejected {
            address: address.to_owned(),
            reason: format!("its answer does not decode: {e}"),
        })
    }
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Makes the connections of one shard.
#[derive(Clone)]
pub struct NetworkFactory {
    /// Shared by all shards.
    pub peers: Peers,
    /// Whose messages they carry.
    pub shard: ShardId,
    /// Sends snapshots.
    pub snapshots: Arc<SnapshotSender>,
    /// What the shard's members promise.
    pub promises: Arc<Promises>,
}

impl NetworkFactory {
    fn connect(&self, target: u64, node: &PeerNode, heartbeat: bool) -> Network {
        Network {
            factory: self.clone(),
            target,
            node: node.clone(),
            heartbeat,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Network {
        self.connect(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> Network {
        self.connect(target, node, true)
    }
}

/// One shard's way to one peer.
pub struct Network {
    factory: NetworkFactory,
    target: u64,
    node: PeerNode,
    heartbeat: bool,
}

fn unreachable(error: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(error))
}

impl Network {
    fn envelope(&self) -> pb::Envelope {
        self.factory
            .peers
            .envelope(self.factory.shard, self.target, &self.node)
    }

    async fn control<Q: Message, A: Message + Default>(
        &self,
        method: Method,
        request: Q,
        deadline: Duration,
    ) -> Result<A, RpcError> {
        self.factory
            .peers
            .control(&self.node.address, method, &request, deadline)
            .await
            .map_err(unreachable)
    }

    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        deadline: Duration,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let mut message = convert::pb_append(request);
        message.envelope = Some(self.envelope());
        let response: pb::AppendResponse = self.control(Method::RaftHeartbeat, message, deadline).await?;
        note_promise(&self.factory.promises, self.target, &response);
        append_result(response)
    }

    async fn open_append(&self) -> Result<(StreamSender, StreamReceiver), RpcError> {
        self.factory
            .peers
            .transport
            .open(&self.node.address, Class::Data, Method::RaftAppend)
            .await
            .map_err(unreachable)
    }
}

/// A refusal acknowledges nothing: a peer that does not take our messages, for as long as it does not, must not shorten the lease.
fn note_promise(promises: &Promises, member: u64, response: &pb::AppendResponse) {
    if response.kind() != pb::append_response::Kind::Refused {
        promises.note(member, response.promise_ms.into());
    }
}

fn append_result(response: pb::AppendResponse) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
    match convert::from_pb_append_result(response) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(refusal)) => Err(unreachable(refusal)),
        Err(malformed) => Err(unreachable(malformed)),
    }
}

/// A request that is not answered yet.
struct Sent {
    bytes: usize,
    /// Not later than openraft took it for sent.
    at: Instant,
}

/// A replication stream in progress.
struct Pump<S> {
    /// openraft's requests; `None` when they have ended.
    input: Option<S>,
    sender: Option<StreamSender>,
    receiver: StreamReceiver,
    /// Goes with the first message only.
    envelope: Option<pb::Envelope>,
    /// The unanswered requests, oldest first.
    in_flight: std::collections::VecDeque<Sent>,
    in_flight_bytes: usize,
    /// The peer.
    target: u64,
    /// What it promises by its answers goes here.
    promises: Arc<Promises>,
    /// When the oldest unanswered request has waited too long.
    deadline: Instant,
    patience: Duration,
    failed: bool,
    /// The peer's log is known to be ours so far.
    #[cfg(feature = "mutants")]
    matched: bool,
}

type AppendItem = Result<StreamAppendResult<TypeConfig>, RpcError>;

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pump<S> {
    async fn next(&mut self) -> Option<AppendItem> {
        if self.failed {
            return None;
        }
        let item = self.step().await;
        self.failed = matches!(item, Some(Err(_)));
        item
    }

    async fn step(&mut self) -> Option<AppendItem> {
        loop {
            let room = self.in_flight.len() < MAX_APPENDS_IN_FLIGHT
                && self.in_flight_bytes < MAX_APPEND_BYTES_IN_FLIGHT;
            let waiting = !self.in_flight.is_empty();
            let no_later_than = self.in_flight.front().map(|oldest| oldest.at + MAX_APPEND_SPREAD);
            let input = &mut self.input;
            // Looked at in each poll: openraft takes a request for sent when it gives it.
            let next_request = std::future::poll_fn(|context| match input {
                Some(stream) if no_later_than.is_none_or(|limit| Instant::now() < limit) => {
                    let asked_at = Instant::now();
                    stream.poll_next_unpin(context).map(|request| (request, asked_at))
                }
                _ => std::task::Poll::Pending,
            });
            tokio::select! { biased;
                answer = self.receiver.next() => return self.answered(answer),
                (request, at) = next_request, if room && self.sender.is_some() => match request {
                    Some(request) => {
                        #[cfg(feature = "mutants")]
                        let last = request.entries.last().map(|entry| entry.log_id);
                        if let Err(error) = self.send(request, at).await {
                            return Some(Err(error));
                        }
                        #[cfg(feature = "mutants")]
                        if self.matched && last.is_some() && kvsvr_core::mutant!("commit-without-quorum") {
                            return Some(Ok(Ok(last)));
                        }
                    }
                    // Dropping the sender ends the stream; what is in flight is still answered.
                    None => {
                        self.input = None;
                        self.sender = None;
                    }
                },
                () = sleep_until(self.deadline), if waiting => {
                    return Some(Err(unreachable(format!("no answer within {:?}", self.patience))));
                }
            }
        }
    }

    fn answered(&mut self, answer: Option<Result<Bytes, TransportError>>) -> Option<AppendItem> {
        match answer {
            None if self.input.is_none() || self.in_flight.is_empty() => None,
            None => Some(Err(unreachable("the peer closed the stream"))),
            Some(Err(error)) => Some(Err(unreachable(error))),
            Some(Ok(bytes)) => {
                let Some(answered) = self.in_flight.pop_front() else {
                    return Some(Err(unreachable("the peer answered no request")));
                };
                self.in_flight_bytes -= answered.bytes;
                self.deadline = Instant::now() + self.patience;
                match pb::AppendResponse::decode(bytes) {
                    Ok(response) => {
                        note_promise(&self.promises, self.target, &response);
                        let result = append_result(response);
                        #[cfg(feature = "mutants")]
                        {
                            self.matched |= matches!(result, Ok(Ok(Some(_))));
                        }
                        Some(result)
                    }
                    Err(error) => Some(Err(unreachable(format!("its answer does not decode: {error}")))),
                }
            }
        }
    }

    async fn send(&mut self, request: AppendEntriesRequest<TypeConfig>, at: Instant) -> Result<(), RpcError> {
        let mut message = convert::pb_append(request);
        message.envelope = self.envelope.take();
        let bytes = encode(&message);
        if self.in_flight.is_empty() {
            self.deadline = Instant::now() + self.patience;
        }
        self.in_flight_bytes += bytes.len();
        self.in_flight.push_back(Sent {
            bytes: bytes.len(),
            at,
        });
        let Some(sender) = &self.sender else { return Ok(()) };
        let closed = || unreachable("the connection is closed");
        // The queue is as deep as the socket is slow: waiting for it counts as waiting for the peer.
        timeout(self.patience, sender.send(bytes))
            .await
            .map_err(|_| unreachable("the peer does not take data"))?
            .map_err(|_| closed())
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        Ok(self.heartbeat(rpc, option.hard_ttl()).await?.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendItem>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.heartbeat {
                let this = &*self;
                let deadline = option.hard_ttl();
                let answers = futures::stream::unfold(input, move |mut input| async move {
                    let request = input.next().await?;
                    Some((this.heartbeat(request, deadline).await, input))
                });
                return Ok(Box::pin(answers) as BoxStream<'s, AppendItem>);
            }
            let patience = (option.hard_ttl() * 2).max(MIN_APPEND_DEADLINE);
            let (sender, receiver) = timeout(patience, self.open_append())
                .await
                .map_err(|_| unreachable(format!("cannot open a stream within {patience:?}")))??;
            let pump = Pump {
                input: Some(input),
                sender: Some(sender),
                receiver,
                envelope: Some(self.envelope()),
                in_flight: std::collections::VecDeque::new(),
                in_flight_bytes: 0,
                target: self.target,
                promises: self.factory.promises.clone(),
                deadline: Instant::now(),
                patience,
                failed: false,
                #[cfg(feature = "mutants")]
                matched: false,
            };
            let answers = futures::stream::unfold(pump, |mut pump| async move {
                let item = pump.next().await?;
                Some((item, pump))
            });
            Ok(Box::pin(answers) as BoxStream<'s, AppendItem>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = convert::pb_vote_request(&rpc, self.envelope());
        let answer = self.control(Method::RaftVote, request, option.soft_ttl()).await;
        if answer.is_err() && kvsvr_core::mutant!("silence-grants-vote") {
            return Ok(VoteResponse::new(rpc.vote, None, true));
        }
        let response: pb::VoteResponse = answer?;
        convert::from_pb_vote_response(&response).map_err(unreachable)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = convert::pb_vote_request(&rpc, self.envelope());
        let answer = self
            .control(Method::RaftPreVote, request, option.soft_ttl())
            .await;
        if answer.is_err() && kvsvr_core::mutant!("silence-grants-vote") {
            return Ok(VoteResponse::new(rpc.vote, None, true));
        }
        let response: pb::VoteResponse = answer?;
        convert::from_pb_vote_response(&response).map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: of::SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = self
            .factory
            .snapshots
            .send(&self.factory, self.target, &self.node, vote, snapshot);
        tokio::select! { biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::from_string(error))),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let message = pb::TransferLeadershipRequest {
            envelope: Some(self.envelope()),
            from_leader: Some(convert::pb_vote(request.from_leader())),
            to_node: *request.to_node_id(),
            last_log_id: request.last_log_id().map(convert::pb_log_id),
        };
        let response: pb::TransferLeadershipResponse = self
            .control(Method::RaftTransferLeadership, message, TRANSFER_DEADLINE)
            .await?;
        if response.result.is_empty() {
            Ok(Ok(()))
        } else {
            Err(RPCError::Network(NetworkError::from_string(response.result)))
        }
    }
}
