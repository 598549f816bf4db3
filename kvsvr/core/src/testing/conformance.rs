//! What every engine must do.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{
    cases,
    history::{Log, check_reads},
    strategy::any_log,
};
use crate::{
    engine::{Cf, Engine, EngineRead, Scan, Write, WriteBatch},
    hash::state_hash,
    keys,
    mem::MemEngine,
    rows::Retired,
    types::{Partition, ShardId},
};

const CASES: u32 = 24;
const SHARD: ShardId = ShardId(3);

type Pairs = Vec<(Bytes, Bytes)>;

/// Checks an engine; `make` gives a new, empty one each time. Panics with what is wrong.
pub fn engine_conformance(make: impl Fn() -> Box<dyn Engine>) {
    an_empty_engine_has_nothing(&*make());
    column_families_are_apart(&*make());
    a_batch_applies_in_order(&*make());
    scans_keep_to_their_bounds(&*make());
    visitors_may_read(&*make());
    a_snapshot_does_not_change(&*make());
    retired_versions_are_history(&*make());
    durable_is_what_was_flushed(&*make());
    garbage_of_other_shards_stays(&*make());
    random_writes_read_like_a_map(&make);
    the_state_machine_is_the_same_on_it(&make);
}

fn scan(engine: &dyn EngineRead, cf: Cf, start: &[u8], end: &[u8], reverse: bool) -> Pairs {
    let mut pairs = Vec::new();
    engine
        .scan(cf, Scan { start, end, reverse }, &mut |key, value| {
            pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })
        .expect("scan");
    pairs
}

fn batch(writes: Vec<Write>) -> WriteBatch {
    WriteBatch { writes }
}

fn put(cf: Cf, key: &'static str, value: &'static str) -> Write {
    Write::Put(
        cf,
        Bytes::from_static(key.as_bytes()),
        Bytes::from_static(value.as_bytes()),
    )
}

fn names(pairs: Pairs) -> Vec<String> {
    pairs
        .into_iter()
        .map(|(key, _)| String::from_utf8(key.to_vec()).expect("test keys are text"))
        .collect()
}

fn an_empty_engine_has_nothing(engine: &dyn Engine) {
    for cf in Cf::ALL {
        assert_eq!(engine.get(cf, b"k").expect("get"), None);
        assert_eq!(engine.get_durable(cf, b"k").expect("get"), None);
        assert_eq!(scan(engine, cf, b"", b"", false), []);
        assert_eq!(scan(engine, cf, b"", b"", true), []);
    }
    engine.write(WriteBatch::default()).expect("an empty batch");
    engine.flush().expect("a flush of nothing");
}

fn column_families_are_apart(engine: &dyn Engine) {
    engine
        .write(batch(Cf::ALL.map(|cf| put(cf, "k", cf.name())).to_vec()))
        .expect("write");
    engine
        .write(batch(vec![Write::Delete(Cf::Hist, "k".into())]))
        .expect("write");
    for cf in Cf::ALL {
        let wanted = (cf != Cf::Hist).then(|| Bytes::from(cf.name()));
        assert_eq!(engine.get(cf, b"k").expect("get"), wanted, "{cf:?}");
    }
}

fn a_batch_applies_in_order(engine: &dyn Engine) {
    let delete = |key: &'static str| Write::Delete(Cf::Data, key.into());
    let range = |from: &'static str, to: &'static str| Write::DeleteRange(Cf::Data, from.into(), to.into());
    let mut writes = vec![
        put(Cf::Data, "a", "1"),
        delete("a"),
        put(Cf::Data, "a", "2"),
        delete("none"),
    ];
    writes.extend(["b", "c", "d"].map(|key| put(Cf::Data, key, "1")));
    writes.extend([range("b", "d"), put(Cf::Data, "c", "2"), range("x", "b")]);
    engine.write(batch(writes)).expect("write");
    let pair = |key: &'static str, value: &'static str| (Bytes::from(key), Bytes::from(value));
    assert_eq!(
        scan(engine, Cf::Data, b"", b"", false),
        [pair("a", "2"), pair("c", "2"), pair("d", "1")]
    );
}

