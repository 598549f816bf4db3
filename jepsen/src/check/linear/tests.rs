//! Histories by hand, random ones of a correct key, and a comparison with all permutations.

use proptest::prelude::*;

use super::{
    super::testing::*,
    check,
    search::{Entry, Found, Op, State, beginning, search},
};
use crate::history::{Call, Mode, Reply};

const MEMORY: usize = 1 << 28;

fn cas(from: u64, to: u64, reply: Reply) -> (Call, Reply) {
    (Call::Cas { key: k(1), from, to }, reply)
}

/// A read without regard to revisions.
fn sees(value: Option<u64>) -> (Call, Reply) {
    read(k(1), 0, value.map(|value| (value, 0, 0, 0)))
}

fn writes(value: u64) -> (Call, Reply) {
    write(k(1), value, 0, 0)
}

#[test]
fn concurrent_operations_in_any_order_are_valid() {
    let script = Script::new()
        .ok(1, (1, 10), writes(1))
        .ok(2, (2, 9), writes(2))
        .ok(3, (3, 4), sees(Some(2)))
        .ok(3, (5, 6), sees(Some(1)))
        .ok(3, (11, 12), sees(Some(1)))
        .ok(4, (13, 14), cas(1, 3, written(0, 0)))
        .ok(4, (15, 16), cas(1, 4, Reply::Mismatch { revision: 0 }))
        .ok(4, (17, 18), delete(k(1), 0, true))
        .ok(4, (19, 20), delete(k(1), 0, false))
        .ok(4, (21, 22), sees(None));
    valid(script.check(check));
}

#[test]
fn a_stale_read() {
    let script = Script::new()
        .ok(1, (1, 2), writes(1))
        .ok(1, (3, 4), writes(2))
        .ok(2, (5, 6), sees(Some(1)));
    let witness = broken("linearizability", script.check(check));
    assert_eq!(witness.operations, [0, 1, 2]);
    assert!(witness.explanation.contains("no order explains #2"), "{witness}");
}

#[test]
fn a_lost_write() {
    let script = Script::new().ok(1, (1, 2), writes(1)).ok(2, (5, 6), sees(None));
    broken("linearizability", script.check(check));
}

#[test]
fn two_reads_in_opposite_orders() {
    let script = Script::new()
        .ok(1, (1, 20), writes(1))
        .ok(2, (2, 19), writes(2))
        .ok(3, (3, 4), sees(Some(1)))
        .ok(3, (5, 6), sees(Some(2)))
        .ok(3, (7, 8), sees(Some(1)));
    broken("linearizability", script.check(check));
}

#[test]
fn two_cas_from_one_value() {
    let script = Script::new()
        .ok(1, (1, 2), writes(1))
        .ok(1, (3, 10), cas(1, 2, written(0, 0)))
        .ok(2, (4, 9), cas(1, 3, written(0, 0)));
    broken("linearizability", script.check(check));
}

#[test]
fn a_mismatch_with_the_right_value() {
    let script =
        Script::new()
            .ok(1, (1, 2), writes(1))
            .ok(1, (3, 4), cas(1, 2, Reply::Mismatch { revision: 0 }));
    broken("linearizability", script.check(check));
}

#[test]
fn a_deletion_that_found_nothing() {
    let script = Script::new()
        .ok(1, (1, 2), writes(1))
        .ok(1, (3, 4), delete(k(1), 0, false));
    broken("linearizability", script.check(check));
}

#[test]
fn an_unknown_write_may_happen_at_any_later_time_or_never() {
    let script = || {
        Script::new()
            .ok(1, (1, 2), writes(1))
            .unknown(2, (3, 4), call_write(k(1), 2))
            .ok(1, (5, 6), sees(Some(1)))
    };
    valid(script().check(check));
    valid(script().ok(1, (7, 8), sees(Some(2))).check(check));
    let undone = script()
        .ok(1, (7, 8), sees(Some(2)))
        .ok(1, (9, 10), sees(Some(1)));
    broken("linearizability", undone.check(check));
}

#[test]
fn a_failed_write_never_happens() {
    let script = Script::new()
        .fail(2, (3, 4), call_write(k(1), 2))
        .ok(1, (5, 6), sees(Some(2)));
    broken("linearizability", script.check(check));
}

