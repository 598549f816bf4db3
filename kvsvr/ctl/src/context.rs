//! What a command works with: its options, its output and, once it is needed, the client.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    time::Duration,
};

use bytes::Bytes;
use kvsvr_client::{Client, ClientConfig, Partition};
use serde_json::json;

use crate::{
    cli::Global,
    failure::Failure,
    limits::DEFAULT_TIMEOUT,
    output::{Output, bytes_object},
    text::{Encoding, parse_text},
};

/// What a command works with.
pub struct Context {
    /// Options of all commands.
    pub global: Global,
    /// Where results go.
    pub out: Output,
    client: Option<Client>,
}

impl Context {
    /// Results go to standard output.
    pub fn new(global: Global) -> Self {
        let out = Output::stdout(global.output, global.encoding());
        Self {
            global,
            out,
            client: None,
        }
    }

    /// With a client and an output of the caller's: for tests.
    pub fn with_client(global: Global, out: Output, client: Client) -> Self {
        Self {
            global,
            out,
            client: Some(client),
        }
    }

    /// The client; connects with its first call.
    pub fn client(&mut self) -> Result<Client, Failure> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = self.connect()?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// A client of its own, with its own connections, which are made with its first call.
    pub fn connect(&self) -> Result<Client, Failure> {
        self.client_of(self.global.endpoints(), self.request_timeout())
    }

    /// A client of these nodes.
    pub fn client_of(&self, endpoints: Vec<String>, timeout: Duration) -> Result<Client, Failure> {
        let config = ClientConfig {
            endpoints,
            request_timeout: timeout,
            ..ClientConfig::default()
        };
        Ok(Client::new(config)?)
    }

    /// Deadline of one request.
    pub fn request_timeout(&self) -> Duration {
        self.global.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    /// Deadline of a wait that usually takes up to `usual`.
    pub fn wait_timeout(&self, usual: Duration) -> Duration {
        self.global.timeout.unwrap_or(usual)
    }

    /// The endpoints given, or this one.
    pub fn endpoints_or(&self, default: &str) -> Vec<String> {
        self.global.endpoints_or(default)
    }

    /// The partition of this name in the region of `--region`. Names are text with escapes, whatever `--hex` says of keys.
    pub fn partition(&self, typed: &str) -> Result<Partition, Failure> {
        let name = parse_text(typed).map_err(|e| Failure::invalid(e.to_string()).at("partition"))?;
        Ok(Partition::new(self.global.region, name))
    }

    /// A key or value as typed.
    pub fn bytes(&self, what: &str, typed: &str) -> Result<Bytes, Failure> {
        self.encoding().parse(typed).map_err(|e| {
            Failure::invalid(e.to_string())
                .at(what)
                .with_help("--hex and --base64 change how it is read")
        })
    }

    /// How keys and values are typed and shown.
    pub fn encoding(&self) -> Encoding {
        self.global.encoding()
    }

    /// Prints a line, or its parts as JSON.
    pub fn print(&mut self, line: impl AsRef<str>, json: serde_json::Value) -> Result<(), Failure> {
        Ok(self.out.result(line, &json)?)
    }

    /// JSON with bytes in it.
    pub fn object(&self, bytes: &[(&str, &[u8])], rest: serde_json::Value) -> serde_json::Value {
        bytes_object(self.encoding(), bytes, rest)
    }

    /// A remark beside the results, on standard error; silent with `-o json`.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.out.is_json() {
            // If standard error is gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "{}", text.as_ref());
        }
    }

    /// Goes on if the user said `--yes`, or says so now at a terminal. `what` completes "This will ...".
    pub fn confirm(&self, what: &str) -> Result<(), Failure> {
        if self.global.yes {
            return Ok(());
        }
        let refused = || {
            Failure::refused(
                format!("this will {what}"),
                "repeat the command with --yes to do it",
            )
        };
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(refused());
        }
        write!(io::stderr(), "This will {what}. Go on? [y/N] ")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(refused())
        }
    }
}

