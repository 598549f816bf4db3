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

/// Libraries whose levels are not those of the module's comment: a clean stop is an `error` to one, a client that was killed a `warn` to
/// another. What an operator must know of them the node says itself. They are silent unless `log.level` names them, or is for developers.
const LIBRARIES: [&str; 4] = ["openraft", "h2", "hyper", "tonic"];

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
    let given = || level.split(',').map(str::trim);
    let developer = given().any(|d| d.eq_ignore_ascii_case("debug") || d.eq_ignore_ascii_case("trace"));
    let most = if developer { "warn" } else { "off" };
    let unnamed = LIBRARIES
        .iter()
        .filter(|name| !given().any(|directive| directive.starts_with(**name)));
    let mut directives: Vec<String> = unnamed.map(|name| format!("{name}={most}")).collect();
    directives.push(level.to_owned());
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
        for library in LIBRARIES {
            assert!(text.contains(&format!("{library}=off")), "{text}");
        }
        assert!(text.contains("info"), "{text}");
        let text = filter("debug").unwrap().to_string();
        assert!(text.contains("openraft=warn"), "{text}");
        let text = filter("debug,openraft=trace").unwrap().to_string();
        assert!(
            text.contains("openraft=trace") && !text.contains("openraft=warn"),
            "{text}"
        );
        let error = filter("kvsvr=loud").unwrap_err();
        assert!(error.contains("log.level") && error.contains("warn"), "{error}");
    }
}
