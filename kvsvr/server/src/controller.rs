//! The placement controller: on the leader of the meta shard it compares what is wanted with what is, and takes the next steps.
//!
//! It keeps nothing that matters in memory: what is under way is in the rows of the meta shard, so whoever leads next goes on. One round
//! looks at all (after a confirmation that this node leads), lets [`placement`] decide, asks the shards' leaders for the
//! steps, and stores the writes in one transaction that fails if a row has changed since. A step names the membership and the row that it was
//! decided on, and a leader takes it on no others ([`row_is`]).
//!
//! At rest it reads nothing but the meta shard's revision, and now and then compares the rows with the shards' real members: a recovery of a quorum
//! ([`recover`](crate::recover)) changes those without the rows. That begins no operation and no change.

mod look;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use kvsvr_client::transport::{Class, Method};
use kvsvr_core::types::{META_SHARD, ShardId};
use kvsvr_proto::v1::{self as pb, ErrorCode};
use prost::Message;

pub use self::look::{Paces, Sight, Silences, look};
use crate::{
    limits::{
        ADMIN_DEADLINE, COMPARE_INTERVAL, DISK_INTERVAL, PLACEMENT_INTERVAL, PLACEMENT_STEP_INTERVAL,
        REPAIR_INTERVAL, STEP_DEADLINE,
    },
    node::{Node, cluster_text},
    placement::{self, Decision, NodeState, Pace, Step},
    raft::{convert, types::PeerNode},
    shard::{Shard, error, group::GroupStep},
    time::{Instant, sleep, timeout, wall_clock_ms},
    topology::{self, Changes, Topology},
};

/// Runs as long as the node does.
pub async fn run(node: Arc<Node>) {
    let mut seen = Seen::default();
    // The meta shard's revision at which there was nothing to do.
    let mut idle_at = None;
    let mut pause = PLACEMENT_INTERVAL;
    loop {
        // Whoever changes something wakes it; a look from time to time would find it too.
        let _ = timeout(pause, node.placement_changed().notified()).await;
        pause = PLACEMENT_INTERVAL;
        let Some(meta) = node.shard(META_SHARD).filter(|meta| meta.leader().is_me()) else {
            seen = Seen::default();
            idle_at = None;
            continue;
        };
        let revision = meta.revision();
        if idle_at == Some(revision) && !seen.compare_due() {
            if let Err(e) = by_itself(&node, &meta, &mut seen).await {
                tracing::debug!("whether a node is lost is looked at again: {e}");
            }
            continue;
        }
        match round(&node, &meta, &mut seen).await {
            Ok(Round::Went) => (idle_at, pause) = (None, PLACEMENT_STEP_INTERVAL),
            Ok(Round::Waits) => idle_at = None,
            Ok(Round::Idle) => idle_at = Some(revision),
            Err(e) => {
                tracing::debug!("placement is looked at again: {e}");
                sleep(PLACEMENT_INTERVAL).await;
            }
        }
    }
}

/// What this leader of the meta shard has seen of the nodes.
struct Seen {
    silences: Silences,
    paces: Paces,
    /// When it looked last, and when it asked how quick disks are.
    looked_at: Instant,
    asked_at: Instant,
    /// When it compares rows and groups next.
    compare_at: Instant,
}

impl Seen {
    fn compare_due(&self) -> bool {
        Instant::now() >= self.compare_at
    }

    /// Whether rows and groups differ. They are compared again at once if so, and soon where something is not known.
    fn differs(&mut self, view: &placement::View) -> bool {
        let differs = placement::differs(view);
        let known = |row| view.real.get(row).is_some_and(|real| real.committed);
        let pause = match (differs, view.rows.keys().all(known)) {
            (true, _) => Duration::ZERO,
            (false, true) => COMPARE_INTERVAL,
            (false, false) => REPAIR_INTERVAL,
        };
        self.compare_at = Instant::now() + pause;
        differs
    }
}

impl Default for Seen {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            silences: Silences::default(),
            paces: Paces::default(),
            looked_at: now,
            asked_at: now,
            compare_at: now,
        }
    }
}

