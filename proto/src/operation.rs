//! How far a change of the cluster's members is, as everybody who shows it says it.

use std::time::Duration;

use crate::v1::{
    Operation,
    operation::{After, State},
};

impl Operation {
    /// Nothing more will happen.
    pub fn ended(&self) -> bool {
        matches!(self.state(), State::Done | State::Aborted)
    }

    /// How long it has run at `now_ms`, by the clock of who answered, or ran.
    pub fn span(&self, now_ms: u64) -> Duration {
        let end = if self.ended() { self.ended_ms } else { now_ms };
        Duration::from_millis(end.saturating_sub(self.started_ms))
    }

    /// How long the rest takes if each kind of its steps takes as long as before: what waits for a copy takes longer than what is only noted.
    /// `None`: nothing is left, or something of a kind that has not been done yet.
    pub fn time_left(&self, now_ms: u64) -> Option<Duration> {
        if self.ended() || self.steps_left == 0 {
            return None;
        }
        let (means, last_ms) = self.paces();
        let [copies, joins] = [self.copies_left, self.joins_left];
        let left = [
            (After::Join, joins),
            (After::Copy, copies),
            (After::Nothing, self.steps_left.saturating_sub(copies + joins)),
        ];
        let mut left = left.into_iter().filter(|(_, left)| *left > 0);
        // What is waited for now, for so long already, may take longer than what was before.
        let waited = now_ms.saturating_sub(last_ms) as f64;
        let (now, first) = left.next()?;
        let mut rest = means[now as usize]?.max(waited) * f64::from(first) - waited;
        for (after, left) in left {
            rest += means[after as usize]? * f64::from(left);
        }
        Some(Duration::from_millis(rest as u64))
    }

    /// How long the steps took that came after each, in milliseconds on an average, by the events that are remembered; and when the last one was.
    fn paces(&self) -> ([Option<f64>; 3], u64) {
        let mut sums = [(0.0, 0u32); 3];
        // Of the first that is remembered it is known only if it was the first of all.
        let mut before = (self.events.len() as u64 == u64::from(self.steps_done)).then_some(self.started_ms);
        for event in &self.events {
            if let Some(before) = before {
                let (took, steps) = &mut sums[event.after() as usize];
                *took += event.at_ms.saturating_sub(before) as f64;
                *steps += 1;
            }
            before = Some(event.at_ms);
        }
        let mean = |(took, steps): (f64, u32)| (steps > 0).then(|| took / f64::from(steps));
        (sums.map(mean), before.unwrap_or(self.started_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::operation::Event;

    /// Begun at 10 s; events at these times, so many steps left that come after nothing, a copy, a joining.
    fn running(events: &[(u64, After)], left: [u32; 3]) -> Operation {
        let event = |(at_ms, after): &(u64, After)| Event {
            at_ms: *at_ms,
            after: (*after).into(),
            ..Event::default()
        };
        Operation {
            started_ms: 10_000,
            ended_ms: 40_000,
            steps_done: events.len() as u32,
            steps_left: left.iter().sum(),
            copies_left: left[1],
            joins_left: left[2],
            events: events.iter().map(event).collect(),
            ..Operation::default()
        }
    }

    #[test]
    fn the_rest_takes_as_long_as_what_was() {
        let (plain, seconds) = (After::Nothing, |s| Some(Duration::from_secs(s)));
        let events = [(12_000, plain), (12_000, plain), (15_000, plain), (20_000, plain)];
        let operation = running(&events, [8, 0, 0]);
        assert_eq!(operation.time_left(20_000), seconds(20));
        // One of them has begun.
        assert_eq!(operation.time_left(21_000), seconds(19));
        // It takes longer than those before: so may the others.
        assert_eq!(operation.time_left(30_000), seconds(70));
        assert_eq!(running(&[], [8, 0, 0]).time_left(20_000), None);
        // Of many steps the last are remembered.
        let operation = Operation {
            steps_done: 900,
            ..operation
        };
        assert_eq!(
            operation.time_left(20_000),
            Some(Duration::from_millis(8 * 8_000 / 3))
        );
        let done = Operation {
            state: State::Done.into(),
            ..operation
        };
        assert_eq!(done.time_left(90_000), None);
        assert_eq!(done.span(90_000), Duration::from_secs(30));
    }

    #[test]
    fn a_copy_takes_longer_than_a_note() {
        let (plain, copy, join) = (After::Nothing, After::Copy, After::Join);
        // Nothing is said before the node has joined, and before there was a first copy.
        let joining = running(&[(10_100, plain)], [20, 2, 1]);
        assert_eq!(joining.time_left(15_000), None);
        let copying = running(&[(10_100, plain), (18_100, join), (18_300, plain)], [18, 2, 0]);
        assert_eq!(copying.time_left(20_000), None);
        let events = [
            (10_100, plain),
            (18_100, join),
            (18_300, plain),
            (38_300, copy),
            (38_600, plain),
        ];
        let half = running(&events, [10, 1, 0]);
        assert_eq!(half.time_left(38_600), Some(Duration::from_secs(20 + 2)));
        assert_eq!(half.time_left(43_600), Some(Duration::from_secs(15 + 2)));
        let last = running(&events, [10, 0, 0]);
        assert_eq!(last.time_left(38_600), Some(Duration::from_secs(2)));
    }
}
