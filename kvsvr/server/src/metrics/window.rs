//! Quantiles of the most recent observations.
//!
//! A log-linear histogram (as in HdrHistogram: 16 equal steps in each power of two, so a value is right within 1/16 at worst and 1/32 when
//! the middle of its step is reported) over two generations: when the current one is full it replaces the previous one. A quantile is
//! taken over both, so it looks at the last 4,096 to 8,192 observations whatever their rate, and needs no clock.

/// Observations of one generation.
const GENERATION: u64 = 4_096;
const STEP_BITS: u32 = 4;
const STEPS: usize = 1 << STEP_BITS;
/// Values below `STEPS` have a bucket each; then `STEPS` buckets for each further power of two of a u64.
const BUCKETS: usize = STEPS * (64 - STEP_BITS as usize + 1);

/// The recent observations.
#[derive(Debug, Default)]
pub(super) struct Window {
    current: Generation,
    previous: Generation,
}

#[derive(Debug)]
struct Generation {
    total: u64,
    counts: Box<[u16; BUCKETS]>,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            total: 0,
            counts: Box::new([0; BUCKETS]),
        }
    }
}

impl Window {
    pub(super) fn record(&mut self, value: u64) {
        if self.current.total == GENERATION {
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.total = 0;
            self.current.counts.fill(0);
        }
        self.current.total += 1;
        // At most GENERATION, so it fits.
        self.current.counts[bucket(value)] += 1;
    }

    /// The smallest recorded value that at least `q` (0 to 1) of the observations do not pass; 0 without observations.
    pub(super) fn quantile(&self, q: f64) -> u64 {
        let total = self.current.total + self.previous.total;
        let wanted = ((total as f64 * q).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for index in 0..BUCKETS {
            seen += u64::from(self.current.counts[index]) + u64::from(self.previous.counts[index]);
            if seen >= wanted {
                return middle(index);
            }
        }
        0
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros() - STEP_BITS;
    let step = (value >> exponent) as usize - STEPS;
    STEPS * (exponent as usize + 1) + step
}

/// The middle of the values of a bucket.
fn middle(index: usize) -> u64 {
    if index < STEPS {
        return index as u64;
    }
    let exponent = index / STEPS - 1;
    let low = ((STEPS + index % STEPS) as u64) << exponent;
    low + ((1u64 << exponent) >> 1)
}

const _: () = assert!(GENERATION <= u16::MAX as u64);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_of_known_values() {
        let mut window = Window::default();
        assert_eq!(window.quantile(0.99), 0);
        for value in 1..=1000 {
            window.record(value);
        }
        for (q, exact) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let got = window.quantile(q) as f64;
            assert!(
                (got - exact).abs() / exact <= 1.0 / 16.0,
                "{q}: {got}, exact {exact}"
            );
        }
    }

    #[test]
    fn old_observations_are_forgotten() {
        let mut window = Window::default();
        for _ in 0..10 {
            window.record(1_000_000);
        }
        for _ in 0..3 * GENERATION {
            window.record(100);
        }
        assert!(window.quantile(1.0) < 110);
    }

    proptest! {
        #[test]
        fn a_bucket_is_close_to_its_values(value in any::<u64>()) {
            let middle = middle(bucket(value));
            prop_assert!(middle.abs_diff(value) <= value / 32 + 1, "{} -> {}", value, middle);
        }

        #[test]
        fn buckets_are_in_order(a in any::<u64>(), b in any::<u64>()) {
            prop_assert!(bucket(a.min(b)) <= bucket(a.max(b)));
            prop_assert!(bucket(u64::MAX) < BUCKETS);
        }
    }
}
