//! What changes about a node, and which of its ends are no fault of its own.

use std::{
    process::ExitStatus,
    time::{Duration, Instant},
};

use crate::os::{process::Process, shim::DiskFaults};

/// Exit code of a node whose storage failed, or is corrupt.
pub(super) const STORAGE_FAILED: i32 = 5;
/// Exit code of a node that cannot use its data directory, also because the first file that it reads there cannot be read.
const DATA_REFUSED: i32 = 3;
/// A disk that was bad may end its node so long after it was made good: the node has still to see what had failed.
const GRACE: Duration = Duration::from_secs(5);

/// What changes about a node.
#[derive(Default)]
pub struct State {
    /// Its process, while it is to run.
    pub process: Option<Process>,
    /// The number of the fault that holds it.
    pub(super) holder: Option<usize>,
    /// Until when its disk excuses an end; for ever while that is `None`.
    excuse: Option<Option<Instant>>,
    /// It ended by itself since it was started, with this code.
    pub ended: Option<ExitStatus>,
    /// How often it ended without an excuse.
    pub(super) problems: usize,
    /// When it was started last.
    pub(super) started: Option<Instant>,
    /// How its files fail.
    pub(super) faults: DiskFaults,
}

impl State {
    /// From now on its disk excuses an end.
    pub fn excuse(&mut self) {
        self.excuse = Some(None);
    }

    /// The disk is good again.
    pub fn end_excuse(&mut self) {
        if self.excuse.is_some() {
            self.excuse = Some(Some(Instant::now() + GRACE));
        }
    }

    /// Its disk excuses such an end.
    pub(super) fn is_excused(&self, status: ExitStatus) -> bool {
        matches!(status.code(), Some(STORAGE_FAILED | DATA_REFUSED))
            && self
                .excuse
                .is_some_and(|until| until.is_none_or(|until| Instant::now() < until))
    }

    /// It runs, as far as is known.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn only_a_bad_disk_excuses_and_only_that_exit_code() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let mut state = State::default();
        assert!(!state.is_excused(exit(5)));
        state.end_excuse();
        assert!(!state.is_excused(exit(5)), "there was none");
        state.excuse();
        assert!(state.is_excused(exit(5)) && state.is_excused(exit(3)) && !state.is_excused(exit(1)));
        assert!(!state.is_excused(ExitStatus::from_raw(6)), "a signal");
        state.end_excuse();
        assert!(state.is_excused(exit(5)), "for some time after");
        state.excuse = Some(Some(Instant::now()));
        assert!(!state.is_excused(exit(5)));
    }
}
