//! Members come, go and are replaced, under load and while leaders are killed.

use std::{collections::BTreeMap, fs, time::Duration};

use futures::{StreamExt as _, stream};
use kvsvr_client::{
    Client, Code, Partition,
    proto::{
        self as pb, AddMember, ChangeMembersRequest, ReplaceMember, change_members_request::Change,
        operation::State,
    },
    transport::{Class, Method, Transport as _, TransportError},
};
use prost::Message as _;
use tokio::time::Instant;

use crate::{
    harness::{Cluster, PATIENCE, eventually, proving, report, size},
    load::Load,
    oversight::Oversight,
};

pub(crate) fn request(change: Change) -> ChangeMembersRequest {
    ChangeMembersRequest {
        change: Some(change),
        dry_run: false,
        who: "test".into(),
    }
}

pub(crate) fn add(cluster: &Cluster, i: usize) -> Change {
    Change::Add(AddMember {
        address: cluster.nodes[i].address.clone(),
    })
}

/// Begins an operation: tried again while leaders change, but begun once.
pub(crate) async fn begin(client: &Client, change: Change) -> u64 {
    let client = client.with_timeout(Duration::from_secs(10));
    eventually("an operation begins", PATIENCE, async || {
        match client.change_members(request(change.clone())).await {
            Ok(answer) => Some(answer.operation.unwrap().id),
            Err(error)
                if error.code == Code::Refused
                    && !error.message.contains("does not answer")
                    && !error.message.contains("entries behind") =>
            {
                panic!("{error}")
            }
            Err(error) => {
                println!("not begun yet: {error}");
                None
            }
        }
    })
    .await
}

pub(crate) async fn operation(client: &Client, id: u64) -> Option<pb::Operation> {
    let members = client.members().await.ok()?;
    members.operations.into_iter().find(|op| op.id == id)
}

/// Waits for the end of an operation.
pub(crate) async fn ended(client: &Client, id: u64, wanted: State) -> pb::Operation {
    let mut last = String::new();
    let op = eventually("the operation ends", PATIENCE * 3, async || {
        let op = operation(client, id).await?;
        let now = format!("{} done, {} left, {:?}", op.steps_done, op.steps_left, op.waiting);
        if now != last {
            println!("operation {id}: {now}");
            last = now;
        }
        matches!(op.state(), State::Done | State::Aborted).then_some(op)
    })
    .await;
    assert_eq!(op.state(), wanted, "{op:#?}");
    op
}

pub(crate) async fn operate(client: &Client, change: Change) -> pb::Operation {
    let id = begin(client, change).await;
    ended(client, id, State::Done).await
}

/// Every data shard has three voters on `nodes`, nothing else, and each node runs what the map says. Replicas and preferred leaders are spread
/// evenly.
pub(crate) async fn assert_placed(cluster: &Cluster, client: &Client, nodes: &[usize]) {
    eventually("all nodes run what the map says", PATIENCE, async || {
        let map = client.shard_map().await.ok()?;
        let mut replicas: BTreeMap<u64, usize> = BTreeMap::new();
        let mut preferred: BTreeMap<u64, usize> = BTreeMap::new();
        let mut ids = BTreeMap::new();
        for i in nodes {
            let status = cluster.status(*i).await?;
            let hosted = map
                .shards
                .iter()
                .filter(|s| s.replicas.contains(&status.node_id) || s.learners.contains(&status.node_id));
            let hosted: Vec<u32> = hosted.map(|s| s.id).collect();
            let running: Vec<u32> = status.replicas.iter().map(|r| r.shard).collect();
            if hosted != running || status.replicas.iter().any(|r| r.leader == 0) {
                return None;
            }
            ids.insert(status.node_id, *i);
            replicas.insert(status.node_id, 0);
            preferred.insert(status.node_id, 0);
        }
        for shard in map.shards.iter().filter(|s| s.id != 0) {
            assert_eq!(
                (shard.replicas.len(), &shard.learners[..], &shard.change),
                (3, &[][..], &None),
                "{shard:?}"
            );
            *preferred.get_mut(&shard.replicas[0])? += 1;
            for id in &shard.replicas {
                *replicas.get_mut(id)? += 1;
            }
        }
        for counts in [&replicas, &preferred] {
            let (least, most) = (counts.values().min()?, counts.values().max()?);
            assert!(most - least <= 1, "not even: {replicas:?} {preferred:?}");
        }
        Some(())
    })
    .await;
}

