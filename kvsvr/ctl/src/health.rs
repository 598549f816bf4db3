//! What is wrong with a cluster: a pure judgement on the shard map and what each node says of itself, and `kvctl cluster health`.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use futures::future::join_all;
use kvsvr_client::{
    Client,
    proto::{NodeStatus, ReplicaStatus, ShardInfo, ShardMap},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    context::Context,
    failure::{self, Failure},
    limits::{LAG_ENTRIES, LOW_DISK_BYTES, POLL, SLOW_FSYNC_US, STATUS_TIMEOUT, WAIT_TIMEOUT},
    text::{shard_name, show_size, show_span},
};

/// `kvctl cluster health`.
#[derive(Args, Clone, Copy, Debug)]
pub struct HealthArgs {
    /// Wait until it is well, up to --timeout [default: 60s]
    #[arg(long)]
    pub wait: bool,
    /// Ask only that every shard has a leader: reads and writes are answered, though a node may be missing
    #[arg(long)]
    pub serving: bool,
}

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its id in the shard map.
    pub id: u64,
    /// HOST:PORT.
    pub address: String,
    /// What it says, or why it does not.
    pub status: Result<NodeStatus, String>,
}

impl NodeView {
    /// What it says, if it does.
    pub fn status(&self) -> Option<&NodeStatus> {
        self.status.as_ref().ok()
    }
}

/// A cluster at one time: the map as one node knows it, and every node's own words.
#[derive(Clone, Debug)]
pub struct View {
    /// What should be.
    pub map: ShardMap,
    /// What is, in the order of node ids.
    pub nodes: Vec<NodeView>,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Some data cannot be read or written.
    Down,
    /// All is served, but fewer failures are survived than should be.
    Degraded,
    /// It may become worse.
    Warning,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// What, where, and what to do.
    pub text: String,
}

impl View {
    /// Asks one node for the map and then every node of the map for its status.
    ///
    /// # Errors
    /// No endpoint answers, or none is part of a cluster.
    pub async fn fetch(context: &mut Context) -> Result<View, Failure> {
        let timeout = context.request_timeout().min(STATUS_TIMEOUT);
        let client = context.client()?.with_timeout(timeout);
        Self::fetch_with(&client).await
    }

    /// The same with a client whose timeout is set.
    ///
    /// # Errors
    /// As [`View::fetch`].
    pub async fn fetch_with(client: &Client) -> Result<View, Failure> {
        let map = client.shard_map().await?;
        Ok(Self::of_map(client, map).await)
    }

    /// Asks every node of a map for its status.
    pub async fn of_map(client: &Client, map: ShardMap) -> View {
        let asked = map.nodes.iter().map(|node| async {
            let status = client.status(&node.address).await.map_err(|e| e.message);
            NodeView {
                id: node.id,
                address: node.address.clone(),
                status,
            }
        });
        let mut nodes = join_all(asked).await;
        nodes.sort_by_key(|node| node.id);
        View { map, nodes }
    }

    /// A shard of the map.
    ///
    /// # Errors
    /// There is no such shard.
    pub fn shard(&self, id: u32) -> Result<&ShardInfo, Failure> {
        self.map
            .shards
            .iter()
            .find(|shard| shard.id == id)
            .ok_or_else(|| {
                let last = self.map.shards.iter().map(|shard| shard.id).max().unwrap_or(0);
                Failure::new(
                    failure::NOT_FOUND,
                    format!("there is no shard {id}; shards are 0 (meta) to {last}"),
                )
            })
    }

    /// What a node says of its replica of a shard.
    pub fn replica(&self, node: u64, shard: u32) -> Option<&ReplicaStatus> {
        let node = self.nodes.iter().find(|view| view.id == node)?;
        node.status()?
            .replicas
            .iter()
            .find(|replica| replica.shard == shard)
    }

    /// True if a node answers, is who it should be, and has a replica of a shard.
    pub fn is_up(&self, node: u64, shard: u32) -> bool {
        let says = self.nodes.iter().find(|view| view.id == node);
        says.and_then(NodeView::status)
            .is_some_and(|status| status.node_id == node)
            && self.replica(node, shard).is_some()
    }

