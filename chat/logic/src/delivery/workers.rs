//! The delivery workers of a process, among those of all processes: who is there is said by rows that live for seconds, and each computes its share of the shards from them.
//!
//! Two may take the same shard for a moment: the store lets only the newest consumer of it go on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::sleep};

use super::{Counters, Notices, Worker, shards_of};
use crate::{failure::Failure, logic::Logic};

/// How long a worker's row lives.
const LIVES: Duration = Duration::from_secs(5);
/// How often it is renewed, and the shares are computed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See the module. Dropping it stops the work.
pub struct Workers {
    name: String,
    logic: Logic,
    worker: Arc<Worker>,
    running: BTreeMap<u32, JoinHandle<()>>,
}

impl Workers {
    /// Workers of this process, whose name no other one has.
    pub fn new(name: String, logic: Logic, notices: Arc<dyn Notices>) -> Self {
        let worker = Arc::new(Worker::new(logic.clone(), notices));
        Self {
            name,
            logic,
            worker,
            running: BTreeMap::new(),
        }
    }

    /// What they have done so far.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.worker.counters)
    }

    /// Works until `stop` resolves. Then the others take its share over at once.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            if let Err(failure) = self.look().await {
                tracing::warn!(%failure, "who delivers what cannot be said now; trying again");
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = sleep(LOOK_EVERY) => {}
            }
        }
        self.running.values().for_each(JoinHandle::abort);
        if let Err(error) = self.logic.store().forget_worker(&self.name).await {
            tracing::warn!(%error, "the others hear of this worker's end some seconds later");
        }
    }

    /// Takes up what is its share now, and lets go of what is not.
    async fn look(&mut self) -> Result<(), Failure> {
        let store = self.logic.store();
        store.keep_worker(&self.name, LIVES).await?;
        let mut workers = store.workers().await?;
        if !workers.contains(&self.name) {
            workers.push(self.name.clone());
        }
        let shards = store
            .client()
            .data_shards()
            .await
            .map_err(chat_storage::StoreError::from)?;
        let share: Vec<u32> = shards_of(&self.name, &workers, &shards).collect();
        self.running.retain(|shard, task| {
            let stays = share.contains(shard) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for shard in share {
            self.running.entry(shard).or_insert_with(|| {
                let worker = Arc::clone(&self.worker);
                tokio::spawn(async move { worker.run(shard).await })
            });
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::abort);
    }
}
