//! What sessions remember, and its bounds.

use super::*;
use crate::codec::encode_outcome;

#[test]
fn a_full_window_is_overloaded_until_the_client_acknowledges() {
    let mut shard = Shard::new();
    shard.one(0, op(Op::SessionOpen));
    let window = MAX_SESSION_WINDOW as u64;
    let results = shard.run(1, (1..=window + 1).map(|seq| in_session(1, seq, 1, put("k"))));
    assert_eq!(
        results.iter().filter(|result| code(result).is_none()).count(),
        MAX_SESSION_WINDOW
    );
    assert_eq!(code(&results[MAX_SESSION_WINDOW]), Some(ErrorCode::Overloaded));
    shard.restart();
    // Refused again, not remembered: with room it runs.
    assert_eq!(
        code(&shard.one(1, in_session(1, window + 1, 1, put("k")))),
        Some(ErrorCode::Overloaded)
    );
    let version = window + 1;
    let retried = shard.one(1, in_session(1, window + 1, 2, put("k")));
    assert_eq!(retried, OutcomeResult::Put { version });
    assert_eq!(
        shard.one(2, in_session(1, window + 1, 2, put("k"))),
        OutcomeResult::Put { version }
    );
    assert_eq!(
        code(&shard.one(2, in_session(1, 1, 1, put("k")))),
        Some(ErrorCode::ResultForgotten)
    );
    assert_eq!(shard.machine.revision(), version);
}

#[test]
fn rows_of_a_session_go_when_all_in_them_is_acknowledged() {
    let mut shard = Shard::new();
    shard.one(0, op(Op::SessionOpen));
    shard.run(1, [1, 4].map(|seq| in_session(1, seq, 1, put("k"))));
    shard.run(1, [2, 3].map(|seq| in_session(1, seq, 1, put("k"))));
    let rows = |shard: &Shard| shard.engine.rows(Cf::State).len();
    let before = rows(&shard);
    shard.run(1, [in_session(1, 5, 4, put("k"))]);
    assert_eq!(rows(&shard), before, "one row more, that of 2 and 3 is gone");
    assert_eq!(
        shard.one(1, in_session(1, 4, 4, put("k"))),
        OutcomeResult::Put { version: 2 }
    );
}

#[test]
fn a_long_outcome_is_remembered_only_as_applied() {
    let mut shard = Shard::new();
    let value = Bytes::from(vec![7; MAX_REMEMBERED_OUTCOME]);
    shard.run(0, [op(Op::SessionOpen), op(put_value("k", value))]);
    let txn = Txn {
        then_ops: vec![
            TxnOp::Get {
                key: "k".into(),
                revision: None,
            },
            TxnOp::Increment {
                key: "n".into(),
                delta: 1,
            },
        ],
        ..Txn::default()
    };
    let txn = in_session(1, 1, 1, Op::Txn(txn));
    assert!(matches!(shard.one(0, txn.clone()), OutcomeResult::Txn(result) if result.results.len() == 2));
    for _ in 0..2 {
        assert_eq!(code(&shard.one(0, txn.clone())), Some(ErrorCode::ResultForgotten));
        shard.restart();
    }
    assert_eq!(shard.machine.revision(), 2);
}

/// A shard with a key, and a transaction whose outcome has nearly [`MAX_REMEMBERED_OUTCOME`] bytes.
fn long_outcomes() -> (Shard, Op) {
    let mut shard = Shard::new();
    let value = Bytes::from(vec![7; MAX_REMEMBERED_OUTCOME - 100]);
    shard.one(0, op(put_value("k", value)));
    let get = Op::Txn(Txn {
        then_ops: vec![TxnOp::Get {
            key: "k".into(),
            revision: None,
        }],
        ..Txn::default()
    });
    (shard, get)
}

