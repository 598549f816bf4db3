//! What the controller sees: the rows, who is silent, and every shard's group by its leader's word.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use kvsvr_client::transport::{Class, Method};
use kvsvr_proto::v1::{self as pb, ErrorCode};
use openraft::async_runtime::WatchReceiver as _;
use prost::Message as _;

use super::{Groups, ask, envelope};
use crate::{
    limits::{DISK_DEADLINE, NODE_SILENCE, QUICK_FOR, SLOW_FOR},
    node::Node,
    placement::{self, NodeState, Pace, Progress, Real, View},
    shard::{Shard, error, group::caught_up},
    time::Instant,
    topology::{self, Topology},
};

/// All that is known at one moment.
#[derive(Debug, Default)]
pub struct Sight {
    /// The rows.
    pub topology: Topology,
    /// The same, with what is real, for the planner.
    pub view: View,
    /// Groups whose leader answers.
    pub groups: Groups,
}

/// Since when nodes are silent, as this leader of the meta shard has seen it.
#[derive(Debug, Default)]
pub struct Silences(BTreeMap<u64, Instant>);

impl Silences {
    /// For how long a node is silent. `heard`: how long ago this leader has heard of it, if it ever did.
    fn note(&mut self, node: u64, heard: Option<Duration>) -> Option<u64> {
        if heard.is_some_and(|ago| ago < NODE_SILENCE) {
            self.0.remove(&node);
            return None;
        }
        let since = self.0.entry(node).or_insert_with(Instant::now);
        let silent = heard.unwrap_or_else(|| since.elapsed() + NODE_SILENCE);
        Some(silent.as_millis() as u64)
    }
}

impl Silences {
    /// Notes in a view for how long each node is silent, as the leader of the meta shard knows.
    pub fn of_all(&mut self, node: &Node, meta: &Shard, view: &mut View) {
        let me = node.identity().map_or(0, |i| i.node_id);
        let metrics = meta.raft().metrics().borrow_watched().clone();
        for (id, seen) in &mut view.nodes {
            let heard = metrics.heartbeat.as_ref().and_then(|h| h.get(id)?.as_ref());
            let ago = heard.map(|at| openraft::async_runtime::Instant::elapsed(&**at));
            let ago = if *id == me { Some(Duration::ZERO) } else { ago };
            seen.silent_ms = self.note(*id, ago);
        }
    }
}

/// How quick the nodes' disks are, as this leader of the meta shard has seen it: slow or quick, and since when.
#[derive(Debug, Default)]
pub struct Paces(BTreeMap<u64, (bool, Instant)>);

impl Paces {
    /// Asks the nodes that answer.
    pub async fn ask(&mut self, node: &Arc<Node>, view: &View, slow_ms: Option<u64>) {
        let members = view.nodes.values();
        let members = members.filter(|n| n.state != NodeState::Removed && n.reachable());
        let asked = members.map(|of| async move { (of.id, mean_write(node, of).await) });
        let asked = join_all(asked).await;
        let known: BTreeMap<u64, (bool, Instant)> = asked
            .into_iter()
            .filter_map(|(id, mean)| {
                let before = self.0.get(&id).copied();
                let now = match mean {
                    Some(mean) => seen(before, mean, slow_ms),
                    // Who does not answer in time is what it was.
                    None => before?,
                };
                Some((id, now))
            })
            .collect();
        self.0 = known;
    }

    /// Notes in a view what has been so for long enough.
    pub fn of_all(&self, view: &mut View) {
        for (id, seen) in &mut view.nodes {
            seen.pace = match self.0.get(id) {
                Some((true, since)) if since.elapsed() >= SLOW_FOR => Pace::Slow,
                Some((false, since)) if since.elapsed() >= QUICK_FOR => Pace::Quick,
                _ => Pace::Unknown,
            };
        }
    }
}

/// Slow or quick, and since when: in between it stays what it was.
fn seen(before: Option<(bool, Instant)>, mean: Duration, slow_ms: Option<u64>) -> (bool, Instant) {
    let limit = slow_ms.map(Duration::from_millis);
    let is_slow = match limit {
        Some(limit) if mean >= limit => true,
        Some(limit) if mean * 2 > limit => before.is_some_and(|(slow, _)| slow),
        _ => false,
    };
    match before {
        Some((slow, since)) if slow == is_slow => (slow, since),
        _ => (is_slow, Instant::now()),
    }
}

/// How long a node's writes of the log take; zero if it writes nothing.
async fn mean_write(node: &Arc<Node>, of: &placement::Node) -> Option<Duration> {
    if node.identity().is_some_and(|me| me.node_id == of.id) {
        return Some(Duration::from_micros(node.mean_write_us()));
    }
    let bytes = pb::IdentifyRequest {}.encode_to_vec().into();
    let asking = node.transport().call(
        &of.address,
        Class::Control,
        Method::AdminIdentify,
        bytes,
        DISK_DEADLINE,
    );
    let who = pb::IdentifyResponse::decode(asking.await.ok()?).ok()?;
    (who.node_id == of.id).then(|| Duration::from_micros(who.mean_write_us))
}

