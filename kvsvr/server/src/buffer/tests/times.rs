//! What the buffer costs, without an engine below it. The figures in [`table`](super::super::table) come from this and from programs like it.

use std::{hint::black_box, time::Instant};

use super::super::*;
use crate::test_keys::{KEYS, Random, key};

/// Takes everything and keeps nothing: what is left to measure is the buffer.
struct Nothing;

impl EngineRead for Nothing {
    fn get(&self, _: Cf, _: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(None)
    }

    fn scan(&self, _: Cf, _: Scan<'_>, _: Visit<'_>) -> Result<(), EngineError> {
        Ok(())
    }
}

impl EngineSnapshot for Nothing {}

impl Engine for Nothing {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        black_box(batch);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        Box::new(Nothing)
    }

    fn flush(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn get_durable(&self, _: Cf, _: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(None)
    }

    fn set_garbage_floor(&self, _: ShardId, _: Revision) {}
}

/// From the beginning on.
const FIRST: Scan<'_> = Scan {
    start: b"",
    end: b"",
    reverse: false,
};

const BATCHES: usize = 250;
const PER_BATCH: usize = 400;

fn random_batches(random: &mut Random) -> Vec<WriteBatch> {
    let mut revision = 0_u64;
    let mut batch = || {
        let mut batch = WriteBatch::default();
        for _ in 0..PER_BATCH {
            let data = key(random.next());
            revision += 1;
            let hist = [&data[..], &[0, 1], &(!revision).to_be_bytes()].concat();
            batch.put(Cf::Hist, hist, vec![7; 280]);
            batch.put(Cf::Data, data, vec![7; 280]);
        }
        batch
    };
    (0..BATCHES).map(|_| batch()).collect()
}

/// `cargo test --release -p kvsvr --no-default-features --lib buffer -- --ignored --nocapture`
#[test]
#[ignore = "prints times; run it alone and in a release build"]
fn times() {
    let mut random = Random(88_172_645_463_325_252);
    for round in 0..3 {
        let batches = random_batches(&mut random);
        let engine = BufferedEngine::new(Arc::new(Nothing), usize::MAX, 0);
        let per = |of: u64, started: Instant| started.elapsed().as_nanos() as u64 / of;
        let rows = (2 * BATCHES * PER_BATCH) as u64;
        let mut longest = 0;
        let started = Instant::now();
        for batch in batches {
            let began = Instant::now();
            engine.write(batch).unwrap();
            longest = longest.max(began.elapsed().as_micros());
        }
        let write = per(rows, started);
        let mib = engine.bytes() >> 20;
        let started = Instant::now();
        (0..KEYS).for_each(|_| drop(black_box(engine.get(Cf::Data, &key(random.next())))));
        let get = per(KEYS, started);
        let active = engine.layers.read().active.clone();
        let started = Instant::now();
        let rows = active.sort_only() as u64;
        let sort = per(rows, started);
        let started = Instant::now();
        engine
            .scan(Cf::Data, FIRST, &mut |_, _| ControlFlow::Break(()))
            .unwrap();
        let first_scan = started.elapsed().as_micros();
        let started = Instant::now();
        (0..1000).for_each(|_| {
            engine
                .scan(Cf::Data, FIRST, &mut |_, _| ControlFlow::Break(()))
                .unwrap()
        });
        let scan = per(1000, started);
        drop(active);
        let started = Instant::now();
        engine.drain(|_| true).unwrap();
        let drain = per(rows, started);
        println!(
            "round {round}: write {write} ns/row (longest batch of {} rows {longest} us), get {get} ns, \
             drain {drain} ns/row, {sort} of them to sort, first scan {first_scan} us, next ones {scan} ns, {mib} MiB",
            2 * PER_BATCH
        );
    }
}
