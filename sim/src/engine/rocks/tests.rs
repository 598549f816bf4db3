//! What RocksDB's files are after a process has ended.

use std::collections::BTreeSet;

use super::*;

fn put(engine: &dyn Engine, cf: Cf, key: &str, value: &str) {
    let mut batch = WriteBatch::default();
    batch.put(cf, key.to_owned(), value.to_owned());
    engine.write(batch).unwrap();
}

fn value(engine: &dyn EngineRead, cf: Cf, key: &str) -> Option<String> {
    let value = engine.get(cf, key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn ready(backing: Arc<dyn Backing>) -> Arc<dyn Backing> {
    backing.ready().unwrap();
    backing
}

fn empty() -> Arc<dyn Backing> {
    ready(Arc::new(Rocks::new()))
}

#[test]
fn a_power_cycle_keeps_what_was_flushed_and_loses_the_rest() {
    let mut engine = empty();
    let mut gone = 0;
    for cycle in 0..20 {
        let (flushed, later) = (format!("flushed {cycle}"), format!("later {cycle}"));
        for cf in Cf::ALL {
            put(&*engine, cf, &flushed, "value");
        }
        engine.flush().unwrap();
        for cf in Cf::ALL {
            put(&*engine, cf, &later, "value");
        }
        let loss = [Loss::Power, Loss::Process][cycle % 2];
        engine = ready(engine.after(loss, cycle as u64));
        for cf in Cf::ALL {
            for earlier in 0..=cycle {
                let key = format!("flushed {earlier}");
                assert_eq!(
                    value(&*engine, cf, &key).as_deref(),
                    Some("value"),
                    "cycle {cycle}"
                );
            }
        }
        // The flush that the process may have ended in: of all column families or of none.
        let found: BTreeSet<_> = Cf::ALL.map(|cf| value(&*engine, cf, &later)).into();
        assert_eq!(found.len(), 1, "cycle {cycle}: {found:?}");
        gone += usize::from(found.contains(&None));
    }
    assert!((5..20).contains(&gone), "{gone}");
}

/// At every operation of a flush the power can be lost.
#[test]
fn a_power_loss_at_any_operation_of_a_flush_leaves_the_state_before_or_after_it() {
    let mut lost = BTreeSet::new();
    for operation in 1..=FLUSH_OPERATIONS {
        for how in [End::Kill, End::PowerLoss(operation as u32)] {
            let rocks = Rocks::new();
            rocks.ready().unwrap();
            for cf in Cf::ALL {
                put(&rocks, cf, "old", "value");
                put(&rocks, cf, "gone", "value");
            }
            rocks.engine().flush().unwrap();
            let mut batch = WriteBatch::default();
            for cf in Cf::ALL {
                batch.put(cf, "new", "value");
                batch.delete_range(cf, "g", "h");
            }
            rocks.write(batch).unwrap();
            rocks.mount.end_within(operation, how);
            let flushed = rocks.engine().flush();
            assert_eq!(flushed.is_err(), rocks.mount.has_ended());
            rocks.mount.end(how);
            let next = Rocks::on(rocks.mount.disk());
            next.ready().unwrap();
            let is_new = value(&next, Cf::Data, "new").is_some();
            for cf in Cf::ALL {
                assert_eq!(value(&next, cf, "old").as_deref(), Some("value"));
                assert_eq!(value(&next, cf, "new").is_some(), is_new, "{operation} {how:?}");
                assert_eq!(value(&next, cf, "gone").is_none(), is_new, "{operation} {how:?}");
            }
            // A flush that was told to be done is.
            assert!(is_new || flushed.is_err());
            lost.insert(is_new);
        }
    }
    assert_eq!(
        lost.len(),
        2,
        "the operations are all before, or all after it is durable"
    );
}

/// A kill makes nothing durable: what it leaves unsynced is lost when the power goes later, with a process or without.
#[test]
fn what_a_killed_process_did_not_sync_can_be_lost_when_the_power_goes() {
    let (mut undone, mut kept) = (0, 0);
    for operation in 1..=FLUSH_OPERATIONS {
        for seed in 0..6 {
            let rocks = Rocks::new();
            rocks.ready().unwrap();
            for cf in Cf::ALL {
                put(&rocks, cf, "old", "value");
            }
            rocks.engine().flush().unwrap();
            for cf in Cf::ALL {
                put(&rocks, cf, "new", "value");
            }
            rocks.mount.end_within(operation, End::Kill);
            let flushed = rocks.engine().flush();
            let before = rocks.mount.disk().counts();
            rocks.mount.end(End::Kill);
            let mut next = Rocks::on(rocks.mount.disk());
            if seed % 2 == 0 {
                next.ready().unwrap();
                assert_eq!(value(&next, Cf::Data, "old").as_deref(), Some("value"));
            }
            next.mount.end(End::PowerLoss(seed));
            let after = rocks.mount.disk().counts();
            undone += u64::from(after.lost_names > before.lost_names);
            undone += u64::from(after.lost_tails > before.lost_tails);
            next = Rocks::on(next.mount.disk());
            next.ready().unwrap();
            let is_new = value(&next, Cf::Data, "new").is_some();
            assert!(is_new || flushed.is_err(), "operation {operation} seed {seed}");
            kept += u64::from(is_new);
            for cf in Cf::ALL {
                assert_eq!(value(&next, cf, "old").as_deref(), Some("value"));
                assert_eq!(
                    value(&next, cf, "new").is_some(),
                    is_new,
                    "operation {operation} seed {seed}"
                );
            }
        }
    }
    assert!(undone > 20 && kept > 0, "{undone} {kept}");
}

/// What fails in a flush, whatever it is, loses nothing that was flushed before, and is not told as done.
#[test]
fn a_flush_with_an_error_in_it_leaves_the_state_before_or_after_it() {
    let mut failed = 0;
    for seed in 0..40 {
        let rocks = Rocks::new();
        rocks.ready().unwrap();
        for cf in Cf::ALL {
            put(&rocks, cf, "old", "value");
        }
        rocks.engine().flush().unwrap();
        for cf in Cf::ALL {
            put(&rocks, cf, "new", "value");
        }
        let flushed = rocks.flush_with_error(seed);
        assert_eq!(
            flushed.is_err(),
            rocks.mount.disk().counts().errors > 0,
            "{flushed:?}"
        );
        failed += u64::from(flushed.is_err());
        let loss = [Loss::Power, Loss::Process][seed as usize % 2];
        let next = ready(rocks.after(loss, seed));
        let is_new = value(&*next, Cf::Data, "new").is_some();
        assert!(is_new || flushed.is_err(), "seed {seed}");
        for cf in Cf::ALL {
            assert_eq!(value(&*next, cf, "old").as_deref(), Some("value"));
            assert_eq!(value(&*next, cf, "new").is_some(), is_new, "seed {seed}");
        }
    }
    assert!(failed > 20, "{failed}");
}

#[test]
fn checkpoints_survive_and_what_is_left_of_one_can_be_removed() {
    let mut engine = empty();
    put(&*engine, Cf::Data, "key", "first");
    engine.create("1-1").unwrap();
    engine = ready(engine.after(Loss::Power, 1));
    put(&*engine, Cf::Data, "key", "second");
    engine.flush().unwrap();
    let opened = engine.open("1-1").unwrap().unwrap();
    assert_eq!(value(&*opened, Cf::Data, "key").as_deref(), Some("first"));
    for operation in 1.. {
        let rocks = Rocks::new();
        rocks.ready().unwrap();
        put(&rocks, Cf::Data, "key", "value");
        rocks
            .mount
            .end_within(operation, End::PowerLoss(operation as u32));
        let made = rocks.create("1-1");
        rocks.mount.end(End::PowerLoss(0));
        let next = Rocks::on(rocks.mount.disk());
        next.ready().unwrap();
        // Its name may be durable sooner than those in it: then it does not open.
        if let Ok(Some(opened)) = next.open("1-1") {
            assert_eq!(value(&*opened, Cf::Data, "key").as_deref(), Some("value"));
        }
        for name in next.list().unwrap() {
            next.remove(&name).unwrap();
        }
        assert!(next.list().unwrap().is_empty(), "operation {operation}");
        next.create("1-1").unwrap();
        if made.is_ok() {
            assert!(operation > 5);
            return;
        }
    }
}

#[test]
fn a_process_that_has_ended_changes_nothing() {
    let old = empty();
    put(&*old, Cf::Data, "key", "first");
    old.flush().unwrap();
    let new = ready(old.after(Loss::Process, 2));
    put(&*old, Cf::Data, "key", "second");
    old.flush().unwrap_err();
    old.create("1-1").unwrap_err();
    drop(old);
    assert_eq!(value(&*new, Cf::Data, "key").as_deref(), Some("first"));
    assert!(new.list().unwrap().is_empty());
    let newer = ready(new.after(Loss::Process, 2));
    assert_eq!(value(&*newer, Cf::Data, "key").as_deref(), Some("first"));
}
