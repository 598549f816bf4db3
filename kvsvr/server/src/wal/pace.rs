//! How long the log's writes take, with their syncs, over the last seconds. Pure.

use std::time::Duration;

/// So many seconds are looked back at.
pub const PACE_SECONDS: u64 = 10;

/// What was written in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    /// Since the beginning.
    number: u64,
    writes: u32,
    took: Duration,
}

/// The last seconds.
#[derive(Debug, Default)]
pub(super) struct Pace([Second; PACE_SECONDS as usize]);

impl Pace {
    /// A write ended so long after the beginning.
    pub(super) fn note(&mut self, at: Duration, took: Duration) {
        let number = at.as_secs();
        let second = &mut self.0[(number % PACE_SECONDS) as usize];
        if second.number != number {
            *second = Second {
                number,
                ..Second::default()
            };
        }
        second.writes += 1;
        second.took += took;
    }

    /// The mean of the writes of the last seconds; `None`: there were none.
    pub(super) fn mean(&self, at: Duration) -> Option<Duration> {
        let now = at.as_secs();
        let recent = |second: &&Second| second.number <= now && now - second.number < PACE_SECONDS;
        let (mut writes, mut took) = (0, Duration::ZERO);
        for second in self.0.iter().filter(recent) {
            writes += second.writes;
            took += second.took;
        }
        (writes > 0).then(|| took / writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_seconds_count() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        assert_eq!(pace.mean(ms(0)), None);
        pace.note(ms(100), ms(4));
        pace.note(ms(900), ms(8));
        assert_eq!(pace.mean(ms(1_000)), Some(ms(6)));
        pace.note(ms(9_000), ms(30));
        assert_eq!(pace.mean(ms(9_999)), Some(ms(14)));
        assert_eq!(pace.mean(ms(10_000)), Some(ms(30)));
        // In the place of the first second.
        pace.note(ms(10_500), ms(10));
        assert_eq!(pace.mean(ms(10_600)), Some(ms(20)));
        assert_eq!(pace.mean(ms(60_000)), None);
    }
}
