//! How far a change of the cluster's members is, as everybody who shows it says it.

use std::time::Duration;

use crate::v1::{Operation, operation::State};

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

    /// How long the rest takes if its steps take as long as those before. `None`: nothing is known yet, or nothing is left.
    pub fn time_left(&self, now_ms: u64) -> Option<Duration> {
        let (done, left) = (self.steps_done, self.steps_left);
        (done > 0 && left > 0 && !self.ended()).then(|| self.span(now_ms) * left / done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(done: u32, left: u32, state: State) -> Operation {
        Operation {
            state: state.into(),
            started_ms: 10_000,
            ended_ms: 40_000,
            steps_done: done,
            steps_left: left,
            ..Operation::default()
        }
    }

    #[test]
    fn the_rest_takes_as_long_as_what_was() {
        let running = operation(4, 8, State::Running);
        assert_eq!(running.time_left(20_000), Some(Duration::from_secs(20)));
        assert_eq!(operation(0, 8, State::Running).time_left(20_000), None);
        let done = operation(12, 0, State::Done);
        assert_eq!(done.time_left(90_000), None);
        assert_eq!(done.span(90_000), Duration::from_secs(30));
    }
}
