//! `kvsvr-sim`: runs simulated clusters.
//!
//! Exit codes: 0 all held, 1 something failed, 2 wrong usage, 130 and 143 interrupted.

mod arguments;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser as _;
use kvsvr_core::mutants;
use kvsvr_jepsen::history::jsonl;
use kvsvr_sim::{
    VERSION, demo, interrupt,
    outcome::Outcome,
    plan::Plan,
    run,
    shrink::{self, Shrink},
    sometimes::demanded,
    sweep::{self, Item, Summary, Sweep, Work, child},
    timeline,
};

use self::arguments::{Arguments, Command, Format, Limits, Many, Show};

/// What is said by who was told to end.
const INTERRUPTED: &str = "INTERRUPTED";
/// Most messages of a report.
const MESSAGES: usize = 10_000;
/// From so many seeds on every event must have happened: the rarest one happens in about one of a hundred.
const ALL_EVENTS_FROM: u64 = 1_000;

/// Prints a line. Who closes the pipe has read enough (`| head`): that is no failure.
macro_rules! say {
    ($($text:tt)*) => {
        if let Err(error) = writeln!(io::stdout(), $($text)*) {
            std::process::exit(if error.kind() == io::ErrorKind::BrokenPipe { 0 } else { 2 });
        }
    };
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
    let arguments = Arguments::parse();
    // KVSVR_MUTANT; the processes of a sweep inherit it.
    if let Err(error) = kvsvr_client::mutants::choose_from_environment() {
        return fail(&error.to_string());
    }
    let code = match command(arguments.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    };
    interrupt::exit_code().map_or(code, ExitCode::from)
}

#[expect(clippy::print_stderr, reason = "errors are for people")]
fn fail(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}

/// True if all held.
fn command(command: Command) -> Result<bool, String> {
    match command {
        Command::Run { seed, show } => one(Plan::from_seed(seed), &format!("run --seed {seed}"), &show),
        Command::Replay { plan, mutant, show } => {
            let mut arguments = format!("replay {}", plan.display());
            if let Some(mutant) = mutant {
                mutants::choose(&mutant).map_err(|error| error.to_string())?;
                arguments = format!("{arguments} --mutant {mutant}");
            }
            one(read(&plan)?, &arguments, &show)
        }
        Command::Plan { seed } => {
            say!("{}", Plan::from_seed(seed).to_json());
            Ok(true)
        }
        Command::Sweep {
            many,
            keep_going,
            reports,
            all_events,
        } => {
            let sweep = Sweep {
                keep_going,
                reports,
                ..many.sweep()
            };
            all(&sweep, &many, all_events)
        }
        Command::Meta { many } => meta(&many),
        Command::Corpus { directory, limits } => corpus(&directory, &limits),
        Command::Shrink {
            plan,
            minutes,
            patience,
        } => shrink(&read(&plan)?, minutes, patience),
        Command::Demo { seed, seconds } => {
            let summary = demo::run(seed, seconds);
            say!("{summary}");
            Ok(summary.lost.is_empty())
        }
    }
}

/// Sweeps; as `sweep::sweep`, but listens to signals from now on.
fn swept(sweep: &Sweep) -> Result<Summary, String> {
    interrupt::listen().map_err(|error| error.to_string())?;
    sweep::sweep(sweep).map_err(|error| error.to_string())
}

fn all(sweep: &Sweep, many: &Many, all_events: Option<bool>) -> Result<bool, String> {
    let summary = swept(sweep)?;
    let demanded = demanded(many.limits.how.engine.unwrap_or_default(), many.limits.how.churn);
    // Who was interrupted has not looked for all of them.
    let missing = match all_events.unwrap_or(summary.seeds >= ALL_EVENTS_FROM) {
        true if !interrupt::came() => summary.missing(&demanded),
        _ => Vec::new(),
    };
    report(&summary, &missing);
    let blind = summary.blind();
    blind.iter().for_each(|text| say!("{text}"));
    Ok(summary.failed.is_empty() && missing.is_empty() && blind.is_none())
}

