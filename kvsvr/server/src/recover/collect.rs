//! What a stopped node has, read and not changed: log and engine are only looked at, and what the log has committed is applied in memory.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use kvsvr_core::{
    engine::{Cf, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, WriteBatch},
    machine::{Entry, Machine},
    mem::MemEngine,
    read::shard_head,
    types::{META_SHARD, Revision, ShardId},
};
use kvsvr_proto::v1 as pb;

use super::{Collected, Map, Members, Peer, Position, RecoverError, Replica};
use crate::{
    buffer::BufferedEngine,
    disk::{DynDisk, fs::FsDisk},
    limits::MAX_APPLY_BYTES,
    node::cluster_text,
    raft::{
        apply::core_entry,
        convert,
        snapshot::Staged,
        types::{LogId, Membership},
    },
    store::{DataLock, ReplicaRecord, ReplicaState, Store},
    topology,
    wal::{EntryKind, LogView},
};

/// Reads of an engine that nobody else has open.
pub(super) type Still = Arc<dyn EngineRead + Send + Sync>;

/// Collects what a stopped node has.
///
/// # Errors
/// The directory is in use, foreign or damaged, or its node belongs to no cluster.
pub async fn collect(data_dir: &Path) -> Result<Collected, RecoverError> {
    let _lock = DataLock::acquire_existing(data_dir)?;
    let disk = Arc::new(FsDisk::new(data_dir)?);
    collect_files(disk, open_engine(data_dir)?, &data_dir.display().to_string()).await
}

#[cfg(feature = "rocks")]
pub(super) fn open_engine(data_dir: &Path) -> Result<Still, RecoverError> {
    let view = crate::rocks::RocksView::open_stopped(&data_dir.join(crate::store::ROCKS_DIR));
    Ok(match view.map_err(RecoverError::storage)? {
        Some(view) => Arc::new(view),
        None => Arc::new(MemEngine::default()),
    })
}

#[cfg(not(feature = "rocks"))]
pub(super) fn open_engine(_: &Path) -> Result<Still, RecoverError> {
    Ok(Arc::new(MemEngine::default()))
}

/// The same for a directory that is locked already. `place`: its name for people.
pub(super) async fn collect_files(
    disk: DynDisk,
    engine: Still,
    place: &str,
) -> Result<Collected, RecoverError> {
    let store = Store::open_existing(disk.clone()).await?;
    let store = store.ok_or_else(|| RecoverError::NoMember(place.to_owned()))?;
    let identity = store
        .identity()
        .ok_or_else(|| RecoverError::NoMember(place.to_owned()))?;
    let store_id = store.meta().store_id;
    let log = LogView::open(&disk, store_id).await?;
    if log.is_fresh() {
        return Err(RecoverError::Storage(format!(
            "the data directory {place} belongs to node {} but has no log any more: this node is lost, leave it out",
            identity.node_id
        )));
    }
    let records = store.replicas().await?;
    // Nothing is ever drained: a node keeps no more of its log unapplied than fits.
    let buffer = BufferedEngine::new(Arc::new(Unwritten(engine.clone())), usize::MAX / 32, 0);
    let mut replicas = BTreeMap::new();
    for shard in log.shards() {
        let record = records.get(&shard.0).copied();
        if record.is_some_and(|record| record.state != ReplicaState::Live) {
            continue;
        }
        if Staged::interrupted(&disk, shard).await?.is_some() {
            return Err(RecoverError::HalfInstalled(shard.0));
        }
        let incarnation = record.map_or(0, |ReplicaRecord { incarnation, .. }| incarnation);
        let head = shard_head(&*engine, shard).map_err(RecoverError::storage)?;
        let applied = head.applied.map(Position::from);
        let machine = replay(shard, &log, &buffer).await?;
        replicas.insert(
            shard.0,
            replica(shard, incarnation, applied, &machine, &log).await?,
        );
    }
    let map = topology::load(&buffer).map_err(RecoverError::storage)?;
    let map = map.filter(|_| replicas.contains_key(&META_SHARD.0));
    Ok(Collected {
        cluster_id: cluster_text(identity),
        cluster_name: map
            .as_ref()
            .map_or_else(String::new, |map| map.cluster_name.clone()),
        node_id: identity.node_id,
        store_id,
        replicas,
        map: map.map(seen),
    })
}

fn seen(map: pb::ShardMap) -> Map {
    let is_member = |n: &&pb::NodeInfo| n.state() != pb::NodeState::NodeRemoved;
    let nodes = map.nodes.iter().filter(is_member);
    Map {
        epoch: map.epoch,
        nodes: nodes.map(|n| (n.id, n.address.clone())).collect(),
        shards: map.shards.into_iter().map(|s| (s.id, s.replicas)).collect(),
    }
}