/// Writes so many KiB, spread over all shards.
async fn fill(client: &Client, kib: usize) {
    let partitions: Vec<Partition> = (0..64).map(|n| Partition::local(format!("filled-{n}"))).collect();
    let puts = (0..kib).map(|i| client.put(&partitions[i % 64], format!("row/{i:09}"), vec![b'.'; 1024]));
    let mut puts = stream::iter(puts).buffer_unordered(64);
    while let Some(put) = puts.next().await {
        put.unwrap();
    }
}

/// Grows 3 -> 4 -> 5, drains, removes, and replaces a node that was killed and wiped, all under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_under_load() {
    let mut cluster = Cluster::start(3, 4, &[]).await;
    let client = cluster.client().await;
    let mut load = Load::start(std::slice::from_ref(&client), size(8, 32), 2, 256);
    load.wait_acknowledged(500).await;
    // What is moved takes longer than the steps about it.
    fill(&client, size(1, 300) * 1024).await;
    let oversight = Oversight::start(&client, 3);
    let mut figures = Vec::new();
    let mut timed = |what: &str, op: &pb::Operation| {
        let ms = op.ended_ms - op.started_ms;
        figures.push(format!("{what} {} steps in {ms} ms", op.steps_done));
    };

    let fourth = cluster.start_newcomer().await;
    timed("add 4th", &operate(&client, add(&cluster, fourth)).await);
    assert_placed(&cluster, &client, &[0, 1, 2, 3]).await;
    let fifth = cluster.start_newcomer().await;
    timed("add 5th", &operate(&client, add(&cluster, fifth)).await);
    assert_placed(&cluster, &client, &[0, 1, 2, 3, 4]).await;
    load.wait_progress(Instant::now()).await;

    timed("drain", &operate(&client, Change::Drain(2)).await);
    let status = cluster.status(1).await.unwrap();
    assert!(status.replicas.iter().all(|r| r.shard == 0), "{status:?}");
    timed("undrain", &operate(&client, Change::Undrain(2)).await);
    assert_placed(&cluster, &client, &[0, 1, 2, 3, 4]).await;

    timed("remove", &operate(&client, Change::Remove(1)).await);
    assert_placed(&cluster, &client, &[1, 2, 3, 4]).await;
    load.wait_progress(Instant::now()).await;

    // Its disk is lost: it comes back empty at the same address, and gets its place as a new node.
    cluster.kill(&[2]);
    fs::remove_dir_all(&cluster.nodes[2].data).unwrap();
    cluster.start_node(2);
    eventually("the wiped node is refused", PATIENCE, async || {
        let (_, body) = cluster.nodes[2].get("/status")?;
        body.contains("kvctl member replace").then_some(())
    })
    .await;
    let address = cluster.nodes[2].address.clone();
    let replace = Change::Replace(ReplaceMember { old: 3, address });
    timed("replace", &operate(&client, replace).await);
    assert_placed(&cluster, &client, &[1, 2, 3, 4]).await;
    assert_eq!(cluster.status(2).await.unwrap().node_id, 6);
    eventually(
        "the new node has nothing to complain about",
        PATIENCE,
        async || {
            let status = cluster.status(2).await?;
            status.messages.is_empty().then_some(())
        },
    )
    .await;

    load.wait_progress(Instant::now()).await;
    load.stop().await;
    let acknowledged = load.verify(&client).await;
    assert_eq!(load.failures(), Vec::<String>::new());
    let estimates = oversight.end(Duration::from_secs(2)).await;
    let worst = estimates.iter().map(|(_, factor)| *factor).fold(1.0, f64::max);
    report(
        "members-under-load",
        format!(
            "{}; {acknowledged} writes acknowledged, none lost, none failed, {} reads, none stale; never fewer than 3 voters; the time left was \
             estimated within {worst:.1} times from half-way on, of {} operations",
            figures.join("; "),
            load.reads(),
            estimates.len()
        ),
    );
    assert!(
        !proving() || worst <= 2.0,
        "an estimate was not true: {estimates:?}"
    );
}

