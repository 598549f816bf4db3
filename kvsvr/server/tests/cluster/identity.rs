//! Nodes that are not who their peers think, and starts that must fail.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Output, Stdio},
    time::Duration,
};

use kvsvr_client::{Client, ClientConfig, Code, ReadFrom, ReadMode, proto};

use crate::{
    harness::{Cluster, PATIENCE, eventually, report},
    load::partition,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_refused() {
    let mut cluster = Cluster::start(3, 1, &[]).await;
    let client = cluster.client().await;
    let place = partition(0);
    client.put(&place, "k", "before").await.unwrap();
    cluster.kill(&[2]);
    fs::remove_dir_all(&cluster.nodes[2].data).unwrap();
    cluster.start_node(2);
    let wanted = "kvctl member replace";
    let messages = eventually("the wiped node says what is wrong", PATIENCE, async || {
        let (code, body) = cluster.nodes[2].get("/status")?;
        (code == 200 && body.contains(wanted)).then_some(body)
    })
    .await;
    assert!(messages.contains("its disk was lost or replaced"), "{messages}");
    assert!(cluster.nodes[2].logged(&["ERROR", "refusing a peer's messages", wanted]));
    assert!(cluster.nodes[2].logged(&["INFO", "starting", "version=", "store=", "advertise="]));
    assert_eq!(cluster.nodes[2].get("/readyz").unwrap().0, 503);
    // It serves nothing, and says why.
    let alone = ClientConfig::new([cluster.nodes[2].address.clone()]);
    let error = Client::connect(alone).await.unwrap_err();
    assert_eq!(
        (error.code, error.is_unknown()),
        (Code::NotReady, false),
        "{error}"
    );
    assert!(error.message.contains("its disk was lost or replaced"), "{error}");
    // The others go on.
    client.put(&place, "k", "without it").await.unwrap();
    // It does not vote: with it alone there is no majority.
    cluster.kill(&[0]);
    let short = client.with_timeout(Duration::from_secs(4));
    let error = short.put(&place, "k", "without a majority").await.unwrap_err();
    assert_eq!(
        cluster.status(2).await.unwrap().replicas,
        [],
        "the wiped node has replicas"
    );
    eventually(
        "the survivor says that there is no leader",
        PATIENCE,
        async || {
            let messages = cluster.status(1).await?.messages;
            messages.iter().any(|m| m.contains("has no leader")).then_some(())
        },
    )
    .await;
    cluster.start_node(0);
    eventually("the majority is back", PATIENCE, async || {
        client.put(&place, "k", "again").await.ok()
    })
    .await;
    report(
        "wiped-node",
        format!("refused, never voted; with one other node a write fails with: {error}"),
    );
}

/// A majority has lost its disks. A new cluster of the same addresses would merge its history into what the survivor has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_is_not_taken_into_a_new_cluster() {
    let mut cluster = Cluster::start(3, 1, &[]).await;
    let client = cluster.client().await;
    let place = partition(0);
    client.put(&place, "k", "old").await.unwrap();
    cluster.wait_caught_up(2).await;
    cluster.kill(&[0, 1]);
    for i in [0, 1] {
        fs::remove_dir_all(&cluster.nodes[i].data).unwrap();
        cluster.start_node(i);
        eventually("the node answers", PATIENCE, async || cluster.status(i).await).await;
    }
    let request = proto::BootstrapRequest {
        addresses: cluster.addresses(),
        shards: 1,
        replication: 3,
        cluster_name: "again".into(),
    };
    let config = ClientConfig::new([cluster.nodes[0].address.clone()]);
    let admin = Client::new(config).unwrap();
    let error = admin.bootstrap(request).await.unwrap_err();
    assert_eq!(
        (error.code, error.is_unknown()),
        (Code::Refused, false),
        "{error}"
    );
    // Who says so is chance: the asked node, if the survivor's messages have come to it already; else the survivor.
    let reasons = ["exists already", "its disk was lost or replaced"];
    assert!(reasons.iter().any(|r| error.message.contains(r)), "{error}");
    for i in [0, 1] {
        let status = cluster.status(i).await.unwrap();
        assert_eq!(
            (status.cluster_id.as_str(), status.node_id),
            ("", 0),
            "it has joined"
        );
    }
    // What the survivor has can still be read.
    let local = kvsvr_client::GetOptions {
        mode: ReadMode::Local,
        revision: 0,
    };
    let survivor = cluster
        .client_of(&[cluster.nodes[2].address.clone()], ReadFrom::Any)
        .await;
    let read = eventually("the survivor answers", PATIENCE, async || {
        survivor.get_with(&place, "k", local).await.ok()
    })
    .await;
    assert_eq!(read.value.unwrap().value, "old");
}

