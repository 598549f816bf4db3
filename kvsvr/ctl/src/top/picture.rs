//! What a frame shows of a sample: pure, from the sample and the history to tables and lines.

use std::time::Duration;

use kvsvr_client::proto::{NodeStatus, ShardInfo};
use kvsvr_proto::count;
use serde_json::{Value, json};

use super::{
    sample::{Behind, History, Rates, Sample},
    table::{Cell, Column, Piece, Table},
};
use crate::{
    cluster::{node_state, status_json, sum},
    health::{NodeView, Severity, View},
    limits::{LAG_ENTRIES, LOW_DISK_BYTES, SLOW_FSYNC_US},
    output::Mood,
    survive::Survival,
    text::{show_rate, show_size, show_span},
};

const fn column(name: &'static str, rank: u8, width: usize, number: bool) -> Column {
    Column {
        name,
        rank,
        width,
        number,
    }
}

/// What is shown of nodes.
pub const NODE_COLUMNS: &[Column] = &[
    column("NODE", 0, 4, true),
    column("ADDRESS", 3, 14, false),
    column("STATE", 0, 9, false),
    column("LEADS", 0, 5, true),
    column("REPLICAS", 7, 8, true),
    column("READS/s", 4, 8, true),
    column("WRITES/s", 0, 8, true),
    column("LAG", 0, 6, true),
    column("BEHIND", 4, 6, true),
    column("FSYNC p99", 2, 9, true),
    column("DISK FREE", 1, 9, true),
    column("DATA", 9, 9, true),
    column("RSS", 5, 9, true),
    column("UP", 6, 6, true),
    column("VERSION", 8, 7, false),
];

/// What is shown of shards.
pub const SHARD_COLUMNS: &[Column] = &[
    column("SHARD", 0, 8, false),
    column("LEADER", 0, 6, true),
    column("UP", 0, 3, false),
    column("WRITES/s", 0, 8, true),
    column("LAG", 1, 6, true),
    column("BEHIND", 2, 6, true),
    column("FOLLOWERS", 3, 16, false),
    column("QUEUE", 5, 5, true),
    column("REVISION", 4, 9, true),
    column("FLOOR", 6, 5, true),
    column("SLOTS", 7, 9, false),
];

/// What a frame shows.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Parts of the line about the cluster, each with the rank by which it is left out.
    pub head: Vec<(u8, Piece)>,
    /// The operation under way.
    pub operation: Option<String>,
    /// The nodes and the shards; none before anybody answered.
    pub tables: Option<[Table; 2]>,
    /// What is wrong, the worst first: a word and a sentence.
    pub problems: Vec<(Piece, String)>,
}

impl Picture {
    /// Before the first sample.
    pub fn waiting() -> Self {
        Self {
            head: vec![(0, ("asking the cluster".to_owned(), Mood::Plain))],
            operation: None,
            tables: None,
            problems: Vec::new(),
        }
    }

    /// Of a sample that is the newest of the history.
    pub fn new(sample: &Sample, history: &History) -> Self {
        let Some(view) = &sample.view else {
            let error = sample.error.as_deref().unwrap_or("nobody answers");
            return Self {
                head: vec![(0, ("no cluster yet".to_owned(), Mood::Bad))],
                operation: None,
                tables: None,
                problems: vec![bad("down", format!("{error}; trying again"))],
            };
        };
        let mut problems = Vec::new();
        if view.nodes.iter().all(|node| node.status.is_err()) {
            problems.push(bad("down", "no node answers; trying again".to_owned()));
        }
        problems.extend(view.problems().into_iter().map(|problem| {
            let word = match problem.severity {
                Severity::Down => ("down", Mood::Bad),
                Severity::Degraded => ("degraded", Mood::Bad),
                Severity::Warning => ("warning", Mood::Warn),
            };
            ((word.0.to_owned(), word.1), problem.text)
        }));
        if let Some(error) = &sample.error
            && newest_epoch(view) > view.map.epoch
        {
            let text = format!("the nodes have a newer shard map than this one: {error}");
            problems.push((("warning".to_owned(), Mood::Warn), text));
        }
        let nodes = view.nodes.iter().map(|node| node_row(view, history, node));
        let shards = view
            .map
            .shards
            .iter()
            .map(|shard| shard_row(view, history, shard));
        Self {
            head: head(view, history),
            operation: sample.operation.as_ref().map(|(line, _)| line.clone()),
            tables: Some([
                Table {
                    columns: NODE_COLUMNS,
                    rows: nodes.collect(),
                },
                Table {
                    columns: SHARD_COLUMNS,
                    rows: shards.collect(),
                },
            ]),
            problems,
        }
    }
}