/// Applies what the log has committed, as the next start would, to the buffer.
async fn replay(shard: ShardId, log: &LogView, buffer: &BufferedEngine) -> Result<Machine, RecoverError> {
    let mut machine = Machine::load(shard, buffer).map_err(RecoverError::storage)?;
    let known = log.shard(shard);
    let end = known.committed.map_or(0, |committed| committed.index + 1);
    loop {
        let next = machine.applied().map_or(0, |applied| applied.index + 1);
        if next < known.first_index || next >= end {
            return Ok(machine);
        }
        let records = log.read(shard, next..end, MAX_APPLY_BYTES).await?;
        let entries = records
            .into_iter()
            .map(|record| convert::entry(record).map(core_entry));
        let entries: Vec<Entry> = entries.collect::<Result<_, _>>().map_err(RecoverError::storage)?;
        if entries.is_empty() {
            return Ok(machine);
        }
        let mut rest = &entries[..];
        while !rest.is_empty() {
            let applied = machine.apply(buffer, rest).map_err(RecoverError::storage)?;
            buffer.write(applied.batch).map_err(RecoverError::storage)?;
            rest = &rest[applied.replies.len()..];
        }
    }
}

async fn replica(
    shard: ShardId,
    incarnation: u64,
    applied: Option<Position>,
    machine: &Machine,
    log: &LogView,
) -> Result<Replica, RecoverError> {
    let known = log.shard(shard);
    if known.purged.map(|p| p.index) > machine.applied().map(|p| p.index) {
        return Err(RecoverError::Storage(format!(
            "shard {shard}: the log begins after what the engine has: `kvsvr check` says more. This replica is lost, leave the node out"
        )));
    }
    // Both are of one log: the greater index is the later.
    let later = |a: Option<_>, b: Option<_>| a.max(b).map(Position::from);
    let members = match membership_after(shard, machine, log).await? {
        Some(newer) => newer,
        None => {
            let stored = convert::decode_stored_membership(machine.membership());
            let stored = stored.map_err(RecoverError::storage)?;
            members(*stored.log_id(), stored.membership())
        }
    };
    Ok(Replica {
        incarnation,
        members,
        vote: known.vote.map(Into::into),
        last: later(known.last, machine.applied()),
        committed: later(known.committed, machine.applied()),
        applied,
        revision: machine.revision(),
    })
}

/// The newest membership in the log that is not applied: a replica goes by it from when it has it.
async fn membership_after(
    shard: ShardId,
    machine: &Machine,
    log: &LogView,
) -> Result<Option<Members>, RecoverError> {
    let end = log.shard(shard).last.map_or(0, |last| last.index + 1);
    let mut next = machine.applied().map_or(0, |applied| applied.index + 1);
    let mut newest = None;
    while next < end {
        let records = log.read(shard, next..end, MAX_APPLY_BYTES).await?;
        let Some(last) = records.last() else { break };
        next = last.position.index + 1;
        for record in records.into_iter().filter(|r| r.kind == EntryKind::Membership) {
            let entry = convert::entry(record).map_err(RecoverError::storage)?;
            if let openraft::EntryPayload::Membership(membership) = entry.payload {
                newest = Some(members(Some(entry.log_id), &membership));
            }
        }
    }
    Ok(newest)
}

fn members(id: Option<LogId>, membership: &Membership) -> Members {
    let peers = membership.nodes().map(|(id, node)| {
        let peer = Peer {
            address: node.address.clone(),
            store_id: node.store_id.clone(),
            incarnation: node.incarnation,
        };
        (*id, peer)
    });
    Members {
        position: id.map(|id| convert::position(&id).into()),
        voters: membership.get_joint_config().clone(),
        nodes: peers.collect(),
    }
}

/// An engine that nothing is written to: what is applied stays in the buffer before it.
struct Unwritten(Still);

struct View(Still);

impl EngineRead for View {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.0.scan(cf, range, visit)
    }
}

impl EngineSnapshot for View {}

impl EngineRead for Unwritten {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.0.scan(cf, range, visit)
    }
}

impl Engine for Unwritten {
    fn write(&self, _: WriteBatch) -> Result<(), EngineError> {
        Err(EngineError::Io(
            "the files of a stopped node are only looked at".to_owned(),
        ))
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        Box::new(View(self.0.clone()))
    }

    fn flush(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(cf, key)
    }

    fn set_garbage_floor(&self, _: ShardId, _: Revision) {}
}
