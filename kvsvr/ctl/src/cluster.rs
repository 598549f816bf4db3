//! `kvctl cluster` and `kvctl compact`: forming a cluster, one screen about its state, giving up history.

use std::time::Duration;

use clap::{Args, Subcommand};
use kvsvr_client::proto::{BootstrapRequest, NodeInfo, NodeState, NodeStatus, ShardInfo};
use kvsvr_proto::count;
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::Failure,
    health::{HealthArgs, NodeView, Severity, View},
    limits::{BOOTSTRAP_TIMEOUT, COMPACT_KEEP, LAG_ENTRIES, LOW_DISK_BYTES, SLOW_FSYNC_US, STATUS_TIMEOUT},
    operation,
    output::{Field, Mood},
    survive::Survival,
    text::{show_rate, show_size, show_span},
};

/// `kvctl cluster`.
#[derive(Subcommand, Clone, Debug)]
pub enum ClusterCommand {
    /// Form a cluster of nodes that run and belong to none
    Bootstrap(BootstrapArgs),
    /// Nodes, shards, and what is wrong, on one screen
    Status,
    /// Check that everything is as it should be, or wait for it
    Health(HealthArgs),
}

/// `kvctl cluster bootstrap`.
#[derive(Args, Clone, Debug)]
pub struct BootstrapArgs {
    /// The nodes, HOST:PORT as they reach each other, separated by commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "HOST:PORT")]
    pub nodes: Vec<String>,
    /// Data shards: Raft groups that share the load; fixed from then on
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub shards: u32,
    /// Replicas of each shard: odd, at most the number of nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub replication: u32,
    /// A name for people
    #[arg(long, default_value = "kvsvr")]
    pub name: String,
}

/// `kvctl compact`.
#[derive(Args, Clone, Debug)]
pub struct CompactArgs {
    /// Revisions to keep behind the newest of each shard
    #[arg(long, default_value_t = COMPACT_KEEP, value_name = "N")]
    pub keep: u64,
    /// Also what consumers have not acknowledged: those are cut off and must be reset
    #[arg(long)]
    pub past_consumers: bool,
    /// One shard
    #[arg(
        long,
        value_name = "N",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub shard: Option<u32>,
    /// All data shards
    #[arg(long)]
    pub all: bool,
}

/// Forms a cluster.
pub async fn bootstrap(context: &mut Context, args: &BootstrapArgs) -> Result<(), Failure> {
    check_bootstrap(args)?;
    let timeout = context.wait_timeout(BOOTSTRAP_TIMEOUT);
    let client = context.client_of(args.nodes.clone(), timeout)?;
    let request = BootstrapRequest {
        addresses: args.nodes.clone(),
        shards: args.shards,
        replication: args.replication,
        cluster_name: args.name.clone(),
    };
    let answer = client.bootstrap(request).await?;
    let nodes = answer.map.as_ref().map_or(0, |map| map.nodes.len());
    context.print(
        format!(
            "cluster {} ({}): {}, {} with {} each",
            args.name,
            answer.cluster_id,
            count(nodes, "node"),
            count(args.shards, "shard"),
            count(args.replication, "replica")
        ),
        json!({
            "cluster_id": answer.cluster_id, "cluster_name": args.name, "nodes": args.nodes, "shards": args.shards,
            "replication": args.replication
        }),
    )?;
    context.note("`kvctl cluster health --wait` waits until it serves");
    Ok(())
}

fn check_bootstrap(args: &BootstrapArgs) -> Result<(), Failure> {
    let nodes = args.nodes.len() as u32;
    let mut sorted = args.nodes.clone();
    sorted.sort();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::invalid(format!("node {} is named twice", twice[0])));
    }
    if args.shards == 0 || args.shards > u32::from(kvsvr_proto::SLOTS) {
        return Err(Failure::invalid(format!(
            "--shards is out of range: 1 to {}",
            kvsvr_proto::SLOTS
        )));
    }
    if args.replication == 0 || args.replication > nodes {
        let message = format!(
            "--replication {} is out of range: 1 to {nodes}, the number of nodes",
            args.replication
        );
        return Err(Failure::invalid(message));
    }
    if args.replication.is_multiple_of(2) {
        let message = format!(
            "--replication {} survives no more failures than {}",
            args.replication,
            args.replication - 1
        );
        return Err(Failure::refused(
            message,
            "choose an odd number: 3 survives one failure, 5 survive two",
        ));
    }
    Ok(())
}

