//! Why a command ends without doing what it should, and with which exit code.
//!
//! Every failure says what, where and what to do, and carries a stable code: scripts match on codes, never on messages. The codes of
//! the server and the client library are passed on as they are; kvctl's own are the constants below.

use std::{borrow::Cow, fmt, io};

use serde::Serialize;

use crate::{limits::WAIT_TIMEOUT, output, txn_syntax::SyntaxError};

/// Exit codes of kvctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Ok = 0,
    /// It failed, and certainly did not happen.
    Error = 1,
    /// A safety check refuses it.
    Refused = 2,
    /// Time is up, but it may have happened, or goes on by itself.
    StillRunning = 3,
    /// No node could be reached.
    Unreachable = 4,
}

/// What `kvctl --help` says about exit codes.
pub const EXIT_HELP: &str = "EXIT CODES
  0  done
  1  failed: it did not happen
  2  refused by a safety check (--yes confirms what asks for confirmation)
  3  time is up: it may have happened, or goes on by itself
  4  no node could be reached

Errors go to standard error as `error: code: what, where` and `help: what to do`;
with -o json as one JSON object.
Keys and values are text with the escapes \\n \\t \\r \\0 \\\\ \\\" \\xNN; --hex and --base64 change that.";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        $($(#[$doc])* pub const $name: &str = $code;)*

        /// All codes of kvctl's own. Some are also the client library's, with the same meaning.
        pub const CODES: &[&str] = &[$($name,)*];
    };
}

codes! {
    /// The input is malformed.
    INVALID = "invalid",
    /// Replicas of a shard differ.
    DIVERGED = "diverged",
    /// A file is not what it should be.
    DAMAGED = "damaged",
    /// Not everything could be looked at.
    INCOMPLETE = "incomplete",
    /// The key, node or shard does not exist.
    NOT_FOUND = "not_found",
    /// A safety check refuses.
    REFUSED = "refused",
    /// Reading or writing a local file failed.
    IO = "io",
    /// The cluster is not as it should be.
    UNHEALTHY = "unhealthy",
    /// A comparison of a transaction did not hold.
    COMPARE_FAILED = "compare_failed",
    /// An operation was taken back.
    ABORTED = "aborted",
    /// Waiting took too long.
    TIMEOUT = "timeout",
    /// A benchmark could not be carried out.
    BENCH = "bench",
    /// Nobody answers.
    UNREACHABLE = "unreachable",
    /// The reader of standard output went away: never shown.
    BROKEN_PIPE = "broken_pipe",
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Stable; for scripts.
    pub code: Cow<'static, str>,
    /// What happened, where.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<Cow<'static, str>>,
    /// True: it may have happened.
    pub unknown: bool,
    /// How the process ends.
    #[serde(skip)]
    pub exit: Exit,
}

impl Failure {
    /// It certainly did not happen; exit code 1.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            help: None,
            unknown: false,
            exit: Exit::Error,
        }
    }

    /// The input is malformed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(INVALID, message)
    }

    /// A safety check refuses; `help` says what to do instead, or how to insist.
    pub fn refused(message: impl Into<String>, help: impl Into<Cow<'static, str>>) -> Self {
        Self {
            exit: Exit::Refused,
            ..Self::new(REFUSED, message)
        }
        .with_help(help)
    }

    /// A wait took too long; what was waited for may still come.
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::StillRunning,
            unknown: true,
            ..Self::new(TIMEOUT, message)
        }
    }

    /// Says what to do.
    pub fn with_help(mut self, help: impl Into<Cow<'static, str>>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says where: put before the message.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// True if the reader of standard output went away, as in `kvctl range p | head`: not worth a message.
    pub fn is_broken_pipe(&self) -> bool {
        self.code == BROKEN_PIPE
    }

    /// What may have happened is 3, whatever the code; of the rest some codes have an exit code of their own.
    pub(crate) fn exit_for(code: &str, unknown: bool) -> Exit {
        match code {
            _ if unknown => Exit::StillRunning,
            REFUSED => Exit::Refused,
            UNREACHABLE => Exit::Unreachable,
            _ => Exit::Error,
        }
    }

    /// What to do about an error of the server or the client library.
    pub(crate) fn help_for(code: &str, unknown: bool) -> Option<Cow<'static, str>> {
        let help = match code {
            "result_forgotten" => "it was applied once; read the key to see the result",
            _ if unknown => "it may have happened: read the key before you repeat it, or raise --timeout",
            "no_leader" => {
                "a majority of the shard's replicas may be down: `kvctl cluster status` says which"
            }
            "not_ready" => "`kvctl cluster status` says what each node waits for",
            "compacted" => "ask for a newer revision; what is older than the compaction floor is gone",
            "overloaded" => "try again later, with fewer requests at a time",
            "too_stale" => {
                "allow a greater age or an older revision, or read linearizably once there is a leader"
            }
            "wrong_type" => {
                "the value must be a number made by incr: 8 bytes, big-endian; get the key to see what it is"
            }
            "unreachable" => "check --endpoints (or KVCTL_ENDPOINTS) and that a node listens there",
            "corrupt" => {
                "stop that node and run `kvsvr check --data DIR` on it; the other replicas still answer"
            }
            TIMEOUT => "raise --timeout; `kvctl cluster status` says which nodes answer",
            _ => return None,
        };
        Some(help.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let code = if error.kind() == io::ErrorKind::BrokenPipe {
            BROKEN_PIPE
        } else {
            IO
        };
        Self::new(code, error.to_string())
    }
}

