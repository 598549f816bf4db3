//! Operations on members that are interrupted: by the death of who carries them on, and by an operator who takes them back.

use kvsvr_client::{
    Client,
    proto::{self as pb, change_members_request::Change, operation::State},
};
use tokio::time::Instant;

use crate::{
    harness::{Cluster, PATIENCE, eventually, report},
    load::Load,
    members::{add, assert_placed, begin, ended, operation},
};

/// The meta shard's leader is killed after every step of an operation: another one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_outlive_the_meta_leader() {
    let mut cluster = Cluster::start(3, 2, &[]).await;
    let client = cluster.client().await;
    let mut load = Load::start(std::slice::from_ref(&client), 4, 1, 128);
    load.wait_acknowledged(100).await;
    let fourth = cluster.start_newcomer().await;
    let mut kills = 0;
    let anew = |shard, node| Change::Reseed(pb::ReseedReplica { shard, node });
    for change in [add(&cluster, fourth), Change::Drain(2), anew(1, 1), anew(0, 3)] {
        let id = begin(&client, change).await;
        kills += kill_who_carries_on(&mut cluster, &client, id, 0).await;
        ended(&client, id, State::Done).await;
    }
    assert!(kills >= 5, "only {kills} kills");
    let status = cluster.status(1).await.unwrap();
    assert!(status.replicas.iter().all(|r| r.shard == 0), "{status:?}");
    load.wait_progress(Instant::now()).await;
    load.stop().await;
    let acknowledged = load.verify(&client).await;
    report(
        "operations-outlive-leaders",
        format!("{kills} kills, {acknowledged} writes acknowledged, none lost"),
    );
}

/// Taking back is carried on by others too: the meta shard's leader is killed after every step of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_outlives_the_meta_leader() {
    let mut cluster = Cluster::start(3, 4, &[]).await;
    let client = cluster.client().await;
    let mut load = Load::start(std::slice::from_ref(&client), 4, 1, 128);
    load.wait_acknowledged(100).await;
    let fourth = cluster.start_newcomer().await;
    let id = begin(&client, add(&cluster, fourth)).await;
    let half = eventually("some of it is done", PATIENCE, async || {
        let op = operation(&client, id).await?;
        (op.steps_done >= 6).then_some(op.steps_done)
    })
    .await;
    assert_eq!(begin(&client, Change::Abort(id)).await, id);
    let kills = kill_who_carries_on(&mut cluster, &client, id, half).await;
    ended(&client, id, State::Aborted).await;
    assert!(kills >= 2, "only {kills} kills");
    assert_placed(&cluster, &client, &[0, 1, 2]).await;
    load.wait_progress(Instant::now()).await;
    load.stop().await;
    let acknowledged = load.verify(&client).await;
    report(
        "abort-outlives-leaders",
        format!("{kills} kills, {acknowledged} writes acknowledged, none lost; three members as before"),
    );
}

/// Kills the meta shard's leader after every step of an operation after the first `seen`, to its end; how often.
async fn kill_who_carries_on(cluster: &mut Cluster, client: &Client, id: u64, mut seen: u32) -> u32 {
    let mut kills = 0;
    loop {
        let op = eventually("the operation goes on", PATIENCE * 2, async || {
            let op = operation(client, id).await?;
            (op.ended() || op.steps_done > seen).then_some(op)
        })
        .await;
        if op.ended() {
            return kills;
        }
        seen = op.steps_done;
        if let Some(leader) = meta_leader(cluster).await {
            println!("operation {id}: killing node {} after step {seen}", leader + 1);
            cluster.kill(&[leader]);
            kills += 1;
            cluster.start_node(leader);
        }
    }
}

/// The place in `nodes` of the node that leads the meta shard, if there is one.
async fn meta_leader(cluster: &Cluster) -> Option<usize> {
    for i in (0..cluster.nodes.len()).filter(|i| cluster.running(*i)) {
        let replica = cluster.replica(i, 0).await;
        if replica.is_some_and(|r| r.role == "leader") {
            return Some(i);
        }
    }
    None
}

/// An operation that is aborted leaves everything as even as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_operation_is_taken_back() {
    let mut cluster = Cluster::start(3, 4, &[]).await;
    let client = cluster.client().await;
    let fourth = cluster.start_newcomer().await;
    let id = begin(&client, add(&cluster, fourth)).await;
    eventually("some of it is done", PATIENCE, async || {
        let op = operation(&client, id).await?;
        (op.steps_done >= 4).then_some(())
    })
    .await;
    let aborted = begin(&client, Change::Abort(id)).await;
    assert_eq!(aborted, id);
    let op = ended(&client, id, State::Aborted).await;
    assert_placed(&cluster, &client, &[0, 1, 2]).await;
    let members = client.members().await.unwrap().members;
    let states: Vec<_> = members.iter().map(|m| m.info.as_ref().unwrap().state()).collect();
    assert_eq!(states[3], pb::NodeState::NodeRemoved);
    report(
        "abort",
        format!(
            "taken back, {} steps in {} ms",
            op.steps_done,
            op.ended_ms - op.started_ms
        ),
    );
}
