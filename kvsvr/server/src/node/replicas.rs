//! The replicas of a node: which it has, starting them, and destroying those that the shard map gives to others.
//!
//! The map says who has a replica, and which one: a node that had a replica of the shard before gets another one, of a greater incarnation.
//! The map that this node knows may be an old one after a restart; so what was destroyed is remembered in the data directory, and a replica
//! is only destroyed by a map that is not older than the replica.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use kvsvr_core::{
    engine::{Cf, EngineError, WriteBatch},
    keys,
    types::{META_SHARD, ShardId},
};
use kvsvr_proto::v1 as pb;
use openraft_rt::AsyncRuntime;
use tokio::sync::oneshot;

use super::{MapState, Node};
use crate::{
    admin,
    limits::{CATCH_UP_LOOK, INITIALIZE_PATIENCE},
    raft::runtime::Runtime,
    shard::Shard,
    store::{Identity, ReplicaRecord, ReplicaState},
    time::sleep,
    topology::{self, SlotTable},
};

/// Waits until the replica holds everything that was acknowledged before. Cancel-safe.
async fn caught_up(meta: &Shard) {
    while meta.reads().barrier().await.is_err() {
        sleep(CATCH_UP_LOOK).await;
    }
}

impl Node {
    /// Ends what was being destroyed, and applies the log of every shard that this node has a part in: until it may take part again there
    /// is nothing else to do.
    pub(super) async fn recover_shards(&self, identity: Identity) -> io::Result<()> {
        let records = self.store.lock().await.replicas().await;
        for (id, mut record) in records.map_err(io::Error::other)? {
            let id = ShardId(id);
            if record.state == ReplicaState::Destroying {
                self.destroy_files(id, record.incarnation).await?;
                record.state = ReplicaState::Destroyed;
            }
            self.incarnations.lock().insert(id, record);
        }
        for id in self.wal.shards() {
            let machine = Shard::recover(&self.shard_parts(id, identity)).await;
            let machine = machine
                .map_err(|e| io::Error::new(e.kind(), format!("shard {id}: the log is not replayed: {e}")))?;
            self.recovered.lock().insert(id, machine);
        }
        Ok(())
    }

    /// Reads the shard map from the meta shard's applied state, starts the replicas that it gives to this node, and destroys those that it does
    /// not.
    pub(super) async fn load_map(self: &Arc<Self>, meta: &Shard) -> io::Result<()> {
        let loaded = topology::load(&*meta.engine().snapshot()).map_err(io::Error::other)?;
        let Some(map) = loaded else { return Ok(()) };
        let table = SlotTable::new(&map);
        let epoch = map.epoch;
        *self.map.write() = Arc::new(MapState {
            map: Some(map.clone()),
            table,
        });
        self.map_epoch.store(epoch, Ordering::Release);
        let me = self.identity().map_or(0, |i| i.node_id);
        for info in map.shards.iter().filter(|s| s.id != META_SHARD.0) {
            self.follow(info, &map.nodes, me).await?;
        }
        Ok(())
    }

    /// Starts the replica of the meta shard, which every node has: one that was destroyed is made anew, and its record has the next one's number.
    /// Without it the node would hear of nothing.
    pub(super) async fn start_meta(self: &Arc<Self>) -> io::Result<Arc<Shard>> {
        let record = self.incarnations.lock().get(&META_SHARD).copied();
        if let Some(gone) = record.filter(|record| record.state != ReplicaState::Live) {
            self.record_replica(META_SHARD, gone.incarnation, ReplicaState::Live)
                .await?;
        }
        self.start_shard(META_SHARD).await
    }

