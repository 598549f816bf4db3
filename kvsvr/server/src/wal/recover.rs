//! Opens the log: scan, refuse if anything durable is damaged, make the outcome durable, hand over to the writer.
//!
//! The order of the writes is what [`crate::wal`] promises: the last good block again and synced, then a seal after it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::sync::Notify;

use super::{
    RecoveryReport, Shared, WalError, WalOptions,
    codec::SECTOR,
    queue::{InUse, State},
    scan::{Scan, Scanned, allocated_count, scan, segment_path},
    segment::{self, Segment},
    writer::{Writer, begin},
};
use crate::{disk::DynDisk, store::WAL_DIR, time::Instant};

pub(super) async fn recover(
    disk: DynDisk,
    options: WalOptions,
) -> Result<(Arc<Shared>, Writer, RecoveryReport), WalError> {
    let failed = |what, source| WalError::io(what, WAL_DIR, source);
    disk.create_dir(WAL_DIR)
        .await
        .map_err(|source| failed("create", source))?;
    disk.sync_dir("")
        .await
        .map_err(|source| failed("sync the parent of", source))?;
    let scan = scan(&disk, options.store_id, &|_| {}).await?;
    if !scan.damage.is_empty() {
        return Err(WalError::Corrupt { damage: scan.damage });
    }
    let report = report(&scan);
    let (shared, writer) = resume(disk, options, scan)
        .await
        .map_err(|source| failed("prepare", source))?;
    shared
        .look_at_space()
        .await
        .map_err(|source| failed("find the free space for", source))?;
    Ok((shared, writer, report))
}

fn report(scan: &Scan) -> RecoveryReport {
    let torn = |segment: &Scanned| Some((segment_path(segment.header.number), segment.report.torn_at?));
    RecoveryReport {
        fresh: scan.segments.is_empty(),
        segments: scan.segments.len(),
        records: scan.segments.iter().map(|segment| segment.report.records).sum(),
        bytes: scan.segments.iter().map(|segment| segment.end).sum(),
        shards: scan.replay.states().len(),
        torn: scan.segments.last().and_then(torn),
    }
}

async fn resume(disk: DynDisk, options: WalOptions, scan: Scan) -> io::Result<(Arc<Shared>, Writer)> {
    let spares = segment::adopt(&disk, &scan.spares, options.spares, options.capacity()).await?;
    let (written, live) = (scan.replay.states(), scan.replay.live());
    let mut segments = BTreeMap::new();
    for scanned in &scan.segments {
        let number = scanned.header.number;
        let segment = Arc::new(Segment::new(&scanned.header, scanned.file.clone()));
        let live = live.get(&number).copied().unwrap_or(0);
        segments.insert(number, InUse { segment, live });
    }
    let last = scan.segments.last();
    if let Some(last) = last {
        rewrite_last_block(last).await?;
    }
    let active = last.and_then(|last| {
        let in_use = segments
            .get(&last.header.number)
            .filter(|_| !last.report.closed)?;
        Some((in_use.segment.clone(), last.end))
    });
    let next_number = last.map_or(0, |last| last.header.number) + 1;
    let mut state = State::new(scan.replay.into_index(options.cache_bytes), segments, spares);
    state.allocated = scan
        .spares
        .iter()
        .filter_map(|path| allocated_count(path))
        .max()
        .unwrap_or(0);
    let shared = Arc::new(Shared {
        disk,
        options,
        state: parking_lot::Mutex::new(state),
        wake: Notify::new(),
        free_bytes: AtomicU64::new(u64::MAX),
        opened: Instant::now(),
        pace: parking_lot::Mutex::default(),
    });
    let mut next_seq = scan.next_seq;
    let (active, end) = match active {
        Some(active) => active,
        None => {
            let begun = begin(&shared, next_number, next_seq, &written, 0).await?;
            next_seq += 1;
            begun
        }
    };
    let (sealed, unchecked_bytes) = (false, 0);
    let mut writer = Writer {
        shared: shared.clone(),
        active,
        end,
        next_seq,
        written,
        sealed,
        unchecked_bytes,
    };
    writer.seal().await?;
    Ok((shared, writer))
}

/// Writes the last good block (with the header, if it is the first) once more and syncs it.
async fn rewrite_last_block(last: &Scanned) -> io::Result<()> {
    let start = if last.last_block == SECTOR as u64 {
        0
    } else {
        last.last_block
    };
    let bytes = last.file.read_at(start, (last.end - start) as usize).await?;
    last.file.write_at(start, vec![bytes], true).await
}
