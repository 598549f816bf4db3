//! One buffer: the rows of all column families by key, with older versions where open snapshots need them.
//!
//! A table is a hash index over rows that stand in the order in which their keys came. What needs them sorted asks the
//! [`Order`](super::order::Order), which is kept up only then. The index holds hashes and row numbers, so that it grows without
//! looking at keys. Keys and values are handles of the batch's bytes, a key and its newest value often of one buffer: nothing is copied.
//!
//! Alternatives, measured on a shared 2-core host with 100,000 random keys of 45 bytes and rows of 280 bytes, in nanoseconds per row
//! (data rows, where freeing replaced rows is included / history rows, where each key is new), and to sort them for a flush:
//!
//! | structure | data | history | sort |
//! |---|---|---|---|
//! | `BTreeMap<Bytes, _>` | 1280 | 1050 | - |
//! | `BTreeMap` with the first 24 bytes of the key in its nodes | 790 | 710 | - |
//! | `std::collections::HashMap<Bytes, _>` | 1230 | 690 | 450 |
//! | this one | 500 | 210 | 150 .. 290 |
//! | append, no index (no point reads, no replacing) | 15 | 20 | 290 |

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    hint, mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use hashbrown::{HashTable, hash_table::Entry};
use kvsvr_core::engine::{Cf, RowRef, Scan, Write};
use parking_lot::{Mutex, RwLock};

use super::{
    merge::Cursor,
    order::{Order, Span},
};
use crate::limits::{BUFFER_ROW_OVERHEAD, BUFFER_SCAN_ROWS, BUFFER_VERSION_OVERHEAD};

/// The number of a batch in its buffer, from 1 on.
pub(super) type Sequence = u64;

/// Rows that a drain reads ahead.
const TOUCHED_AHEAD: usize = 8;
/// Bytes that a processor loads at once.
const CACHE_LINE: usize = 64;

/// As a bound: all batches.
pub(super) const NEWEST: Sequence = Sequence::MAX;

/// A row as some batch left it; no value = deleted.
struct Version {
    sequence: Sequence,
    value: Option<Bytes>,
}

impl Version {
    fn len(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }
}

struct Row {
    key: Bytes,
    newest: Version,
    /// Those that an open snapshot may need, newest first.
    older: Vec<Version>,
}

impl Row {
    /// The newest version up to `sequence`, if there is one.
    fn at(&self, sequence: Sequence) -> Option<&Option<Bytes>> {
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
    row: u32,
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
    /// In parts of [`Table::PART`], so that growing moves none.
    rows: Vec<Vec<Row>>,
    len: usize,
}

impl Table {
    const PART: usize = 1024;

    /// Rows, deleted ones counted. They are numbered from 0 on.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn key(&self, row: usize) -> &Bytes {
        &row_of(&self.rows, row).key
    }

    /// Key and visible version of a row; `None` if it came after `sequence`.
    pub(super) fn row_at(&self, row: u32, sequence: Sequence) -> Option<(&Bytes, &Option<Bytes>)> {
        let row = row_of(&self.rows, row as usize);
        Some((&row.key, row.at(sequence)?))
    }

    /// Brings the rows into the processor's caches. They lie all over the memory; loads that do not depend on each other overlap, while
    /// whoever takes row after row waits for each.
    fn touch(&self, rows: &[u32]) {
        let first = |bytes: &[u8]| usize::from(bytes.first().copied().unwrap_or_default());
        let lines = |bytes: &[u8]| bytes.chunks(CACHE_LINE).map(first).sum::<usize>();
        let rows = rows.iter().map(|row| row_of(&self.rows, *row as usize));
        hint::black_box(
            rows.map(|row| lines(&row.key) + row.newest.value.as_deref().map_or(0, lines))
                .sum::<usize>(),
        );
    }

    fn find(&self, hash: u32, key: &[u8]) -> Option<&Row> {
        let same = |slot: &Slot| slot.hash == hash && row_of(&self.rows, slot.row as usize).key == key;
        let slot = self.index.find(spread(hash), same)?;
        Some(row_of(&self.rows, slot.row as usize))
    }

    /// Sets a row. Returns the change in bytes.
    fn set(&mut self, hash: u32, key: Bytes, version: Version, open: &[Sequence]) -> isize {
        let same = |slot: &Slot| slot.hash == hash && row_of(&self.rows, slot.row as usize).key == key;
        match self.index.entry(spread(hash), same, Slot::spread) {
            Entry::Occupied(slot) => {
                let row = slot.get().row as usize;
                let row = &mut self.rows[row / Self::PART][row % Self::PART];
                // The present key may be in one buffer with the row that is replaced.
                row.key = key;
                row.replace(version, open)
            }
            Entry::Vacant(vacant) => {
                assert!(
                    self.len < u32::MAX as usize,
                    "rows of a buffer have 32-bit numbers"
                );
                vacant.insert(Slot {
                    hash,
                    row: self.len as u32,
                });
                if self.len.is_multiple_of(Self::PART) {
                    self.rows.push(Vec::with_capacity(Self::PART));
                }
                let bytes = key.len() + version.len() + BUFFER_ROW_OVERHEAD;
                self.rows[self.len / Self::PART].push(Row {
                    key,
                    newest: version,
                    older: Vec::new(),
                });
                self.len += 1;
                bytes as isize
            }
        }
    }
}

fn row_of(rows: &[Vec<Row>], row: usize) -> &Row {
    &rows[row / Table::PART][row % Table::PART]
}

/// The tables of all column families, and the number of the last batch in them.
#[derive(Default)]
pub(super) struct Tables {
    sequence: Sequence,
    tables: [Table; Cf::ALL.len()],
}

