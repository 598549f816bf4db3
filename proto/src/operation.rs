//! How far a change of the cluster's members is, as everybody who shows it says it.

use std::{collections::BTreeMap, time::Duration};

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
    /// As many shards are copied at a time as there were at most so far. `None`: nothing is left, or something of a kind that has not been done
    /// yet.
    pub fn time_left(&self, now_ms: u64) -> Option<Duration> {
        if self.ended() || self.steps_left == 0 {
            return None;
        }
        let paces = self.paces();
        let (copies, joins) = (self.copies_left, self.joins_left);
        let notes = self.steps_left.saturating_sub(copies + joins);
        let lanes = paces.most_at_a_time.max(1);
        let mut rest = 0.0;
        if joins > 0 {
            let waited = now_ms.saturating_sub(paces.last_ms);
            rest += paces.join.rest_of(waited)? + paces.join.mean()? * f64::from(joins - 1);
        }
        if copies > 0 {
            let under_way = paces.copying.iter().take(copies as usize);
            let mut busy: Vec<f64> = under_way
                .map(|since| paces.copy.rest_of(now_ms.saturating_sub(*since)))
                .collect::<Option<_>>()?;
            let begun = busy.len();
            busy.resize(begun.max(lanes), 0.0);
            let mean = paces.copy.mean()?;
            for _ in begun..copies as usize {
                // Whichever is done first goes on with the next one.
                if let Some(first) = busy.iter_mut().min_by(|a, b| a.total_cmp(b)) {
                    *first += mean;
                }
            }
            rest += busy.into_iter().fold(0.0, f64::max);
        }
        if notes > 0 {
            rest += paces.note.mean()? * f64::from(notes);
        }
        Some(Duration::from_millis(rest as u64))
    }

    /// How long its steps took, by the events that are remembered.
    fn paces(&self) -> Paces {
        let mut paces = Paces {
            last_ms: self.started_ms,
            ..Paces::default()
        };
        // Since when a shard is copied. Of one whose beginning is forgotten nothing can be said.
        let mut copying: BTreeMap<u32, u64> = BTreeMap::new();
        // Of the first that is remembered it is known when it began only if it was the first of all.
        let mut is_known = self.events.len() as u64 == u64::from(self.steps_done);
        for event in &self.events {
            let took = event.at_ms.saturating_sub(paces.last_ms);
            match event.after() {
                After::Copy => {
                    if let Some(since) = copying.remove(&event.shard) {
                        paces.copy.add(event.at_ms.saturating_sub(since));
                    }
                }
                After::Join if is_known => paces.join.add(took),
                After::Nothing if is_known => paces.note.add(took),
                After::Join | After::Nothing => {}
            }
            if event.begins_copy {
                copying.insert(event.shard, event.at_ms);
                paces.most_at_a_time = paces.most_at_a_time.max(copying.len());
            }
            paces.last_ms = event.at_ms;
            is_known = true;
        }
        paces.copying = copying.into_values().collect();
        paces.copying.sort_unstable();
        paces
    }
}

/// How long steps of a kind took, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    sum: f64,
    steps: u32,
}

impl Pace {
    fn add(&mut self, took_ms: u64) {
        self.sum += took_ms as f64;
        self.steps += 1;
    }

    fn mean(self) -> Option<f64> {
        (self.steps > 0).then(|| self.sum / f64::from(self.steps))
    }

    /// What is left of a step that has been waited for so long. Who is late by some time may need as much again.
    fn rest_of(self, waited_ms: u64) -> Option<f64> {
        self.mean().map(|mean| (mean - waited_ms as f64).abs())
    }
}

#[derive(Debug, Default)]
struct Paces {
    copy: Pace,
    join: Pace,
    note: Pace,
    /// Since when the shards that are being copied are, the first first.
    copying: Vec<u64>,
    /// So many shards were copied at the same time at most.
    most_at_a_time: usize,
    /// When the last step was done.
    last_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::operation::Event;

    fn event(at_ms: u64, after: After) -> Event {
        Event {
            at_ms,
            after: after.into(),
            ..Event::default()
        }
    }

