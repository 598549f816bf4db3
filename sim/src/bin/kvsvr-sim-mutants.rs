//! `kvsvr-sim-mutants`: whether the simulator finds bugs that are planted in the product on purpose, and how soon.
//!
//! Each planted bug (see [`kvsvr_core::mutants`]) gets seeds, each in a process of its own, until a run fails. A failure counts if the
//! seed holds without the bug, and is the expected one if its finder is among those that the bug names. Prints a table of the bugs, and one of
//! who found which.

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use kvsvr_core::mutants::{self, MUTANTS, Mutant};
use kvsvr_sim::{
    VERSION, cli,
    engine::EngineKind,
    hunt::{self, Found, Hunt, matrix::Matrix},
    interrupt,
    outcome::{Failure, Outcome},
};
use serde::Serialize;

/// What the canary has, and the seed that must find it.
const CANARY: (&str, u64) = ("consumer-cursor-jumps", 0);

#[derive(Parser)]
#[command(
    name = "kvsvr-sim-mutants",
    version = VERSION,
    about = "Plants known bugs in the node, one at a time, and looks whether the simulator finds them",
    after_help = "Exit codes: 0 all were found by an expected checker, 1 some were not, 2 wrong usage, 130 and 143 interrupted.",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    child: Option<Child>,
    /// Only these; all by default
    #[arg(value_name = "MUTANT")]
    only: Vec<String>,
    /// A..B: tried in this order
    #[arg(long, value_parser = cli::seeds, default_value = "0..200")]
    seeds: Range<u64>,
    /// Mutants at a time [default: one for each core]
    #[arg(long, value_parser = cli::jobs)]
    jobs: Option<usize>,
    /// Seconds that one seed may take
    #[arg(long, value_parser = cli::seconds, default_value = "300")]
    patience: Duration,
    /// Seeds to go on for after a bug is found: who else finds it?
    #[arg(long, default_value_t = 0)]
    more: u64,
    /// What keeps the nodes' rows
    #[arg(long, default_value = "memory")]
    engine: EngineKind,
    #[arg(short, long, default_value = "text")]
    output: Format,
    /// Sweeps one seed that must fail with a planted bug and hold without: whether failures are seen at all
    #[arg(long, conflicts_with_all = ["only", "seeds", "jobs", "more", "engine"])]
    canary: bool,
}