/// A node that is evicted leads nothing, whatever it is asked, and the others lead as many each; then it has its share again. Replicas are kept apart
/// by labels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_and_replicas_are_where_the_operator_wants_them() {
    let nodes = size(4, 5);
    let cluster = Cluster::start_replicated(nodes, size(6, 16), 3, &[]).await;
    let client = cluster.client().await;
    let mut load = Load::start(std::slice::from_ref(&client), 4, 1, 128);
    load.wait_acknowledged(100).await;
    let led = async |i: usize| {
        let status = cluster.status(i).await?;
        Some(status.replicas.iter().filter(|r| r.role == "leader").count())
    };
    let evicted = operate(&client, Change::Evict(1)).await;
    assert_eq!(led(0).await, Some(0));
    assert!(
        !proving() || evicted.ended_ms - evicted.started_ms < 5_000,
        "{evicted:?}"
    );
    let again = client.change_members(request(Change::Evict(1))).await;
    assert_refused(again, &["evicted already"]);
    operate(&client, Change::Restore(1)).await;
    let all: Vec<usize> = (0..nodes).collect();
    assert_placed(&cluster, &client, &all).await;

    for (id, zone) in [(1, "a"), (2, "a"), (3, "b"), (4, "c")] {
        let set = [("zone".to_owned(), zone.to_owned())].into();
        let label = pb::LabelMember {
            node: id,
            set,
            ..pb::LabelMember::default()
        };
        operate(&client, Change::Label(label)).await;
    }
    let map = client.shard_map().await.unwrap();
    for shard in map.shards.iter().filter(|s| s.id != 0) {
        let together = shard.replicas.contains(&1) && shard.replicas.contains(&2);
        assert!(!together, "two replicas in zone a: {shard:?}");
    }
    let status = cluster.status(3).await.unwrap();
    let busiest = status.replicas.iter().max_by_key(|r| r.revision).unwrap().shard;
    let row = map.shards.iter().find(|s| s.id == busiest).unwrap();
    let hosts: Vec<usize> = row.replicas.iter().map(|id| *id as usize - 1).collect();
    cluster.assert_equal_states_under_load(busiest, &hosts).await;
    load.wait_progress(Instant::now()).await;
    load.stop().await;
    let acknowledged = load.verify(&client).await;
    assert_eq!(load.failures(), Vec::<String>::new());
    report(
        "evict",
        format!(
            "{nodes} nodes, {} shards: evicted in {} ms; {acknowledged} writes acknowledged, none lost, none failed",
            map.shards.len() - 1,
            evicted.ended_ms - evicted.started_ms
        ),
    );
}

/// A node that stays away is done without, and has its share again when it is back, without anybody's help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_repaired_without_help() {
    let mut cluster = Cluster::start_replicated(4, 3, 3, &[]).await;
    let client = cluster.client().await.with_timeout(Duration::from_secs(10));
    let refused = client.configure("repair-after", "1s").await.unwrap_err();
    assert_eq!(refused.code, Code::Invalid, "{refused}");
    client.configure("repair-after", "5s").await.unwrap();
    let mut load = Load::start(std::slice::from_ref(&client), 4, 1, 128);
    load.wait_acknowledged(100).await;
    cluster.kill(&[1]);
    let newest = async |kind: pb::operation::Kind| {
        let members = client.members().await.ok()?;
        let op = members.operations.into_iter().next_back()?;
        (op.kind() == kind && op.state() == State::Done).then_some(op)
    };
    let repair = eventually("the cluster repairs it", PATIENCE, async || {
        newest(pb::operation::Kind::Repair).await
    })
    .await;
    assert_eq!((repair.node, &repair.who[..]), (2, "the cluster"));
    assert_placed(&cluster, &client, &[0, 2, 3]).await;
    cluster.start_node(1);
    eventually("the cluster takes it back", PATIENCE, async || {
        newest(pb::operation::Kind::Return).await
    })
    .await;
    assert_placed(&cluster, &client, &[0, 1, 2, 3]).await;
    load.wait_progress(Instant::now()).await;
    load.stop().await;
    let acknowledged = load.verify(&client).await;
    report(
        "repair",
        format!(
            "{} steps in {} ms; {acknowledged} writes acknowledged, none lost",
            repair.steps_done,
            repair.ended_ms - repair.started_ms
        ),
    );
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, kvsvr_client::Error>, parts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(
        (error.code, error.is_unknown()),
        (Code::Refused, false),
        "{error}"
    );
    for part in parts {
        assert!(error.message.contains(part), "{error}");
    }
}