/// The command that runs it again.
fn again(arguments: &str) -> String {
    match std::env::var("KVSVR_MUTANT") {
        Ok(name) => format!("KVSVR_MUTANT={name} scripts/sim.sh {arguments}"),
        _ => format!("scripts/sim.sh {arguments}"),
    }
}

fn read(plan: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(plan).map_err(|error| format!("{}: {error}", plan.display()))?;
    Plan::from_json(&text)
}

fn one(plan: Plan, arguments: &str, show: &Show) -> Result<bool, String> {
    let plan = show.how.change(plan);
    let (outcome, record) = run::run(&plan, show.report.is_some());
    let again = [vec![again(arguments)], show.how.arguments()].concat().join(" ");
    if let Some(directory) = &show.report {
        let written = write_report(directory, &plan, &outcome, &record, &again);
        written.map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    match show.output {
        Format::Text => {
            say!("{outcome}");
            if !outcome.is_clean() {
                say!("again        {again}");
            }
        }
        Format::Json => say!(
            "{}",
            serde_json::to_string(&outcome).map_err(|error| error.to_string())?
        ),
    }
    Ok(outcome.is_clean())
}

fn write_report(
    directory: &Path,
    plan: &Plan,
    outcome: &Outcome,
    record: &run::Record,
    again: &str,
) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut shown = timeline::record(plan, outcome, record, again);
    shown.keep_messages(MESSAGES);
    std::fs::write(directory.join("plan.json"), plan.to_json())?;
    let mut history = Vec::new();
    jsonl::write(&mut history, &record.history)?;
    std::fs::write(directory.join("history.jsonl"), history)?;
    std::fs::write(directory.join("record.json"), serde_json::to_string(&shown)?)?;
    std::fs::write(
        directory.join("timeline.html"),
        kvsvr_jepsen::report::render(&shown),
    )
}

fn meta(many: &Many) -> Result<bool, String> {
    let sweep = Sweep {
        twice: true,
        ..many.sweep()
    };
    let summary = swept(&sweep)?;
    let differ = summary
        .failed
        .iter()
        .flat_map(|outcome| &outcome.failures)
        .filter(|failure| failure.found_by == "determinism");
    let differ = differ.count();
    report(&summary, &[]);
    say!("{} seeds run twice, {differ} differ", summary.seeds);
    Ok(summary.failed.is_empty())
}

fn corpus(directory: &Path, limits: &Limits) -> Result<bool, String> {
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    let mut plans: Vec<PathBuf> = std::fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    plans.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    plans.sort();
    if plans.is_empty() {
        return Err(format!("there is no plan in {}", directory.display()));
    }
    let summary = swept(&limits.sweep(Work::Plans(plans.clone())))?;
    say!(
        "{} of {} plans, {} failed",
        summary.seeds,
        plans.len(),
        summary.failed.len()
    );
    summary.failed.iter().for_each(tell);
    let mut blind = 0;
    for path in &plans {
        if interrupt::came() {
            say!("{INTERRUPTED}");
            break;
        }
        blind += usize::from(!still_finds(path, limits)?);
    }
    Ok(summary.failed.is_empty() && blind == 0)
}

/// Whether a plan still finds the bug that it is kept for. That all is well today says nothing if the plan does not get there any more.
fn still_finds(path: &Path, limits: &Limits) -> Result<bool, String> {
    let Some(name) = read(path)?.finds else {
        return Ok(true);
    };
    let mutant = mutants::MUTANTS.iter().find(|mutant| mutant.name == name);
    let mutant = mutant.ok_or_else(|| format!("{}: there is no planted bug {name:?}", path.display()))?;
    let mut arguments = Item::Plan(path.to_owned()).arguments();
    arguments.extend(["--mutant".to_owned(), name.clone()]);
    arguments.extend(limits.how.arguments());
    let ended = child::child(&arguments, limits.patience).map_err(|error| error.to_string())?;
    if interrupt::came() {
        return Ok(true);
    }
    let failures = ended.map_or_else(|none| vec![none.failure()], |outcome| outcome.failures);
    let found = failures
        .iter()
        .find(|failure| mutant.expected.contains(&&failure.found_by[..]));
    match found {
        Some(failure) => say!("{}: finds {name}, by {}", path.display(), failure.found_by),
        None => say!("{}: DOES NOT FIND {name} any more", path.display()),
    }
    Ok(found.is_some())
}

