//! Histories by hand, and random ones of a correct bank.

use proptest::prelude::*;

use super::{super::testing::*, check};
use crate::{
    check::{Commit, Context, History, Verdict},
    history::{Call, Key, Reply, Revision, Row},
};

/// Partitions 0 and 10, of two shards; two accounts with 100 each.
fn accounts(context: &mut Context<'_>) {
    for partition in [0, 10] {
        for key in [1, 2] {
            context.accounts.insert(Key { partition, key }, 100);
        }
    }
}

fn verdict(script: Script) -> Verdict {
    script.check_with(check, accounts)
}

fn at_end(script: Script) -> Verdict {
    script.check_with(check, |context| {
        accounts(context);
        context.drained = true;
        context.final_from = Some(100);
    })
}

fn call_transfer(amount: u64) -> Call {
    Call::Transfer {
        partition: 0,
        from: 1,
        to: 2,
        amount,
    }
}

fn transfer(amount: u64, revision: Revision) -> (Call, Reply) {
    (call_transfer(amount), written(revision, 0))
}

fn all(partition: u32, revision: Revision, one: i64, two: i64) -> (Call, Reply) {
    let balances = vec![(1, one), (2, two)];
    (
        Call::Balances { partition },
        Reply::Balances { revision, balances },
    )
}

const FROM: Key = Key { partition: 0, key: 1 };
const TO: Key = Key {
    partition: 10,
    key: 1,
};

fn call_send() -> Call {
    Call::Send {
        from: FROM,
        to: TO,
        amount: 30,
        id: 7,
    }
}

fn call_receive(amount: u64) -> Call {
    Call::Receive {
        from: FROM,
        to: TO,
        amount,
        id: 7,
    }
}

/// A send that arrives.
fn sent() -> Script {
    Script::new()
        .ok(1, (1, 2), (call_send(), written(1, 0)))
        .ok(2, (3, 4), (call_receive(30), written(1, 0)))
}

#[test]
fn a_good_bank() {
    let script = Script::new()
        .ok(1, (1, 2), transfer(30, 1))
        .ok(2, (3, 4), all(0, 1, 70, 130))
        .unknown(3, (5, 6), call_transfer(10))
        .ok(2, (7, 8), all(0, 1, 70, 130))
        .ok(2, (9, 10), all(0, 2, 60, 140))
        .ok(2, (11, 12), (call_transfer(80), Reply::Mismatch { revision: 2 }))
        .ok(2, (101, 102), all(0, 2, 60, 140))
        .ok(2, (103, 104), all(10, 0, 100, 100));
    valid(at_end(script));
}

#[test]
fn a_good_send() {
    let script = sent()
        .ok(2, (5, 6), (call_receive(30), Reply::Mismatch { revision: 1 }))
        .ok(2, (101, 102), all(0, 1, 70, 100))
        .ok(2, (103, 104), all(10, 1, 130, 100));
    valid(at_end(script));
}

/// A send that arrived at revision 3 of its shard, if at all: its reception's outcome is unknown, and tried again.
fn received_perhaps(again: Reply) -> Script {
    Script::new()
        .ok(1, (1, 2), (call_send(), written(1, 0)))
        .unknown(2, (3, 4), call_receive(30))
        .ok(3, (5, 6), (call_receive(30), again))
}

#[test]
fn a_reception_is_settled_by_a_later_answer() {
    let mismatch = || received_perhaps(Reply::Mismatch { revision: 5 });
    // It arrived by revision 5, nobody knows when.
    valid(verdict(mismatch().ok(2, (7, 8), all(10, 4, 100, 100))));
    valid(verdict(mismatch().ok(2, (7, 8), all(10, 4, 130, 100))));
    valid(verdict(mismatch().ok(2, (7, 8), all(10, 5, 130, 100))));
    broken("sum", verdict(mismatch().ok(2, (7, 8), all(10, 5, 100, 100))));
    // The second try gave the money, so the first did not.
    let given = || received_perhaps(written(5, 0));
    valid(verdict(given().ok(2, (7, 8), all(10, 5, 130, 100))));
    broken("sum", verdict(given().ok(2, (7, 8), all(10, 5, 160, 100))));
    broken("sum", verdict(given().ok(2, (7, 8), all(10, 4, 130, 100))));
    // Two unknown ones give it once.
    let twice = Script::new()
        .ok(1, (1, 2), (call_send(), written(1, 0)))
        .unknown(2, (3, 4), call_receive(30))
        .unknown(3, (5, 6), call_receive(30));
    broken("sum", verdict(twice.ok(2, (7, 8), all(10, 5, 160, 100))));
}

#[test]
fn money_that_is_made() {
    broken("sum", verdict(Script::new().ok(1, (1, 2), all(0, 0, 100, 101))));
}

#[test]
fn half_a_transfer() {
    let script = Script::new()
        .unknown(1, (1, 2), call_transfer(30))
        .ok(2, (3, 4), all(0, 1, 70, 100));
    broken("sum", verdict(script));
}

#[test]
fn an_account_that_is_not_there() {
    let balances = vec![(1, 200)];
    let read = (
        Call::Balances { partition: 0 },
        Reply::Balances {
            revision: 0,
            balances,
        },
    );
    broken("sum", verdict(Script::new().ok(1, (1, 2), read)));
}

#[test]
fn an_account_below_zero() {
    let script = Script::new()
        .unknown(1, (1, 2), call_transfer(130))
        .ok(2, (3, 4), all(0, 1, -30, 230));
    broken("negative", verdict(script));
}

