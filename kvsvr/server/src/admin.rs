//! Administration: joining, bootstrapping, leader transfer, compaction, state hashes.

pub mod backup;
pub mod members;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kvsvr_client::transport::Method;
use kvsvr_core::{
    codec::encode_command,
    command::{Command, Op},
    types::{META_SHARD, Partition},
};
use kvsvr_proto::v1::{self as pb, ErrorCode};
use prost::Message;

use crate::{
    api::failed,
    limits::{ADMIN_DEADLINE, BOOTSTRAP_DEADLINE, POLL_INTERVAL},
    node::{Node, VERSION, cluster_text},
    raft::{runtime::random_u64, types::PeerNode},
    service::CallError,
    shard::{Shard, error},
    store::Identity,
    time::{Instant, sleep, timeout},
    topology,
};

fn refused(message: impl Into<String>) -> CallError {
    failed(error::definite(ErrorCode::Refused, message))
}

fn invalid(message: impl Into<String>) -> CallError {
    failed(error::definite(ErrorCode::Invalid, message))
}

fn internal(e: impl ToString) -> CallError {
    failed(error::unknown(ErrorCode::Internal, e.to_string()))
}

/// Who this node is.
pub fn identify(node: &Node) -> pb::IdentifyResponse {
    let identity = node.identity();
    pb::IdentifyResponse {
        cluster_id: identity.map(cluster_text).unwrap_or_default(),
        node_id: identity.map_or(0, |i| i.node_id),
        store_id: node.store_id().to_owned(),
        address: node.address().to_owned(),
        version: VERSION.to_owned(),
        formed: node.map_epoch() > 0,
        claim: node.claim(),
        mean_write_us: node.mean_write_us(),
    }
}

/// Makes this node a member of a cluster that is being created.
pub async fn join(node: &Arc<Node>, request: pb::JoinRequest) -> Result<pb::JoinResponse, CallError> {
    if request.store_id != node.store_id() {
        return Err(refused(format!(
            "this data directory is store {}, not {}; a store never changes its identity",
            node.store_id(),
            request.store_id
        )));
    }
    node.take_places(&request.cluster_id, &request.replaces)
        .map_err(refused)?;
    let cluster_id = u64::from_str_radix(&request.cluster_id, 16).unwrap_or(0);
    if cluster_id == 0 || request.node_id == 0 {
        return Err(invalid(
            "a cluster id (16 hex digits) and a node id above 0 are needed",
        ));
    }
    let wanted = Identity {
        cluster_id,
        node_id: request.node_id,
    };
    match node.join(wanted).await {
        Ok(()) => Ok(pb::JoinResponse {}),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(refused(e.to_string())),
        Err(e) => Err(internal(e)),
    }
}

/// Creates a cluster of the given nodes. Safe to repeat when it was interrupted.
pub async fn bootstrap(
    node: &Arc<Node>,
    request: pb::BootstrapRequest,
) -> Result<pb::BootstrapResponse, CallError> {
    node.check_unclaimed().map_err(refused)?;
    let found = identify_all(node, &request.addresses).await?;
    let cluster_id = cluster_id(&request.addresses, &found)?;
    let nodes: Vec<pb::NodeInfo> = found
        .iter()
        .zip(&request.addresses)
        .zip(1..)
        .map(|((who, address), id)| pb::NodeInfo {
            id,
            address: address.clone(),
            store_id: who.store_id.clone(),
            version: who.version.clone(),
            ..Default::default()
        })
        .collect();
    let map = topology::layout(
        &cluster_id,
        &request.cluster_name,
        nodes,
        request.shards,
        request.replication,
    )
    .map_err(|e| invalid(e.to_string()))?;
    for info in &map.nodes {
        let join = pb::JoinRequest {
            cluster_id: cluster_id.clone(),
            node_id: info.id,
            store_id: info.store_id.clone(),
            replaces: Vec::new(),
        };
        let _: pb::JoinResponse = ask(node, &info.address, Method::AdminJoin, &join).await?;
    }
    let meta = node
        .shard(META_SHARD)
        .ok_or_else(|| refused("send it to one of the nodes of the new cluster"))?;
    initialize(&meta, &map.nodes).await?;
    let created = async {
        loop {
            if let Some(map) = node.map_with_leaders() {
                return map;
            }
            store(node, &meta, &map).await;
            sleep(POLL_INTERVAL).await;
        }
    };
    let map = timeout(BOOTSTRAP_DEADLINE, created).await.map_err(|_| {
        failed(error::unknown(
            ErrorCode::Timeout,
            format!("the nodes have joined, but the meta shard elected no leader within {BOOTSTRAP_DEADLINE:?}; repeat the command when a majority of them reach each other"),
        ))
    })?;
    Ok(pb::BootstrapResponse {
        cluster_id,
        map: Some(map),
    })
}

