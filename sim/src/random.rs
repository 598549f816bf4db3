//! Random streams that do not disturb each other.
//!
//! Every source of chance in a simulation (a fault of a link, a node's disk, a client) draws from a stream of its own, named by
//! labels under the simulation's seed. Taking one fault out of a plan leaves the draws of all others as they were, which is what makes
//! shrinking a failing plan work. The generator is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
//! OOPSLA 2014), which is fast and good enough for this; it is not for secrets.

use std::{fmt::Display, time::Duration};

use twox_hash::XxHash3_64;

/// One stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream(u64);

impl Stream {
    /// The stream of these labels under the seed. The same labels give the same stream, others an unrelated one.
    pub fn new(seed: u64, labels: &[&dyn Display]) -> Self {
        let mut name = Vec::new();
        for label in labels {
            let text = label.to_string();
            // With its length, so that no two lists of labels run into the same bytes.
            name.extend_from_slice(&(text.len() as u64).to_le_bytes());
            name.extend_from_slice(text.as_bytes());
        }
        Self(XxHash3_64::oneshot_with_seed(seed, &name))
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; zero if that is zero.
    pub fn below(&mut self, n: u64) -> u64 {
        // Lemire's multiplication; its bias is below 2^-32 for the small numbers asked for here.
        let wide = u128::from(self.next_u64()) * u128::from(n);
        (wide >> 64) as u64
    }

    /// An index of a collection of this length; zero if it is empty.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number from `low` on and below `high`; `low` if there is none between them.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// A number from 0 on and below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability. Draws nothing when that is 0 or less.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// A duration of the exponential distribution with this mean, cut at twenty times that.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64((-(1.0 - self.unit()).ln()).min(20.0))
    }

    /// A duration from `low` on and below `high`, each order of magnitude alike; `low` if there is none between them.
    pub fn log_uniform(&mut self, low: Duration, high: Duration) -> Duration {
        if low >= high {
            return low;
        }
        let (from, to) = (
            low.as_secs_f64().max(1e-9).ln(),
            high.as_secs_f64().max(1e-9).ln(),
        );
        Duration::from_secs_f64((from + self.unit() * (to - from)).exp()).clamp(low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_streams() {
        let first = |labels: &[&dyn Display]| Stream::new(7, labels).next_u64();
        assert_eq!(first(&[&"link", &1, &2]), first(&[&"link", &1, &2]));
        assert_ne!(first(&[&"link", &1, &2]), first(&[&"link", &12]));
        assert_ne!(first(&[&"link", &1, &2]), first(&[&"link", &2, &1]));
        assert_ne!(
            Stream::new(7, &[&"a"]).next_u64(),
            Stream::new(8, &[&"a"]).next_u64()
        );
    }

    #[test]
    fn draws_stay_in_their_bounds() {
        let mut stream = Stream::new(1, &[]);
        let (ms, s) = (Duration::from_millis(1), Duration::from_secs(1));
        let mut sum = Duration::ZERO;
        let mut chances = 0;
        for _ in 0..10_000 {
            assert!(stream.below(3) < 3);
            assert!((5..9).contains(&stream.range(5, 9)));
            assert!((ms..=s).contains(&stream.log_uniform(ms, s)));
            sum += stream.exponential(ms);
            chances += u32::from(stream.chance(0.25));
        }
        assert_eq!((stream.below(0), stream.range(4, 4), stream.index(0)), (0, 4, 0));
        let mean = sum / 10_000;
        assert!(ms * 95 / 100 < mean && mean < ms * 105 / 100, "{mean:?}");
        assert!((2_300..2_700).contains(&chances), "{chances}");
    }

    #[test]
    fn a_chance_of_nothing_draws_nothing() {
        let mut stream = Stream::new(1, &[]);
        let before = stream.clone();
        assert!(!stream.chance(0.0));
        assert_eq!(stream, before);
    }
}
