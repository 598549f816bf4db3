//! `kvsvr-sim-mutants`: whether the simulator finds bugs that are planted in the product on purpose, and how soon.
//!
//! Each planted bug (see [`kvsvr_core::mutants`]) gets seeds, each in a process of its own, until a run fails. A failure counts if the
//! seed holds without the bug, and is the expected one if its finder is among those that the bug names. Prints a table.
//!
//! Exit codes: 0 all were found by an expected checker, 1 some were not, 2 wrong usage.

use std::{
    io::Read as _,
    ops::Range,
    process::{Command, ExitCode, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use clap::Parser;
use kvsvr_core::mutants::{self, MUTANTS, Mutant};
use kvsvr_sim::{plan::Plan, run};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(
    name = "kvsvr-sim-mutants",
    about = "Plants known bugs in the node, one at a time, and looks whether the simulator finds them"
)]
struct Arguments {
    /// Only these; all by default
    #[arg(value_name = "MUTANT")]
    only: Vec<String>,
    /// A..B: tried in this order
    #[arg(long, value_parser = seeds, default_value = "0..200")]
    seeds: Range<u64>,
    /// Mutants at a time [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Seconds that one seed may take
    #[arg(long, default_value_t = 300)]
    patience: u64,
    /// Runs this seed in this process and prints what failed as JSON
    #[arg(long, hide = true)]
    one: Option<u64>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed
        .filter(|seeds: &Range<u64>| !seeds.is_empty())
        .ok_or_else(|| "write A..B, as in 0..1000".into())
}

/// What a process tells of its seed.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    /// Who found what.
    failures: Vec<(String, String)>,
    /// How often the planted bug's place was passed.
    reached: u64,
}

/// What came of a mutant.
struct Found {
    mutant: &'static Mutant,
    /// Seeds that were run, those to compare left out.
    seeds: u64,
    elapsed: Duration,
    /// Runs that passed the bug's place.
    reached: u64,
    /// The seed, the finder, its words.
    by: Option<(u64, String, String)>,
}

impl Found {
    fn is_expected(&self) -> bool {
        let by = self.by.as_ref();
        by.is_some_and(|(_, finder, _)| self.mutant.expected.contains(&finder.as_str()))
    }
}

#[expect(clippy::print_stderr, reason = "errors are for people")]
fn main() -> ExitCode {
    match command(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// True if all were found as expected.
fn command(arguments: &Arguments) -> Result<bool, String> {
    if let Some(seed) = arguments.one {
        return one(seed, arguments.only.first());
    }
    let wanted =
        |mutant: &&Mutant| arguments.only.is_empty() || arguments.only.iter().any(|name| name == mutant.name);
    for name in &arguments.only {
        mutants::choose(name).map_err(|unknown| unknown.to_string())?;
    }
    mutants::choose_none();
    let todo: Vec<&'static Mutant> = MUTANTS.iter().filter(wanted).collect();
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let error = Mutex::new(None);
    let (tell, told) = mpsc::channel();
    let expected = std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.unwrap_or_else(cores).max(1) {
            let tell = tell.clone();
            let (todo, next, error) = (&todo, &next, &error);
            scope.spawn(move || {
                while let Some(mutant) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match hunt(mutant, arguments) {
                        // Nobody listens any more: the others failed.
                        Ok(found) => drop(tell.send(found)),
                        Err(e) => *error.lock().unwrap_or_else(|e| e.into_inner()) = Some(e),
                    }
                }
            });
        }
        drop(tell);
        report(told)
    });
    match error.into_inner() {
        Ok(None) => Ok(expected == todo.len()),
        Ok(Some(error)) => Err(error),
        Err(_) => Err("a thread panicked".into()),
    }
}

/// Prints what is found as it comes, and says how many were found as expected.
#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
fn report(told: mpsc::Receiver<Found>) -> usize {
    println!("| mutant | found by | expected | seeds | seconds | reached in |");
    println!("|---|---|---|---|---|---|");
    let mut expected = 0;
    for found in told {
        let name = found.mutant.name;
        let by = found.by.as_ref().map_or("NOT FOUND", |(_, finder, _)| finder);
        let as_expected = if found.is_expected() { "yes" } else { "no" };
        expected += usize::from(found.is_expected());
        println!(
            "| {name} | {by} | {as_expected} | {} | {:.1} | {} |",
            found.seeds,
            found.elapsed.as_secs_f64(),
            found.reached
        );
        if let Some((seed, _, text)) = found.by.filter(|_| as_expected == "no") {
            println!("  {name}, seed {seed}: {text}");
        }
    }
    expected
}

/// Runs seeds until the bug is found by whom it should be, else keeps the first that found it at all.
fn hunt(mutant: &'static Mutant, arguments: &Arguments) -> Result<Found, String> {
    let begin = Instant::now();
    let mut found = Found {
        mutant,
        seeds: 0,
        elapsed: Duration::ZERO,
        reached: 0,
        by: None,
    };
    for seed in arguments.seeds.clone() {
        let told = apart(seed, Some(mutant.name), arguments.patience)?;
        found.seeds += 1;
        found.reached += u64::from(told.reached > 0);
        let is_expected = |(finder, _): &&(String, String)| mutant.expected.contains(&finder.as_str());
        let failure = told.failures.iter().find(is_expected).or(told.failures.first());
        let Some((finder, text)) = failure.cloned() else {
            continue;
        };
        if !apart(seed, None, arguments.patience)?.failures.is_empty() {
            continue;
        }
        if found.by.is_none() || mutant.expected.contains(&finder.as_str()) {
            found.by = Some((seed, finder, text));
        }
        if found.is_expected() {
            break;
        }
    }
    found.elapsed = begin.elapsed();
    Ok(found)
}

/// Runs a seed in a process of its own.
fn apart(seed: u64, mutant: Option<&str>, patience: u64) -> Result<Told, String> {
    let failed = |error: std::io::Error| format!("a process for seed {seed}: {error}");
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .args(["--one", &seed.to_string()])
        .args(mutant)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut stdout = child.stdout.take();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        stdout
            .as_mut()
            .map(|stdout| stdout.read_to_string(&mut text))
            .transpose()?;
        std::io::Result::Ok(text)
    });
    let until = Instant::now() + Duration::from_secs(patience);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status.to_string();
        }
        if Instant::now() >= until {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            break format!("no end within {patience} s");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = reading
        .join()
        .map_err(|_| "a reader panicked".to_owned())?
        .map_err(failed)?;
    Ok(serde_json::from_str(&text).unwrap_or_else(|_| Told {
        failures: vec![("process".into(), status)],
        reached: 1,
    }))
}

/// Runs a seed here.
#[expect(clippy::print_stdout, reason = "the outcome is for the process that sent it")]
fn one(seed: u64, mutant: Option<&String>) -> Result<bool, String> {
    if let Some(name) = mutant {
        mutants::choose(name).map_err(|unknown| unknown.to_string())?;
    }
    let (outcome, _) = run::run(&Plan::from_seed(seed));
    let failures = outcome.failures.into_iter();
    let told = Told {
        failures: failures.map(|failure| (failure.found_by, failure.text)).collect(),
        reached: mutants::reached(),
    };
    println!(
        "{}",
        serde_json::to_string(&told).map_err(|error| error.to_string())?
    );
    Ok(told.failures.is_empty())
}
