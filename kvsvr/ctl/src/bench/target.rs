//! What a benchmark needs of the system it measures. Both systems are driven through this, by the same loop.

use bytes::Bytes;

/// An operation that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpError {
    /// It may have happened.
    pub unknown: bool,
    /// What the target or its client said.
    pub message: String,
}

impl OpError {
    /// It did not happen.
    pub fn definite(message: impl Into<String>) -> Self {
        Self {
            unknown: false,
            message: message.into(),
        }
    }

    /// It may have happened.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self {
            unknown: true,
            message: message.into(),
        }
    }
}

/// A system under test, with its connections.
pub trait Target: Send + Sync + 'static {
    /// A key in the form that the client takes, so that nothing is built while the clock runs.
    type Key: Send + Sync + 'static;
    /// What one logical client holds.
    type Client: Client<Key = Self::Key>;
    /// The name in reports.
    const NAME: &'static str;

    /// The key of this number in the partition of this number. Neighbouring numbers are neighbours in key order.
    fn key(&self, partition: u64, number: u64) -> Self::Key;

    /// The handle of a logical client; they share the connections evenly.
    fn client(&self, index: usize) -> Self::Client;

    /// The version of the running target.
    fn version(&self) -> impl Future<Output = Result<String, OpError>> + Send;
}

/// A logical client: one operation at a time.
pub trait Client: Send + 'static {
    /// See [`Target::Key`].
    type Key: Send + Sync + 'static;
    /// See [`Client::watch`].
    type Watcher: Watcher;

    /// Reads a key; true if there is such a key.
    fn get(&mut self, key: &Self::Key) -> impl Future<Output = Result<bool, OpError>> + Send;

    /// Sets a key.
    fn put(&mut self, key: &Self::Key, value: Bytes) -> impl Future<Output = Result<(), OpError>> + Send;

    /// Reads up to `limit` pairs of the key's partition from the key on; the number found.
    fn scan(&mut self, key: &Self::Key, limit: u32) -> impl Future<Output = Result<usize, OpError>> + Send;

    /// Follows the changes of a partition from now on; changes after this has returned are not missed.
    fn watch(&mut self, partition: u64) -> impl Future<Output = Result<Self::Watcher, OpError>> + Send;
}

/// Follows changes.
pub trait Watcher: Send + 'static {
    /// Waits for the next events and adds their values.
    fn next(&mut self, values: &mut Vec<Bytes>) -> impl Future<Output = Result<(), OpError>> + Send;
}