    /// Follows what the meta shard says, and makes the replica of it anew when the group has another one in its place. A new one says nothing until it has
    /// caught up: what it holds before that is older than what the node knows.
    pub(super) async fn follow_meta(self: Arc<Self>, mut meta: Arc<Shard>) {
        let mut seen = meta.revision();
        let mut behind = false;
        loop {
            let (own, head) = (meta.incarnation(), meta.head().clone());
            let newer = tokio::select! {
                biased;
                newer = self.newer_meta(own) => Some(newer),
                () = caught_up(&meta), if behind => None,
                () = head.wait_for(|head| head.revision() != seen), if !behind => None,
            };
            let followed = match newer {
                Some(incarnation) => self.renew_meta(incarnation).await.map(|renewed| {
                    meta = renewed;
                    behind = true;
                }),
                None => {
                    seen = meta.revision();
                    behind = false;
                    self.load_map(&meta).await
                }
            };
            if let Err(e) = followed {
                self.fail(format!("the shard map cannot be followed: {e}"));
                return;
            }
        }
    }

    /// A peer has spoken to another one of this node's replicas of a shard. One of the meta shard that is newer than the one that is there takes
    /// its place: the group took the old one out before it took the new one in. Of other shards the map says so.
    pub fn note_incarnation(&self, shard: &Shard, incarnation: u64) {
        let is_newer = shard.id() == META_SHARD && incarnation > shard.incarnation();
        if is_newer && self.meta_incarnation.fetch_max(incarnation, Ordering::AcqRel) < incarnation {
            self.meta_renewed.notify_one();
        }
    }

    /// Waits until peers mean another replica of the meta shard than the one with this number. Cancel-safe.
    async fn newer_meta(&self, own: u64) -> u64 {
        loop {
            let meant = self.meta_incarnation.load(Ordering::Acquire);
            if meant > own {
                return meant;
            }
            self.meta_renewed.notified().await;
        }
    }

    async fn renew_meta(self: &Arc<Self>, incarnation: u64) -> io::Result<Arc<Shard>> {
        // Under the number of the next one: that is what a restart in between goes on with.
        self.destroy_shard(META_SHARD, incarnation).await?;
        self.start_meta().await
    }

    /// The newest replica of a shard that this node has, or had.
    fn record(&self, id: ShardId) -> Option<ReplicaRecord> {
        let known = self.incarnations.lock().get(&id).copied();
        let first = ReplicaRecord {
            incarnation: 0,
            state: ReplicaState::Live,
        };
        // Those from the beginning are not recorded.
        let there = self.shard(id).is_some() || self.recovered.lock().contains_key(&id);
        known.or_else(|| there.then_some(first))
    }

    async fn follow(
        self: &Arc<Self>,
        info: &pb::ShardInfo,
        nodes: &[pb::NodeInfo],
        me: u64,
    ) -> io::Result<()> {
        let id = ShardId(info.id);
        let newest = self.record(id);
        let goes = info.change.as_ref().is_some_and(|change| change.remove == me);
        let host = topology::hosts(info).any(|node| node == me)
            && !(goes && kvsvr_core::mutant!("replica-destroyed-with-its-vote"));
        let listed = info.incarnations.iter().find(|i| i.node == me);
        let wanted = listed.map_or(0, |i| i.incarnation);
        let live = newest.filter(|r| r.state == ReplicaState::Live);
        if let Some(live) = live {
            let newer = if host {
                wanted > live.incarnation
            } else {
                // A row that is older than the replica does not know it yet.
                info.changes > 0 && info.changes >= live.incarnation
            };
            if newer {
                self.destroy_shard(id, live.incarnation).await?;
            } else if !host || wanted < live.incarnation || self.shard(id).is_some() {
                return Ok(());
            }
        }
        if !host {
            return Ok(());
        }
        if live.is_none() && newest.is_some_and(|gone| wanted <= gone.incarnation) {
            tracing::debug!(shard = %id, wanted, "this replica was destroyed; the map is an old one");
            return Ok(());
        }
        if wanted > 0 {
            self.record_replica(id, wanted, ReplicaState::Live).await?;
        }
        let shard = self.start_shard(id).await?;
        // A group that was changed since has been initialised; who is new to it waits for its leader.
        if info.changes == 0 {
            self.initialize(shard, info, nodes, me);
        }
        Ok(())
    }