#[expect(clippy::print_stderr, reason = "the smallest plan is what it is run for")]
fn shrink(plan: &Plan, budget: Duration, patience: Duration) -> Result<bool, String> {
    let size = |plan: &Plan| {
        format!(
            "{} faults, {} programs, {} nodes, {} shards, {:.1} s",
            plan.faults.len(),
            plan.workload.programs.len(),
            plan.nodes,
            plan.shards,
            plan.length().as_secs_f64()
        )
    };
    let how = Shrink {
        budget,
        patience,
        progress: &|tried, fails, best| {
            if fails {
                eprintln!("after {tried} runs: {}", size(best));
            }
        },
    };
    interrupt::listen().map_err(|error| error.to_string())?;
    let shrunk = shrink::shrink(plan, &how).map_err(|error| error.to_string())?;
    if interrupt::came() {
        eprintln!("{INTERRUPTED}");
        // The smallest so far may be of use.
        shrunk.iter().for_each(|shrunk| say!("{}", shrunk.plan.to_json()));
        return Ok(false);
    }
    let shrunk = shrunk.ok_or_else(|| match std::env::var("KVSVR_MUTANT") {
        Ok(name) => format!("the plan does not fail with {name}"),
        Err(_) => {
            "the plan does not fail; if it failed with a planted bug, set KVSVR_MUTANT to its name".to_owned()
        }
    })?;
    let more = if shrunk.cut_short {
        "; the time was too short to try everything"
    } else {
        ""
    };
    eprintln!(
        "{} runs: {} -> {}{more}",
        shrunk.tried,
        size(plan),
        size(&shrunk.plan)
    );
    for failure in &shrunk.outcome.failures {
        eprintln!("{}: {}", failure.found_by, failure.text);
    }
    say!("{}", shrunk.plan.to_json());
    Ok(true)
}

fn report(summary: &Summary, missing: &[&str]) {
    let [ok, failed, unknown] = summary.operations;
    say!(
        "{} seeds, {:.1} simulated hours in {:.0} s: {:.0} seeds/h, {:.0} simulated h/h",
        summary.seeds,
        summary.simulated.as_secs_f64() / 3600.0,
        summary.elapsed.as_secs_f64(),
        summary.seeds_per_hour(),
        summary.speed()
    );
    say!("operations: {ok} succeeded, {failed} failed, {unknown} unknown");
    for (event, (times, seeds)) in &summary.sometimes {
        say!("  {event:40} {times:9} times in {seeds} seeds");
    }
    if !summary.excused.is_empty() {
        say!("ends of processes that faults explain:");
    }
    for (why, (times, seeds)) in &summary.excused {
        say!("  {why:50} {times:9} times in {seeds} seeds");
    }
    for (seed, unknown) in &summary.unknown {
        say!("UNKNOWN in seed {seed}: {unknown}");
    }
    for event in missing {
        say!("NEVER HAPPENED: {event}");
    }
    for outcome in &summary.failed {
        tell(outcome);
    }
    say!("kvsvr-sim {VERSION}");
    if interrupt::came() {
        say!(
            "{INTERRUPTED}: {} seeds done, {} failed",
            summary.seeds,
            summary.failed.len()
        );
    } else {
        say!("{} failed", summary.failed.len());
    }
}

fn tell(outcome: &Outcome) {
    say!("FAILED seed {} ({})", outcome.seed, outcome.origin);
    for failure in &outcome.failures {
        say!("  {}: {}", failure.found_by, failure.text);
    }
}