/// Begins what the cluster does without being asked: at most one look in a while, since nobody waits for it.
async fn by_itself(node: &Arc<Node>, meta: &Arc<Shard>, seen: &mut Seen) -> Result<(), String> {
    if seen.looked_at.elapsed() < REPAIR_INTERVAL {
        return Ok(());
    }
    seen.looked_at = Instant::now();
    let stored = topology::load_all(&*meta.engine().snapshot()).map_err(|e| e.to_string())?;
    let Some(stored) = stored else { return Ok(()) };
    let mut view = topology::view(&stored);
    seen.silences.of_all(node, meta, &mut view);
    let asked = seen.asked_at.elapsed() >= DISK_INTERVAL;
    if asked {
        seen.asked_at = Instant::now();
        let slow_ms = topology::settings::slow_disk_ms(&stored.map.settings);
        seen.paces.ask(node, &view, slow_ms).await;
    }
    seen.paces.of_all(&mut view);
    let lost = |n: &placement::Node| n.state == NodeState::Lost && n.reachable();
    let silent = |n: &placement::Node| {
        n.silent_ms
            .zip(view.repair_after_ms)
            .is_some_and(|(ms, after)| ms >= after)
    };
    // What may not be begun now is not looked at more often than disks are.
    let paced = |n: &placement::Node| match n.pace {
        Pace::Slow => asked && !n.slow,
        Pace::Quick => asked && n.slow,
        Pace::Unknown => false,
    };
    if !view
        .nodes
        .values()
        .any(|n| lost(n) || n.state == NodeState::Up && silent(n) || paced(n))
    {
        return Ok(());
    }
    // Only now all is asked for.
    let mut sight = look(node, meta, &mut seen.silences)
        .await
        .map_err(|e| e.message)?;
    seen.paces.of_all(&mut sight.view);
    let Some(request) = placement::by_itself(&sight.view) else {
        return Ok(());
    };
    let number = sight.topology.next_operation();
    let writes = placement::admit(&sight.view, &request, number)?;
    let mut changes = Changes::new(&sight.topology, wall_clock_ms());
    for write in &writes {
        changes.add(write, "the cluster");
    }
    if let Some(operation) = changes.operation() {
        tracing::warn!(
            operation = operation.id,
            "placement begins by itself: {request:?}"
        );
    }
    let Some(command) = changes.command() else {
        return Ok(());
    };
    commit(meta, command).await.map_err(|e| e.message)?;
    Ok(())
}

/// Something is to be done, or to be waited for.
fn at_work(topology: &Topology) -> bool {
    let view = topology::view(topology);
    let joining = |node: &placement::Node| matches!(node.state, NodeState::Joining | NodeState::Leaving);
    view.operation.is_some_and(|op| !op.state.ended())
        || view.nodes.values().any(joining)
        || view
            .rows
            .values()
            .any(|row| row.change.is_some() || (!row.is_meta() && !row.learners.is_empty()))
}

/// What became of a round.
enum Round {
    /// There was nothing to do.
    Idle,
    /// What there is to do has to wait, or was refused.
    Waits,
    /// Something was done.
    Went,
}

/// One round.
async fn round(node: &Arc<Node>, meta: &Arc<Shard>, seen: &mut Seen) -> Result<Round, String> {
    let stored = topology::load_all(&*meta.engine().snapshot()).map_err(|e| e.to_string())?;
    let is_at_work = stored.as_ref().is_some_and(at_work);
    if !is_at_work && (stored.is_none() || !seen.compare_due()) {
        return Ok(Round::Idle);
    }
    let sight = look(node, meta, &mut seen.silences)
        .await
        .map_err(|e| e.message)?;
    if !is_at_work && !seen.differs(&sight.view) {
        return Ok(Round::Idle);
    }
    let decision = placement::decide(&sight.view);
    invite(node, &sight).await;
    let taken = take_steps(node, &sight, &decision).await;
    store(meta, &sight, &decision).await?;
    // Leadership is handed over some time after it was asked for.
    let hands_over = |(_, step): &(u32, Step)| matches!(step, Step::MoveLeader(_));
    let went = taken && !decision.doing.is_empty() && !decision.steps.iter().any(hands_over);
    Ok(if went { Round::Went } else { Round::Waits })
}

