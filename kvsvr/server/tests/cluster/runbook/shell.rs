//! An operator's shell: one bash that is given one command after the other, and tells what each printed and ended with.
//!
//! Standard output and errors come in one stream, as on a terminal. What bash itself says of its jobs ("Killed") is left out: a shell at a
//! terminal says it in other words and at other times. A command must end within a deadline.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use crate::harness::{Guard, PATIENCE};

/// Begins the line after a command's output, before its exit code.
const MARK: &str = "kvsvr-runbook-end-of-command";

/// Shorter than any patience but those of this module's own tests, so that a command ends by itself.
const KVCTL_TIMEOUT: &str = "100s";

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) lines: Vec<String>,
    /// `None`: it did not end in time, or the shell ended.
    pub(crate) code: Option<i32>,
}

/// A running shell. All that it starts ends with it.
pub(crate) struct Shell {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    patience: Duration,
    guard: Option<Guard>,
}

/// How a shell gets file systems of its own, which nobody else sees and which are gone when it ends: as root, and as a user where the system
/// lets users do that. `None` where it does not.
fn with_mounts() -> Option<Command> {
    [&["--mount"][..], &["--mount", "--map-root-user"]]
        .into_iter()
        .find_map(|flags| {
            let mut command = Command::new("unshare");
            command.args(flags);
            let mut probe = Command::new("unshare");
            probe
                .args(flags)
                .arg("true")
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            probe
                .status()
                .is_ok_and(|status| status.success())
                .then_some(command)
        })
}

impl Shell {
    /// In a directory, with the programs of another one. `None`: it is to mount file systems, and may not.
    pub(crate) fn start(dir: &Path, programs: &Path, mounts: bool, patience: Duration) -> Option<Shell> {
        let guard = Guard::start();
        let mut command = if mounts {
            with_mounts()?
        } else {
            Command::new("env")
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = [programs.to_path_buf()]
            .into_iter()
            .chain(std::env::split_paths(&path));
        command.args(["bash", "--noprofile", "--norc"]);
        // Neither settings of who runs the test, nor their language. Deadlines are for a machine that is busy with other things.
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("KVSVR_") || name.starts_with("KVCTL_"))
            {
                command.env_remove(name);
            }
        }
        command
            .env("PATH", std::env::join_paths(paths).unwrap())
            .env("LC_ALL", "C")
            .env("USER", "ann")
            .env("KVSVR_RAFT_TIMING", "slow")
            .env("KVCTL_TIMEOUT", KVCTL_TIMEOUT);
        command.current_dir(dir).process_group(guard.group());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = command.spawn().expect("bash is there");
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Ends when the shell and all that it has started are gone.
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Some(Shell {
            process,
            input,
            lines,
            patience,
            guard: Some(guard),
        })
    }

    /// Runs one command to its end; `$?` is the code of the one before it.
    pub(crate) fn run(&mut self, command: &str) -> Outcome {
        let quoted = command.replace('\'', r"'\''");
        // The mark begins a line, whether the output ended with one or not.
        let script = format!(
            "(exit ${{code:-0}})\neval '{quoted}' </dev/null 2>&1\ncode=$?; printf '\\n{MARK} %d\\n' $code\n"
        );
        if self.input.write_all(script.as_bytes()).is_err() {
            return Outcome {
                lines: Vec::new(),
                code: None,
            };
        }
        let deadline = Instant::now() + self.patience;
        let mut lines = Vec::new();
        loop {
            let Ok(line) = self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            else {
                return Outcome { lines, code: None };
            };
            if let Some(code) = line.strip_prefix(MARK) {
                // The end of the last line that was printed made an empty one.
                if lines.last().is_some_and(String::is_empty) {
                    lines.pop();
                }
                return Outcome {
                    lines,
                    code: code.trim().parse().ok(),
                };
            }
            if !is_of_jobs(&line) {
                lines.push(line);
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.guard.take());
        let _ = self.process.wait();
        // When nobody can write to its output any more, all that it has started has ended, and its files stay as they are.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
    }
}

/// True for what bash says of a process that it has started, as `bash: line 3: 4711 Killed   kvsvr serve`.
fn is_of_jobs(line: &str) -> bool {
    let told = line
        .strip_prefix("bash: line ")
        .and_then(|rest| rest.split_once(": "));
    let word = told.and_then(|(_, rest)| rest.split_whitespace().nth(1));
    word.is_some_and(|word| matches!(word, "Killed" | "Terminated" | "Aborted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(patience: Duration) -> (Shell, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (
            Shell::start(dir.path(), dir.path(), false, patience).unwrap(),
            dir,
        )
    }

    #[test]
    fn commands_share_a_shell_and_each_has_its_own_output_and_code() {
        let (mut shell, dir) = shell(Duration::from_secs(60));
        let outcome = |lines: &[&str], code| Outcome {
            lines: lines.iter().map(|s| (*s).to_owned()).collect(),
            code,
        };
        assert_eq!(
            shell.run("x='it'\\''s'; echo to stderr >&2; (exit 3)"),
            outcome(&["to stderr"], Some(3))
        );
        assert_eq!(shell.run("echo $? \"$x\""), outcome(&["3 it's"], Some(0)));
        assert_eq!(shell.run("printf 'no end'"), outcome(&["no end"], Some(0)));
        assert_eq!(shell.run("cat <<'END'\na\n\nEND"), outcome(&["a", ""], Some(0)));
        let made = dir.path().canonicalize().unwrap().join("d");
        assert_eq!(
            shell.run("cat; mkdir d; cd d; pwd -P"),
            outcome(&[made.to_str().unwrap()], Some(0))
        );
        assert_eq!(
            shell.run("sleep 600 & kill -9 $!; wait $!"),
            outcome(&[], Some(137))
        );
        assert_eq!(shell.run("if").code, Some(2), "a syntax error");
        assert_eq!(shell.run("exit"), outcome(&[], None));
    }

    #[test]
    fn a_command_that_does_not_end_is_not_waited_for() {
        let (mut shell, _dir) = shell(Duration::from_millis(200));
        assert_eq!(
            shell.run("echo a; exec sleep 600"),
            Outcome {
                lines: vec!["a".into()],
                code: None
            }
        );
    }
}
