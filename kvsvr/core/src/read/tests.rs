//! What the property tests of the state machine are too small for: long ranges, byte limits, filters, other shards, damage.

use bytes::Bytes;

use super::*;
use crate::{
    codec::{encode_batch, encode_command},
    command::{Command, Op},
    engine::{Engine, WriteBatch},
    event::Event,
    limits::{MAX_RANGE_KEYS, MAX_REPLAY_SCAN, MAX_VALUE, PAIR_OVERHEAD, RANGE_SEEK_VERSIONS},
    machine::{Entry, Machine, Payload},
    mem::MemEngine,
    rows::LogRow,
    types::LogPosition,
};

const SHARD: ShardId = ShardId(2);

fn partition() -> Partition {
    Partition::local("p")
}

fn key(i: usize) -> Bytes {
    format!("{i:05}").into()
}

/// Puts keys 0..n with a value of the round's number, for each round; a round is one entry.
fn filled(shard: ShardId, engine: &MemEngine, n: usize, rounds: u8) {
    let mut machine = Machine::load(shard, engine).unwrap();
    for round in 0..rounds {
        let put = |i| Op::Put {
            key: key(i),
            value: vec![round; 10].into(),
            ttl_ms: 0,
            lease: 0,
        };
        let command = |i| {
            encode_command(&Command {
                partition: partition(),
                session: None,
                op: put(i),
            })
        };
        let commands: Vec<Bytes> = (0..n).map(command).collect();
        let position = LogPosition {
            index: u64::from(round),
            term: 1,
            node: 1,
        };
        let entry = Entry {
            position,
            payload: Payload::Batch(encode_batch(1, &commands)),
        };
        let applied = machine.apply(engine, &[entry]).unwrap();
        engine.write(applied.batch).unwrap();
    }
}

fn all_keys(view: &View<'_>, wanted: &Range, max_bytes: usize) -> Vec<(Bytes, u8)> {
    let (mut found, mut range) = (Vec::new(), wanted.clone());
    loop {
        let page = view.range(&partition(), &range, max_bytes).unwrap();
        assert!(page.kvs.len() <= MAX_RANGE_KEYS as usize);
        found.extend(page.kvs.into_iter().map(|kv| (kv.key, kv.value[0])));
        assert!(found.len() <= 2 * MAX_RANGE_KEYS as usize, "pages that never end");
        if page.continuation.is_empty() {
            return found;
        }
        range.continuation = page.continuation;
    }
}

#[test]
fn long_ranges_of_an_older_state_are_whole() {
    let engine = MemEngine::new();
    filled(SHARD, &engine, 700, 3);
    let view = View::load(&engine, SHARD).unwrap();
    // In the middle of a round: half of the keys are of it, half of the round before.
    for (revision, newer) in [(350, 0), (700 + 350, 1), (1400 + 350, 2), (2100, 3)] {
        for reverse in [false, true] {
            let wanted = (0..700).filter_map(|i| match (newer, i < 350) {
                (3, _) => Some((key(i), 2)),
                (round, true) => Some((key(i), round)),
                (0, false) => None,
                (round, false) => Some((key(i), round - 1)),
            });
            let mut wanted: Vec<_> = wanted.collect();
            if reverse {
                wanted.reverse();
            }
            let range = Range {
                revision: Some(revision),
                reverse,
                ..Range::default()
            };
            for max_bytes in [usize::MAX, 1000] {
                assert_eq!(
                    all_keys(&view, &range, max_bytes),
                    wanted,
                    "at {revision}, reverse {reverse}"
                );
            }
        }
    }
}

#[test]
fn a_range_is_bounded_in_keys_and_bytes() {
    let engine = MemEngine::new();
    filled(SHARD, &engine, MAX_RANGE_KEYS as usize + 1, 1);
    let view = View::load(&engine, SHARD).unwrap();
    for limit in [0, u32::MAX] {
        let page = view
            .range(
                &partition(),
                &Range {
                    limit,
                    ..Range::default()
                },
                usize::MAX,
            )
            .unwrap();
        assert_eq!(
            (page.kvs.len(), page.continuation.is_empty()),
            (MAX_RANGE_KEYS as usize, false)
        );
    }
    let pair = 5 + 10 + PAIR_OVERHEAD;
    let page = view.range(&partition(), &Range::default(), pair + 1).unwrap();
    assert_eq!(page.kvs.len(), 2, "the last pair may pass the limit");
    let page = view.range(&partition(), &Range::default(), 0).unwrap();
    assert_eq!(page.kvs.len(), 1, "there is always progress");
    let page = view
        .range(
            &partition(),
            &Range {
                keys_only: true,
                ..Range::default()
            },
            5 * (5 + PAIR_OVERHEAD),
        )
        .unwrap();
    assert_eq!(page.kvs.len(), 5);
}

