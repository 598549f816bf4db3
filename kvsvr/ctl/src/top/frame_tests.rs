//! Frames of a fixed cluster, as text.

use std::time::Duration;

use kvsvr_client::proto::{NodeState, ReplicaStatus};

use super::*;
use crate::{
    health::{View, tests::healthy},
    top::{
        picture::{NODE_COLUMNS, picture_json},
        sample::{History, Sample},
    },
};

/// Three nodes under load, as they are `second` seconds after the beginning. Node 3 is behind on shard 2.
fn loaded(second: u64) -> View {
    let mut view = healthy();
    view.map.cluster_name = "orders".into();
    view.map.cluster_id = "f0ceba2783db4d2f".into();
    for (n, shard) in view.map.shards.iter_mut().enumerate().skip(1) {
        shard.first_slot = (n as u32 - 1) * 2048;
        shard.last_slot = shard.first_slot + 2047;
    }
    for node in &mut view.nodes {
        node.address = format!("10.0.0.{}:7101", node.id);
        let Ok(status) = &mut node.status else { continue };
        status.cluster_id = view.map.cluster_id.clone();
        status.version = "0.1.0".into();
        status.uptime_s = 7_500 * node.id;
        status.fsync_p99_us = 1_100 * node.id;
        status.rss_bytes = (300 + node.id) << 20;
        status.data_bytes = (5 << 30) + (node.id << 20);
        status.reads = Some(3_000 * node.id * second);
        status.writes = Some(1_000 * (node.id - 1) * second);
        for replica in &mut status.replicas {
            let rate = 1_000 * u64::from(replica.shard);
            replica.revision = 70_000 + rate * second;
            replica.committed_index = 100_000 + rate * second;
            replica.applied_index = replica.committed_index;
            replica.queue = u64::from(replica.shard);
        }
        if node.id == 3 {
            behind(&mut status.replicas[1], 250);
        }
    }
    view
}

fn behind(replica: &mut ReplicaStatus, entries: u64) {
    replica.applied_index -= entries;
}

/// The picture of a cluster that was `loaded` before and is now as `change` makes it.
fn seen(change: impl Fn(&mut Sample)) -> (Sample, History) {
    let mut history = History::default();
    for second in 0..2 {
        history.push(&Sample {
            at: Duration::from_secs(second),
            view: Some(loaded(second)),
            operation: None,
            error: None,
        });
    }
    let mut sample = Sample {
        at: Duration::from_secs(2),
        view: Some(loaded(2)),
        operation: None,
        error: None,
    };
    change(&mut sample);
    history.push(&sample);
    (sample, history)
}

fn frame(change: impl Fn(&mut Sample), ui: &Ui, width: usize, height: Option<usize>) -> Frame {
    let (sample, history) = seen(change);
    let canvas = Canvas {
        width,
        height,
        color: false,
    };
    Frame::new(Picture::new(&sample, &history), ui, &canvas)
}

fn plain(change: impl Fn(&mut Sample), width: usize) -> String {
    let text = frame(change, &Ui::default(), width, None).text();
    for line in text.lines() {
        assert!(line.chars().count() <= width, "{line} is wider than {width}");
    }
    text
}

#[track_caller]
fn check(text: &str, golden: &str) {
    assert_eq!(text, golden, "the frame is now:\n{text}");
}

/// Node 2 is down, an operation goes on, a disk is full.
fn trouble(sample: &mut Sample) {
    sample.operation = Some((
        "operation 7, drain node 3: step 2 of 5, about 40s left; waiting for shard 1".into(),
        serde_json::json!({ "id": 7 }),
    ));
    let Some(view) = &mut sample.view else { return };
    view.map.nodes[2].state = NodeState::NodeDraining.into();
    view.nodes[1].status = Err("connection refused".into());
    if let Ok(status) = &mut view.nodes[2].status {
        status.disk_free_bytes = 700 << 20;
    }
}

#[test]
fn a_healthy_cluster_at_80_and_160_columns() {
    check(&plain(|_| {}, 80), include_str!("golden/healthy_80.txt"));
    check(&plain(|_| {}, 160), include_str!("golden/healthy_160.txt"));
}

#[test]
fn a_cluster_in_trouble_at_80_and_160_columns() {
    check(&plain(trouble, 80), include_str!("golden/trouble_80.txt"));
    check(&plain(trouble, 160), include_str!("golden/trouble_160.txt"));
}

#[test]
fn a_cluster_that_is_lost_is_shown_and_asked_again() {
    let lost = |sample: &mut Sample| {
        sample.error = Some("cannot reach 10.0.0.1:7101".into());
        for node in sample.view.iter_mut().flat_map(|view| &mut view.nodes) {
            node.status = Err("connection refused".into());
        }
    };
    check(&plain(lost, 80), include_str!("golden/lost_80.txt"));
    let never = |sample: &mut Sample| {
        sample.error = Some("cannot reach 127.0.0.1:7101".into());
        sample.view = None;
    };
    let text = plain(never, 80);
    assert!(text.starts_with("no cluster yet\n"), "{text}");
    assert!(text.contains("cannot reach 127.0.0.1:7101; trying"), "{text}");
    assert!(!text.contains("all is well"), "{text}");
}