/// One screen about the cluster.
pub async fn status(context: &mut Context) -> Result<(), Failure> {
    let view = View::fetch(context).await?;
    // Without a leader of the meta shard there is nobody to ask.
    let running = match view.leader(0) {
        Some(_) => operation::running(&context.client()?.with_timeout(STATUS_TIMEOUT)).await,
        None => None,
    };
    if context.out.is_json() {
        let mut json = status_json(&view);
        json["operation"] = running.map_or(Value::Null, |(_, operation)| operation);
        return Ok(context.out.json(&json)?);
    }
    let first = first_line(context, &view);
    context.out.line(first)?;
    context.out.line("")?;
    let rows = view.nodes.iter().map(|node| node_row(&view, node)).collect();
    context.out.table(&NODE_COLUMNS, rows)?;
    context.out.line("")?;
    let shards = view.map.shards.iter();
    let rows = shards.map(|shard| shard_row(&view, shard)).collect();
    context.out.table(&SHARD_COLUMNS, rows)?;
    context.out.line("")?;
    if let Some((line, _)) = running {
        context.out.line(line)?;
    }
    print_problems(context, &view)
}

const NODE_COLUMNS: [&str; 14] = [
    "NODE",
    "ADDRESS",
    "STATE",
    "LEADS",
    "REPLICAS",
    "READS/s",
    "WRITES/s",
    "LAG",
    "FSYNC p99",
    "DISK FREE",
    "DATA",
    "RSS",
    "UP",
    "VERSION",
];

const SHARD_COLUMNS: [&str; 7] = [
    "SHARD", "SLOTS", "LEADER", "REPLICAS", "REVISION", "FLOOR", "QUEUE",
];

/// The cluster as a whole.
fn first_line(context: &Context, view: &View) -> String {
    let map = &view.map;
    let survival = Survival::of(view).map_or(String::new(), |survival| {
        format!(", {}", context.out.paint(&survival.text(), survival.mood()))
    });
    let rates = match rates(view) {
        (Some(reads), Some(writes)) => {
            format!(", {} reads/s, {} writes/s", show_rate(reads), show_rate(writes))
        }
        _ => String::new(),
    };
    format!(
        "cluster {} ({}), map epoch {}{survival}{rates}",
        map.cluster_name, map.cluster_id, map.epoch
    )
}

fn print_problems(context: &mut Context, view: &View) -> Result<(), Failure> {
    let problems = view.problems();
    if problems.is_empty() {
        let good = context.out.paint("all is well", Mood::Good);
        context.out.line(good)?;
    }
    for problem in problems {
        let (word, mood) = match problem.severity {
            Severity::Down => ("down", Mood::Bad),
            Severity::Degraded => ("degraded", Mood::Bad),
            Severity::Warning => ("warning", Mood::Warn),
        };
        let word = context.out.paint(word, mood);
        context.out.line(format!("{word}: {}", problem.text))?;
    }
    Ok(())
}

fn node_row(view: &View, node: &NodeView) -> Vec<Field> {
    let mut row = vec![Field::number(node.id), Field::text(&node.address)];
    let Some(status) = node.status() else {
        row.push(Field::text("unreachable").mood(Mood::Bad));
        return row;
    };
    let leads = status
        .replicas
        .iter()
        .filter(|r| r.role == "leader" && r.shard != 0)
        .count();
    let lag = view.lag(node.id);
    let warn = |bad: bool| if bad { Mood::Warn } else { Mood::Plain };
    let rate = |rate: Option<f64>| Field::number(rate.map_or("-".into(), show_rate));
    let fsync = Duration::from_micros(status.fsync_p99_us);
    row.extend([
        state_field(view, node.id),
        Field::number(leads),
        Field::number(status.replicas.len()),
        rate(status.reads_per_s),
        rate(status.writes_per_s),
        Field::number(lag).mood(warn(lag > LAG_ENTRIES)),
        Field::text(if status.fsync_p99_us == 0 {
            "-".into()
        } else {
            show_span(fsync)
        })
        .mood(warn(status.fsync_p99_us > SLOW_FSYNC_US)),
        Field::text(show_size(status.disk_free_bytes)).mood(warn(status.disk_free_bytes < LOW_DISK_BYTES)),
        Field::text(show_size(status.data_bytes + status.wal_bytes)),
        Field::text(show_size(status.rss_bytes)),
        Field::text(show_span(Duration::from_secs(status.uptime_s))),
        Field::text(&status.version),
    ]);
    row
}

/// Reads and writes per second of all nodes that answer, if they tell.
fn rates(view: &View) -> (Option<f64>, Option<f64>) {
    let up = || view.nodes.iter().filter_map(NodeView::status);
    (
        sum(up().map(|status| status.reads_per_s)),
        sum(up().map(|status| status.writes_per_s)),
    )
}

