//! A near-cache: the values of one partition's keys with one prefix, in the client's memory.
//!
//! It is filled by linearizable reads and kept current by a watch. What a hit claims is exact: every write that was acknowledged more
//! than `age` ago is visible in it. The age does not depend on when messages arrive. It comes from the client's own linearizable
//! reads: one that was *sent* at t and saw revision r proves that once the watch has delivered everything up to r, the cache has all
//! that was acknowledged before t. While the cache is used such a read is made from time to time.
//!
//! When the watch is broken nothing is confirmed, the age grows, and beyond the bound every read goes to the cluster. So the cache
//! is never a reason for an error and never older than it says.

mod store;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{Duration, Instant, sleep},
};

use self::store::Store;
use crate::{
    client::Client,
    error::Result,
    limits::{MAX_CONFIRM_PAUSE, MIN_CONFIRM_PAUSE, NEAR_CACHE_AGE, NEAR_CACHE_BYTES, RETRY_PAUSE},
    types::{CallOptions, KeyValue, Partition, ReadFrom},
    watch::{self, Watch, WatchItem, WatchOptions},
};

/// What a near-cache holds.
#[derive(Clone, Debug)]
pub struct NearCacheOptions {
    /// The partition.
    pub partition: Partition,
    /// Keys that begin so; empty = all keys of the partition.
    pub prefix: Bytes,
    /// Bytes of keys and values, with a fixed amount for each entry.
    pub max_bytes: usize,
    /// Hits are at most so old, unless a read asks for fresher ones.
    pub max_age: Duration,
}

impl NearCacheOptions {
    /// All keys of a partition, with default bounds.
    pub fn new(partition: Partition) -> Self {
        Self {
            partition,
            prefix: Bytes::new(),
            max_bytes: NEAR_CACHE_BYTES,
            max_age: NEAR_CACHE_AGE,
        }
    }

    /// Keys that begin so.
    pub fn prefix(self, prefix: impl Into<Bytes>) -> Self {
        Self {
            prefix: prefix.into(),
            ..self
        }
    }

    /// Bytes of keys and values.
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// How old hits may be.
    pub fn max_age(self, max_age: Duration) -> Self {
        Self { max_age, ..self }
    }
}

/// What a read of the cache demands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedGet {
    /// At most so old; `None` = the cache's `max_age`. More than that is not answered from the cache either.
    pub max_age: Option<Duration>,
    /// Sees the shard at this revision or later: give the revision of your own last write to read it.
    pub at_least: u64,
}

/// The answer of a near-cache.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedRead {
    /// The pair, if the key exists.
    pub value: Option<KeyValue>,
    /// The value is the key's value at this revision of the shard.
    pub revision: u64,
    /// Every write that was acknowledged longer ago than this is visible.
    pub age: Duration,
    /// It came from the cache.
    pub hit: bool,
}

/// Counters of a near-cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads answered from memory.
    pub hits: u64,
    /// Reads that went to the cluster.
    pub misses: u64,
    /// Keys held, those known not to exist included.
    pub entries: usize,
    /// Bytes held.
    pub bytes: usize,
    /// The age that a hit would have now; `None` = nothing has been confirmed yet.
    pub age: Option<Duration>,
}

/// A running near-cache. Cheap to clone; it ends with the last clone.
#[derive(Clone)]
pub struct NearCache {
    shared: Arc<Shared>,
    /// The tasks end when these are dropped.
    _guards: Arc<[oneshot::Sender<()>; 2]>,
}

struct Shared {
    client: Client,
    options: NearCacheOptions,
    state: Mutex<State>,
    /// Wakes the task that confirms the age.
    used: Notify,
}

struct State {
    store: Store,
    hits: u64,
    misses: u64,
    /// A read came since the last confirmation.
    is_used: bool,
}

impl fmt::Debug for NearCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NearCacheOptions {
            partition, prefix, ..
        } = &self.shared.options;
        write!(f, "NearCache({partition}, prefix {})", prefix.escape_ascii())
    }
}

impl Client {
    /// Starts a near-cache.
    ///
    /// # Errors
    /// The watch cannot be started; see [`Error`](crate::Error).
    pub async fn near_cache(&self, options: NearCacheOptions) -> Result<NearCache> {
        let watch = WatchOptions::partition(options.partition.clone())
            .prefix(options.prefix.clone())
            .progress()
            .read_from(ReadFrom::Leader);
        let watch = self.watch(watch).await?;
        let client = self.with_options(CallOptions {
            read_from: Some(ReadFrom::Leader),
            timeout: None,
        });
        let store = Store::new(options.max_bytes, watch.revision().unwrap_or(0));
        let state = State {
            store,
            hits: 0,
            misses: 0,
            is_used: false,
        };
        let shared = Arc::new(Shared {
            client,
            options,
            state: Mutex::new(state),
            used: Notify::new(),
        });
        let (follow_guard, follow_end) = oneshot::channel();
        let (confirm_guard, confirm_end) = oneshot::channel();
        tokio::spawn(follow(shared.clone(), watch, follow_end));
        tokio::spawn(confirm(shared.clone(), confirm_end));
        Ok(NearCache {
            shared,
            _guards: Arc::new([follow_guard, confirm_guard]),
        })
    }
}

