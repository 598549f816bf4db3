//! Which sums some of a list of numbers can have.

use std::collections::BTreeSet;

/// Most sums that are kept one by one; beyond, only their range is known.
const MAX_SUMS: usize = 4096;

/// The sums of all subsets of the numbers added so far.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    /// `None` if they are too many.
    each: Option<BTreeSet<i128>>,
    low: i128,
    high: i128,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            each: Some(BTreeSet::from([0])),
            low: 0,
            high: 0,
        }
    }
}

impl Sums {
    /// One more number, that may be in the sum or not.
    pub(super) fn add(&mut self, number: i128) {
        self.low += number.min(0);
        self.high += number.max(0);
        if let Some(mut each) = self.each.take() {
            let more: Vec<_> = each.iter().map(|sum| sum + number).collect();
            each.extend(more);
            self.each = (each.len() <= MAX_SUMS).then_some(each);
        }
    }

    /// Some subset may have this sum. If there are too many sums, true for more than there are.
    pub(super) fn contains(&self, sum: i128) -> bool {
        match &self.each {
            Some(each) => each.contains(&sum),
            None => (self.low..=self.high).contains(&sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_subsets() {
        let mut sums = Sums::default();
        [2, 5, -3].into_iter().for_each(|number| sums.add(number));
        let found: Vec<_> = (-5..9).filter(|sum| sums.contains(*sum)).collect();
        assert_eq!(found, [-3, -1, 0, 2, 4, 5, 7]);
    }

    #[test]
    fn too_many_sums_are_a_range() {
        let mut sums = Sums::default();
        (0..13).for_each(|power| sums.add(2 << power));
        assert!(sums.each.is_none());
        assert!(sums.contains(3));
        assert!(!sums.contains(-1) && !sums.contains(2 << 13));
    }
}