impl From<SyntaxError> for Failure {
    fn from(error: SyntaxError) -> Self {
        Self::invalid(error.to_string()).with_help("`kvctl txn --help` shows the language")
    }
}

/// The failure of a command that waited for `what` until `waited` had passed.
pub(crate) fn waited_in_vain(what: &str, waited: std::time::Duration) -> Failure {
    Failure::timed_out(format!("{what} within {}", crate::text::show_span(waited))).with_help(format!(
        "look again with `kvctl cluster status`, or wait longer with --timeout (default {})",
        crate::text::show_span(WAIT_TIMEOUT)
    ))
}

/// Writes a failure to standard error in the chosen form.
pub fn report(failure: &Failure, format: output::Format, color: bool) {
    use std::io::Write as _;
    if failure.is_broken_pipe() {
        return;
    }
    let mut err = io::stderr().lock();
    // If standard error is gone too there is nobody left to tell.
    let _ = match format {
        output::Format::Json => serde_json::to_string(&serde_json::json!({ "error": failure }))
            .map_err(io::Error::from)
            .and_then(|json| writeln!(err, "{json}")),
        output::Format::Table => {
            let (red, plain) = if color {
                ("\x1b[1;31m", "\x1b[0m")
            } else {
                ("", "")
            };
            writeln!(err, "{red}error{plain}: {failure}").and_then(|()| match &failure.help {
                Some(help) => writeln!(err, "help: {help}"),
                None => Ok(()),
            })
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_as_documented() {
        for (code, unknown, exit) in [
            ("invalid", false, 1),
            ("no_leader", false, 1),
            ("refused", false, 2),
            ("timeout", true, 3),
            ("timeout", false, 1),
            ("disconnected", true, 3),
            ("internal", true, 3),
            ("unreachable", false, 4),
            ("unreachable", true, 3),
            ("refused", true, 3),
        ] {
            assert_eq!(Failure::exit_for(code, unknown) as i32, exit, "{code}");
        }
        assert_eq!(Failure::refused("no", "do").exit as i32, 2);
        assert_eq!(Failure::timed_out("x").exit as i32, 3);
        assert_eq!(Failure::invalid("x").exit as i32, 1);
        for exit in [
            Exit::Ok,
            Exit::Error,
            Exit::Refused,
            Exit::StillRunning,
            Exit::Unreachable,
        ] {
            assert!(EXIT_HELP.contains(&format!("\n  {}  ", exit as i32)));
        }
    }

    #[test]
    fn json_has_the_stable_fields() {
        let failure = Failure::timed_out("no leader").at("shard 3").with_help("wait");
        assert_eq!(
            serde_json::to_value(&failure).unwrap(),
            serde_json::json!({"code": "timeout", "message": "shard 3: no leader", "help": "wait", "unknown": true})
        );
    }

    #[test]
    fn a_closed_pipe_is_told_from_other_errors() {
        let broken = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(broken.is_broken_pipe());
        assert!(!Failure::from(io::Error::other("disk")).is_broken_pipe());
    }
}