impl NearCache {
    /// The value of a key, at most as old as the cache's `max_age`.
    ///
    /// # Errors
    /// As [`Client::get`], for keys that are not in the cache.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<CachedRead> {
        self.get_with(key, CachedGet::default()).await
    }

    /// The value of a key, as fresh as asked for. A key without the cache's prefix is read from the cluster.
    ///
    /// # Errors
    /// As [`Client::get`], for keys that are not in the cache.
    pub async fn get_with(&self, key: impl Into<Bytes>, options: CachedGet) -> Result<CachedRead> {
        let key = key.into();
        if let Some(hit) = self.look_up(&key, options) {
            return Ok(hit);
        }
        let _reading = Reading::begin(&self.shared, &key);
        let sent = Instant::now();
        let read = self
            .shared
            .client
            .get(&self.shared.options.partition, key.clone())
            .await?;
        if key.starts_with(&self.shared.options.prefix) {
            let mut state = self.shared.state.lock();
            state.store.confirm(read.revision, sent);
            state.store.fill(&key, read.value.as_ref(), read.revision);
        }
        Ok(CachedRead {
            value: read.value,
            revision: read.revision,
            age: Duration::ZERO,
            hit: false,
        })
    }

    fn look_up(&self, key: &Bytes, options: CachedGet) -> Option<CachedRead> {
        let bound = self.shared.options.max_age;
        let max_age = options.max_age.map_or(bound, |age| age.min(bound));
        let mut state = self.shared.state.lock();
        let hit = state.store.get(key, Instant::now(), max_age, options.at_least);
        match &hit {
            Some(_) => state.hits += 1,
            None => state.misses += 1,
        }
        if !std::mem::replace(&mut state.is_used, true) {
            self.shared.used.notify_one();
        }
        hit
    }

    /// Counters.
    pub fn stats(&self) -> CacheStats {
        let state = self.shared.state.lock();
        CacheStats {
            hits: state.hits,
            misses: state.misses,
            entries: state.store.len(),
            bytes: state.store.bytes(),
            age: state.store.age(Instant::now()),
        }
    }
}

/// A fill under way: changes of the key that arrive meanwhile are remembered.
struct Reading<'a> {
    shared: &'a Shared,
    key: &'a Bytes,
}

impl<'a> Reading<'a> {
    fn begin(shared: &'a Shared, key: &'a Bytes) -> Self {
        shared.state.lock().store.begin_fill(key);
        Self { shared, key }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().store.end_fill(self.key);
    }
}

/// Applies the watch's events until the cache is dropped.
async fn follow(shared: Arc<Shared>, mut watch: Watch, mut end: oneshot::Receiver<()>) {
    loop {
        let item = tokio::select! {
            biased;
            _ = &mut end => return,
            item = watch.next() => item,
        };
        let mut state = shared.state.lock();
        match item {
            Ok(WatchItem::Events(batch)) => {
                for event in batch.events {
                    let revision = event.revision();
                    let exists = event.kind == watch::EventKind::Put;
                    state
                        .store
                        .change(&event.kv.key, exists.then_some(&event.kv), revision);
                }
                state.store.watched(batch.revision);
            }
            Ok(WatchItem::Progress { revision }) => state.store.watched(revision),
            Ok(WatchItem::Compacted { resume_from }) => {
                state.store.reset(resume_from.saturating_sub(1));
                watch.resume_from(resume_from);
            }
            Err(error) => {
                // Nothing is confirmed any more, so every read goes to the cluster.
                tracing::warn!(%error, partition = %shared.options.partition, "a near-cache lost its watch for good");
                state.store.lose();
                return;
            }
        }
    }
}

/// Proves from time to time how old the cache is, while it is used.
async fn confirm(shared: Arc<Shared>, mut end: oneshot::Receiver<()>) {
    let pause = (shared.options.max_age / 4).clamp(MIN_CONFIRM_PAUSE, MAX_CONFIRM_PAUSE);
    let confirming = async {
        loop {
            if !std::mem::take(&mut shared.state.lock().is_used) {
                shared.used.notified().await;
                continue;
            }
            let sent = Instant::now();
            let partition = &shared.options.partition;
            let deadline = shared.client.deadline();
            match watch::head(&shared.client.core, partition, deadline).await {
                Ok(revision) => shared.state.lock().store.confirm(revision, sent),
                Err(error) => {
                    tracing::debug!(%error, "cannot confirm the age of a near-cache");
                    sleep(RETRY_PAUSE).await;
                }
            }
            sleep(pause).await;
        }
    };
    tokio::select! {
        biased;
        _ = &mut end => {}
        () = confirming => {}
    }
}
