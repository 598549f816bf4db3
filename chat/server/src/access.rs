//! `chat-access`: a gateway in front of services in other processes.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use chat_access::Remote;
use chat_core::secrets::Purpose;
use clap::Parser;

use crate::{
    process::{self, LogArgs, stopped},
    run::Chat,
    secrets,
};

/// A gateway of the chat backend: clients connect to it, chat-logic does what they ask for.
///
/// Exit codes: 0 stopped, 1 it cannot start, 2 wrong usage.
#[derive(Parser)]
#[command(name = "chat-access", version)]
struct Arguments {
    #[command(flatten)]
    log: LogArgs,
    /// Address that clients connect to
    #[arg(long, env = "CHAT_ACCESS_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Addresses of all processes of services, HOST:PORT: each says itself which it has
    #[arg(
        long,
        env = "CHAT_LOGIC",
        value_delimiter = ',',
        default_value = "127.0.0.1:8100"
    )]
    logic: Vec<String>,
    /// Address of the port for operators: health, readiness, metrics
    #[arg(long, env = "CHAT_HTTP")]
    http: Option<SocketAddr>,
    /// File of the secret keys, the same for all processes; made if there is none
    #[arg(long, env = "CHAT_SECRETS", default_value = "chat-secrets")]
    secrets: PathBuf,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = arguments.log.clone();
    process::run(&log, run(arguments))
}

async fn run(arguments: Arguments) -> Result<bool, String> {
    let Arguments {
        listen,
        logic,
        http,
        secrets,
        ..
    } = arguments;
    let secrets = secrets::load_or_create(&secrets)?;
    let key = secrets.seal(Purpose::Gateway, b"");
    let remote = Remote::new(&logic, &key).map_err(|error| format!("--logic: {error}"))?;
    let chat = Chat::in_front_of(remote, listen).await;
    let mut chat = chat.map_err(|error| format!("--listen {listen}: {error}"))?;
    if let Some(http) = http {
        chat.show(http).await?;
    }
    tracing::info!(address = %chat.address, "clients may connect at http://{}/", chat.address);
    stopped().await?;
    tracing::info!("stopping: clients are told to come back");
    chat.drain().await;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
