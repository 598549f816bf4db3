//! Token buckets: so many at once, and one more each so often. They are kept in this process only, as many as fit: who is not in mind begins with a full one.

use std::{hash::Hash, time::Duration};

use parking_lot::Mutex;
use quick_cache::unsync::Cache;

/// A bucket of each key.
pub(crate) struct Buckets<K> {
    burst: u32,
    every: Duration,
    /// When each bucket will be full again, on the caller's clock.
    full_at: Mutex<Cache<K, Duration>>,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(crate) fn new(burst: u32, every: Duration, kept: usize) -> Self {
        Self {
            burst,
            every,
            full_at: Mutex::new(Cache::new(kept)),
        }
    }

    /// Takes `count` out, or says after how long they can be taken.
    pub(crate) fn take(&self, key: &K, count: u32, now: Duration) -> Result<(), Duration> {
        let mut all = self.full_at.lock();
        let full_at = all.get(key).copied().unwrap_or_default().max(now) + self.every * count;
        let wait = full_at.saturating_sub(now + self.every * self.burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        all.insert(key.clone(), full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Buckets;

    #[test]
    fn so_many_at_once_and_then_one_each_time() {
        let second = Duration::from_secs(1);
        let buckets = Buckets::new(3, second, 10);
        let start = 1_000 * second;
        assert_eq!(buckets.take(&7, 3, start), Ok(()));
        assert_eq!(buckets.take(&7, 1, start), Err(second));
        assert_eq!(buckets.take(&8, 1, start), Ok(()), "each has its own");
        assert_eq!(buckets.take(&7, 1, start + second), Ok(()));
        assert_eq!(buckets.take(&7, 2, start + 2 * second), Err(second));
        assert_eq!(buckets.take(&7, 3, start + 60 * second), Ok(()));
    }
}
