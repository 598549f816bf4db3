//! What is to be stored, if what it was decided on still stands: the checks and the writes of one transaction in one partition.
//!
//! Whoever carries it out looks at rows, lets the rules make a plan, and stores it; if a check fails, somebody else was quicker: look again, plan again.

use bytes::Bytes;
use prost::Message;

/// A row that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub key: Bytes,
    /// What.
    pub row: Bytes,
    /// Milliseconds that it lives; `None` = for ever.
    pub ttl_ms: Option<u64>,
}

/// One transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows that are as they were at these revisions (0 = that are not there), or nothing is stored.
    pub checks: Vec<(Bytes, u64)>,
    /// In order.
    pub writes: Vec<Write>,
}

impl Plan {
    /// The row is as it was at this revision; 0 = is not there.
    pub fn check(&mut self, key: impl Into<Bytes>, revision: u64) {
        self.checks.push((key.into(), revision));
    }

    /// Stores a row.
    pub fn put(&mut self, key: impl Into<Bytes>, row: &impl Message) {
        self.put_for(key, row, None);
    }

    /// Stores a row that lives so many milliseconds, or for ever.
    pub fn put_for(&mut self, key: impl Into<Bytes>, row: &impl Message, ttl_ms: Option<u64>) {
        self.writes.push(Write {
            key: key.into(),
            row: row.encode_to_vec().into(),
            ttl_ms,
        });
    }
}
