//! Retried writes are applied once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use kvsvr_client::Partition;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::{
    failover::clients,
    harness::{Cluster, PATIENCE, eventually, report, size},
};

/// Longer than an election: another node leads when the paused one wakes up.
const PAUSE: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_with_lost_answers() {
    let mut cluster = Cluster::start(3, 1, &[]).await;
    let clients = clients(&cluster, 16).await;
    let counter = Partition::local("counter");
    let (sure, unknown): (Arc<AtomicI64>, Arc<AtomicI64>) = Default::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for client in &clients {
        for _ in 0..4 {
            let (client, counter, stop) = (client.clone(), counter.clone(), stop.clone());
            let (sure, unknown) = (sure.clone(), unknown.clone());
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match client.increment(&counter, "n", 1).await {
                        Ok(_) => sure.fetch_add(1, Ordering::Relaxed),
                        Err(e) if e.is_unknown() => unknown.fetch_add(1, Ordering::Relaxed),
                        Err(_) => 0,
                    };
                }
            }));
        }
    }
    let rounds = size(4, 20);
    for round in 0..rounds {
        let before = sure.load(Ordering::Relaxed);
        eventually("increments", PATIENCE, async || {
            (sure.load(Ordering::Relaxed) > before + 200).then_some(())
        })
        .await;
        let leader = cluster.leader(1).await;
        if round % 2 == 0 {
            cluster.signal(leader, Signal::STOP);
            // The pause is the fault itself.
            sleep(PAUSE).await;
            cluster.signal(leader, Signal::CONT);
        } else {
            cluster.kill(&[leader]);
            let killed_at = (Instant::now(), sure.load(Ordering::Relaxed));
            eventually("increments go on", PATIENCE, async || {
                (sure.load(Ordering::Relaxed) > killed_at.1 + 64).then_some(())
            })
            .await;
            cluster.start_node(leader);
        }
        cluster.wait_node_ready(leader).await;
        cluster.wait_caught_up(leader).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let (sure, unknown) = (sure.load(Ordering::Relaxed), unknown.load(Ordering::Relaxed));
    let client = cluster.client().await;
    let value = client.increment(&counter, "n", 0).await.unwrap().value;
    assert!(
        (sure..=sure + unknown).contains(&value),
        "{sure} increments were acknowledged and {unknown} are unknown, the counter is {value}"
    );
    cluster.assert_equal_states(1).await;
    report(
        "exactly-once",
        format!("{rounds} pauses and kills: {sure} acknowledged, {unknown} unknown, counter {value}"),
    );
}
