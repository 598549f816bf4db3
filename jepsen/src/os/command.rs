//! Runs the system's own tools (`ip`, `mount`, `mkfs`), and makes errors say what was tried.

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::{Command, Stdio},
};

/// The same error with what was tried before it.
pub(super) fn context(what: impl Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Runs a tool with this on its input, and returns its output. A failure tells what it wrote about it.
pub(super) fn run(program: &str, args: &[&str], input: &str) -> io::Result<String> {
    let called = || format!("{program} {}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(context(called()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that does not read its input may close it; then its status tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(context(called()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{}: {}", called(), words.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_tried_and_what_the_tool_said() {
        assert_eq!(run("cat", &[], "abc").unwrap(), "abc");
        let failed = run("ls", &["/no/such/place"], "").unwrap_err().to_string();
        assert!(
            failed.starts_with("ls /no/such/place: ") && failed.contains("No such file"),
            "{failed}"
        );
        let absent = run("no-such-tool", &["x"], "").unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        assert!(absent.to_string().starts_with("no-such-tool x: "), "{absent}");
    }
}
