//! A follower that was away for longer than the log is kept.

use std::time::Duration;

use kvsvr_client::Client;
use rustix::process::Signal;

use crate::{
    harness::{Cluster, PATIENCE, eventually, report, size},
    load::partition,
};

const SHARD: u32 = 1;
/// Chunks that must have arrived when a side is killed.
const RECEIVED: u64 = 4;

/// Writes so many MiB of new keys.
async fn fill(client: &Client, round: usize, mib: usize) {
    let value = "x".repeat(64 << 10);
    let places: Vec<_> = (0..32).map(partition).collect();
    for part in 0..mib / 2 {
        let puts = places
            .iter()
            .map(|place| client.put(place, format!("{round}/{part}"), value.clone()));
        for done in futures::future::join_all(puts).await {
            done.unwrap();
        }
    }
}

/// Kills a follower, writes, and waits until the others have purged what it lacks.
async fn leave_behind(cluster: &mut Cluster, client: &Client, round: usize, mib: usize) -> usize {
    let leader = cluster.leader(SHARD).await;
    let follower = (leader + 1) % 3;
    cluster.wait_caught_up(follower).await;
    let last = cluster.replica(follower, SHARD).await.unwrap().last_index;
    cluster.kill(&[follower]);
    fill(client, round, mib).await;
    for i in (0..3).filter(|i| *i != follower) {
        eventually("the log is purged past the follower", PATIENCE, async || {
            (cluster.replica(i, SHARD).await?.purged_index > last).then_some(())
        })
        .await;
    }
    follower
}

/// Waits until a follower has received some chunks; returns how many.
async fn receiving(cluster: &Cluster, follower: usize) -> u64 {
    eventually("chunks arrive", PATIENCE, async || {
        let status = cluster.replica(follower, SHARD).await?.snapshot;
        let chunk = status.strip_prefix("receiving: chunk ")?.parse().ok()?;
        (chunk >= RECEIVED).then_some(chunk)
    })
    .await
}

/// The chunks from which this node began to send snapshots of the shard, since the log had `before` lines.
fn began_from(cluster: &Cluster, i: usize, before: usize) -> Vec<u64> {
    let text = cluster.nodes[i].log_text();
    let sending = text
        .lines()
        .skip(before)
        .filter(|l| l.contains("sending a snapshot") && l.contains(&format!("shard={SHARD} ")));
    let number = |line: &str| {
        line.split_once("from_chunk=")?
            .1
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    sending.filter_map(number).collect()
}

fn lines(cluster: &Cluster, i: usize) -> usize {
    cluster.nodes[i].log_text().lines().count()
}

async fn settled(cluster: &Cluster, follower: usize) {
    cluster.wait_node_ready(follower).await;
    cluster.wait_caught_up(follower).await;
    cluster.assert_equal_states(SHARD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_catches_up_by_snapshot() {
    let settings = ["wal.segment=8MiB", "wal.flush=8MiB", "raft.keep_log=512KiB"];
    let mut cluster = Cluster::start(3, 1, &settings).await;
    let client = cluster.client().await.with_timeout(PATIENCE);
    let mib = size(12, 256);

    let follower = leave_behind(&mut cluster, &client, 0, mib).await;
    let started = tokio::time::Instant::now();
    cluster.start_node(follower);
    settled(&cluster, follower).await;
    let whole = started.elapsed();
    let sent: usize = (0..3).map(|i| began_from(&cluster, i, 0).len()).sum();
    assert!(sent >= 1, "it caught up, but not by snapshot");

    // The receiver dies in the middle.
    let follower = leave_behind(&mut cluster, &client, 1, mib).await;
    let marks: Vec<usize> = (0..3).map(|i| lines(&cluster, i)).collect();
    cluster.start_node(follower);
    let received = receiving(&cluster, follower).await;
    cluster.kill(&[follower]);
    cluster.start_node(follower);
    settled(&cluster, follower).await;
    let resumed: Vec<u64> = (0..3).flat_map(|i| began_from(&cluster, i, marks[i])).collect();
    let receiver_from = *resumed.iter().max().unwrap();
    assert!(
        receiver_from >= RECEIVED,
        "{received} chunks had arrived, then it was sent from {resumed:?}"
    );

    // The sender dies in the middle. The third node is frozen, so that the sender leads again: another leader has another snapshot.
    let follower = leave_behind(&mut cluster, &client, 2, mib).await;
    let sender = cluster.leader(SHARD).await;
    let third = 3 - follower - sender;
    let mark = lines(&cluster, sender);
    cluster.start_node(follower);
    receiving(&cluster, follower).await;
    cluster.signal(third, Signal::STOP);
    cluster.kill(&[sender]);
    cluster.start_node(sender);
    let sender_from = eventually("the sender goes on", PATIENCE, async || {
        began_from(&cluster, sender, mark).get(1).copied()
    })
    .await;
    cluster.signal(third, Signal::CONT);
    assert!(sender_from >= RECEIVED, "it was sent from chunk {sender_from}");
    settled(&cluster, follower).await;
    settled(&cluster, third).await;

    // The sender dies and another node leads: from the beginning, but complete.
    let follower = leave_behind(&mut cluster, &client, 3, mib).await;
    let sender = cluster.leader(SHARD).await;
    cluster.start_node(follower);
    receiving(&cluster, follower).await;
    cluster.kill(&[sender]);
    cluster.wait_caught_up(follower).await;
    cluster.start_node(sender);
    settled(&cluster, sender).await;
    settled(&cluster, follower).await;
    let figures = format!(
        "{mib} MiB in {:.1} s; receiver killed after chunk {received}: resumed from {receiver_from}; sender killed: resumed from {sender_from}; states equal",
        whole.as_secs_f64()
    );
    report("snapshot", figures);
    assert!(whole < Duration::from_secs(60));
}
