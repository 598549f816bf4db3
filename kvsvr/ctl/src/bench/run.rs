//! The loops of a benchmark: loading keys, the closed loop and the open loop.
//!
//! Closed: each logical client sends its next operation when the last one is answered, and latency is what the client waited. Open:
//! operations are due at a fixed rate whatever the target does, and latency counts from when an operation was due, so that a stall
//! is felt by all operations that it delays ("coordinated omission" is the mistake of leaving them out). Logical clients are tasks,
//! not threads. Tasks of both loops take one timestamp for each operation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::try_join_all;
use indicatif::ProgressBar;
use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};
use tokio::{sync::Semaphore, task::JoinHandle, time::sleep};

use super::{
    report::{Measured, Recorder, Window},
    target::{Client as _, OpError, Target},
    workload::{Chooser, OpKind, Step, Workload},
};
use crate::{
    failure::Failure,
    limits::{BENCH_ERROR_PAUSE, BENCH_LOAD_CLIENTS, BENCH_LOAD_TRIES, BENCH_PACE, BENCH_VALUES},
    progress,
};

/// A target with the keys and values that it is measured with, made before the clock runs.
pub struct Bench<T: Target> {
    /// What is measured.
    pub target: T,
    /// Key n is in partition n mod `partitions`.
    pub keys: Vec<T::Key>,
    /// Incompressible, and written in turn.
    pub values: Vec<Bytes>,
    /// The keys are spread over so many.
    pub partitions: u64,
}

impl<T: Target> Bench<T> {
    /// Makes the keys and values.
    pub fn new(target: T, keys: u64, partitions: u64, value_size: usize, seed: u64) -> Arc<Self> {
        let keys = (0..keys)
            .map(|number| target.key(number % partitions, number))
            .collect();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let values = (0..BENCH_VALUES)
            .map(|_| {
                let mut value = vec![0; value_size];
                rng.fill_bytes(&mut value);
                value.into()
            })
            .collect();
        Arc::new(Self {
            target,
            keys,
            values,
            partitions,
        })
    }

    /// Writes all keys once.
    pub async fn load(self: &Arc<Self>) -> Result<(), Failure> {
        let bar = progress::bar(Some(self.keys.len() as u64), "loading");
        let next = Arc::new(AtomicU64::new(0));
        let clients = BENCH_LOAD_CLIENTS.min(self.keys.len());
        let tasks = (0..clients).map(|index| {
            tokio::spawn(load_some(
                self.clone(),
                self.target.client(index),
                next.clone(),
                bar.clone(),
            ))
        });
        let loaded = try_join_all(tasks).await.map_err(task_failed)?;
        bar.finish_and_clear();
        loaded.into_iter().collect()
    }
}

async fn load_some<T: Target>(
    bench: Arc<Bench<T>>,
    mut client: T::Client,
    next: Arc<AtomicU64>,
    bar: ProgressBar,
) -> Result<(), Failure> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed) as usize;
        let Some(key) = bench.keys.get(number) else {
            return Ok(());
        };
        let mut tries = 0;
        while let Err(error) = client
            .put(key, bench.values[number % bench.values.len()].clone())
            .await
        {
            tries += 1;
            if tries == BENCH_LOAD_TRIES {
                return Err(failed("loading the keys", &error));
            }
            sleep(BENCH_ERROR_PAUSE).await;
        }
        bar.inc(1);
    }
}

/// The failure of a benchmark that cannot go on.
pub(super) fn failed(what: &str, error: &OpError) -> Failure {
    Failure::new(crate::failure::BENCH, format!("{what} failed: {}", error.message))
        .with_help("check that the target is up and healthy, and --endpoints")
}

pub(super) fn task_failed(error: tokio::task::JoinError) -> Failure {
    Failure::new(
        crate::failure::BENCH,
        format!("a task of the benchmark died, which is a bug: {error}"),
    )
}

/// What a run yields.
pub struct Outcome {
    /// The numbers.
    pub measured: Measured,
    /// See [`Report::client_cpu_s`](super::report::Report::client_cpu_s).
    pub client_cpu: Duration,
    /// Of an open loop: operations that were due and did not begin.
    pub not_started: Option<u64>,
}

/// How long a run is, and how hard it drives.
#[derive(Clone, Copy, Debug)]
pub struct Drive {
    /// Logical clients.
    pub clients: usize,
    /// Operations due in each second; `None` is a closed loop.
    pub rate: Option<f64>,
    /// Not measured.
    pub warmup: Duration,
    /// Measured.
    pub duration: Duration,
}