/// Runs a node that must end by itself.
fn failing_start(cluster: &Cluster, i: usize) -> (i32, String) {
    let mut command = cluster.command(i);
    let Output { status, stderr, .. } = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    (
        status.code().expect("it was not killed"),
        String::from_utf8_lossy(&stderr).into_owned(),
    )
}

fn assert_refused(what: &str, (code, text): (i32, String), wanted_code: i32, wanted: &[&str]) {
    assert_eq!(code, wanted_code, "{what}: {text}");
    for part in wanted {
        assert!(text.contains(part), "{what}: the message lacks {part:?}: {text}");
    }
    assert!(!text.contains("panicked"), "{what}: {text}");
}

#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_starts_end_with_a_code_and_a_message() {
    let mut cluster = Cluster::create(2, &[]);
    let taken = TcpListener::bind(&cluster.nodes[0].address).unwrap();
    let address = cluster.nodes[0].address.clone();
    assert_refused(
        "port in use",
        failing_start(&cluster, 0),
        4,
        &["PORT_IN_USE", "is taken by another process", &address],
    );
    drop(taken);
    let taken = TcpListener::bind(&cluster.nodes[0].http).unwrap();
    let address = cluster.nodes[0].http.clone();
    assert_refused(
        "HTTP port in use",
        failing_start(&cluster, 0),
        4,
        &["PORT_IN_USE", "is taken by another process", &address],
    );
    drop(taken);

    let foreign = cluster.nodes[1].data.clone();
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("photo.jpg"), "x").unwrap();
    assert_refused(
        "foreign directory",
        failing_start(&cluster, 1),
        3,
        &["photo.jpg", "--data"],
    );
    assert_eq!(
        fs::read_dir(&foreign)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name() != "LOCK")
            .count(),
        1
    );

    cluster.start_node(0);
    eventually("the node answers", PATIENCE, async || cluster.status(0).await).await;
    let own = cluster.nodes[1].data.clone();
    cluster.nodes[1].data = cluster.nodes[0].data.clone();
    assert_refused(
        "locked directory",
        failing_start(&cluster, 1),
        3,
        &["in use by another process"],
    );
    cluster.nodes[1].data = own.join("photo.jpg");
    assert_refused(
        "a file as directory",
        failing_start(&cluster, 1),
        3,
        &["cannot use the data directory", "photo.jpg"],
    );

    let locked = cluster.dir.path().join("read-only");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere; /proc takes no directories from anybody.
    let unwritable = if fs::write(locked.join("probe"), "x").is_ok() {
        "/proc/kvsvr".into()
    } else {
        locked.join("data")
    };
    cluster.nodes[1].data = unwritable;
    assert_refused(
        "unwritable directory",
        failing_start(&cluster, 1),
        3,
        &["cannot use the data directory"],
    );

    cluster.set("wal.segmnt=1");
    assert_refused(
        "unknown setting",
        failing_start(&cluster, 1),
        2,
        &["did you mean wal.segment?"],
    );
    report("bad-starts", "each ended with its exit code and a message");
}
