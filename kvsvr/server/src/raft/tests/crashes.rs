//! Power failures at any operation of a transfer, with an engine that makes things durable when it likes.

use kvsvr_core::testing::cases;
use proptest::prelude::*;

use super::{
    sides::{Hooked, Source, Target, Trouble, transfer},
    *,
};
use crate::raft::snapshot::Staged;

/// Flushes by itself after each `every` writes, as RocksDB does when its memtables are full.
fn restless(inner: Arc<MemEngine>, every: u64) -> Hooked {
    let engine = inner.clone();
    Hooked::new(inner, move |writes| match writes.is_multiple_of(every) {
        true => engine.flush(),
        false => Ok(()),
    })
}

/// A power failure, and how the engine flushes until then.
#[derive(Clone, Copy, Debug)]
struct Crash {
    /// Disk operations until then; of the whole transfer there are fewer than [`OPERATIONS`].
    after: u64,
    seed: u64,
    flush_every: u64,
}

const OPERATIONS: u64 = 200;

fn crash() -> impl Strategy<Value = Crash> {
    (1..OPERATIONS, any::<u64>(), 1..12u64).prop_map(|(after, seed, flush_every)| Crash {
        after,
        seed,
        flush_every,
    })
}

/// Starts the node as [`crate::shard::Shard::start`] does. False if the power failed again.
async fn start(target: &Target, engine: Arc<dyn Engine>) -> bool {
    match Staged::interrupted(&target.dyn_disk(), SHARD).await {
        Ok(Some(staged)) => match staged.install(engine).await {
            Ok(()) => true,
            Err(error) => {
                assert!(error.to_string().contains("power is off"), "{error}");
                false
            }
        },
        Ok(None) => true,
        Err(error) => {
            assert!(error.to_string().contains("power is off"), "{error}");
            false
        }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

/// Transfers with power failures; after each the shard is in its old state or in the new one, nothing between.
async fn check(crashes: &[Crash], flush_every: u64) {
    let source = Source::new("a", 60);
    let mut target = Target::new();
    apply(&*target.engine, SHARD, 30, 7);
    apply(&*target.engine, OTHER_SHARD, 4, 7);
    let other = hash(&target.engine, OTHER_SHARD);
    let states = [hash(&target.engine, SHARD), hash(&source.engine, SHARD)];
    for crash in crashes {
        target.disk.fail_power_after(crash.after);
        let engine = Arc::new(restless(target.engine.clone(), crash.flush_every));
        if start(&target, engine.clone()).await {
            assert!(states.contains(&hash(&target.engine, SHARD)), "half a state");
            // However it ends: the power may have failed anywhere.
            transfer(&source, &target, engine, Trouble::default()).await;
        }
        target = target.crashed(crash.seed);
    }
    let engine = Arc::new(restless(target.engine.clone(), flush_every));
    assert!(
        start(&target, engine.clone()).await,
        "nothing is in the way of the start"
    );
    assert!(states.contains(&hash(&target.engine, SHARD)), "half a state");
    let last = transfer(&source, &target, engine, Trouble::default()).await;
    last.sent.unwrap().unwrap();
    assert_eq!(hash(&target.engine.crash(), SHARD), states[1]);
    assert_eq!(hash(&target.engine, OTHER_SHARD), other);
    assert!(target.staged_files().is_empty(), "{:?}", target.staged_files());
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn a_power_failure_leaves_the_old_state_or_the_new(
        crashes in proptest::collection::vec(crash(), 1..4),
        flush_every in 1..12u64,
    ) {
        run(check(&crashes, flush_every));
    }
}

/// The bound of the generator covers the whole of a transfer.
#[test]
fn a_transfer_has_fewer_operations() {
    let operations = run(async {
        let (source, target) = (Source::new("a", 60), Target::new());
        let sent = transfer(&source, &target, target.engine.clone(), Trouble::default()).await;
        sent.sent.unwrap().unwrap();
        target.disk.operations()
    });
    assert!(
        (OPERATIONS / 3..OPERATIONS).contains(&operations),
        "{operations} operations"
    );
}
