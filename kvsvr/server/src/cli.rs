//! The command line of the node's binary.
//!
//! ```text
//! kvsvr serve --data DIR [--listen HOST:PORT] [--advertise HOST:PORT] [--http HOST:PORT] [--config FILE] [--set KEY=VALUE]...
//! kvsvr config print [the same]
//! kvsvr check --data DIR
//! kvsvr recover collect|plan|apply
//! kvsvr version
//! ```
//!
//! Results go to standard output, logs and errors to standard error. The exit codes are [`Exit`]. This module starts the runtime,
//! logging and signal handling; it does not know how a node is put together ([`node`](crate::node)).

mod recover;
mod serve;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

pub use self::serve::{Failure, Shutdown};
use crate::{
    check,
    config::{self, ConfigError, Effective, Sources},
};

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// A clean stop.
    Clean = 0,
    /// Any other error.
    Error = 1,
    /// Flags or configuration that cannot be used.
    Usage = 2,
    /// The data directory is refused: foreign, in use by another process, or of a newer version.
    DataRefused = 3,
    /// A port is in use.
    PortInUse = 4,
    /// The storage failed: an fsync, a full disk, corruption.
    Storage = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl Exit {
    /// Ends the process now, with no exit handler: those of C++ take down what RocksDB's threads still use, and one that finds a lock
    /// gone aborts the process, which then ends with SIGABRT instead of this code.
    #[expect(unsafe_code, reason = "_exit has no safe wrapper in std")]
    pub fn at_once(self) -> ! {
        // SAFETY: POSIX's `_exit`, as declared: it takes a number and does not return.
        unsafe extern "C" {
            safe fn _exit(status: std::ffi::c_int) -> !;
        }
        _exit(std::ffi::c_int::from(self as u8))
    }
}

const EXIT_CODES: &str = "Exit codes:
  0  a clean stop
  1  an error
  2  flags or configuration that cannot be used
  3  the data directory is refused: foreign, locked, or of a newer version
  4  a port is in use
  5  the storage failed: fsync, full disk, corruption";

/// A node of kvsvr, a replicated key-value server.
#[derive(Debug, Parser)]
#[command(name = "kvsvr", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a node until SIGTERM or SIGINT. A second signal ends it at once.
    #[command(after_help = EXIT_CODES)]
    Serve(Settings),
    /// Shows the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Verifies the files of a stopped node and prints what it found. Changes nothing.
    #[command(after_help = EXIT_CODES)]
    Check {
        /// The node's data directory.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// How to print the report.
        #[arg(short, long, value_enum, default_value_t)]
        output: CheckOutput,
    },
    #[command(after_help = EXIT_CODES)]
    /// Makes a cluster usable again whose shards have lost their majority for good, from what is left. Unsafe: acknowledged writes may be lost.
    Recover {
        #[command(subcommand)]
        command: recover::Command,
    },
    /// Prints the version.
    Version,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum CheckOutput {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints every setting with its meaning, its value and where that came from, as a configuration file.
    Print(Settings),
}

/// Where settings come from. Flags win over the environment (KVSVR_*), that over the file, that over defaults.
#[derive(Args, Debug, Default)]
struct Settings {
    /// Directory for this node's files.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// HOST:PORT of the gRPC port.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// HOST:PORT under which peers and clients reach this node [default: listen].
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// HOST:PORT of the HTTP port, or "off" [default: the port of listen + 1000].
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// error, warn, info, debug, trace, or a filter.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "KVSVR_CONFIG")]
    config: Option<PathBuf>,
    /// Any setting, e.g. --set memory.row_cache=256MiB. `kvsvr config print` lists them.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
        None => Err("it must be KEY=VALUE".into()),
    }
}

impl Settings {
    fn load(self, environment: Vec<(String, String)>) -> Result<Effective, ConfigError> {
        let file = self.config.as_deref().map(config::read_file).transpose()?;
        let named = [
            ("data", self.data),
            ("listen", self.listen),
            ("advertise", self.advertise),
            ("http", self.http),
            ("log.level", self.log_level),
            ("log.format", self.log_format),
        ];
        let named = named
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let flags = self.set.into_iter().chain(named).collect();
        config::load(&Sources {
            flags,
            environment,
            file,
        })
    }
}

