//! Writes that the engine does not have yet, over what it has.
//!
//! The commands of one `apply` see each other's writes through it; in the end it becomes one batch. It knows nothing of rows. Writes to
//! one key coalesce. History and change log cannot be read through it: which of their rows an engine has dropped as garbage differs
//! between replicas, so nothing that apply decides may depend on them. Versions that are replaced are only handed on.
//!
//! Newest versions, of which there are many, stand in a hash table in the order of their first write; what scans them has them sorted.
//! The engine's hash decides nothing but where a key stands in the table.

use std::{
    cell::RefCell,
    cmp::Ordering,
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

use bytes::Bytes;
use hashbrown::{HashTable, hash_table::Entry};

use crate::{
    engine::{Cf, EngineError, EngineRead, Scan, Visit, Write, WriteBatch},
    rows::Retired,
};

/// Pending writes of a column family; `None` = deleted.
pub(crate) type Layer = BTreeMap<Bytes, Option<Bytes>>;

/// See the module.
pub(crate) struct Overlay<'e> {
    pub(crate) base: &'e dyn EngineRead,
    data: Pending,
    /// Of the other column families.
    layers: [Layer; Cf::ALL.len()],
}

/// Pending writes of [`Cf::Data`].
#[derive(Default)]
struct Pending {
    /// In the order of the first write of each key.
    rows: Vec<PendingRow>,
    /// Numbers of rows by the hashes of their keys.
    index: HashTable<u32>,
    /// Versions that were replaced, in order, each with the number of the row that replaced it.
    retired: Vec<(u32, Retired)>,
    /// Copies of the first keys, sorted, as far as a scan has needed them.
    order: RefCell<BTreeMap<Bytes, u32>>,
}

struct PendingRow {
    hash: u64,
    key: Bytes,
    value: Option<Bytes>,
}

impl Pending {
    fn get(&self, hash: u64, key: &[u8]) -> Option<&Option<Bytes>> {
        let same = |row: &u32| self.rows[*row as usize].key == key;
        let row = self.index.find(hash, same)?;
        Some(&self.rows[*row as usize].value)
    }

    fn set(&mut self, hash: u64, key: Bytes, value: Option<Bytes>, retired: Option<Retired>) {
        let same = |row: &u32| self.rows[*row as usize].key == key;
        let next = self.rows.len() as u32;
        let at = match self.index.entry(hash, same, |row| self.rows[*row as usize].hash) {
            Entry::Occupied(at) => {
                let at = *at.get();
                let row = &mut self.rows[at as usize];
                // The present key may be in one buffer with the value that is replaced.
                (row.key, row.value) = (key, value);
                at
            }
            Entry::Vacant(vacant) => {
                vacant.insert(next);
                self.rows.push(PendingRow { hash, key, value });
                next
            }
        };
        self.retired.extend(retired.map(|retired| (at, retired)));
    }

    /// Sorts the rows that came since the last time.
    fn catch_up(&self) {
        let mut order = self.order.borrow_mut();
        for at in order.len()..self.rows.len() {
            // A handle would keep the value that stands in one buffer with its key.
            order.insert(Bytes::copy_from_slice(&self.rows[at].key), at as u32);
        }
    }

    fn scan(&self, base: &dyn EngineRead, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        if self.order.borrow().len() < self.rows.len() {
            self.catch_up();
        }
        let order = self.order.borrow();
        let above = layer_range(&order, range)
            .map(|(key, row)| (&key[..], self.rows[*row as usize].value.as_deref()));
        if range.reverse {
            merged_scan(base, Cf::Data, range, above.rev(), visit)
        } else {
            merged_scan(base, Cf::Data, range, above, visit)
        }
    }

    /// The rows, each with the version that it replaced right behind it.
    fn append_to(self, writes: &mut Vec<Write>) {
        let mut retired = self.retired.into_iter().peekable();
        for (at, row) in self.rows.into_iter().enumerate() {
            writes.push(match row.value {
                Some(value) => Write::Put(Cf::Data, row.key, value),
                None => Write::Delete(Cf::Data, row.key),
            });
            // Of a key that was written again they come later, in their order.
            while let Some((_, retired)) = retired.next_if(|(by, _)| *by as usize <= at) {
                writes.push(Write::Retire(retired));
            }
        }
    }
}

impl<'e> Overlay<'e> {
    pub(crate) fn new(base: &'e dyn EngineRead) -> Self {
        Self {
            base,
            data: Pending::default(),
            layers: Default::default(),
        }
    }

    pub(crate) fn put(&mut self, cf: Cf, key: Bytes, value: Bytes) {
        self.set(cf, key, Some(value));
    }

    pub(crate) fn delete(&mut self, cf: Cf, key: Bytes) {
        self.set(cf, key, None);
    }

