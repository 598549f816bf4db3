//! Rate and latency of operations over time.

use serde::{Deserialize, Serialize};

use super::{Outcome, operations_of};
use crate::history::{Event, Nanos};

/// Most buckets of a run; more could not be told apart in a picture.
const MAX_BUCKETS: u64 = 2000;

/// Buckets of equal length, from the beginning of the run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Nanoseconds of a bucket.
    pub bucket: Nanos,
    /// The buckets, also empty ones, up to the last event.
    pub buckets: Vec<Bucket>,
}

/// The operations that ended in some time. Latencies are of those that were carried out; 0 if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Carried out.
    pub ok: u64,
    /// Not carried out.
    pub fail: u64,
    /// Not known.
    pub info: u64,
    /// Half took at most so many nanoseconds.
    pub p50: Nanos,
    /// 99 of 100 took at most so many nanoseconds.
    pub p99: Nanos,
    /// The longest took so many nanoseconds.
    pub max: Nanos,
}

/// Counts and latencies of a history in buckets of this many nanoseconds, or of twice as many and so on until there are at most 2,000. An
/// operation counts when the client heard of its end; one that never ended, at the last event. Percentiles are exact (nearest rank).
pub fn rates_of(history: &[Event], bucket: Nanos) -> Rates {
    let Some(last) = history.iter().map(|event| event.time).max() else {
        return Rates {
            bucket,
            buckets: Vec::new(),
        };
    };
    let mut bucket = bucket.max(1);
    while last / bucket >= MAX_BUCKETS {
        bucket *= 2;
    }
    let place = |time: Nanos| usize::try_from(time / bucket).unwrap_or(usize::MAX);
    let mut buckets = vec![Bucket::default(); place(last) + 1];
    let mut latencies = vec![Vec::new(); buckets.len()];
    for operation in operations_of(history) {
        let ended = operation.ended.unwrap_or(last);
        let at = place(ended);
        match operation.outcome {
            Outcome::Ok => {
                buckets[at].ok += 1;
                latencies[at].push(ended.saturating_sub(operation.invoked));
            }
            Outcome::Fail => buckets[at].fail += 1,
            Outcome::Info => buckets[at].info += 1,
        }
    }
    for (bucket, mut latencies) in buckets.iter_mut().zip(latencies) {
        latencies.sort_unstable();
        bucket.p50 = percentile(&latencies, 50);
        bucket.p99 = percentile(&latencies, 99);
        bucket.max = percentile(&latencies, 100);
    }
    Rates { bucket, buckets }
}

/// The smallest value that at least so many of a hundred do not exceed.
fn percentile(sorted: &[Nanos], percent: usize) -> Nanos {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).map_or(0, |at| sorted[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{Script, call_read, k, read, write};

    #[test]
    fn operations_count_where_they_end() {
        let events = Script::new()
            .ok(1, (0, 12), write(k(0), 1, 1, 1))
            .ok(2, (11, 19), read(k(0), 1, None))
            .fail(3, (5, 21), call_read(k(1)))
            .unknown(4, (1, 39), call_read(k(1)))
            .events();
        let rates = rates_of(&events, 10);
        let empty = Bucket::default();
        let busy = Bucket {
            ok: 2,
            p50: 8,
            p99: 12,
            max: 12,
            ..empty
        };
        let fail = Bucket { fail: 1, ..empty };
        let info = Bucket { info: 1, ..empty };
        assert_eq!(rates.buckets, [empty, busy, fail, info]);
    }

    #[test]
    fn what_never_ended_counts_at_the_last_event() {
        let mut events = Script::new()
            .ok(1, (0, 12), write(k(0), 1, 1, 1))
            .ok(2, (11, 35), write(k(0), 2, 2, 2))
            .events();
        events.remove(2);
        let rates = rates_of(&events, 10);
        assert_eq!(
            rates.buckets.iter().map(|one| one.info).collect::<Vec<_>>(),
            [0, 0, 0, 1]
        );
    }

    #[test]
    fn long_runs_have_longer_buckets() {
        let events = Script::new().ok(1, (0, 1 << 40), write(k(0), 1, 1, 1)).events();
        let rates = rates_of(&events, 0);
        assert!(rates.buckets.len() as u64 <= MAX_BUCKETS && rates.buckets.len() > 900);
        assert!(rates_of(&[], 10).buckets.is_empty());
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred: Vec<_> = (1..=100).collect();
        assert_eq!([50, 99, 100].map(|p| percentile(&hundred, p)), [50, 99, 100]);
        assert_eq!([50, 99, 100].map(|p| percentile(&[7], p)), [7; 3]);
        assert_eq!([50, 99, 100].map(|p| percentile(&[3, 7, 9], p)), [7, 9, 9]);
    }
}