#[test]
fn an_old_shard_map_is_told() {
    let stale = |sample: &mut Sample, epoch: u64| {
        sample.error = Some("no answer in time".into());
        if let Some(status) = sample
            .view
            .as_mut()
            .and_then(|view| view.nodes[1].status.as_mut().ok())
        {
            status.map_epoch = epoch;
        }
    };
    let text = plain(|sample| stale(sample, 9), 160);
    assert!(
        text.contains("warning: the nodes have a newer shard map than this one: no answer in time"),
        "{text}"
    );
    let text = plain(|sample| stale(sample, 0), 160);
    assert!(
        text.contains("all is well"),
        "the map is still the newest\n{text}"
    );
}

#[test]
fn before_the_first_sample_nothing_is_said_of_the_cluster() {
    let canvas = Canvas {
        width: 80,
        height: Some(24),
        color: false,
    };
    let text = Frame::new(Picture::waiting(), &Ui::default(), &canvas).text();
    assert!(
        text.starts_with("asking the cluster\n") && !text.contains("well"),
        "{text}"
    );
}

#[test]
fn a_frame_fills_the_screen_and_no_more() {
    for (width, height) in [(80, 24), (160, 50), (80, 12), (40, 8), (20, 3), (1, 1), (0, 0)] {
        for chosen in 0..2 {
            let ui = Ui {
                chosen,
                ..Ui::default()
            };
            let frame = frame(trouble, &ui, width, Some(height));
            assert_eq!(frame.lines.len(), height.max(1), "{width}x{height}");
        }
    }
}

#[test]
fn a_screen_has_a_line_about_keys() {
    let ui = Ui {
        chosen: 1,
        sort: [0, 3],
        ..Ui::default()
    };
    let text = frame(|_| {}, &ui, 80, Some(24)).text();
    let last = text.lines().last().unwrap();
    assert_eq!(last, "q quit  tab other table  s sort (shards by WRITES/s)");
    let shards: Vec<&str> = text.lines().filter(|line| line.contains("3/3")).collect();
    let order: Vec<&str> = shards
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(order, ["2", "1", "0"]);
}

#[test]
fn many_rows_are_scrolled_and_the_chosen_table_has_more_room() {
    let many = |sample: &mut Sample| {
        let shards = &mut sample.view.as_mut().unwrap().map.shards;
        for id in 3..40 {
            let mut shard = shards[2].clone();
            shard.id = id;
            shards.push(shard);
        }
    };
    let mut ui = Ui {
        chosen: 1,
        ..Ui::default()
    };
    let first = frame(many, &ui, 80, Some(24));
    // 24 lines: 7 for the rest, 3 for problems, 3 for nodes, 11 of 40 for shards.
    assert_eq!(first.seen.last_top, [0, 29]);
    assert!(
        first.text().contains("up/down shards 1-11 of 40"),
        "{}",
        first.text()
    );
    assert!(first.text().contains("lines more"), "{}", first.text());
    ui.top[1] = 1000;
    let last = frame(many, &ui, 80, Some(24)).text();
    assert!(last.contains("up/down shards 30-40 of 40"), "{last}");
    assert!(last.lines().any(|line| line.starts_with("39 ")), "{last}");
    assert!(!last.lines().any(|line| line.starts_with("0 (meta)")), "{last}");
}

#[test]
fn what_sorts_is_seen() {
    let seen = frame(|_| {}, &Ui::default(), 80, None).seen;
    let names: Vec<&str> = seen.columns[0].iter().map(|n| NODE_COLUMNS[*n].name).collect();
    assert!(
        names.contains(&"WRITES/s") && !names.contains(&"VERSION"),
        "{names:?}"
    );
}

#[test]
fn a_sample_for_programs_has_rates_and_lags() {
    let (sample, history) = seen(trouble);
    let json = picture_json(&sample, &history, 5);
    assert_eq!(json["at_ms"], 5);
    assert_eq!((&json["nodes_up"], &json["can_lose"]), (&2.into(), &0.into()));
    assert_eq!(json["operation"]["id"], 7);
    assert_eq!(
        json["shards"][1]["writes_per_s"],
        serde_json::Value::Null,
        "nobody leads it"
    );
    assert_eq!(json["shards"][2]["writes_per_s"], 2000.0);
    let followers = json["shards"][2]["followers"].as_array().unwrap();
    assert_eq!(
        (&followers[0]["node"], &followers[0]["lag"]),
        (&1.into(), &0.into())
    );
    assert_eq!(
        (&followers[1]["up"], &followers[1]["lag"]),
        (&false.into(), &serde_json::Value::Null)
    );
    assert_eq!(json["nodes"][2]["writes_per_s"], 2000.0);
    assert_eq!(json["nodes"][2]["reads_per_s"], 9000.0);
    assert_eq!(json["nodes"][1]["writes_per_s"], serde_json::Value::Null);
    let (sample, history) = seen(|_| {});
    let json = picture_json(&sample, &history, 5);
    assert_eq!(
        (&json["reads_per_s"], &json["writes_per_s"]),
        (&18_000.0.into(), &3_000.0.into())
    );
    assert_eq!(json["shards"][1]["followers"][1]["lag"], 250);
    assert_eq!(
        json["nodes"][2]["behind"],
        serde_json::json!({ "seconds": 0.249, "or_more": false })
    );
}