#[test]
fn an_increment_applied_twice() {
    let add = |value| {
        let call = Call::Increment { key: k(1), delta: 2 };
        (call, Reply::Number { revision: 0, value })
    };
    let count = |value| (Call::Count { key: k(1) }, Reply::Number { revision: 0, value });
    valid(
        Script::new()
            .ok(1, (1, 2), add(2))
            .ok(1, (3, 4), add(4))
            .ok(1, (5, 6), count(4))
            .check(check),
    );
    broken(
        "linearizability",
        Script::new()
            .ok(1, (1, 2), add(2))
            .ok(1, (5, 6), count(4))
            .check(check),
    );
}

#[test]
fn weaker_reads_and_keys_with_a_ttl_are_not_looked_at() {
    let ttl = Call::Write {
        key: k(2),
        value: 7,
        ttl_ms: 5,
        lease: 0,
    };
    let script = Script::new()
        .ok(1, (1, 2), writes(1))
        .ok(1, (3, 4), read_as(Mode::Local, k(1), 0, None))
        .ok(1, (5, 6), (ttl, written(0, 0)))
        .ok(1, (7, 8), read(k(2), 0, None));
    valid(script.check(check));
}

/// It has something before the first operation.
#[test]
fn an_account_that_nobody_pays_is_not_looked_at() {
    let script = || {
        Script::new()
            .ok(1, (1, 2), writes(1))
            .ok(1, (3, 4), read(k(2), 3, Some((100, 3, 3, 1))))
    };
    broken("linearizability", script().check(check));
    valid(script().check_with(check, |context| {
        context.accounts.insert(k(2), 100);
    }));
}

#[test]
fn nothing_to_check_is_unknown() {
    unknown(Script::new().check(check));
}

#[test]
fn too_little_memory_is_unknown() {
    let script = Script::new().ok(1, (1, 2), writes(1)).ok(1, (3, 4), writes(2));
    unknown(script.check_with(check, |context| context.cache_bytes = 0));
}

#[test]
fn many_unknown_writes_do_not_make_the_search_long() {
    let mut script = Script::new().ok(1, (1, 2), writes(1));
    for i in 0..40 {
        script = script.unknown(100 + i, (10 + 2 * i, 11 + 2 * i), call_write(k(1), 1000 + i));
    }
    // Nobody could have removed it.
    let script = script.ok(1, (1000, 1001), sees(None));
    broken(
        "linearizability",
        script.check_with(check, |context| context.cache_bytes = 1 << 16),
    );
}

