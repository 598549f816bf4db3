//! The stamps of a shard's entries: the wall clock of whoever leads, never behind what the shard has seen, never standing still.
//!
//! A leader whose clock is ahead moves the shard's time ahead. The next leader cannot take it back, or keys would expire before their
//! time; so it goes on from there at the speed of its monotonic clock until its wall clock has caught up. Otherwise everything that
//! expires would wait that long.
//!
//! The shard's time loses what passes while nobody leads. A leader that led before, too, must not make up for that with a stamp of its
//! own that it has gone on from: what was written since would end early. So it forgets that stamp when it begins to lead, and whenever the
//! shard has seen a later one.

use std::{sync::Arc, time::Duration};

use kvsvr_core::types::StampMs;
use parking_lot::Mutex;

use super::leader::LeaderView;
use crate::{
    raft::apply::Head,
    time::{Instant, wall_clock_ms},
};

/// The clock of one shard on one node.
pub struct StampClock {
    head: Arc<Head>,
    leader: Arc<LeaderView>,
    last: Mutex<Reading>,
}

/// A stamp and when it was given.
#[derive(Clone, Copy)]
struct Reading {
    stamp: StampMs,
    at: Instant,
    /// [`LeaderView::times_led`] then.
    times_led: u64,
}

impl Reading {
    /// None yet.
    fn first(at: Instant, times_led: u64) -> Self {
        Self {
            stamp: 0,
            at,
            times_led,
        }
    }

    fn next(self, wall: StampMs, shard: StampMs, at: Instant) -> Reading {
        let Self { times_led, .. } = self;
        let from_own_past = kvsvr_core::mutant!("stamps-from-own-past");
        if shard > self.stamp && !from_own_past {
            // Somebody else gave it: from there.
            let stamp = wall.max(shard);
            return Reading { stamp, at, times_led };
        }
        let passed = at.saturating_duration_since(self.at);
        let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let running = if kvsvr_core::mutant!("stamps-stand-still") {
            self.stamp
        } else {
            self.stamp.saturating_add(passed)
        };
        let stamp = match from_own_past {
            true => wall.max(shard).max(running),
            false => wall.max(running),
        };
        // Where the monotonic clock decides, parts of milliseconds must not get lost.
        if stamp == running {
            let at = self.at + Duration::from_millis(passed);
            return Reading { stamp, at, times_led };
        }
        Reading { stamp, at, times_led }
    }
}

impl StampClock {
    /// The clock of the shard with this applied state.
    pub fn new(head: Arc<Head>, leader: Arc<LeaderView>) -> Self {
        let last = Reading::first(Instant::now(), leader.times_led());
        Self {
            head,
            leader,
            last: Mutex::new(last),
        }
    }

    /// The present stamp, unix milliseconds.
    pub fn now(&self) -> StampMs {
        let mut last = self.last.lock();
        let times_led = self.leader.times_led();
        if times_led != last.times_led && !kvsvr_core::mutant!("stamps-from-own-past") {
            *last = Reading::first(Instant::now(), times_led);
        }
        #[cfg(feature = "mutants")]
        if last.stamp == 0 && kvsvr_core::mutant!("stamps-jump-ahead") {
            let ahead = wall_clock_ms().max(self.head.stamp()) + 3_000;
            *last = last.next(ahead, ahead, Instant::now());
        }
        *last = last.next(wall_clock_ms(), self.head.stamp(), Instant::now());
        last.stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_neither_goes_back_nor_stands_still() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let first = Reading::first(start, 0);
        let wall = first.next(1_000, 0, at(0));
        assert_eq!(wall.stamp, 1_000);
        // An earlier leader was two hours ahead.
        let ahead = wall.next(1_000, 7_200_000, at(0));
        assert_eq!(ahead.stamp, 7_200_000);
        let mut reading = ahead;
        for step in 1..=100 {
            reading = reading.next(1_000, 7_200_000, at(step * 300));
        }
        assert_eq!(reading.stamp, 7_200_030, "30 ms in steps of 0.3 ms");
        // The wall clock takes over again when it has caught up, also after it was set back.
        let caught_up = reading.next(9_000_000, 7_200_000, at(40_000));
        assert_eq!(caught_up.stamp, 9_000_000);
        let set_back = caught_up.next(8_000_000, 9_000_000, at(50_000));
        assert_eq!(set_back.stamp, 9_000_010);
    }

    #[test]
    fn who_led_before_goes_on_from_the_shards_time_and_not_from_its_own() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // An hour ahead of true time when it led. Then nobody did for 5 s, and after that another one for 1 s.
        let led = Reading::first(start, 0).next(3_601_000, 0, at(0));
        let shard = led.stamp + 1_000;
        let again = led.next(7_000, shard, at(6_000));
        assert_eq!(again.stamp, shard);
        assert_eq!(again.next(7_000, shard, at(6_010)).stamp, shard + 10);
    }
}
