//! kill -9 of leaders under load.

use std::time::Duration;

use futures::future::join_all;
use kvsvr_client::Client;
use tokio::time::Instant;

use crate::{
    harness::{Cluster, p50_and_max, report, size},
    load::Load,
};

/// Clients of their own: connections, sessions and knowledge of the cluster are not shared.
pub(crate) async fn clients(cluster: &Cluster, count: usize) -> Vec<Client> {
    join_all((0..count).map(|_| cluster.client())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_killed_under_load() {
    const SHARDS: u32 = 2;
    let mut cluster = Cluster::start(3, SHARDS, &[]).await;
    let clients = clients(&cluster, 64).await;
    let mut load = Load::start(&clients, 64, 8, 64);
    load.wait_progress(Instant::now()).await;
    let (kills, bound) = size((3, Duration::from_secs(20)), (20, Duration::from_secs(2)));
    let mut outages = Vec::new();
    for round in 0..kills {
        // Each shard in turn, the meta shard too.
        let victim = cluster.leader(round % (SHARDS + 1)).await;
        let killed_at = Instant::now();
        cluster.kill(&[victim]);
        load.wait_progress(killed_at).await;
        outages.push(load.outage(killed_at));
        cluster.start_node(victim);
        cluster.wait_node_ready(victim).await;
        cluster.wait_caught_up(victim).await;
    }
    load.stop().await;
    let acknowledged = load.verify(&clients[0]).await;
    for shard in 0..=SHARDS {
        cluster.assert_equal_states(shard).await;
    }
    report(
        "leader-kills",
        format!(
            "{kills} kills, {acknowledged} acknowledged writes, 0 lost, {} linearizable reads, 0 stale, {} writes failed; outage {}",
            load.reads(),
            load.failures().len(),
            p50_and_max(outages.clone())
        ),
    );
    let max = outages.iter().max().unwrap();
    assert!(
        *max <= bound,
        "writes must resume within {bound:?}, it took {max:?}"
    );
}
