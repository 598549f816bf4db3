//! The command line of `chat`.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    bench::Bench,
    process::{self, ClusterArgs, LogArgs, stopped},
    replay::Replay,
    run::{Chat, system_seams},
    secrets,
    seed::Seed,
};

/// The chat backend on a kvsvr cluster.
#[derive(Parser)]
#[command(name = "chat", version)]
struct Arguments {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Dev(Dev),
    Replay(Replay),
    Bench(Bench),
    Seed(Seed),
}

/// Runs gateway, services and delivery in one process, until SIGINT or SIGTERM.
///
/// Exit codes: 0 stopped, 1 it cannot start, 2 wrong usage.
#[derive(Args)]
struct Dev {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Address that clients connect to
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of the port for operators: health, readiness, metrics
    #[arg(long, env = "CHAT_HTTP")]
    http: Option<SocketAddr>,
    /// File of the secret keys, the same for all processes; made if there is none
    #[arg(long, default_value = "chat-secrets")]
    secrets: PathBuf,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run(&arguments.log, run(arguments.command))
}

/// False: it did not hold.
async fn run(command: Command) -> Result<bool, String> {
    match command {
        Command::Dev(dev) => run_dev(dev).await.map(|()| true),
        Command::Replay(replay) => replay.run().await,
        Command::Bench(bench) => bench.run().await,
        Command::Seed(seed) => seed.run().await,
    }
}

async fn run_dev(dev: Dev) -> Result<(), String> {
    let Dev {
        cluster,
        listen,
        http,
        secrets,
    } = dev;
    let secrets = secrets::load_or_create(&secrets)?;
    let client = cluster.connect().await?;
    let chat = Chat::start(client, secrets, system_seams(), listen, process::name("chat")).await;
    let mut chat = chat.map_err(|error| format!("--listen {listen}: {error}"))?;
    if let Some(http) = http {
        chat.show(http).await?;
    }
    tracing::info!(address = %chat.address, "the chat is at http://{}/", chat.address);
    stopped().await?;
    tracing::info!("stopping: clients are told to come back");
    chat.drain().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
