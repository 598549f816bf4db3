//! Round trips, order, and the pinned bytes of every key.

use proptest::prelude::*;

use super::*;

fn partition() -> impl Strategy<Value = Partition> {
    (any::<u16>(), prop::collection::vec(any::<u8>(), 0..8)).prop_map(|(region, name)| Partition {
        region,
        name: name.into(),
    })
}

fn raw_key() -> impl Strategy<Value = Bytes> {
    // Many zeros and 0xff, which the escape must get right.
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 0..12)
        .prop_map(Bytes::from)
}

fn any_key() -> impl Strategy<Value = Key> {
    let at = any::<u64>();
    prop_oneof![
        (partition(), raw_key()).prop_map(|(partition, key)| Key::Data { partition, key }),
        (partition(), raw_key(), at).prop_map(|(partition, key, mod_rev)| Key::Hist {
            partition,
            key,
            mod_rev
        }),
        at.prop_map(|first| Key::Log { first }),
        (at, partition(), raw_key()).prop_map(|(expires_at, partition, key)| Key::TtlKey {
            expires_at,
            partition,
            key
        }),
        (at, at).prop_map(|(expires_at, lease)| Key::TtlLease { expires_at, lease }),
        Just(Key::Head),
        at.prop_map(Key::Lease),
        (at, partition(), raw_key()).prop_map(|(lease, partition, key)| Key::LeaseKey {
            lease,
            partition,
            key
        }),
        at.prop_map(Key::Session),
        (at, at).prop_map(|(session, index)| Key::Window { session, index }),
        raw_key().prop_map(Key::Consumer),
        Just(Key::Restore),
    ]
}

proptest! {
    #[test]
    fn round_trip(shard: u32, key in any_key()) {
        let (cf, stored) = key.encode(ShardId(shard));
        prop_assert_eq!(Key::decode(cf, &stored).unwrap(), (ShardId(shard), key));
    }

    #[test]
    fn decode_never_panics(bytes: Vec<u8>, cut in any_key()) {
        for cf in Cf::ALL {
            let _ = Key::decode(cf, &bytes);
        }
        let (cf, stored) = cut.encode(ShardId(7));
        for len in 0..stored.len() {
            let _ = Key::decode(cf, &stored[..len]);
        }
    }

    #[test]
    fn history_sorts_by_key_then_newest_first(p in partition(), a in (raw_key(), 0..4u64), b in (raw_key(), 0..4u64)) {
        let stored = |(key, rev): &(Bytes, u64)| hist_key(&data_key(ShardId(1), &p, key), *rev);
        let wanted = a.0.cmp(&b.0).then(b.1.cmp(&a.1));
        prop_assert_eq!(stored(&a).cmp(&stored(&b)), wanted);
    }

    #[test]
    fn a_history_bound_parts_the_keys(p in partition(), bound in raw_key(), key in raw_key(), rev: u64) {
        let of = |key: &[u8]| data_key(ShardId(1), &p, key);
        let below = hist_key(&of(&key), rev) < hist_bound(&of(&bound));
        prop_assert_eq!(below, key < bound);
    }

    #[test]
    fn a_partition_is_a_range(p in partition(), q in partition(), key in raw_key()) {
        let prefix = partition_prefix(ShardId(1), &p);
        let stored = data_key(ShardId(1), &q, &key);
        prop_assert_eq!(prefix <= stored && stored < prefix_end(&prefix), p == q);
    }

    #[test]
    fn ttl_keys_and_attachments_give_the_data_key_back(p in partition(), key in raw_key(), at: u64, lease: u64) {
        let data = data_key(ShardId(9), &p, &key);
        prop_assert_eq!(split_ttl_key(&ttl_key(&data, at)), Some((at, Due::Key(data.clone()))));
        prop_assert_eq!(attached_data_key(&attached_key(&data, lease)), Some(data));
        prop_assert_eq!(split_ttl_key(&ttl_lease_key(ShardId(9), at, lease)), Some((at, Due::Lease(lease))));
    }
}

#[test]
fn prefix_ends() {
    assert_eq!(prefix_end(b"a"), "b");
    assert_eq!(&prefix_end(b"a\xff\xff")[..], b"b");
    assert_eq!(&prefix_end(b"\xff\xff")[..], b"");
    assert_eq!(&shard_range(ShardId(u32::MAX)).1[..], b"");
    assert_eq!(&shard_range(ShardId(255)).1[..], [0, 0, 1]);
}

/// A change here would make stored data unreadable.
#[test]
fn keys_are_pinned() {
    let p = Partition {
        region: 2,
        name: Bytes::from_static(b"al"),
    };
    let key = Bytes::from_static(b"k\0");
    let pinned = |key: Key| key.encode(ShardId(1)).1.escape_ascii().to_string();
    let [high, low] = p.slot().to_be_bytes();
    let slot = [high, low].escape_ascii().to_string();
    let data = format!(r"{slot}\x00\x02\x00\x02alk\x00");
    let one = r"\x00\x00\x00\x00\x00\x00\x00\x01";
    let shard = r"\x00\x00\x00\x01";
    let cases = [
        (
            Key::Data {
                partition: p.clone(),
                key: key.clone(),
            },
            format!("{shard}{data}"),
        ),
        (
            Key::Hist {
                partition: p.clone(),
                key: key.clone(),
                mod_rev: 1,
            },
            format!(r"{shard}{data}\xff\x00\x01\xff\xff\xff\xff\xff\xff\xff\xfe"),
        ),
        (Key::Log { first: 1 }, format!("{shard}{one}")),
        (
            Key::TtlKey {
                expires_at: 1,
                partition: p.clone(),
                key: key.clone(),
            },
            format!(r"{shard}{one}\x01{data}"),
        ),
        (
            Key::TtlLease {
                expires_at: 1,
                lease: 1,
            },
            format!(r"{shard}{one}\x02{one}"),
        ),
        (Key::Head, format!(r"{shard}\x01")),
        (Key::Lease(1), format!(r"{shard}\x02{one}")),
        (
            Key::LeaseKey {
                lease: 1,
                partition: p,
                key,
            },
            format!(r"{shard}\x03{one}{data}"),
        ),
        (Key::Session(1), format!(r"{shard}\x04{one}")),
        (
            Key::Window { session: 1, index: 1 },
            format!(r"{shard}\x05{one}{one}"),
        ),
        (Key::Consumer(Bytes::from_static(b"c")), format!(r"{shard}\x06c")),
        (Key::Restore, format!(r"{shard}\x07")),
    ];
    for (key, stored) in cases {
        assert_eq!(pinned(key), stored);
    }
}
