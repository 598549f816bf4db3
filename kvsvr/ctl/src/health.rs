//! What is wrong with a cluster: a pure judgement on the shard map and what each node says of itself, and `kvctl cluster health`.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use futures::future::join_all;
use kvsvr_client::{
    Client,
    proto::{NodeStatus, ReplicaStatus, ShardInfo, ShardMap},
};
use kvsvr_proto::count;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    context::Context,
    failure::{self, Failure},
    limits::{LAG_ENTRIES, LOW_DISK_BYTES, POLL, SLOW_FSYNC_US, STATUS_TIMEOUT, WAIT_TIMEOUT},
    survive::no_majority,
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

    fn name(&self) -> String {
        format!("node {} ({})", self.id, self.address)
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
        let down = |text| Problem {
            severity: Severity::Down,
            text,
        };
        let mut problems: Vec<Problem> = no_majority(self).into_iter().map(down).collect();
        for shard in self.map.shards.iter().filter(|shard| self.has_majority(shard)) {
            self.judge_shard(shard, &mut problems);
        }
        for node in &self.nodes {
            self.judge_node(node, &mut problems);
        }
        problems.sort();
        problems
    }

    /// True if every shard has a leader, and a majority that answers: a leader that has lost it goes on calling itself one.
    pub fn is_serving(&self) -> bool {
        let serves = |shard: &ShardInfo| self.leader(shard.id).is_some() && self.has_majority(shard);
        !self.map.shards.is_empty() && self.map.shards.iter().all(serves)
    }

    /// Voters of a shard that are up.
    fn voters_up(&self, shard: &ShardInfo) -> usize {
        let up = shard.replicas.iter().filter(|id| self.is_up(**id, shard.id));
        up.count()
    }

    /// Most voters of a shard are up.
    pub fn has_majority(&self, shard: &ShardInfo) -> bool {
        self.voters_up(shard) > shard.replicas.len() / 2
    }

    /// A node for people.
    pub fn name(&self, node: u64) -> String {
        let known = self.nodes.iter().find(|view| view.id == node);
        known.map_or_else(|| format!("node {node}"), NodeView::name)
    }

    /// What is wrong with a shard that has a majority.
    fn judge_shard(&self, shard: &ShardInfo, problems: &mut Vec<Problem>) {
        let up = self.voters_up(shard);
        let name = shard_name(shard.id);
        if self.leader(shard.id).is_none() {
            problems.push(Problem {
                severity: Severity::Down,
                text: format!("{name} has no leader; an election should end this within seconds"),
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
        let name = node.name();
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
        format!(
            "{state}: {up} of {}, {} with a leader each",
            count(view.nodes.len(), "node"),
            count(leaders.len(), "shard")
        ),
        json!({ "healthy": wrong(view, false).is_none(), "serving": true, "nodes_up": up, "leaders": leaders }),
    )
}

#[cfg(test)]
#[path = "health_tests.rs"]
pub(crate) mod tests;
