//! `kvsvr-sim`: runs simulated clusters.
//!
//! Exit codes: 0 all held, 1 something failed, 2 wrong usage.

use std::{io, ops::Range, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvsvr_sim::{
    demo,
    outcome::Outcome,
    plan::Plan,
    run,
    sometimes::EVENTS,
    sweep::{self, Summary, Sweep},
};

#[derive(Parser)]
#[command(
    name = "kvsvr-sim",
    about = "Runs simulated kvsvr clusters: the real node code on a simulated network, disks and clocks"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One seed
    Run {
        /// Decides everything that happens
        #[arg(long)]
        seed: u64,
        #[arg(short, long, default_value = "text")]
        output: Format,
    },
    /// One plan from a file, as `plan` prints them
    Replay {
        plan: PathBuf,
        #[arg(short, long, default_value = "text")]
        output: Format,
    },
    /// Prints the plan of a seed
    Plan {
        #[arg(long)]
        seed: u64,
    },
    /// Many seeds, each in a process of its own; stops at the first failure
    Sweep {
        #[command(flatten)]
        many: Many,
        /// Goes on after a failure
        #[arg(long)]
        keep_going: bool,
        /// Every event that must happen sometimes must have happened
        #[arg(long)]
        all_events: bool,
    },
    /// Runs each seed twice, in processes of their own, and compares all that happened
    Meta {
        #[command(flatten)]
        many: Many,
    },
    /// Three nodes under random trouble; prints what happened
    Demo {
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Simulated seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

#[derive(Args)]
struct Many {
    /// A..B: from A on and below B
    #[arg(long, value_parser = seeds)]
    seeds: Range<u64>,
    /// Processes at a time [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Begins no new seed after this many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// Seconds that one seed may take
    #[arg(long, default_value_t = 300)]
    patience: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed
        .filter(|seeds: &Range<u64>| !seeds.is_empty())
        .ok_or_else(|| "write A..B, as in 0..1000".into())
}

impl Many {
    fn sweep(&self, keep_going: bool, twice: bool) -> Sweep {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Sweep {
            seeds: self.seeds.clone(),
            jobs: self.jobs.unwrap_or_else(cores),
            length: self
                .minutes
                .map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
            keep_going,
            patience: Duration::from_secs(self.patience),
            twice,
        }
    }
}

fn main() -> ExitCode {
    // What simulated nodes complain of is to be expected: only on request (RUST_LOG).
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::OFF.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    match command(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "errors are for people")]
fn fail(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}

/// True if all held.
#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
fn command(command: Command) -> Result<bool, String> {
    match command {
        Command::Run { seed, output } => one(&Plan::from_seed(seed), output),
        Command::Replay { plan, output } => {
            let text =
                std::fs::read_to_string(&plan).map_err(|error| format!("{}: {error}", plan.display()))?;
            one(&Plan::from_json(&text)?, output)
        }
        Command::Plan { seed } => {
            println!("{}", Plan::from_seed(seed).to_json());
            Ok(true)
        }
        Command::Sweep {
            many,
            keep_going,
            all_events,
        } => {
            let summary = sweep::sweep(&many.sweep(keep_going, false)).map_err(|error| error.to_string())?;
            let missing = if all_events {
                summary.missing(&EVENTS)
            } else {
                Vec::new()
            };
            report(&summary, &missing);
            Ok(summary.failed.is_empty() && missing.is_empty())
        }
        Command::Meta { many } => {
            let summary = sweep::sweep(&many.sweep(true, true)).map_err(|error| error.to_string())?;
            let differ = summary
                .failed
                .iter()
                .filter(|outcome| outcome.failures[0].found_by == "determinism");
            let differ = differ.count();
            report(&summary, &[]);
            println!("{} seeds run twice, {differ} differ", summary.seeds);
            Ok(differ == 0)
        }
        Command::Demo { seed, seconds } => {
            let summary = demo::run(seed, Duration::from_secs(seconds));
            println!("{summary}");
            Ok(summary.lost.is_empty())
        }
    }
}

#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
fn one(plan: &Plan, output: Format) -> Result<bool, String> {
    let (outcome, _) = run::run(plan);
    match output {
        Format::Text => {
            println!("{outcome}");
            if !outcome.is_clean() {
                println!("again        kvsvr-sim run --seed {}", outcome.seed);
            }
        }
        Format::Json => println!(
            "{}",
            serde_json::to_string(&outcome).map_err(|error| error.to_string())?
        ),
    }
    Ok(outcome.is_clean())
}

#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
fn report(summary: &Summary, missing: &[&str]) {
    let [ok, failed, unknown] = summary.operations;
    println!(
        "{} seeds, {:.1} simulated hours in {:.0} s: {:.0} seeds/h, {:.0} simulated h/h",
        summary.seeds,
        summary.simulated.as_secs_f64() / 3600.0,
        summary.elapsed.as_secs_f64(),
        summary.seeds_per_hour(),
        summary.speed()
    );
    println!("operations: {ok} succeeded, {failed} failed, {unknown} unknown");
    for (event, (times, seeds)) in &summary.sometimes {
        println!("  {event:40} {times:9} times in {seeds} seeds");
    }
    for event in missing {
        println!("NEVER HAPPENED: {event}");
    }
    for outcome in &summary.failed {
        tell(outcome);
    }
    println!("{} failed", summary.failed.len());
}

#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
fn tell(outcome: &Outcome) {
    println!("FAILED seed {} ({})", outcome.seed, outcome.origin);
    for failure in &outcome.failures {
        println!("  {}: {}", failure.found_by, failure.text);
    }
}