    fn set(&mut self, cf: Cf, key: Bytes, value: Option<Bytes>) {
        assert!(cf != Cf::Data, "the newest versions have a table of their own");
        self.layers[cf as usize].insert(key, value);
    }

    /// Makes room for so many more newest versions.
    pub(crate) fn reserve(&mut self, rows: usize) {
        let Pending {
            rows: present,
            index,
            retired,
            ..
        } = &mut self.data;
        present.reserve(rows);
        retired.reserve(rows);
        index.reserve(rows, |row| present[*row as usize].hash);
    }

    /// Sets the newest version of a key (`None`: deletes it), and hands on the one that is replaced.
    pub(crate) fn set_data(&mut self, key: Bytes, value: Option<Bytes>, retired: Option<Retired>) {
        self.data.set(self.base.hash(&key), key, value, retired);
    }

    /// All writes as one batch.
    pub(crate) fn into_batch(self) -> WriteBatch {
        let len = self.layers.iter().map(BTreeMap::len).sum::<usize>();
        let mut writes = Vec::with_capacity(len + self.data.rows.len() + self.data.retired.len());
        self.data.append_to(&mut writes);
        for (cf, layer) in Cf::ALL.into_iter().zip(self.layers) {
            writes.extend(layer.into_iter().map(|(key, value)| match value {
                Some(value) => Write::Put(cf, key, value),
                None => Write::Delete(cf, key),
            }));
        }
        WriteBatch { writes }
    }

    fn layer(&self, cf: Cf) -> &Layer {
        assert!(
            !matches!(cf, Cf::Hist | Cf::Log),
            "apply reads rows of which some replicas have dropped the garbage"
        );
        &self.layers[cf as usize]
    }
}

impl EngineRead for Overlay<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let written = match cf {
            Cf::Data => self.data.get(self.base.hash(key), key),
            _ => self.layer(cf).get(key),
        };
        match written {
            Some(written) => Ok(written.clone()),
            None => self.base.get(cf, key),
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.base.hash(key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        if cf == Cf::Data {
            return self.data.scan(self.base, range, visit);
        }
        let above = layer_range(self.layer(cf), range);
        let above = above.map(|(key, value)| (&key[..], value.as_deref()));
        if range.reverse {
            merged_scan(self.base, cf, range, above.rev(), visit)
        } else {
            merged_scan(self.base, cf, range, above, visit)
        }
    }
}

/// The entries of a sorted map in the range, in ascending order.
pub(crate) fn layer_range<'m, V>(
    layer: &'m BTreeMap<Bytes, V>,
    range: Scan<'_>,
) -> std::collections::btree_map::Range<'m, Bytes, V> {
    let bounds: (Bound<&[u8]>, Bound<&[u8]>) = match range.end {
        [] => (Bound::Included(range.start), Bound::Unbounded),
        // BTreeMap panics on a range that ends before it starts.
        end if end <= range.start => (Bound::Included(range.start), Bound::Excluded(range.start)),
        end => (Bound::Included(range.start), Bound::Excluded(end)),
    };
    layer.range::<[u8], _>(bounds)
}

/// Scans `base` with the entries of `above` over it, which are in scan order; `None` hides a key.
pub(crate) fn merged_scan<'l>(
    base: &dyn EngineRead,
    cf: Cf,
    range: Scan<'_>,
    above: impl Iterator<Item = (&'l [u8], Option<&'l [u8]>)>,
    visit: Visit<'_>,
) -> Result<(), EngineError> {
    let mut above = above.peekable();
    if above.peek().is_none() {
        return base.scan(cf, range, visit);
    }
    let mut stopped = false;
    let mut emit = |key: &[u8], value: Option<&[u8]>| match value.map(|value| visit(key, value)) {
        Some(ControlFlow::Break(())) => {
            stopped = true;
            ControlFlow::Break(())
        }
        Some(ControlFlow::Continue(())) | None => ControlFlow::Continue(()),
    };
    base.scan(cf, range, &mut |key, value| {
        while let Some((above_key, above_value)) = above.peek().copied() {
            let order = above_key.cmp(key);
            match if range.reverse { order.reverse() } else { order } {
                Ordering::Greater => break,
                Ordering::Equal => {
                    above.next();
                    return emit(above_key, above_value);
                }
                Ordering::Less => {
                    above.next();
                    emit(above_key, above_value)?;
                }
            }
        }
        emit(key, Some(value))
    })?;
    if !stopped {
        // What is left lies after all keys of the base.
        let _ = above.try_for_each(|(key, value)| match value {
            Some(value) => visit(key, value),
            None => ControlFlow::Continue(()),
        });
    }
    Ok(())
}
