//! Names that tell whose a namespace or a mount is, so that what a killed run left behind can be told from what is in use.

use std::{
    fmt, fs, io,
    sync::atomic::{AtomicU32, Ordering},
};

/// What every name begins with.
const PREFIX: &str = "kvj";

/// One world of a process. Its text, `kvj.PID.START.NUMBER`, is in the name of everything that outlives a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pid: u32,
    /// When the process started, in clock ticks since boot: a later process with the same number has another.
    start: u64,
    number: u32,
}

impl Run {
    /// A new one of this process.
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let pid = std::process::id();
        let start = start_time(pid)?;
        Ok(Self {
            pid,
            start,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// The run that a name belongs to: the name is a run's text, alone or with `.` and more behind it.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        if parts.next()? != PREFIX {
            return None;
        }
        Some(Self {
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        })
    }

    /// It is of this process, or of an earlier one of the same number.
    pub fn is_of(&self, pid: u32) -> bool {
        self.pid == pid
    }

    /// Whether its process still runs. One that has ended and that its parent has not waited for does not.
    pub fn is_alive(&self) -> bool {
        let ended = || {
            let state = field(self.pid, STATE).unwrap_or_default();
            matches!(&*state, "Z" | "X")
        };
        start_time(self.pid).is_ok_and(|start| start == self.start) && !ended()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.{}.{}", self.pid, self.start, self.number)
    }
}

/// Numbers of fields of `/proc/PID/stat` (proc(5)).
const STATE: usize = 3;
const START_TIME: usize = 22;

fn start_time(pid: u32) -> io::Result<u64> {
    let text = field(pid, START_TIME)?;
    text.parse().map_err(io::Error::other)
}

/// A field after the second.
fn field(pid: u32, number: usize) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the command in parentheses, which may hold spaces and parentheses itself.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name
        .split_ascii_whitespace()
        .nth(number - STATE)
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no field {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_run() {
        let run = Run::new().unwrap();
        assert_eq!(Run::of_name(&run.to_string()), Some(run));
        assert_eq!(Run::of_name(&format!("{run}.n3")), Some(run));
        assert!(run.is_alive());
        assert_ne!(Run::new().unwrap(), run);
        for other in ["", "kvj", "kvj.1.2", "kvj.1.x.3", "other.1.2.3", "xkvj.1.2.3"] {
            assert_eq!(Run::of_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_later_process_of_the_same_number_is_not_the_owner() {
        let run = Run::new().unwrap();
        assert!(
            !Run {
                start: run.start + 1,
                ..run
            }
            .is_alive()
        );
        // No process has this number: the largest that Linux gives is 4194304.
        assert!(
            !Run {
                pid: 4_194_305,
                ..run
            }
            .is_alive()
        );
    }
}
