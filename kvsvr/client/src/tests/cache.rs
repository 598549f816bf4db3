//! The near-cache is never older than it says.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    CachedGet, NearCacheOptions, Partition,
    fake::{Fake, NODES},
};

fn alice() -> Partition {
    Partition::local("alice")
}

fn options() -> NearCacheOptions {
    NearCacheOptions::new(alice()).max_age(Duration::from_millis(500))
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn hits_come_from_memory_and_follow_the_watch() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "k", "1").await.unwrap();
    let cache = client.near_cache(options()).await.unwrap();
    assert!(!cache.get("k").await.unwrap().hit);
    sleep(Duration::from_millis(30)).await;
    let hit = cache.get("k").await.unwrap();
    assert!(hit.hit);
    assert!(!cache.get("none").await.unwrap().hit);
    assert!(
        cache.get("none").await.unwrap().hit,
        "that there is no such key is known, too"
    );
    let put = client.put(&alice(), "k", "2").await.unwrap();
    let own = CachedGet {
        at_least: put.revision,
        max_age: None,
    };
    let read = cache.get_with("k", own).await.unwrap();
    assert_eq!(read.value.unwrap().value, "2", "one's own write");
    sleep(Duration::from_millis(300)).await;
    let read = cache.get("k").await.unwrap();
    assert_eq!((read.hit, &read.value.unwrap().value[..]), (true, &b"2"[..]));
    client.delete(&alice(), "k").await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let read = cache.get("k").await.unwrap();
    assert_eq!((read.hit, read.value), (true, None));
    let stats = cache.stats();
    assert!(stats.hits >= 4, "{stats:?}");
    assert_eq!(stats.entries, 2);
}

/// A writer, a slow and breaking watch, slow reads, dying nodes: each answer shows every write that was acknowledged longer ago than
/// the age it claims.
#[tokio::test(start_paused = true)]
async fn no_answer_is_older_than_it_says() {
    for seed in 0..4u64 {
        let fake = Fake::new();
        {
            let mut cluster = fake.cluster.lock();
            cluster.watch_delay = Duration::from_millis(7 + 13 * seed);
            cluster.watch_breaks_after = 9;
            cluster.read_delay = Duration::from_millis(1 + 4 * seed);
        }
        let acked: Arc<Mutex<Vec<(Instant, u64)>>> = Arc::default();
        let writer = {
            let (fake, acked) = (fake.clone(), acked.clone());
            tokio::spawn(async move {
                let client = fake.client();
                for n in 1..=200u64 {
                    client.put(&alice(), "k", n.to_string()).await.unwrap();
                    acked.lock().push((Instant::now(), n));
                    sleep(Duration::from_millis(n * 37 % 41)).await;
                }
            })
        };
        let options = NearCacheOptions::new(alice()).max_age(Duration::from_millis(150));
        let cache = fake.client().near_cache(options).await.unwrap();
        let mut hits = 0;
        let mut round = 0u64;
        while !writer.is_finished() {
            round += 1;
            let began = Instant::now();
            let read = cache.get("k").await.unwrap();
            assert!(read.age <= Duration::from_millis(150));
            let seen = read.value.map_or(0, |kv| number(&kv.value));
            let must = acked
                .lock()
                .iter()
                .filter(|(at, _)| *at + read.age < began)
                .map(|(_, n)| *n)
                .max();
            assert!(
                seen >= must.unwrap_or(0),
                "saw {seen}, must see {must:?}, age {:?}",
                read.age
            );
            hits += u32::from(read.hit);
            sleep(Duration::from_millis(round % 5)).await;
            match round % 97 {
                11 => fake.break_streams(),
                40 => fake.kill(NODES[2]),
                60 => fake.restart(NODES[2]),
                _ => {}
            }
        }
        assert!(hits > 20, "{hits} hits in {round} reads");
        writer.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_cluster_hits_end_at_the_bound() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "k", "1").await.unwrap();
    let cache = client.near_cache(options()).await.unwrap();
    cache.get("k").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    for node in NODES {
        fake.kill(node);
    }
    let last_confirmed = Instant::now() - cache.stats().age.unwrap();
    let mut hits = 0;
    while let Ok(read) = cache.get("k").await {
        assert!(read.hit);
        assert!(read.age <= Duration::from_millis(500));
        hits += 1;
        sleep(Duration::from_millis(50)).await;
    }
    assert!(hits > 3, "{hits}");
    assert!(last_confirmed.elapsed() > Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn compaction_empties_the_cache() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "k", "1").await.unwrap();
    let cache = client.near_cache(options()).await.unwrap();
    cache.get("k").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    {
        let mut cluster = fake.cluster.lock();
        cluster.breaks += 1;
        let shard = cluster.shards.get_mut(&2).unwrap();
        shard.put(alice().to_proto(), "k".into(), "2".into());
        shard.floor = shard.revision;
    }
    fake.wake();
    sleep(Duration::from_millis(700)).await;
    assert_eq!(cache.stats().entries, 0);
    assert_eq!(cache.get("k").await.unwrap().value.unwrap().value, "2");
    sleep(Duration::from_millis(100)).await;
    assert!(cache.get("k").await.unwrap().hit, "and goes on");
}