    async fn record_replica(&self, id: ShardId, incarnation: u64, state: ReplicaState) -> io::Result<()> {
        let record = ReplicaRecord { incarnation, state };
        let store = self.store.lock().await;
        let stored = store.set_replica(id.0, record).await;
        stored.map_err(io::Error::other)?;
        self.incarnations.lock().insert(id, record);
        Ok(())
    }

    /// Destroys a replica that the shard's group does not have any more.
    async fn destroy_shard(&self, id: ShardId, incarnation: u64) -> io::Result<()> {
        tracing::info!(shard = %id, incarnation, "destroying this replica: its group does not have it any more");
        self.record_replica(id, incarnation, ReplicaState::Destroying)
            .await?;
        self.recovered.lock().remove(&id);
        let running = self.shards.write().remove(&id);
        if let Some(shard) = running {
            shard.retire().await;
        }
        self.destroy_files(id, incarnation).await
    }

    async fn destroy_files(&self, id: ShardId, incarnation: u64) -> io::Result<()> {
        let staging = self.receiver.give_up(id).await;
        let (told, forgotten) = oneshot::channel();
        self.wal.forget(
            id,
            Box::new(move |result| {
                let _ = told.send(result);
            }),
        );
        let forgotten = forgotten.await;
        forgotten.map_err(|_| io::Error::other("the WAL writer has stopped"))??;
        let engine = self.engine();
        let removing = move || {
            let mut clear = WriteBatch::default();
            let (start, end) = keys::shard_range(id);
            for cf in Cf::ALL {
                clear.delete_range(cf, start.clone(), end.clone());
            }
            engine.write(clear)?;
            engine.flush()?;
            // A later replica of the shard may begin with older rows.
            engine.set_garbage_floor(id, 0);
            Ok::<_, EngineError>(())
        };
        Runtime::spawn_blocking(removing)
            .await?
            .map_err(io::Error::other)?;
        self.receiver.remove(id, staging).await?;
        self.record_replica(id, incarnation, ReplicaState::Destroyed)
            .await
    }

    /// A new group is initialised by its preferred leader, or after a while by any member: all say the same, so it does not matter who.
    fn initialize(&self, shard: Arc<Shard>, info: &pb::ShardInfo, nodes: &[pb::NodeInfo], me: u64) {
        let members: Vec<pb::NodeInfo> = nodes
            .iter()
            .filter(|n| info.replicas.contains(&n.id))
            .cloned()
            .collect();
        let first = info.replicas.first() == Some(&me);
        tokio::spawn(async move {
            if !first {
                sleep(INITIALIZE_PATIENCE).await;
            }
            if let Err(e) = admin::initialize(&shard, &members).await {
                tracing::warn!(shard = %shard.id(), "cannot start the group, another member may: {e}");
            }
        });
    }

    pub(super) async fn start_shard(self: &Arc<Self>, id: ShardId) -> io::Result<Arc<Shard>> {
        if self.shard(id).is_some() {
            return Err(io::Error::other(format!("shard {id} runs already")));
        }
        let identity = self
            .identity()
            .ok_or_else(|| io::Error::other("not a member of a cluster"))?;
        let parts = self.shard_parts(id, identity);
        let recovered = self.recovered.lock().remove(&id);
        let machine = match recovered {
            Some(machine) => machine,
            None => Shard::recover(&parts).await?,
        };
        let fatal = self.fatal.clone();
        let shard = Shard::start(parts, machine, move |reason| {
            // The receiver is gone when the node is stopping; then this is no news.
            let _ = fatal.send(reason);
        })
        .await?;
        self.shards.write().insert(id, shard.clone());
        Ok(shard)
    }
}
