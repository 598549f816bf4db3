//! Expiry in bounded steps, and where they begin to look.

use std::sync::Mutex;

use super::*;
use crate::{
    engine::{EngineError, Scan, Visit},
    testing::Log,
};

fn expire() -> Command {
    op(Op::Expire { up_to_ms: u64::MAX })
}

fn put_for(key: impl Into<Bytes>, ttl_ms: u64) -> Command {
    op(Op::Put {
        key: key.into(),
        value: Bytes::new(),
        ttl_ms,
        lease: 0,
    })
}

#[test]
fn expire_is_bounded_and_says_more() {
    let mut shard = Shard::new();
    let expired = |keys, more| OutcomeResult::Expire {
        keys,
        leases: 0,
        more,
    };
    shard.run(0, (0..=MAX_EXPIRE).map(|i| put_for(format!("{i}"), 10)));
    assert_eq!(shard.machine.next_expiry(&shard.engine), Ok(Some(10)));
    assert_eq!(shard.one(9, expire()), expired(0, false), "not before its time");
    assert_eq!(shard.one(10, expire()), expired(MAX_EXPIRE as u64, true));
    assert_eq!(shard.events.len(), MAX_EXPIRE);
    let revision = shard.machine.revision();
    assert!(
        shard
            .events
            .iter()
            .all(|event| event.kind == EventKind::Expire && event.revision == revision)
    );
    assert_eq!(shard.one(10, expire()), expired(1, false));
    assert_eq!(shard.machine.next_expiry(&shard.engine), Ok(None));
}

/// Keys and leases that end soon, are prolonged, ended and put again, and bounds of expiry before, at and after the shard's time.
fn short_lives() -> impl Strategy<Value = Log> {
    let key = || (0..9u8).prop_map(|key| vec![key]);
    let act = prop_oneof![
        6 => (key(), 0..40u64).prop_map(|(key, ttl_ms)| put_for(key, ttl_ms)),
        1 => key().prop_map(|key| op(Op::Delete { key: key.into() })),
        1 => key().prop_map(|key| op(Op::Increment { key: key.into(), delta: 0 })),
        1 => (1..4u64).prop_map(|id| op(Op::LeaseGrant { id, ttl_ms: MIN_LEASE_TTL_MS })),
        1 => (1..4u64).prop_map(|id| op(Op::LeaseKeepAlive { id })),
        1 => (1..4u64).prop_map(|id| op(Op::LeaseRevoke { id })),
        2 => Just(expire()),
        1 => (0..600u64).prop_map(|up_to_ms| op(Op::Expire { up_to_ms })),
    ];
    let tick = prop_oneof![3 => Just(0i64), 6 => 0..30i64, 1 => -20..0i64, 1 => Just(600i64)];
    vec((tick, vec(act, 0..6)), 1..40).prop_map(|ticks| {
        let mut now = 0i64;
        let entries = ticks.into_iter().map(|(tick, commands)| {
            now = (now + tick).max(0);
            (now as u64, commands)
        });
        Log {
            entries: entries.collect(),
        }
    })
}

proptest! {
    #![proptest_config(cases(128))]

    /// A machine that always looks from the shard's first ttl key, as one that has just been loaded does, does the same.
    #[test]
    fn where_expiry_begins_to_look_changes_nothing(log in short_lives(), expire in 1..4usize) {
        let bounds = ApplyBounds { expire, ..ApplyBounds::new() };
        let (one, other) = (MemEngine::new(), MemEngine::new());
        let mut next = Vec::new();
        let (_, replies, _) = log.run_within(SHARD, &one, &[1], bounds, |engine, machine| {
            next.push(machine.next_expiry(engine));
        });
        let mut next = next.into_iter();
        let (_, same_replies, _) = log.run_within(SHARD, &other, &[1], bounds, |engine, machine| {
            machine.ttl_from = keys::shard_range(SHARD).0;
            assert_eq!(Some(machine.next_expiry(engine)), next.next());
        });
        prop_assert_eq!(replies, same_replies);
        prop_assert_eq!(all_rows(&one), all_rows(&other));
    }
}

/// At the end of time what is put ends at once.
#[test]
fn a_key_that_ends_at_the_end_of_time_expires() {
    let mut shard = Shard::new();
    for _ in 0..2 {
        let results = shard.run(u64::MAX, [put_for("k", 5), expire(), expire()]);
        let expired = |keys| OutcomeResult::Expire {
            keys,
            leases: 0,
            more: false,
        };
        assert_eq!(results[1..], [expired(1), expired(0)]);
        assert_eq!(shard.machine.next_expiry(&shard.engine), Ok(None));
    }
}

/// An engine that remembers from where what expires was scanned.
struct Watched<'e>(&'e MemEngine, Mutex<Vec<Bytes>>);

impl EngineRead for Watched<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        if cf == Cf::Ttl {
            self.1.lock().unwrap().push(Bytes::copy_from_slice(range.start));
        }
        self.0.scan(cf, range, visit)
    }
}

/// The engine keeps tombstones for a while: what has been removed is not stepped over again.
#[test]
fn what_is_removed_is_not_looked_at_again() {
    const KEYS: usize = 5 * MAX_EXPIRE;
    let mut shard = Shard::new();
    shard.run(0, (0..KEYS).map(|i| put_for(format!("{i:05}"), 10)));
    shard.one(0, put_for("later", 50));
    let ttl_keys: Vec<Bytes> = shard
        .engine
        .rows(Cf::Ttl)
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    for done in (0..KEYS).step_by(MAX_EXPIRE) {
        let watched = Watched(&shard.engine, Mutex::default());
        assert_eq!(shard.machine.next_expiry(&watched), Ok(Some(10)));
        let entry = Entry {
            position: LogPosition {
                index: shard.machine.applied().unwrap().index + 1,
                term: 1,
                node: 1,
            },
            payload: Payload::Batch(encode_batch(20, &[encode_command(&expire())])),
        };
        let applied = shard.machine.apply(&watched, &[entry]).unwrap();
        for start in watched.1.into_inner().unwrap() {
            assert!(done == 0 || start == ttl_keys[done], "after {done} keys");
        }
        shard.engine.write(applied.batch).unwrap();
    }
    let watched = Watched(&shard.engine, Mutex::default());
    assert_eq!(shard.machine.next_expiry(&watched), Ok(Some(50)));
    let start = watched.1.into_inner().unwrap().remove(0);
    assert!(start > ttl_keys[KEYS - 1] && start <= ttl_keys[KEYS]);
}