async fn ask<A: Message + Default>(
    node: &Node,
    address: &str,
    method: Method,
    request: &impl Message,
) -> Result<A, CallError> {
    let bytes = request.encode_to_vec().into();
    let class = kvsvr_client::transport::Class::Control;
    let answer = node
        .transport()
        .call(address, class, method, bytes, ADMIN_DEADLINE)
        .await;
    let answer = answer.map_err(|e| failed(error::definite(ErrorCode::Unreachable, e.to_string())))?;
    A::decode(answer).map_err(internal)
}

async fn identify_all(node: &Node, addresses: &[String]) -> Result<Vec<pb::IdentifyResponse>, CallError> {
    if addresses.is_empty() {
        return Err(invalid("name at least one node"));
    }
    let mut found: Vec<pb::IdentifyResponse> = Vec::new();
    for address in addresses {
        let who: pb::IdentifyResponse =
            ask(node, address, Method::AdminIdentify, &pb::IdentifyRequest {}).await?;
        if found.iter().any(|other| other.store_id == who.store_id) {
            return Err(invalid(format!(
                "{address} is the same node as another address of the list"
            )));
        }
        found.push(who);
    }
    Ok(found)
}

/// The id of the cluster to create, or to go on creating.
fn cluster_id(addresses: &[String], found: &[pb::IdentifyResponse]) -> Result<String, CallError> {
    if let Some((who, address)) = found.iter().zip(addresses).find(|(who, _)| who.formed) {
        return Err(refused(format!(
            "{address} is node {} of cluster {}, which exists already. If other nodes of the list have lost their disks, a new cluster of them must not take its \
             identity; start them with their data, or leave {address} out and give the new cluster new data directories",
            who.node_id, who.cluster_id
        )));
    }
    let mut begun: Option<&str> = None;
    for ((who, address), id) in found.iter().zip(addresses).zip(1u64..) {
        if who.cluster_id.is_empty() {
            continue;
        }
        // Joined in an earlier try of the same bootstrap: same place in the list, same cluster as the others.
        let same = who.node_id == id && begun.is_none_or(|begun| begun == who.cluster_id);
        if !same {
            return Err(refused(format!(
                "{address} is node {} of cluster {} already; a node belongs to one cluster for ever",
                who.node_id, who.cluster_id
            )));
        }
        begun = Some(&who.cluster_id);
    }
    Ok(begun.map_or_else(|| format!("{:016x}", random_u64()), str::to_owned))
}