    /// The node that leads a shard by its own word; of several, the one of the highest term.
    pub fn leader(&self, shard: u32) -> Option<u64> {
        let leads = |node: &NodeView| {
            let replica = self.replica(node.id, shard)?;
            (replica.role == "leader").then_some((replica.term, node.id))
        };
        self.nodes.iter().filter_map(leads).max().map(|(_, id)| id)
    }

    /// Entries that a node's replicas are behind what their leaders have committed, the worst shard counted.
    pub fn lag(&self, node: u64) -> u64 {
        let lags = self.map.shards.iter().filter_map(|shard| {
            let head = self.replica(self.leader(shard.id)?, shard.id)?.committed_index;
            Some(head.saturating_sub(self.replica(node, shard.id)?.applied_index))
        });
        lags.max().unwrap_or(0)
    }

    /// What is not as it should be, the worst first.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for shard in &self.map.shards {
            self.judge_shard(shard, &mut problems);
        }
        for node in &self.nodes {
            self.judge_node(node, &mut problems);
        }
        problems.sort();
        problems
    }

    /// True if every shard has a leader.
    pub fn is_serving(&self) -> bool {
        !self.map.shards.is_empty()
            && self
                .map
                .shards
                .iter()
                .all(|shard| self.leader(shard.id).is_some())
    }

    fn judge_shard(&self, shard: &ShardInfo, problems: &mut Vec<Problem>) {
        let up = shard
            .replicas
            .iter()
            .filter(|id| self.replica(**id, shard.id).is_some())
            .count();
        let name = shard_name(shard.id);
        if self.leader(shard.id).is_none() {
            let majority = shard.replicas.len() / 2 + 1;
            let hint = if up < majority {
                format!(
                    "{up} of its {} replicas are up, {majority} are needed: start their nodes",
                    shard.replicas.len()
                )
            } else {
                "an election should end this within seconds".into()
            };
            problems.push(Problem {
                severity: Severity::Down,
                text: format!("{name} has no leader; {hint}"),
            });
        } else if up < shard.replicas.len() {
            let text = format!("{name} has {up} of {} replicas", shard.replicas.len());
            problems.push(Problem {
                severity: Severity::Degraded,
                text,
            });
        }
    }

    fn judge_node(&self, node: &NodeView, problems: &mut Vec<Problem>) {
        let mut push = |severity, text| problems.push(Problem { severity, text });
        let name = format!("node {} ({})", node.id, node.address);
        let status = match &node.status {
            Ok(status) => status,
            Err(message) => {
                push(Severity::Degraded, format!("{name} does not answer: {message}"));
                return;
            }
        };
        if status.node_id != node.id || status.cluster_id != self.map.cluster_id {
            let other = format!("node {} of cluster {:?}", status.node_id, status.cluster_id);
            push(
                Severity::Degraded,
                format!("{name} says it is {other}: another process has its address"),
            );
            return;
        }
        for message in &status.messages {
            push(Severity::Warning, format!("{name}: {message}"));
        }
        let lag = self.lag(node.id);
        if lag > LAG_ENTRIES {
            push(
                Severity::Degraded,
                format!("{name} is {lag} entries behind; it is catching up, or stuck"),
            );
        }
        if status.disk_free_bytes < LOW_DISK_BYTES {
            let free = show_size(status.disk_free_bytes);
            push(
                Severity::Warning,
                format!("{name} has {free} of disk left: make room, or give it a larger disk"),
            );
        }
        if status.fsync_p99_us > SLOW_FSYNC_US {
            let p99 = show_span(Duration::from_micros(status.fsync_p99_us));
            push(
                Severity::Warning,
                format!("{name} has a slow disk: p99 of fsync is {p99}"),
            );
        }
    }
}

