//! Which nodes are members, and what they are for: requests of operators, answered by the leader of the meta shard.

use std::{collections::BTreeMap, sync::Arc};

use kvsvr_client::transport::Method;
use kvsvr_core::types::META_SHARD;
use kvsvr_proto::v1::{self as pb, ErrorCode};

use super::{ask, invalid, refused};
use crate::{
    api::failed,
    controller::{self, Sight, Silences, look},
    node::Node,
    placement::{self, Doing, Request, View, Write},
    service::CallError,
    shard::{Shard, error},
    time::wall_clock_ms,
    topology::{self, Changes, settings},
};

fn meta(node: &Node) -> Result<Arc<Shard>, CallError> {
    node.replica(META_SHARD.0).map_err(failed)
}

/// Nodes and operations.
pub async fn list(node: &Arc<Node>) -> Result<pb::MembersResponse, CallError> {
    let sight = look(node, &meta(node)?, &mut Silences::default())
        .await
        .map_err(failed)?;
    let members = sight.topology.map.nodes.iter().map(|info| {
        let data = || sight.view.data();
        let seen = sight.view.nodes.get(&info.id);
        pb::Member {
            info: Some(info.clone()),
            silent_ms: seen.and_then(|n| n.silent_ms).unwrap_or(0),
            replicas: data().filter(|row| row.replicas.contains(&info.id)).count() as u32,
            preferred: data()
                .filter(|row| row.replicas.first() == Some(&info.id))
                .count() as u32,
        }
    });
    Ok(pb::MembersResponse {
        members: members.collect(),
        operations: sight.topology.operations.values().cloned().collect(),
        now_ms: wall_clock_ms(),
    })
}

/// Sets a setting, if one is named, and tells all.
pub async fn configure(
    node: &Arc<Node>,
    request: pb::ConfigureRequest,
) -> Result<pb::ConfigureResponse, CallError> {
    let meta = meta(node)?;
    let sight = look(node, &meta, &mut Silences::default())
        .await
        .map_err(failed)?;
    let mut stored = sight.topology.map.settings.clone();
    if !request.name.is_empty() {
        settings::check(&request.name, &request.value).map_err(invalid)?;
        let mut changes = Changes::new(&sight.topology, wall_clock_ms());
        changes.set(&request.name, &request.value);
        if let Some(command) = changes.command() {
            commit(&meta, command).await?;
        }
        stored.remove(&request.name);
        if !request.value.is_empty() {
            stored.insert(request.name, request.value);
        }
    }
    let tell = |setting: &settings::Setting| pb::configure_response::Setting {
        name: setting.name.to_owned(),
        value: settings::value(&stored, setting).to_owned(),
        default: setting.default.to_owned(),
        what: setting.what.to_owned(),
    };
    Ok(pb::ConfigureResponse {
        settings: settings::SETTINGS.iter().map(tell).collect(),
    })
}

async fn commit(meta: &Arc<Shard>, command: bytes::Bytes) -> Result<(), CallError> {
    if controller::commit(meta, command).await.map_err(failed)? {
        return Ok(());
    }
    Err(failed(error::retry(
        ErrorCode::Overloaded,
        "the cluster was changed by somebody else at the same time; try again",
        crate::limits::OVERLOADED_RETRY_MS,
    )))
}

/// Begins an operation, or shows its plan.
pub async fn change(
    node: &Arc<Node>,
    request: pb::ChangeMembersRequest,
) -> Result<pb::ChangeMembersResponse, CallError> {
    let meta = meta(node)?;
    let sight = look(node, &meta, &mut Silences::default())
        .await
        .map_err(failed)?;
    let leaderless = sight
        .view
        .rows
        .keys()
        .find(|shard| !sight.view.real.contains_key(shard));
    if let Some(shard) = leaderless {
        // An election ends this within seconds; clients come again.
        let text = format!(
            "shard {shard} has no leader that answers: members are not changed in this state; kvctl cluster status"
        );
        return Err(failed(error::retry(
            ErrorCode::NoLeader,
            text,
            crate::limits::NO_LEADER_RETRY_MS,
        )));
    }
    let wanted = wanted(node, &sight, request.change).await?;
    let number = sight.topology.next_operation();
    let writes = placement::admit(&sight.view, &wanted, number).map_err(refused)?;
    let plan = planned(&sight, &writes);
    let mut changes = Changes::new(&sight.topology, wall_clock_ms());
    for write in &writes {
        changes.add(write, &request.who);
    }
    let operation = changes.operation().cloned();
    if !request.dry_run {
        changes.note(&[], &plan, &[]);
        if let Some(command) = changes.command() {
            commit(&meta, command).await?;
        }
        node.placement_changed().notify_one();
    }
    let plan = plan.into_iter().map(|doing| doing.text).collect();
    Ok(pb::ChangeMembersResponse { operation, plan })
}

