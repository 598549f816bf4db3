//! Keeping the shard map current: when it is fetched, and from whom.

use std::sync::{Arc, Weak, atomic::Ordering};

use kvsvr_proto::v1;
use tokio::time::{Duration, Instant, sleep};

use super::{Core, no_such_shard};
use crate::{
    error::{Code, Error, Result},
    limits::{MAP_MAX_AGE, MAP_TIMEOUT, MAX_RETRY_PAUSE, RETRY_PAUSE},
    retry::pause,
    router::Place,
    time::millis,
    transport::Method,
};

impl Core {
    /// A reply brought the epoch of the server's map; fetches the map if it is newer, or if what we know is old.
    pub(super) fn look_at_epoch(self: &Arc<Self>, epoch: u64, now: Instant) {
        let known = self.epoch.load(Ordering::Relaxed);
        let age = millis(now.saturating_duration_since(self.started))
            .saturating_sub(self.fetched_ms.load(Ordering::Relaxed));
        if epoch > known || u128::from(age) >= MAP_MAX_AGE.as_millis() {
            self.refresh_map();
        }
    }

    /// Fetches the map in the background, unless that is under way.
    pub(crate) fn refresh_map(self: &Arc<Self>) {
        if self.background.swap(true, Ordering::AcqRel) {
            return;
        }
        let core = Arc::downgrade(self);
        tokio::spawn(async move {
            if let Some(core) = Weak::upgrade(&core) {
                let deadline = Instant::now() + MAP_TIMEOUT * 3;
                let known = core.epoch.load(Ordering::Relaxed);
                if let Err(error) = core.fetch_map(deadline, known).await {
                    tracing::debug!(%error, "cannot refresh the shard map");
                    // Not again with the very next reply.
                    core.fetched_ms.store(millis(core.now()), Ordering::Relaxed);
                }
                core.background.store(false, Ordering::Release);
            }
        });
    }

    /// The shard of a place; fetches the map if there is none yet.
    pub(crate) async fn locate(self: &Arc<Self>, place: Place, deadline: Instant) -> Result<u32> {
        if let Some(shard) = self.router.read().shard(place) {
            return Ok(shard);
        }
        // On the heap: every call's future would have room for it otherwise.
        Box::pin(self.need_map(deadline)).await?;
        self.router
            .read()
            .shard(place)
            .ok_or_else(|| no_such_shard(place))
    }

    /// Fetches the map if there is none yet.
    pub(crate) async fn need_map(&self, deadline: Instant) -> Result<()> {
        let mut failures = 0;
        while self.router.read().map().is_none() {
            let Err(error) = self.fetch_map(deadline, 0).await else {
                continue;
            };
            let pause = pause(
                RETRY_PAUSE,
                MAX_RETRY_PAUSE,
                failures,
                rand::random_range(0.0..1.0),
            );
            if Instant::now() + pause >= deadline || error.code == Code::Refused {
                return Err(error);
            }
            failures += 1;
            sleep(pause).await;
        }
        Ok(())
    }

    /// Asks one node after the other for the map. Returns at once if somebody else fetched a newer map than `known` meanwhile.
    pub(crate) async fn fetch_map(&self, deadline: Instant, known: u64) -> Result<()> {
        let _fetching = self.fetching.lock().await;
        if self.epoch.load(Ordering::Relaxed) > known {
            return Ok(());
        }
        let addresses = self.router.read().addresses(self.now());
        let mut reasons = Vec::new();
        let mut code = Code::Unreachable;
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if reasons.is_empty() {
                    code = Code::Timeout;
                }
                reasons.push("the time is up".to_owned());
                break;
            }
            match self.ask_for_map(&address, left.min(MAP_TIMEOUT)).await {
                Ok(Some(map)) => {
                    let mut router = self.router.write();
                    router.set_map(map)?;
                    self.epoch.store(router.epoch(), Ordering::Relaxed);
                    self.fetched_ms.store(millis(self.now()), Ordering::Relaxed);
                    return Ok(());
                }
                Ok(None) => {
                    code = Code::NotReady;
                    reasons.push(format!(
                        "{address} is not part of a cluster: create one with `kvctl cluster bootstrap`"
                    ));
                }
                Err(error) => {
                    if error.code == Code::NotReady {
                        code = error.code;
                    }
                    reasons.push(error.message);
                }
            }
        }
        Err(Error::definite(
            code,
            format!("no node gave the shard map: {}", reasons.join("; ")),
        ))
    }

    async fn ask_for_map(&self, address: &str, time: Duration) -> Result<Option<v1::ShardMap>> {
        let response: v1::ShardMapResponse = self
            .call(address, Method::AdminShardMap, &v1::ShardMapRequest {}, time)
            .await?;
        Ok(response.map)
    }
}