fn bad(word: &str, text: String) -> (Piece, String) {
    ((word.to_owned(), Mood::Bad), text)
}

/// Of the shard map, of those that the nodes have.
fn newest_epoch(view: &View) -> u64 {
    let epochs = view.nodes.iter().filter_map(NodeView::status);
    epochs.map(|status| status.map_epoch).max().unwrap_or(0)
}

fn head(view: &View, history: &History) -> Vec<(u8, Piece)> {
    let map = &view.map;
    let all = view.nodes.len();
    let up = view.nodes.iter().filter(|node| node.status.is_ok()).count();
    let data: Vec<u32> = data_shards(view).collect();
    let plain = |text: String| (text, Mood::Plain);
    let mut head = vec![
        (1, plain(map.cluster_name.clone())),
        (4, plain(map.cluster_id.clone())),
        (
            0,
            (
                format!("{up} of {} up", count(all, "node")),
                if up == all { Mood::Good } else { Mood::Bad },
            ),
        ),
        (3, plain(count(data.len(), "shard"))),
    ];
    if let Some(survival) = Survival::of(view) {
        head.push((0, (survival.text(), survival.mood())));
    }
    let (reads, writes) = rates(view, history);
    for (rate, of) in [(reads, "reads/s"), (writes, "writes/s")] {
        head.extend(rate.map(|rate| (2, plain(format!("{} {of}", show_rate(rate))))));
    }
    head
}

fn data_shards(view: &View) -> impl Iterator<Item = u32> {
    view.map.shards.iter().map(|shard| shard.id).filter(|id| *id != 0)
}

/// Reads and writes per second of all nodes that answer, if they tell.
fn rates(view: &View, history: &History) -> (Option<f64>, Option<f64>) {
    let up = view.nodes.iter().filter(|node| node.status.is_ok());
    let rates: Vec<Option<Rates>> = up.map(|node| history.rates(node.id)).collect();
    (
        sum(rates.iter().map(|rates| Some(rates.as_ref()?.reads))),
        sum(rates.iter().map(|rates| Some(rates.as_ref()?.writes))),
    )
}

/// The longest that a replica of a node is behind. `None`: not known.
fn node_behind(view: &View, history: &History, node: u64) -> Option<Behind> {
    let mut worst: Option<Behind> = None;
    for shard in &view.map.shards {
        let (Some(replica), Some(_)) = (view.replica(node, shard.id), view.leader(shard.id)) else {
            continue;
        };
        let behind = history.behind(shard.id, replica.applied_index)?;
        if worst.is_none_or(|worst| worst.span < behind.span) {
            worst = Some(behind);
        }
    }
    worst
}

fn node_row(view: &View, history: &History, node: &NodeView) -> Vec<Cell> {
    let name = [Cell::least(node.id, node.id as f64), Cell::text(&node.address)];
    let Some(status) = node.status() else {
        let mut row = name.to_vec();
        row.push(Cell::text("no answer").mood(Mood::Bad));
        row.resize(NODE_COLUMNS.len(), Cell::unknown());
        return row;
    };
    let (state, mood) = node_state(view, node.id);
    let leads = status
        .replicas
        .iter()
        .filter(|replica| replica.role == "leader" && replica.shard != 0)
        .count();
    let lag = view.lag(node.id);
    let rates = history.rates(node.id);
    let mut row = name.to_vec();
    row.extend([
        Cell::text(state).mood(mood),
        Cell::number(leads, leads as f64),
        Cell::number(status.replicas.len(), status.replicas.len() as f64),
        rate_cell(rates.map(|rates| rates.reads)),
        rate_cell(rates.map(|rates| rates.writes)),
        Cell::number(lag, lag as f64).mood(warn(lag > LAG_ENTRIES)),
        behind_cell(node_behind(view, history, node.id)),
    ]);
    row.extend(machine_cells(status));
    row
}