/// Runs the workload and measures it.
pub async fn run<T: Target>(
    bench: &Arc<Bench<T>>,
    workload: &Arc<Workload>,
    drive: Drive,
) -> Result<Outcome, Failure> {
    let recorder = Arc::new(Recorder::default());
    let window = Window::new(Instant::now(), drive.warmup, drive.duration);
    let workers = (0..drive.clients).map(|index| Worker {
        index,
        client: bench.target.client(index),
        bench: bench.clone(),
        chooser: workload.chooser(index as u64),
        recorder: recorder.clone(),
        window,
    });
    let pacer = drive.rate.map(|rate| Pacer::start(rate, window));
    let tasks: Vec<JoinHandle<()>> = match &pacer {
        None => workers.map(|worker| tokio::spawn(worker.closed_loop())).collect(),
        Some((pacer, _)) => workers
            .map(|worker| tokio::spawn(worker.open_loop(pacer.clone())))
            .collect(),
    };
    let client_cpu = watch_progress(&recorder, window).await;
    try_join_all(tasks).await.map_err(task_failed)?;
    let not_started = match pacer {
        None => None,
        Some((pacer, due)) => Some(due.await.map_err(task_failed)? - pacer.begun()),
    };
    Ok(Outcome {
        measured: recorder.measured(drive.duration),
        client_cpu,
        not_started,
    })
}

/// Shows the rate until the window ends. The CPU time that this process used in the measured part.
pub(super) async fn watch_progress(recorder: &Recorder, window: Window) -> Duration {
    const STEP: Duration = Duration::from_millis(500);
    let bar = progress::spinner();
    let mut cpu = Duration::ZERO;
    let mut last = (Instant::now(), 0);
    loop {
        let now = Instant::now();
        let done = recorder.done();
        let rate = (done - last.1) as f64 / (now - last.0).as_secs_f64().max(1e-3);
        last = (now, done);
        if now >= window.end {
            break;
        }
        let (phase, until) = if now < window.record_from {
            ("warm-up", window.record_from)
        } else {
            ("measuring", window.end)
        };
        let left = (until - now).as_secs_f64();
        bar.set_message(format!("{phase}, {left:.0} s left: {rate:.0} ops/s, {done} done"));
        if phase == "measuring" && cpu.is_zero() {
            cpu = super::cpu_used();
        }
        sleep((until - now).min(STEP)).await;
    }
    bar.finish_and_clear();
    super::cpu_used().saturating_sub(cpu)
}

struct Worker<T: Target> {
    index: usize,
    client: T::Client,
    bench: Arc<Bench<T>>,
    chooser: Chooser,
    recorder: Arc<Recorder>,
    window: Window,
}

impl<T: Target> Worker<T> {
    async fn closed_loop(mut self) {
        let mut begin = Instant::now();
        while begin < self.window.end {
            begin = self.operation(begin).await;
        }
    }

    async fn open_loop(mut self, pacer: Arc<Pacer>) {
        while let Some(due) = pacer.next().await {
            self.operation(due).await;
        }
    }

    /// One operation that began or was due at `begin`; when the next may begin.
    async fn operation(&mut self, begin: Instant) -> Instant {
        let step = self.chooser.step();
        let outcome = self.perform(step).await;
        let done = Instant::now();
        self.recorder
            .record(&self.window, self.index, step.kind, (begin, done), &outcome);
        if outcome.is_ok() {
            return done;
        }
        sleep(BENCH_ERROR_PAUSE).await;
        Instant::now()
    }

    async fn perform(&mut self, step: Step) -> Result<bool, OpError> {
        let bench = &self.bench;
        let number = step.key as usize;
        let inserted;
        // Keys beyond the prepared ones are those that the run itself inserts.
        let key = match bench.keys.get(number) {
            Some(key) => key,
            None => {
                inserted = bench.target.key(step.key % bench.partitions, step.key);
                &inserted
            }
        };
        let value = || bench.values[(number + self.index) % bench.values.len()].clone();
        match step.kind {
            OpKind::Read => self.client.get(key).await,
            OpKind::Update | OpKind::Insert => self.client.put(key, value()).await.map(|()| true),
            OpKind::Scan => self.client.scan(key, step.scan_keys).await.map(|found| found > 0),
            OpKind::ReadModifyWrite => {
                let found = self.client.get(key).await?;
                self.client.put(key, value()).await.map(|()| found)
            }
        }
    }
}

/// Hands out the operations of an open loop as they are due.
pub(super) struct Pacer {
    due: Semaphore,
    begun: AtomicU64,
    start: Instant,
    rate: f64,
}

impl Pacer {
    /// Starts the clock. The second value resolves to how many operations were due in the window.
    pub(super) fn start(rate: f64, window: Window) -> (Arc<Self>, JoinHandle<u64>) {
        let pacer = Arc::new(Self {
            due: Semaphore::new(0),
            begun: AtomicU64::new(0),
            start: window.start,
            rate,
        });
        let clock = pacer.clone();
        // A thread of its own, because the runtime's timers have a step of a whole millisecond.
        let due = tokio::task::spawn_blocking(move || clock.run(window.end));
        (pacer, due)
    }

    fn run(&self, end: Instant) -> u64 {
        let mut released = 0;
        loop {
            let now = Instant::now().min(end);
            let due = ((now - self.start).as_secs_f64() * self.rate) as u64;
            self.due.add_permits((due - released) as usize);
            released = due;
            if now == end {
                self.due.close();
                return due;
            }
            // What is due is reckoned from the clock: how long this sleeps decides only how finely.
            std::thread::sleep(BENCH_PACE);
        }
    }

    /// Operations handed out so far.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Waits until an operation is due; when it was due. `None` at the end.
    pub(super) async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        Some(self.start + Duration::from_secs_f64(number as f64 / self.rate))
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
pub(crate) mod tests;