/// A shard at revision 2 with the given newest versions, all written by the second change but the first key.
fn rows(n: usize, value_len: usize) -> MemEngine {
    let engine = MemEngine::new();
    let mut batch = WriteBatch::default();
    for i in 0..n {
        let revision = if i == 0 { 1 } else { 2 };
        let row = DataRow {
            create_rev: revision,
            mod_rev: revision,
            version: 1,
            expires_at: 0,
            lease: 0,
            value: vec![7; value_len].into(),
        };
        batch.put(
            Cf::Data,
            keys::data_key(SHARD, &partition(), &key(i)),
            row.encode(),
        );
    }
    let head = Head {
        revision: 2,
        ..Head::default()
    };
    batch.put(Cf::State, keys::head_key(SHARD), head.encode());
    engine.write(batch).unwrap();
    engine
}

#[test]
fn a_page_looks_at_a_bounded_number_of_bytes() {
    let fits = MAX_RANGE_SCAN_BYTES / MAX_VALUE;
    let engine = rows(fits + 3, MAX_VALUE);
    for revision in [None, Some(2)] {
        let mut wanted = Range {
            keys_only: true,
            revision,
            ..Range::default()
        };
        let page = range(&engine, SHARD, &partition(), &wanted).unwrap();
        assert_eq!((page.kvs.len(), page.continuation.is_empty()), (fits, false));
        wanted.continuation = page.continuation;
        let page = range(&engine, SHARD, &partition(), &wanted).unwrap();
        assert_eq!((page.kvs.len(), page.continuation.is_empty()), (3, true));
    }
}

#[test]
fn a_page_that_finds_little_ends_too() {
    let engine = rows(MAX_RANGE_SKIPS + 3, 0);
    for (reverse, found) in [(false, [1, 0]), (true, [0, 1])] {
        let mut wanted = Range {
            reverse,
            revision: Some(1),
            ..Range::default()
        };
        let page = range(&engine, SHARD, &partition(), &wanted).unwrap();
        assert_eq!((page.kvs.len(), page.continuation.is_empty()), (found[0], false));
        wanted.continuation = page.continuation;
        let page = range(&engine, SHARD, &partition(), &wanted).unwrap();
        assert_eq!((page.kvs.len(), page.continuation.is_empty()), (found[1], true));
    }
}

/// Counts the rows that scans show.
struct Counting<'e>(&'e MemEngine, std::cell::Cell<usize>);

impl EngineRead for Counting<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, crate::engine::EngineError> {
        self.0.get(cf, key)
    }

    fn scan(
        &self,
        cf: Cf,
        range: Scan<'_>,
        visit: crate::engine::Visit<'_>,
    ) -> Result<(), crate::engine::EngineError> {
        self.0.scan(cf, range, &mut |key, value| {
            self.1.set(self.1.get() + 1);
            visit(key, value)
        })
    }
}

#[test]
fn many_versions_of_a_key_cost_a_range_a_few_seeks() {
    let engine = MemEngine::new();
    filled(SHARD, &engine, 3, 250);
    let counting = Counting(&engine, std::cell::Cell::new(0));
    let view = View::load(&counting, SHARD).unwrap();
    for round in [0, 1, 10, 125, 240, 249] {
        for reverse in [false, true] {
            let range = Range {
                revision: Some(3 * (u64::from(round) + 1)),
                reverse,
                ..Range::default()
            };
            counting.1.set(0);
            let mut found = all_keys(&view, &range, usize::MAX);
            found.sort();
            assert_eq!(found, [0, 1, 2].map(|i| (key(i), round)), "reverse {reverse}");
            let seen = counting.1.get();
            assert!(seen <= 3 * 2 * (RANGE_SEEK_VERSIONS + 1) + 3, "{seen} rows");
        }
    }
}

fn ranges(n: usize, keys_only: bool) -> Txn {
    let range = Range {
        keys_only,
        ..Range::default()
    };
    Txn {
        then_ops: vec![TxnOp::Range(range); n],
        ..Txn::default()
    }
}

fn code(result: Result<TxnResult, Failure>) -> Option<ErrorCode> {
    match result {
        Err(Failure::Rejected(rejection)) => Some(rejection.code),
        _ => None,
    }
}

#[test]
fn pairs_without_values_count_in_the_answers_of_a_transaction() {
    let n = 1_000;
    let engine = rows(n, 0);
    let fits = MAX_TXN_RESULT_BYTES.div_ceil(n * (5 + PAIR_OVERHEAD));
    let read = |n| txn_read(&engine, SHARD, &partition(), &ranges(n, true));
    assert_eq!(code(read(fits)), None);
    assert_eq!(code(read(fits + 1)), Some(ErrorCode::Refused));
}

#[test]
fn the_ranges_of_a_transaction_share_what_they_may_look_at() {
    let engine = rows(20, MAX_VALUE);
    let read = |n| txn_read(&engine, SHARD, &partition(), &ranges(n, true));
    let results = read(2).unwrap().results;
    let page = |i: usize| match &results[i] {
        TxnOpResult::Range(page) => (page.kvs.len(), page.continuation.is_empty()),
        other => panic!("{other:?}"),
    };
    // What is not there is not passed over in silence.
    assert_eq!((page(0), page(1)), ((20, true), (12, false)));
    assert_eq!(code(read(3)), Some(ErrorCode::Refused));
}

