//! How long the members of a shard keep their word to a leader.
//!
//! A replica that acknowledges a leader's message grants no other node its vote for its own `election_max`; the leader serves reads on
//! that (Raft dissertation, section 6.4.1). The setting may differ between nodes while it is being changed, so each acknowledgement says
//! how long it holds, and the leader trusts no longer than the shortest that it has heard.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

/// What the members of one shard have said last, in milliseconds.
#[derive(Debug)]
pub struct Promises {
    own: u64,
    heard: Mutex<BTreeMap<u64, u64>>,
    shortest: AtomicU64,
}

impl Promises {
    /// Of a node that promises `own_ms` itself.
    pub fn new(own_ms: u64) -> Self {
        Self {
            own: own_ms,
            heard: Mutex::default(),
            shortest: AtomicU64::new(own_ms),
        }
    }

    /// A member acknowledged something and promises this. Call it before the acknowledgement counts.
    pub fn note(&self, member: u64, promised_ms: u64) {
        let mut heard = self.heard.lock();
        if heard.insert(member, promised_ms) != Some(promised_ms) {
            let shortest = heard.values().copied().fold(self.own, u64::min);
            self.shortest.store(shortest, Ordering::Release);
        }
    }

    /// The shortest of all.
    pub fn shortest(&self) -> Duration {
        Duration::from_millis(self.shortest.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_counts_and_the_last_word_of_each_member() {
        let promises = Promises::new(2000);
        let shortest = || promises.shortest().as_millis();
        assert_eq!(shortest(), 2000);
        promises.note(2, 5000);
        assert_eq!(shortest(), 2000);
        promises.note(3, 900);
        promises.note(2, 1500);
        assert_eq!(shortest(), 900);
        promises.note(3, 3000);
        assert_eq!(shortest(), 1500);
        // An answer without the field: nothing is promised.
        promises.note(3, 0);
        assert_eq!(shortest(), 0);
    }
}
