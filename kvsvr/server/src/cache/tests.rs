use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc, Barrier, RwLock,
        atomic::{AtomicBool, AtomicU32},
    },
    thread,
};

use kvsvr_core::{
    engine::{Cf, Engine, EngineError, EngineRead, EngineSnapshot, Scan, Visit, Write, WriteBatch},
    types::{Revision, ShardId},
};
use proptest::prelude::*;

use super::*;
use crate::buffer::BufferedEngine;

/// A plain engine. A restless one gives other threads the processor around its steps.
#[derive(Default)]
struct PlainEngine {
    rows: RwLock<BTreeMap<(Cf, Bytes), Bytes>>,
    gets: AtomicU64,
    restless: bool,
    turn: AtomicU32,
}

impl PlainEngine {
    fn stumble(&self) {
        if !self.restless {
            return;
        }
        let turn = self.turn.fetch_add(0x9e37_79b9, Ordering::Relaxed);
        for _ in 0..turn >> 30 {
            thread::yield_now();
        }
    }
}

impl EngineRead for PlainEngine {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.stumble();
        let row = self
            .rows
            .read()
            .unwrap()
            .get(&(cf, Bytes::copy_from_slice(key)))
            .cloned();
        self.stumble();
        Ok(row)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        for ((of, key), row) in self.rows.read().unwrap().iter() {
            let inside = key[..] >= *range.start && (range.end.is_empty() || key[..] < *range.end);
            if *of == cf && inside && visit(key, row) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}

impl EngineSnapshot for PlainEngine {}

impl Engine for PlainEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.stumble();
        let mut rows = self.rows.write().unwrap();
        for write in batch.writes {
            match write {
                Write::Put(cf, key, row) => {
                    rows.insert((cf, key), row);
                }
                Write::Delete(cf, key) => {
                    rows.remove(&(cf, key));
                }
                Write::Retire(_) => unreachable!("not used by these tests"),
                Write::DeleteRange(cf, start, end) => {
                    rows.retain(|(of, key), _| *of != cf || *key < start || (!end.is_empty() && *key >= end));
                }
            }
        }
        drop(rows);
        self.stumble();
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        let rows = RwLock::new(self.rows.read().unwrap().clone());
        Box::new(PlainEngine {
            rows,
            ..PlainEngine::default()
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.get(cf, key)
    }

    fn set_garbage_floor(&self, _: ShardId, _: Revision) {}
}

/// Drains when it is told to.
fn cached(capacity: usize) -> (Arc<PlainEngine>, BufferedEngine) {
    let plain = Arc::new(PlainEngine::default());
    let engine = BufferedEngine::with_bounds(plain.clone(), usize::MAX, usize::MAX, capacity);
    (plain, engine)
}

/// Over a restless engine; each write drains what came before it.
fn restless(capacity: usize) -> (Arc<PlainEngine>, BufferedEngine) {
    let plain = Arc::new(PlainEngine {
        restless: true,
        ..PlainEngine::default()
    });
    let engine = BufferedEngine::with_bounds(plain.clone(), 1, 1, capacity);
    (plain, engine)
}

fn get(engine: &BufferedEngine, key: &str) -> Option<Bytes> {
    engine.get(Cf::Data, key.as_bytes()).unwrap()
}

fn write(engine: &BufferedEngine, build: impl FnOnce(&mut WriteBatch)) {
    let mut batch = WriteBatch::default();
    build(&mut batch);
    engine.write(batch).unwrap();
    engine.flush().unwrap();
}

#[test]
fn reads_and_writes_fill_the_cache_also_with_absence() {
    let (plain, engine) = cached(1 << 20);
    plain
        .rows
        .write()
        .unwrap()
        .insert((Cf::Data, "old".into()), "1".into());
    write(&engine, |b| b.put(Cf::Data, "new", "2"));
    for _ in 0..3 {
        assert_eq!(get(&engine, "old"), Some("1".into()));
        assert_eq!(get(&engine, "new"), Some("2".into()));
        assert_eq!(get(&engine, "none"), None);
    }
    assert_eq!(
        plain.gets.load(Ordering::Relaxed),
        2,
        "one read each of `old` and `none`"
    );
    let stats = engine.cache_stats();
    assert_eq!((stats.hits, stats.misses, stats.entries), (7, 2, 3));

    write(&engine, |b| b.delete(Cf::Data, "new"));
    assert_eq!(get(&engine, "new"), None);
    assert_eq!(
        plain.gets.load(Ordering::Relaxed),
        2,
        "the delete left a negative entry"
    );
}

#[test]
fn other_column_families_and_scans_pass_through() {
    let (plain, engine) = cached(1 << 20);
    write(&engine, |b| {
        b.put(Cf::State, "k", "state");
        b.put(Cf::Data, "k", "data");
    });
    assert_eq!(engine.get(Cf::State, b"k").unwrap(), Some("state".into()));
    assert_eq!(engine.get(Cf::State, b"k").unwrap(), Some("state".into()));
    assert_eq!(plain.gets.load(Ordering::Relaxed), 2);
    let mut seen = Vec::new();
    let all = Scan {
        start: b"",
        end: b"",
        reverse: false,
    };
    engine
        .scan(Cf::Data, all, &mut |key, row| {
            seen.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(row)));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, [("k".into(), "data".into())]);
    assert_eq!(engine.cache_stats().entries, 1);
}

