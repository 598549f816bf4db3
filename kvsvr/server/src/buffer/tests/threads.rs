//! Readers, a writer and flushes on threads of their own.

use std::{
    collections::BTreeSet,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{super::*, buffered, scan};

/// Rows that always hold the number of the batch that wrote them all.
const TOGETHER: u64 = 40;

fn together(i: u64) -> Bytes {
    Bytes::from(format!("together/{i:02}"))
}

fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().unwrap())
}

fn numbers(engine: &dyn EngineRead, reverse: bool) -> BTreeSet<u64> {
    let pairs = scan(engine, Cf::Data, b"together/", b"together0", reverse);
    assert_eq!(
        pairs.len() as u64,
        TOGETHER,
        "a batch removes and sets them all at once"
    );
    pairs.iter().map(|(_, value)| number(value)).collect()
}

fn read_concurrently(engine: &BufferedEngine, turn: u64) {
    let get = |engine: &dyn EngineRead, i| number(&engine.get(Cf::Data, &together(i)).unwrap().unwrap());
    let first = get(engine, turn % TOGETHER);
    let second = get(engine, (turn * 7 + 1) % TOGETHER);
    assert!(second >= first, "who saw {first} must not see {second} later");
    let snapshot = engine.snapshot();
    let seen = numbers(&*snapshot, turn.is_multiple_of(2));
    assert_eq!(seen.len(), 1, "a scan saw parts of batches: {seen:?}");
    assert!(seen.first() >= Some(&second));
    let now = numbers(engine, !turn.is_multiple_of(2));
    assert_eq!(now.len(), 1, "a scan saw parts of batches: {now:?}");
    assert!(now.first() >= seen.first());
    // Later, with more written and flushed.
    assert_eq!(numbers(&*snapshot, false), seen);
    let again = get(&*snapshot, turn % TOGETHER);
    assert_eq!(Some(&again), seen.first());
}

#[test]
fn batches_are_atomic_for_concurrent_readers_while_flushes_run() {
    const BATCHES: u64 = 400;
    // Small enough for the writer to drain now and then, too.
    let (inner, engine) = buffered(64 << 10);
    let batch = |n: u64, with_range: bool| {
        let mut batch = WriteBatch::default();
        if with_range {
            batch.delete_range(Cf::Data, "together/", "together0");
        }
        for i in 0..TOGETHER {
            batch.put(Cf::Data, together(i), n.to_be_bytes().to_vec());
        }
        batch.put(Cf::State, "n", n.to_be_bytes().to_vec());
        batch.put(Cf::Hist, format!("{n:08}"), "");
        batch
    };
    engine.write(batch(0, false)).unwrap();
    let done = AtomicBool::new(false);
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for reader in 0..2 {
            let (engine, done, start) = (&engine, &done, &start);
            scope.spawn(move || {
                start.wait();
                let mut turn = reader;
                // Also when the writer was quick.
                while !done.load(Ordering::Acquire) || turn < 50 {
                    read_concurrently(engine, turn);
                    turn += 1;
                }
            });
        }
        scope.spawn(|| {
            start.wait();
            while !done.load(Ordering::Acquire) {
                engine.flush().unwrap();
                // What a crash now would leave is a whole batch.
                let durable = inner.engine.crash();
                let n = number(&durable.get(Cf::State, b"n").unwrap().unwrap());
                assert_eq!(numbers(&durable, false), BTreeSet::from([n]));
                assert_eq!(scan(&durable, Cf::Hist, b"", b"", false).len() as u64, n + 1);
            }
        });
        start.wait();
        for n in 1..=BATCHES {
            engine.write(batch(n, n % 13 == 0)).unwrap();
        }
        done.store(true, Ordering::Release);
    });
    engine.flush().unwrap();
    assert_eq!(numbers(&inner.engine, false), BTreeSet::from([BATCHES]));
    assert_eq!(
        scan(&inner.engine, Cf::Hist, b"", b"", false).len() as u64,
        BATCHES + 1
    );
}
