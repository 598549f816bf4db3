//! Which delivery workers there are: each keeps a row that goes by itself when the worker does.

use std::time::Duration;

use chat_core::keys::workers as rows;
use kvsvr_client::{Partition, PutOptions, RangeOptions};

use crate::rows::{Store, StoreError};

fn place() -> Partition {
    Partition::local(rows::PARTITION)
}

impl Store {
    /// This worker is there, for so long.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn keep_worker(&self, name: &str, lives: Duration) -> Result<(), StoreError> {
        self.client
            .put_with(&place(), rows::worker(name), "", PutOptions::ttl(lives))
            .await?;
        Ok(())
    }

    /// This worker goes.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget_worker(&self, name: &str) -> Result<(), StoreError> {
        self.client.delete(&place(), rows::worker(name)).await?;
        Ok(())
    }

    /// The names of all workers.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn workers(&self) -> Result<Vec<String>, StoreError> {
        let range = RangeOptions::prefix(rows::WORKERS).keys_only();
        let kvs = self.client.range_all(&place(), range).await?.value;
        let name =
            |key: &[u8]| String::from_utf8_lossy(key.strip_prefix(rows::WORKERS).unwrap_or_default()).into();
        Ok(kvs.iter().map(|kv| name(&kv.key)).collect())
    }
}
