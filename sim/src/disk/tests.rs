//! What the disk adds to `MemDisk`.

use kvsvr::disk::DynDisk;
use madsim::runtime::{Handle, Runtime};

use super::*;

struct Lab {
    memory: MemDisk,
    control: Arc<DiskControl>,
    disk: DynDisk,
    node: NodeHandle,
}

fn lab<T>(test: impl AsyncFnOnce(&Lab) -> T) -> T {
    Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
        let node = Handle::current().create_node().build();
        let memory = MemDisk::new(1);
        let control = Arc::new(DiskControl::new(1, "host"));
        control.change(|spec| {
            for it in [&mut spec.read, &mut spec.write, &mut spec.sync] {
                *it = OperationSpec::quick(Duration::from_millis(10), Duration::ZERO);
            }
        });
        let disk = Arc::new(SimDisk::mount(memory.clone(), control.clone(), &node, None));
        test(&Lab {
            memory,
            control,
            disk,
            node,
        })
        .await
    })
}

fn text(text: &'static str) -> Vec<Bytes> {
    vec![Bytes::from_static(text.as_bytes())]
}

#[track_caller]
fn assert_took(begun: Instant, ms: u64) {
    let took = begun.elapsed();
    assert!(
        took.abs_diff(Duration::from_millis(ms)) < Duration::from_millis(1),
        "{took:?}"
    );
}

#[test]
fn operations_take_their_time_and_it_can_be_changed() {
    lab(async |lab| {
        let begun = Instant::now();
        let file = lab.disk.open("x", true).await.unwrap();
        file.write_at(0, text("a"), true).await.unwrap();
        // Opening, writing and making it durable.
        assert_took(begun, 30);
        lab.control
            .change(|spec| spec.sync.floor = Duration::from_secs(1));
        let begun = Instant::now();
        file.write_at(1, text("b"), true).await.unwrap();
        assert_took(begun, 1010);
    });
}

#[test]
fn a_slow_sync_of_the_log_does_not_hold_up_other_operations() {
    lab(async |lab| {
        let file = lab.disk.open("x", true).await.unwrap();
        lab.control
            .change(|spec| spec.sync.floor = Duration::from_secs(1));
        let syncing = file.write_at(0, text("a"), true);
        let begun = Instant::now();
        lab.disk.list("").await.unwrap();
        assert_took(begun, 10);
        syncing.await.unwrap();
    });
}

#[test]
fn an_operation_is_carried_out_though_nobody_waits() {
    lab(async |lab| {
        let file = lab.disk.open("x", true).await.unwrap();
        drop(file.write_at(0, text("a"), false));
        assert_eq!(file.read_at(0, 9).await.unwrap(), "a");
    });
}

#[test]
fn errors_come_by_order() {
    lab(async |lab| {
        let file = lab.disk.open("x", true).await.unwrap();
        for (kind, count) in [(Operation::Read, 2), (Operation::Write, 1)] {
            lab.control.fail_after(0, kind, count);
        }
        file.len().await.unwrap();
        let failed = file.read_at(0, 1).await.unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(EIO));
        file.read_at(0, 1).await.unwrap();
        file.write_at(0, text("a"), false).await.unwrap_err();
        file.write_at(0, text("a"), false).await.unwrap();
        lab.control.fail_after(0, Operation::Write, 1);
        lab.control.fail_no_more(0);
        file.write_at(0, text("a"), false).await.unwrap();
    });
}

#[test]
fn what_a_failed_sync_should_have_kept_is_lost_though_the_next_one_succeeds() {
    lab(async |lab| {
        let file = lab.disk.open("x", true).await.unwrap();
        lab.disk.sync_dir("").await.unwrap();
        lab.control.fail_after(0, Operation::Sync, 1);
        file.write_at(0, text("a"), true).await.unwrap_err();
        file.sync().await.unwrap();
        assert_eq!(file.read_at(0, 1).await.unwrap(), "a");
        let after = lab.memory.crash(1);
        assert_ne!(after.read("x").await.unwrap(), "a");
    });
}

#[test]
fn errors_that_are_ordered_at_once_all_come_and_each_can_be_taken_back() {
    lab(async |lab| {
        for (by, count) in [(1, 2), (2, 2), (3, 4)] {
            lab.control.fail_after(by, Operation::Read, count);
        }
        let mut failed = Vec::new();
        for _ in 0..3 {
            failed.push(lab.disk.list("").await.is_err());
        }
        lab.control.fail_no_more(1);
        lab.control.fail_no_more(3);
        failed.push(lab.disk.list("").await.is_err());
        assert_eq!(failed, [false, true, true, false]);
        assert_eq!(lab.control.returned(), Returned { errors: 2, full: 0 });
        assert_eq!(lab.control.struck(), 2);
    });
}

#[test]
fn who_finds_no_room_is_counted() {
    lab(async |lab| {
        lab.memory.set_capacity(1);
        let file = lab.disk.open("x", true).await.unwrap();
        file.write_at(0, text("ab"), false).await.unwrap_err();
        assert_eq!(lab.control.returned(), Returned { errors: 0, full: 1 });
    });
}

#[test]
fn a_flush_fails_by_order_or_by_chance_while_the_disk_is_full() {
    let control = DiskControl::new(1, "host");
    control.fail_after(1, Operation::Flush, 2);
    let flushes: Vec<_> = (0..3).map(|_| control.flush()).collect();
    assert_eq!(flushes, [Ok(()), Err(Obstacle::Error), Ok(())]);
    control.set_full(true);
    let full = (0..100)
        .filter(|_| control.flush() == Err(Obstacle::Full))
        .count();
    assert!((20..80).contains(&full), "{full}");
    control.set_full(false);
    assert!((0..100).all(|_| control.flush().is_ok()));
}

#[test]
fn the_operations_of_a_process_end_with_it() {
    lab(async |lab| {
        let file = lab.disk.open("x", true).await.unwrap();
        lab.disk.sync_dir("").await.unwrap();
        let writing = file.write_at(0, text("a"), false);
        Handle::current().kill(lab.node.id());
        writing.await.unwrap_err();
        let after = lab.memory.kill(1);
        assert!(after.read("x").await.unwrap().is_empty());
    });
}

#[test]
fn the_atlas_grants_damage_to_a_minority_of_each_group() {
    let hosts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut atlas = Atlas::new();
    atlas.set_group(0, hosts(&["a", "b", "c", "d", "e"]));
    atlas.set_group(1, hosts(&["a", "b", "c"]));
    atlas.set_group(2, hosts(&["d"]));
    assert!(atlas.grant("a", None));
    assert!(atlas.grant("a", Some(1)), "it is hurt already");
    assert!(!atlas.grant("b", None), "shard 1 would have one of three left");
    assert!(atlas.grant("b", Some(0)), "shard 0 has five");
    assert!(!atlas.grant("c", Some(0)));
    assert!(!atlas.grant("d", Some(2)), "the only replica");
    atlas.repaired("a");
    assert!(atlas.grant("c", None));
}
