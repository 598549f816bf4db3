//! The order of a table's keys, brought up to date when somebody needs it.
//!
//! Keys are only ever added to a table, in the order in which they come, so what is missing is what came since the last time.
//! Most rows are never scanned; those are sorted once, for the flush. An order may hold rows that are newer than the reader's state: it leaves
//! them out. The first bytes of each key stand in the tree itself: keys begin alike, and following each one would miss the
//! processor's caches.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use kvsvr_core::engine::{Cf, Scan};
use parking_lot::RwLock;

use super::{
    parts::Number,
    table::{Place, Tables},
};
use crate::limits::BUFFER_SCAN_ROWS;

/// The first bytes of a key as numbers, which compare like the bytes; a shorter key is filled up with zeros. Where they are equal the
/// keys decide. Shard, slot, region and name length are 10 bytes, the rest is of the partition's name.
type Front = [u64; 3];

fn front_of(key: &[u8]) -> Front {
    let mut front = Front::default();
    for (number, part) in front.iter_mut().zip(key.chunks(8)) {
        let mut bytes = [0; 8];
        bytes[..part.len()].copy_from_slice(part);
        *number = u64::from_be_bytes(bytes);
    }
    front
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OrderKey {
    front: Front,
    key: Bytes,
}

impl OrderKey {
    fn new(key: Bytes) -> Self {
        Self {
            front: front_of(&key),
            key,
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Order {
    rows: BTreeMap<OrderKey, Place>,
    /// Rows of the table and retired versions that are in `rows`: all below these numbers.
    known: (Number, Number),
}

impl Order {
    /// From which part of the present order on new keys are merged in, instead of inserted one by one.
    const MERGE_PART: usize = 8;

    /// Takes in all rows that the table has when this is called.
    pub(super) fn catch_up(&mut self, tables: &RwLock<Tables>, cf: Cf) {
        let (rows, formers) = tables.read().counts(cf);
        let places = (self.known.0..rows).map(Place::Row);
        let places: Vec<Place> = places.chain((self.known.1..formers).map(Place::Former)).collect();
        let mut fresh = Vec::with_capacity(places.len());
        for places in places.chunks(BUFFER_SCAN_ROWS) {
            let tables = tables.read();
            let key = |place| OrderKey::new(tables.key(cf, place));
            fresh.extend(places.iter().map(|place| (key(*place), *place)));
        }
        self.known = (rows, formers);
        if fresh.len() > self.rows.len() / Self::MERGE_PART {
            self.rows.append(&mut fresh.into_iter().collect());
        } else {
            self.rows.extend(fresh);
        }
    }

    /// The numbers of all rows of the table, in order, if the order has them all; `counts`: what there is.
    pub(super) fn all_rows(&self, counts: (Number, Number)) -> Option<Vec<Number>> {
        let row = |place: &Place| match place {
            Place::Row(row) => Some(*row),
            Place::Former(_) => None,
        };
        (self.known == counts).then(|| self.rows.values().filter_map(row).collect())
    }

    /// Where all rows stand, in order.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.rows.values().copied()
    }

    /// Where a key's row stands.
    pub(super) fn find(&self, key: &[u8]) -> Option<Place> {
        self.rows
            .get(&OrderKey::new(Bytes::copy_from_slice(key)))
            .copied()
    }

    /// The next up to `limit` rows of the span, which is moved behind them.
    pub(super) fn next_rows(&self, span: &mut Span, limit: usize) -> Vec<Place> {
        let limit = limit.min(span.step);
        let mut range = self.rows.range((span.start.as_ref(), span.end.as_ref()));
        let mut rows = Vec::with_capacity(limit);
        let mut last = None;
        while rows.len() < limit {
            let next = if span.reverse {
                range.next_back()
            } else {
                range.next()
            };
            let Some((key, row)) = next else { break };
            rows.push(*row);
            last = Some(key);
        }
        span.exhausted = rows.len() < limit;
        span.step = span.step.saturating_mul(2);
        if let Some(last) = last {
            let behind = Bound::Excluded(last.clone());
            if span.reverse {
                span.end = behind;
            } else {
                span.start = behind;
            }
        }
        rows
    }
}

/// The numbers of `len` keys in their order: what is sorted once needs no tree, and no handles of the keys.
pub(super) fn sorted<'k>(len: Number, key: impl Fn(Number) -> &'k Bytes) -> Vec<Number> {
    let mut rows: Vec<(Front, Number)> = (0..len).map(|row| (front_of(key(row)), row)).collect();
    rows.sort_unstable_by(|(a_front, a), (b_front, b)| {
        a_front.cmp(b_front).then_with(|| key(*a).cmp(key(*b)))
    });
    rows.into_iter().map(|(_, row)| row).collect()
}

/// What is left of a range that is being read in steps.
pub(super) struct Span {
    start: Bound<OrderKey>,
    end: Bound<OrderKey>,
    reverse: bool,
    /// Rows of the next step: most scans end soon, so the first steps are small.
    step: usize,
    exhausted: bool,
}

impl Span {
    const FIRST_STEP: usize = 8;

    /// The range must not end before it starts.
    pub(super) fn new(range: Scan<'_>) -> Self {
        let key = |key| OrderKey::new(Bytes::copy_from_slice(key));
        Self {
            start: Bound::Included(key(range.start)),
            end: match range.end {
                [] => Bound::Unbounded,
                end => Bound::Excluded(key(end)),
            },
            reverse: range.reverse,
            step: Self::FIRST_STEP,
            exhausted: false,
        }
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_keys_compare_like_keys(a in "[\0a]{0,26}", b in "[\0a]{0,26}", c in any::<Vec<u8>>(), d in any::<Vec<u8>>()) {
            for (a, b) in [(Bytes::from(a), Bytes::from(b)), (c.into(), d.into())] {
                prop_assert_eq!(a.cmp(&b), OrderKey::new(a.clone()).cmp(&OrderKey::new(b.clone())));
            }
        }
    }
}
