//! Wrong clocks of nodes, and what they excuse.
//!
//! The stamps of a shard's entries are the wall clock of whoever leads; they never go back, and run on by the monotonic clock where the
//! wall clock is behind them. So a clock that is ahead moves the shard's time ahead while it is wrong, once: what is written later begins
//! from there. And a shard's time lags only while a leader's clock is behind that found it lagging, at most until a right one leads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::Nanos;

/// A time in which the clocks of a node were wrong, on the history's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongClock {
    /// The node. What is wrong at one time with one node adds up.
    pub node: u64,
    /// From here on.
    pub from: Nanos,
    /// Until here; [`Nanos::MAX`]: for ever.
    pub to: Nanos,
    /// By how much the wall clock was ahead of true time, at most.
    pub ahead: Nanos,
    /// By how much it was behind, at most.
    pub behind: Nanos,
    /// By how many millionths of their rate all clocks of the node ran too fast or too slow.
    pub rate_off: u64,
}

const MILLION: u64 = 1_000_000;
/// No clock is trusted to run at less than half of its rate: [`Clocks::age_error`] would have no bound.
const MOST_OFF: u64 = MILLION / 2;

/// All wrong clocks of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks<'a>(pub(crate) &'a [WrongClock]);

impl Clocks<'_> {
    /// By how much earlier than after its TTL something may end that was written in `written` (its invocation and its end) and seen gone at
    /// `gone`: the shard's time may have moved ahead in between, and may have lagged when it was written.
    pub(crate) fn early(self, written: (Nanos, Nanos), gone: Nanos) -> Nanos {
        let (begun, ended) = written;
        let ahead = self.most((begun, gone), |wrong| wrong.ahead);
        ahead.saturating_add(self.most((begun, ended), |wrong| wrong.behind))
    }

    /// Stamps may have been wrong before a time.
    pub(crate) fn any_before(self, time: Nanos) -> bool {
        self.0.iter().any(|wrong| wrong.from < time)
    }

    /// By how much a length of time that ended at `ended` may be wrong, by whose clock ever it was measured.
    pub(crate) fn age_error(self, ended: Nanos, length: Nanos) -> Nanos {
        // What a slow clock takes for so long was longer, so that it may have begun earlier.
        let span = (ended.saturating_sub(length.saturating_mul(2)), ended);
        let off = self.most(span, |wrong| wrong.rate_off).min(MOST_OFF);
        let error = u128::from(length) * u128::from(off) / u128::from(MILLION - off);
        Nanos::try_from(error).unwrap_or(Nanos::MAX)
    }

    /// The most that was wrong with one node at one moment of a span.
    fn most(self, (from, to): (Nanos, Nanos), what: impl Fn(&WrongClock) -> u64) -> u64 {
        let overlapping = || {
            let all = self.0.iter();
            all.filter(|wrong| wrong.from <= to && from <= wrong.to)
        };
        // The sum is greatest at the beginning of the span or of one that is wrong in it.
        let moments = overlapping().map(|wrong| wrong.from.max(from));
        let sum_at = |moment: Nanos| {
            let mut by_node: BTreeMap<u64, u64> = BTreeMap::new();
            for wrong in overlapping().filter(|wrong| wrong.from <= moment && moment <= wrong.to) {
                let sum = by_node.entry(wrong.node).or_default();
                *sum = sum.saturating_add(what(wrong));
            }
            by_node.into_values().max().unwrap_or(0)
        };
        moments.map(sum_at).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(node: u64, (from, to): (Nanos, Nanos), ahead: Nanos, behind: Nanos) -> WrongClock {
        WrongClock {
            node,
            from,
            to,
            ahead,
            behind,
            rate_off: 0,
        }
    }

    #[test]
    fn only_what_lives_while_a_clock_is_ahead_may_end_early() {
        let all = [wrong(1, (100, 200), 50, 0)];
        let clocks = Clocks(&all);
        assert_eq!(clocks.early((10, 11), 99), 0, "before");
        assert_eq!(clocks.early((201, 202), 300), 0, "after");
        assert_eq!(clocks.early((10, 11), 300), 50, "across");
        assert_eq!(clocks.early((10, 11), 150), 50);
        assert_eq!(clocks.early((150, 151), 160), 50);
    }

    #[test]
    fn what_is_written_while_a_clock_is_behind_may_end_early() {
        let all = [wrong(1, (100, 200), 0, 50)];
        let clocks = Clocks(&all);
        assert_eq!(clocks.early((90, 101), 300), 50);
        assert_eq!(clocks.early((90, 99), 300), 0);
    }

    #[test]
    fn jumps_of_one_node_at_one_time_add_up() {
        let all = [
            wrong(1, (100, 200), 50, 0),
            wrong(1, (150, 250), 30, 0),
            wrong(2, (100, 250), 60, 7),
            wrong(1, (210, 220), 5, 0),
        ];
        let clocks = Clocks(&all);
        assert_eq!(clocks.early((0, 1), 149), 60);
        assert_eq!(clocks.early((0, 1), 300), 80);
        assert_eq!(clocks.early((205, 206), 300), 67);
    }

    #[test]
    fn ages_are_off_only_where_a_rate_is() {
        let all = [WrongClock {
            node: 1,
            from: 1_000,
            to: 2_000,
            rate_off: 100_000,
            ..WrongClock::default()
        }];
        let clocks = Clocks(&all);
        assert_eq!(clocks.age_error(1_500, 900), 100);
        assert_eq!(clocks.age_error(900, 900), 0);
        assert_eq!(clocks.age_error(2_500, 100), 0);
        assert_eq!(Clocks(&[]).age_error(5_000, 5_000), 0);
    }
}
