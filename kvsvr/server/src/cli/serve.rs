//! Runs a node: file handles, logging, the runtime, signals.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    thread::available_parallelism,
    time::Duration,
};

use futures::future::BoxFuture;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Exit;
use crate::{
    config::{Config, ConfigError, Effective},
    limits::RUNTIME_STOP_MS,
    listen::BindError,
    logging,
};

/// Why the process ends, and with which code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, where, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(Exit::Usage, error.to_string())
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Failure {
        let exit = match error {
            BindError::InUse { .. } => Exit::PortInUse,
            BindError::BadAddress { .. } | BindError::Refused { .. } => Exit::Usage,
        };
        Failure::new(exit, error.to_string())
    }
}

/// Resolves when the process is asked to stop.
pub struct Shutdown(BoxFuture<'static, ()>);

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shutdown")
    }
}

/// Runs a node in a runtime of its own until it ends. An error comes from before the start of logging, what happens later is logged.
pub(super) fn serve<R, F>(effective: Effective, run: R) -> Result<Exit, Failure>
where
    R: FnOnce(Config, Shutdown) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let Effective { config, warnings, .. } = effective;
    config.validate()?;
    logging::start(&config.log).map_err(|error| Failure::new(Exit::Usage, format!("BAD_CONFIG: {error}")))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(match run_node(config, run) {
        Ok(()) => {
            tracing::info!("stopped");
            Exit::Clean
        }
        Err(failure) => {
            tracing::error!(exit_code = failure.exit as u8, "{failure}");
            failure.exit
        }
    })
}

fn run_node<R, F>(config: Config, run: R) -> Result<(), Failure>
where
    R: FnOnce(Config, Shutdown) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    allow_files(config.max_connections);
    let threads = match config.worker_threads {
        0 => available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("kvsvr")
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                Exit::Error,
                format!("cannot start {threads} worker threads: {error}"),
            )
        })?;
    let result = runtime.block_on(async {
        let shutdown = shutdown()?;
        run(config, shutdown).await
    });
    // Tasks end at their next wait, and what they hold is closed with them: a thread still inside RocksDB while the process runs
    // its exit handlers would abort it. What does not end in time cannot lose anything, the node has flushed what it must keep.
    runtime.shutdown_timeout(Duration::from_millis(RUNTIME_STOP_MS));
    result
}

/// The first SIGTERM or SIGINT resolves the future, the second ends the process.
fn shutdown() -> Result<Shutdown, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::new(Exit::Error, format!("cannot listen for signals: {error}")))
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (told, asked) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(
            signal = name,
            "stopping; a second signal ends the process at once"
        );
        // The node may have ended by itself.
        let _ = told.send(());
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(
            signal = name,
            "ended at once by a second signal; the next start replays the log"
        );
        Exit::Error.at_once();
    });
    Ok(Shutdown(Box::pin(async move { drop(asked.await) })))
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        biased;
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Raises the soft limit on open files to the hard one, and says so if that is too low for the connections that are allowed.
fn allow_files(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
    let needed = connections as u64 + crate::limits::ROCKS_OPEN_FILES.unsigned_abs() as u64 + 256;
    if let Some(files) = getrlimit(Resource::Nofile)
        .current
        .filter(|files| *files < needed)
    {
        tracing::warn!(
            files,
            needed,
            "too few open files are allowed for max_connections; raise the limit (ulimit -Hn, LimitNOFILE=) or lower max_connections"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_the_documented_codes() {
        let in_use = BindError::InUse {
            setting: "listen",
            address: "a:1".into(),
        };
        assert_eq!(Failure::from(in_use).exit, Exit::PortInUse);
        let source = std::io::Error::other("x");
        let bad = BindError::BadAddress {
            setting: "listen",
            address: "a".into(),
            source,
        };
        assert_eq!(Failure::from(bad).exit, Exit::Usage);
        assert_eq!(Failure::from(ConfigError(vec!["x".into()])).exit, Exit::Usage);
    }
}
