//! Events: what a change looks like to those who follow the change log.

use bytes::Bytes;

use crate::types::{Partition, Revision, StampMs};

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
