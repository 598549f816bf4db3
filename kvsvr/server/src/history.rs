//! The change log of a shard in the engine, as the hub replays it.

use std::sync::Arc;

use futures::future::BoxFuture;
use kvsvr_core::{
    engine::{Engine, EngineError},
    error::Failure,
    read,
    types::{Revision, ShardId},
};
use kvsvr_proto::v1::ErrorCode;
use openraft_rt::AsyncRuntime;
use tokio::sync::Semaphore;

use crate::{
    hub::{EventFilter, History, Replayed, SubscriptionError},
    limits::MAX_SCANS,
    raft::{apply::Head, runtime::Runtime},
};

/// One shard's change log.
pub struct ShardHistory {
    log: Arc<ChangeLog>,
    /// Says when the engine's content is being replaced.
    head: Arc<Head>,
    /// Of readers at once.
    places: Semaphore,
}

struct ChangeLog {
    shard: ShardId,
    engine: Arc<dyn Engine>,
}

impl ShardHistory {
    /// Of a shard in an engine; `head` says when the engine's content is being replaced.
    pub fn new(shard: ShardId, engine: Arc<dyn Engine>, head: Arc<Head>) -> Self {
        Self {
            log: Arc::new(ChangeLog { shard, engine }),
            head,
            places: Semaphore::new(MAX_SCANS),
        }
    }
}

impl History for ShardHistory {
    fn replay<'a>(
        &'a self,
        after: Revision,
        max_bytes: usize,
        filter: &'a EventFilter,
    ) -> BoxFuture<'a, Result<Replayed, SubscriptionError>> {
        Box::pin(async move {
            loop {
                self.head.wait_for(|head| head.installs().is_multiple_of(2)).await;
                let installs = self.head.installs();
                // Many random reads: not on an async thread, and not too many at once.
                let _place = self.places.acquire().await;
                let (log, filter) = (self.log.clone(), filter.clone());
                let read = Runtime::spawn_blocking(move || log.read(after, max_bytes, &filter));
                let result = read.await.map_err(|e| EngineError::Io(e.to_string()))?;
                if installs == self.head.installs() {
                    return result;
                }
            }
        })
    }
}

impl ChangeLog {
    /// Blocks.
    fn read(
        &self,
        after: Revision,
        max_bytes: usize,
        filter: &EventFilter,
    ) -> Result<Replayed, SubscriptionError> {
        let snapshot = self.engine.snapshot();
        let wanted = |partition: &_, key: &[u8]| filter.matches(partition, key);
        match read::replay(&*snapshot, self.shard, after, max_bytes, &wanted) {
            Ok(replay) => Ok(Replayed {
                events: replay.events,
                up_to: replay.up_to,
            }),
            Err(Failure::Rejected(rejection)) if rejection.code == ErrorCode::Compacted => {
                Err(SubscriptionError::Compacted {
                    floor: rejection.revision.saturating_sub(1),
                })
            }
            Err(Failure::Rejected(rejection)) => Err(EngineError::Io(rejection.message).into()),
            Err(Failure::Corrupt(corrupt)) => Err(EngineError::Corrupt(corrupt.to_string()).into()),
        }
    }
}