#[test]
fn a_session_without_bytes_left_remembers_that_commands_were_applied() {
    let (mut shard, get) = long_outcomes();
    shard.one(0, op(Op::SessionOpen));
    let window = MAX_SESSION_WINDOW as u64;
    let command = |seq| in_session(1, seq, 1, get.clone());
    // The lowest number comes last: until then nothing can be acknowledged.
    for seqs in [2..=window, 1..=1] {
        let results = shard.run(1, seqs.map(command));
        assert!(
            results.iter().all(|result| code(result).is_none()),
            "none is refused"
        );
    }
    for seq in [window + 1, window + 2] {
        assert_eq!(code(&shard.one(1, command(seq))), Some(ErrorCode::Overloaded));
        shard.restart();
    }
    let again: Vec<_> = (1..=window)
        .map(|seq| code(&shard.one(1, command(seq))))
        .collect();
    let whole = again.iter().filter(|code| code.is_none()).count();
    assert!(whole > MAX_SESSION_BYTES / MAX_REMEMBERED_OUTCOME / 3, "{whole}");
    let stubs = again
        .iter()
        .filter(|code| **code == Some(ErrorCode::ResultForgotten));
    assert_eq!(whole + stubs.count(), MAX_SESSION_WINDOW);
    assert_eq!(
        again[0],
        Some(ErrorCode::ResultForgotten),
        "the last one that came"
    );
    // What is acknowledged makes room for whole ones.
    for _ in 0..2 {
        assert_eq!(
            code(&shard.one(1, in_session(1, window + 1, window, get.clone()))),
            None
        );
    }
}

/// Whatever is acknowledged makes room for a stub at least, and what is as short as one is kept.
#[test]
fn a_session_without_bytes_left_keeps_short_outcomes() {
    let (mut shard, get) = long_outcomes();
    shard.one(0, op(Op::SessionOpen));
    shard.run(1, (1..=2000).map(|seq| in_session(1, seq, 1, put("short"))));
    shard.run(1, (2001..=2300).map(|seq| in_session(1, seq, 1, get.clone())));
    let last = code(&shard.one(1, in_session(1, 2300, 1, get)));
    assert_eq!(last, Some(ErrorCode::ResultForgotten), "no bytes are left");
    for _ in 0..2 {
        let puts = (2301..=2400).map(|seq| in_session(1, seq, 2001, put("short")));
        let results = shard.run(1, puts);
        assert!(results.iter().all(|result| code(result).is_none()));
    }
}

#[test]
fn a_stub_has_the_bytes_that_are_reserved_for_it() {
    assert!(encode_outcome(&super::super::sessions::stub(u64::MAX)).len() <= MAX_STUB);
}

#[test]
fn remembered_bytes_are_bounded_for_the_shard() {
    let (mut shard, get) = long_outcomes();
    let in_each = (MAX_SESSION_BYTES / MAX_REMEMBERED_OUTCOME) as u64;
    // A third of a session's bytes at least are for whole outcomes.
    let sessions = 3 * (MAX_SESSIONS_BYTES / MAX_SESSION_BYTES) as u64 + 2;
    for session in 1..=sessions {
        shard.one(session, op(Op::SessionOpen));
        shard.run(
            session,
            (1..=in_each).map(|seq| in_session(session, seq, 1, get.clone())),
        );
        assert_eq!(
            code(&shard.one(session, in_session(session, in_each, 1, get.clone()))),
            Some(ErrorCode::ResultForgotten),
            "each is bounded"
        );
    }
    let (mut alive, mut closed) = (0, 0);
    for session in 1..=sessions {
        match code(&shard.one(sessions, in_session(session, 1, 1, get.clone()))) {
            None => alive += 1,
            Some(ErrorCode::SessionExpired) => {
                assert_eq!(alive, 0, "the longest unused go first");
                closed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(closed > 0 && alive > 0);
    shard.restart();
    assert_eq!(shard.machine.sessions(), alive);
}

#[test]
fn the_longest_unused_session_makes_room() {
    let mut shard = Shard::new();
    shard.run(0, (0..MAX_SESSIONS).map(|_| op(Op::SessionOpen)));
    shard.one(5, in_session(1, 1, 1, put("k")));
    shard.one(6, op(Op::SessionOpen));
    assert_eq!(shard.machine.sessions(), MAX_SESSIONS);
    assert_eq!(code(&shard.one(6, in_session(1, 2, 1, put("k")))), None);
    assert_eq!(
        code(&shard.one(6, in_session(2, 1, 1, put("k")))),
        Some(ErrorCode::SessionExpired)
    );
}

#[test]
fn idle_sessions_are_due_too() {
    let mut shard = Shard::new();
    shard.run(7, [op(Op::SessionOpen), op(Op::SessionOpen)]);
    shard.one(8, in_session(1, 1, 1, put("k")));
    let due = 7 + SESSION_IDLE_MS;
    shard.restart();
    assert_eq!(shard.machine.next_expiry(&shard.engine), Ok(Some(due)));
    shard.one(due, op(Op::Expire { up_to_ms: due }));
    assert_eq!(shard.machine.sessions(), 1);
    assert_eq!(shard.machine.next_expiry(&shard.engine), Ok(Some(due + 1)));
}
