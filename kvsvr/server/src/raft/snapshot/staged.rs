//! What is staged: its files, their frames, and the installation.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use kvsvr_core::{
    engine::{Cf, Engine, WriteBatch},
    keys,
    types::ShardId,
};
use tokio::sync::OwnedMutexGuard;

use super::{TransferError, blocking, chunk::pairs};
use crate::{
    disk::{DiskFile, DynDisk},
    store::STAGING_DIR,
};

/// A complete, verified snapshot in `staging/<shard>/`.
#[derive(Debug)]
pub struct Staged {
    pub(super) shard: ShardId,
    pub(super) disk: DynDisk,
    /// Keeps other transfers from the staging directory for as long as this is in use.
    pub(super) exclusive: Option<Exclusive>,
}

pub(crate) type Exclusive = Arc<OwnedMutexGuard<()>>;

/// The offer of a transfer that is being received (encoded [`pb::SnapshotOffer`]).
pub(super) const OFFER: &str = "OFFER";
/// The offer of a transfer that is complete: it is installed now, again after a crash.
const INSTALL: &str = "INSTALL";
/// Frames {number u64, length u32, crc32c u32, data}.
pub(super) const CHUNKS: &str = "chunks";
pub(super) const FRAME_HEADER: usize = 16;
/// Set in the number of the last chunk's frame.
pub(super) const LAST_FRAME: u64 = 1 << 63;

pub(super) fn staging(shard: ShardId) -> String {
    format!("{STAGING_DIR}/{shard}")
}

impl Staged {
    /// The transfer that a crash interrupted while it was being installed, if there is one.
    pub async fn interrupted(disk: &DynDisk, shard: ShardId) -> std::io::Result<Option<Staged>> {
        let names = disk.list(&staging(shard)).await?;
        let found = names.iter().any(|n| n == INSTALL);
        Ok(found.then(|| Staged {
            shard,
            disk: disk.clone(),
            exclusive: None,
        }))
    }

    /// Replaces the shard's content by the staged one. Atomic over crashes together with [`Staged::interrupted`].
    pub async fn install(self, engine: Arc<dyn Engine>) -> Result<(), TransferError> {
        let dir = staging(self.shard);
        let begun = self.disk.list(&dir).await?.iter().any(|name| name == INSTALL);
        let file = self.disk.open(&format!("{dir}/{CHUNKS}"), false).await?;
        let mut check = FrameReader::new(file.clone()).await?;
        while check.next().await?.is_some() {}
        check.all_read(&dir, begun)?;
        if !begun {
            self.disk
                .rename(&format!("{dir}/{OFFER}"), &format!("{dir}/{INSTALL}"))
                .await?;
            self.disk.sync_dir(&dir).await?;
        }
        let mut clear = WriteBatch::default();
        let (start, end) = keys::shard_range(self.shard);
        for cf in Cf::ALL
            .into_iter()
            .filter(|_| !kvsvr_core::mutant!("snapshot-over-old-rows"))
        {
            clear.delete_range(cf, start.clone(), end.clone());
        }
        let cleared = engine.clone();
        blocking(move || Ok(cleared.write(clear)?)).await?;
        let mut reader = FrameReader::new(file).await?;
        while let Some(data) = reader.next().await? {
            let filled = engine.clone();
            blocking(move || {
                let mut batch = WriteBatch::default();
                // Copied: the row cache keeps rows, and each would keep its whole chunk, which its budget does not know of.
                let copied = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
                pairs(data, |cf, key, value| batch.put(cf, copied(key), copied(value)))?;
                Ok(filled.write(batch)?)
            })
            .await?;
        }
        // What was sound a moment ago may be damaged now, and what was read instead is not all of it.
        if !kvsvr_core::mutant!("snapshot-checked-once") {
            reader.all_read(&dir, true)?;
        }
        blocking(move || Ok(engine.flush()?)).await?;
        remove(&self.disk, self.shard).await?;
        drop(self.exclusive);
        Ok(())
    }
}

/// Removes what interrupted transfers have staged, those first with the lowest shards, until at least `reserve_bytes` are free. What is
/// being installed stays: the shard's content is incomplete without it. For a node that starts, before its log is opened.
pub async fn free_staging(disk: &DynDisk, reserve_bytes: u64) -> std::io::Result<()> {
    for shard in disk.list(STAGING_DIR).await? {
        let free = disk.free_bytes().await?;
        if free >= reserve_bytes {
            return Ok(());
        }
        let dir = format!("{STAGING_DIR}/{shard}");
        if disk.list(&dir).await?.iter().any(|name| name == INSTALL) {
            continue;
        }
        tracing::warn!(
            shard,
            free_mib = free >> 20,
            reserve_mib = reserve_bytes >> 20,
            "the disk is nearly full: a snapshot that was received in part is removed, and sent again later"
        );
        disk.remove_dir(&dir).await?;
        disk.sync_dir(STAGING_DIR).await?;
    }
    Ok(())
}

/// Removes what is staged, if there is anything.
pub(super) async fn remove(disk: &DynDisk, shard: ShardId) -> std::io::Result<()> {
    let dir = staging(shard);
    if disk.list(&dir).await?.is_empty() {
        return Ok(());
    }
    // The marker goes first, durably: with it and without the chunks the node could not start.
    disk.remove(&format!("{dir}/{INSTALL}")).await?;
    disk.sync_dir(&dir).await?;
    disk.remove_dir(&dir).await?;
    disk.sync_dir(STAGING_DIR).await
}

/// Reads the valid frames of a chunk file, and stops at the first that is not.
pub(super) struct FrameReader {
    file: Arc<dyn DiskFile>,
    pub(super) offset: u64,
    len: u64,
    pub(super) frames: u64,
    /// The frame of the last chunk was read.
    complete: bool,
}

impl FrameReader {
    pub(super) async fn new(file: Arc<dyn DiskFile>) -> std::io::Result<Self> {
        let len = file.len().await?;
        Ok(Self {
            file,
            offset: 0,
            len,
            frames: 0,
            complete: false,
        })
    }

    /// An error unless the last chunk was read. `begun`: the shard's content is being replaced.
    fn all_read(&self, dir: &str, begun: bool) -> Result<(), TransferError> {
        if self.complete {
            return Ok(());
        }
        Err(TransferError::Damaged {
            path: format!("{dir}/{CHUNKS}"),
            byte: self.offset,
            then: if begun {
                "the shard was being replaced by it, so this replica cannot start: restore the file from a copy of this disk, or replace the node \
                 (kvctl member replace)"
            } else {
                "it is sent again from there"
            },
        })
    }

    pub(super) async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        if self.len - self.offset < FRAME_HEADER as u64 {
            return Ok(None);
        }
        let mut header = self.file.read_at(self.offset, FRAME_HEADER).await?;
        let (number, len, crc) = (header.get_u64_le(), header.get_u32_le(), header.get_u32_le());
        let start = self.offset + FRAME_HEADER as u64;
        if number & !LAST_FRAME != self.frames || u64::from(len) > self.len - start {
            return Ok(None);
        }
        let data = self.file.read_at(start, len as usize).await?;
        if crc32c::crc32c(&data) != crc {
            return Ok(None);
        }
        self.offset = start + u64::from(len);
        self.frames += 1;
        self.complete = number & LAST_FRAME != 0;
        Ok(Some(data))
    }
}
