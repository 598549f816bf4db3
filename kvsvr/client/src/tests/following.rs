//! Watches and consumers: order, no gap, no duplicate.

use tokio::time::{Duration, sleep, timeout};

use crate::{
    Code, ConsumerStart, EventKind, Partition, Watch, WatchItem, WatchOptions, WatchStart,
    fake::{Fake, NODES},
};

const EVENTS: u64 = 120;

fn alice() -> Partition {
    Partition::local("alice")
}

/// Writes events 1..=EVENTS with a little time between.
async fn write(fake: Fake) {
    let client = fake.client();
    for i in 1..=EVENTS {
        client
            .put(&alice(), format!("k{}", i % 7), i.to_string())
            .await
            .unwrap();
        sleep(Duration::from_millis(3)).await;
    }
}

async fn revisions(watch: &mut Watch) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&EVENTS) {
        match watch.next().await.unwrap() {
            WatchItem::Events(batch) => {
                assert!(batch.events.iter().all(|e| e.revision() <= batch.revision));
                seen.extend(batch.events.iter().map(|e| e.revision()));
            }
            other => panic!("{other:?}"),
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_watch_survives_breaks_repeats_kills_and_changes_of_leader() {
    let fake = Fake::new();
    fake.cluster.lock().watch_breaks_after = 5;
    fake.cluster.lock().watch_repeats = 3;
    let mut watch = fake.client().watch(WatchOptions::shard(2)).await.unwrap();
    tokio::spawn(write(fake.clone()));
    let nuisance = {
        let fake = fake.clone();
        tokio::spawn(async move {
            for round in 0..12 {
                sleep(Duration::from_millis(31)).await;
                match round % 4 {
                    0 => fake.break_streams(),
                    1 => fake.kill(NODES[2]),
                    2 => fake.restart(NODES[2]),
                    _ => fake.lead(2, round % 3 + 1),
                }
            }
        })
    };
    let seen = timeout(Duration::from_secs(60), revisions(&mut watch))
        .await
        .unwrap();
    assert_eq!(seen, (1..=EVENTS).collect::<Vec<_>>());
    nuisance.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_now_sees_what_comes_after_it() {
    let fake = Fake::new();
    let client = fake.client();
    client.put(&alice(), "k", "before").await.unwrap();
    let mut watch = client
        .watch(WatchOptions::partition(alice()).prefix("k"))
        .await
        .unwrap();
    // Nothing has been received yet when this is written and the streams break.
    client.put(&alice(), "k", "after").await.unwrap();
    client.put(&alice(), "other", "no match").await.unwrap();
    fake.break_streams();
    client.delete(&alice(), "k").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let WatchItem::Events(batch) = watch.next().await.unwrap() {
            seen.extend(batch.events.into_iter().map(|e| (e.revision(), e.kind)));
        }
    }
    assert_eq!(seen, [(2, EventKind::Put), (4, EventKind::Delete)]);
}

#[tokio::test(start_paused = true)]
async fn a_compacted_watch_says_so_and_goes_on_where_told() {
    let fake = Fake::new();
    let client = fake.client();
    for i in 0..5 {
        client.put(&alice(), "k", i.to_string()).await.unwrap();
    }
    fake.cluster.lock().shards.get_mut(&2).unwrap().floor = 3;
    let options = WatchOptions::partition(alice()).start(WatchStart::After(1));
    let mut watch = client.watch(options).await.unwrap();
    assert_eq!(
        watch.next().await.unwrap(),
        WatchItem::Compacted { resume_from: 4 }
    );
    assert_eq!(
        watch.next().await.unwrap(),
        WatchItem::Compacted { resume_from: 4 },
        "until it is acted on"
    );
    watch.resume_from(4);
    let WatchItem::Events(batch) = watch.next().await.unwrap() else {
        panic!("no events")
    };
    assert_eq!(batch.events[0].revision(), 4);
}

#[tokio::test(start_paused = true)]
async fn dropping_next_loses_nothing() {
    let fake = Fake::new();
    let client = fake.client();
    let mut watch = client.watch(WatchOptions::shard(2)).await.unwrap();
    tokio::spawn(write(fake.clone()));
    let mut seen = Vec::new();
    while seen.last() != Some(&EVENTS) {
        // Given up again and again.
        if let Ok(item) = timeout(Duration::from_millis(2), watch.next()).await
            && let WatchItem::Events(batch) = item.unwrap()
        {
            seen.extend(batch.events.iter().map(|e| e.revision()));
        }
    }
    assert_eq!(seen, (1..=EVENTS).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_shard_cannot_be_watched() {
    let fake = Fake::new();
    let error = fake.client().watch(WatchOptions::shard(7)).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_goes_on_where_its_owner_acknowledged_and_fences_it() {
    let fake = Fake::new();
    let client = fake.client();
    fake.cluster.lock().watch_breaks_after = 4;
    let mut first = client
        .consumer_open(2, "mailer", ConsumerStart::At(1))
        .await
        .unwrap();
    for i in 0..10 {
        client.put(&alice(), "k", i.to_string()).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let batch = first.next().await.unwrap();
        seen.extend(batch.events.iter().map(|e| e.revision()));
        if batch.revision == 3 {
            // Not the rest: a break must not deliver 4 and later twice to the same owner.
            assert_eq!(first.ack(3).await.unwrap(), 3);
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    let mut second = client
        .consumer_open(2, "mailer", ConsumerStart::Now)
        .await
        .unwrap();
    assert_eq!((second.epoch(), second.cursor()), (first.epoch() + 1, 3));
    assert_eq!(second.next().await.unwrap().events[0].revision(), 4);
    let error = first.ack(6).await.unwrap_err();
    assert_eq!((error.code, error.is_unknown()), (Code::Fenced, false));
    let error = loop {
        // What was on its way still arrives.
        if let Err(error) = first.next().await {
            break error;
        }
    };
    assert_eq!(error.code, Code::Fenced);
}
