//! What RocksDB alone takes for each put of the benchmark: the rows of puts on random keys, sorted and coalesced as the write buffer hands them
//! over, and nothing else. docs/performance.md has the figures.

use std::collections::BTreeSet;

use kvsvr_core::engine::RowRef;

use super::*;
use crate::test_keys::{Random, key};

const PUTS: u64 = 720_000;
const VALUE: [u8; 280] = [7; 280];

/// By column family and key.
type Rows = BTreeSet<(Cf, Vec<u8>)>;

/// The rows of one flush: each key's newest version, and one history row for each put.
fn rows(puts: u64, random: &mut Random, revision: &mut u64) -> Rows {
    let mut rows = Rows::new();
    for _ in 0..puts {
        let key = key(random.next());
        *revision += 1;
        let history = [&key[..], &[0, 1], &(!*revision).to_be_bytes()].concat();
        rows.insert((Cf::Hist, history));
        rows.insert((Cf::Data, key));
    }
    rows
}

/// Processor time of this process so far, all threads, in milliseconds.
fn processor_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    // The kernel counts in hundredths of a second for everybody.
    ticks * 10
}

/// `cargo test --release -p kvsvr --lib rocks -- --ignored --nocapture`
#[test]
#[ignore = "prints times; run it alone and in a release build"]
fn times() {
    // About what the write buffer gathers before it is flushed, by default and with six times its memory.
    for puts_in_a_flush in [60_000, 360_000] {
        measure(puts_in_a_flush);
    }
}

fn measure(puts_in_a_flush: u64) {
    let (mut random, mut revision) = (Random(88_172_645_463_325_252), 0);
    let flushes: Vec<Rows> = (0..PUTS / puts_in_a_flush)
        .map(|_| rows(puts_in_a_flush, &mut random, &mut revision))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).unwrap();
    let before = processor_ms();
    for rows in &flushes {
        let bytes = rows.len() * 340;
        let each = |visit: &mut dyn FnMut(RowRef<'_>)| {
            rows.iter()
                .for_each(|(cf, key)| visit((*cf, &key[..], Some(&VALUE[..]))));
        };
        engine.write_rows(&each, bytes).unwrap();
        engine.flush().unwrap();
    }
    let took = processor_ms() - before;
    let rows = flushes.iter().map(BTreeSet::len).sum::<usize>() as f64;
    let puts = revision as f64;
    println!(
        "{puts_in_a_flush} puts in a flush: {:.2} us of processor time and {:.2} rows for each put",
        took as f64 * 1000.0 / puts,
        rows / puts,
    );
}