/// Starts a shard's group with its first members. Does nothing if that has happened.
pub async fn initialize(shard: &Shard, nodes: &[pb::NodeInfo]) -> Result<(), CallError> {
    let members: BTreeMap<u64, PeerNode> = nodes
        .iter()
        .map(|n| {
            (
                n.id,
                PeerNode {
                    address: n.address.clone(),
                    store_id: n.store_id.clone(),
                    incarnation: 0,
                },
            )
        })
        .collect();
    if shard.raft().is_initialized().await.map_err(internal)? {
        return Ok(());
    }
    match shard.raft().initialize(members).await {
        Ok(()) => Ok(()),
        // Another member was faster.
        Err(openraft::errors::RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => {
            Ok(())
        }
        Err(e) => Err(internal(e)),
    }
}

/// Stores the first map as the leader of the meta shard, if this node leads it; else asks the leader to hand over. Called until the map is there.
async fn store(node: &Node, meta: &Shard, map: &pb::ShardMap) {
    let deadline = Instant::now() + Duration::from_secs(2);
    let command = topology::store_command(map);
    if meta.leader().is_me() {
        if let Err(e) = meta.propose_one(command, deadline).await {
            tracing::warn!("storing the first shard map failed, trying again: {}", e.message);
        }
        return;
    }
    let (Some((_, leader)), Some(me)) = (meta.leader().leader(), node.identity()) else {
        return;
    };
    // Instead of opening a way for foreign topology writes.
    let hand_over = pb::TransferLeaderRequest {
        shard: META_SHARD.0,
        to: me.node_id,
    };
    let asked =
        ask::<pb::TransferLeaderResponse>(node, &leader.address, Method::AdminTransferLeader, &hand_over);
    if let Err(e) = asked.await {
        tracing::debug!("the meta shard's leader does not hand over yet: {e}");
    }
}

/// Hands leadership of a shard to another member and waits until it leads.
pub async fn transfer_leader(
    node: &Arc<Node>,
    request: pb::TransferLeaderRequest,
) -> Result<pb::TransferLeaderResponse, CallError> {
    let shard = node.replica(request.shard).map_err(failed)?;
    if !shard.leader().is_me() {
        let leader = shard.leader().leader().map(|(id, peer)| (id, peer.address));
        return Err(failed(error::not_leader(request.shard, leader)));
    }
    let preferred = (request.to != 0).then_some(request.to);
    let target = shard.transfer_target(preferred).map(|(id, _)| id);
    let to = match (target, preferred) {
        (Some(id), None) => id,
        (Some(id), Some(wanted)) if id == wanted => id,
        _ => {
            return Err(refused(format!(
                "no suitable member: the target must be a voter of shard {}, caught up, and heard of within the last heartbeats",
                request.shard
            )));
        }
    };
    shard
        .raft()
        .trigger()
        .transfer_leader(to)
        .await
        .map_err(internal)?;
    let wait = shard.raft().wait(Some(ADMIN_DEADLINE));
    wait.metrics(|m| m.current_leader == Some(to), "transfer")
        .await
        .map_err(|_| {
            failed(error::unknown(
                ErrorCode::Timeout,
                format!("node {to} has not taken over within {ADMIN_DEADLINE:?}"),
            ))
        })?;
    Ok(pb::TransferLeaderResponse { leader: to })
}

/// Moves the compaction floor of the shards that this node leads. The state machine stops at what consumers have not acknowledged, unless
/// it is asked to pass them.
pub async fn compact(
    node: &Arc<Node>,
    request: pb::CompactRequest,
) -> Result<pb::CompactResponse, CallError> {
    let shards = if request.all {
        node.shards().into_iter().filter(|s| s.leader().is_me()).collect()
    } else {
        vec![node.replica(request.shard).map_err(failed)?]
    };
    let mut response = pb::CompactResponse::default();
    for shard in shards {
        let compact = Op::Compact {
            revision: shard.revision().saturating_sub(request.keep_revisions),
            pass_below: if request.past_consumers { u64::MAX } else { 0 },
        };
        match propose(&shard, compact).await {
            Ok(_) => {
                response.floors.insert(shard.id().0, shard.head().floor());
            }
            Err(e) => response.errors.push(e),
        }
    }
    Ok(response)
}

/// Proposes a command of the shard itself. A rejection is an error.
pub async fn propose(shard: &Shard, op: Op) -> Result<Option<pb::outcome::Result>, pb::Error> {
    propose_within(shard, op, ADMIN_DEADLINE).await
}

async fn propose_within(
    shard: &Shard,
    op: Op,
    span: Duration,
) -> Result<Option<pb::outcome::Result>, pb::Error> {
    // A command of the shard needs a partition only for its encoding.
    let partition = Partition::local(&b"shard"[..]);
    let command = encode_command(&Command {
        partition,
        session: None,
        op,
    });
    let outcome = shard.propose_one(command, Instant::now() + span).await?;
    match pb::Outcome::decode(outcome).map(|o| o.result) {
        Ok(Some(pb::outcome::Result::Rejected(rejection))) => {
            Err(crate::convert::rejection_message(rejection))
        }
        Ok(result) => Ok(result),
        Err(e) => Err(error::unknown(ErrorCode::Internal, e.to_string())),
    }
}

/// The hash of a replica's state at an index, for comparison with others. Whoever asks waits for the index as long as they like.
pub async fn state_hash(
    node: &Arc<Node>,
    request: pb::StateHashRequest,
) -> Result<pb::StateHashResponse, CallError> {
    let shard = node.replica(request.shard).map_err(failed)?;
    let found = shard
        .machine()
        .hash_at(request.at_index)
        .await
        .map_err(internal)?;
    Ok(pb::StateHashResponse {
        applied_index: found.applied,
        hash: found.hash.unwrap_or(0),
    })
}

/// All consumers of the replicas on this node.
pub fn consumers(node: &Node) -> pb::ConsumerListResponse {
    let mut consumers = Vec::new();
    for shard in node.shards() {
        shard.machine().with_machine(|machine, engine| {
            consumers.extend(machine.consumers().map(|(name, row)| pb::ConsumerInfo {
                shard: shard.id().0,
                name: String::from_utf8_lossy(name).into_owned(),
                epoch: row.epoch,
                cursor: row.cursor,
                shard_revision: machine.revision(),
                lag_bytes: machine.lag_bytes(engine, row.cursor).unwrap_or(0),
                cut_off: row.cursor < machine.floor(),
            }));
        });
    }
    pb::ConsumerListResponse { consumers }
}