/// What is unsafe is refused with its reason, and changes nothing. A removed node stays out.
#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsafe_changes_are_refused() {
    let mut cluster = Cluster::start(3, 2, &[]).await;
    let foreign = Cluster::start(1, 1, &[]).await;
    let client = cluster.client().await.with_timeout(Duration::from_secs(10));
    let ask = async |change| client.change_members(request(change)).await;
    assert_refused(
        ask(Change::Remove(2)).await,
        &["without node 2 there are 2 nodes"],
    );
    assert_refused(ask(Change::Drain(2)).await, &["member replace"]);
    let address = foreign.nodes[0].address.clone();
    assert_refused(
        ask(Change::Add(AddMember { address })).await,
        &["not of this cluster"],
    );
    let replace = |old, i: usize| {
        let address = cluster.nodes[i].address.clone();
        Change::Replace(ReplaceMember { old, address })
    };
    assert_refused(
        ask(replace(2, 0)).await,
        &["which is node 1 of this cluster", "a store is used once"],
    );
    let plan = ChangeMembersRequest {
        dry_run: true,
        ..request(Change::Remove(2))
    };
    assert_refused(client.change_members(plan).await, &["without node 2"]);

    let address = "127.0.0.1:1".to_owned();
    assert_refused(ask(Change::Add(AddMember { address })).await, &["start it first"]);

    let fourth = cluster.start_newcomer().await;
    let plan = ChangeMembersRequest {
        dry_run: true,
        ..request(add(&cluster, fourth))
    };
    let plan = client.change_members(plan).await.unwrap().plan;
    assert!(plan.last().unwrap().ends_with("add node 4 is done"), "{plan:#?}");
    assert!(client.members().await.unwrap().operations.is_empty());
    operate(&client, add(&cluster, fourth)).await;

    cluster.kill(&[0]);
    let refused = eventually("node 1 is missed", PATIENCE, async || {
        let error = client.change_members(request(Change::Remove(2))).await.err()?;
        error
            .message
            .contains("on node 1 does not answer")
            .then_some(error)
    })
    .await;
    assert_refused::<()>(Err(refused), &["Bring node 1 back first"]);
    cluster.start_node(0);
    cluster.wait_node_ready(0).await;

    operate(&client, Change::Remove(2)).await;
    assert_placed(&cluster, &client, &[0, 2, 3]).await;
    eventually("the removed node says so", PATIENCE, async || {
        let messages = cluster.status(1).await?.messages;
        messages.iter().any(|m| m.contains("was removed")).then_some(())
    })
    .await;
    // Neither does it come back after a restart, nor is its vote asked for or taken.
    cluster.kill(&[1]);
    cluster.start_node(1);
    eventually("the removed node says so again", PATIENCE, async || {
        let messages = cluster.status(1).await?.messages;
        messages.iter().any(|m| m.contains("was removed")).then_some(())
    })
    .await;
    let members = client.members().await.unwrap().members;
    let store = |id: u64| {
        members
            .iter()
            .find_map(|m| m.info.clone().filter(|i| i.id == id))
            .unwrap()
            .store_id
    };
    let envelope = pb::Envelope {
        cluster_id: cluster.status(0).await.unwrap().cluster_id,
        from_node: 2,
        from_store: store(2),
        to_node: 1,
        to_store: store(1),
        ..Default::default()
    };
    let vote = pb::VoteRequest {
        envelope: Some(envelope),
        vote: Some(pb::PbVote {
            term: 1_000,
            node_id: 2,
            committed: false,
        }),
        ..Default::default()
    };
    let transport = kvsvr_client::grpc::GrpcTransport::new();
    let answer = transport
        .call(
            &cluster.nodes[0].address,
            Class::Control,
            Method::RaftVote,
            vote.encode_to_vec().into(),
            PATIENCE,
        )
        .await;
    match answer {
        Err(TransportError::Api { error, .. }) => {
            assert!(error.message.contains("node 2 was removed"), "{}", error.message);
        }
        other => panic!("a removed node's vote request was answered with {other:?}"),
    }
    let error = ask(add(&cluster, 1)).await;
    assert_refused(error, &["which was node 2 of this cluster"]);
    report("refusals", "each with its reason; a removed node stays out");
}
