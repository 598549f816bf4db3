//! Writes that the engine does not have yet, over what it has.
//!
//! The commands of one `apply` see each other's writes through it; in the end it becomes one batch. It knows nothing of rows. Writes to
//! one key coalesce. History and change log cannot be read through it: which of their rows an engine has dropped as garbage differs
//! between replicas, so nothing that apply decides may depend on them. History rows are only appended, and kept unsorted.

use std::{cmp::Ordering, collections::BTreeMap, ops::Bound, ops::ControlFlow};

use bytes::Bytes;

use crate::engine::{Cf, EngineError, EngineRead, Scan, Visit, Write, WriteBatch};

/// Pending writes of a column family; `None` = deleted.
pub(crate) type Layer = BTreeMap<Bytes, Option<Bytes>>;

/// See the module.
pub(crate) struct Overlay<'e> {
    pub(crate) base: &'e dyn EngineRead,
    layers: [Layer; Cf::ALL.len()],
    history: Vec<(Bytes, Bytes)>,
}

impl<'e> Overlay<'e> {
    pub(crate) fn new(base: &'e dyn EngineRead) -> Self {
        Self {
            base,
            layers: Default::default(),
            history: Vec::new(),
        }
    }

    pub(crate) fn put(&mut self, cf: Cf, key: Bytes, value: Bytes) {
        self.set(cf, key, Some(value));
    }

    pub(crate) fn delete(&mut self, cf: Cf, key: Bytes) {
        self.set(cf, key, None);
    }

    fn set(&mut self, cf: Cf, key: Bytes, value: Option<Bytes>) {
        let layer = &mut self.layers[cf as usize];
        // The map would keep the key that it has, which is in one buffer with the row that is replaced.
        if layer.insert(key.clone(), value.clone()).is_some() {
            layer.remove(&key);
            layer.insert(key, value);
        }
    }

    /// Adds a history row. Its key must be new.
    pub(crate) fn push_history(&mut self, key: Bytes, value: Bytes) {
        self.history.push((key, value));
    }

    /// All writes as one batch.
    pub(crate) fn into_batch(self) -> WriteBatch {
        let len = self.layers.iter().map(BTreeMap::len).sum::<usize>();
        let mut writes = Vec::with_capacity(len + self.history.len() + 1);
        writes.extend(
            self.history
                .into_iter()
                .map(|(key, value)| Write::Put(Cf::Hist, key, value)),
        );
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
        match self.layer(cf).get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(cf, key),
        }
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
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
