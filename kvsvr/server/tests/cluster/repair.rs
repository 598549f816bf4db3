//! A replica that holds something else than the others, and nobody knows: it is told from them and made anew, while the cluster serves.

use std::{path::Path, process::Command};

use kvsvr::rocks::{RocksEngine, RocksOptions};
use kvsvr_client::{
    Code, Partition,
    proto::{
        self as pb, ChangeMembersRequest,
        change_members_request::Change,
        operation::{Kind, State},
    },
};
use kvsvr_core::{
    engine::{Cf, Engine as _, EngineRead as _, WriteBatch},
    keys::{self, DataRow},
    types::ShardId,
};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::{
    harness::{Cluster, PATIENCE, eventually, kvctl, report, size},
    load::Load,
    members::operate,
};

/// Changes a value in the engine of a stopped node: a difference that no checksum shows.
fn falsify(data: &Path, shard: u32, partition: &str, key: &str) {
    let engine = RocksEngine::open(&data.join("rocks"), &RocksOptions::default()).unwrap();
    let partition = kvsvr_core::types::Partition {
        region: 0,
        name: partition.to_owned().into(),
    };
    let at = keys::data_key(ShardId(shard), &partition, key.as_bytes());
    let stored = engine.get(Cf::Data, &at).unwrap().expect("the row is flushed");
    let row = DataRow {
        value: "wrong".into(),
        ..DataRow::decode(&stored).unwrap()
    };
    let mut batch = WriteBatch::default();
    batch.put(Cf::Data, at, row.encode());
    engine.write(batch).unwrap();
    engine.flush().unwrap();
}

fn reseed(shard: u32, node: u64) -> Change {
    Change::Reseed(pb::ReseedReplica { shard, node })
}

/// The incarnation of a node's replica by the map, if it votes.
async fn incarnation(client: &kvsvr_client::Client, shard: usize, node: u64) -> Option<u64> {
    let map = client.shard_map().await.ok()?;
    let row = &map.shards[shard];
    let listed = row.incarnations.iter().find(|i| i.node == node);
    row.replicas
        .contains(&node)
        .then(|| listed.map_or(0, |i| i.incarnation))
}

/// Has kvctl find the odd replica and make it anew.
async fn repair_with_kvctl(cluster: &Cluster) {
    let binary = kvctl();
    let endpoints = cluster.addresses().join(",");
    let run = async |args: &'static [&'static str]| {
        let mut command = Command::new(&binary);
        command.args(["--endpoints", &endpoints]).args(args);
        let done = tokio::task::spawn_blocking(move || command.output()).await;
        let done = done.unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };
    let (code, out, err) = run(&["verify"]).await;
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("node 3 DIFFERS from the others"), "{out}{err}");
    assert!(err.contains("error: diverged: shard 1"), "{out}{err}");
    let (code, out, err) = run(&["verify", "--repair"]).await;
    assert_eq!(code, Some(2), "it asks first: {out}{err}");
    let (code, out, err) = run(&["verify", "--repair", "--yes"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("(reseed shard 1 on node 3) is done"), "{out}{err}");
    assert!(out.trim_end().ends_with("3 of 3 equal"), "{out}{err}");
    println!("{out}{err}");
    let (code, out, err) = run(&["verify", "-o", "json"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
}

#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_replica_is_found_and_made_anew_under_load() {
    let mut cluster = Cluster::start(3, 1, &[]).await;
    let client = cluster.client().await;
    let place = Partition::local("kept");
    client.put(&place, "k", "right").await.unwrap();
    let mut load = Load::start(std::slice::from_ref(&client), size(4, 16), 2, 256);
    load.wait_acknowledged(size(200, 2_000)).await;

    cluster.wait_caught_up(2).await;
    cluster.signal(2, Signal::TERM);
    assert_eq!(cluster.ended(2, PATIENCE).await.code(), Some(0));
    falsify(&cluster.nodes[2].data, 1, "kept", "k");
    cluster.start_node(2);
    cluster.wait_node_ready(2).await;
    cluster.wait_caught_up(2).await;
    let states = cluster.states_under_load(1, &[0, 1, 2]).await;
    assert!(
        states[0] == states[1] && states[1] != states[2],
        "only the third differs: {states:x?}"
    );

    // While another one is down nothing is begun.
    cluster.kill(&[1]);
    let asked = ChangeMembersRequest {
        change: Some(reseed(1, 3)),
        dry_run: true,
        who: "test".into(),
    };
    eventually("it is refused", PATIENCE, async || {
        let error = client.change_members(asked.clone()).await.err()?;
        let refused = error.code == Code::Refused && error.message.contains("node 2 does not answer");
        refused.then_some(())
    })
    .await;
    cluster.start_node(1);
    cluster.wait_node_ready(1).await;
    cluster.wait_caught_up(1).await;

    repair_with_kvctl(&cluster).await;
    let anew = client.members().await.unwrap().operations.pop().unwrap();
    assert_eq!((anew.kind(), anew.state()), (Kind::Reseed, State::Done));
    assert_eq!((anew.shard, anew.node), (1, 3));
    load.wait_progress(Instant::now()).await;
    cluster.assert_equal_states_under_load(1, &[0, 1, 2]).await;
    assert!(incarnation(&client, 1, 3).await.is_some_and(|number| number > 0));
    assert_eq!(
        client.get(&place, "k").await.unwrap().value.unwrap().value,
        "right"
    );

    // The meta shard, and whoever leads it.
    let leader = cluster.leader(0).await;
    let node = leader as u64 + 1;
    let meta = operate(&client, reseed(0, node)).await;
    assert!(
        incarnation(&client, 0, node)
            .await
            .is_some_and(|number| number > 0)
    );
    cluster.wait_ready().await;
    cluster.assert_equal_states(0).await;
    // It is what it was after a restart, and its vote counts.
    cluster.kill(&[leader]);
    cluster.start_node(leader);
    cluster.wait_node_ready(leader).await;
    cluster.wait_caught_up(leader).await;
    let other = (leader + 1) % 3;
    cluster.kill(&[other]);
    client
        .with_timeout(PATIENCE)
        .configure("repair-after", "20m")
        .await
        .unwrap();
    cluster.start_node(other);
    cluster.wait_ready().await;

    load.wait_progress(Instant::now()).await;
    load.stop().await;
    let acknowledged = load.verify(&client).await;
    assert_eq!(load.failures(), Vec::<String>::new());
    let ms = |op: &pb::Operation| op.ended_ms - op.started_ms;
    report(
        "odd-replica",
        format!(
            "shard 1 {} steps in {} ms, meta shard {} steps in {} ms; {acknowledged} writes acknowledged, none lost, none failed, {} reads, none stale",
            anew.steps_done,
            ms(&anew),
            meta.steps_done,
            ms(&meta),
            load.reads()
        ),
    );
}