/// Tells nodes that are to join that they are members. Repeated until the meta shard's leader hears of them.
async fn invite(node: &Arc<Node>, sight: &Sight) {
    let replaced = sight.view.operation.and_then(|op| match op.kind {
        placement::OpKind::Replace(old, new) => Some((new, old)),
        _ => None,
    });
    for joining in sight.view.in_state(NodeState::Joining).filter(|n| !n.reachable()) {
        let request = pb::JoinRequest {
            cluster_id: sight.topology.map.cluster_id.clone(),
            node_id: joining.id,
            store_id: joining.store_id.clone(),
            replaces: replaced
                .filter(|(new, _)| *new == joining.id)
                .map(|(_, old)| old)
                .into_iter()
                .chain(topology::removed_at(&sight.topology.map, &joining.address))
                .collect(),
        };
        let bytes = request.encode_to_vec().into();
        let call = node.transport().call(
            &joining.address,
            Class::Control,
            Method::AdminJoin,
            bytes,
            ADMIN_DEADLINE,
        );
        if let Err(e) = call.await {
            tracing::warn!(
                node = joining.id,
                "the new node does not join yet, it is asked again: {e}"
            );
        }
    }
}

/// Asks the leaders for the steps, all shards at a time. What is refused or fails is decided anew in the next round; the answer says whether
/// nothing was.
async fn take_steps(node: &Arc<Node>, sight: &Sight, decision: &Decision) -> bool {
    let steps = decision.steps.iter().map(|(shard, step)| async move {
        tracing::info!(shard, "placement: {}", step.text(&sight.view));
        let taken = take_step(node, sight, *shard, step).await;
        if let Err(e) = &taken {
            tracing::info!(
                shard,
                "this step of the placement was not taken, it is decided anew: {e}"
            );
        }
        taken.is_ok()
    });
    join_all(steps).await.into_iter().all(|taken| taken)
}

fn group_step(sight: &Sight, step: &Step) -> Option<GroupStep> {
    Some(match step {
        Step::AddLearner { node, incarnation } => {
            let info = sight.view.nodes.get(node)?;
            let peer = PeerNode {
                address: info.address.clone(),
                store_id: info.store_id.clone(),
                incarnation: *incarnation,
            };
            GroupStep::AddLearner(*node, peer)
        }
        Step::ChangeVoters(voters) | Step::FinishJoint(voters) => GroupStep::Voters(voters.clone()),
        Step::DropLearner(node) => GroupStep::DropLearner(*node),
        Step::MoveLeader(to) => GroupStep::MoveLeader(*to),
        Step::Row(_) | Step::Wait(_) | Step::Settled => return None,
    })
}

fn pb_step(step: GroupStep) -> pb::change_group_request::Step {
    use pb::change_group_request::Step;
    match step {
        GroupStep::AddLearner(id, node) => Step::AddLearner(pb::PbPeer {
            id,
            address: node.address,
            store_id: node.store_id,
            incarnation: node.incarnation,
        }),
        GroupStep::Voters(voters) => Step::Voters(pb::PbNodeSet {
            ids: voters.into_iter().collect(),
        }),
        GroupStep::DropLearner(id) => Step::DropLearner(id),
        GroupStep::MoveLeader(id) => Step::MoveLeader(id),
    }
}

async fn take_step(node: &Arc<Node>, sight: &Sight, shard: u32, step: &Step) -> Result<(), String> {
    let step = group_step(sight, step).ok_or("not a step of a group")?;
    let group = sight.groups.get(&shard).ok_or("no leader is known")?;
    let row_changes = sight.view.rows.get(&shard).map_or(0, |row| row.changes);
    let me = node.identity().map_or(0, |i| i.node_id);
    if group.leader == me {
        let local = node.shard_number(shard).ok_or("this node's replica is gone")?;
        let decided_on = group.membership_id.as_ref().map(convert::from_pb_log_id);
        let wanted = row_is(node, row_changes, local.id());
        return local.change_group(decided_on, step, wanted).await;
    }
    let request = pb::ChangeGroupRequest {
        envelope: envelope(node, sight, shard, group.leader),
        membership_id: group.membership_id,
        row_changes,
        step: Some(pb_step(step)),
    };
    let response = ask(node, sight, group.leader, Method::RaftChangeGroup, &request).await?;
    if response.error.is_empty() {
        Ok(())
    } else {
        Err(response.error)
    }
}