/// Checks the cluster, or waits for it.
pub async fn health(context: &mut Context, args: &HealthArgs) -> Result<(), Failure> {
    let timeout = context.wait_timeout(WAIT_TIMEOUT);
    let deadline = Instant::now() + timeout;
    loop {
        let (problem, exit_now) = match View::fetch(context).await {
            Ok(view) => match wrong(&view, args.serving) {
                None => return healthy_answer(context, &view, args.serving),
                Some(problem) => (Failure::new(failure::UNHEALTHY, problem), false),
            },
            // Bad input does not become better by waiting.
            Err(failure) => (failure.clone(), failure.code == failure::INVALID),
        };
        let help = "`kvctl cluster status` shows everything; --wait waits for it";
        if exit_now || !args.wait {
            return Err(if problem.help.is_none() {
                problem.with_help(help)
            } else {
                problem
            });
        }
        if Instant::now() + POLL >= deadline {
            return Err(failure::waited_in_vain(
                &format!("not well ({})", problem.message),
                timeout,
            ));
        }
        sleep(POLL).await;
    }
}

/// What is wrong, in one line. Warnings are not.
fn wrong(view: &View, serving: bool) -> Option<String> {
    if serving && view.is_serving() {
        return None;
    }
    let problems = view.problems();
    let bad: Vec<String> = problems
        .into_iter()
        .filter(|p| p.severity != Severity::Warning)
        .map(|p| p.text)
        .collect();
    match bad.is_empty() {
        true if view.is_serving() => None,
        true => Some("the cluster has no shards yet".into()),
        false => Some(bad.join("; ")),
    }
}

