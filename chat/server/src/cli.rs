//! The command line of `chat`.

use std::{io::IsTerminal as _, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use kvsvr_client::{Client, ClientConfig};
use tracing_subscriber::EnvFilter;

use crate::{
    replay::Replay,
    run::{Chat, system_seams},
    secrets,
};

/// The chat backend on a kvsvr cluster.
#[derive(Parser)]
#[command(name = "chat", version)]
struct Arguments {
    /// What is logged: error, warn, info, debug, or a filter
    #[arg(long, env = "CHAT_LOG", default_value = "info", global = true)]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Dev(Dev),
    Replay(Replay),
}

/// Runs gateway, services and delivery in one process, until SIGINT or SIGTERM.
///
/// Exit codes: 0 stopped, 1 it cannot start, 2 wrong usage.
#[derive(Args)]
struct Dev {
    /// Addresses of the cluster's nodes
    #[arg(
        long,
        env = "KVSVR_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"
    )]
    endpoints: Vec<String>,
    /// Address that clients connect to
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// File of the secret keys, the same for all processes; made if there is none
    #[arg(long, default_value = "chat-secrets")]
    secrets: PathBuf,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = start_logging(&arguments.log) {
        return eprintln_and(&error, 2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let run = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(format!("the runtime cannot start: {error}")),
    };
    match run {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => eprintln_and(&error, 1),
    }
}

#[expect(clippy::print_stderr, reason = "a message for whoever started it")]
fn eprintln_and(error: &str, code: u8) -> ExitCode {
    eprintln!("chat: {error}");
    ExitCode::from(code)
}

fn start_logging(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log {filter}: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    builder
        .try_init()
        .map_err(|error| format!("cannot start logging: {error}"))
}

/// False: it did not hold.
async fn run(arguments: Arguments) -> Result<bool, String> {
    match arguments.command {
        Command::Dev(dev) => run_dev(dev).await.map(|()| true),
        Command::Replay(replay) => replay.run().await,
    }
}

async fn run_dev(dev: Dev) -> Result<(), String> {
    let Dev {
        endpoints,
        listen,
        secrets,
    } = dev;
    let secrets = secrets::load_or_create(&secrets)?;
    let client = Client::connect(ClientConfig::new(endpoints.clone())).await;
    let client = client.map_err(|error| format!("the cluster at {}: {error}", endpoints.join(", ")))?;
    let name = format!("chat-{}-{:08x}", std::process::id(), rand::random::<u32>());
    let chat = Chat::start(client, secrets, system_seams(), listen, name).await;
    let chat = chat.map_err(|error| format!("--listen {listen}: {error}"))?;
    tracing::info!(address = %chat.address, "the chat is at http://{}/", chat.address);
    stopped().await?;
    tracing::info!("stopping: clients are told to come back");
    chat.drain().await;
    Ok(())
}

async fn stopped() -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| format!("signals cannot be listened to: {error}"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
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
