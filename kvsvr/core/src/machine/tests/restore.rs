//! A shard that is restored from a backup is what it was, under another number; and nothing else while it is being restored.

use super::*;
use crate::restore::Parts;

const OTHER: ShardId = ShardId(9);

/// A shard's backup: the rows of each part, and the head row.
fn backup(engine: &MemEngine, shard: ShardId, bytes: usize) -> (Vec<Bytes>, Bytes) {
    let mut reading = Parts::new(engine, shard);
    let mut parts = Vec::new();
    loop {
        let part = reading.next_part(bytes).unwrap();
        if part.is_empty() {
            break;
        }
        parts.push(part);
    }
    // As of a shard that is empty.
    parts.push(Bytes::new());
    (parts, shard_head(engine, shard).unwrap().encode())
}

fn restores((parts, head): &(Vec<Bytes>, Bytes)) -> Vec<Op> {
    let last = parts.len() - 1;
    let restore = |(number, rows): (usize, &Bytes)| Op::Restore {
        backup: 7,
        number: number as u64,
        rows: rows.clone(),
        head: (number == last).then(|| head.clone()),
    };
    parts.iter().enumerate().map(restore).collect()
}

fn other() -> Shard {
    let mut shard = Shard::new();
    shard.machine = Machine::load(OTHER, &shard.engine).unwrap();
    shard
}

fn code(outcome: &OutcomeResult) -> Option<ErrorCode> {
    match outcome {
        OutcomeResult::Rejected(rejection) => Some(rejection.code),
        _ => None,
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_restored_shard_is_what_it_was(
        log in any_log(25),
        bytes in 1..3_000usize,
        restarts in vec(any::<bool>(), 1..8),
    ) {
        let engine = MemEngine::new();
        let (machine, ..) = log.run(SHARD, &engine, &[usize::MAX], |_, _| {});
        let saved = backup(&engine, SHARD, bytes);
        let mut shard = other();
        let mut restarts = restarts.into_iter().cycle();
        for (number, restore) in restores(&saved).into_iter().enumerate() {
            if restarts.next().unwrap() {
                shard.machine = Machine::load(OTHER, &shard.engine).unwrap();
            }
            prop_assert!(number == 0 || shard.machine.is_restoring());
            let next = OutcomeResult::Restore { next: number as u64 + 1 };
            prop_assert_eq!(shard.one(0, op(restore)), next);
        }
        prop_assert!(!shard.machine.is_restoring());
        check_reads(&shard.engine, OTHER, &log.model().0);
        let loaded = Machine::load(OTHER, &shard.engine).unwrap();
        prop_assert_eq!(format!("{loaded:?}"), format!("{:?}", shard.machine));
        prop_assert_eq!(loaded.consumers().collect::<Vec<_>>(), machine.consumers().collect::<Vec<_>>());
        let same = |machine: &Machine| (machine.revision(), machine.floor(), machine.event_bytes(), machine.leases());
        prop_assert_eq!(same(&loaded), same(&machine));
        prop_assert_eq!(backup(&shard.engine, OTHER, bytes).0, saved.0);
        // And goes on alike: all that can expire does so.
        let mut original = Shard { engine, machine, events: Vec::new() };
        let end = u64::MAX / 2;
        for next in [op(Op::Expire { up_to_ms: end }), op(put("a"))] {
            prop_assert_eq!(shard.one(end, next.clone()), original.one(end, next));
            prop_assert_eq!(&shard.events, &original.events);
        }
    }

    #[test]
    fn arbitrary_parts_are_refused_whole(part in vec(any::<u8>(), 0..60)) {
        let mut shard = other();
        let restore = Op::Restore { backup: 7, number: 0, rows: part.into(), head: None };
        let before = all_rows(&shard.engine);
        let outcome = shard.one(0, op(restore));
        if code(&outcome).is_some() {
            // The head row is new.
            prop_assert!(!shard.machine.is_restoring());
            prop_assert_eq!(all_rows(&shard.engine).len(), before.len());
            prop_assert_eq!(shard.engine.rows(Cf::Data).len(), 0);
        }
    }
}

#[test]
fn a_shard_that_is_being_restored_takes_nothing_else() {
    let mut original = Shard::new();
    for key in ["a", "b", "c"] {
        original.one(5, op(put(key)));
    }
    let restores = restores(&backup(&original.engine, SHARD, 1));
    let mut shard = other();
    let session = match shard.one(0, op(Op::SessionOpen)) {
        OutcomeResult::Session { id } => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        shard.one(0, op(restores[0].clone())),
        OutcomeResult::Restore { next: 1 }
    );
    let write = in_session(session, 1, 1, put("x"));
    assert_eq!(code(&shard.one(0, write.clone())), Some(ErrorCode::NotReady));
    // Out of order, and again.
    assert_eq!(
        code(&shard.one(0, op(restores[2].clone()))),
        Some(ErrorCode::Invalid)
    );
    assert_eq!(
        shard.one(0, op(restores[0].clone())),
        OutcomeResult::Restore { next: 1 }
    );
    for restore in &restores[1..] {
        assert_eq!(code(&shard.one(0, op(restore.clone()))), None);
    }
    let all = restores.len() as u64;
    let again = restores.last().unwrap().clone();
    assert_eq!(shard.one(0, op(again)), OutcomeResult::Restore { next: all });
    // The refusal was not remembered: the write goes through when it is sent again.
    assert_eq!(shard.one(9, write), OutcomeResult::Put { version: 1 });
    assert_eq!(shard.machine.revision(), 4);
}

#[test]
fn nothing_is_restored_over_data() {
    let mut original = Shard::new();
    original.one(5, op(put("a")));
    let restores = restores(&backup(&original.engine, SHARD, 1_000));
    let refused = original.one(6, op(restores[0].clone()));
    assert_eq!(code(&refused), Some(ErrorCode::Refused));
    let mut restored = other();
    let of_another = |restore: &Op| match restore.clone() {
        Op::Restore {
            number, rows, head, ..
        } => Op::Restore {
            backup: 8,
            number,
            rows,
            head,
        },
        other => other,
    };
    for restore in &restores {
        assert_eq!(code(&restored.one(0, op(restore.clone()))), None);
        let another = restored.one(0, op(of_another(restore)));
        assert_eq!(code(&another), Some(ErrorCode::Refused), "parts of two backups");
    }
    let more = Op::Restore {
        backup: 7,
        number: restores.len() as u64,
        rows: Bytes::new(),
        head: None,
    };
    assert_eq!(code(&restored.one(0, op(more))), Some(ErrorCode::Refused));
    // Ids that clients of the original hold are not given out again.
    let opened = restored.one(0, op(Op::SessionOpen));
    assert!(matches!(opened, OutcomeResult::Session { id } if id > RESTORED_IDS_APART));
}
