//! Logs: one line for each event on standard error, as text or JSON.
//!
//! A level says who must act:
//! - `error`: an operator must act now; service is or will soon be lost. It says what happened, where, and what to do.
//! - `warn`: an operator should look today; something is refused, slow, or near a limit.
//! - `info`: the node changed state: started, joined, became leader, took a snapshot. Quiet when nothing changes.
//! - `debug`, `trace`: for developers; not part of any promise.
//!
//! There is no event for a single request at `info` and above. Standard output is left to results.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{LogConfig, LogFormat};

/// What libraries may say unless `log.level` names them: their `info` is about themselves, not about the node.
const LIBRARIES: [&str; 4] = ["openraft=error", "h2=warn", "hyper=warn", "tonic=warn"];

/// Starts logging for the process. Fails if the filter cannot be read, or if logging was started before.
pub fn start(config: &LogConfig) -> Result<(), String> {
    let filter = filter(&config.level)?;
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match config.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
    };
    started.map_err(|error| format!("cannot start logging: {error}"))
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    let mut directives: Vec<&str> = Vec::new();
    directives.extend(LIBRARIES.iter().filter(|library| {
        let name = library.split('=').next().unwrap_or_default();
        !level
            .split(',')
            .any(|directive| directive.trim().starts_with(name))
    }));
    directives.push(level);
    EnvFilter::builder().parse(directives.join(",")).map_err(|error| {
        format!("log.level = \"{level}\": {error}; write error, warn, info, debug or trace, or a filter such as info,kvsvr::raft=debug")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters() {
        let text = filter("info").unwrap().to_string();
        assert!(text.contains("openraft=error") && text.contains("info"), "{text}");
        let text = filter("debug,openraft=trace").unwrap().to_string();
        assert!(
            text.contains("openraft=trace") && !text.contains("openraft=error"),
            "{text}"
        );
        let error = filter("kvsvr=loud").unwrap_err();
        assert!(error.contains("log.level") && error.contains("warn"), "{error}");
    }
}
