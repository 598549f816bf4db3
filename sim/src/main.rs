//! Runs simulated clusters.

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use kvsvr_sim::demo;

#[derive(Parser)]
#[command(name = "kvsvr-sim", about = "Runs simulated kvsvr clusters")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Three nodes under random trouble; prints what happened. The same seed gives the same hash
    Demo {
        /// Decides everything that happens
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Simulated seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let Command::Demo { seed, seconds } = Arguments::parse().command;
    let summary = demo::run(seed, Duration::from_secs(seconds));
    println!("{summary}");
    match summary.lost.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
