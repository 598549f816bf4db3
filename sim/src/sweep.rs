//! Many seeds, each in a process of its own.
//!
//! The runtime under a simulation keeps counts for each process, so a process runs one plan. A run that takes too long, or whose process
//! dies, is a failure like any other.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    ops::Range,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::outcome::{Failure, Outcome};

/// How a sweep is run.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Which seeds.
    pub seeds: Range<u64>,
    /// Processes at a time.
    pub jobs: usize,
    /// No new seed is begun after this much real time.
    pub length: Option<Duration>,
    /// Goes on after a failure.
    pub keep_going: bool,
    /// Real time for one seed.
    pub patience: Duration,
    /// Runs every seed twice, and compares.
    pub twice: bool,
}

/// What came of a sweep.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those that failed.
    pub failed: Vec<Outcome>,
    /// Simulated time, all together.
    pub simulated: Duration,
    /// Real time, from begin to end.
    pub elapsed: Duration,
    /// Operations of clients that succeeded, failed, and whose outcome is unknown.
    pub operations: [u64; 3],
    /// How often each event happened, in how many seeds.
    pub sometimes: BTreeMap<String, (u64, u64)>,
}

impl Summary {
    /// Seeds in an hour.
    pub fn seeds_per_hour(&self) -> f64 {
        self.seeds as f64 / self.elapsed.as_secs_f64().max(1e-9) * 3600.0
    }

    /// Simulated hours in an hour.
    pub fn speed(&self) -> f64 {
        self.simulated.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Events of this list that never happened.
    pub fn missing<'a>(&self, events: &'a [&'a str]) -> Vec<&'a str> {
        let happened = |event: &str| self.sometimes.get(event).is_some_and(|(times, _)| *times > 0);
        events.iter().copied().filter(|event| !happened(event)).collect()
    }

    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        for (sum, count) in self.operations.iter_mut().zip(outcome.operations) {
            *sum += count;
        }
        for (event, count) in &outcome.sometimes {
            let (times, seeds) = self.sometimes.entry(event.clone()).or_default();
            *times += count;
            *seeds += u64::from(*count > 0);
        }
        if !outcome.is_clean() {
            self.failed.push(outcome);
        }
    }
}

/// Runs a sweep.
///
/// # Errors
/// The processes cannot be started.
pub fn sweep(sweep: &Sweep) -> io::Result<Summary> {
    let begin = Instant::now();
    let bar = bar(sweep);
    let next = AtomicU64::new(sweep.seeds.start);
    let summary = Mutex::new(Summary::default());
    let over = |summary: &Summary| !sweep.keep_going && !summary.failed.is_empty();
    let worker = || -> io::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let late = sweep.length.is_some_and(|length| begin.elapsed() >= length);
            if seed >= sweep.seeds.end || late || over(&lock(&summary)) {
                return Ok(());
            }
            let outcome = one(seed, sweep)?;
            if !outcome.is_clean() {
                bar.suspend(|| tell(&outcome));
            }
            let mut summary = lock(&summary);
            summary.add(outcome);
            bar.set_position(summary.seeds);
            summary.elapsed = begin.elapsed();
            bar.set_message(format!(
                "{:.0} seeds/h, {:.0} simulated h/h, {} failed",
                summary.seeds_per_hour(),
                summary.speed(),
                summary.failed.len()
            ));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..sweep.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            let ended = worker.join();
            ended.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
        })
    })?;
    bar.finish_and_clear();
    let mut summary = summary
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.elapsed = begin.elapsed();
    summary.failed.sort_by_key(|outcome| outcome.seed);
    Ok(summary)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[expect(clippy::print_stderr, reason = "a failure is told at once")]
fn tell(outcome: &Outcome) {
    for failure in &outcome.failures {
        eprintln!("seed {}: {}: {}", outcome.seed, failure.found_by, failure.text);
    }
}

fn bar(sweep: &Sweep) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} ETA {eta} {msg}");
    let bar = ProgressBar::new(sweep.seeds.end.saturating_sub(sweep.seeds.start));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn one(seed: u64, sweep: &Sweep) -> io::Result<Outcome> {
    let first = run(seed, sweep.patience)?;
    if !sweep.twice {
        return Ok(first);
    }
    let mut second = run(seed, sweep.patience)?;
    if first.trace() != second.trace() {
        second.failures.insert(
            0,
            Failure {
                found_by: "determinism".into(),
                text: format!("two runs differ: {:x?} and {:x?}", first.trace(), second.trace()),
            },
        );
    }
    Ok(second)
}

/// Runs a seed in a process of its own.
fn run(seed: u64, patience: Duration) -> io::Result<Outcome> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["run", "-o", "json", "--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdout = child.stdout.take();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        stdout
            .as_mut()
            .map(|stdout| stdout.read_to_string(&mut text))
            .transpose()?;
        io::Result::Ok(text)
    });
    let status = wait(&mut child, patience)?;
    let text = reading
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))?;
    if let Ok(outcome) = serde_json::from_str(&text) {
        return Ok(outcome);
    }
    let text = match status {
        Some(status) => format!("the process ended without an outcome: {status}"),
        None => format!("no end within {patience:?}"),
    };
    Ok(Outcome {
        seed,
        failures: vec![Failure {
            found_by: "process".into(),
            text,
        }],
        ..Outcome::default()
    })
}

/// Waits for the end; kills the process when it takes too long, and gives `None`.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<std::process::ExitStatus>> {
    let until = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
