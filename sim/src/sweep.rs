//! Many seeds or plans, each in a process of its own.
//!
//! The runtime under a simulation keeps counts for each process, so a process runs one plan ([`child`]). A run that takes too long, or
//! whose process dies, is a failure like any other.

pub mod child;

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal as _},
    ops::Range,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use self::child::{NoOutcome, child};
use crate::outcome::{Failure, Outcome};

/// Between two lines that say how it is going, where there is no terminal.
const PROGRESS: Duration = Duration::from_secs(30);

/// The event of a run whose committed log is known from its beginning to its end.
const LOG_KNOWN: &str = "committed_log_known";
/// In so many seeds it need not be known, nor in one of so many.
const SEEDS_UNKNOWN: u64 = 5;
const UNKNOWN_PART: u64 = 20;

/// What one process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A seed.
    Seed(u64),
    /// A plan from a file.
    Plan(PathBuf),
}

impl Item {
    /// The arguments that make this program run it.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Item::Seed(seed) => vec!["run".into(), "--seed".into(), seed.to_string()],
            Item::Plan(path) => vec!["replay".into(), path.display().to_string()],
        }
    }

    /// A name for files.
    fn name(&self) -> String {
        match self {
            Item::Seed(seed) => format!("seed-{seed}"),
            Item::Plan(path) => path
                .file_stem()
                .map_or_else(|| "plan".into(), |name| name.to_string_lossy().into()),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Seed(seed) => write!(f, "seed {seed}"),
            Item::Plan(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What is run.
#[derive(Clone, Debug)]
pub enum Work {
    /// These seeds.
    Seeds(Range<u64>),
    /// These plans.
    Plans(Vec<PathBuf>),
}

impl Work {
    fn len(&self) -> u64 {
        match self {
            Work::Seeds(seeds) => seeds.end.saturating_sub(seeds.start),
            Work::Plans(plans) => plans.len() as u64,
        }
    }

    fn item(&self, number: u64) -> Option<Item> {
        match self {
            Work::Seeds(seeds) => Some(seeds.start + number)
                .filter(|seed| *seed < seeds.end)
                .map(Item::Seed),
            Work::Plans(plans) => plans.get(number as usize).cloned().map(Item::Plan),
        }
    }
}

/// How a sweep is run.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Of what.
    pub work: Work,
    /// Where reports of failures go; `None` = there are none.
    pub reports: Option<PathBuf>,
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
    /// Arguments that each process gets besides.
    pub besides: Vec<String>,
}

impl Sweep {
    fn arguments(&self, item: &Item) -> Vec<String> {
        let mut arguments = item.arguments();
        arguments.extend(self.besides.iter().cloned());
        arguments
    }
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
    /// What could not be known and so was not checked, with the seed.
    pub unknown: Vec<(u64, String)>,
    /// How often each event happened, in how many seeds.
    pub sometimes: BTreeMap<String, (u64, u64)>,
    /// How many ends of processes faults have explained, in how many seeds, by fault and reason.
    pub excused: BTreeMap<String, (u64, u64)>,
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

    /// How it is going.
    fn progress(&self) -> String {
        format!(
            "{:.0} seeds/h, {:.0} simulated h/h, {} failed",
            self.seeds_per_hour(),
            self.speed(),
            self.failed.len()
        )
    }

    /// How long it takes until all of so many seeds are done, or the time for it is up, after this long a time.
    fn left(&self, seeds: u64, length: Option<Duration>, elapsed: Duration) -> Option<Duration> {
        let of_time = length.map(|length| length.saturating_sub(elapsed));
        let each = (self.seeds > 0).then(|| elapsed.div_f64(self.seeds as f64));
        let of_seeds = each.map(|each| each.mul_f64(seeds.saturating_sub(self.seeds) as f64));
        [of_time, of_seeds].into_iter().flatten().min()
    }

    /// Events of this list that never happened.
    pub fn missing<'a>(&self, events: &'a [&'a str]) -> Vec<&'a str> {
        let happened = |event: &str| self.sometimes.get(event).is_some_and(|(times, _)| *times > 0);
        events.iter().copied().filter(|event| !happened(event)).collect()
    }

    /// The committed log was not known in too many runs: there nothing says what became of unknown outcomes, and what was committed.
    pub fn blind(&self) -> Option<String> {
        let (_, known) = self.sometimes.get(LOG_KNOWN).copied().unwrap_or_default();
        let rest = self.seeds - known.min(self.seeds);
        (rest > SEEDS_UNKNOWN && rest * UNKNOWN_PART > self.seeds).then(|| {
            format!(
                "THE COMMITTED LOG WAS KNOWN IN {known} OF {} SEEDS ONLY",
                self.seeds
            )
        })
    }

    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        for (sum, count) in self.operations.iter_mut().zip(outcome.operations) {
            *sum += count;
        }
        for (sums, counts) in [
            (&mut self.sometimes, &outcome.sometimes),
            (&mut self.excused, &outcome.excused),
        ] {
            for (name, count) in counts {
                let (times, seeds) = sums.entry(name.clone()).or_default();
                *times += count;
                *seeds += u64::from(*count > 0);
            }
        }
        let unknown = outcome.unknown.iter().cloned();
        self.unknown.extend(unknown.map(|text| (outcome.seed, text)));
        if !outcome.is_clean() {
            self.failed.push(outcome);
        }
    }
}

/// Runs a sweep: to its end, or until this process is told to end ([`crate::interrupt`]).
///
/// # Errors
/// The processes cannot be started.
pub fn sweep(sweep: &Sweep) -> io::Result<Summary> {
    let begin = Instant::now();
    let bar = bar(sweep);
    let next = AtomicU64::new(0);
    let summary = Mutex::new(Summary::default());
    let over = |summary: &Summary| !sweep.keep_going && !summary.failed.is_empty();
    let worker = || -> io::Result<()> {
        loop {
            let late = sweep.length.is_some_and(|length| begin.elapsed() >= length);
            let item = sweep.work.item(next.fetch_add(1, Ordering::Relaxed));
            let Some(item) = item.filter(|_| !late && !over(&lock(&summary))) else {
                return Ok(());
            };
            let Some(outcome) = one(&item, sweep)? else {
                return Ok(());
            };
            if !outcome.is_clean() {
                bar.suspend(|| tell(&item, &outcome));
                let report = report(&item, sweep)?;
                report.iter().for_each(|text| bar.suspend(|| tell_report(text)));
            }
            let mut summary = lock(&summary);
            summary.add(outcome);
            bar.set_position(summary.seeds);
            summary.elapsed = begin.elapsed();
            bar.set_message(summary.progress());
        }
    };
    let (ended, end) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        // Where nobody sees a bar.
        if !io::stderr().is_terminal() {
            let summary = &summary;
            scope.spawn(move || {
                while end.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
                    tell_progress(&lock(summary), sweep, begin.elapsed());
                }
            });
        }
        let _ended = ended;
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
fn tell(item: &Item, outcome: &Outcome) {
    for failure in &outcome.failures {
        eprintln!("{item}: {}: {}", failure.found_by, failure.text);
    }
}

#[expect(clippy::print_stderr, reason = "progress is for people")]
fn tell_progress(summary: &Summary, sweep: &Sweep, elapsed: Duration) {
    let seeds = sweep.work.len();
    let left = summary.left(seeds, sweep.length, elapsed);
    let left = left.map_or_else(String::new, |left| format!(", ETA {} s", left.as_secs()));
    let (done, elapsed) = (summary.seeds, elapsed.as_secs());
    eprintln!(
        "{elapsed} s: {done} of {seeds} seeds, {}{left}",
        summary.progress()
    );
}

#[expect(clippy::print_stderr, reason = "a failure is told at once")]
fn tell_report(text: &str) {
    eprintln!("{text}");
}

/// Runs it again with a report. What the process says of it.
fn report(item: &Item, sweep: &Sweep) -> io::Result<Option<String>> {
    let Some(directory) = &sweep.reports else {
        return Ok(None);
    };
    let directory = directory.join(item.name());
    let mut arguments = sweep.arguments(item);
    arguments.extend(["--report".into(), directory.display().to_string()]);
    let ended = child(&arguments, sweep.patience)?;
    let directory = directory.display();
    Ok(Some(match ended {
        Ok(_) => format!("{item}: see {directory}"),
        Err(text) => format!("{item}: no report in {directory}: {text}"),
    }))
}

fn bar(sweep: &Sweep) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} ETA {eta} {msg}");
    let bar = ProgressBar::new(sweep.work.len());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What came of it; `None`: this process was told to end meanwhile.
fn one(item: &Item, sweep: &Sweep) -> io::Result<Option<Outcome>> {
    let arguments = sweep.arguments(item);
    let run = || child(&arguments, sweep.patience);
    let first = run()?;
    let second = sweep.twice.then(run).transpose()?;
    let is_stopped = |ended: &Result<Outcome, NoOutcome>| matches!(ended, Err(NoOutcome::Stopped));
    if is_stopped(&first) || second.as_ref().is_some_and(is_stopped) {
        return Ok(None);
    }
    let mut outcome = match second {
        Some(second) => compared(first, second),
        None => first.unwrap_or_else(|none| none.outcome()),
    };
    if let Item::Seed(seed) = item {
        outcome.seed = *seed;
    }
    Ok(Some(outcome))
}

/// What came of two runs of one plan, which must be equal in all that an outcome tells: what failed in either, and that they differ. A run
/// without an outcome is equal to none.
fn compared(first: Result<Outcome, NoOutcome>, second: Result<Outcome, NoOutcome>) -> Outcome {
    let differ = match (&first, &second) {
        (Ok(first), Ok(second)) => differences(first, second),
        _ => vec!["not both have an outcome".to_owned()],
    };
    let [mut outcome, second] = [first, second].map(|found| found.unwrap_or_else(|none| none.outcome()));
    for failure in second.failures {
        if !outcome.failures.contains(&failure) {
            outcome.failures.push(failure);
        }
    }
    if !differ.is_empty() {
        let text = format!("two runs differ: {}", differ.join("; "));
        outcome.failures.insert(0, Failure::new("determinism", text));
    }
    outcome
}

fn differences(first: &Outcome, second: &Outcome) -> Vec<String> {
    if first == second {
        return Vec::new();
    }
    let mut differ = Vec::new();
    if first.trace() != second.trace() {
        differ.push(format!("{:x?} and {:x?}", first.trace(), second.trace()));
    }
    if first.operations != second.operations {
        differ.push(format!(
            "operations {:?} and {:?}",
            first.operations, second.operations
        ));
    }
    for (event, times) in &first.sometimes {
        let then = second.sometimes.get(event);
        if then != Some(times) {
            differ.push(format!("{event} {times} and {} times", then.unwrap_or(&0)));
        }
    }
    if first.looks != second.looks {
        differ.push(format!("looks {} and {}", first.looks, second.looks));
    }
    if first.failures != second.failures {
        differ.push("what failed".to_owned());
    }
    if differ.is_empty() {
        differ.push("the outcomes".to_owned());
    }
    differ
}

#[cfg(test)]
mod tests;
