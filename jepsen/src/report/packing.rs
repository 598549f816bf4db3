//! Spans of time in as few rows as possible.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use crate::history::Nanos;

/// The row of each span, so that no two spans in a row overlap. One may begin when the one before ends, but even an empty span takes
/// some time. Takes as many rows as spans overlap at most; of the free rows it takes the first.
///
/// Greedy interval partitioning (Kleinberg and Tardos, Algorithm Design, section 4.1).
pub(super) fn rows(spans: &[(Nanos, Nanos)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|at| spans[*at].0);
    let mut rows = vec![0; spans.len()];
    let (mut taken, mut free) = (BinaryHeap::new(), BTreeSet::new());
    let mut count = 0;
    for at in order {
        let (from, to) = spans[at];
        while let Some(Reverse((until, row))) = taken.peek().copied() {
            if until > from {
                break;
            }
            taken.pop();
            free.insert(row);
        }
        let row = free.pop_first().unwrap_or_else(|| {
            count += 1;
            count - 1
        });
        rows[at] = row;
        taken.push(Reverse((to.max(from.saturating_add(1)), row)));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn rows_are_used_again_from_the_first_on() {
        assert_eq!(
            rows(&[(0, 10), (2, 4), (3, 9), (4, 5), (10, 12)]),
            [0, 1, 2, 1, 0]
        );
    }

    #[test]
    fn the_order_of_the_input_does_not_matter() {
        assert_eq!(rows(&[(5, 6), (0, 10), (2, 5)]), [1, 0, 1]);
    }

    #[test]
    fn empty_spans_do_not_lie_on_each_other() {
        assert_eq!(rows(&[(3, 3), (3, 3), (4, 4)]), [0, 1, 0]);
        assert!(rows(&[]).is_empty());
    }
}
