//! The program `jepsen`: runs the fault harness, and checks histories again.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvsvr_jepsen::{
    check::Verdict,
    runner::{
        Failure, VERSION,
        guard::{Guard, sweep_at_the_end},
        judge::Ruling,
        options::Options,
        plan::Plan,
        planted,
        planted::Planted,
        progress::Progress,
        recheck::recheck,
        run,
        summary::Summary,
    },
    workload::Stop,
};
use tokio::signal::unix::{SignalKind, signal};

const EXIT_CODES: &str = "Exit codes:
  0  passed: everything that had to happen happened, and every checker says valid
  1  invalid: a checker says invalid or unknown, or a node panicked, ended without reason or did not recover
  2  flags that cannot be used, or a fault that is not possible on this machine
  3  rejected: a fault never happened in one of its ways, too few operations were carried out or too many have an unknown outcome,
     a kind of call or the quiet times could not be judged, or a long run has seen no snapshot or no compaction
  4  the harness itself failed, which says nothing about the cluster
  5  interrupted";

/// Runs workloads on a kvsvr cluster of release binaries while things go wrong, and checks what clients saw.
#[derive(Debug, Parser)]
#[command(name = "jepsen", version = VERSION, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a cluster under load and faults.
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArgs>),
    /// Removes what runs have left that ended, once standard input is closed. `run` starts it, to be left nothing by when it is killed.
    #[command(hide = true)]
    Sweep {
        /// Where disks of nodes are.
        scratch: PathBuf,
        /// The process of the run.
        guarded: u32,
    },
    /// Checks the history of an earlier run again. Needs the context.json beside it.
    Check {
        /// history.jsonl of a report.
        history: PathBuf,
        /// How to print the verdicts.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// What clients do: register, set_list, counter, bank, watch, consumer, session, lease, variety, or all. Several run side by side.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    workload: Vec<String>,
    /// What goes wrong: kill, kill-all, pause, partition, link, power, clock, disk-slow, disk-full, disk-error, corrupt, rolling,
    /// transfer, members, replace, or all that is possible on this machine (but for members and replace); or none, alone.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    nemesis: Vec<String>,
    /// Minutes of load.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Nodes.
    #[arg(long, default_value_t = 5)]
    nodes: u64,
    /// Data shards.
    #[arg(long, default_value_t = 3)]
    shards: u32,
    /// What everything random is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clients of all programs together.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Operations in a second that clients try to make together.
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Runs this plan.json again, instead of drawing one.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// The node's binary [default: kvsvr beside this program].
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Nodes keep their whole log, so that unknown outcomes are resolved from it and all that was acknowledged is looked for in it; then
    /// they send no snapshots.
    #[arg(long)]
    keep_log: bool,
    /// Plants this bug in nodes and clients, to see who finds it. This program and the node's must be built with the feature `mutants`.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Loopback behind a TCP proxy, even if namespaces are possible.
    #[arg(long)]
    proxy: bool,
    /// Operations that must be carried out [default: 20 for each second of load].
    #[arg(long, value_name = "N")]
    least_ok: Option<u64>,
    /// Percent of unknown outcomes that are too many.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    most_unknown: f64,
    /// Where the report is written. An earlier report there is replaced.
    #[arg(long, value_name = "DIR", default_value = "jepsen-report")]
    report: PathBuf,
    /// Where the disks of nodes are made [default: kvsvr-jepsen-UID in the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

impl RunArgs {
    fn options(self) -> Result<Options, String> {
        let beside = || {
            let program = std::env::current_exe().map_err(|error| error.to_string())?;
            Ok::<_, String>(program.with_file_name("kvsvr"))
        };
        let binary = self.binary.map_or_else(beside, Ok)?;
        let binary = std::fs::canonicalize(&binary)
            .map_err(|error| format!("{}: {error}; build it, or name it by --binary", binary.display()))?;
        let mutant = match &self.mutant {
            Some(name) => Some(plant(name, &binary)?),
            None => no_mutant()?,
        };
        if !(self.minutes.is_finite() && self.minutes > 0.0) {
            return Err("--minutes must be a positive number".into());
        }
        if !(0.0..=100.0).contains(&self.most_unknown) {
            return Err("--most-unknown is a share in percent: 0 to 100".into());
        }
        if self.report.exists() && !self.report.is_dir() {
            let report = self.report.display();
            return Err(format!(
                "--report {report}: there is a file of that name; a directory is needed"
            ));
        }
        let read = |path: PathBuf| -> Result<Plan, String> {
            let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
        };
        let command = again(std::env::args().skip(2), &self.report);
        // Not another user's.
        let user = rustix::process::geteuid();
        let temporary = || std::env::temp_dir().join(format!("kvsvr-jepsen-{}", user.as_raw()));
        Ok(Options {
            binary,
            workloads: self.workload,
            nemeses: self.nemesis,
            load: Duration::from_secs_f64(self.minutes * 60.0),
            nodes: self.nodes,
            shards: self.shards,
            seed: self.seed,
            clients: self.clients,
            rate: self.rate,
            proxy: self.proxy,
            scratch: self.scratch.unwrap_or_else(temporary),
            report: self.report,
            least_ok: self.least_ok,
            most_unknown: self.most_unknown,
            plan: self.plan.map(read).transpose()?,
            keep_log: self.keep_log,
            mutant,
            command,
        })
    }
}

/// The command that runs the same plan again, from a clone, into another directory.
fn again(mut given: impl Iterator<Item = String>, report: &Path) -> String {
    /// What the plan has.
    const OF_PLAN: [&str; 8] = [
        "--plan",
        "--report",
        "--seed",
        "--minutes",
        "--nodes",
        "--shards",
        "--workload",
        "--nemesis",
    ];
    let plan = report.join("plan.json");
    let mut command = format!("scripts/jepsen.sh run --plan {}", plan.display());
    while let Some(argument) = given.next() {
        let name = argument.split('=').next().unwrap_or_default();
        if !OF_PLAN.contains(&name) {
            command = format!("{command} {argument}");
        } else if name == argument {
            given.next();
        }
    }
    format!("{command} --report {}-again", report.display())
}

/// The bug of this name. From now on this process' clients have it.
#[cfg(feature = "mutants")]
fn plant(name: &str, binary: &Path) -> Result<Planted, String> {
    let mutant = kvsvr_client::mutants::choose(name).map_err(|unknown| unknown.to_string())?;
    let program = std::fs::read(binary).map_err(|error| format!("{}: {error}", binary.display()))?;
    // The search in texts is quick in debug builds too.
    if !String::from_utf8_lossy(&program).contains(mutant.name) {
        let text = "has no planted bugs; build it with `--features mutants`";
        return Err(format!("{} {text}", binary.display()));
    }
    Ok(Planted {
        name: mutant.name.to_owned(),
        breaks: mutant.breaks.to_owned(),
        expected: mutant
            .expected
            .iter()
            .map(|&checker| checker.to_owned())
            .collect(),
    })
}

#[cfg(not(feature = "mutants"))]
fn plant(name: &str, _binary: &Path) -> Result<Planted, String> {
    Err(format!(
        "{name} cannot be planted: this program is built without the feature `mutants`"
    ))
}

/// Nodes would take it from this environment, and the report would not say so.
fn no_mutant() -> Result<Option<Planted>, String> {
    match std::env::var_os(planted::VARIABLE) {
        Some(name) if !name.is_empty() => Err(format!("{} is set; use --mutant", planted::VARIABLE)),
        _ => Ok(None),
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "mutants")]
    if let Err(error) = kvsvr_client::mutants::choose_from_environment() {
        return ExitCode::from(complain(&error.to_string(), 2));
    }
    let code = match Cli::parse().command {
        Command::Run(args) => run_it(*args),
        Command::Sweep { scratch, guarded } => match sweep_at_the_end(&scratch, guarded) {
            Ok(()) => 0,
            Err(error) => complain(&error.to_string(), 4),
        },
        Command::Check { history, output } => check_it(&history, output),
    };
    ExitCode::from(code)
}

