//! What one command is going to change.
//!
//! A [`Tx`] gathers changes of keys over the overlay; nothing is written before [`commit`](super::commit), so dropping it undoes the
//! command. Several changes of one key become one; the last counts.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    engine::{Cf, EngineError, EngineRead, Scan, Visit},
    error::Corrupt,
    keys,
    limits::TOUCHED_OVERHEAD,
    overlay::{Overlay, layer_range, merged_scan},
    rows::DataRow,
    types::{Partition, Revision, ShardId},
};

/// A key that the command touched.
pub(super) struct Touched {
    /// In one buffer with the row, if there is a new one.
    pub(super) data_key: Bytes,
    /// Before the command: as stored, and decoded.
    pub(super) old: Option<(Bytes, DataRow)>,
    pub(super) new: Change,
}

/// What becomes of a touched key.
pub(super) enum Change {
    None,
    /// As it will be stored, and decoded.
    Put(Bytes, DataRow),
    Delete,
}

impl Touched {
    /// The row as the command has left it so far.
    pub(super) fn row(&self) -> Option<&DataRow> {
        match &self.new {
            Change::None => self.old.as_ref().map(|(_, row)| row),
            Change::Put(_, row) => Some(row),
            Change::Delete => None,
        }
    }

    /// True if the command has an effect on the key.
    pub(super) fn is_changed(&self) -> bool {
        match self.new {
            Change::None => false,
            Change::Put(..) => true,
            Change::Delete => self.old.is_some(),
        }
    }
}

/// See the module.
pub(super) struct Tx {
    /// The revision that the command will have.
    pub(super) revision: Revision,
    /// In the order of first touch.
    pub(super) touched: Vec<Touched>,
    /// Bytes of the touched keys, partitions' names counted.
    pub(super) key_bytes: usize,
    /// Bytes of the rows that they had before the command.
    pub(super) old_bytes: usize,
    /// Data key -> index in `touched`. Commands that touch one or two different keys go without.
    index: Option<BTreeMap<Bytes, usize>>,
}

impl Tx {
    /// For a command that touches few keys and scans none.
    pub(super) fn small(revision: Revision) -> Self {
        Self {
            revision,
            touched: Vec::with_capacity(1),
            key_bytes: 0,
            old_bytes: 0,
            index: None,
        }
    }

    /// For a command that touches many keys or scans.
    pub(super) fn indexed(revision: Revision) -> Self {
        Self {
            revision,
            touched: Vec::new(),
            key_bytes: 0,
            old_bytes: 0,
            index: Some(BTreeMap::new()),
        }
    }

    /// Bytes that the command gathers in memory besides what its encoding has and its outcome.
    pub(super) fn bytes(&self) -> usize {
        self.old_bytes + self.touched.len() * TOUCHED_OVERHEAD
    }

    fn find(&self, data_key: &[u8]) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(data_key).copied(),
            None => self
                .touched
                .iter()
                .position(|touched| touched.data_key == data_key),
        }
    }

    /// Where the key's entry is in `touched`; loaded if this is the first touch.
    pub(super) fn touch(
        &mut self,
        shard: ShardId,
        overlay: &Overlay<'_>,
        partition: &Partition,
        key: &Bytes,
    ) -> Result<usize, Corrupt> {
        self.touch_data_key(overlay, keys::data_key(shard, partition, key))
    }

    /// Like [`Tx::touch`], by data key, which it must be.
    pub(super) fn touch_data_key(
        &mut self,
        overlay: &Overlay<'_>,
        data_key: Bytes,
    ) -> Result<usize, Corrupt> {
        let at = match self.find(&data_key) {
            Some(at) => at,
            None => {
                let stored = overlay.get(Cf::Data, &data_key)?;
                let old = stored
                    .map(|stored| DataRow::decode_at(&data_key, &stored).map(|row| (stored, row)))
                    .transpose()?;
                if let Some(index) = &mut self.index {
                    index.insert(data_key.clone(), self.touched.len());
                }
                self.key_bytes += data_key.len();
                self.old_bytes += old.as_ref().map_or(0, |(stored, _)| stored.len());
                self.touched.push(Touched {
                    data_key,
                    old,
                    new: Change::None,
                });
                self.touched.len() - 1
            }
        };
        Ok(at)
    }
}

/// The newest versions as the command has left them so far, for reading. Other column families are those of the overlay.
pub(super) struct TxRead<'a> {
    pub(super) overlay: &'a Overlay<'a>,
    pub(super) tx: &'a Tx,
}

impl EngineRead for TxRead<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if cf == Cf::Data
            && let Some(at) = self.tx.find(key)
        {
            return Ok(stored(&self.tx.touched[at]).cloned());
        }
        self.overlay.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        let Some(index) = self.tx.index.as_ref().filter(|_| cf == Cf::Data) else {
            assert!(
                cf != Cf::Data,
                "a scan of the newest versions within a small command"
            );
            return self.overlay.scan(cf, range, visit);
        };
        let above = layer_range(index, range)
            .map(|(key, at)| (&key[..], stored(&self.tx.touched[*at]).map(|stored| &stored[..])));
        if range.reverse {
            merged_scan(self.overlay, cf, range, above.rev(), visit)
        } else {
            merged_scan(self.overlay, cf, range, above, visit)
        }
    }
}

fn stored(touched: &Touched) -> Option<&Bytes> {
    match &touched.new {
        Change::None => touched.old.as_ref().map(|(stored, _)| stored),
        Change::Put(stored, _) => Some(stored),
        Change::Delete => None,
    }
}