fn scans_keep_to_their_bounds(engine: &dyn Engine) {
    engine
        .write(batch(
            ["a", "b", "c", "d"].map(|key| put(Cf::Log, key, "")).to_vec(),
        ))
        .expect("write");
    let found = |start: &str, end: &str, reverse| {
        names(scan(engine, Cf::Log, start.as_bytes(), end.as_bytes(), reverse)).concat()
    };
    assert_eq!(found("", "", false), "abcd");
    assert_eq!(found("", "", true), "dcba");
    assert_eq!(found("b", "d", false), "bc");
    assert_eq!(found("b", "d", true), "cb");
    assert_eq!(found("aa", "cc", false), "bc");
    assert_eq!(found("aa", "cc", true), "cb");
    assert_eq!(found("c", "", true), "dc");
    assert_eq!(found("b", "b", false), "");
    assert_eq!(found("d", "a", false), "");
    assert_eq!(found("d", "a", true), "");
    assert_eq!(found("x", "", false), "");
    let mut visited = 0;
    let all = Scan {
        start: b"",
        end: b"",
        reverse: false,
    };
    engine
        .scan(Cf::Log, all, &mut |_, _| {
            visited += 1;
            if visited == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .expect("scan");
    assert_eq!(visited, 2, "a scan ends when the visitor says so");
}

fn visitors_may_read(engine: &dyn Engine) {
    engine
        .write(batch(vec![put(Cf::Data, "a", "1"), put(Cf::Data, "b", "2")]))
        .expect("write");
    let all = Scan {
        start: b"",
        end: b"",
        reverse: false,
    };
    engine
        .scan(Cf::Data, all, &mut |key, value| {
            assert_eq!(engine.get(Cf::Data, key).expect("get").as_deref(), Some(value));
            ControlFlow::Continue(())
        })
        .expect("scan");
}

fn a_snapshot_does_not_change(engine: &dyn Engine) {
    engine
        .write(batch(vec![put(Cf::Data, "a", "1"), put(Cf::Data, "b", "1")]))
        .expect("write");
    let snapshot = engine.snapshot();
    let writes = vec![
        put(Cf::Data, "a", "2"),
        Write::Delete(Cf::Data, "b".into()),
        put(Cf::Data, "c", "1"),
    ];
    engine.write(batch(writes)).expect("write");
    engine.flush().expect("flush");
    assert_eq!(names(scan(&*snapshot, Cf::Data, b"", b"", false)), ["a", "b"]);
    assert_eq!(snapshot.get(Cf::Data, b"a").expect("get"), Some("1".into()));
    assert_eq!(snapshot.get(Cf::Data, b"c").expect("get"), None);
    assert_eq!(names(scan(engine, Cf::Data, b"", b"", true)), ["c", "a"]);
}

/// Versions of keys, some of which begin alike, that are replaced, once and twice in a batch, deleted, and retired without a write beside
/// it: each is a row of the history, at once and after flushes, and for snapshots from then on.
fn retired_versions_are_history(engine: &dyn Engine) {
    let names: [&[u8]; 4] = [b"k", b"k\0", b"k\0\xff", b"kk"];
    let data_key = |name: &[u8]| keys::data_key(SHARD, &Partition::local("p"), name);
    let row = |revision: u64| Bytes::from(format!("row of {revision}"));
    let mut wanted = BTreeMap::<Bytes, Bytes>::new();
    let mut shown = Vec::new();
    let mut last = BTreeMap::<&[u8], u64>::new();
    let mut revision = 0;
    for round in 0..8_usize {
        let mut writes = Vec::new();
        for name in names.iter().cycle().skip(round).take(4 + round % 2) {
            revision += 1;
            let key = data_key(name);
            if round != 5 {
                writes.push(match (round + name.len()) % 5 {
                    0 => Write::Delete(Cf::Data, key.clone()),
                    _ => Write::Put(Cf::Data, key.clone(), row(revision)),
                });
            }
            if let Some(before) = last.insert(name, revision) {
                let retired = Retired {
                    data_key: key,
                    row: row(before),
                    mod_rev: before,
                    superseded_at: revision,
                };
                let (key, stored) = retired.encode();
                wanted.insert(key, stored);
                writes.push(Write::Retire(retired));
            }
        }
        engine.write(batch(writes)).expect("write");
        if round == 3 || round == 6 {
            engine.flush().expect("flush");
        }
        shown.push((engine.snapshot(), wanted.clone()));
        for (snapshot, wanted) in &shown {
            let rows: Pairs = wanted.clone().into_iter().collect();
            assert_eq!(scan(&**snapshot, Cf::Hist, b"", b"", false), rows);
            let back: Pairs = rows.into_iter().rev().collect();
            assert_eq!(scan(&**snapshot, Cf::Hist, b"", b"", true), back);
        }
        for key in wanted.keys() {
            assert_eq!(engine.get(Cf::Hist, key).expect("get"), wanted.get(key).cloned());
            let (snapshot, seen) = &shown[round / 2];
            assert_eq!(snapshot.get(Cf::Hist, key).expect("get"), seen.get(key).cloned());
        }
    }
}

fn durable_is_what_was_flushed(engine: &dyn Engine) {
    let durable = |cf| engine.get_durable(cf, b"k").expect("get");
    engine
        .write(batch(vec![put(Cf::State, "k", "1"), put(Cf::Data, "k", "1")]))
        .expect("write");
    engine.flush().expect("flush");
    engine
        .write(batch(vec![
            put(Cf::State, "k", "2"),
            Write::Delete(Cf::Data, "k".into()),
        ]))
        .expect("write");
    assert_eq!(
        (durable(Cf::State), durable(Cf::Data)),
        (Some("1".into()), Some("1".into()))
    );
    engine.flush().expect("flush");
    assert_eq!((durable(Cf::State), durable(Cf::Data)), (Some("2".into()), None));
}

/// A floor is of one shard: rows of others are not judged by it, and rows that do not decode stay.
fn garbage_of_other_shards_stays(engine: &dyn Engine) {
    use crate::rows::{DataRow, HistRow};
    let value = Bytes::from_static(b"v");
    let row = DataRow {
        create_rev: 1,
        mod_rev: 1,
        version: 1,
        expires_at: 0,
        lease: 0,
        value,
    };
    let old = HistRow {
        superseded_at: 2,
        row: row.clone(),
    }
    .encode();
    let young = HistRow {
        superseded_at: 9,
        row,
    }
    .encode();
    let key = |shard: u8, name: &[u8]| Bytes::from([&[0, 0, 0, shard], name].concat());
    let rows = [
        (key(1, b"old"), old.clone()),
        (key(1, b"young"), young),
        (key(1, b"odd"), "?".into()),
        (key(2, b"old"), old),
    ];
    let writes = rows
        .iter()
        .map(|(key, value)| Write::Put(Cf::Hist, key.clone(), value.clone()));
    engine.write(batch(writes.collect())).expect("write");
    engine.flush().expect("flush");
    engine.set_garbage_floor(ShardId(1), 5);
    engine.flush().expect("flush");
    for (key, value) in &rows[1..] {
        assert_eq!(engine.get(Cf::Hist, key).expect("get").as_ref(), Some(value));
    }
    // A shard whose rows are gone has no floor: what comes later has none of its own yet.
    engine.set_garbage_floor(ShardId(1), 0);
    let (key, value) = &rows[0];
    engine
        .write(batch(vec![Write::Put(Cf::Hist, key.clone(), value.clone())]))
        .expect("write");
    engine.flush().expect("flush");
    assert_eq!(engine.get(Cf::Hist, key).expect("get").as_ref(), Some(value));
}

fn any_write() -> impl Strategy<Value = Write> {
    let cf = || (0..Cf::ALL.len()).prop_map(|i| Cf::ALL[i]);
    let key = || "[a-c]{0,2}".prop_map(Bytes::from);
    prop_oneof![
        4 => (cf(), key(), "[x-z]{0,2}").prop_map(|(cf, key, value)| Write::Put(cf, key, value.into())),
        2 => (cf(), key()).prop_map(|(cf, key)| Write::Delete(cf, key)),
        1 => (cf(), key(), key()).prop_map(|(cf, start, end)| Write::DeleteRange(cf, start, end)),
    ]
}

fn random_writes_read_like_a_map(make: &impl Fn() -> Box<dyn Engine>) {
    let batches = vec((vec(any_write(), 0..12), any::<bool>()), 1..6);
    TestRunner::new(Config {
        failure_persistence: None,
        ..cases(CASES)
    })
    .run(&batches, |batches| {
        let engine = make();
        let mut map: BTreeMap<(Cf, Bytes), Bytes> = BTreeMap::new();
        for (writes, flush) in batches {
            for write in writes.clone() {
                match write {
                    Write::Put(cf, key, value) => drop(map.insert((cf, key), value)),
                    Write::Delete(cf, key) => drop(map.remove(&(cf, key))),
                    Write::Retire(retired) => {
                        let (key, row) = retired.encode();
                        map.insert((Cf::Hist, key), row);
                    }
                    // An empty end is the end of the column family, here as in scans.
                    Write::DeleteRange(of, start, end) => map
                        .retain(|(cf, key), _| *cf != of || *key < start || (!end.is_empty() && *key >= end)),
                }
            }
            engine.write(batch(writes)).expect("write");
            if flush {
                engine.flush().expect("flush");
            }
            for cf in Cf::ALL {
                let wanted: Pairs = map
                    .iter()
                    .filter(|((of, _), _)| *of == cf)
                    .map(|((_, k), v)| (k.clone(), v.clone()))
                    .collect();
                prop_assert_eq!(scan(&*engine, cf, b"", b"", false), wanted);
            }
        }
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

fn the_state_machine_is_the_same_on_it(make: &impl Fn() -> Box<dyn Engine>) {
    TestRunner::new(Config {
        failure_persistence: None,
        ..cases(CASES)
    })
    .run(
        &(any_log(20), vec(1..5usize, 1..4)),
        |(log, splits): (Log, Vec<usize>)| {
            let engine = make();
            let reference = MemEngine::new();
            let drop_garbage = |engine: &dyn Engine, machine: &mut crate::machine::Machine| {
                engine.flush().expect("flush");
                engine.set_garbage_floor(SHARD, machine.floor());
            };
            let (_, replies, events) = log.run(SHARD, &*engine, &splits, drop_garbage);
            let (_, same_replies, same_events) = log.run(SHARD, &reference, &[1], |_, _| {});
            prop_assert_eq!((replies, events), (same_replies, same_events));
            let hash = |engine: &dyn EngineRead| state_hash(engine, SHARD).expect("sound");
            prop_assert_eq!(hash(&*engine), hash(&reference));
            check_reads(&*engine.snapshot(), SHARD, &log.model().0);
            Ok(())
        },
    )
    .unwrap_or_else(|error| panic!("{error}"));
}