#[test]
fn a_full_last_page_has_no_continuation() {
    let engine = MemEngine::new();
    filled(SHARD, &engine, 4, 1);
    let page = range(
        &engine,
        SHARD,
        &partition(),
        &Range {
            limit: 4,
            ..Range::default()
        },
    )
    .unwrap();
    assert_eq!((page.kvs.len(), &page.continuation[..]), (4, &b""[..]));
}

#[test]
fn shards_do_not_see_each_other() {
    let engine = MemEngine::new();
    filled(ShardId(1), &engine, 3, 2);
    filled(ShardId(3), &engine, 3, 1);
    assert_eq!(shard_head(&engine, SHARD), Ok(Head::default()));
    assert_eq!(
        range(&engine, SHARD, &partition(), &Range::default()),
        Ok(RangeResult::default())
    );
    assert_eq!(get(&engine, SHARD, &partition(), &key(0), None), Ok(None));
    let replay = |shard| {
        replay(&engine, shard, 0, usize::MAX, &|_, _| true)
            .unwrap()
            .events
            .len()
    };
    assert_eq!([1, 2, 3].map(|shard| replay(ShardId(shard))), [6, 0, 3]);
    assert_eq!(
        newest(&engine, ShardId(1), &partition(), &key(0))
            .unwrap()
            .unwrap()
            .version,
        2
    );
}

#[test]
fn a_replay_that_finds_nothing_still_ends() {
    let engine = MemEngine::new();
    filled(SHARD, &engine, 3, 1);
    // A row as large as a replay may look through, before the real ones.
    let mut head = shard_head(&engine, SHARD).unwrap();
    let item = |revision| crate::rows::LogItem {
        revision,
        kind: crate::event::EventKind::Delete,
        partition: partition(),
        key: vec![0; MAX_REPLAY_SCAN].into(),
        previous: 0,
    };
    let mut batch = WriteBatch::default();
    for revision in [4, 5] {
        let row = LogRow {
            last: revision,
            stamp: 1,
            event_bytes: 0,
            items: vec![item(revision)],
        };
        batch.put(Cf::Log, keys::log_key(SHARD, revision), row.encode().unwrap().1);
    }
    head.revision = 5;
    batch.put(Cf::State, keys::head_key(SHARD), head.encode());
    engine.write(batch).unwrap();
    let part = |after| replay(&engine, SHARD, after, 100, &|_, key| key.len() < 100).unwrap();
    assert_eq!((part(0).events.len(), part(0).up_to), (3, 4));
    assert_eq!(
        part(4),
        Replay {
            events: Vec::<Event>::new(),
            up_to: 5,
            revision: 5
        }
    );
}

#[test]
fn damage_is_found_and_named() {
    let engine = MemEngine::new();
    filled(SHARD, &engine, 2, 2);
    let damaged = |cf: Cf, key: &[u8], value: Option<&'static str>| {
        let copy = MemEngine::new();
        let mut batch = WriteBatch::default();
        for cf in Cf::ALL {
            engine
                .rows(cf)
                .into_iter()
                .for_each(|(key, value)| batch.put(cf, key, value));
        }
        let key = Bytes::copy_from_slice(key);
        match value {
            Some(value) => batch.put(cf, key, value),
            None => batch.delete(cf, key),
        }
        copy.write(batch).unwrap();
        copy
    };
    let corrupt = |result: Result<String, Failure>| match result {
        Err(Failure::Corrupt(corrupt)) => corrupt.to_string(),
        other => panic!("{other:?}"),
    };
    let data_key = keys::data_key(SHARD, &partition(), &key(0));
    let hist_key = keys::hist_key(&data_key, 1);
    let show = |result: Result<Option<KeyValue>, Failure>| result.map(|kv| format!("{kv:?}"));

    let copy = damaged(Cf::Data, &data_key, Some("?"));
    assert!(corrupt(show(get(&copy, SHARD, &partition(), &key(0), None))).contains("data row"));
    let page = range(&copy, SHARD, &partition(), &Range::default());
    assert!(corrupt(page.map(|page| format!("{page:?}"))).contains("data row"));

    let copy = damaged(Cf::Hist, &hist_key, Some("?"));
    assert!(corrupt(show(get(&copy, SHARD, &partition(), &key(0), Some(1)))).contains("hist row"));
    let old = Range {
        revision: Some(1),
        ..Range::default()
    };
    let page = range(&copy, SHARD, &partition(), &old);
    assert!(corrupt(page.map(|page| format!("{page:?}"))).contains("hist row"));

    let replayed = |copy: &MemEngine| {
        replay(copy, SHARD, 0, usize::MAX, &|_, _| true).map(|replay| format!("{replay:?}"))
    };
    assert!(corrupt(replayed(&damaged(Cf::Hist, &hist_key, None))).contains("missing"));
    assert!(
        corrupt(replayed(&damaged(Cf::Log, &keys::log_key(SHARD, 3), None)))
            .contains("revision 3 is missing")
    );
    assert!(
        corrupt(replayed(&damaged(
            Cf::Log,
            &keys::log_key(SHARD, 1),
            Some("\u{1}\u{2}?")
        )))
        .contains("log row")
    );
}
