//! What is to be stored, if what it was decided on still stands: the checks and the writes of one transaction in one partition.
//!
//! Whoever carries it out looks at rows, lets the rules make a plan, and stores it; if a check fails, somebody else was quicker: look again, plan again.

use bytes::Bytes;
use prost::Message;

/// What must still be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The row is as it was at this revision; 0 = is not there.
    Unchanged(Bytes, u64),
}

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A row; with a time to live in milliseconds, or for ever.
    Put(Bytes, Bytes, Option<u64>),
    /// No row.
    Delete(Bytes),
}

/// One transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// All of them hold, or nothing is stored.
    pub checks: Vec<Check>,
    /// In order.
    pub writes: Vec<Write>,
}

impl Plan {
    /// The row is as it was at this revision; 0 = is not there.
    pub fn check(&mut self, key: impl Into<Bytes>, revision: u64) {
        self.checks.push(Check::Unchanged(key.into(), revision));
    }

    /// Stores a row.
    pub fn put(&mut self, key: impl Into<Bytes>, row: &impl Message) {
        self.put_for(key, row, None);
    }

    /// Stores a row that lives so many milliseconds, or for ever.
    pub fn put_for(&mut self, key: impl Into<Bytes>, row: &impl Message, ttl_ms: Option<u64>) {
        self.writes
            .push(Write::Put(key.into(), row.encode_to_vec().into(), ttl_ms));
    }
}
