//! The rows of one column family in a buffer: a hash index over rows that stand in the order in which their keys came, each with the versions
//! that open snapshots need. The index holds hashes and row numbers, so that it grows without looking at keys. It knows no locks.

use std::{hint, mem};

use bytes::Bytes;
use hashbrown::{HashTable, hash_table::Entry};

use super::parts::{Number, Parts};
use crate::limits::{BUFFER_ROW_OVERHEAD, BUFFER_VERSION_OVERHEAD};

/// The number of a batch in its buffer, from 1 on.
pub(super) type Sequence = u64;

/// Bytes that a processor loads at once.
const CACHE_LINE: usize = 64;

/// As a bound: all batches.
pub(super) const NEWEST: Sequence = Sequence::MAX;

/// A row as some batch left it; no value = deleted.
pub(super) struct Version {
    pub(super) sequence: Sequence,
    pub(super) value: Option<Bytes>,
}

impl Version {
    fn len(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }
}

pub(super) struct Row {
    pub(super) key: Bytes,
    pub(super) newest: Version,
    /// Those that an open snapshot may need, newest first.
    older: Vec<Version>,
    /// The newest of the key's versions that were retired in this buffer.
    pub(super) retired: Option<Number>,
}

impl Row {
    /// The newest version up to `sequence`, if there is one.
    pub(super) fn at(&self, sequence: Sequence) -> Option<&Option<Bytes>> {
        if self.newest.sequence <= sequence {
            return Some(&self.newest.value);
        }
        let visible = self.older.iter().find(|version| version.sequence <= sequence);
        visible.map(|version| &version.value)
    }

    /// Replaces the newest version. `open`: the snapshots that are open, all of them older than `next`. Returns the change in bytes.
    fn replace(&mut self, next: Version, open: &[Sequence]) -> isize {
        let added = next.len() as isize;
        let replaced = mem::replace(&mut self.newest, next);
        if open.is_empty() && self.older.is_empty() {
            return added - replaced.len() as isize;
        }
        let before = self.older_bytes() + replaced.len();
        self.older.insert(0, replaced);
        let mut until = self.newest.sequence;
        self.older.retain(|version| {
            let seen = open.iter().any(|open| (version.sequence..until).contains(open));
            until = version.sequence;
            seen
        });
        added + self.older_bytes() as isize - before as isize
    }

    fn older_bytes(&self) -> usize {
        let bytes = |version: &Version| version.len() + BUFFER_VERSION_OVERHEAD;
        self.older.iter().map(bytes).sum()
    }
}

/// A place in the hash index.
struct Slot {
    hash: u32,
    row: Number,
}

impl Slot {
    fn spread(&self) -> u64 {
        spread(self.hash)
    }
}

/// The 64 bits that the index wants, from the 32 that it holds: it takes some from both ends.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The rows of one column family.
#[derive(Default)]
pub(super) struct Table {
    index: HashTable<Slot>,
    pub(super) rows: Parts<Row>,
}

/// Brings what the slices hold into the processor's caches. They lie all over the memory; loads that do not depend on each other overlap,
/// while whoever takes one after the other waits for each.
pub(super) fn touch<'a>(slices: impl Iterator<Item = &'a Bytes>) {
    let first = |bytes: &[u8]| usize::from(bytes.first().copied().unwrap_or_default());
    let lines = |bytes: &Bytes| bytes.chunks(CACHE_LINE).map(first).sum::<usize>();
    hint::black_box(slices.map(lines).sum::<usize>());
}

impl Table {
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<Number> {
        let hash = hash as u32;
        let same = |slot: &Slot| slot.hash == hash && self.rows.at(slot.row).key == key;
        Some(self.index.find(spread(hash), same)?.row)
    }

    /// Sets a row. Returns its number and the change in bytes.
    pub(super) fn set(
        &mut self,
        hash: u64,
        key: Bytes,
        version: Version,
        open: &[Sequence],
    ) -> (Number, isize) {
        let hash = hash as u32;
        let same = |slot: &Slot| slot.hash == hash && self.rows.at(slot.row).key == key;
        match self.index.entry(spread(hash), same, Slot::spread) {
            Entry::Occupied(slot) => {
                let at = slot.get().row;
                let row = self.rows.at_mut(at);
                // The present key may be in one buffer with the row that is replaced.
                row.key = key;
                (at, row.replace(version, open))
            }
            Entry::Vacant(vacant) => {
                let bytes = key.len() + version.len() + BUFFER_ROW_OVERHEAD;
                let row = self.rows.push(Row {
                    key,
                    newest: version,
                    older: Vec::new(),
                    retired: None,
                });
                vacant.insert(Slot { hash, row });
                (row, bytes as isize)
            }
        }
    }
}
