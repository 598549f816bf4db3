//! Segment files: made, recycled, allocated ahead.
//!
//! A file becomes a segment in an order that leaves no half of one behind: its blocks are allocated by writing zeros, header and
//! first block are written and synced under the name of a spare file, and only then is it renamed and the directory synced. So a
//! file with a segment's name has a good header and a good first block, or it was damaged later. A segment that is not needed
//! goes the other way: renamed to a spare, directory synced, and only then overwritten.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    codec::{SECTOR, SegmentHeader},
    scan::{segment_path, spare_path},
};
use crate::{
    disk::{DiskFile, DynDisk},
    store::WAL_DIR,
};

/// Bytes written at a time when a file is allocated, so that the log's own writes get in between.
const ALLOCATE_STEP: u64 = 1 << 20;

/// A segment that can be read and, if it is the last, written.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    pub(crate) salt: u32,
    pub(crate) capacity: u64,
    pub(crate) file: Arc<dyn DiskFile>,
}

impl Segment {
    pub(crate) fn new(header: &SegmentHeader, file: Arc<dyn DiskFile>) -> Self {
        let SegmentHeader {
            number,
            epoch,
            capacity,
            ..
        } = *header;
        Self {
            number,
            epoch,
            salt: header.salt(),
            capacity,
            file,
        }
    }

    pub(crate) fn path(&self) -> String {
        segment_path(self.number)
    }
}

/// An allocated file that is not in use.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: String,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// Allocates a file of `capacity` bytes. No file has that path.
pub(crate) async fn allocate(disk: &DynDisk, path: String, capacity: u64) -> io::Result<Spare> {
    let result = async {
        let file = disk.open(&path, true).await?;
        let zeros = Bytes::from(vec![0; ALLOCATE_STEP.min(capacity) as usize]);
        let mut offset = 0;
        while offset < capacity {
            let step = zeros.slice(..ALLOCATE_STEP.min(capacity - offset) as usize);
            file.write_at(offset, vec![step], false).await?;
            offset += ALLOCATE_STEP;
        }
        file.sync().await?;
        Ok(file)
    }
    .await;
    match result {
        Ok(file) => Ok(Spare { path, file }),
        Err(error) => {
            // Best effort: the next start removes what is left.
            let _ = disk.remove(&path).await;
            Err(error)
        }
    }
}

/// Opens the spare files that an earlier run left, up to `keep` of the right size, and removes the rest.
pub(crate) async fn adopt(
    disk: &DynDisk,
    paths: &[String],
    keep: usize,
    capacity: u64,
) -> io::Result<Vec<Spare>> {
    let mut spares = Vec::new();
    for path in paths {
        let file = disk.open(path, false).await?;
        if spares.len() < keep && file.len().await? == capacity {
            spares.push(Spare {
                path: path.clone(),
                file,
            });
        } else {
            disk.remove(path).await?;
        }
    }
    // The names must be durable before the files are written to: see the module's documentation.
    disk.sync_dir(WAL_DIR).await?;
    Ok(spares)
}

/// Makes a spare file the segment that `header` describes. `first_block` is its first block.
pub(crate) async fn put_to_use(
    disk: &DynDisk,
    spare: Spare,
    header: &SegmentHeader,
    first_block: Vec<Bytes>,
) -> io::Result<Segment> {
    let mut buffers = vec![header.encode()];
    debug_assert_eq!(buffers[0].len(), SECTOR);
    buffers.extend(first_block);
    spare.file.write_at(0, buffers, true).await?;
    disk.rename(&spare.path, &segment_path(header.number)).await?;
    if !kvsvr_core::mutant!("directory-not-synced") {
        disk.sync_dir(WAL_DIR).await?;
    }
    Ok(Segment::new(header, spare.file))
}

/// Takes segments out of use: up to `keep` of them become spares, the rest is removed.
pub(crate) async fn retire(
    disk: &DynDisk,
    segments: Vec<Arc<Segment>>,
    keep: usize,
    spare_capacity: u64,
) -> io::Result<Vec<Spare>> {
    let mut spares = Vec::new();
    for segment in segments {
        if spares.len() < keep && segment.capacity == spare_capacity {
            let path = spare_path(segment.number);
            disk.rename(&segment.path(), &path).await?;
            spares.push(Spare {
                path,
                file: segment.file.clone(),
            });
        } else {
            disk.remove(&segment.path()).await?;
        }
    }
    disk.sync_dir(WAL_DIR).await?;
    Ok(spares)
}