#[test]
fn a_lost_transfer() {
    let script = Script::new()
        .ok(1, (1, 2), transfer(30, 1))
        .ok(2, (3, 4), all(0, 1, 100, 100));
    let witness = broken("replay", verdict(script));
    assert_eq!(witness.operations, [0, 1]);
}

#[test]
fn a_transfer_twice() {
    let script = Script::new()
        .ok(1, (1, 2), transfer(30, 1))
        .ok(2, (3, 4), all(0, 2, 40, 160));
    broken("replay", verdict(script));
}

#[test]
fn a_balance_that_is_not_that_of_its_revision() {
    let row = Row {
        value: 60,
        create_rev: 1,
        mod_rev: 5,
        version: 2,
    };
    let reply = Reply::Row {
        revision: 5,
        row: Some(row),
        age_ms: 0,
    };
    let script = Script::new()
        .ok(1, (1, 2), transfer(30, 5))
        .ok(2, (3, 4), (call_read(k(1)), reply));
    broken("replay", verdict(script));
}

#[test]
fn a_payment_without_the_money() {
    broken("replay", verdict(Script::new().ok(1, (1, 2), transfer(101, 1))));
}

#[test]
fn a_refusal_with_the_money() {
    let refused = (call_transfer(100), Reply::Mismatch { revision: 0 });
    broken("replay", verdict(Script::new().ok(1, (1, 2), refused)));
}

#[test]
fn a_send_that_arrives_twice() {
    let script = sent().ok(3, (5, 6), (call_receive(30), written(2, 0)));
    broken("twice", verdict(script));
}

#[test]
fn a_reception_of_nothing() {
    let script = Script::new().ok(2, (3, 4), (call_receive(30), written(1, 0)));
    broken("phantom", verdict(script));
    let other = Script::new().ok(1, (1, 2), (call_send(), written(1, 0))).ok(
        2,
        (3, 4),
        (call_receive(31), written(1, 0)),
    );
    broken("phantom", verdict(other));
    let refused = Script::new().ok(1, (1, 2), (call_send(), written(1, 0))).ok(
        2,
        (3, 4),
        (call_receive(30), Reply::Mismatch { revision: 1 }),
    );
    broken("phantom", verdict(refused));
}

#[test]
fn a_send_that_does_not_arrive() {
    let script = Script::new()
        .ok(1, (1, 2), (call_send(), written(1, 0)))
        .ok(2, (101, 102), all(0, 1, 70, 100))
        .ok(2, (103, 104), all(10, 0, 100, 100));
    broken("lost", at_end(script));
}

#[test]
fn a_total_that_shrank() {
    // What left and what arrived is of unknown outcome, so that only the total tells.
    let script = Script::new()
        .unknown(1, (1, 2), call_send())
        .unknown(2, (3, 4), call_receive(30))
        .ok(2, (101, 102), all(0, 1, 70, 100))
        .ok(2, (103, 104), all(10, 0, 100, 100));
    broken("total", at_end(script));
}

#[test]
fn partitions_that_were_not_read_at_the_end_are_unknown() {
    unknown(at_end(sent().ok(2, (101, 102), all(0, 1, 70, 100))));
}

proptest! {
    #[test]
    fn a_correct_bank_is_accepted(plan in proptest::collection::vec((1..60u64, 0..5u8), 1..60)) {
        let mut script = Script::new();
        let (mut one, mut two, mut revision) = (100, 100, 0);
        for (at, (amount, fate)) in (1..).zip(plan) {
            let span = (10 * at, 10 * at + 5);
            if fate == 0 {
                script = script.ok(1, span, all(0, revision, one, two));
                continue;
            }
            let has_it = one >= amount as i64;
            if has_it && fate != 1 {
                one -= amount as i64;
                two += amount as i64;
                revision += 1;
            }
            script = match fate {
                1 | 2 => script.unknown(100 + at, span, call_transfer(amount)),
                _ if has_it => script.ok(1, span, transfer(amount, revision)),
                _ => script.ok(1, span, (call_transfer(amount), Reply::Mismatch { revision })),
            };
        }
        let verdict = verdict(script.ok(1, (5000, 5001), all(0, revision, one, two)));
        prop_assert!(verdict.is_valid(), "{}", verdict);
    }
}

#[test]
fn a_balance_that_a_watch_is_shown() {
    let watch = Call::Watch {
        partition: 0,
        after: 0,
    };
    let shown = |one, two| {
        let both = [change(1, FROM, Some(one)), change(1, k(2), Some(two))];
        let script = Script::new()
            .ok(9, (1, 2), (watch.clone(), Reply::Watching { after: 0, epoch: 0 }))
            .ok(1, (3, 4), transfer(10, 1))
            .seen(9, 5, changes(&both, 1));
        verdict(script)
    };
    valid(shown(90, 110));
    let witness = broken("replay", shown(95, 105));
    assert_eq!((witness.operations, witness.events), (vec![1], vec![4]));
}

#[test]
fn a_balance_in_the_committed_log() {
    let script = || Script::new().ok(1, (3, 4), transfer(10, 1));
    let with = |money| {
        let log = [Commit {
            shard: 1,
            index: 1,
            revision: 1,
            changes: vec![change(1, FROM, Some(money))],
        }];
        let events = script().events();
        let mut context = Context::new(&shard_of);
        accounts(&mut context);
        context.committed = Some(&log);
        check(&History::new(&events), &context)
    };
    valid(with(90));
    broken("replay", with(95));
}
