//! Compaction and consumers: whom it spares, and that it passes nobody whom its proposer did not know.

use super::*;

fn grow(shard: &mut Shard, revisions: usize) {
    for _ in 0..revisions {
        shard.one(0, op(put("k")));
    }
}

fn open(name: &'static str, start_revision: Revision) -> Command {
    op(Op::ConsumerOpen {
        name: name.into(),
        start_revision,
    })
}

fn compact(revision: Revision, pass_below: Revision) -> Command {
    op(Op::Compact { revision, pass_below })
}

#[test]
fn compaction_spares_consumers_that_keep_up() {
    let mut shard = Shard::new();
    let target = |shard: &Shard, keep, lag| {
        let target = shard.machine.compaction_target(&shard.engine, keep, lag).unwrap();
        (target.revision, target.pass_below)
    };
    grow(&mut shard, 10);
    assert_eq!(target(&shard, 3, u64::MAX), (7, 0));
    assert_eq!(target(&shard, 30, u64::MAX), (0, 0));
    shard.one(0, open("slow", 0));
    grow(&mut shard, 10);
    let size = shard.events[0].size();
    assert_eq!(shard.machine.lag_bytes(&shard.engine, 10), Ok(10 * size));
    assert_eq!(target(&shard, 3, 10 * size), (10, 0), "held by the consumer");
    assert_eq!(
        target(&shard, 3, 10 * size - 1),
        (17, 11),
        "which is cut off when it lags too much"
    );
    assert_eq!(
        shard.one(0, compact(17, 11)),
        OutcomeResult::Compact { floor: 17 }
    );
    assert_eq!(
        target(&shard, 3, u64::MAX),
        (17, 0),
        "a cut off consumer holds nothing"
    );
    assert_eq!(shard.machine.lag_bytes(&shard.engine, 10), Ok(3 * size));
    let refused = shard.one(0, open("slow", 0));
    assert!(
        matches!(refused, OutcomeResult::Rejected(r) if r.code == ErrorCode::Compacted && r.revision == 18)
    );
}

/// Between the leader's look and the command in the log, consumers are opened, reset and acknowledge.
#[test]
fn a_consumer_that_came_meanwhile_is_not_passed() {
    let mut shard = Shard::new();
    grow(&mut shard, 4);
    shard.run(0, [open("slow", 3), open("back", 0)]);
    grow(&mut shard, 16);
    let size = shard.events[0].size();
    let look = |shard: &Shard| -> CompactionTarget {
        shard
            .machine
            .compaction_target(&shard.engine, 3, 15 * size)
            .unwrap()
    };
    let ack = |name: &'static str, revision| {
        op(Op::ConsumerAck {
            name: name.into(),
            epoch: 1,
            revision,
        })
    };
    shard.one(0, ack("back", 20));
    let target = look(&shard);
    let (revision, pass_below) = (17, 3);
    assert_eq!(target, CompactionTarget { revision, pass_below });
    let floor = |shard: &mut Shard| match shard.one(0, op(target.into())) {
        OutcomeResult::Compact { floor } => floor,
        other => panic!("{other:?}"),
    };
    // One that is as far behind as the slow one may be passed as it is.
    let reset = |revision| {
        op(Op::ConsumerReset {
            name: "back".into(),
            revision,
        })
    };
    shard.run(0, [open("new", 9), reset(7)]);
    assert_eq!(floor(&mut shard), 7, "held by the one that was reset");
    assert_eq!(
        code(&shard.one(0, open("slow", 0))),
        Some(ErrorCode::Compacted),
        "it was to be passed"
    );
    shard.one(0, reset(20));
    assert_eq!(floor(&mut shard), 8, "held by the new one");
    shard.restart();
    assert_eq!(floor(&mut shard), 8);
    shard.one(0, ack("new", 20));
    assert_eq!(floor(&mut shard), 17);
}

#[test]
fn one_that_catches_up_meanwhile_is_not_passed() {
    let mut shard = Shard::new();
    shard.one(0, open("slow", 1));
    grow(&mut shard, 10);
    let target = shard.machine.compaction_target(&shard.engine, 1, 0).unwrap();
    let (revision, pass_below) = (9, 1);
    assert_eq!(target, CompactionTarget { revision, pass_below });
    let ack = Op::ConsumerAck {
        name: "slow".into(),
        epoch: 1,
        revision: 5,
    };
    shard.one(0, op(ack));
    assert_eq!(
        shard.one(0, op(target.into())),
        OutcomeResult::Compact { floor: 5 }
    );
    assert_eq!(
        shard.one(0, compact(9, u64::MAX)),
        OutcomeResult::Compact { floor: 9 },
        "unless all may be passed"
    );
}
