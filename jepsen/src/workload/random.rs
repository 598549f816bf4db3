//! Chance for the workloads: a stream of its own for each client, so that one client's draws do not shift another's.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014). It is not for secrets.

use std::time::Duration;

/// One stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// The stream of these labels under the seed. The same labels give the same stream, others an unrelated one.
    pub fn new(seed: u64, labels: &[u64]) -> Self {
        let mut stream = Self(seed);
        for label in labels {
            // Each label goes through the whole mixer, so that neighbours are not related.
            stream.0 = stream.next_u64() ^ label.wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        stream.0 = stream.next_u64();
        stream
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
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// As [`Random::below`].
    pub fn below_u32(&mut self, n: u32) -> u32 {
        self.below(u64::from(n)) as u32
    }

    /// A number from `low` on and below `high`; `low` if there is none between them.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }

    /// An index, each as often as its weight says; zero if all weights are.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut at = self.below(weights.iter().map(|weight| u64::from(*weight)).sum());
        for (index, weight) in weights.iter().enumerate() {
            let weight = u64::from(*weight);
            if at < weight {
                return index;
            }
            at -= weight;
        }
        0
    }

    /// A duration of the exponential distribution with this mean, cut at twenty times that.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        let unit = (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        mean.mul_f64((-(1.0 - unit).ln()).min(20.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_streams() {
        let first = |seed, labels: &[u64]| Random::new(seed, labels).next_u64();
        assert_eq!(first(7, &[1, 2]), first(7, &[1, 2]));
        assert_ne!(first(7, &[1, 2]), first(7, &[2, 1]));
        assert_ne!(first(7, &[1, 2]), first(8, &[1, 2]));
        assert_ne!(first(7, &[1]), first(7, &[1, 0]));
    }

    #[test]
    fn draws_stay_in_their_bounds() {
        let mut random = Random::new(1, &[]);
        let (mut counts, mut sum) = ([0u32; 3], Duration::ZERO);
        for _ in 0..10_000 {
            assert!((5..9).contains(&random.range(5, 9)));
            counts[random.weighted(&[1, 0, 3])] += 1;
            sum += random.exponential(Duration::from_millis(1));
        }
        assert!(
            (2_300..2_700).contains(&counts[0]) && counts[1] == 0,
            "{counts:?}"
        );
        let mean = sum / 10_000;
        assert!((950..1_050).contains(&mean.as_micros()), "{mean:?}");
        assert_eq!(
            (random.below(0), random.range(4, 4), random.weighted(&[])),
            (0, 4, 0)
        );
        assert!(random.percent(100) && !random.percent(0));
    }
}
