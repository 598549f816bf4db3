//! The disk keeps its promises, and breaks them where it may.

use super::*;

async fn file_with(disk: &MemDisk, path: &str, text: &'static [u8], sync: bool) {
    let file = disk.open(path, true).await.unwrap();
    file.write_at(0, vec![Bytes::from_static(text)], sync)
        .await
        .unwrap();
}

#[tokio::test]
async fn synced_bytes_and_names_survive() {
    let disk = MemDisk::new(1);
    file_with(&disk, "d/x", b"synced", true).await;
    disk.sync_dir("d").await.unwrap();
    for seed in 0..20 {
        let after = disk.crash(seed);
        assert_eq!(&after.read("d/x").await.unwrap()[..], b"synced");
    }
    assert!(disk.read("d/x").await.is_err());
}

#[tokio::test]
async fn unsynced_sectors_and_names_survive_sometimes() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let disk = MemDisk::new(seed);
        let file = disk.open("x", true).await.unwrap();
        file.set_len(1024).await.unwrap();
        file.sync().await.unwrap();
        file.write_at(0, vec![Bytes::from(vec![1; 1024])], false)
            .await
            .unwrap();
        let content = disk
            .crash(seed)
            .read("x")
            .await
            .map(|bytes| (bytes[0], bytes[1023]))
            .ok();
        seen.insert(content);
    }
    let expected = [None, Some((0, 0)), Some((0, 1)), Some((1, 0)), Some((1, 1))];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_failed_sync_leaves_clean_pages_that_are_not_durable() {
    let disk = MemDisk::new(1);
    file_with(&disk, "x", b"old", true).await;
    disk.sync_dir("").await.unwrap();
    disk.fail_sync_after(1);
    let file = disk.open("x", false).await.unwrap();
    file.write_at(0, vec![Bytes::from_static(b"new")], true)
        .await
        .unwrap_err();
    file.sync().await.unwrap();
    assert_eq!(&disk.read("x").await.unwrap()[..], b"new");
    assert_eq!(&disk.crash(3).read("x").await.unwrap()[..], b"old");
}

#[tokio::test]
async fn a_full_disk_says_so() {
    let disk = MemDisk::new(1);
    disk.set_capacity(10);
    let file = disk.open("x", true).await.unwrap();
    let error = file.set_len(11).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.free_bytes().await.unwrap(), 10);
}