/// Repeatable numbers that look random.
fn scramble(seed: u64) -> u64 {
    let mixed = (seed ^ (seed >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 29)
}

#[test]
fn ten_thousand_operations_of_ten_clients_on_one_key() {
    // Each value is written once.
    let ask = |at: u64, n: u64| match n % 8 {
        0..4 => Ask::Read,
        4..6 => Ask::Write(at),
        6 => Ask::Cas(at.saturating_sub(1 + n / 8 % 4), at),
        _ => Ask::Delete,
    };
    let plan: Vec<Plan> = (0..10_000)
        .map(|at| {
            let n = scramble(at);
            // Some outcomes are unknown.
            let fate = if at % 500 == 499 {
                250 + (n % 4) as u8
            } else {
                (n >> 40) as u8 % 250
            };
            ((n >> 50) as u8, ask(at, n >> 8), fate)
        })
        .collect();
    let mut entries = run(&plan, 10);
    assert!(matches!(search(&entries, MEMORY), Found::Order));
    entries.push(Entry {
        id: entries.len(),
        op: Op::Read(Some(1_000_000)),
        first: usize::MAX - 2,
        last: usize::MAX - 1,
    });
    assert!(matches!(search(&entries, MEMORY), Found::Stuck(_)));
}

// A simulated key: operations that take effect at a moment between their call and return.

#[derive(Clone, Copy, Debug)]
enum Ask {
    Read,
    Write(u64),
    Cas(u64, u64),
    Delete,
    Add(i64),
    Count,
}

fn asks(counter: bool) -> BoxedStrategy<Ask> {
    if counter {
        prop_oneof![(1..4i64).prop_map(Ask::Add), Just(Ask::Count)].boxed()
    } else {
        prop_oneof![
            3 => Just(Ask::Read),
            2 => (0..4u64).prop_map(Ask::Write),
            2 => (0..4u64, 0..4u64).prop_map(|(from, to)| Ask::Cas(from, to)),
            1 => Just(Ask::Delete),
        ]
        .boxed()
    }
}

fn answer(ask: Ask, state: &mut State) -> Op {
    let op = match ask {
        Ask::Read => Op::Read(*state),
        Ask::Write(value) => Op::Write(value),
        Ask::Cas(from, to) if *state == Some(from) => Op::Cas(from, to),
        Ask::Cas(from, _) => Op::Mismatch(from),
        Ask::Delete => Op::Delete(Some(state.is_some())),
        Ask::Add(delta) => Op::Add(delta, Some(state.unwrap_or(0) as i64 + delta)),
        Ask::Count => Op::Count(state.unwrap_or(0) as i64),
    };
    *state = op.step(*state).unwrap();
    op
}

/// What an operation of unknown outcome looks like.
fn forgotten(op: Op, ask: Ask) -> Op {
    match (op, ask) {
        (Op::Mismatch(_), Ask::Cas(from, to)) => Op::Cas(from, to),
        (Op::Delete(_), _) => Op::Delete(None),
        (Op::Add(delta, _), _) => Op::Add(delta, None),
        (op, _) => op,
    }
}

/// One operation: who, what, how long before and after its moment it begins and ends, and whether its outcome gets lost, 0 = before it
/// took effect, 1 = after.
type Plan = (u8, Ask, u8);

/// Lets each of some clients do its operations one after the other; an operation takes effect at its place in the plan.
fn run(plan: &[Plan], clients: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut state = None;
    let mut free_at = vec![0; clients];
    for (at, (client, ask, fate)) in plan.iter().enumerate() {
        let client = usize::from(*client) % clients;
        let moment = 1000 * (at + 1);
        let spread = 997 * usize::from(*fate % 8);
        // A client is free when its operation before is over.
        let first = (moment + client).saturating_sub(spread).max(free_at[client] + 1);
        let last = moment + 100 + client + spread;
        let lost = *fate >= 250;
        let op = if lost && *fate % 2 == 0 {
            // It never took effect.
            forgotten(answer(*ask, &mut state.clone()), *ask)
        } else {
            answer(*ask, &mut state)
        };
        let op = if lost { forgotten(op, *ask) } else { op };
        if first > moment + client {
            // The client is still busy at that moment; somebody else does it.
            entries.push(Entry {
                id: at,
                op,
                first: moment + 50,
                last: if lost { usize::MAX } else { moment + 51 },
            });
            continue;
        }
        free_at[client] = last;
        let last = if lost { usize::MAX } else { last };
        entries.push(Entry {
            id: at,
            op,
            first,
            last,
        });
    }
    entries.sort_by_key(|entry| entry.first);
    entries
}

fn plans(
    counter: bool,
    length: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<Plan>> {
    proptest::collection::vec((any::<u8>(), asks(counter), any::<u8>()), length)
}

/// Tries all orders.
fn brute_force(left: &mut Vec<Entry>, state: State) -> bool {
    let Some(bound) = left
        .iter()
        .map(|entry| entry.last)
        .filter(|last| *last != usize::MAX)
        .min()
    else {
        return true;
    };
    for at in 0..left.len() {
        let entry = left[at];
        if entry.first > bound {
            continue;
        }
        if let Some(next) = entry.op.step(state) {
            left.remove(at);
            let found = brute_force(left, next);
            left.insert(at, entry);
            if found {
                return true;
            }
        }
    }
    false
}

fn any_register_op() -> impl Strategy<Value = Op> {
    let value = 0..3u64;
    prop_oneof![
        proptest::option::of(value.clone()).prop_map(Op::Read),
        value.clone().prop_map(Op::Write),
        (value.clone(), value.clone()).prop_map(|(from, to)| Op::Cas(from, to)),
        value.prop_map(Op::Mismatch),
        proptest::option::of(any::<bool>()).prop_map(Op::Delete),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        any_register_op(),
        (1..3i64, proptest::option::of(0..4i64)).prop_map(|(delta, sum)| Op::Add(delta, sum)),
        (0..4i64).prop_map(Op::Count),
    ]
}

/// Up to 7 operations at random places, returned or not.
fn any_entries(op: impl Strategy<Value = Op>) -> impl Strategy<Value = Vec<Entry>> {
    proptest::collection::vec((op, 0..40usize, 1..20usize, 0..8u8), 1..=7).prop_map(|ops| {
        let entry = |(id, (op, first, length, fate)): (usize, (Op, usize, usize, u8))| {
            // No two places are the same.
            let place = |place: usize| place * 16 + id;
            let is_lost = fate == 0;
            let op = match op {
                Op::Delete(Some(_)) | Op::Delete(None) if is_lost => Op::Delete(None),
                Op::Add(delta, _) if is_lost => Op::Add(delta, None),
                Op::Delete(None) => Op::Delete(Some(true)),
                Op::Add(delta, None) => Op::Add(delta, Some(delta)),
                op => op,
            };
            Entry {
                id,
                op,
                first: place(first),
                last: if is_lost {
                    usize::MAX
                } else {
                    place(first + length)
                },
            }
        };
        let mut entries: Vec<_> = ops.into_iter().enumerate().map(entry).collect();
        entries.sort_by_key(|entry| entry.first);
        entries
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_all_permutations_of_a_register(entries in any_entries(any_register_op())) {
        let is_found = matches!(search(&entries, MEMORY), Found::Order);
        prop_assert_eq!(is_found, brute_force(&mut entries.clone(), None));
    }

    #[test]
    fn agrees_with_all_permutations_of_numbers(entries in any_entries(any_op())) {
        let is_found = matches!(search(&entries, MEMORY), Found::Order);
        prop_assert_eq!(is_found, brute_force(&mut entries.clone(), None));
    }

    /// The operation that is named is the first whose return cannot be explained.
    #[test]
    fn names_the_first_that_cannot_be_explained(entries in any_entries(any_register_op())) {
        if let Found::Stuck(stuck) = search(&entries, MEMORY) {
            let culprit = entries.iter().find(|entry| entry.id == stuck.culprit).unwrap().last;
            prop_assert!(!brute_force(&mut beginning(&entries, culprit), None));
            prop_assert!(brute_force(&mut beginning(&entries, culprit - 1), None));
        }
    }
}

proptest! {
    #[test]
    fn a_correct_register_is_accepted(plan in plans(false, 1..200), clients in 1..8usize) {
        let entries = run(&plan, clients);
        prop_assert!(matches!(search(&entries, MEMORY), Found::Order));
    }

    #[test]
    fn a_correct_counter_is_accepted(plan in plans(true, 1..200), clients in 1..8usize) {
        let entries = run(&plan, clients);
        prop_assert!(matches!(search(&entries, MEMORY), Found::Order));
    }

    #[test]
    fn a_stale_read_at_the_end_is_rejected(plan in plans(false, 1..100), clients in 1..8usize) {
        let mut entries = run(&plan, clients);
        let end = 1_000_000;
        for (id, (op, first)) in [Op::Write(50), Op::Write(51), Op::Read(Some(50))].into_iter().zip(0..).enumerate() {
            let first = end + 10 * first;
            entries.push(Entry { id: 1000 + id, op, first, last: first + 1 });
        }
        let found = search(&entries, MEMORY);
        let Found::Stuck(stuck) = found else { panic!("{found:?}") };
        prop_assert_eq!(stuck.culprit, 1002);
    }

    #[test]
    fn a_read_of_another_number_is_rejected(plan in plans(true, 1..100), clients in 1..8usize) {
        let mut entries = run(&plan, clients);
        let most: i64 = entries.iter().map(|entry| if let Op::Add(delta, _) = entry.op { delta } else { 0 }).sum();
        entries.push(Entry { id: 1000, op: Op::Count(most + 1), first: 1_000_000, last: 1_000_001 });
        prop_assert!(matches!(search(&entries, MEMORY), Found::Stuck(_)));
    }
}