fn run_it(args: RunArgs) -> u8 {
    let (output, quiet) = (args.output, args.quiet);
    let options = match args.options() {
        Ok(options) => options,
        Err(text) => return complain(&text, 2),
    };
    let interrupt = Stop::new();
    if let Err(error) = listen(interrupt.clone()) {
        return complain(&format!("cannot listen for signals: {error}"), 4);
    }
    let guard = std::env::current_exe().and_then(|program| Guard::start(&program, &options.scratch));
    let guard = match guard {
        Ok(guard) => guard,
        Err(error) => return complain(&format!("cannot start the guard: {error}"), 4),
    };
    let code = show(run(&options, &interrupt, &mut Progress::new(quiet)), output);
    match guard.end() {
        Ok(()) => code,
        Err(error) => complain(&error.to_string(), code),
    }
}

fn show(result: Result<Summary, Failure>, output: Output) -> u8 {
    match result {
        Ok(summary) => {
            match output {
                Output::Table => print(&summary.to_string()),
                Output::Json => print(&serde_json::to_string_pretty(&summary).unwrap_or_default()),
            }
            match summary.judged.ruling {
                Ruling::Passed => 0,
                Ruling::Invalid => 1,
                Ruling::Rejected => 3,
                Ruling::Interrupted => 5,
            }
        }
        Err(failure @ Failure::Usage(_)) => complain(&failure.to_string(), 2),
        Err(failure @ Failure::Harness(_)) => complain(&failure.to_string(), 4),
    }
}

