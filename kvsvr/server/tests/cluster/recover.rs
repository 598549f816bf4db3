//! Majorities that are lost for good: `kvsvr recover`, and the way back to a whole cluster.

use std::{fs, path::PathBuf, time::Duration};

use kvsvr_client::{
    Client, ClientConfig, Code, Partition,
    proto::{self as pb, ReplaceMember, change_members_request::Change},
};

use crate::{
    harness::{Cluster, PATIENCE, eventually, report, run, size},
    load::Load,
    members::operate,
};

/// What the recovery itself writes is of terms from here on.
const RECOVERY_TERMS: u64 = 1_000_000;

/// Nothing here is about time: no leader is to change because the machine is busy.
const SETTINGS: &[&str] = &["raft.timing=slow"];

fn data(cluster: &Cluster, i: usize) -> String {
    cluster.nodes[i].data.display().to_string()
}

fn file(cluster: &Cluster, name: &str) -> String {
    cluster.dir.path().join(name).display().to_string()
}

/// Runs the binary, and shows what it says.
#[track_caller]
fn ran(arguments: &[&str], exit: i32, parts: &[&str]) -> String {
    let (code, text) = run(arguments);
    println!("$ kvsvr {}\n{text}", arguments.join(" "));
    assert_eq!(code, exit, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    text
}

/// Collects from these nodes and plans. Returns the plan's file.
fn planned(cluster: &Cluster, survivors: &[usize], parts: &[&str]) -> String {
    let mut files = Vec::new();
    for i in survivors {
        let collected = file(cluster, &format!("n{}.json", i + 1));
        let said = format!("node {} of cluster test", i + 1);
        ran(
            &[
                "recover",
                "collect",
                "--data",
                &data(cluster, *i),
                "-o",
                &collected,
            ],
            0,
            &[&said],
        );
        files.push(collected);
    }
    let plan = file(cluster, "plan.json");
    let files = files.iter().map(String::as_str);
    let arguments: Vec<&str> = ["recover", "plan", "-o", &plan]
        .into_iter()
        .chain(files)
        .collect();
    ran(&arguments, 0, parts);
    plan
}

fn apply(cluster: &Cluster, i: usize, plan: &str) {
    let data = data(cluster, i);
    let arguments = ["recover", "apply", "--data", &data, plan, "--confirm", "test"];
    ran(&arguments, 0, &[": done. Start it"]);
    ran(&arguments, 0, &["all is done already"]);
}

/// Waits until the shard map has these voters, and nothing else, of these data shards.
async fn rows_follow(client: &Client, wanted: &[(u32, &[u64])]) {
    eventually("the shard map follows", PATIENCE, async || {
        let map = client.shard_map().await.ok()?;
        let is = |id: u32, voters: &[u64]| {
            map.shards.iter().any(|shard: &pb::ShardInfo| {
                let mut replicas = shard.replicas.clone();
                replicas.sort_unstable();
                shard.id == id
                    && replicas == voters
                    && (id == 0 || shard.learners.is_empty())
                    && shard.change.is_none()
            })
        };
        wanted.iter().all(|(id, voters)| is(*id, voters)).then_some(())
    })
    .await;
}

/// A new node takes the place of one that is lost.
async fn replace(cluster: &mut Cluster, client: &Client, old: u64) {
    let new = cluster.start_newcomer().await;
    let address = cluster.nodes[new].address.clone();
    operate(client, Change::Replace(ReplaceMember { old, address })).await;
}

/// Each data shard has three voters and every replica holds the same.
async fn assert_whole(cluster: &Cluster, client: &Client, shards: u32) {
    let map = client.shard_map().await.unwrap();
    for shard in map.shards.iter().filter(|shard| shard.id > 0) {
        assert_eq!(
            (shard.replicas.len(), &shard.learners[..]),
            (3, &[][..]),
            "{shard:?}"
        );
    }
    for shard in 0..=shards {
        let hosts = map.shards.iter().find(|s| s.id == shard).unwrap();
        let hosts = hosts.replicas.iter().chain(&hosts.learners);
        let hosts: Vec<usize> = hosts
            .map(|id| usize::try_from(*id).unwrap() - 1)
            .filter(|i| cluster.running(*i))
            .collect();
        eventually("replicas at one index", PATIENCE, async || {
            let mut found = Vec::new();
            for i in &hosts {
                let admin = client.with_timeout(PATIENCE);
                found.push(admin.state_hash(&cluster.nodes[*i].address, shard).await.ok()?);
            }
            let first = found[0].applied_index;
            let level = found.iter().all(|hash| hash.applied_index == first);
            level.then(|| assert!(found.iter().all(|hash| hash.hash == found[0].hash), "{found:?}"))
        })
        .await;
    }
}

/// Two of three nodes are lost with their disks. What was acknowledged and had reached the third is there again, and two new nodes take their places.
#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_nodes_is_left() {
    let mut cluster = Cluster::start(3, 2, SETTINGS).await;
    let client = cluster.client().await;
    let mut load = Load::start(std::slice::from_ref(&client), size(4, 24), 1, 256);
    load.wait_acknowledged(size(100, 20_000)).await;
    load.stop().await;
    for shard in 0..=2 {
        cluster.assert_equal_states(shard).await;
    }
    let survivor = cluster.leader(1).await;
    let lost: Vec<usize> = (0..3).filter(|i| *i != survivor).collect();
    cluster.kill(&lost);
    for i in &lost {
        fs::remove_dir_all(&cluster.nodes[*i].data).unwrap();
    }
    let address = cluster.nodes[survivor].address.clone();
    let alone = Client::new(ClientConfig::new([address.clone()])).unwrap();
    let aside = Partition::local("aside");
    let short = alone.with_timeout(Duration::from_secs(2));
    let error = eventually("the survivor refuses writes", PATIENCE, async || {
        let error = short.put(&aside, "k", "refused").await.err()?;
        matches!(
            error.code,
            Code::NoLeader | Code::NotLeader | Code::Unreachable | Code::Timeout
        )
        .then_some(error)
    })
    .await;
    println!("refused: {error}");

    // Nothing is done to a node that runs.
    let directory = data(&cluster, survivor);
    let output = file(&cluster, "running.json");
    ran(
        &["recover", "collect", "--data", &directory, "-o", &output],
        3,
        &["in use by another process"],
    );
    cluster.kill(&[survivor]);
    let only = format!("survivors: nodes {}", survivor + 1);
    let plan = planned(
        &cluster,
        &[survivor],
        &[&only, "no majority", "writes that were acknowledged may be lost"],
    );
    let unconfirmed = ["recover", "apply", "--data", &directory, &plan];
    ran(&unconfirmed, 2, &["becomes its only voter", "NOT_CONFIRMED"]);
    ran(
        &[
            "recover",
            "apply",
            "--data",
            &directory,
            &plan,
            "--confirm",
            "tset",
        ],
        2,
        &["NOT_CONFIRMED"],
    );
    apply(&cluster, survivor, &plan);
    ran(&["check", "--data", &directory], 0, &["\nok"]);

    cluster.start_node(survivor);
    eventually("writes are taken again", PATIENCE, async || {
        alone
            .with_timeout(Duration::from_secs(2))
            .put(&aside, "after", "v")
            .await
            .ok()
    })
    .await;
    let me = survivor as u64 + 1;
    rows_follow(&alone, &[(0, &[me]), (1, &[me]), (2, &[me])]).await;
    let acknowledged = load.verify(&alone).await;
    assert!(cluster.replica(survivor, 1).await.unwrap().term > RECOVERY_TERMS);
    let members = alone.members().await.unwrap();
    assert!(
        members.operations.is_empty(),
        "nothing begins by itself: {members:?}"
    );

    for i in &lost {
        replace(&mut cluster, &alone, *i as u64 + 1).await;
    }
    assert_whole(&cluster, &alone, 2).await;
    let all = cluster
        .client_of(&cluster.addresses(), kvsvr_client::ReadFrom::Leader)
        .await;
    for i in 0..32 {
        let place = Partition::local(format!("again-{i}"));
        all.put(&place, "k", "v").await.unwrap();
        assert_eq!(all.get(&place, "k").await.unwrap().value.unwrap().value, "v");
    }
    load.verify(&all).await;
    assert_whole(&cluster, &all, 2).await;
    report(
        "recover-one-of-three",
        format!("{acknowledged} writes acknowledged before the loss, none lost"),
    );
}

