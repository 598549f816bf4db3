//! A run in a process of its own.

use std::{
    fmt,
    io::{self, Read},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    interrupt,
    outcome::{Failure, Outcome},
};

/// Who died of a signal may have got it before this process did: for so long its own is waited for.
const SIGNAL: Duration = Duration::from_millis(200);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(5);

/// Why a process has told no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoOutcome {
    /// It did not end within this time.
    TooLong(Duration),
    /// How it ended, in words.
    Died(String),
    /// This process was told to end ([`interrupt`]): nothing is known of it.
    Stopped,
}

impl NoOutcome {
    /// As a failure: of `no_end`, which says nothing about what is wrong, or of `process`.
    pub fn failure(&self) -> Failure {
        let finder = match self {
            Self::TooLong(_) => "no_end",
            Self::Died(_) | Self::Stopped => "process",
        };
        Failure::new(finder, self.to_string())
    }

    /// An outcome with nothing but that.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            failures: vec![self.failure()],
            ..Outcome::default()
        }
    }
}

impl fmt::Display for NoOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(patience) => write!(f, "no end within {patience:?}"),
            Self::Died(text) => f.write_str(text),
            Self::Stopped => f.write_str("stopped by a signal"),
        }
    }
}

/// Runs this program with these arguments, which make it run one plan, in a process of its own. In the result: why there is no outcome.
///
/// # Errors
/// The process cannot be started.
pub fn child(arguments: &[String], patience: Duration) -> io::Result<Result<Outcome, NoOutcome>> {
    if interrupt::came() {
        return Ok(Err(NoOutcome::Stopped));
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .args(["-o", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdout, stderr) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    let status = wait(&mut child, patience)?;
    let text = |reading: JoinHandle<io::Result<String>>| {
        let read = reading.join();
        read.unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))
    };
    let (stdout, stderr) = (text(stdout)?, text(stderr)?);
    Ok(status.and_then(|status| told(status, &stdout, &stderr)))
}

/// The outcome, if the process has ended as one does that tells it: with 0 if all held, else with 1.
fn told(status: ExitStatus, stdout: &str, stderr: &str) -> Result<Outcome, NoOutcome> {
    // A panic says where first.
    let said = stderr.lines().take(2).collect::<Vec<_>>().join(" ");
    let Ok(outcome) = serde_json::from_str::<Outcome>(stdout) else {
        return Err(NoOutcome::Died(format!("no outcome, {status}: {said}")));
    };
    let (held, code) = if outcome.is_clean() {
        ("all held", 0)
    } else {
        ("something failed", 1)
    };
    if status.code() != Some(code) {
        return Err(NoOutcome::Died(format!(
            "the outcome is that {held}, and the end was {status}: {said}"
        )));
    }
    Ok(outcome)
}

/// Reads a stream to its end, so that who writes to it need not wait.
fn read_all(stream: Option<impl Read + Send + 'static>) -> JoinHandle<io::Result<String>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream
            .map(|mut stream| stream.read_to_end(&mut bytes))
            .transpose()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })
}

/// Waits for the end; kills the process when it takes too long, or this one is told to end.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Result<ExitStatus, NoOutcome>> {
    let until = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            let is_stopped = status.signal().is_some_and(interrupt::is_one) && comes_soon();
            let stopped = is_stopped.then_some(NoOutcome::Stopped);
            return Ok(stopped.map_or(Ok(status), Err));
        }
        let why = if interrupt::came() {
            NoOutcome::Stopped
        } else if Instant::now() >= until {
            NoOutcome::TooLong(patience)
        } else {
            std::thread::sleep(LOOK);
            continue;
        };
        child.kill()?;
        child.wait()?;
        return Ok(Err(why));
    }
}

/// The signal that another process died of has come to this one, too.
fn comes_soon() -> bool {
    let until = Instant::now() + SIGNAL;
    while !interrupt::came() && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
    interrupt::came()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_counts_if_its_process_ends_well() {
        let json = |failures| {
            let outcome = Outcome {
                failures,
                ..Outcome::default()
            };
            serde_json::to_string(&outcome).unwrap()
        };
        let clean = json(Vec::new());
        let failed = json(vec![Failure::new("bank", "a sum".into())]);
        let told =
            |status: i32, stdout: &str| told(ExitStatus::from_raw(status), stdout, "panicked at a:1:2");
        let exit = |code: i32| code << 8;
        assert!(told(exit(0), &clean).unwrap().is_clean());
        assert!(!told(exit(1), &failed).unwrap().is_clean());
        for (status, stdout) in [
            (exit(1), &clean),
            (exit(0), &failed),
            (exit(101), &clean),
            (6, &clean),
        ] {
            let none = told(status, stdout).unwrap_err();
            assert_eq!(none.failure().found_by, "process", "{none}");
        }
        let died = told(exit(101), "").unwrap_err().to_string();
        assert!(
            died.starts_with("no outcome") && died.ends_with("a:1:2"),
            "{died}"
        );
    }

    #[test]
    fn who_takes_too_long_has_not_died() {
        let late = NoOutcome::TooLong(Duration::from_secs(2)).failure();
        assert_eq!(
            (late.found_by.as_str(), late.text.as_str()),
            ("no_end", "no end within 2s")
        );
    }
}