/// The first SIGINT or SIGTERM lets the run come to its end early. The second ends this process at once, and with it all nodes; its
/// guard removes what is left.
fn listen(interrupt: Stop) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut hang_up, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            for last in [false, true] {
                tokio::select! {
                    _ = hang_up.recv() => {}
                    _ = terminate.recv() => {}
                }
                if last {
                    std::process::exit(5);
                }
                interrupt.set();
                complain("ending; a second signal ends it at once", 0);
            }
        });
    })?;
    Ok(())
}

fn check_it(history: &Path, output: Output) -> u8 {
    let verdicts = match recheck(history) {
        Ok(verdicts) => verdicts,
        Err(error) => return complain(&error.to_string(), 2),
    };
    match output {
        Output::Table => {
            for (name, verdict) in &verdicts {
                print(&format!("{name:<12} {verdict}"));
            }
        }
        Output::Json => {
            let texts: std::collections::BTreeMap<_, _> = verdicts
                .iter()
                .map(|(name, verdict)| (name, verdict.to_string()))
                .collect();
            print(&serde_json::to_string_pretty(&texts).unwrap_or_default());
        }
    }
    u8::from(!verdicts.values().all(Verdict::is_valid))
}

/// A reader that has gone away is no error.
fn print(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}

fn complain(text: &str, code: u8) -> u8 {
    // Nobody is left to tell if this fails.
    drop(writeln!(io::stderr(), "jepsen: {text}"));
    code
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_same_plan_is_run_again() {
        let given = "--seed 4 --workload bank,lease --minutes=2 --rate 9 --proxy --report here";
        let command = again(given.split(' ').map(str::to_owned), Path::new("here"));
        assert_eq!(
            command,
            "scripts/jepsen.sh run --plan here/plan.json --rate 9 --proxy --report here-again"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let line = "jepsen run --workload bank,lease --nemesis kill,pause --minutes 0.5 --seed 7";
        let Command::Run(args) = Cli::parse_from(line.split(' ')).command else {
            panic!("not a run")
        };
        assert_eq!(args.workload, ["bank", "lease"]);
        assert_eq!(
            (args.nemesis.len(), args.minutes, args.seed, args.nodes),
            (2, 0.5, 7, 5)
        );
    }
}
