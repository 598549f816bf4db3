//! The orderly stop.

use rustix::process::Signal;
use tokio::time::Instant;

use crate::{
    failover::clients,
    harness::{Cluster, PATIENCE, p50_and_max, report, size},
    load::Load,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_hands_over_leadership() {
    let mut cluster = Cluster::start(3, 2, &[]).await;
    let clients = clients(&cluster, 16).await;
    let mut load = Load::start(&clients, 32, 4, 64);
    let (mut outages, mut stops) = (Vec::new(), Vec::new());
    for round in 0..size(3, 12) {
        load.wait_progress(Instant::now()).await;
        let leader = cluster.leader(round % 3).await;
        let begun = Instant::now();
        cluster.signal(leader, Signal::TERM);
        let status = cluster.ended(leader, PATIENCE).await;
        stops.push(begun.elapsed());
        assert_eq!(status.code(), Some(0), "{status}");
        load.wait_progress(begun).await;
        outages.push(load.outage(begun));
        assert!(cluster.nodes[leader].logged(&["handing over leadership"]));
        assert!(!cluster.nodes[leader].logged(&["leadership was not taken over in time"]));
        cluster.start_node(leader);
        cluster.wait_node_ready(leader).await;
        cluster.wait_caught_up(leader).await;
    }
    load.stop().await;
    let acknowledged = load.verify(&clients[0]).await;
    assert_eq!(load.failures(), [""; 0], "a request failed for good");
    let (median, p99) = load.latency();
    let figures = format!(
        "{acknowledged} acknowledged writes, 0 failed, 0 lost, p50 {} ms, p99 {} ms; exit code 0; stop {}; outage {}",
        median.as_millis(),
        p99.as_millis(),
        p50_and_max(stops),
        p50_and_max(outages)
    );
    report("sigterm", figures);
}

/// Who has just been elected has not heard of the others yet, and is preferred by them while it stops: it hands over all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_just_been_elected_hands_over() {
    let mut cluster = Cluster::start(3, 2, &[]).await;
    let client = cluster.client().await;
    let mut load = Load::start(std::slice::from_ref(&client), 16, 2, 64);
    for round in 0..size(3, 12) {
        load.wait_progress(Instant::now()).await;
        let next = (cluster.leader(1).await + 1) % 3;
        client.transfer_leader(1, Some(next as u64 + 1)).await.unwrap();
        let before = cluster.nodes[next].log_text().len();
        cluster.signal(next, Signal::TERM);
        let status = cluster.ended(next, PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{status}");
        let log = cluster.nodes[next].log_text().split_off(before);
        let logged = |line: &str| log.contains(line);
        assert!(logged("handing over leadership shard=1"), "round {round}");
        for line in [
            "leadership was not taken over in time",
            "no other member can lead now",
        ] {
            assert!(!logged(line), "round {round}: {line}");
        }
        cluster.start_node(next);
        cluster.wait_node_ready(next).await;
        cluster.wait_caught_up(next).await;
    }
    load.stop().await;
    load.verify(&client).await;
    assert_eq!(load.failures(), [""; 0], "a request failed for good");
}
