//! Snapshots and a disk that is nearly full.

use super::{
    sides::{RESERVE, Source, Target, Trouble, assert_installed, cut, transfer, whole},
    *,
};
use crate::raft::snapshot::free_staging;

/// Bytes of staged chunks.
async fn staged_bytes(target: &Target) -> u64 {
    let file = format!("staging/{SHARD}/chunks");
    target
        .dyn_disk()
        .open(&file, false)
        .await
        .unwrap()
        .len()
        .await
        .unwrap()
}

/// What the sender hears when it is refused, and the chunks that the receiver took.
async fn refused(source: &Source, target: &Target) -> (String, usize) {
    let outcome = transfer(source, target, target.engine.clone(), Trouble::default()).await;
    let error = outcome.sent.unwrap().unwrap_err().to_string();
    (error, outcome.chunks.len())
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_refused_below_the_reserve() {
    let (source, target) = (Source::new("a", 60), Target::new());
    target.disk.set_capacity(RESERVE - 1);
    let (error, chunks) = refused(&source, &target).await;
    assert!(error.contains("free space or add disk"), "{error}");
    assert_eq!(chunks, 0);
    target.disk.set_capacity(u64::MAX);
    whole(&source, &target).await;
    assert_installed(&source, &target);
}

/// There is room to stage it, but not to install it.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_would_need_the_reserve_is_refused_in_time() {
    let (source, target) = (Source::new("a", 60), Target::new());
    cut(&source, &target, 20).await;
    let needed = staged_bytes(&target).await;
    let target = Target::new();
    target.disk.set_capacity(RESERVE + needed);
    let (error, chunks) = refused(&source, &target).await;
    assert!(error.contains("free space or add disk"), "{error}");
    assert!((5..15).contains(&chunks), "refused after {chunks} chunks");
    assert!(target.staged_files().is_empty(), "{:?}", target.staged_files());
    target.disk.set_capacity(u64::MAX);
    assert_eq!(whole(&source, &target).await.first(), Some(&0));
    assert_installed(&source, &target);
}

/// The space can be gone although it was there a moment ago.
#[tokio::test(start_paused = true)]
async fn what_is_staged_goes_when_the_disk_is_full() {
    let (source, target) = (Source::new("a", 60), Target::new());
    cut(&source, &target, 9).await;
    target.disk.set_capacity(staged_bytes(&target).await);
    refused(&source, &target).await;
    assert!(target.staged_files().is_empty(), "{:?}", target.staged_files());
}

#[tokio::test(start_paused = true)]
async fn a_start_below_the_reserve_removes_what_need_not_be_installed() {
    let (source, target) = (Source::new("a", 60), Target::new());
    let disk = target.dyn_disk();
    cut(&source, &target, 9).await;
    free_staging(&disk, RESERVE).await.unwrap();
    assert_eq!(target.staged_files().len(), 2, "there is space");
    target.disk.set_capacity(RESERVE);
    let (offer, install) = (
        format!("staging/{SHARD}/OFFER"),
        format!("staging/{SHARD}/INSTALL"),
    );
    disk.rename(&offer, &install).await.unwrap();
    free_staging(&disk, RESERVE).await.unwrap();
    assert_eq!(target.staged_files().len(), 2, "it is being installed");
    disk.rename(&install, &offer).await.unwrap();
    free_staging(&disk, RESERVE).await.unwrap();
    assert!(target.staged_files().is_empty(), "{:?}", target.staged_files());
}