#[test]
fn the_last_write_of_a_key_in_a_batch_wins() {
    let (plain, engine) = cached(1 << 20);
    write(&engine, |b| {
        b.put(Cf::Data, "a", "1");
        b.delete(Cf::Data, "b");
        b.put(Cf::Data, "a", "2");
        b.put(Cf::Data, "b", "3");
        b.put(Cf::Data, "c", "4");
        b.delete(Cf::Data, "c");
    });
    assert_eq!(get(&engine, "a"), Some("2".into()));
    assert_eq!(get(&engine, "b"), Some("3".into()));
    assert_eq!(get(&engine, "c"), None);
    assert_eq!(plain.gets.load(Ordering::Relaxed), 0);
}

#[test]
fn range_deletes_drop_what_they_cover() {
    let (plain, engine) = cached(1 << 20);
    write(&engine, |b| {
        ["a", "b", "c", "d"]
            .into_iter()
            .for_each(|k| b.put(Cf::Data, k, "1"))
    });
    write(&engine, |b| {
        b.delete_range(Cf::Data, "b", "d");
        b.put(Cf::Data, "c", "2");
    });
    assert_eq!(
        ["a", "b", "c", "d"].map(|k| get(&engine, k).is_some()),
        [true, false, true, true]
    );
    assert_eq!(plain.gets.load(Ordering::Relaxed), 2, "a and d were still there");
}

#[test]
fn bytes_stay_within_the_capacity() {
    for capacity in [0, 1_000, 100_000, 4 << 20] {
        let (_, engine) = cached(capacity);
        for i in 0..2_000_usize {
            write(&engine, |b| {
                b.put(Cf::Data, i.to_string(), vec![0; i * 7 % 5_000])
            });
            get(&engine, &format!("absent{i}"));
            if i % 100 == 0 {
                let stats = engine.cache_stats();
                assert!(stats.bytes <= stats.capacity, "{stats:?}");
                // A part of the cache rounds its share up.
                assert!(stats.capacity <= (capacity + ROW_CACHE_SHARDS) as u64);
            }
        }
        assert_eq!(
            engine.cache_stats().entries == 0,
            capacity < 1_000,
            "{:?}",
            engine.cache_stats()
        );
        assert_eq!(get(&engine, "7").map(|row| row.len()), Some(49));
    }
}

#[test]
fn a_row_over_the_limit_is_not_kept_and_replaces_what_was() {
    let (plain, engine) = cached(64 << 20);
    write(&engine, |b| b.put(Cf::Data, "k", "small"));
    write(&engine, |b| b.put(Cf::Data, "k", vec![1; ROW_CACHE_MAX_ROW]));
    for _ in 0..2 {
        assert_eq!(get(&engine, "k").map(|row| row.len()), Some(ROW_CACHE_MAX_ROW));
    }
    assert_eq!(plain.gets.load(Ordering::Relaxed), 2);
    assert_eq!(engine.cache_stats().entries, 0);
}