/// What a process is told that runs one seed.
#[derive(Subcommand)]
enum Child {
    #[command(hide = true)]
    Run {
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        mutant: Option<String>,
        #[arg(long, default_value = "memory")]
        engine: EngineKind,
        #[arg(long)]
        churn: bool,
        #[arg(short, long)]
        output: Format,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[expect(clippy::print_stderr, reason = "errors are for people")]
fn main() -> ExitCode {
    let code = match command(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    };
    interrupt::exit_code().map_or(code, ExitCode::from)
}

/// True if all were found as expected.
#[expect(clippy::print_stderr, reason = "what is left out is for people")]
fn command(arguments: Arguments) -> Result<bool, String> {
    if let Some(Child::Run {
        seed,
        mutant,
        engine,
        churn,
        output,
    }) = arguments.child
    {
        mutant.as_deref().map(chosen).transpose()?;
        return child(&hunt::run_here(seed, engine, churn), output);
    }
    for name in &arguments.only {
        if let Some(needs) = needs(chosen(name)?, arguments.engine) {
            return Err(format!("{name} {needs}"));
        }
    }
    mutants::choose_none();
    interrupt::listen().map_err(|error| error.to_string())?;
    if arguments.canary {
        return canary(&arguments);
    }
    let is_wanted =
        |mutant: &&Mutant| arguments.only.is_empty() || arguments.only.iter().any(|name| name == mutant.name);
    let (todo, without): (Vec<&'static Mutant>, Vec<_>) = MUTANTS
        .iter()
        .filter(is_wanted)
        .partition(|mutant| needs(mutant, arguments.engine).is_none());
    let report = all(&todo, &arguments)?;
    report.print(arguments.output)?;
    if let Some(text) = &report.interrupted {
        eprintln!("{text}");
        return Ok(false);
    }
    for mutant in without {
        let needs = needs(mutant, arguments.engine).unwrap_or_default();
        eprintln!("not looked for: {}, which {needs}", mutant.name);
    }
    Ok(report.as_expected == todo.len())
}

/// What a bug needs that this run does not have.
fn needs(mutant: &Mutant, engine: EngineKind) -> Option<&'static str> {
    if mutant.needs_files() {
        return Some("is for the fault harness: nodes here have no real files");
    }
    (mutant.needs_rocks() && engine.is_default()).then_some("needs --engine rocks")
}

fn chosen(name: &str) -> Result<&'static Mutant, String> {
    mutants::choose(name).map_err(|unknown| unknown.to_string())
}

/// Tells what came of a seed.
#[expect(clippy::print_stdout, reason = "the outcome is for the process that sent it")]
fn child(outcome: &Outcome, output: Format) -> Result<bool, String> {
    match output {
        Format::Text => println!("{outcome}"),
        Format::Json => println!("{}", json(outcome)?),
    }
    Ok(outcome.is_clean())
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
fn canary(arguments: &Arguments) -> Result<bool, String> {
    let (name, seed) = CANARY;
    let mutant = chosen(name)?;
    mutants::choose_none();
    let told = hunt::canary(mutant, seed, arguments.patience).map_err(|error| error.to_string())?;
    if interrupt::came() {
        return Ok(false);
    }
    match &told {
        Ok(failure) => println!(
            "the canary is seen: with {name} seed {seed} fails: {}: {}",
            failure.found_by, failure.text
        ),
        Err(text) => println!("THE CANARY IS NOT SEEN: {text}"),
    }
    Ok(told.is_ok())
}

/// Searches for all of them, and prints what is found as it comes.
fn all(todo: &[&'static Mutant], arguments: &Arguments) -> Result<Report, String> {
    let begin = Instant::now();
    let mut hunt = Hunt::new(arguments.seeds.clone(), arguments.patience, arguments.engine);
    hunt.more = arguments.more;
    let next = AtomicUsize::new(0);
    let error = Mutex::new(None);
    let bar = bar(todo.len());
    let (tell, told) = mpsc::channel();
    let found = std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.unwrap_or_else(cli::cores) {
            let tell = tell.clone();
            let (hunt, next, error) = (&hunt, &next, &error);
            scope.spawn(move || {
                while let Some(mutant) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match hunt.look_for(mutant) {
                        // Whoever listens does so to the end.
                        Ok(Some(found)) => drop(tell.send(found)),
                        Ok(None) => break,
                        Err(e) => *error.lock().unwrap_or_else(|e| e.into_inner()) = Some(e),
                    }
                }
            });
        }
        drop(tell);
        follow(&told, &bar, arguments.output)
    });
    bar.finish_and_clear();
    match error.into_inner() {
        Ok(None) => {
            let mut report = Report::new(found, hunt.unplanted(), begin.elapsed());
            report.interrupted = interrupt::came().then(|| report.so_far(todo.len(), hunt.runs()));
            Ok(report)
        }
        Ok(Some(error)) => Err(error.to_string()),
        Err(_) => Err("a thread panicked".into()),
    }
}

fn bar(len: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} ETA {eta} {msg}");
    let bar = ProgressBar::new(len as u64);
    bar.enable_steady_tick(Duration::from_secs(1));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Collects what is found. Shows it at once, if it is shown as text.
#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
fn follow(told: &mpsc::Receiver<Found>, bar: &ProgressBar, output: Format) -> Vec<Found> {
    let say = |line: &dyn fmt::Display| {
        if output == Format::Text {
            bar.suspend(|| println!("{line}"));
        }
    };
    say(&HEAD);
    let mut all = Vec::new();
    for found in told {
        say(&Row(&found));
        all.push(found);
        let expected = all.iter().filter(|found| found.expected).count();
        bar.set_message(format!("{expected} of {} found as expected", all.len()));
        bar.inc(1);
    }
    all.sort_by_key(|found| found.mutant);
    all
}

const HEAD: &str = "| mutant                         | found by              | expected | seeds | seconds | reached |\n\
                    |--------------------------------|-----------------------|----------|-------|---------|---------|";

struct Row<'a>(&'a Found);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found {
            mutant,
            seeds,
            seconds,
            reached,
            by,
            expected,
            ..
        } = self.0;
        let finder = by.as_ref().map_or("NOT FOUND", |(_, failure)| &failure.found_by);
        let as_expected = if *expected { "yes" } else { "NO" };
        write!(
            f,
            "| {mutant:30} | {finder:21} | {as_expected:8} | {seeds:5} | {seconds:7.1} | {reached:7} |"
        )?;
        match by {
            Some((seed, failure)) if !expected => write!(f, " seed {seed}: {}", failure.text),
            Some((seed, _)) => write!(f, " seed {seed}"),
            None => Ok(()),
        }
    }
}