/// Looks at everything, having made sure that this node leads the meta shard and knows all that was stored.
pub async fn look(node: &Arc<Node>, meta: &Arc<Shard>, silences: &mut Silences) -> Result<Sight, pb::Error> {
    if !meta.leader().is_me() {
        let leader = meta.leader().leader().map(|(id, peer)| (id, peer.address));
        return Err(error::not_leader(meta.id().0, leader));
    }
    meta.reads().barrier().await?;
    let loaded = topology::load_all(&*meta.engine().snapshot())
        .map_err(|e| error::definite(ErrorCode::Internal, e.to_string()))?;
    let topology =
        loaded.ok_or_else(|| error::definite(ErrorCode::NotReady, "the cluster has no shard map yet"))?;
    let mut sight = Sight {
        view: topology::view(&topology),
        topology,
        groups: Groups::new(),
    };
    silences.of_all(node, meta, &mut sight.view);
    let asked = sight.view.rows.keys().map(|shard| group(node, &sight, *shard));
    let groups: Vec<Option<pb::GroupResponse>> = join_all(asked).await;
    let shards: Vec<u32> = sight.view.rows.keys().copied().collect();
    for (shard, group) in shards.into_iter().zip(groups) {
        let Some(group) = group else { continue };
        if let Some(real) = real(&group) {
            sight.view.real.insert(shard, real);
            sight.groups.insert(shard, group);
        }
    }
    Ok(sight)
}

/// A shard's group by its leader's word. Asks those first who probably lead.
async fn group(node: &Arc<Node>, sight: &Sight, shard: u32) -> Option<pb::GroupResponse> {
    let me = node.identity().map_or(0, |i| i.node_id);
    let row = sight.view.rows.get(&shard)?;
    let local = node.shard_number(shard);
    let mut to_ask: Vec<u64> = Vec::new();
    if let Some((leader, _)) = local.as_ref().and_then(|shard| shard.leader().leader()) {
        to_ask.push(leader);
    }
    // While the row is behind, a learner of it may lead.
    to_ask.extend(row.hosts());
    let mut asked: Vec<u64> = Vec::new();
    while !to_ask.is_empty() {
        let id = to_ask.remove(0);
        if asked.contains(&id) {
            continue;
        }
        asked.push(id);
        let answer = match &local {
            Some(local) if id == me => Ok(local.group().await),
            _ if !sight.view.nodes.get(&id).is_some_and(|n| n.reachable()) => continue,
            _ => {
                let request = pb::GroupRequest {
                    envelope: envelope(node, sight, shard, id),
                };
                ask(node, sight, id, Method::RaftGroup, &request).await
            }
        };
        match answer {
            Ok(answer) if answer.error.is_empty() => return Some(answer),
            Ok(answer) if answer.leader != 0 => to_ask.insert(0, answer.leader),
            Ok(_) => {}
            Err(e) => tracing::debug!(shard, node = id, "its group is not known: {e}"),
        }
    }
    None
}

fn real(group: &pb::GroupResponse) -> Option<Real> {
    let membership = group.membership.as_ref()?;
    let configs = membership.configs.iter();
    let configs: Vec<std::collections::BTreeSet<u64>> =
        configs.map(|set| set.ids.iter().copied().collect()).collect();
    let learners = membership.nodes.iter().map(|node| node.id);
    let learners = learners
        .filter(|id| !configs.iter().any(|set| set.contains(id)))
        .collect();
    let incarnations = membership.nodes.iter().map(|node| (node.id, node.incarnation));
    let progress = group.members.iter().map(|member| {
        let progress = Progress {
            caught_up: caught_up(member),
            lag_entries: member.lag_entries,
            lag_ms: member.lag_ms_known.then_some(member.lag_ms),
            heard: member.heard,
        };
        (member.node, progress)
    });
    Some(Real {
        leader: group.leader,
        configs,
        learners,
        incarnations: incarnations.collect(),
        committed: group.committed,
        progress: progress.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn a_disk_is_slow_or_quick_when_it_has_been_so_for_some_time() {
        let ms = Duration::from_millis;
        let mut paces = Paces::default();
        let mut see = |mean, slow_ms| {
            let before = paces.0.get(&7).copied();
            paces.0.insert(7, seen(before, mean, slow_ms));
            let mut view = View::default();
            let node = placement::Node {
                id: 7,
                address: String::new(),
                store_id: String::new(),
                state: NodeState::Up,
                evicted: false,
                slow: false,
                labels: BTreeMap::new(),
                silent_ms: None,
                pace: Pace::Unknown,
            };
            view.nodes.insert(7, node);
            paces.of_all(&mut view);
            view.nodes[&7].pace
        };
        assert_eq!(see(ms(250), Some(250)), Pace::Unknown);
        sleep(SLOW_FOR).await;
        // Between the limits it stays what it was.
        assert_eq!(see(ms(130), Some(250)), Pace::Slow);
        assert_eq!(see(ms(125), Some(250)), Pace::Unknown);
        sleep(QUICK_FOR).await;
        assert_eq!(see(ms(240), Some(250)), Pace::Quick);
        assert_eq!(see(ms(250), Some(250)), Pace::Unknown);
        // Nothing is slow.
        assert_eq!(see(ms(900), None), Pace::Unknown);
        sleep(QUICK_FOR).await;
        assert_eq!(see(ms(900), None), Pace::Quick);
    }
}