/// Makes sure that a shard's row is as it was after so many changes, by what the meta shard has committed now: a step that a deposed
/// controller asks for, or that was long on its way, must not be taken once the row has gone on.
pub async fn row_is(node: &Node, changes: u64, shard: ShardId) -> Result<(), String> {
    let meta = node
        .shard(META_SHARD)
        .ok_or("this node has no replica of the meta shard")?;
    meta.reads().barrier().await.map_err(|e| e.message)?;
    let map = topology::load(&*meta.engine().snapshot()).map_err(|e| e.to_string())?;
    let row = map
        .iter()
        .flat_map(|map| &map.shards)
        .find(|row| row.id == shard.0);
    match row {
        Some(row) if row.changes == changes => Ok(()),
        _ => Err(format!(
            "shard {shard}: its row in the meta shard is another than the step is for"
        )),
    }
}

/// Who speaks to whom. `None`: the other one is not known.
fn envelope(node: &Node, sight: &Sight, shard: u32, to: u64) -> Option<pb::Envelope> {
    let me = node.identity()?;
    let target = sight.view.nodes.get(&to)?;
    Some(pb::Envelope {
        cluster_id: cluster_text(me),
        from_node: me.node_id,
        from_store: node.store_id().to_owned(),
        to_node: to,
        to_store: target.store_id.clone(),
        shard: ShardId(shard).0,
        to_incarnation: sight.view.rows.get(&shard)?.incarnation(to),
    })
}

async fn ask(
    node: &Node,
    sight: &Sight,
    to: u64,
    method: Method,
    request: &impl Message,
) -> Result<pb::GroupResponse, String> {
    let target = sight
        .view
        .nodes
        .get(&to)
        .ok_or_else(|| format!("there is no node {to}"))?;
    let deadline = match method {
        Method::RaftChangeGroup => STEP_DEADLINE,
        _ => ADMIN_DEADLINE,
    };
    let bytes = request.encode_to_vec().into();
    let answer = node
        .transport()
        .call(&target.address, Class::Control, method, bytes, deadline)
        .await;
    pb::GroupResponse::decode(answer.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
}

async fn store(meta: &Arc<Shard>, sight: &Sight, decision: &Decision) -> Result<(), String> {
    let mut changes = Changes::new(&sight.topology, wall_clock_ms());
    for write in &decision.writes {
        changes.add(write, "");
    }
    if sight.view.operation.is_some_and(|op| !op.state.ended()) {
        let plan = placement::plan(&sight.view);
        // It begins with what is done now.
        let left = plan.get(decision.doing.len()..).unwrap_or_default();
        changes.note(&decision.doing, left, &decision.waiting);
    }
    for doing in &decision.doing {
        tracing::debug!("placement: {}", doing.text);
    }
    let Some(command) = changes.command() else {
        return Ok(());
    };
    if commit(meta, command).await.map_err(|e| e.message)? {
        Ok(())
    } else {
        Err("the rows have changed meanwhile".to_owned())
    }
}

/// Commits a transaction on the topology. The answer says whether its compares held.
pub async fn commit(meta: &Shard, command: bytes::Bytes) -> Result<bool, pb::Error> {
    let outcome = meta.propose_one(command, Instant::now() + ADMIN_DEADLINE).await?;
    let internal = |e: String| error::unknown(ErrorCode::Internal, e);
    let outcome = pb::Outcome::decode(outcome).map_err(|e| internal(e.to_string()))?;
    match outcome.result {
        Some(pb::outcome::Result::Txn(txn)) => Ok(txn.succeeded),
        Some(pb::outcome::Result::Rejected(rejection)) => Err(crate::convert::rejection_message(rejection)),
        other => Err(internal(format!("a transaction was answered with {other:?}"))),
    }
}

/// Groups by shard.
type Groups = BTreeMap<u32, pb::GroupResponse>;
