//! What all processes of the backend have: logging, a runtime, signals, exit codes, the way to the cluster.

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use kvsvr_client::{Client, ClientConfig};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tracing_subscriber::EnvFilter;

/// What is logged.
#[derive(Clone, Args)]
pub(crate) struct LogArgs {
    /// What is logged: error, warn, info, debug, or a filter
    #[arg(long, env = "CHAT_LOG", default_value = "info", global = true)]
    log: String,
}

/// The cluster.
#[derive(Args)]
pub(crate) struct ClusterArgs {
    /// Addresses of the cluster's nodes
    #[arg(
        long,
        env = "KVSVR_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"
    )]
    endpoints: Vec<String>,
}

impl ClusterArgs {
    /// A client of it; what is wrong otherwise.
    pub(crate) async fn connect(self) -> Result<Client, String> {
        let Self { endpoints } = self;
        let client = Client::connect(ClientConfig::new(endpoints.clone())).await;
        client.map_err(|error| format!("the cluster at {}: {error}", endpoints.join(", ")))
    }
}

/// A name that no other process has.
pub(crate) fn name(kind: &str) -> String {
    format!("{kind}-{}-{:08x}", std::process::id(), rand::random::<u32>())
}

/// Runs a process to its end. Exit codes: 0 it did what it was for, 1 not, 2 wrong usage.
pub(crate) fn run(log: &LogArgs, work: impl Future<Output = Result<bool, String>>) -> ExitCode {
    if let Err(error) = start_logging(&log.log) {
        return eprintln_and(&error, 2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let run = match runtime {
        Ok(runtime) => runtime.block_on(work),
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

/// Says to several tasks that they are to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<(AtomicBool, Notify)>);

impl Stop {
    /// From now on.
    pub(crate) fn stop(&self) {
        self.0.0.store(true, Ordering::SeqCst);
        self.0.1.notify_waiters();
    }

    /// Until it is said.
    pub(crate) async fn stopped(self) {
        // Said after this line, it is heard.
        let notified = self.0.1.notified();
        if !self.0.0.load(Ordering::SeqCst) {
            notified.await;
        }
    }
}

/// Somebody wants the process to stop: SIGINT or SIGTERM.
pub(crate) async fn stopped() -> Result<(), String> {
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
    use super::Stop;

    #[tokio::test]
    async fn a_stop_is_heard_before_and_after() {
        let stop = Stop::default();
        let waiting = tokio::spawn(stop.clone().stopped());
        stop.stop();
        waiting.await.unwrap();
        stop.stopped().await;
    }
}
