//! Tells people how far a run is, on standard error: one line that is written over on a terminal, else a line now and then.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::plan::Nemesis;

/// Between two lines where they are not written over.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// How far the load is.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Since it began.
    pub elapsed: Duration,
    /// Until it ends.
    pub total: Duration,
    /// Operations that were carried out, not carried out, not known.
    pub ended: [u64; 3],
    /// Operations carried out in the last second.
    pub rate: f64,
    /// Faults under way.
    pub active: &'a BTreeSet<Nemesis>,
}

/// Where it is told.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    terminal: bool,
    last: Option<Instant>,
    open_line: bool,
}

impl Progress {
    /// Nothing is told if it is to be quiet.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: io::stderr().is_terminal(),
            last: None,
            open_line: false,
        }
    }

    /// A new part of the run begins.
    pub fn phase(&mut self, text: &str) {
        if self.quiet {
            return;
        }
        let end = if self.open_line { "\n" } else { "" };
        self.open_line = false;
        // Nobody is left to tell if this fails.
        drop(writeln!(io::stderr(), "{end}{text}"));
    }

    /// The load goes on.
    pub fn tick(&mut self, at: &At<'_>) {
        if self.quiet {
            return;
        }
        let due = self.last.is_none_or(|last| last.elapsed() >= LOG_PAUSE);
        if self.terminal {
            drop(write!(io::stderr(), "\r\x1b[K{}", line(at)));
            drop(io::stderr().flush());
            self.open_line = true;
        } else if due {
            self.last = Some(Instant::now());
            drop(writeln!(io::stderr(), "{}", line(at)));
        }
    }
}

fn line(at: &At<'_>) -> String {
    let clock = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
    let [ok, fail, info] = at.ended;
    let active: Vec<&str> = at.active.iter().map(|nemesis| nemesis.name()).collect();
    format!(
        "{} of {}, {} left | {:.0} ops/s, {ok} ok, {fail} failed, {info} unknown | {}",
        clock(at.elapsed),
        clock(at.total),
        clock(at.total.saturating_sub(at.elapsed)),
        at.rate,
        match active.is_empty() {
            true => "quiet".to_owned(),
            false => active.join(" "),
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_rate_and_faults() {
        let active = BTreeSet::from([Nemesis::Kill, Nemesis::DiskSlow]);
        let at = At {
            elapsed: Duration::from_secs(65),
            total: Duration::from_secs(120),
            ended: [1000, 20, 3],
            rate: 250.4,
            active: &active,
        };
        assert_eq!(
            line(&at),
            "1:05 of 2:00, 0:55 left | 250 ops/s, 1000 ok, 20 failed, 3 unknown | kill disk-slow"
        );
    }
}
