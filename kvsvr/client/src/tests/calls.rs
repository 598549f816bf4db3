//! Routing, retries, sessions and certainty, one scene each.

use kvsvr_proto::v1::ErrorCode;
use tokio::time::Duration;

use crate::{
    CallOptions, ClientConfig, Code, Partition, RangeOptions, ReadFrom, ReadMode,
    fake::{Fake, Fault, NODES, error, settle},
};

/// In shard 2 (slot 2353); bob too (2712); "b" below is in shard 1.
fn alice() -> Partition {
    Partition::local("alice")
}

fn in_shard_1() -> Partition {
    let p = (0u32..)
        .map(|n| Partition::local(n.to_string()))
        .find(|p| p.slot() < 2048);
    p.unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_go_to_their_shards_leader() {
    let fake = Fake::new();
    let client = fake.client();
    assert_eq!(client.put(&alice(), "k", "v").await.unwrap().version, 1);
    assert_eq!(client.put(&in_shard_1(), "k", "v").await.unwrap().version, 1);
    let read = client.get(&alice(), "k").await.unwrap();
    assert_eq!((read.revision, &read.value.unwrap().value[..]), (1, &b"v"[..]));
    assert_eq!(client.delete(&alice(), "k").await.unwrap().deleted, 1);
    assert_eq!(client.get(&alice(), "k").await.unwrap().value, None);
    let received = fake.cluster.lock().received.clone();
    let to: Vec<_> = received.iter().map(|(a, r)| (&a[..], r.shard, r.hops)).collect();
    let (one, two) = (("n1:1", 1, 1), ("n2:1", 2, 1));
    // A session is opened for each shard before its first write.
    assert_eq!(to, [two, two, one, one, two, two, two]);
    let sessions: Vec<_> = fake
        .commands()
        .iter()
        .map(|(_, c)| (c.session, c.seq, c.acked_below))
        .collect();
    assert_eq!(
        sessions,
        [(1, 1, 1), (1, 1, 1), (1, 2, 2)],
        "one session for each shard"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_followed_and_remembered() {
    let fake = Fake::new();
    let client = fake.client();
    fake.lead(2, 1);
    client.put(&alice(), "k", "1").await.unwrap();
    fake.cluster.lock().received.clear();
    client.put(&alice(), "k", "2").await.unwrap();
    let received = fake.cluster.lock().received.clone();
    assert_eq!(received.iter().map(|(a, _)| &a[..]).collect::<Vec<_>>(), ["n1:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_left_for_the_new_one() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "k", "1").await.unwrap();
    fake.kill("n2:1");
    fake.lead(2, 3);
    client.put(&alice(), "k", "2").await.unwrap();
    fake.cluster.lock().received.clear();
    client.put(&alice(), "k", "3").await.unwrap();
    let received = fake.cluster.lock().received.clone();
    assert_eq!(received.iter().map(|(a, _)| &a[..]).collect::<Vec<_>>(), ["n3:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_we_cannot_reach_is_reached_through_another_node() {
    let fake = Fake::new();
    let client = fake.client();
    fake.kill("n2:1"); // for this client; it still leads shard 2
    client.put(&alice(), "k", "1").await.unwrap();
    let (address, request) = fake.cluster.lock().received.last().cloned().unwrap();
    assert_eq!((&address[..], request.hops), ("n3:1", 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_with_the_same_number() {
    let fake = Fake::new();
    let client = fake.client();
    for fault in [Fault::BreakAfter, Fault::BreakBefore, Fault::Silence] {
        fake.fault(fault.clone());
        let value = client.increment(&alice(), "n", 1).await.unwrap().value;
        let commands = fake.commands();
        let [.., first, second] = &commands[..] else {
            panic!("{commands:?}")
        };
        assert_eq!(
            (first.1.session, first.1.seq),
            (second.1.session, second.1.seq),
            "{fault:?}"
        );
        let stored = fake.cluster.lock().shards[&2]
            .data
            .values()
            .next()
            .unwrap()
            .value
            .clone();
        assert_eq!(value.to_be_bytes(), stored[..], "{fault:?}");
    }
    assert_eq!(client.increment(&alice(), "n", 0).await.unwrap().value, 3);
}

#[tokio::test(start_paused = true)]
async fn without_a_session_a_lost_answer_is_unknown() {
    let fake = Fake::new();
    let client = fake.client_with(ClientConfig {
        sessions: false,
        ..ClientConfig::new(NODES)
    });
    for fault in [Fault::BreakAfter, Fault::BreakBefore] {
        fake.fault(fault.clone());
        let before = fake.commands().len();
        let error = client.increment(&alice(), "n", 1).await.unwrap_err();
        assert_eq!(
            (error.code, error.is_unknown()),
            (Code::Disconnected, true),
            "{fault:?}"
        );
        assert_eq!(fake.commands().len(), before + 1, "never sent twice");
    }
    fake.fault(Fault::Silence);
    let error = client.increment(&alice(), "n", 1).await.unwrap_err();
    assert_eq!((error.code, error.is_unknown()), (Code::Timeout, true));
    // What is known not to have happened is tried again.
    fake.fault(Fault::Answer(error_of(ErrorCode::NoLeader)));
    assert_eq!(
        client.increment(&alice(), "n", 1).await.unwrap().value,
        3,
        "applied: first, third and this"
    );
}

fn error_of(code: ErrorCode) -> kvsvr_proto::v1::Error {
    error(code)
}

#[tokio::test(start_paused = true)]
async fn an_expired_session_is_replaced() {
    let fake = Fake::new();
    let client = fake.client();
    client.increment(&alice(), "n", 1).await.unwrap();
    fake.cluster.lock().shards.get_mut(&2).unwrap().sessions.clear();
    assert_eq!(client.increment(&alice(), "n", 1).await.unwrap().value, 2);
    let sessions: Vec<_> = fake.commands().iter().map(|(_, c)| (c.session, c.seq)).collect();
    assert_eq!(sessions, [(1, 1), (1, 2), (2, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expires_after_an_unknown_try_leaves_the_outcome_unknown() {
    let fake = Fake::new();
    let client = fake.client();
    client.increment(&alice(), "n", 1).await.unwrap();
    fake.fault(Fault::Silence);
    let task = {
        let client = client.clone();
        tokio::spawn(async move { client.increment(&alice(), "n", 1).await })
    };
    // In virtual time: after the first try was applied and before the second is sent.
    tokio::time::sleep(Duration::from_millis(500)).await;
    fake.cluster.lock().shards.get_mut(&2).unwrap().sessions.clear();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(
        (error.code, error.is_unknown()),
        (Code::SessionExpired, true),
        "{error}"
    );
    assert_eq!(
        client.increment(&alice(), "n", 0).await.unwrap().value,
        2,
        "applied once"
    );
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_certainty_is_what_the_tries_allow() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "k", "v").await.unwrap();
    fake.lead(2, 0);
    let error = client.put(&alice(), "k", "v").await.unwrap_err();
    assert_eq!(
        (error.code, error.is_unknown()),
        (Code::NoLeader, false),
        "{error}"
    );
    fake.lead(2, 2);
    fake.fault(Fault::BreakAfter);
    for _ in 0..2000 {
        fake.fault(Fault::Answer(error_of(ErrorCode::NoLeader)));
    }
    let error = client.put(&alice(), "k", "v").await.unwrap_err();
    assert_eq!((error.code, error.is_unknown()), (Code::Timeout, true), "{error}");
    fake.cluster.lock().faults.clear();
    for node in NODES {
        fake.kill(node);
    }
    let start = tokio::time::Instant::now();
    let error = client
        .with_timeout(Duration::from_secs(2))
        .put(&alice(), "k", "v")
        .await
        .unwrap_err();
    assert_eq!(
        (error.code, error.is_unknown()),
        (Code::Unreachable, false),
        "{error}"
    );
    assert!(
        start.elapsed() <= Duration::from_millis(2200),
        "{:?}",
        start.elapsed()
    );
}

/// A node that names a leader which does not answer, as when the leader's process is stopped.
#[tokio::test(start_paused = true)]
async fn a_write_whose_session_could_not_be_opened_did_not_happen() {
    let fake = Fake::new();
    let client = fake.client().with_timeout(Duration::from_secs(3));
    let refusals = vec![Fault::Answer(error_of(ErrorCode::NotLeader)); 2000];
    let faults = || std::iter::once(Fault::Silence).chain(refusals.clone());
    fake.cluster.lock().open_faults.extend(faults());
    let error = client.put(&alice(), "k", "v").await.unwrap_err();
    assert_eq!(
        (error.code, error.is_unknown()),
        (Code::NoLeader, false),
        "{error}"
    );
    assert!(!error.message.contains("may have taken effect"), "{error}");
    assert!(fake.commands().is_empty(), "the write was not sent");
    // The same of the write itself.
    fake.cluster.lock().open_faults.clear();
    client.put(&alice(), "k", "v").await.unwrap();
    fake.cluster.lock().faults.extend(faults());
    let error = client.put(&alice(), "k", "v").await.unwrap_err();
    assert_eq!((error.code, error.is_unknown()), (Code::Timeout, true), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_unfit_session_outcome_is_final_even_after_an_unknown_try() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "text", "v").await.unwrap();
    fake.fault(Fault::BreakAfter);
    let error = client.increment(&alice(), "text", 1).await.unwrap_err();
    assert_eq!(
        (error.code, error.is_unknown()),
        (Code::WrongType, false),
        "the first try's own outcome"
    );
}

#[tokio::test(start_paused = true)]
async fn overload_waits_as_long_as_the_server_says() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "k", "v").await.unwrap();
    let overloaded = kvsvr_proto::v1::Error {
        retry_after_ms: 700,
        ..error_of(ErrorCode::Overloaded)
    };
    fake.fault(Fault::Answer(overloaded));
    let start = tokio::time::Instant::now();
    client.put(&alice(), "k", "v").await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(700));
}

/// What arrives while a write is tried again is acknowledged by its next try.
#[tokio::test(start_paused = true)]
async fn each_try_acknowledges_anew() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "k", "v").await.unwrap();
    for retry_after_ms in [100, 700] {
        fake.fault(Fault::Answer(kvsvr_proto::v1::Error {
            retry_after_ms,
            ..error_of(ErrorCode::Overloaded)
        }));
    }
    let alice = alice();
    let (first, second) = tokio::join!(client.put(&alice, "k", "v"), client.put(&alice, "k", "v"));
    assert_eq!((first.unwrap().version, second.unwrap().version), (2, 3));
    let sent: Vec<_> = fake
        .commands()
        .iter()
        .map(|(_, c)| (c.seq, c.acked_below))
        .collect();
    assert_eq!(sent, [(1, 1), (2, 2), (3, 2), (2, 2), (3, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_new_map_is_fetched_when_a_shard_says_so() {
    let fake = Fake::new();
    let client = fake.client();
    let p = in_shard_1();
    client.put(&p, "k", "v").await.unwrap();
    {
        let mut cluster = fake.cluster.lock();
        cluster.map.epoch = 2;
        // The shards change places.
        cluster.map.shards[1].first_slot = 2048;
        cluster.map.shards[1].last_slot = 4095;
        cluster.map.shards[2].first_slot = 0;
        cluster.map.shards[2].last_slot = 2047;
    }
    assert_eq!(
        client.put(&p, "k", "v").await.unwrap().version,
        1,
        "shard 2 has no such key"
    );
    assert_eq!(client.known_map().unwrap().epoch, 2);
}

#[tokio::test(start_paused = true)]
async fn a_newer_epoch_in_a_reply_makes_the_client_fetch_the_map() {
    let fake = Fake::new();
    let client = fake.client();
    client.get(&alice(), "k").await.unwrap();
    fake.cluster.lock().map.epoch = 5;
    client.get(&alice(), "k").await.unwrap();
    settle().await;
    assert_eq!(client.known_map().unwrap().epoch, 5);
}

#[tokio::test(start_paused = true)]
async fn reads_can_be_spread_over_replicas() {
    let fake = Fake::new();
    let client = fake.client();
    let spread = client.with_options(CallOptions {
        read_from: Some(ReadFrom::Any),
        timeout: None,
    });
    for _ in 0..6 {
        spread.get_with(&alice(), "k", ReadMode::Local).await.unwrap();
    }
    let received = fake.cluster.lock().received.clone();
    for node in NODES {
        assert_eq!(received.iter().filter(|(a, _)| a == node).count(), 2, "{node}");
    }
    let nearest = client.with_options(CallOptions {
        read_from: Some(ReadFrom::Nearest),
        timeout: None,
    });
    nearest.get_with(&alice(), "k", ReadMode::Local).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stale_replica_sends_a_read_on_to_the_others() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "k", "v").await.unwrap();
    let bounded = ReadMode::Bounded(Duration::from_millis(100));
    fake.cluster
        .lock()
        .read_errors
        .insert("n2:1", ErrorCode::TooStale);
    assert!(
        client
            .get_with(&alice(), "k", bounded)
            .await
            .unwrap()
            .value
            .is_some()
    );
    fake.cluster
        .lock()
        .read_errors
        .insert("n3:1", ErrorCode::TooStale);
    fake.cluster
        .lock()
        .read_errors
        .insert("n1:1", ErrorCode::TooStale);
    let start = tokio::time::Instant::now();
    let error = client.get_with(&alice(), "k", bounded).await.unwrap_err();
    assert_eq!((error.code, error.is_unknown()), (Code::TooStale, false));
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "refused, not waited for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_at_a_node_asks_no_other() {
    let fake = Fake::new();
    let client = fake.client().with_options(CallOptions {
        read_from: Some(ReadFrom::Node(2)),
        timeout: None,
    });
    let asked = || -> Vec<String> {
        let received = std::mem::take(&mut fake.cluster.lock().received);
        received.into_iter().map(|(address, _)| address).collect()
    };
    client.get_with(&alice(), "k", ReadMode::Local).await.unwrap();
    assert_eq!(asked(), ["n2:1"]);
    fake.cluster
        .lock()
        .read_errors
        .insert("n2:1", ErrorCode::TooStale);
    let bounded = ReadMode::Bounded(Duration::from_millis(100));
    let error = client.get_with(&alice(), "k", bounded).await.unwrap_err();
    assert_eq!((error.code, error.is_unknown()), (Code::TooStale, false));
    let asked = asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|address| address == "n2:1"),
        "{asked:?}"
    );
    // Of a node that is not known nothing can be read.
    let nowhere = client.with_options(CallOptions {
        read_from: Some(ReadFrom::Node(9)),
        timeout: None,
    });
    let error = nowhere
        .get_with(&alice(), "k", ReadMode::Local)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::NotReady);
}

#[tokio::test(start_paused = true)]
async fn pages_follow_their_continuation() {
    let fake = Fake::new();
    let client = fake.client();
    for i in 0..7 {
        client.put(&alice(), format!("k{i}"), "v").await.unwrap();
    }
    let all = client
        .range_all(&alice(), RangeOptions::prefix("k").limit(3))
        .await
        .unwrap();
    let keys: Vec<_> = all
        .value
        .iter()
        .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
        .collect();
    assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4", "k5", "k6"]);
    let mut pages = client.pages(&alice(), RangeOptions::prefix("k").limit(3));
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        sizes.push(page.value.kvs.len());
    }
    assert_eq!(sizes, [3, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn calls_for_a_leader_find_it() {
    let fake = Fake::new();
    let client = fake.client();
    fake.lead(1, 3);
    assert_eq!(client.transfer_leader(1, Some(2)).await.unwrap(), 2);
    let error = client.transfer_leader(9, None).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn another_clusters_map_is_refused() {
    let fake = Fake::new();
    let client = fake.client();
    client.get(&alice(), "k").await.unwrap();
    fake.cluster.lock().map.cluster_id = "other".to_owned();
    let error = client.shard_map().await.unwrap_err();
    assert_eq!(error.code, Code::Refused, "{error}");
}
