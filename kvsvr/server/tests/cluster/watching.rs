//! Watches over many events, through kills of the nodes that serve them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kvsvr_client::{
    Client, Code, ConsumerStart, Event, ReadFrom, Watch, WatchItem, WatchOptions, WatchStart,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    failover::clients,
    harness::{Cluster, PATIENCE, eventually, report, size},
    load::partition,
};

const SHARD: u32 = 1;
const LANES: usize = 128;
/// Of the slow reader, after each batch.
const SLOW_PAUSE: Duration = Duration::from_millis(5);

/// What a watch delivered of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    revision: u64,
    lane: u32,
    n: u64,
}

fn seen(event: &Event) -> Seen {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_owned();
    let lane = text(&event.partition.name)
        .strip_prefix("lane-")
        .unwrap()
        .parse()
        .unwrap();
    Seen {
        revision: event.revision(),
        lane,
        n: text(&event.kv.value).parse().unwrap(),
    }
}

/// Revisions of the acknowledged writes, by lane and n.
type Acknowledged = BTreeMap<(u32, u64), u64>;

/// Writes at least `count` times, and until `over` is set: whoever is quick must not be done before the last node is killed.
async fn write(
    client: Client,
    lane: u32,
    count: u64,
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> Acknowledged {
    let place = partition(lane as usize);
    let mut acknowledged = Acknowledged::new();
    for n in (1..).take_while(|n| *n <= count || !over.load(Ordering::Relaxed)) {
        if let Ok(reply) = client.put(&place, "k", n.to_string()).await {
            acknowledged.insert((lane, n), reply.revision);
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

/// Reads a watch until it has delivered everything up to the revision in `end`, once that is set.
async fn follow(mut watch: Watch, end: Arc<AtomicU64>, pause: Option<Duration>) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        let end = end.load(Ordering::Acquire);
        if end > 0 && watch.revision().is_some_and(|at| at >= end) {
            return all;
        }
        match timeout(Duration::from_millis(500), watch.next()).await {
            Ok(Ok(WatchItem::Events(batch))) => all.extend(batch.events.iter().map(seen)),
            Ok(Ok(WatchItem::Progress { .. })) | Err(_) => {}
            Ok(other) => panic!("the watch broke: {other:?}"),
        }
        if let Some(pause) = pause.filter(|_| end == 0) {
            // A slow reader is what is tested; it hurries when all is written.
            sleep(pause).await;
        }
    }
}

fn check(name: &str, events: &[Seen], acknowledged: &Acknowledged) {
    let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
    for pair in events.windows(2) {
        assert!(
            pair[0].revision < pair[1].revision,
            "{name}: out of order or twice: {pair:?}"
        );
    }
    for event in events {
        let last = newest.insert(event.lane, event.n).unwrap_or(0);
        assert!(last < event.n, "{name}: {event:?} after {last}");
    }
    let found: BTreeMap<(u32, u64), u64> = events.iter().map(|e| ((e.lane, e.n), e.revision)).collect();
    for (write, revision) in acknowledged {
        assert_eq!(found.get(write), Some(revision), "{name}: lane and n {write:?}");
    }
}

#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_have_no_gap_and_no_duplicate() {
    // A small ring: the slow reader must be served from the engine.
    let mut cluster = Cluster::start(3, 1, &["memory.watch_ring=1MiB", "history.revisions=5000000"]).await;
    let clients = clients(&cluster, 8).await;
    let total = size(20_000u64, 1_000_000);
    let (done, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let watchers = [
        ("leader", ReadFrom::Leader, None),
        ("any", ReadFrom::Any, None),
        ("slow", ReadFrom::Any, Some(SLOW_PAUSE)),
        ("slow at the leader", ReadFrom::Leader, Some(SLOW_PAUSE)),
    ];
    let mut following = Vec::new();
    for (name, from, pause) in watchers {
        let options = WatchOptions::shard(SHARD)
            .start(WatchStart::After(0))
            .read_from(from);
        let watch = cluster.client().await.watch(options).await.unwrap();
        following.push((name, tokio::spawn(follow(watch, end.clone(), pause))));
    }
    let begun = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..LANES)
        .map(|lane| {
            let client = clients[lane % clients.len()].with_timeout(PATIENCE);
            let count = total / LANES as u64;
            tokio::spawn(write(client, lane as u32, count, done.clone(), over.clone()))
        })
        .collect();
    // Every node is killed once, so every watch loses the node that serves it; the leader first.
    let first = cluster.leader(SHARD).await;
    for step in 0..3 {
        eventually("events", PATIENCE * 10, async || {
            (done.load(Ordering::Relaxed) >= total * (step + 1) / 5).then_some(())
        })
        .await;
        let victim = (first + step as usize) % 3;
        cluster.kill(&[victim]);
        let before = done.load(Ordering::Relaxed);
        eventually("events go on", PATIENCE, async || {
            (done.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
        cluster.start_node(victim);
        cluster.wait_node_ready(victim).await;
        cluster.wait_caught_up(victim).await;
    }
    over.store(true, Ordering::Relaxed);
    let mut acknowledged = Acknowledged::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let took = begun.elapsed();
    let last = clients[0]
        .put(&partition(0), "k", u64::MAX.to_string())
        .await
        .unwrap()
        .revision;
    end.store(last, Ordering::Release);
    let mut sequences = Vec::new();
    for (name, task) in following {
        let events = timeout(PATIENCE * 5, task)
            .await
            .expect("the watch reaches the end")
            .unwrap();
        check(name, &events, &acknowledged);
        sequences.push(events);
    }
    assert!(
        sequences.iter().all(|s| *s == sequences[0]),
        "two watches saw different sequences"
    );
    let resumed = compacted(&cluster, &clients[0], last, &sequences[0]).await;
    report(
        "watch",
        format!(
            "{} events to each of {} watches in {:.1} s, 3 nodes killed: no gap, no duplicate, in order; after a compaction: Compacted, resumed at {resumed}",
            sequences[0].len(),
            sequences.len(),
            took.as_secs_f64()
        ),
    );
}

/// What was compacted away is said to be so, and the watch goes on where history begins.
async fn compacted(cluster: &Cluster, client: &Client, last: u64, all: &[Seen]) -> u64 {
    const KEEP: u64 = 100;
    let done = client.compact(Some(SHARD), KEEP, false).await.unwrap();
    assert!(done.errors.is_empty(), "{:?}", done.errors);
    let mut resumed_at = 0;
    for from in [ReadFrom::Leader, ReadFrom::Any, ReadFrom::Any] {
        let options = WatchOptions::shard(SHARD)
            .start(WatchStart::After(1))
            .read_from(from);
        let mut watch = cluster.client().await.watch(options).await.unwrap();
        let first = timeout(PATIENCE, async {
            // A follower may hear of the compaction later; until then it serves what it has.
            loop {
                match watch.next().await.unwrap() {
                    WatchItem::Compacted { resume_from } => return Some(resume_from),
                    _ if watch.revision() >= Some(last) => return None,
                    _ => {}
                }
            }
        });
        let Some(resume_from) = first.await.expect("an answer") else {
            continue;
        };
        assert!(
            resume_from + KEEP >= last && resume_from <= last + 1,
            "{resume_from} of {last}"
        );
        watch.resume_from(resume_from);
        let rest = timeout(PATIENCE, follow(watch, Arc::new(AtomicU64::new(last)), None))
            .await
            .unwrap();
        let expected: Vec<Seen> = all
            .iter()
            .filter(|e| e.revision >= resume_from)
            .copied()
            .collect();
        assert_eq!(rest, expected);
        resumed_at = resume_from;
    }
    assert!(resumed_at > 0, "no watch was told that its events are compacted");
    resumed_at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_cut_off_is_told_and_so_is_the_operator() {
    let settings = ["history.revisions=100", "history.consumer_lag=256KiB"];
    let cluster = Cluster::start(3, 1, &settings).await;
    let client = cluster.client().await;
    let open = || client.consumer_open(SHARD, "mailer", ConsumerStart::Now);
    drop(open().await.unwrap());
    let value = vec![7; 4096];
    for i in 0..1200 {
        client.put(&partition(i), "k", value.clone()).await.unwrap();
    }
    let leader = cluster.leader(SHARD).await;
    let complains = async || {
        let status = cluster.status(leader).await?;
        let about = |message: &String| message.contains("\"mailer\"") && message.contains("has lost events");
        status.messages.into_iter().find(about)
    };
    eventually(
        "the leader says that the consumer is cut off",
        PATIENCE,
        complains,
    )
    .await;
    // It still serves.
    let (code, _) = cluster.nodes[leader].get("/readyz").unwrap();
    assert_eq!(code, 200);
    let lost = match open().await {
        Ok(mut consumer) => timeout(PATIENCE, consumer.next()).await.unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert_eq!((lost.code, lost.is_unknown()), (Code::Compacted, false));
    client
        .consumer_reset(SHARD, "mailer", lost.revision)
        .await
        .unwrap();
    let mut consumer = open().await.unwrap();
    assert_eq!(consumer.cursor(), lost.revision);
    let batch = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
    assert_eq!(batch.events[0].revision(), lost.revision + 1);
    cluster.wait_ready().await;
}

/// Compaction by hand stops at a consumer, unless it is told to pass them; one that it has passed holds nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_by_hand_stops_at_consumers() {
    let cluster = Cluster::start(1, 1, &[]).await;
    let client = cluster.client().await;
    let fill = async || {
        for i in 0..10 {
            client.put(&partition(i), "k", "v").await.unwrap();
        }
    };
    let compact = async |past_consumers| {
        let done = client.compact(Some(SHARD), 0, past_consumers).await.unwrap();
        assert!(done.errors.is_empty(), "{:?}", done.errors);
        done.floors[&SHARD]
    };
    fill().await;
    let consumer = client
        .consumer_open(SHARD, "mailer", ConsumerStart::Now)
        .await
        .unwrap();
    assert_eq!(consumer.cursor(), 10);
    fill().await;
    assert_eq!(compact(false).await, 10);
    assert_eq!(compact(true).await, 20);
    fill().await;
    assert_eq!(compact(false).await, 30, "it was cut off before");
}
