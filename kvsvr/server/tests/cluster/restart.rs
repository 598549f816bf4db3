//! All nodes lose their processes at once.

use std::time::Duration;

use kvsvr_client::Partition;
use tokio::time::Instant;

use crate::{
    failover::clients,
    harness::{Cluster, PATIENCE, eventually, p50_and_max, report, size},
    load::Load,
};

/// Starts all nodes and returns how long it took until every data shard took a write.
async fn restart(cluster: &mut Cluster, shards: u32) -> Duration {
    let started = Instant::now();
    for i in 0..cluster.nodes.len() {
        cluster.start_node(i);
    }
    let client = cluster.client().await;
    for shard in 1..=shards {
        let partition = in_shard(&client, shard);
        eventually("a shard takes a write", PATIENCE, async || {
            client.put(&partition, "probe", "x").await.ok()
        })
        .await;
    }
    started.elapsed()
}

/// A partition of a shard.
pub(crate) fn in_shard(client: &kvsvr_client::Client, shard: u32) -> Partition {
    let map = client.known_map().unwrap();
    let info = map.shards.iter().find(|s| s.id == shard).unwrap();
    (0..)
        .map(|n| Partition::local(format!("probe-{n}")))
        .find(|p| (info.first_slot..=info.last_slot).contains(&u32::from(p.slot())))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_killed_under_load() {
    const SHARDS: u32 = 2;
    let mut cluster = Cluster::start(3, SHARDS, &[]).await;
    let clients = clients(&cluster, 16).await;
    let mut load = Load::start(&clients, 64, 4, 256);
    let mut times = Vec::new();
    let rounds = size(2, 10);
    for _ in 0..rounds {
        load.wait_acknowledged(size(1_000, 20_000)).await;
        cluster.kill(&[0, 1, 2]);
        times.push(restart(&mut cluster, SHARDS).await);
        load.wait_progress(Instant::now()).await;
    }
    load.stop().await;
    let acknowledged = load.verify(&clients[0]).await;
    for shard in 0..=SHARDS {
        cluster.assert_equal_states(shard).await;
    }
    let figures = format!(
        "{rounds} kills of all nodes, {acknowledged} acknowledged writes, 0 lost, {} linearizable reads, 0 stale; restart to serving {}",
        load.reads(),
        p50_and_max(times)
    );
    report("all-kills", figures);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_is_replayed() {
    let flush = size("8MiB", "128MiB");
    // Nothing is flushed before the log is full.
    let settings = [
        "wal.segment=8MiB",
        &format!("wal.flush={flush}"),
        "memory.write_buffer=1500MiB",
        "memory.limit=4GiB",
    ];
    let mut cluster = Cluster::start(3, 1, &settings).await;
    let clients = clients(&cluster, 8).await;
    let mut load = Load::start(&clients, 256, 0, 256);
    let full = size(6u64 << 20, 124 << 20);
    let written = eventually("the log is full", PATIENCE * 5, async || {
        let written = cluster.nodes[0].metric("kvsvr_wal_written_bytes_total");
        (written >= full as f64).then_some(written)
    })
    .await;
    cluster.kill(&[0, 1, 2]);
    let time = restart(&mut cluster, 1).await;
    load.stop().await;
    let acknowledged = load.verify(&clients[0]).await;
    let replayed = replayed_bytes(&cluster);
    report(
        "full-log-restart",
        format!(
            "{:.0} MiB of log, {acknowledged} acknowledged writes, 0 lost; restart to serving {time:.1?}; {replayed}",
            written / 1048576.0
        ),
    );
    let bound = size(Duration::from_secs(30), Duration::from_secs(5));
    assert!(
        time <= bound,
        "restart to serving took {time:?}, more than {bound:?}"
    );
}

/// What the last start found in the log.
fn replayed_bytes(cluster: &Cluster) -> String {
    let text = cluster.nodes[0].log_text();
    let line = text
        .lines()
        .rev()
        .find(|l| l.contains("the log is recovered"))
        .unwrap_or_default();
    line.split_once("the log is recovered")
        .map_or_else(String::new, |(_, rest)| format!("recovered{rest}"))
}