/// Runs the process: parses the command line, does what it says with `run` as the node, and gives the exit code.
pub fn main<R, F>(run: R) -> ExitCode
where
    R: FnOnce(config::Config, Shutdown) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    // A variable that is not UTF-8 cannot be one of ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let environment: Vec<_> = environment.collect();
    match execute(Cli::parse().command, environment, run) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // Nobody is left to tell if this fails.
            drop(writeln!(io::stderr(), "kvsvr: {failure}"));
            failure.exit.into()
        }
    }
}

/// Does what the command line says. An error has not been told yet; an exit code other than 0 has been, in the log.
fn execute<R, F>(command: Command, environment: Vec<(String, String)>, run: R) -> Result<Exit, Failure>
where
    R: FnOnce(config::Config, Shutdown) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    match command {
        Command::Serve(settings) => serve::serve(settings.load(environment)?, run),
        Command::Config {
            command: ConfigCommand::Print(settings),
        } => print(&settings.load(environment)?.to_toml()),
        Command::Check { data, output } => check(&data, output),
        Command::Recover { command } => recover::execute(command),
        Command::Version => print(&format!("kvsvr {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

/// For work on the files of a stopped node.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Error, format!("cannot start: {e}")))
}

/// Verifies a stopped node's files. A log that ends in a write which was never acknowledged is in order.
fn check(data: &std::path::Path, output: CheckOutput) -> Result<Exit, Failure> {
    let runtime = runtime()?;
    let show = io::stderr().is_terminal();
    let progress = move |text: &str| {
        if show {
            // Progress that nobody sees is no error.
            drop(writeln!(io::stderr(), "{text}"));
        }
    };
    let report = runtime
        .block_on(check::check(data, &progress))
        .map_err(|e| Failure::new(Exit::DataRefused, e.to_string()))?;
    let text = match output {
        CheckOutput::Table => report.lines().join("\n"),
        CheckOutput::Json => serde_json::to_string_pretty(&report)
            .map_err(|e| Failure::new(Exit::Error, format!("cannot print the report: {e}")))?,
    };
    print(&format!("{text}\n"))?;
    Ok(match report.verdict {
        check::Verdict::Ok | check::Verdict::Torn => Exit::Clean,
        check::Verdict::Corrupt => Exit::Storage,
    })
}

/// Writes a result; a reader that has gone away (`| head`) is not an error.
fn print(text: &str) -> Result<Exit, Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Error,
            format!("cannot write to standard output: {error}"),
        )),
        _ => Ok(Exit::Clean),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn check(line: &str) -> Result<Effective, String> {
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Serve(settings)
            | Command::Config {
                command: ConfigCommand::Print(settings),
            } => settings.load(Vec::new()).map_err(|error| error.to_string()),
            Command::Check { .. } | Command::Recover { .. } | Command::Version => {
                Err("not a command with settings".into())
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        for code in 0..=5 {
            assert!(EXIT_CODES.contains(&format!("\n  {code}  ")));
        }
    }

    #[test]
    fn flags_become_settings() {
        let effective =
            check("kvsvr serve --data /d --listen 10.0.0.1:7 --log-format json --set memory.row_cache=1MiB")
                .unwrap();
        assert_eq!(effective.config.data, PathBuf::from("/d"));
        assert_eq!(effective.config.listen, "10.0.0.1:7");
        assert_eq!(effective.config.log.format, config::LogFormat::Json);
        assert_eq!(effective.config.memory.row_cache, 1 << 20);
        assert!(
            check("kvsvr config print --http off")
                .unwrap()
                .config
                .http
                .is_none()
        );
    }

    #[test]
    fn bad_command_lines_are_refused() {
        for (line, expected) in [
            ("kvsvr", "Usage"),
            ("kvsvr serve --dta x", "--data"),
            ("kvsvr serve --set nonsense", "KEY=VALUE"),
            ("kvsvr serve --set wal.segmnt=1", "did you mean wal.segment?"),
            (
                "kvsvr serve --config /nonexistent/x.toml",
                "cannot read the configuration file /nonexistent/x.toml",
            ),
        ] {
            let text = check(line).unwrap_err();
            assert!(text.contains(expected), "{line}: {text:?} lacks {expected:?}");
        }
    }
}
