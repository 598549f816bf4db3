use proptest::prelude::*;

use super::*;

fn kv(value: &str) -> KeyValue {
    KeyValue {
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..KeyValue::default()
    }
}

fn key(n: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'k', n])
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_fill_that_was_overtaken_is_dropped() {
    let now = Instant::now();
    let mut store = Store::new(1 << 20, 5);
    store.confirm(5, now);
    store.begin_fill(&key(1));
    store.change(&key(1), Some(&kv("new")), 7);
    store.watched(7);
    store.fill(&key(1), Some(&kv("old")), 6);
    assert_eq!(store.get(&key(1), now, LONG, 0), None);
    store.fill(&key(1), Some(&kv("new")), 7);
    store.end_fill(&key(1));
    assert_eq!(
        store.get(&key(1), now, LONG, 0).unwrap().value.unwrap().value,
        "new"
    );
    assert!(store.fills.is_empty());
}

#[test]
fn events_behind_a_fill_change_nothing() {
    let now = Instant::now();
    let mut store = Store::new(1 << 20, 5);
    store.confirm(5, now);
    store.begin_fill(&key(1));
    store.fill(&key(1), Some(&kv("at 9")), 9);
    store.end_fill(&key(1));
    store.change(&key(1), Some(&kv("at 7")), 7);
    store.watched(7);
    let read = store.get(&key(1), now, LONG, 0).unwrap();
    assert_eq!((&read.value.unwrap().value[..], read.revision), (&b"at 9"[..], 9));
    assert!(store.get(&key(1), now, LONG, 10).is_none());
    store.watched(12);
    assert_eq!(store.get(&key(1), now, LONG, 10).unwrap().revision, 12);
}

#[test]
fn a_confirmation_counts_once_the_watch_has_come_so_far() {
    let start = Instant::now();
    let later = start + Duration::from_secs(1);
    let mut store = Store::new(1 << 20, 5);
    store.confirm(8, later);
    store.confirm(6, start);
    assert_eq!(store.age(later), None);
    store.watched(7);
    assert_eq!(store.age(later), Some(Duration::from_secs(1)));
    store.watched(8);
    assert_eq!(store.age(later), Some(Duration::ZERO));
    store.confirm(3, start);
    assert_eq!(
        store.age(later),
        Some(Duration::ZERO),
        "an older one changes nothing"
    );
    store.lose();
    store.confirm(3, later);
    assert_eq!(store.age(later), None);
}

proptest! {
    /// The clock keeps the bound, counts bytes right, and what was used since the hand passed survives longer.
    #[test]
    fn the_bound_holds(ops in prop::collection::vec((0u8..40, 0usize..300, any::<bool>()), 1..200)) {
        let now = Instant::now();
        let max = 2000;
        let mut store = Store::new(max, 0);
        store.confirm(0, now);
        for (revision, (n, len, touch)) in (1..).zip(ops) {
            let k = key(n);
            if touch {
                store.get(&k, now, LONG, 0);
                continue;
            }
            store.begin_fill(&k);
            store.fill(&k, Some(&kv(&"x".repeat(len))), revision);
            store.end_fill(&k);
            prop_assert!(store.bytes() <= max);
            let counted: usize = store.entries.iter().map(|(k, e)| size(k, e)).sum();
            prop_assert_eq!(counted, store.bytes());
        }
    }
}

#[test]
fn what_is_used_stays() {
    let now = Instant::now();
    let entry = NEAR_CACHE_ENTRY + 2 + 10;
    let mut store = Store::new(4 * entry, 0);
    store.confirm(0, now);
    let put = |store: &mut Store, n: u8| {
        store.begin_fill(&key(n));
        store.fill(&key(n), Some(&kv("0123456789")), u64::from(n) + 1);
        store.end_fill(&key(n));
    };
    for n in 0..4 {
        put(&mut store, n);
    }
    for n in 4..20 {
        assert!(store.get(&key(1), now, LONG, 0).is_some(), "before {n}");
        put(&mut store, n);
    }
}