fn machine_cells(status: &NodeStatus) -> [Cell; 6] {
    let size = |bytes: u64| match bytes {
        0 => Cell::unknown(),
        bytes => Cell::number(show_size(bytes), bytes as f64),
    };
    let fsync = match status.fsync_p99_us {
        0 => Cell::unknown(),
        us => Cell::number(show_span(Duration::from_micros(us)), us as f64),
    };
    let free = status.disk_free_bytes;
    [
        fsync.mood(warn(status.fsync_p99_us > SLOW_FSYNC_US)),
        // The fullest disk first.
        Cell::least(show_size(free), free as f64).mood(warn(free < LOW_DISK_BYTES)),
        size(status.data_bytes + status.wal_bytes),
        size(status.rss_bytes),
        Cell::least(
            show_span(Duration::from_secs(status.uptime_s)),
            status.uptime_s as f64,
        ),
        Cell::text(&status.version),
    ]
}

/// What a follower of a shard has not applied yet.
struct Follower {
    node: u64,
    votes: bool,
    /// Entries. `None`: it does not answer, or nobody leads.
    lag: Option<u64>,
    behind: Option<Behind>,
    up: bool,
}

fn followers(view: &View, history: &History, shard: &ShardInfo) -> Vec<Follower> {
    let leader = view.leader(shard.id);
    let head = leader
        .and_then(|id| view.replica(id, shard.id))
        .map(|head| head.committed_index);
    let voters = shard.replicas.iter().map(|id| (*id, true));
    let all = voters.chain(shard.learners.iter().map(|id| (*id, false)));
    let follower = |(node, votes)| {
        let applied = view.replica(node, shard.id).map(|replica| replica.applied_index);
        Follower {
            node,
            votes,
            lag: head
                .zip(applied)
                .map(|(head, applied)| head.saturating_sub(applied)),
            behind: applied.and_then(|applied| history.behind(shard.id, applied)),
            up: view.is_up(node, shard.id),
        }
    };
    let mut followers: Vec<Follower> = all.filter(|(id, _)| Some(*id) != leader).map(follower).collect();
    followers.sort_by_key(|follower| follower.node);
    followers
}

fn shard_row(view: &View, history: &History, shard: &ShardInfo) -> Vec<Cell> {
    let leader = view.leader(shard.id);
    let head = leader.and_then(|id| view.replica(id, shard.id));
    let followers = followers(view, history, shard);
    let up = shard.replicas.iter().filter(|id| view.is_up(**id, shard.id));
    let (up, all) = (up.count(), shard.replicas.len());
    let words: Vec<String> = followers.iter().map(follower_text).collect();
    let lag = followers.iter().filter_map(|follower| follower.lag).max();
    let longest = |a: Behind, b: Behind| if a.span < b.span { b } else { a };
    let known = followers.iter().filter(|follower| follower.lag.is_some());
    // Not known of one is not known of the worst.
    let behind: Option<Vec<Behind>> = known.map(|follower| follower.behind).collect();
    let behind = behind.and_then(|all| all.into_iter().reduce(longest));
    let count = |n: Option<u64>| n.map_or(Cell::unknown(), |n| Cell::number(n, n as f64));
    let mut name = Cell::least(
        if shard.id == 0 {
            "0 (meta)".into()
        } else {
            shard.id.to_string()
        },
        f64::from(shard.id),
    );
    if leader.is_none() {
        name = name.mood(Mood::Bad);
    }
    vec![
        name,
        match leader {
            Some(id) => Cell::least(id, id as f64),
            None => Cell::least("none", 0.0).mood(Mood::Bad),
        },
        Cell::least(format!("{up}/{all}"), up as f64).mood(if up < all { Mood::Bad } else { Mood::Plain }),
        rate_cell(history.writes(shard.id)),
        count(lag).mood(warn(lag.is_some_and(|lag| lag > LAG_ENTRIES))),
        behind_cell(behind),
        Cell::text(words.join(" ")),
        count(head.map(|head| head.queue)),
        count(head.map(|head| head.revision)),
        count(head.map(|head| head.floor)),
        Cell::least(
            if shard.id == 0 {
                "-".into()
            } else {
                format!("{}-{}", shard.first_slot, shard.last_slot)
            },
            f64::from(shard.first_slot),
        ),
    ]
}

