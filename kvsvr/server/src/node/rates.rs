//! Reads and writes per second over the last seconds, from what is counted since the start. Pure.

use std::{collections::VecDeque, time::Duration};

use crate::metrics::Answered;

/// So far is looked back.
const SPAN: Duration = Duration::from_secs(10);
/// Between two samples at least. A rate is of no shorter span.
const STEP: Duration = Duration::from_secs(1);

/// What was counted in the last seconds, each time with when that was, since the start. Never empty.
#[derive(Debug)]
pub(super) struct Rates(VecDeque<(Duration, Answered)>);

impl Default for Rates {
    fn default() -> Self {
        Self([(Duration::ZERO, Answered::default())].into())
    }
}

impl Rates {
    /// Takes a sample, if the last one is old enough.
    pub(super) fn note(&mut self, at: Duration, counted: Answered) {
        let is_due = |last: &(Duration, Answered)| at.saturating_sub(last.0) >= STEP;
        if !self.0.back().is_none_or(is_due) {
            return;
        }
        self.0.push_back((at, counted));
        // One that is as old as the span stays, so that all of it is looked at.
        let covers = |second: &(Duration, Answered)| at.saturating_sub(second.0) >= SPAN;
        while self.0.get(1).is_some_and(covers) {
            self.0.pop_front();
        }
    }

    /// Reads and writes per second since the oldest sample.
    pub(super) fn per_second(&self, at: Duration, counted: Answered) -> (f64, f64) {
        let (since, before) = self.0.front().copied().unwrap_or_default();
        let seconds = at.saturating_sub(since).max(STEP).as_secs_f64();
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        (
            rate(counted.reads, before.reads),
            rate(counted.writes, before.writes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(reads: u64, writes: u64) -> Answered {
        Answered { reads, writes }
    }

    #[test]
    fn only_the_last_seconds_count() {
        let ms = Duration::from_millis;
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(ms(0), counted(0, 0)), (0.0, 0.0));
        // Of less than a second nothing is made more than it is.
        assert_eq!(rates.per_second(ms(100), counted(30, 20)), (30.0, 20.0));
        // Looked at each half second, 10 reads and 1 write in each.
        let at = |n: u64| (ms(500 * n), counted(10 * n, n));
        for (at, counted) in (1..=60).map(at) {
            rates.note(at, counted);
            assert_eq!(
                rates.per_second(at, counted),
                if at < ms(1_000) { (10.0, 1.0) } else { (20.0, 2.0) }
            );
        }
        assert!(rates.0.len() <= 12, "{}", rates.0.len());
        // Then nothing: after ten seconds it is forgotten.
        let (_, last) = at(60);
        assert_eq!(rates.per_second(ms(40_000), last), (10.0, 1.0));
        for second in 31..=40 {
            rates.note(ms(1_000 * second), last);
        }
        assert_eq!(rates.per_second(ms(40_000), last), (0.0, 0.0));
    }
}
