//! Load whose every acknowledgement is remembered, and the checks that hold the cluster to them.
//!
//! Each writer owns a partition and writes n = 1, 2, 3, ...: in one transaction a counter (`c` = n) and a row of its own for n. One
//! writer for each counter makes linearizability easy to see: a read returns no less than what was acknowledged, or read by anybody,
//! before it began, and no more than what was begun before it ended. The rows show every lost write, the counter's version every write
//! that was applied twice.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use kvsvr_client::{Client, GetOptions, Op, Partition, RangeOptions, ReadFrom, ReadMode, Txn};
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::Instant};

use crate::harness::{PATIENCE, eventually};

/// What one writer did.
#[derive(Default)]
pub(crate) struct Lane {
    /// The greatest n that was begun.
    begun: AtomicU64,
    /// The greatest n that was acknowledged, or seen by a reader.
    known: AtomicU64,
    /// The greatest acknowledged n and its revision.
    newest: Mutex<(u64, u64)>,
    /// Begin and acknowledgement of each acknowledged n.
    acknowledged: Mutex<Vec<(u64, Instant, Instant)>>,
    /// Writes that ended with an error, as text.
    failed: Mutex<Vec<String>>,
}

/// Writers and readers at work.
pub(crate) struct Load {
    lanes: Arc<Vec<Lane>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    reads: Arc<AtomicU64>,
    value_bytes: usize,
}

pub(crate) fn partition(lane: usize) -> Partition {
    Partition::local(format!("lane-{lane}"))
}

fn row(n: u64) -> String {
    format!("row/{n:012}")
}

/// Different for each lane and n, of the wanted length.
fn row_value(lane: usize, n: u64, bytes: usize) -> String {
    format!("{lane}-{n}-{:.>bytes$}", "")
}

impl Load {
    /// `writers` writers with values of `value_bytes`, and `readers` linearizable readers, half of them at followers. Each has a
    /// client of its own from `clients`, in turn.
    pub(crate) fn start(clients: &[Client], writers: usize, readers: usize, value_bytes: usize) -> Load {
        let lanes: Arc<Vec<Lane>> = Arc::new((0..writers).map(|_| Lane::default()).collect());
        let mut load = Load {
            lanes,
            stop: Arc::default(),
            tasks: Vec::new(),
            reads: Arc::default(),
            value_bytes,
        };
        for lane in 0..writers {
            let client = clients[lane % clients.len()].clone();
            let (lanes, stop) = (load.lanes.clone(), load.stop.clone());
            load.tasks.push(tokio::spawn(async move {
                write(&client, &lanes[lane], lane, value_bytes, &stop).await
            }));
        }
        for reader in 0..readers {
            let from = if reader % 2 == 0 {
                ReadFrom::Leader
            } else {
                ReadFrom::Any
            };
            let options = kvsvr_client::CallOptions {
                timeout: None,
                read_from: Some(from),
            };
            let client = clients[reader % clients.len()].with_options(options);
            let (lanes, stop, reads) = (load.lanes.clone(), load.stop.clone(), load.reads.clone());
            load.tasks.push(tokio::spawn(async move {
                read(&client, &lanes, reader, &stop, &reads).await
            }));
        }
        load
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.lanes.iter().map(|lane| lane.acknowledged.lock().len()).sum()
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.lanes
            .iter()
            .flat_map(|lane| lane.failed.lock().clone())
            .collect()
    }

    /// A task that found something wrong has ended: says so now instead of at the end.
    async fn check_tasks(&mut self) {
        for task in &mut self.tasks {
            if task.is_finished() && !self.stop.load(Ordering::Relaxed) {
                task.await.expect("a reader or writer found a broken promise");
                panic!("a reader or writer ended early");
            }
        }
    }

    /// Waits until every writer has had a write acknowledged that it began after `since`.
    pub(crate) async fn wait_progress(&mut self, since: Instant) {
        let lanes = self.lanes.clone();
        eventually("every writer's write is acknowledged", PATIENCE, async || {
            self.check_tasks().await;
            lanes
                .iter()
                .all(|lane| {
                    lane.acknowledged
                        .lock()
                        .last()
                        .is_some_and(|last| last.1 >= since)
                })
                .then_some(())
        })
        .await;
    }

    /// Waits for so many more acknowledged writes.
    pub(crate) async fn wait_acknowledged(&mut self, more: usize) {
        let target = self.acknowledged() + more;
        eventually("writes are acknowledged", PATIENCE * 2, async || {
            self.check_tasks().await;
            (self.acknowledged() >= target).then_some(())
        })
        .await;
    }

    /// How long after `since` the last of the writers had a write acknowledged that it began after `since`.
    pub(crate) fn outage(&self, since: Instant) -> Duration {
        let first = |lane: &Lane| {
            let acknowledged = lane.acknowledged.lock();
            acknowledged.iter().find(|a| a.1 >= since).map(|a| a.2 - since)
        };
        self.lanes
            .iter()
            .map(|lane| first(lane).expect("it made progress"))
            .max()
            .unwrap_or_default()
    }

