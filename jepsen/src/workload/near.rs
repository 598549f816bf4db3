//! Reads through the client library's near-caches: one of each partition, begun by the first read of it.

use std::{collections::BTreeMap, time::Duration};

use kvsvr_client::{CachedGet, Client, NearCache, NearCacheOptions};
use parking_lot::Mutex;

use super::{
    names,
    perform::{self, Result},
};
use crate::history::{Key, Mode, Reply};

/// The near-caches of one client.
pub(super) struct Near {
    client: Client,
    max_age: Duration,
    caches: Mutex<BTreeMap<u32, NearCache>>,
}

impl Near {
    /// Hits are at most so old.
    pub(super) fn new(client: Client, max_age: Duration) -> Self {
        Self {
            client,
            max_age,
            caches: Mutex::default(),
        }
    }

    /// Reads a key, from memory if that is fresh enough. `None`: not a mode that a near-cache has.
    pub(super) async fn read(&self, key: Key, mode: Mode) -> Option<Result<Reply>> {
        let options = match mode {
            Mode::Linearizable | Mode::At(_) => return None,
            Mode::AtLeast(at_least) => CachedGet {
                max_age: None,
                at_least,
            },
            Mode::Bounded(ms) => CachedGet {
                max_age: Some(Duration::from_millis(ms)),
                at_least: 0,
            },
            Mode::Local => CachedGet::default(),
        };
        Some(self.read_with(key, options).await)
    }

    async fn read_with(&self, key: Key, options: CachedGet) -> Result<Reply> {
        let cache = self.cache(key.partition).await?;
        let read = cache.get_with(names::key(key.key), options).await?;
        perform::row(read.value.as_ref(), read.revision, read.age)
    }

    async fn cache(&self, partition: u32) -> Result<NearCache> {
        if let Some(cache) = self.caches.lock().get(&partition) {
            return Ok(cache.clone());
        }
        let options = NearCacheOptions::new(names::partition(partition)).max_age(self.max_age);
        let cache = self.client.near_cache(options).await?;
        self.caches.lock().insert(partition, cache.clone());
        Ok(cache)
    }
}
