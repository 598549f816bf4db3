//! Which checkpoint a transfer reads, and how long checkpoints live. Everything here but the end of a reading blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kvsvr_core::{
    engine::{EngineError, EngineRead},
    types::ShardId,
};
use parking_lot::Mutex;

use super::{Checkpoints, Meta, TransferError, meta_of, peer};

/// The checkpoints of this node, and who reads them.
pub(super) struct Sources {
    checkpoints: Arc<dyn Checkpoints>,
    /// Tells this node's snapshots from others'.
    store_id: String,
    /// Held while checkpoints come and go, which takes a flush: only where blocking is allowed.
    changing: Mutex<()>,
    /// Checkpoints that nobody read when [`Sources::remove_idle`] looked last, and nobody has since.
    idle: Mutex<BTreeSet<String>>,
    /// How many transfers read a checkpoint, by its name. Readers come only under `changing`; they go at any time.
    readers: Mutex<BTreeMap<String, usize>>,
}

/// An open checkpoint.
pub(super) type Source = Arc<dyn EngineRead + Send + Sync>;

impl Sources {
    pub(super) fn new(checkpoints: Arc<dyn Checkpoints>, store_id: String) -> Self {
        Self {
            checkpoints,
            store_id,
            changing: Mutex::default(),
            idle: Mutex::default(),
            readers: Mutex::default(),
        }
    }

    /// Removes checkpoints that no transfer can use any more: all but the newest of each shard and those that are being sent.
    pub(super) fn remove_stale(&self) -> Result<(), EngineError> {
        let _changing = self.changing.lock();
        self.remove_unread()
    }

    /// Removes checkpoints that nobody has read since the last call, or nobody reads now if that is `urgent`. An interrupted transfer goes on
    /// from its checkpoint, but the receiver may have got its state from another leader meanwhile; until then the checkpoint keeps files from being removed.
    pub(super) fn remove_idle(&self, urgent: bool) -> Result<(), EngineError> {
        let _changing = self.changing.lock();
        let mut unread = BTreeSet::new();
        for name in self.checkpoints.list()? {
            if self.readers.lock().contains_key(&name) {
                continue;
            }
            if urgent || self.idle.lock().contains(&name) {
                self.checkpoints.remove(&name)?;
            } else {
                unread.insert(name);
            }
        }
        *self.idle.lock() = unread;
        Ok(())
    }

    fn remove_unread(&self) -> Result<(), EngineError> {
        let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
        let parsed: Vec<_> = self
            .checkpoints
            .list()?
            .into_iter()
            .map(|name| (parse_name(&name), name))
            .collect();
        for (shard, index) in parsed.iter().filter_map(|(p, _)| *p) {
            let entry = newest.entry(shard).or_default();
            *entry = (*entry).max(index);
        }
        for (parsed, name) in &parsed {
            let newest = parsed.is_some_and(|(shard, index)| newest.get(&shard) == Some(&index));
            if !newest && !self.readers.lock().contains_key(name) {
                self.checkpoints.remove(name)?;
            }
        }
        Ok(())
    }

    /// The checkpoint that the receiver has begun to receive, if it is ours and new enough; else a new one.
    pub(super) fn open(
        self: &Arc<Self>,
        shard: ShardId,
        required: u64,
        resume: &str,
    ) -> Result<Reading, TransferError> {
        let ours = resume
            .strip_prefix(&self.store_id)
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|rest| rest.rsplit_once('@'))
            .map(|(name, _)| name);
        let of_shard = |name: &str| parse_name(name).is_some_and(|(s, _)| s == shard.0);
        let _changing = self.changing.lock();
        if let Some(name) = ours.filter(|name| of_shard(name))
            && let Some(source) = self.checkpoints.open(name)?
            // What it holds decides, not its name: making a checkpoint flushes, so after a restart of this node more is required
            // than when it was named.
            && applied_index(&*source, shard)? >= required
        {
            return self.read(shard, name.to_owned(), source.into());
        }
        // The name holds the required index, a lower bound of what is in it: the flush may have gone on meanwhile.
        let name = format!("{}-{required}", shard.0);
        if self.checkpoints.open(&name)?.is_none() {
            self.checkpoints.create(&name)?;
        }
        let source = self
            .checkpoints
            .open(&name)?
            .ok_or_else(|| peer("the new checkpoint vanished"))?;
        let reading = self.read(shard, name, source.into())?;
        self.remove_unread()?;
        Ok(reading)
    }

    fn read(
        self: &Arc<Self>,
        shard: ShardId,
        name: String,
        source: Source,
    ) -> Result<Reading, TransferError> {
        let mut meta = meta_of(&*source, shard)?.ok_or_else(|| peer("the checkpoint is empty"))?;
        if kvsvr_core::mutant!("snapshot-one-ahead")
            && let Some(last) = &mut meta.last_log_id
        {
            last.index += 1;
        }
        *self.readers.lock().entry(name.clone()).or_default() += 1;
        self.idle.lock().remove(&name);
        Ok(Reading {
            sources: self.clone(),
            name,
            source,
            meta,
        })
    }
}

/// The last log index applied to a state; 0 before the first.
fn applied_index(source: &dyn EngineRead, shard: ShardId) -> Result<u64, TransferError> {
    let meta = meta_of(source, shard)?;
    Ok(meta.and_then(|meta| meta.last_log_id).map_or(0, |id| id.index))
}

fn parse_name(name: &str) -> Option<(u32, u64)> {
    let (shard, index) = name.split_once('-')?;
    Some((shard.parse().ok()?, index.parse().ok()?))
}

/// A transfer's use of a checkpoint. Several may read the same one; it outlives those that are interrupted.
pub(super) struct Reading {
    sources: Arc<Sources>,
    name: String,
    pub(super) source: Source,
    pub(super) meta: Meta,
}

impl Reading {
    /// The last log index that is in it.
    pub(super) fn index(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |id| id.index)
    }

    /// Names the content to the receiver. Another checkpoint of the same name may hold a newer state; at equal positions the states
    /// are equal.
    pub(super) fn id(&self) -> String {
        format!("{}/{}@{}", self.sources.store_id, self.name, self.index())
    }

    /// The transfer is complete: nothing goes on from this checkpoint, unless others read it.
    pub(super) fn finish(self) -> Result<(), EngineError> {
        let _changing = self.sources.changing.lock();
        if self.sources.readers.lock().get(&self.name) == Some(&1) {
            self.sources.checkpoints.remove(&self.name)?;
        }
        Ok(())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readers = self.sources.readers.lock();
        match readers.get_mut(&self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(readers.remove(&self.name)),
        }
    }
}
