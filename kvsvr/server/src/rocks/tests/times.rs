//! What RocksDB alone takes for each put of the benchmark: the rows of puts on random keys, sorted and coalesced as the write buffer hands them
//! over, and nothing else. It is a lower bound for what a put costs a node; docs/performance.md has the figure.

use std::collections::BTreeMap;

use super::*;

const KEYS: u64 = 100_000;
/// Puts between two flushes: what the write buffer gathers before it is flushed, by default.
const PUTS: u64 = 60_000;
const ROUNDS: u64 = 10;
const VALUE: [u8; 280] = [7; 280];

type Rows = BTreeMap<(usize, Vec<u8>), ()>;

/// The rows of one flush: each key's newest version, and one history row for each put.
fn rows(random: &mut u64, revision: &mut u64) -> Rows {
    let mut rows = Rows::new();
    for _ in 0..PUTS {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let number = *random % KEYS;
        let slot = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as u16;
        let mut key = vec![0, 0, 0, 1];
        key.extend(slot.to_be_bytes());
        key.extend(format!("\0\0\0\x04bench/user{number:012}").as_bytes());
        *revision += 1;
        let history = [&key[..], &[0, 1], &(!*revision).to_be_bytes()].concat();
        rows.insert((Cf::Hist as usize, history), ());
        rows.insert((Cf::Data as usize, key), ());
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
    let (mut random, mut revision) = (88_172_645_463_325_252, 0);
    let rounds: Vec<Rows> = (0..ROUNDS).map(|_| rows(&mut random, &mut revision)).collect();
    let dir = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).unwrap();
    let before = processor_ms();
    for rows in &rounds {
        let bytes = rows.len() * 340;
        let mut rows = rows
            .keys()
            .map(|(cf, key)| (Cf::ALL[*cf], &key[..], Some(&VALUE[..])));
        engine.write_rows(&mut rows, bytes).unwrap();
        engine.flush().unwrap();
    }
    let all = rounds.iter().map(BTreeMap::len).sum::<usize>() as f64;
    let puts = (PUTS * ROUNDS) as f64;
    println!(
        "{:.2} us of processor time and {:.2} rows for each put",
        (processor_ms() - before) as f64 * 1000.0 / puts,
        all / puts,
    );
}
