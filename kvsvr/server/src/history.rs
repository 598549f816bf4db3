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

use crate::{
    hub::{EventFilter, History, Replayed, SubscriptionError},
    raft::apply::Head,
};

/// One shard's change log.
pub struct ShardHistory {
    /// The shard.
    pub shard: ShardId,
    /// Where it is.
    pub engine: Arc<dyn Engine>,
    /// Says when the engine's content is being replaced.
    pub head: Arc<Head>,
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
                let result = self.read(after, max_bytes, filter);
                if installs == self.head.installs() {
                    return result;
                }
            }
        })
    }
}

impl ShardHistory {
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