    /// Median and 99th percentile of the time from the begin of a write to its acknowledgement, its tries included, of all so far.
    pub(crate) fn latency(&self) -> (Duration, Duration) {
        let mut times: Vec<Duration> = Vec::new();
        for lane in self.lanes.iter() {
            times.extend(lane.acknowledged.lock().iter().map(|a| a.2 - a.1));
        }
        times.sort();
        let at = |percent: usize| {
            let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            times.get(place).copied().unwrap_or_default()
        };
        (at(50), at(99))
    }

    /// Ends the load; panics if a task found something wrong.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await.expect("a reader or writer found a broken promise");
        }
    }

    /// After [`Load::stop`]: every acknowledged write is there, once, nothing that was never written is. Returns how many were
    /// acknowledged.
    pub(crate) async fn verify(&self, client: &Client) -> usize {
        let checks = self
            .lanes
            .iter()
            .enumerate()
            .map(|(lane, state)| self.verify_lane(client, lane, state));
        join_all(checks).await.into_iter().sum()
    }

    async fn verify_lane(&self, client: &Client, lane: usize, state: &Lane) -> usize {
        let client = client.with_timeout(PATIENCE);
        let (partition, begun) = (partition(lane), state.begun.load(Ordering::Relaxed));
        let rows = client
            .range_all(&partition, RangeOptions::prefix("row/"))
            .await
            .unwrap()
            .value;
        let mut found = BTreeSet::new();
        for kv in &rows {
            let n: u64 = std::str::from_utf8(&kv.key[4..]).unwrap().parse().unwrap();
            assert!(n <= begun, "lane {lane}: row {n} was never written");
            assert_eq!(
                kv.value,
                row_value(lane, n, self.value_bytes),
                "lane {lane}: row {n} has another value"
            );
            assert_eq!(kv.version, 1, "lane {lane}: row {n} was written more than once");
            found.insert(n);
        }
        let acknowledged = state.acknowledged.lock().clone();
        let lost: Vec<u64> = acknowledged
            .iter()
            .map(|a| a.0)
            .filter(|n| !found.contains(n))
            .collect();
        assert!(
            lost.is_empty(),
            "lane {lane}: {} acknowledged writes are lost: {lost:?}",
            lost.len()
        );
        let counter = client.get(&partition, "c").await.unwrap().value;
        let (value, version) = counter.map_or((0, 0), |kv| (number(&kv.value), kv.version));
        assert_eq!(
            version,
            found.len() as u64,
            "lane {lane}: the counter was not written once for each row"
        );
        assert_eq!(
            value,
            found.last().copied().unwrap_or(0),
            "lane {lane}: the counter is not the last row"
        );
        acknowledged.len()
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

async fn write(client: &Client, state: &Lane, lane: usize, value_bytes: usize, stop: &AtomicBool) {
    let partition = partition(lane);
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        state.begun.store(n, Ordering::SeqCst);
        let txn = Txn::new()
            .then(Op::put("c", n.to_string()))
            .then(Op::put(row(n), row_value(lane, n, value_bytes)));
        let begun = Instant::now();
        match client.txn(&partition, txn).await {
            Ok(reply) => {
                state.known.fetch_max(n, Ordering::SeqCst);
                *state.newest.lock() = (n, reply.revision);
                state.acknowledged.lock().push((n, begun, Instant::now()));
            }
            Err(error) => state
                .failed
                .lock()
                .push(format!("lane {lane}, write {n}: {error}")),
        }
    }
}

async fn read(client: &Client, lanes: &[Lane], reader: usize, stop: &AtomicBool, reads: &AtomicU64) {
    let mut turn = reader;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let lane = turn % lanes.len();
        let state = &lanes[lane];
        let at_least = turn.is_multiple_of(3);
        let (floor, mode) = if at_least {
            let (n, revision) = *state.newest.lock();
            (n, ReadMode::AtLeast(revision))
        } else {
            (state.known.load(Ordering::SeqCst), ReadMode::Linearizable)
        };
        let Ok(answer) = client
            .get_with(&partition(lane), "c", GetOptions::from(mode))
            .await
        else {
            continue;
        };
        let value = answer.value.map_or(0, |kv| number(&kv.value));
        let begun = state.begun.load(Ordering::SeqCst);
        assert!(
            value >= floor,
            "stale read: lane {lane} is {value} at revision {}, {floor} was known before the read began ({mode:?})",
            answer.revision
        );
        assert!(value <= begun, "lane {lane} is {value}, only {begun} was begun");
        if !at_least {
            state.known.fetch_max(value, Ordering::SeqCst);
        }
        reads.fetch_add(1, Ordering::Relaxed);
    }
}