impl Tables {
    pub(super) fn of(&self, cf: Cf) -> &Table {
        &self.tables[cf as usize]
    }
}

/// See the module.
pub(super) struct Buffer {
    tables: RwLock<Tables>,
    orders: [Mutex<Order>; Cf::ALL.len()],
    /// The snapshots that are open, and how often each.
    open: Mutex<BTreeMap<Sequence, usize>>,
    bytes: AtomicUsize,
    hasher: RandomState,
}

impl Buffer {
    /// An empty one. Buffers that are read with each other's hashes must have the same hasher.
    pub(super) fn new(hasher: RandomState) -> Self {
        Self {
            tables: RwLock::default(),
            orders: Default::default(),
            open: Mutex::default(),
            bytes: AtomicUsize::new(0),
            hasher,
        }
    }

    pub(super) fn hash(&self, key: &[u8]) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// Keys, values and estimated overhead.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.read().sequence == 0
    }

    /// Takes in a batch without range deletes.
    pub(super) fn write(&self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        let mut tables = self.tables.write();
        let open: Vec<Sequence> = self.open.lock().keys().copied().collect();
        let sequence = tables.sequence + 1;
        let mut change = 0;
        for write in writes {
            let (cf, key, value) = match write {
                Write::Put(cf, key, value) => (cf, key, Some(value)),
                Write::Delete(cf, key) => (cf, key, None),
                Write::DeleteRange(..) => unreachable!("range deletes go past the buffer"),
            };
            let hash = self.hash(&key);
            change += tables.tables[cf as usize].set(hash, key, Version { sequence, value }, &open);
        }
        tables.sequence = sequence;
        // Writers exclude each other, so what was counted before is here, and a wrapped sum comes out right.
        let bytes = self.bytes.load(Ordering::Relaxed).wrapping_add_signed(change);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// What the buffer says of a key as of `sequence` (`Some(None)`: it is deleted), or `None` if the layer below knows. `hash`: of `key`.
    pub(super) fn get(&self, cf: Cf, hash: u32, key: &[u8], sequence: Sequence) -> Option<Option<Bytes>> {
        let tables = self.tables.read();
        tables.of(cf).find(hash, key)?.at(sequence).cloned()
    }

    /// The rows of a range as of `sequence`. The range must not end before it starts.
    pub(super) fn cursor(&self, cf: Cf, range: Scan<'_>, sequence: Sequence) -> Cursor<'_> {
        self.orders[cf as usize].lock().catch_up(&self.tables, cf);
        Cursor::new(self, cf, Span::new(range), sequence)
    }

    /// Appends the next rows of the span that are visible at `sequence`, deleted ones with no value, and moves the span behind them.
    pub(super) fn read_on(
        &self,
        cf: Cf,
        span: &mut Span,
        sequence: Sequence,
        out: &mut impl Extend<(Bytes, Option<Bytes>)>,
    ) {
        let order = self.orders[cf as usize].lock();
        let rows = order.next_rows(span, BUFFER_SCAN_ROWS);
        let tables = self.tables.read();
        let visible = rows.iter().filter_map(|row| tables.of(cf).row_at(*row, sequence));
        out.extend(visible.map(|(key, value)| (key.clone(), value.clone())));
    }

    /// Calls `take` with the newest version of every row, by column family and key. Nobody may be writing.
    pub(super) fn with_sorted<T>(&self, take: impl FnOnce(&mut dyn Iterator<Item = RowRef<'_>>) -> T) -> T {
        let tables = self.tables.read();
        let sorted = Cf::ALL.map(|cf| self.orders[cf as usize].lock().sorted_rows(tables.of(cf)));
        let mut rows = Cf::ALL.into_iter().flat_map(|cf| {
            let table = tables.of(cf);
            sorted[cf as usize].chunks(TOUCHED_AHEAD).flat_map(move |group| {
                table.touch(group);
                group.iter().map(move |row| {
                    let row = row_of(&table.rows, *row as usize);
                    (cf, &row.key[..], row.newest.value.as_deref())
                })
            })
        });
        take(&mut rows)
    }

    /// The same as writes of their own.
    pub(super) fn sorted_writes(&self) -> Vec<Write> {
        self.with_sorted(|rows| {
            let write = |(cf, key, value): RowRef<'_>| match value {
                Some(value) => Write::Put(cf, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
                None => Write::Delete(cf, Bytes::copy_from_slice(key)),
            };
            rows.map(write).collect()
        })
    }
}

#[cfg(test)]
impl Buffer {
    /// The part of [`Buffer::sorted`] that sorts. Returns how many rows there are.
    pub(super) fn sort_only(&self) -> usize {
        let tables = self.tables.read();
        let rows = |cf: Cf| self.orders[cf as usize].lock().sorted_rows(tables.of(cf)).len();
        Cf::ALL.into_iter().map(rows).sum()
    }
}

/// An open snapshot of a buffer: while it lives, the buffer keeps what it shows.
pub(super) struct HeldSequence {
    buffer: Arc<Buffer>,
    sequence: Sequence,
}

impl HeldSequence {
    /// The state after the last batch.
    pub(super) fn newest(buffer: Arc<Buffer>) -> Self {
        // Registered under the lock: the next batch sees it.
        let tables = buffer.tables.read();
        let sequence = tables.sequence;
        *buffer.open.lock().entry(sequence).or_default() += 1;
        drop(tables);
        Self { buffer, sequence }
    }

    pub(super) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    pub(super) fn sequence(&self) -> Sequence {
        self.sequence
    }
}

impl Drop for HeldSequence {
    fn drop(&mut self) {
        let mut open = self.buffer.open.lock();
        if let Some(count) = open.get_mut(&self.sequence) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.sequence);
            }
        }
    }
}
