//! Events: what a change looks like to those who follow the change log.
//!
//! The events of one revision come in the order in which its command first touched their keys, one for each key.

use bytes::Bytes;

use crate::{
    limits::EVENT_OVERHEAD,
    rows::DataRow,
    types::{Partition, Revision, StampMs},
};

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// It has a new value.
    Put,
    /// It was deleted by a command.
    Delete,
    /// It was deleted because its TTL or its lease ended.
    Expire,
}

/// One key's change. The events of one command share its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The shard's revision after the change.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
    /// The key's partition.
    pub partition: Partition,
    /// The key.
    pub key: Bytes,
    /// The new value; empty unless `kind` is `Put`.
    pub value: Bytes,
    /// Revision of the put that created the key; 0 unless `kind` is `Put`.
    pub create_rev: Revision,
    /// Puts since then, that one counted; 0 unless `kind` is `Put`.
    pub version: u64,
    /// The lease the key is attached to; 0 = none.
    pub lease: u64,
    /// When the key expires; 0 = never.
    pub expires_at: StampMs,
}

impl Event {
    /// The event of a put that wrote this row.
    pub(crate) fn put(partition: Partition, key: Bytes, row: DataRow) -> Self {
        let DataRow {
            create_rev,
            mod_rev,
            version,
            expires_at,
            lease,
            value,
        } = row;
        let kind = EventKind::Put;
        Self {
            revision: mod_rev,
            kind,
            partition,
            key,
            value,
            create_rev,
            version,
            lease,
            expires_at,
        }
    }

    /// The event of a deletion.
    pub(crate) fn deletion(revision: Revision, kind: EventKind, partition: Partition, key: Bytes) -> Self {
        let value = Bytes::new();
        Self {
            revision,
            kind,
            partition,
            key,
            value,
            create_rev: 0,
            version: 0,
            lease: 0,
            expires_at: 0,
        }
    }

    /// Bytes that the event counts for in lags and retention.
    pub fn size(&self) -> u64 {
        (self.partition.name.len() + self.key.len() + self.value.len()) as u64 + EVENT_OVERHEAD
    }
}