/// All labels of the node, as they are to be.
fn labels(sight: &Sight, change: pb::LabelMember) -> BTreeMap<String, String> {
    let known = sight.view.nodes.get(&change.node);
    let mut labels = known.map(|node| node.labels.clone()).unwrap_or_default();
    labels.retain(|name, _| !change.unset.contains(name));
    labels.extend(change.set);
    labels
}

async fn wanted(
    node: &Arc<Node>,
    sight: &Sight,
    change: Option<pb::change_members_request::Change>,
) -> Result<Request, CallError> {
    use pb::change_members_request::Change;
    Ok(
        match change.ok_or_else(|| invalid("the request names no change"))? {
            Change::Add(add) => Request::Add {
                store_id: newcomer(node, sight, &add.address, None).await?,
                address: add.address,
            },
            Change::Replace(replace) => Request::Replace {
                old: replace.old,
                store_id: newcomer(node, sight, &replace.address, Some(replace.old)).await?,
                address: replace.address,
            },
            Change::Drain(id) => Request::Drain(id),
            Change::Undrain(id) => Request::Undrain(id),
            Change::Remove(id) => Request::Remove(id),
            Change::Abort(id) => Request::Abort(id),
            Change::Evict(id) => Request::Evict(id),
            Change::Restore(id) => Request::Restore(id),
            Change::Label(label) => Request::Label(label.node, labels(sight, label)),
            Change::Reseed(replica) => Request::Reseed {
                shard: replica.shard,
                node: replica.node,
            },
        },
    )
}

/// The store of a node that is to join, in the place of another one or not.
async fn newcomer(
    node: &Arc<Node>,
    sight: &Sight,
    address: &str,
    replaces: Option<u64>,
) -> Result<String, CallError> {
    let asked = ask(node, address, Method::AdminIdentify, &pb::IdentifyRequest {}).await;
    let who: pb::IdentifyResponse = asked.map_err(|e| {
        refused(format!(
            "the leader of the meta shard cannot ask the new node who it is ({e}): start it first, with an empty data directory"
        ))
    })?;
    let mine = node.identity().map(crate::node::cluster_text).unwrap_or_default();
    if !who.cluster_id.is_empty() && who.cluster_id != mine {
        return Err(refused(format!(
            "the node at {address} is node {} of cluster {}, not of this cluster ({mine}); a data directory belongs to one cluster for ever: start the \
             new node with an empty one",
            who.node_id, who.cluster_id
        )));
    }
    if who.address != address {
        return Err(invalid(format!(
            "the node at {address} calls itself {}; add it by that address, or start it with --advertise {address}",
            who.address
        )));
    }
    let map = &sight.topology.map;
    let is_settled = |claim: &pb::Claim| {
        claim.cluster_id == mine
            && (replaces == Some(claim.node_id)
                || topology::removed_at(map, address).any(|id| id == claim.node_id))
    };
    match who.claim {
        Some(claim) if !is_settled(&claim) => Err(refused(format!(
            "the node at {address} would not join: {}",
            claim.reason
        ))),
        _ => Ok(who.store_id),
    }
}

/// The steps to the end, as if all went well.
fn planned(sight: &Sight, writes: &[Write]) -> Vec<Doing> {
    let mut view: View = sight.view.clone();
    placement::assume(&mut view, writes);
    placement::plan(&view)
}