/// Pairs of one writer. A pair goes through the numbers 0, 1, 2, ...; both rows hold the number, or are absent for every fourth.
const PAIRS: usize = 4;
const WRITERS: usize = 3;
const BATCHES: u64 = 4_000;
/// Written and overwritten in the same batch: nobody may ever see it.
const NEVER: u64 = u64::MAX;

fn is_absent(number: u64) -> bool {
    number.is_multiple_of(4)
}

#[derive(Default)]
struct Pair {
    /// The number of the newest batch that was handed to the engine.
    begun: AtomicU64,
    /// The number of the newest batch that the engine has.
    done: AtomicU64,
}

fn pair_key(writer: usize, pair: usize, half: char) -> String {
    format!("{writer}/{pair}/{half}")
}

fn put_pair(batch: &mut WriteBatch, writer: usize, pair: usize, number: u64) {
    for half in ['a', 'b'] {
        let key = pair_key(writer, pair, half);
        if is_absent(number) {
            batch.delete(Cf::Data, key);
        } else {
            batch.put(Cf::Data, key.clone(), NEVER.to_be_bytes().to_vec());
            batch.put(Cf::Data, key, number.to_be_bytes().to_vec());
        }
    }
}

fn run_writer(engine: &BufferedEngine, writer: usize, pairs: &[Pair]) {
    let mut numbers = [0_u64; PAIRS];
    for round in 0..BATCHES {
        let mut batch = WriteBatch::default();
        if round % 256 == 255 {
            batch.delete_range(Cf::Data, format!("{writer}/"), format!("{writer}0"));
            numbers.iter_mut().for_each(|n| *n = (*n + 1).next_multiple_of(4));
        }
        let pair = (round as usize).wrapping_mul(7) % PAIRS;
        numbers[pair] += 1;
        put_pair(&mut batch, writer, pair, numbers[pair]);
        numbers
            .iter()
            .zip(pairs)
            .for_each(|(n, pair)| pair.begun.store(*n, Ordering::SeqCst));
        engine.write(batch).unwrap();
        numbers
            .iter()
            .zip(pairs)
            .for_each(|(n, pair)| pair.done.store(*n, Ordering::SeqCst));
    }
}

/// Reads one half; its number must be one that was current at some time during the read. `None`: absent.
fn checked_read(engine: &BufferedEngine, key: &str, pair: &Pair) -> Option<u64> {
    let from = pair.done.load(Ordering::SeqCst);
    let row = get(engine, key);
    let to = pair.begun.load(Ordering::SeqCst);
    let number = row.map(|row| u64::from_be_bytes(row[..].try_into().unwrap()));
    match number {
        Some(number) => assert!(
            (from..=to).contains(&number),
            "{key}: {number} is not in {from}..={to}"
        ),
        None => assert!(
            (from..=to).any(is_absent),
            "{key}: absent, but present in all of {from}..={to}"
        ),
    }
    number
}

fn run_reader(engine: &BufferedEngine, reader: usize, pairs: &[Vec<Pair>], stop: &AtomicBool) -> u64 {
    let mut reads = 0;
    let mut turn = reader;
    while !stop.load(Ordering::Relaxed) {
        turn = turn.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7fff_ffff;
        let (writer, pair) = ((turn >> 8) % WRITERS, (turn >> 16) % PAIRS);
        let halves = if turn & 128 == 0 { ['a', 'b'] } else { ['b', 'a'] };
        let [first, second] =
            halves.map(|half| checked_read(engine, &pair_key(writer, pair, half), &pairs[writer][pair]));
        if let (Some(first), Some(second)) = (first, second) {
            assert!(
                second >= first,
                "{writer}/{pair}: one key of a batch new ({first}), then one old ({second})"
            );
        }
        reads += 2;
    }
    reads
}

