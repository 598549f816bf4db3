//! The watch benchmark: writers put values that carry the time, watchers take the time from the events.
//!
//! Writers and watchers are in one process, so one monotonic clock serves both. Watcher n follows partition n mod partitions, and each
//! watcher must see every acknowledged write of its partition.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::try_join_all;
use tokio::time::{sleep, timeout_at};

use super::{
    report::{Recorder, WatchReport, Window},
    run::{Bench, Drive, Outcome, Pacer, failed, task_failed, watch_progress},
    target::{Client as _, OpError, Target, Watcher as _},
    workload::{Mix, OpKind, Skew, Workload},
};
use crate::{
    failure::Failure,
    limits::{BENCH_DRAIN, BENCH_ERROR_PAUSE},
};

/// Bytes at the start of each value: nanoseconds since the run's start, big-endian.
pub const STAMP: usize = 8;

/// What a run yields.
pub struct WatchOutcome {
    /// The writes.
    pub writes: Outcome,
    /// The events.
    pub watch: WatchReport,
}

struct Shared<T: Target> {
    bench: Arc<Bench<T>>,
    window: Window,
    /// Acknowledged writes of each partition.
    written: Vec<AtomicU64>,
    writes: Recorder,
    events: Recorder,
}

/// Runs writers and watchers; values have at least [`STAMP`] bytes.
pub async fn run<T: Target>(
    bench: &Arc<Bench<T>>,
    watchers: usize,
    seed: u64,
    drive: Drive,
) -> Result<WatchOutcome, Failure> {
    let mut streams = Vec::with_capacity(watchers);
    for index in 0..watchers {
        let partition = index as u64 % bench.partitions;
        let watcher = bench.target.client(index).watch(partition).await;
        streams.push((
            index,
            partition,
            watcher.map_err(|e| failed("opening a watch", &e))?,
        ));
    }
    let shared = Arc::new(Shared {
        bench: bench.clone(),
        window: Window::new(Instant::now(), drive.warmup, drive.duration),
        written: (0..bench.partitions).map(|_| AtomicU64::new(0)).collect(),
        writes: Recorder::default(),
        events: Recorder::default(),
    });
    let (written, quota) = tokio::sync::broadcast::channel(1);
    let watching: Vec<_> = streams
        .into_iter()
        .map(|(index, partition, stream)| {
            tokio::spawn(follow(
                shared.clone(),
                index,
                partition,
                stream,
                quota.resubscribe(),
            ))
        })
        .collect();
    let pacer = drive.rate.map(|rate| Pacer::start(rate, shared.window));
    let workload = Workload::new(Mix::reads(0.0), Skew::Uniform, bench.keys.len() as u64, seed);
    let writing: Vec<_> = (0..drive.clients)
        .map(|index| {
            let pacer = pacer.as_ref().map(|(pacer, _)| pacer.clone());
            tokio::spawn(write(shared.clone(), index, workload.clone(), pacer))
        })
        .collect();
    let client_cpu = watch_progress(&shared.writes, shared.window).await;
    try_join_all(writing).await.map_err(task_failed)?;
    let not_started = match pacer {
        None => None,
        Some((pacer, due)) => Some(due.await.map_err(task_failed)? - pacer.begun()),
    };
    // Watchers that are gone have said so in their result.
    let _ = written.send(());
    let missed: Result<u64, OpError> = try_join_all(watching)
        .await
        .map_err(task_failed)?
        .into_iter()
        .sum();
    let missed = missed.map_err(|e| failed("a watch", &e))?;
    let events = shared.events.measured(drive.duration);
    let watch = WatchReport {
        watchers,
        events: shared.events.done(),
        events_per_s: events.ops_per_s,
        missed,
        delivery: events.latency,
    };
    let measured = shared.writes.measured(drive.duration);
    Ok(WatchOutcome {
        writes: Outcome {
            measured,
            client_cpu,
            not_started,
        },
        watch,
    })
}

async fn write<T: Target>(
    shared: Arc<Shared<T>>,
    index: usize,
    workload: Arc<Workload>,
    pacer: Option<Arc<Pacer>>,
) {
    let bench = &shared.bench;
    let mut client = bench.target.client(index);
    let mut chooser = workload.chooser(index as u64);
    loop {
        let begin = match &pacer {
            None if Instant::now() >= shared.window.end => return,
            None => Instant::now(),
            Some(pacer) => match pacer.next().await {
                None => return,
                Some(due) => due,
            },
        };
        let number = chooser.key();
        let stamp = (Instant::now() - shared.window.start).as_nanos() as u64;
        let mut value = bench.values[index % bench.values.len()].to_vec();
        value[..STAMP].copy_from_slice(&stamp.to_be_bytes());
        let outcome = client.put(&bench.keys[number as usize], value.into()).await;
        if outcome.is_ok() {
            shared.written[(number % bench.partitions) as usize].fetch_add(1, Ordering::Relaxed);
        } else {
            sleep(BENCH_ERROR_PAUSE).await;
        }
        let times = (begin, Instant::now());
        shared.writes.record(
            &shared.window,
            index,
            OpKind::Update,
            times,
            &outcome.map(|()| true),
        );
    }
}

/// Follows a partition until all writes have been seen after `done` was sent, or nothing more comes; the number of events missed. A
/// watch that breaks is an error: those of kvsvr reconnect by themselves.
async fn follow<T: Target>(
    shared: Arc<Shared<T>>,
    index: usize,
    partition: u64,
    mut stream: <T::Client as super::target::Client>::Watcher,
    mut done: tokio::sync::broadcast::Receiver<()>,
) -> Result<u64, OpError> {
    let mut values = Vec::new();
    let mut seen = 0;
    // While writes go on.
    loop {
        tokio::select! {
            biased;
            _ = done.recv() => break,
            next = stream.next(&mut values) => next?,
        }
        seen += take(&shared, index, &mut values);
    }
    let written = shared.written[partition as usize].load(Ordering::Relaxed);
    let deadline = tokio::time::Instant::now() + BENCH_DRAIN;
    while seen < written {
        match timeout_at(deadline, stream.next(&mut values)).await {
            Ok(next) => next?,
            Err(_) => break,
        }
        seen += take(&shared, index, &mut values);
    }
    Ok(written.saturating_sub(seen))
}

fn take<T: Target>(shared: &Shared<T>, index: usize, values: &mut Vec<Bytes>) -> u64 {
    let now = Instant::now();
    let taken = values.len() as u64;
    for value in values.drain(..) {
        if let Some(stamp) = value.first_chunk::<STAMP>() {
            let sent = shared.window.start + Duration::from_nanos(u64::from_be_bytes(*stamp));
            shared
                .events
                .record(&shared.window, index, OpKind::Update, (sent, now), &Ok(true));
        }
    }
    taken
}
