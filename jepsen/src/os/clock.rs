//! Wrong clocks of one node, by its [`Shim`].
//!
//! - The **wall clock** can be set: it jumps by any amount, also while its node runs.
//! - The **rate** is that of all clocks together, as that of a machine's one oscillator is. A change of it is no jump: clocks go on from
//!   where they are. The monotonic clock never goes backward.
//!
//! Clocks that have drifted stay ahead or behind when the rate is right again. A process that starts again finds them as they are. What
//! waits for a length of time, not for a moment, waits that long in true time (tokio's timers look at the clock when they wake).

use std::{io, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use super::shim::Shim;

/// The rates that can be asked for: beyond them a node sees timeouts everywhere, which proves nothing about its clock.
const RATES: std::ops::RangeInclusive<f64> = 0.1..=10.0;
/// The largest offset of the wall clock, either way.
const MAX_OFFSET: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far ahead of now a slower rate begins, so that it has not begun before the node knows of it: its clock would go backward.
const NOTICE: Duration = Duration::from_millis(5);
const BILLION: i128 = 1_000_000_000;

/// The numbers that decide a node's clocks, in nanoseconds and billionths.
///
/// The monotonic clock shows `anchor_fake + (true - anchor) * rate`; the wall clock is ahead of the true one as far as that is, and by
/// its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockState {
    wall_offset: i64,
    anchor: i64,
    anchor_fake: i64,
    rate: i64,
}

impl Default for ClockState {
    fn default() -> Self {
        Self {
            wall_offset: 0,
            anchor: 0,
            anchor_fake: 0,
            rate: BILLION as i64,
        }
    }
}

impl ClockState {
    /// In the order that the shim reads them.
    pub(super) fn numbers(&self) -> [i64; 4] {
        [self.wall_offset, self.anchor, self.anchor_fake, self.rate]
    }

    /// What the node's monotonic clock shows at a true moment.
    fn at(&self, moment: i64) -> i64 {
        let since = i128::from(moment - self.anchor) * i128::from(self.rate) / BILLION;
        self.anchor_fake + since as i64
    }

    fn set_rate(&mut self, now: i64, rate: i64) {
        let from = if rate < self.rate {
            now + NOTICE.as_nanos() as i64
        } else {
            now
        };
        (self.anchor_fake, self.anchor) = (self.at(from), from);
        self.rate = rate;
    }

    /// The offset with which the wall clock is right, as far as the rate is.
    fn right_offset(&self, now: i64) -> i64 {
        now - self.at(now)
    }
}

fn monotonic() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * BILLION as i64 + now.tv_nsec
}

impl Shim {
    /// Sets the wall clock so many milliseconds ahead of where it would be without an offset; behind if negative.
    pub fn set_wall_offset_ms(&self, offset: i64) -> io::Result<()> {
        if u128::from(offset.unsigned_abs()) > MAX_OFFSET.as_millis() {
            return Err(io::Error::other(format!(
                "a wall clock off by {offset} ms: at most ten years"
            )));
        }
        let mut clock = self.clock.lock();
        clock.wall_offset = offset * 1_000_000;
        self.write_clock(&clock)
    }

    /// Lets all clocks run so many seconds for each true second, from 0.1 to 10.
    pub fn set_rate(&self, rate: f64) -> io::Result<()> {
        if !RATES.contains(&rate) {
            return Err(io::Error::other(format!("clocks at rate {rate}: from 0.1 to 10")));
        }
        let mut clock = self.clock.lock();
        clock.set_rate(monotonic(), (rate * BILLION as f64).round() as i64);
        self.write_clock(&clock)
    }

    /// Lets all clocks run at the true rate, and sets the wall clock right. The monotonic clock stays ahead or behind.
    pub fn repair_clocks(&self) -> io::Result<()> {
        self.set_rate(1.0)?;
        let mut clock = self.clock.lock();
        // From the anchor on it is constant.
        clock.wall_offset = clock.right_offset(clock.anchor);
        self.write_clock(&clock)
    }

    /// For tests: the monotonic clock this far ahead of the true one.
    #[cfg(test)]
    pub(super) fn shift_monotonic(&self, ahead: Duration) -> io::Result<()> {
        let mut clock = self.clock.lock();
        clock.anchor_fake += ahead.as_nanos() as i64;
        self.write_clock(&clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn a_change_of_rate_is_no_jump_and_never_goes_backward() {
        let mut clock = ClockState::default();
        assert_eq!(clock.at(100 * S), 100 * S);
        clock.set_rate(100 * S, 2 * S);
        assert_eq!((clock.at(100 * S), clock.at(110 * S)), (100 * S, 120 * S));

        let faster = clock;
        clock.set_rate(110 * S, S / 2);
        let notice = NOTICE.as_nanos() as i64;
        // Wherever in the notice the node sees the change, its clock goes forward.
        for seen in [0, 1, notice / 2, notice] {
            assert!(clock.at(110 * S + seen) >= faster.at(110 * S + seen), "{seen}");
        }
        assert_eq!(clock.at(110 * S + notice), faster.at(110 * S + notice));
        assert_eq!(clock.at(130 * S + notice) - clock.at(120 * S + notice), 5 * S);
    }

    #[test]
    fn the_right_offset_takes_back_what_has_drifted() {
        let mut clock = ClockState::default();
        clock.set_rate(0, 2 * S);
        clock.set_rate(10 * S, S);
        let now = 50 * S;
        assert_eq!(clock.at(now) + clock.right_offset(now), now);
        assert!(clock.at(now) >= now + 10 * S);
    }
}