/// Tries hard to read a stale row, or half of a batch.
fn check_no_stale_read(capacity: usize) {
    let (_, engine) = restless(capacity);
    let pairs: Vec<Vec<Pair>> = (0..WRITERS)
        .map(|_| (0..PAIRS).map(|_| Pair::default()).collect())
        .collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let (engine, pairs, stop) = (&engine, &pairs, &stop);
                scope.spawn(move || run_reader(engine, reader, pairs, stop))
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (engine, pairs) = (&engine, &pairs[writer]);
                scope.spawn(move || run_writer(engine, writer, pairs))
            })
            .collect();
        let ended: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|end| end.unwrap());
        for reader in readers {
            assert!(reader.join().unwrap() > 100, "the readers had hardly a turn");
        }
    });
    let stats = engine.cache_stats();
    assert!(stats.hits > 0 && stats.misses > 0, "{stats:?}");
}

#[test]
fn no_stale_read_while_everything_is_kept() {
    check_no_stale_read(1 << 20);
}

#[test]
fn no_stale_read_while_entries_are_evicted() {
    check_no_stale_read(2_500);
}

/// Two threads write the same keys at the same time; whatever order the engine took them in, the cache agrees with it.
#[test]
fn overlapping_writes_of_a_key_leave_what_the_engine_has() {
    let (plain, engine) = restless(1 << 20);
    let keys = ["x", "y", "z"];
    let barrier = Barrier::new(3);
    thread::scope(|scope| {
        for writer in 0..2 {
            let (engine, barrier) = (&engine, &barrier);
            scope.spawn(move || {
                for round in 0..2_000_u32 {
                    barrier.wait();
                    let row = format!("{writer}:{round}");
                    write(engine, |b| {
                        keys.iter().for_each(|k| b.put(Cf::Data, *k, row.clone()))
                    });
                    barrier.wait();
                }
            });
        }
        let mut wrong = Vec::new();
        for round in 0..2_000 {
            barrier.wait();
            get(&engine, keys[round % 3]);
            barrier.wait();
            engine.flush().unwrap();
            for key in keys {
                let (cached, stored) = (get(&engine, key), plain.get(Cf::Data, key.as_bytes()).unwrap());
                if cached != stored {
                    wrong.push((round, key, cached, stored));
                }
            }
        }
        assert_eq!(wrong, [], "(round, key, cached, stored)");
    });
}

#[derive(Clone, Debug)]
enum Op {
    Get(u8),
    Write(Vec<(u8, u8, u8)>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (0..24_u8).prop_map(Op::Get),
        prop::collection::vec((0..10_u8, 0..24_u8, 0..24_u8), 1..6).prop_map(Op::Write),
    ];
    prop::collection::vec(op, 1..200)
}

proptest! {
    #[test]
    fn behaves_like_the_engine_alone(ops in ops(), capacity in prop_oneof![Just(0_usize), Just(1_500), Just(1 << 20)]) {
        let (_, engine) = restless(capacity);
        let alone = PlainEngine::default();
        for op in ops {
            match op {
                Op::Get(key) => {
                    prop_assert_eq!(engine.get(Cf::Data, &[key]).unwrap(), alone.get(Cf::Data, &[key]).unwrap());
                }
                Op::Write(writes) => {
                    let mut batch = WriteBatch::default();
                    for (kind, key, other) in writes {
                        match kind {
                            0 => batch.delete_range(Cf::Data, vec![key], vec![other]),
                            1..=3 => batch.delete(Cf::Data, vec![key]),
                            _ => batch.put(Cf::Data, vec![key], vec![other; usize::from(other)]),
                        }
                    }
                    alone.write(batch.clone()).unwrap();
                    engine.write(batch).unwrap();
                }
            }
        }
        for key in 0..24 {
            prop_assert_eq!(engine.get(Cf::Data, &[key]).unwrap(), alone.get(Cf::Data, &[key]).unwrap());
        }
    }
}