/// All of standard input, up to `most` bytes.
pub(crate) fn read_stdin(most: usize, what: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(most as u64 + 1).read_to_end(&mut bytes)?;
    within(bytes, most, what)
}

/// A file, or standard input for `-`, up to `most` bytes.
pub(crate) fn read_file(path: &str, most: usize, what: &str) -> Result<Vec<u8>, Failure> {
    if path == "-" {
        return read_stdin(most, what);
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes))
        .map_err(|e| Failure::from(e).at(path))?;
    within(bytes, most, what)
}

fn within(bytes: Vec<u8>, most: usize, what: &str) -> Result<Vec<u8>, Failure> {
    if bytes.len() > most {
        return Err(Failure::invalid(format!("{what} is longer than {most} bytes")));
    }
    Ok(bytes)
}

impl From<kvsvr_client::Error> for Failure {
    fn from(error: kvsvr_client::Error) -> Self {
        let unknown = error.is_unknown();
        let code = error.code.name();
        let mut failure = Failure::new(code, error.message);
        failure.unknown = unknown;
        failure.exit = Failure::exit_for(code, unknown);
        failure.help = match error.retry_after {
            Some(after) if !unknown => Some(format!("try again in {}", crate::text::show_span(after)).into()),
            _ => Failure::help_for(code, unknown),
        };
        if error.revision > 0 && !unknown {
            failure.help =
                Some(format!("revision {} is the oldest that can still be read", error.revision).into());
        }
        failure
    }
}

/// The result of a change: what was done and the shard's revision after it.
pub(crate) fn changed(line: String, revision: u64) -> (String, serde_json::Value) {
    (
        format!("{line}, revision {revision}"),
        json!({ "revision": revision }),
    )
}

#[cfg(test)]
mod tests {
    use kvsvr_client::{Code, Error};

    use super::*;
    use crate::{cli::tests::parse, failure::Exit};

    #[test]
    fn errors_of_the_client_become_failures() {
        let failure = Failure::from(Error::definite(Code::Unreachable, "cannot reach a:1"));
        assert_eq!((failure.exit, failure.unknown), (Exit::Unreachable, false));
        assert!(failure.help.unwrap().contains("--endpoints"));
        let failure = Failure::from(Error::unknown(Code::Timeout, "no answer"));
        assert_eq!((failure.exit, failure.unknown), (Exit::StillRunning, true));
        let failure = Failure::from(Error::definite(Code::Timeout, "no answer to a read"));
        assert_eq!(failure.exit, Exit::Error);
        let error = Error {
            retry_after: Some(Duration::from_millis(30)),
            ..Error::unknown(Code::NoLeader, "no quorum")
        };
        let failure = Failure::from(error);
        assert_eq!((failure.exit, failure.unknown), (Exit::StillRunning, true));
        assert!(failure.help.unwrap().contains("read the key before"));
        let mut error = Error::definite(Code::Compacted, "gone");
        error.revision = 17;
        let failure = Failure::from(error);
        assert_eq!((failure.exit, &failure.code[..]), (Exit::Error, "compacted"));
        assert!(failure.help.unwrap().contains("revision 17"));
        let failure = Failure::from(Error::definite(Code::Refused, "no"));
        assert_eq!(failure.exit, Exit::Refused);
    }

    #[test]
    fn dangerous_commands_are_refused_without_yes() {
        let context = |line| Context::new(parse(line).global);
        let failure = context("del p --prefix a").confirm("delete").unwrap_err();
        assert_eq!(failure.exit, Exit::Refused);
        assert!(context("del p --prefix a --yes").confirm("delete").is_ok());
    }

    #[test]
    fn typed_bytes_follow_the_encoding() {
        let context = Context::new(parse("get p k --hex --region 9").global);
        assert_eq!(context.bytes("key", "00ff").unwrap(), &b"\x00\xff"[..]);
        let failure = context.bytes("key", "zz").unwrap_err();
        assert!(failure.message.starts_with("key: "), "{failure}");
        let partition = context.partition(r"a\x00").unwrap();
        assert_eq!((partition.region, &partition.name[..]), (9, &b"a\0"[..]));
    }
}
