//! Looks for stale reads through the row cache: few hot keys, a small cache, deletes, changes of leader, reads at followers.
//!
//! Each key has one writer, which writes states 1, 2, 3, ...: an even state n is the value n, an odd one is a deleted key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kvsvr_client::{CallOptions, Client, GetOptions, KeyValue, Partition, ReadFrom, ReadMode};
use tokio::time::Instant;

use crate::{
    failover::clients,
    harness::{Cluster, PATIENCE, eventually, report, size},
};

const KEYS: usize = 6;
/// Read in between, so that hot entries are pushed out of the cache and come back.
const COLD_KEYS: usize = 400;

#[derive(Default)]
struct Hot {
    begun: AtomicU64,
    known: AtomicU64,
    reads: AtomicU64,
    stop: AtomicBool,
}

fn key(i: usize) -> String {
    format!("hot-{i}")
}

fn place() -> Partition {
    Partition::local("hot")
}

fn at_any(client: &Client) -> Client {
    client.with_options(CallOptions {
        timeout: None,
        read_from: Some(ReadFrom::Any),
    })
}

fn value(kv: &KeyValue) -> u64 {
    std::str::from_utf8(&kv.value).unwrap().parse().unwrap()
}

/// Asserts that what was read is a state from `floor` to `ceiling`, and returns the lowest that it can be.
fn check(i: usize, found: Option<&KeyValue>, floor: u64, ceiling: u64, how: &str) -> u64 {
    let state = found.map_or_else(|| floor | 1, value);
    assert!(
        (floor..=ceiling).contains(&state),
        "stale read ({how}): {} is {:?}, which is none of the states {floor}..={ceiling}",
        key(i),
        found.map(value)
    );
    state
}

async fn write(client: Client, i: usize, hot: Arc<Hot>) {
    let any = at_any(&client);
    let mut n = 0;
    while !hot.stop.load(Ordering::Relaxed) {
        n += 1;
        hot.begun.store(n, Ordering::SeqCst);
        // Until it is acknowledged: the next state must be the next one.
        let revision = loop {
            let written = if n % 2 == 0 {
                client
                    .put(&place(), key(i), n.to_string())
                    .await
                    .map(|r| r.revision)
            } else {
                client.delete(&place(), key(i)).await.map(|r| r.revision)
            };
            match written {
                Ok(revision) => break revision,
                Err(_) if hot.stop.load(Ordering::Relaxed) => return,
                Err(_) => {}
            }
        };
        hot.known.fetch_max(n, Ordering::SeqCst);
        // Nobody else writes: right after the acknowledgement every replica must show exactly this state.
        for (mode, how) in [
            (ReadMode::Linearizable, "own write"),
            (ReadMode::AtLeast(revision), "own write, at_least"),
        ] {
            if let Ok(read) = any.get_with(&place(), key(i), GetOptions::from(mode)).await {
                check(i, read.value.as_ref(), n, n, how);
                hot.reads.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn read(client: Client, i: usize, hot: Arc<Hot>) {
    while !hot.stop.load(Ordering::Relaxed) {
        let floor = hot.known.load(Ordering::SeqCst);
        let Ok(read) = client.get(&place(), key(i)).await else {
            continue;
        };
        let state = check(
            i,
            read.value.as_ref(),
            floor,
            hot.begun.load(Ordering::SeqCst),
            "linearizable",
        );
        hot.known.fetch_max(state, Ordering::SeqCst);
        hot.reads.fetch_add(1, Ordering::Relaxed);
    }
}

async fn read_cold(client: Client, hot: Arc<Hot>) {
    let mut turn = 0;
    while !hot.stop.load(Ordering::Relaxed) {
        turn = (turn + 1) % COLD_KEYS;
        let cold = Partition::local(format!("cold-{turn}"));
        // Only there to push others out.
        let _ = client
            .get_with(&cold, "k", GetOptions::from(ReadMode::Local))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stale_read_through_the_row_cache() {
    let cluster = Cluster::start(3, 1, &["memory.row_cache=64KiB"]).await;
    let clients = clients(&cluster, 4).await;
    for n in 0..COLD_KEYS {
        clients[0]
            .put(&Partition::local(format!("cold-{n}")), "k", "c".repeat(200))
            .await
            .unwrap();
    }
    let keys: Vec<Arc<Hot>> = (0..KEYS).map(|_| Arc::default()).collect();
    let mut tasks = Vec::new();
    for (i, hot) in keys.iter().enumerate() {
        tasks.push(tokio::spawn(write(clients[i % 4].clone(), i, hot.clone())));
        tasks.push(tokio::spawn(read(clients[(i + 1) % 4].clone(), i, hot.clone())));
        tasks.push(tokio::spawn(read(at_any(&clients[(i + 2) % 4]), i, hot.clone())));
    }
    tasks.push(tokio::spawn(read_cold(at_any(&clients[3]), keys[0].clone())));
    let (wanted_transfers, wanted_reads) = size((6, 5_000), (200, 1_000_000));
    let total = || {
        keys.iter()
            .map(|hot| hot.reads.load(Ordering::Relaxed))
            .sum::<u64>()
    };
    let (mut transfers, begun) = (0, Instant::now());
    while transfers < wanted_transfers || total() < wanted_reads {
        assert!(
            begun.elapsed() < size(PATIENCE, PATIENCE * 30),
            "only {transfers} transfers and {} reads",
            total()
        );
        let before = total();
        if let Some(failed) = tasks.iter_mut().find(|task| task.is_finished()) {
            failed.await.expect("a stale read");
        }
        // Refused while the target is not caught up.
        let leader = cluster.leader(1).await as u64 + 1;
        if clients[0]
            .with_timeout(Duration::from_secs(2))
            .transfer_leader(1, Some(leader % 3 + 1))
            .await
            .is_ok()
        {
            transfers += 1;
        }
        eventually("reads go on", PATIENCE, async || {
            (total() > before + 200).then_some(())
        })
        .await;
    }
    keys.iter()
        .for_each(|hot| hot.stop.store(true, Ordering::Relaxed));
    for task in tasks {
        task.await.expect("a stale read");
    }
    let mut rates = Vec::new();
    for i in 0..3 {
        rates.push(format!(
            "{:.0} %",
            cluster.status(i).await.unwrap().cache_hit_rate * 100.0
        ));
    }
    cluster.assert_equal_states(1).await;
    let writes: u64 = keys.iter().map(|hot| hot.known.load(Ordering::Relaxed)).sum();
    report(
        "row-cache",
        format!(
            "{} reads on {KEYS} hot keys, {writes} writes, {transfers} leader transfers: 0 stale; hit rates {}",
            total(),
            rates.join(", ")
        ),
    );
}