/// The sum, if there are some and all are known.
pub(crate) fn sum(rates: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let rates: Option<Vec<f64>> = rates.collect();
    rates?.into_iter().reduce(|sum, rate| sum + rate)
}

/// What the node is for; it answers.
fn state_field(view: &View, id: u64) -> Field {
    let (word, mood) = node_state(view, id);
    Field::text(word).mood(mood)
}

/// What a node that answers is for, in a word.
pub(crate) fn node_state(view: &View, id: u64) -> (&'static str, Mood) {
    let info = view.map.nodes.iter().find(|info| info.id == id);
    match info.map_or(NodeState::NodeUp, NodeInfo::state) {
        NodeState::NodeUp => ("up", Mood::Good),
        NodeState::NodeJoining => ("joining", Mood::Warn),
        NodeState::NodeDraining => ("draining", Mood::Warn),
        NodeState::NodeLost => ("lost", Mood::Bad),
        NodeState::NodeLeaving | NodeState::NodeRemoved => ("leaving", Mood::Warn),
    }
}

fn shard_row(view: &View, shard: &ShardInfo) -> Vec<Field> {
    let leader = view.leader(shard.id);
    let head = leader.and_then(|id| view.replica(id, shard.id));
    let number = |n: Option<u64>| Field::number(n.map(|n| n.to_string()).unwrap_or_else(|| "-".into()));
    let name = if shard.id == 0 {
        "0 (meta)".into()
    } else {
        shard.id.to_string()
    };
    let slots = if shard.id == 0 {
        "-".into()
    } else {
        format!("{}-{}", shard.first_slot, shard.last_slot)
    };
    let replicas: Vec<String> = shard.replicas.iter().map(u64::to_string).collect();
    vec![
        Field::text(name),
        Field::text(slots),
        match leader {
            Some(id) => Field::text(id.to_string()),
            None => Field::text("none").mood(Mood::Bad),
        },
        Field::text(replicas.join(",")),
        number(head.map(|r| r.revision)),
        number(head.map(|r| r.floor)),
        number(head.map(|r| r.queue)),
    ]
}

pub(crate) fn status_json(view: &View) -> Value {
    let nodes: Vec<Value> = view.nodes.iter().map(|node| node_json(view, node)).collect();
    let shards: Vec<Value> = view
        .map
        .shards
        .iter()
        .map(|shard| {
            let leader = view.leader(shard.id);
            let head = leader.and_then(|id| view.replica(id, shard.id));
            json!({
                "id": shard.id, "first_slot": shard.first_slot, "last_slot": shard.last_slot,
                "replicas": shard.replicas, "leader": leader, "revision": head.map(|r| r.revision),
                "floor": head.map(|r| r.floor), "queue": head.map(|r| r.queue),
            })
        })
        .collect();
    let (can_lose, no_majority) = Survival::json(Survival::of(view).as_ref());
    let (reads, writes) = rates(view);
    json!({
        "cluster_id": view.map.cluster_id, "cluster_name": view.map.cluster_name, "map_epoch": view.map.epoch,
        "can_lose": can_lose, "no_majority": no_majority, "reads_per_s": reads, "writes_per_s": writes,
        "nodes": nodes, "shards": shards, "problems": view.problems(),
    })
}

fn node_json(view: &View, node: &NodeView) -> Value {
    match &node.status {
        Ok(status) => {
            let mut object = json!({
                "id": node.id, "address": node.address, "reachable": true, "lag": view.lag(node.id),
            });
            if let (Some(object), Value::Object(status)) = (object.as_object_mut(), numbers_json(status)) {
                object.extend(status);
            }
            object
        }
        Err(message) => {
            json!({ "id": node.id, "address": node.address, "reachable": false, "error": message })
        }
    }
}

fn numbers_json(status: &NodeStatus) -> Value {
    let replicas: Vec<Value> = status
        .replicas
        .iter()
        .map(|r| {
            json!({
                "shard": r.shard, "role": r.role, "term": r.term, "leader": r.leader, "last_index": r.last_index,
                "committed_index": r.committed_index, "applied_index": r.applied_index,
                "purged_index": r.purged_index, "flushed_index": r.flushed_index, "revision": r.revision,
                "floor": r.floor, "queue": r.queue, "snapshot": r.snapshot,
            })
        })
        .collect();
    json!({
        "store_id": status.store_id, "version": status.version, "uptime_s": status.uptime_s,
        "map_epoch": status.map_epoch, "disk_free_bytes": status.disk_free_bytes, "wal_bytes": status.wal_bytes,
        "data_bytes": status.data_bytes, "fsync_p99_us": status.fsync_p99_us,
        "cache_hit_rate": status.cache_hit_rate, "rss_bytes": status.rss_bytes, "messages": status.messages,
        "reads": status.reads, "writes": status.writes, "reads_per_s": status.reads_per_s,
        "writes_per_s": status.writes_per_s, "replicas": replicas,
    })
}

