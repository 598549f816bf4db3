//! Round trips and bytes from elsewhere. The stored forms are pinned by the golden script `rows`.

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    event::EventKind,
    testing::{any_partition, any_stored_key},
};

fn data_row() -> impl Strategy<Value = DataRow> {
    (any::<[u32; 2]>(), any::<[u64; 3]>(), vec(any::<u8>(), 0..9)).prop_map(
        |([create, more], [version, expires_at, lease], value)| DataRow {
            create_rev: create.into(),
            mod_rev: u64::from(create) + u64::from(more),
            version,
            expires_at,
            lease,
            value: value.into(),
        },
    )
}

fn log_row() -> impl Strategy<Value = LogRow> {
    let kind = prop_oneof![
        Just(EventKind::Put),
        Just(EventKind::Delete),
        Just(EventKind::Expire)
    ];
    let item = (0..3u64, kind, any_partition(), any_stored_key(), any::<u64>());
    (any::<u32>(), any::<u64>(), any::<u64>(), vec(item, 1..6)).prop_map(
        |(first, stamp, event_bytes, items)| {
            let mut revision = u64::from(first);
            let mut log = LogRow {
                last: 0,
                stamp,
                event_bytes,
                items: Vec::new(),
            };
            for (i, (step, kind, partition, key, previous)) in items.into_iter().enumerate() {
                revision += if i == 0 { 0 } else { step };
                log.items.push(LogItem {
                    revision,
                    kind,
                    partition,
                    key,
                    previous,
                });
            }
            log.last = revision;
            log
        },
    )
}

fn head() -> impl Strategy<Value = Head> {
    let applied = option::of(any::<[u64; 3]>());
    (applied, vec(any::<u8>(), 0..9), any::<[u64; 6]>()).prop_map(|(applied, membership, numbers)| {
        let [revision, floor, stamp, event_bytes, last_lease, last_session] = numbers;
        Head {
            applied: applied.map(|[index, term, node]| LogPosition { index, term, node }),
            membership: membership.into(),
            revision,
            floor: floor.min(revision),
            stamp,
            event_bytes,
            last_lease,
            last_session,
        }
    })
}

proptest! {
    #[test]
    fn data_and_history_round_trip(row in data_row(), superseded: u64) {
        prop_assert_eq!(DataRow::decode(&row.encode()), Ok(row.clone()));
        let hist = HistRow { superseded_at: superseded, row };
        let stored = hist.encode();
        prop_assert_eq!(superseded_at(&stored), Some(superseded));
        prop_assert_eq!(HistRow::decode(b"", &stored), Ok(hist));
    }

    #[test]
    fn the_log_round_trips(row in log_row()) {
        let (first, stored) = row.encode().unwrap();
        prop_assert_eq!(last_revision(&stored), Some(row.last));
        prop_assert_eq!(LogRow::decode(b"", first, &stored), Ok(row));
    }

    #[test]
    fn state_round_trips(head in head(), [a, b]: [u64; 2], outcomes in vec((any::<u64>(), vec(any::<u8>(), 0..5)), 0..4)) {
        prop_assert_eq!(Head::decode(b"", &head.encode()), Ok(head));
        let lease = LeaseRow { ttl_ms: a, expires_at: b };
        prop_assert_eq!(LeaseRow::decode(b"", &lease.encode()), Ok(lease));
        let session = SessionRow { opened_at: a };
        prop_assert_eq!(SessionRow::decode(b"", &session.encode()), Ok(session));
        let restore = RestoreRow { backup: b, next: a, done: b % 2 == 1 };
        prop_assert_eq!(RestoreRow::decode(b"", &restore.encode()), Ok(restore));
        let consumer = ConsumerRow { epoch: a, cursor: b };
        prop_assert_eq!(ConsumerRow::decode(b"", &consumer.encode()), Ok(consumer));
        let outcomes = outcomes.into_iter().map(|(seq, outcome)| (seq, outcome.into())).collect();
        let window = WindowRow { stamp: a, acked_below: b, outcomes };
        prop_assert_eq!(WindowRow::decode(b"", &window.encode()), Ok(window));
    }

    #[test]
    fn decoders_never_panic(bytes: Vec<u8>, row in log_row(), at: prop::sample::Index, flip: u8, cut: prop::sample::Index) {
        decode_all(&bytes.into());
        let (_, stored) = row.encode().unwrap();
        let mut damaged = stored.to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= flip;
        decode_all(&damaged.into());
        let cut = stored.slice(..cut.index(stored.len()));
        prop_assert!(LogRow::decode(b"", 0, &cut).is_err(), "a row cut short");
        decode_all(&cut);
    }
}

fn decode_all(stored: &Bytes) {
    let _ = (
        DataRow::decode(stored),
        HistRow::decode(b"", stored),
        LogRow::decode(b"", 7, stored),
    );
    let _ = (
        Head::decode(b"", stored),
        LeaseRow::decode(b"", stored),
        SessionRow::decode(b"", stored),
    );
    let _ = RestoreRow::decode(b"", stored);
    let _ = (ConsumerRow::decode(b"", stored), WindowRow::decode(b"", stored));
}

#[test]
fn another_format_version_is_corrupt() {
    let row = DataRow {
        create_rev: 1,
        mod_rev: 1,
        version: 1,
        expires_at: 0,
        lease: 0,
        value: "v".into(),
    };
    let mut stored = row.encode().to_vec();
    stored[0] = FORMAT + 1;
    let corrupt = DataRow::decode_at(b"k\0", &stored.into()).unwrap_err();
    assert!(corrupt.to_string().contains(r"data row k\x00"), "{corrupt}");
}

#[test]
fn a_floor_above_the_revision_is_corrupt() {
    let head = Head {
        floor: 2,
        revision: 1,
        ..Head::default()
    };
    assert!(Head::decode(b"", &head.encode()).is_err());
}