/// All that was found.
#[derive(Serialize)]
struct Report {
    /// Version and commit of the simulator.
    version: &'static str,
    mutants: Vec<Found>,
    as_expected: usize,
    /// Of those that were found as expected: how many seeds it took.
    median_seeds: u64,
    max_seeds: u64,
    seconds: f64,
    /// Seeds that failed without a planted bug.
    unplanted: Vec<(u64, Failure)>,
    /// How far it had come when it was told to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    interrupted: Option<String>,
}

impl Report {
    fn new(found: Vec<Found>, unplanted: Vec<(u64, Failure)>, elapsed: Duration) -> Self {
        let expected = found.iter().filter(|found| found.expected);
        let mut seeds: Vec<u64> = expected.map(|found| found.seeds).collect();
        seeds.sort_unstable();
        Self {
            version: VERSION,
            interrupted: None,
            as_expected: seeds.len(),
            median_seeds: seeds.get(seeds.len() / 2).copied().unwrap_or_default(),
            max_seeds: seeds.last().copied().unwrap_or_default(),
            seconds: elapsed.as_secs_f64(),
            mutants: found,
            unplanted,
        }
    }

    /// How far it has come, of so many bugs and by so many runs.
    fn so_far(&self, of: usize, runs: u64) -> String {
        let unplanted: BTreeSet<u64> = self.unplanted.iter().map(|(seed, _)| *seed).collect();
        format!(
            "INTERRUPTED: {} of {of} bugs done, {} not found as expected; {runs} runs done, {} seeds failed without a planted bug",
            self.mutants.len(),
            self.mutants.len() - self.as_expected,
            unplanted.len()
        )
    }

    #[expect(clippy::print_stdout, reason = "the report is what it is run for")]
    fn print(&self, output: Format) -> Result<(), String> {
        match output {
            Format::Text => println!("{self}"),
            Format::Json => println!("{}", json(self)?),
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (seed, failure) in &self.unplanted {
            writeln!(
                f,
                "SEED {seed} FAILS WITHOUT A PLANTED BUG: {}: {}",
                failure.found_by, failure.text
            )?;
        }
        let found = &self.mutants[..];
        let all = found.len() * 2 > MUTANTS.len();
        writeln!(f, "{}", Matrix { found, all })?;
        write!(
            f,
            "{} of {} found as expected; median seeds {}, max {}; {:.0} s",
            self.as_expected,
            self.mutants.len(),
            self.median_seeds,
            self.max_seeds,
            self.seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory as _;

    use super::*;

    fn found(mutant: &'static str, seeds: u64, by: Option<&str>, expected: bool) -> Found {
        Found {
            mutant,
            breaks: "",
            seeds,
            seconds: 1.5,
            reached: seeds,
            first: BTreeMap::new(),
            at_all: BTreeMap::new(),
            by: by.map(|by| (7, Failure::new(by, "in words".into()))),
            expected,
        }
    }

    #[test]
    fn the_last_line_counts_what_was_found_as_expected() {
        let all = vec![
            found("a", 3, Some("linear"), true),
            found("b", 200, None, false),
            found("c", 9, Some("watch"), true),
            found("d", 200, Some("bank"), false),
            found("e", 1, Some("linear"), true),
        ];
        assert!(
            Row(&all[0])
                .to_string()
                .ends_with("| linear                | yes      |     3 |     1.5 |       3 | seed 7")
        );
        assert!(Row(&all[1]).to_string().contains("| NOT FOUND "));
        assert!(Row(&all[3]).to_string().ends_with("| seed 7: in words"));
        let failed = vec![(5, Failure::new("bank", "a sum".into()))];
        let report = Report::new(all, failed, Duration::from_secs(60));
        assert_eq!(
            report.so_far(58, 400),
            "INTERRUPTED: 5 of 58 bugs done, 2 not found as expected; 400 runs done, 1 seeds failed without a planted bug"
        );
        let report = report.to_string();
        // Between them: who found what.
        let lines = [report.lines().next().unwrap(), report.lines().last().unwrap()];
        let last = "3 of 5 found as expected; median seeds 3, max 9; 60 s";
        assert_eq!(lines, ["SEED 5 FAILS WITHOUT A PLANTED BUG: bank: a sum", last]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        let named = parse("it ack-before-fsync --seeds 3..5").unwrap();
        assert_eq!(
            (named.only, named.seeds),
            (vec!["ack-before-fsync".to_owned()], 3..5)
        );
        assert!(parse("it run --seed 3 -o json").unwrap().child.is_some());
        assert!(parse("it --canary ack-before-fsync").is_err());
        for wrong in ["--seeds 5..5", "--jobs 0", "--patience 0"] {
            let error = parse(&format!("it {wrong}")).err();
            assert_eq!(error.map(|error| error.exit_code()), Some(2), "{wrong}");
        }
    }
}