/// Two of five nodes are left: of some shards a majority, of others one replica, each of them chosen somewhere; the meta shard is begun anew on one of
/// them. A lost node that comes back with its old files changes nothing.
#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_five_nodes_are_left() {
    // Replicas on 1 2 3, 2 3 4, 3 4 5, 4 5 1.
    let mut cluster = Cluster::start_replicated(5, 4, 3, SETTINGS).await;
    let client = cluster.client().await;
    let mut load = Load::start(std::slice::from_ref(&client), 8, 1, 128);
    load.wait_acknowledged(100).await;
    load.stop().await;
    // All members have all, so the two that are left do, too.
    assert_whole(&cluster, &client, 4).await;
    let left = [1, 3];
    let gone = [0, 2, 4];
    cluster.kill(&gone);
    cluster.kill(&left);
    let plan = planned(
        &cluster,
        &left,
        &["keeps its majority, untouched", "survivors: nodes 2, 4"],
    );
    // Without one of them the other has nothing of a shard.
    let alone: PathBuf = file(&cluster, "n2.json").into();
    ran(
        &["recover", "plan", alone.to_str().unwrap()],
        1,
        &["NO_SURVIVOR: of shard 3, 4 "],
    );
    let twice = alone.to_str().unwrap();
    ran(&["recover", "plan", twice, twice], 2, &["SAME_NODE: node 2"]);
    for i in left {
        apply(&cluster, i, &plan);
    }
    for i in left {
        cluster.start_node(i);
    }
    let addresses: Vec<String> = left.iter().map(|i| cluster.nodes[*i].address.clone()).collect();
    let client = Client::new(ClientConfig::new(addresses))
        .unwrap()
        .with_timeout(PATIENCE);
    rows_follow(&client, &[(1, &[2]), (2, &[2, 3, 4]), (3, &[4]), (4, &[4])]).await;
    load.verify(&client).await;

    // A lost node is there after all.
    let aside = Partition::local("aside");
    cluster.start_node(0);
    eventually(
        "the node that came back gives up what it had",
        PATIENCE,
        async || {
            let status = cluster.status(0).await?;
            let data = status.replicas.iter().filter(|replica| replica.shard != 0);
            // Who asks the new group for votes hears of its term, and is not in it for that.
            let mut inside = data.clone().filter(|replica| replica.term > RECOVERY_TERMS);
            assert!(inside.all(|replica| replica.leader == 0), "{status:?}");
            let meta = status.replicas.iter().find(|replica| replica.shard == 0)?;
            let told = meta.term > RECOVERY_TERMS && meta.role == "learner";
            (told && data.count() == 0).then_some(())
        },
    )
    .await;
    let write = client.put(&aside, "meanwhile", "v").await;
    write.unwrap();
    for i in [1, 3] {
        assert!(cluster.replica(i, 0).await.unwrap().term > RECOVERY_TERMS);
    }
    cluster.kill(&[0]);

    for old in [1, 3, 5] {
        replace(&mut cluster, &client, old).await;
    }
    assert_whole(&cluster, &client, 4).await;
    load.verify(&client).await;
    // Now it was removed.
    cluster.start_node(0);
    eventually("the removed node leads nothing", PATIENCE, async || {
        let status = cluster.status(0).await?;
        assert!(
            status.replicas.iter().all(|replica| replica.role != "leader"),
            "{status:?}"
        );
        // It votes in no shard, so it asks nobody and nobody tells it more.
        let says = !status.messages.is_empty();
        says.then(|| println!("the removed node says: {:#?}", status.messages))
    })
    .await;
    load.verify(&client).await;
    report("recover-two-of-five", "all acknowledged writes are there");
}