/// Gives up history.
pub async fn compact(context: &mut Context, args: &CompactArgs) -> Result<(), Failure> {
    let what = match args.shard {
        Some(shard) => format!("shard {shard}"),
        None => "all data shards".into(),
    };
    context.confirm(&format!(
        "make revisions of {what} unreadable that are more than {} behind the newest",
        args.keep
    ))?;
    let done = context
        .client()?
        .compact(args.shard, args.keep, args.past_consumers)
        .await?;
    let errors: Vec<Failure> = done.errors.into_iter().map(Failure::from).collect();
    if context.out.is_json() {
        context
            .out
            .json(&json!({ "floors": done.floors, "errors": errors }))?;
    } else {
        let rows = done
            .floors
            .iter()
            .map(|(shard, floor)| vec![Field::number(shard), Field::number(floor)])
            .collect();
        context.out.table(&["SHARD", "FLOOR"], rows)?;
    }
    // The first is the result; the others are told beside it.
    for error in errors.iter().skip(1) {
        context.note(error.to_string());
    }
    errors.into_iter().next().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{Command, tests::parse},
        failure::Exit,
        health::tests::{healthy, view},
        output::{Format, tests::Page},
    };

    fn check(line: &str) -> Result<(), Failure> {
        match parse(line).command {
            Command::Cluster(ClusterCommand::Bootstrap(args)) => check_bootstrap(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bootstrap_is_checked_before_it_is_sent() {
        check("cluster bootstrap --nodes a:1,b:1,c:1 --shards 4 --replication 3").unwrap();
        check("cluster bootstrap --nodes a:1 --replication 1").unwrap();
        for (line, exit) in [
            ("cluster bootstrap --nodes a:1,b:1,a:1", Exit::Error),
            ("cluster bootstrap --nodes a:1,b:1", Exit::Error),
            ("cluster bootstrap --nodes a:1,b:1,c:1 --shards 0", Exit::Error),
            ("cluster bootstrap --nodes a:1,b:1,c:1 --shards 5000", Exit::Error),
            (
                "cluster bootstrap --nodes a:1,b:1,c:1 --replication 0",
                Exit::Error,
            ),
            (
                "cluster bootstrap --nodes a:1,b:1,c:1 --replication 2",
                Exit::Refused,
            ),
        ] {
            assert_eq!(check(line).unwrap_err().exit, exit, "{line}");
        }
    }

    #[test]
    fn status_as_json_has_nodes_shards_and_problems() {
        let json = status_json(&healthy());
        assert_eq!(json["nodes"].as_array().unwrap().len(), 3);
        assert_eq!(json["nodes"][0]["reachable"], true);
        assert_eq!(json["shards"][1]["leader"], 2);
        assert_eq!(json["problems"], json!([]));
        assert_eq!((&json["can_lose"], &json["no_majority"]), (&json!(1), &json!([])));
        assert_eq!(json["nodes"][1]["reads_per_s"], 20.0);
        assert_eq!(
            (&json["reads_per_s"], &json["writes_per_s"]),
            (&json!(60.0), &json!(6.0))
        );
        let json = status_json(&view(|nodes| nodes[1].status = Err("refused".into())));
        assert_eq!(json["nodes"][1]["reachable"], false);
        assert_eq!(json["shards"][1]["leader"], Value::Null);
        assert_eq!(json["reads_per_s"], 40.0, "of those that answer");
        assert!(!json["problems"].as_array().unwrap().is_empty());
    }

    #[test]
    fn rows_fit_their_headers() {
        let view = view(|nodes| nodes[2].status = Err("refused".into()));
        let page = Page::default();
        let mut out = page.output(Format::Table);
        let rows = view.nodes.iter().map(|node| node_row(&view, node)).collect();
        out.table(&NODE_COLUMNS, rows).unwrap();
        let rows = view
            .map
            .shards
            .iter()
            .map(|shard| shard_row(&view, shard))
            .collect();
        out.table(&SHARD_COLUMNS, rows).unwrap();
        for part in ["unreachable", "0 (meta)", "1,2,3", "1.5ms"] {
            assert!(
                page.text().contains(part),
                "{part} is missing in\n{}",
                page.text()
            );
        }
    }
}
