//! The command line of `kvsvr-sim`, and what a sweep is told by it. Belongs to the program, not to the library beside it.

use std::{ops::Range, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvsvr_sim::{
    VERSION, cli,
    engine::EngineKind,
    plan::Plan,
    sweep::{Sweep, Work},
};

#[derive(Parser)]
#[command(
    name = "kvsvr-sim",
    version = VERSION,
    about = "Runs simulated kvsvr clusters: the real node code on a simulated network, disks and clocks"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// One seed
    Run {
        /// Decides everything that happens
        #[arg(long)]
        seed: u64,
        #[command(flatten)]
        show: Show,
    },
    /// One plan from a file, as `plan` prints them
    Replay {
        plan: PathBuf,
        /// Plants this bug before (as KVSVR_MUTANT does)
        #[arg(long)]
        mutant: Option<String>,
        #[command(flatten)]
        show: Show,
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
        /// Where the plans and pictures of failures go, a directory for each
        #[arg(long)]
        reports: Option<PathBuf>,
        /// Fails if one of the events that must happen in a sweep did not [default: true from 1000 seeds on]
        #[arg(long)]
        all_events: Option<bool>,
    },
    /// Runs each seed twice, in processes of their own, and compares all that happened
    Meta {
        #[command(flatten)]
        many: Many,
    },
    /// Runs the plans of past failures
    Corpus {
        /// Their directory
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))]
        directory: PathBuf,
        #[command(flatten)]
        limits: Limits,
    },
    /// Makes a plan that fails smaller, as long as it fails in the same way; prints the smallest
    Shrink {
        plan: PathBuf,
        /// Minutes that it may take
        #[arg(long, value_parser = cli::minutes, default_value = "5")]
        minutes: Duration,
        /// Seconds that one run may take
        #[arg(long, value_parser = cli::seconds, default_value = PATIENCE)]
        patience: Duration,
    },
    /// Three nodes under random trouble; prints what happened
    Demo {
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Simulated seconds
        #[arg(long, value_parser = cli::seconds, default_value = "60")]
        seconds: Duration,
    },
}

#[derive(Args)]
pub(super) struct Show {
    #[command(flatten)]
    pub(super) how: How,
    #[arg(short, long, default_value = "text")]
    pub(super) output: Format,
    /// Writes plan.json, history.jsonl, record.json and timeline.html into this directory
    #[arg(long)]
    pub(super) report: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct How {
    /// What keeps the nodes' rows; `rocks` needs a build with --features rocks [default: memory, or as the plan says]
    #[arg(long)]
    pub(super) engine: Option<EngineKind>,
    /// Operators change the members of the cluster meanwhile
    #[arg(long)]
    pub(super) churn: bool,
}

impl How {
    pub(super) fn change(&self, mut plan: Plan) -> Plan {
        plan.engine = self.engine.unwrap_or(plan.engine);
        if self.churn {
            plan.add_churn();
        }
        plan
    }

    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = self.engine.map_or_else(Vec::new, EngineKind::arguments);
        if self.churn {
            arguments.push("--churn".into());
        }
        arguments
    }
}

#[derive(Args)]
pub(super) struct Many {
    /// A..B: from A on and below B
    #[arg(long, value_parser = cli::seeds)]
    pub(super) seeds: Range<u64>,
    /// Begins no new seed after this many minutes
    #[arg(long, value_parser = cli::minutes)]
    pub(super) minutes: Option<Duration>,
    #[command(flatten)]
    pub(super) limits: Limits,
}

#[derive(Args)]
pub(super) struct Limits {
    /// Processes at a time [default: one for each core]
    #[arg(long, value_parser = cli::jobs)]
    pub(super) jobs: Option<usize>,
    /// Seconds that one seed may take
    #[arg(long, value_parser = cli::seconds, default_value = PATIENCE)]
    pub(super) patience: Duration,
    #[command(flatten)]
    pub(super) how: How,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Seconds that one run may take, if nothing else is said.
const PATIENCE: &str = "300";

impl Limits {
    pub(super) fn sweep(&self, work: Work) -> Sweep {
        Sweep {
            work,
            reports: None,
            jobs: self.jobs.unwrap_or_else(cli::cores),
            length: None,
            keep_going: true,
            patience: self.patience,
            twice: false,
            besides: self.how.arguments(),
        }
    }
}

impl Many {
    pub(super) fn sweep(&self) -> Sweep {
        Sweep {
            length: self.minutes,
            ..self.limits.sweep(Work::Seeds(self.seeds.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    fn told(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        let Ok(Command::Sweep { many, .. }) = told("it sweep --seeds 3..5 --minutes 1.5 --jobs 4") else {
            panic!("not a sweep");
        };
        let sweep = many.sweep();
        assert_eq!((sweep.jobs, sweep.length), (4, Some(Duration::from_secs(90))));
        assert_eq!(sweep.patience, Duration::from_secs(300));
        let Ok(Command::Demo { seconds, .. }) = told("it demo") else {
            panic!("not a demo");
        };
        assert_eq!(seconds, Duration::from_secs(60));
        assert!(matches!(told("it --version"), Err(error) if error.kind() == ErrorKind::DisplayVersion));
    }

    #[test]
    fn what_would_do_nothing_is_wrong_usage() {
        for line in [
            "it sweep --seeds 0..9 --jobs 0",
            "it sweep --seeds 0..9 --patience 0",
            "it sweep --seeds 0..9 --minutes 0",
            "it sweep --seeds 9..9",
            "it meta --seeds 0..9 --jobs 0",
            "it corpus --patience 0",
            "it shrink PLAN --minutes=-1",
            "it shrink PLAN --patience 0",
            "it demo --seconds 0",
        ] {
            let Err(error) = told(line) else {
                panic!("{line} is taken");
            };
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
            assert!(error.to_string().contains("invalid value"), "{line}: {error}");
        }
    }
}