fn healthy_answer(context: &mut Context, view: &View, serving: bool) -> Result<(), Failure> {
    let up = view.nodes.iter().filter(|node| node.status.is_ok()).count();
    let leaders: BTreeMap<u32, Option<u64>> = view
        .map
        .shards
        .iter()
        .map(|shard| (shard.id, view.leader(shard.id)))
        .collect();
    let state = if serving { "serving" } else { "healthy" };
    context.print(
        format!("{state}: {up} of {} nodes, {} shards with a leader each", view.nodes.len(), leaders.len()),
        json!({ "healthy": wrong(view, false).is_none(), "serving": true, "nodes_up": up, "leaders": leaders }),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use kvsvr_client::proto::NodeInfo;

    use super::*;

    fn replica(shard: u32, leader: u64, node: u64) -> ReplicaStatus {
        ReplicaStatus {
            shard,
            role: if leader == node { "leader" } else { "follower" }.into(),
            term: 5,
            leader,
            committed_index: 100_000,
            applied_index: 100_000,
            revision: 70,
            ..ReplicaStatus::default()
        }
    }

    /// Three nodes; shard n is led by node n + 1.
    pub(crate) fn healthy() -> View {
        let node = |id: u64| NodeView {
            id,
            address: format!("n{id}:7101"),
            status: Ok(NodeStatus {
                node_id: id,
                cluster_id: "c".into(),
                disk_free_bytes: 100 << 30,
                fsync_p99_us: 1_500,
                reads: Some(0),
                writes: Some(0),
                reads_per_s: Some(20.0),
                writes_per_s: Some(2.0),
                replicas: (0..3)
                    .map(|shard| replica(shard, u64::from(shard) + 1, id))
                    .collect(),
                ..NodeStatus::default()
            }),
        };
        let shard = |id: u32| ShardInfo {
            id,
            replicas: vec![1, 2, 3],
            ..ShardInfo::default()
        };
        let map = ShardMap {
            cluster_id: "c".into(),
            nodes: (1..=3)
                .map(|id| NodeInfo {
                    id,
                    ..NodeInfo::default()
                })
                .collect(),
            shards: (0..3).map(shard).collect(),
            ..ShardMap::default()
        };
        View {
            map,
            nodes: (1..=3).map(node).collect(),
        }
    }

    /// The healthy cluster, changed.
    pub(crate) fn view(change: impl FnOnce(&mut Vec<NodeView>)) -> View {
        let mut view = healthy();
        change(&mut view.nodes);
        view
    }

    #[track_caller]
    fn check(view: &View, expected: &[(Severity, &str)]) {
        let problems = view.problems();
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, (severity, part)) in problems.iter().zip(expected) {
            assert!(
                problem.severity == *severity && problem.text.contains(part),
                "{problem:?}: {part}"
            );
        }
    }

    #[test]
    fn a_healthy_cluster_has_no_problems() {
        check(&healthy(), &[]);
        assert_eq!(wrong(&healthy(), false), None);
        assert_eq!(healthy().leader(2), Some(3));
    }

    #[test]
    fn one_node_down_is_degraded_once_another_leads() {
        let view = view(|nodes| {
            nodes[0].status = Err("connection refused".into());
            if let Ok(status) = &mut nodes[1].status {
                status.replicas[0] = replica(0, 2, 2);
            }
        });
        check(
            &view,
            &[
                (
                    Severity::Degraded,
                    "node 1 (n1:7101) does not answer: connection refused",
                ),
                (Severity::Degraded, "shard 1 has 2 of 3 replicas"),
                (Severity::Degraded, "shard 2 has 2 of 3 replicas"),
                (Severity::Degraded, "the meta shard has 2 of 3 replicas"),
            ],
        );
        assert!(view.is_serving());
        assert_eq!(wrong(&view, true), None);
        assert!(wrong(&view, false).unwrap().contains("node 1"));
    }

    #[test]
    fn a_lost_majority_is_down() {
        let view = view(|nodes| {
            nodes[0].status = Err("gone".into());
            nodes[1].status = Err("gone".into());
            if let Ok(status) = &mut nodes[2].status {
                status.replicas[2].role = "candidate".into();
            }
        });
        let problems = view.problems();
        assert_eq!(
            problems.iter().filter(|p| p.severity == Severity::Down).count(),
            3
        );
        assert!(
            problems[0]
                .text
                .contains("1 of its 3 replicas are up, 2 are needed"),
            "{problems:?}"
        );
        assert!(!view.is_serving());
    }

    #[test]
    fn an_election_is_told_from_a_lost_majority() {
        let view = view(|nodes| {
            if let Ok(status) = &mut nodes[1].status {
                status.replicas[1].role = "candidate".into();
            }
        });
        check(&view, &[(Severity::Down, "shard 1 has no leader; an election")]);
    }

    #[test]
    fn of_two_leaders_the_newer_counts() {
        let view = view(|nodes| {
            if let Ok(status) = &mut nodes[0].status {
                status.replicas[1].role = "leader".into();
                status.replicas[1].term = 6;
            }
        });
        assert_eq!(view.leader(1), Some(1));
    }

    #[test]
    fn nodes_are_judged() {
        let changed = |change: fn(&mut NodeStatus)| {
            view(|nodes| {
                if let Ok(status) = &mut nodes[2].status {
                    change(status);
                }
            })
        };
        check(
            &changed(|s| s.disk_free_bytes = 1000),
            &[(Severity::Warning, "1000 B of disk left")],
        );
        check(
            &changed(|s| s.fsync_p99_us = 90_000),
            &[(Severity::Warning, "p99 of fsync is 90.0ms")],
        );
        check(
            &changed(|s| s.messages = vec!["clock".into()]),
            &[(Severity::Warning, "(n3:7101): clock")],
        );
        check(
            &changed(|s| s.replicas[0].applied_index = 5),
            &[(Severity::Degraded, "99995 entries behind")],
        );
        check(
            &changed(|s| s.node_id = 9),
            &[(Severity::Degraded, "another process has its address")],
        );
        check(
            &changed(|s| s.replicas.truncate(2)),
            &[(Severity::Down, "shard 2 has no leader")],
        );
        assert_eq!(wrong(&changed(|s| s.disk_free_bytes = 1000), false), None);
    }

    #[test]
    fn a_cluster_without_shards_is_not_healthy() {
        let mut view = healthy();
        view.map.shards.clear();
        assert!(wrong(&view, false).is_some() && wrong(&view, true).is_some());
        assert!(view.shard(1).is_err());
    }
}
