//! The disk keeps its promises, and breaks them where it may.

use std::collections::BTreeSet;

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
    disk.create_dir("d").await.unwrap();
    disk.sync_dir("").await.unwrap();
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

/// The same disk once more: a power failure of one does not end the other.
fn fork(disk: &MemDisk) -> MemDisk {
    MemDisk::with(disk.tree.lock().names.copied(), History::default(), u64::MAX, 1)
}

/// What is found under each name after power failures of many seeds.
async fn found(disk: &MemDisk, paths: &[&str]) -> BTreeSet<Vec<Option<String>>> {
    let mut found = BTreeSet::new();
    for seed in 0..200 {
        let after = fork(disk).crash(seed);
        let mut contents = Vec::new();
        for path in paths {
            let content = after.read(path).await.ok();
            contents.push(content.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()));
        }
        found.insert(contents);
    }
    found
}

fn contents<const N: usize>(all: &[[&str; N]]) -> BTreeSet<Vec<Option<String>>> {
    let content = |text: &&str| (!text.is_empty()).then(|| (*text).to_owned());
    all.iter()
        .map(|texts| texts.iter().map(content).collect())
        .collect()
}

/// Two directories that are durable.
async fn with_directories() -> MemDisk {
    let disk = MemDisk::new(1);
    disk.create_dir("a").await.unwrap();
    disk.create_dir("b").await.unwrap();
    disk.sync_dir("").await.unwrap();
    disk
}

#[tokio::test]
async fn syncing_a_directory_makes_its_own_names_durable_and_no_others() {
    let disk = with_directories().await;
    file_with(&disk, "a/x", b"x", true).await;
    file_with(&disk, "b/y", b"y", true).await;
    disk.sync_dir("b").await.unwrap();
    // What is killed has made nothing durable either: `found` looks at the next process's disk.
    let disk = disk.kill(1);
    assert_eq!(
        found(&disk, &["a/x", "b/y"]).await,
        contents(&[["", "y"], ["x", "y"]])
    );
    disk.sync_dir("a").await.unwrap();
    assert_eq!(found(&disk, &["a/x", "b/y"]).await, contents(&[["x", "y"]]));
    let lost = |seed| fork(&disk).crash(seed).history().lost_names;
    assert_eq!((0..50).map(lost).sum::<u64>(), 0);
}

#[tokio::test]
async fn of_a_directory_a_prefix_of_the_changes_is_kept_of_each_another_one() {
    let disk = with_directories().await;
    for path in ["a/x", "b/y", "a/z"] {
        file_with(&disk, path, b"1", true).await;
    }
    let expected = [
        ["", "", ""],
        ["1", "", ""],
        ["1", "", "1"],
        ["", "1", ""],
        ["1", "1", ""],
        ["1", "1", "1"],
    ];
    assert_eq!(found(&disk, &["a/x", "b/y", "a/z"]).await, contents(&expected));
    let lost: BTreeSet<u64> = (0..50)
        .map(|seed| fork(&disk).crash(seed).history().lost_names)
        .collect();
    assert_eq!(lost, [0, 1, 2, 3].into());
}

#[tokio::test]
async fn a_lost_directory_loses_what_is_in_it_though_that_is_synced() {
    let disk = MemDisk::new(1);
    disk.create_dir("a").await.unwrap();
    file_with(&disk, "a/x", b"x", true).await;
    disk.sync_dir("a").await.unwrap();
    assert_eq!(found(&disk, &["a/x"]).await, contents(&[[""], ["x"]]));
    disk.sync_dir("").await.unwrap();
    assert_eq!(found(&disk, &["a/x"]).await, contents(&[["x"]]));
    // The one that takes its place is another one.
    disk.remove_dir("a").await.unwrap();
    disk.create_dir("a").await.unwrap();
    file_with(&disk, "a/x", b"new", true).await;
    disk.sync_dir("a").await.unwrap();
    // Without the new name of the directory the old one is there, with what was not removed durably.
    assert_eq!(found(&disk, &["a/x"]).await, contents(&[[""], ["x"], ["new"]]));
}

#[tokio::test]
async fn what_is_renamed_is_found_under_one_name_at_least() {
    let disk = with_directories().await;
    file_with(&disk, "a/x", b"1", true).await;
    disk.sync_dir("a").await.unwrap();
    disk.rename("a/x", "a/y").await.unwrap();
    assert_eq!(
        found(&disk, &["a/x", "a/y"]).await,
        contents(&[["1", ""], ["", "1"]])
    );
    disk.sync_dir("a").await.unwrap();
    disk.rename("a/y", "b/y").await.unwrap();
    let names = ["a/y", "b/y"];
    assert_eq!(
        found(&disk, &names).await,
        contents(&[["1", ""], ["1", "1"], ["", "1"]])
    );
    // It cannot be gone from here durably before it is there durably.
    disk.sync_dir("a").await.unwrap();
    assert_eq!(found(&disk, &names).await, contents(&[["", "1"]]));
}

#[tokio::test]
async fn files_are_made_in_directories_that_are_there() {
    let disk = MemDisk::new(1);
    let error = disk.open("a/x", true).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert_eq!(
        disk.sync_dir("a").await.unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    disk.create_dir("a/b").await.unwrap();
    file_with(&disk, "a/b/x", b"x", true).await;
    file_with(&disk, "y", b"y", true).await;
    assert_eq!(disk.list("").await.unwrap(), ["a", "y"]);
    assert_eq!(disk.list("a").await.unwrap(), ["b"]);
    assert_eq!(disk.paths(), ["a/b/x", "y"]);
    disk.remove_dir("a").await.unwrap();
    assert_eq!(disk.paths(), ["y"]);
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
async fn damage_counts_when_it_is_read() {
    let disk = MemDisk::new(1);
    file_with(&disk, "x", b"abc", true).await;
    assert!(disk.flip_bit("x", 1, 0) && !disk.flip_bit("x", 3, 0));
    disk.sync_dir("").await.unwrap();
    let file = disk.open("x", false).await.unwrap();
    file.read_at(0, 1).await.unwrap();
    assert_eq!(&disk.peek("x").unwrap()[..], b"acc");
    assert_eq!(disk.history(), History::default());
    file.read_at(1, 5).await.unwrap();
    disk.rename("x", "y").await.unwrap();
    disk.sync_dir("").await.unwrap();
    let disk = disk.crash(1);
    disk.read("y").await.unwrap();
    assert_eq!(disk.history().damaged_reads, [("x".to_owned(), 2)].into());
    // Repaired, or written over, it is no damage any more.
    assert!(disk.flip_bit("y", 1, 0) && disk.flip_bit("y", 2, 0));
    file_with(&disk, "y", b"abcd", true).await;
    disk.read("y").await.unwrap();
    assert_eq!(disk.history().damaged_reads, [("x".to_owned(), 2)].into());
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