    fn note(at_ms: u64) -> Event {
        event(at_ms, After::Nothing)
    }

    /// A shard begins to be copied, or is.
    fn copy(at_ms: u64, shard: u32, begins_copy: bool) -> Event {
        let after = if begins_copy { After::Nothing } else { After::Copy };
        Event {
            shard,
            begins_copy,
            ..event(at_ms, after)
        }
    }

    /// Begun at 10 s; so many steps are left that come after nothing, a copy, a joining.
    fn running(events: &[Event], left: [u32; 3]) -> Operation {
        Operation {
            started_ms: 10_000,
            ended_ms: 40_000,
            steps_done: events.len() as u32,
            steps_left: left.iter().sum(),
            copies_left: left[1],
            joins_left: left[2],
            events: events.to_vec(),
            ..Operation::default()
        }
    }

    #[track_caller]
    fn assert_left(operation: &Operation, now_ms: u64, left_ms: u64) {
        assert_eq!(operation.time_left(now_ms), Some(Duration::from_millis(left_ms)));
    }

    #[test]
    fn the_rest_takes_as_long_as_what_was() {
        let operation = running(
            &[note(12_000), note(12_000), note(15_000), note(20_000)],
            [8, 0, 0],
        );
        assert_left(&operation, 20_000, 20_000);
        assert_eq!(running(&[], [8, 0, 0]).time_left(20_000), None);
        // Of many steps the last are remembered.
        let operation = Operation {
            steps_done: 900,
            ..operation
        };
        assert_left(&operation, 20_000, 8 * 8_000 / 3);
        let done = Operation {
            state: State::Done.into(),
            ..operation
        };
        assert_eq!(done.time_left(90_000), None);
        assert_eq!(done.span(90_000), Duration::from_secs(30));
    }

    #[test]
    fn a_copy_takes_longer_than_a_note() {
        // Nothing is said before the node has joined, and before there was a first copy.
        let joining = running(&[note(10_100)], [20, 2, 1]);
        assert_eq!(joining.time_left(15_000), None);
        let mut events = vec![note(10_100), event(18_100, After::Join), copy(18_300, 1, true)];
        let copying = running(&events, [18, 2, 0]);
        assert_eq!(copying.time_left(20_000), None);
        events.extend([copy(38_300, 1, false), note(38_500)]);
        // A note takes 167 ms: one is of 100, two of 200.
        let half = running(&events, [12, 1, 0]);
        assert_left(&half, 38_500, 20_000 + 2_000);
        let last = running(&events, [12, 0, 0]);
        assert_left(&last, 38_500, 2_000);
        // The next copy is under way; late, it may need as much again as it is late.
        events.push(copy(38_500, 2, true));
        let next = running(&events, [0, 1, 0]);
        assert_left(&next, 43_500, 15_000);
        assert_left(&next, 61_500, 3_000);
    }

    #[test]
    fn shards_are_copied_beside_each_other() {
        // Two at a time, which took 8 and 10 s; a third one has begun after the first.
        let events = [
            copy(10_000, 1, true),
            copy(10_000, 2, true),
            copy(18_000, 1, false),
            copy(18_000, 3, true),
            copy(20_000, 2, false),
        ];
        let third = |copies| running(&events, [0, copies, 0]);
        assert_left(&third(1), 20_000, 7_000);
        // The fourth goes beside it, the fifth after the third one.
        assert_left(&third(2), 20_000, 9_000);
        assert_left(&third(3), 20_000, 7_000 + 9_000);
    }

    #[test]
    fn what_was_forgotten_is_not_counted() {
        let events = [copy(50_000, 1, false), note(50_100), copy(50_200, 2, true)];
        let operation = Operation {
            steps_done: 900,
            ..running(&events, [5, 1, 0])
        };
        assert_eq!(
            operation.time_left(60_000),
            None,
            "no copy of which the beginning is known"
        );
        let operation = Operation {
            copies_left: 0,
            ..operation
        };
        assert_left(&operation, 60_000, 600);
    }
}
