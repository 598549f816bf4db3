//! The log of a stopped node, for who only looks at it: nothing is written, not even what [`Wal::open`](super::Wal::open) would to go on. Its entries
//! can be read; who changes anything meanwhile is not noticed, so the directory's lock must be held.

use std::{collections::BTreeMap, fmt, io, ops::Range, sync::Arc};

use kvsvr_core::types::ShardId;

use super::{
    EntryRecord, ShardLog, WalError,
    index::{Index, ShardIndex},
    read,
    scan::scan,
    segment::Segment,
};
use crate::{disk::DynDisk, store::StoreId};

/// See the module.
pub struct LogView {
    index: Index,
    segments: BTreeMap<u64, Arc<Segment>>,
    fresh: bool,
}

impl fmt::Debug for LogView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogView").finish_non_exhaustive()
    }
}

impl LogView {
    /// Reads the whole log. What it ends with that was never durable is left out, as the next start would cut it.
    ///
    /// # Errors
    /// As [`Wal::open`](super::Wal::open): the disk refuses, the log is damaged, newer, or another store's.
    pub async fn open(disk: &DynDisk, store_id: StoreId) -> Result<Self, WalError> {
        let scan = scan(disk, store_id, &|_| {}).await?;
        if !scan.damage.is_empty() {
            return Err(WalError::Corrupt { damage: scan.damage });
        }
        let segments = scan.segments.iter().map(|found| {
            let segment = Segment::new(&found.header, found.file.clone());
            (found.header.number, Arc::new(segment))
        });
        Ok(Self {
            segments: segments.collect(),
            fresh: scan.segments.is_empty(),
            index: scan.replay.into_index(0),
        })
    }

    /// There is no segment at all: a new store, or one that has lost its log.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The shards that have a state.
    pub fn shards(&self) -> Vec<ShardId> {
        self.index.shards().collect()
    }

    /// What is known of a shard; the default for one that was never heard of.
    pub fn shard(&self, shard: ShardId) -> ShardLog {
        self.index.get(shard).map(ShardIndex::view).unwrap_or_default()
    }

    /// Entries of a range, as [`Wal::read`](super::Wal::read).
    ///
    /// # Errors
    /// The disk refuses; `InvalidData` if an entry fails its checksum.
    pub async fn read(
        &self,
        shard: ShardId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> io::Result<Vec<EntryRecord>> {
        let wanted = self.index.read(shard, range, max_bytes);
        read::fetch(&self.segments, shard, wanted).await
    }
}