/// "node:entries behind"; a learner in brackets.
fn follower_text(follower: &Follower) -> String {
    let text = match (follower.up, follower.lag) {
        (false, _) => format!("{}:down", follower.node),
        (true, Some(lag)) => format!("{}:{lag}", follower.node),
        (true, None) => format!("{}:?", follower.node),
    };
    if follower.votes { text } else { format!("({text})") }
}

fn warn(bad: bool) -> Mood {
    if bad { Mood::Warn } else { Mood::Plain }
}

fn rate_cell(rate: Option<f64>) -> Cell {
    rate.map_or(Cell::unknown(), |rate| Cell::number(show_rate(rate), rate))
}

fn behind_cell(behind: Option<Behind>) -> Cell {
    let Some(Behind { span, or_more }) = behind else {
        return Cell::unknown();
    };
    let seconds = span.as_secs_f64();
    // Nodes are not asked at the same time: what is shorter says nothing.
    let text = match seconds {
        s if s < 0.05 => "0s".to_owned(),
        s if s < 60.0 => format!("{s:.1}s"),
        _ => show_span(span),
    };
    Cell::number(if or_more { format!(">{text}") } else { text }, seconds)
}

/// A sample for programs: `cluster status -o json`, with rates and lags. `at_ms`: the time of day.
pub fn picture_json(sample: &Sample, history: &History, at_ms: u64) -> Value {
    let Some(view) = &sample.view else {
        return json!({ "at_ms": at_ms, "error": sample.error });
    };
    let mut json = status_json(view);
    json["at_ms"] = json!(at_ms);
    json["error"] = json!(sample.error);
    json["operation"] = json!(sample.operation.as_ref().map(|(_, operation)| operation));
    json["nodes_up"] = json!(view.nodes.iter().filter(|node| node.status.is_ok()).count());
    let (reads, writes) = rates(view, history);
    json["reads_per_s"] = json!(reads);
    json["writes_per_s"] = json!(writes);
    if let Some(nodes) = json["nodes"].as_array_mut() {
        for (json, node) in nodes.iter_mut().zip(&view.nodes) {
            if node.status.is_err() {
                continue;
            }
            let rates = history.rates(node.id);
            json["reads_per_s"] = json!(rates.map(|rates| rates.reads));
            json["writes_per_s"] = json!(rates.map(|rates| rates.writes));
            json["behind"] = behind_json(node_behind(view, history, node.id));
        }
    }
    if let Some(shards) = json["shards"].as_array_mut() {
        for (json, shard) in shards.iter_mut().zip(&view.map.shards) {
            json["writes_per_s"] = json!(history.writes(shard.id));
            let followers = followers(view, history, shard).into_iter().map(|follower| {
                json!({
                    "node": follower.node, "votes": follower.votes, "up": follower.up, "lag": follower.lag,
                    "behind": behind_json(follower.behind),
                })
            });
            json["followers"] = followers.collect();
        }
    }
    json
}

fn behind_json(behind: Option<Behind>) -> Value {
    behind.map_or(
        Value::Null,
        |behind| json!({ "seconds": behind.span.as_secs_f64(), "or_more": behind.or_more }),
    )
}
