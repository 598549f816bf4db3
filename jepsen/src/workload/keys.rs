//! Which key a client works on next: a hot one or one of many, and new ones after a while.
//!
//! A search for a linear order takes longer the more operations one key has, so keys are left behind after so many.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use super::random::Random;
use crate::history::Key;

/// Keys of some partitions.
#[derive(Debug)]
pub(super) struct Keys {
    partitions: Range<u32>,
    /// Keys of a partition at a time, of those that are not hot.
    many: u32,
    hot_percent: u32,
    /// Operations on a key before it is left behind.
    rotate: u64,
    hot_draws: AtomicU64,
    other_draws: AtomicU64,
}

impl Keys {
    pub(super) fn new(partitions: Range<u32>, many: u32, hot_percent: u32, rotate: u64) -> Self {
        Self {
            partitions,
            many: many.max(1),
            hot_percent,
            rotate: rotate.max(1),
            hot_draws: AtomicU64::new(0),
            other_draws: AtomicU64::new(0),
        }
    }

    /// A key. The hot one of a time is an even number of the first partition, others are odd.
    pub(super) fn draw(&self, random: &mut Random) -> Key {
        if random.percent(self.hot_percent) {
            let generation = self.hot_draws.fetch_add(1, Ordering::Relaxed) / self.rotate;
            return Key {
                partition: self.partitions.start,
                key: generation as u32 * 2,
            };
        }
        let partitions = self.partitions.len() as u64;
        let keys = partitions * u64::from(self.many);
        let draws = self.other_draws.fetch_add(1, Ordering::Relaxed);
        let generation = (draws / (self.rotate * keys)) as u32;
        Key {
            partition: self.partitions.start + random.below(partitions) as u32,
            key: (generation * self.many + random.below_u32(self.many)) * 2 + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn keys_are_left_behind() {
        let keys = Keys::new(5..7, 3, 50, 100);
        let mut random = Random::new(1, &[]);
        let mut drawn: BTreeMap<Key, u64> = BTreeMap::new();
        for _ in 0..4_000 {
            let key = keys.draw(&mut random);
            assert!((5..7).contains(&key.partition));
            *drawn.entry(key).or_default() += 1;
        }
        let hot = drawn.iter().filter(|(key, _)| key.key % 2 == 0);
        assert!(hot.clone().count() >= 19 && hot.into_iter().all(|(_, draws)| *draws <= 100));
        let others = drawn.iter().filter(|(key, _)| key.key % 2 == 1);
        assert!(others.clone().count() >= 18 && others.into_iter().all(|(_, draws)| *draws < 160));
    }
}
