//! Whether clients were served while nothing was wrong: no shard may go without for long then.
//!
//! Pure. Only what proves service counts: operations that went through the shard's leader. That a majority serves after faults is for who
//! runs them to see; this is about the time without any.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    Verdict, facts,
    verdict::{Findings, Witness},
};
use crate::history::{Call, End, Mode, Nanos, Operation};

/// So many tries must have failed before a time without service is one: clients that ask for nothing are not served.
const TRIES: usize = 3;

/// A time in which a shard served nobody though nothing was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The shard.
    pub shard: u32,
    /// From then on, in nanoseconds: the end of the last fault, or when the last operation that succeeded was invoked.
    pub from: Nanos,
    /// Until then: when one succeeded again, something went wrong, or the history ends.
    pub until: Nanos,
    /// Operations that were invoked within, none of which succeeded.
    pub tries: usize,
    /// The first of these.
    pub shown: Vec<usize>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |at: Nanos| at as f64 / 1e9;
        write!(
            f,
            "shard {} served none of {} operations from {:.1} s to {:.1} s, and nothing was wrong meanwhile",
            self.shard,
            self.tries,
            seconds(self.from),
            seconds(self.until)
        )
    }
}

/// The tries of each shard: when invoked, when ended, whether they succeeded, which.
type Tries = BTreeMap<u32, Vec<(Nanos, Nanos, bool, usize)>>;

fn tries(operations: &[Operation], shard_of: &dyn Fn(u32) -> u32) -> Tries {
    let mut by_shard = Tries::new();
    for operation in operations.iter().filter(|one| proves_service(&one.call)) {
        let (ended, ok) = match &operation.end {
            End::Ok(ended, _) => (*ended, true),
            End::Fail(ended, _) => (*ended, false),
            End::Unknown => (operation.invoked, false),
        };
        if let Some(partition) = facts::partition(&operation.call) {
            let tries = by_shard.entry(shard_of(partition)).or_default();
            tries.push((operation.invoked, ended, ok, operation.id));
        }
    }
    by_shard
}

/// Times of at least `patience`. `faults`: when something was wrong, begin and end.
pub fn gaps(
    operations: &[Operation],
    faults: &[(Nanos, Nanos)],
    shard_of: &dyn Fn(u32) -> u32,
    patience: Duration,
) -> Vec<Gap> {
    let by_shard = tries(operations, shard_of);
    let mut gaps = Vec::new();
    for span in long(operations, faults, patience) {
        for (shard, tries) in &by_shard {
            let found = longest(*shard, span, within(tries, span));
            gaps.extend(found.filter(|gap| Duration::from_nanos(gap.until - gap.from) >= patience));
        }
    }
    gaps
}

/// The checker `service`: there are no [`gaps`]. It counts the times without a fault in which one could have been found in any shard: as long
/// as that, and each shard was asked often enough.
pub fn check(
    operations: &[Operation],
    faults: &[(Nanos, Nanos)],
    shard_of: &dyn Fn(u32) -> u32,
    patience: Duration,
) -> Verdict {
    let by_shard = tries(operations, shard_of);
    let is_judged = |span: &(Nanos, Nanos)| {
        let mut shards = by_shard.values();
        shards.all(|tries| within(tries, *span).count() >= TRIES)
    };
    let spans = long(operations, faults, patience);
    let judged = spans.into_iter().filter(is_judged).count();
    let mut findings = Findings::default();
    findings.count("quiet times", judged as u64);
    for gap in gaps(operations, faults, shard_of, patience) {
        let witness = Witness::new("unserved", gap.to_string());
        findings.push(witness.operations(gap.shown));
    }
    findings.verdict()
}

/// The tries that were made in this time and had ended.
fn within(
    tries: &[(Nanos, Nanos, bool, usize)],
    (from, until): (Nanos, Nanos),
) -> impl Iterator<Item = &(Nanos, Nanos, bool, usize)> {
    let is_in = move |one: &&(Nanos, Nanos, bool, usize)| one.0 >= from && one.1 <= until;
    tries.iter().filter(is_in)
}

/// The longest time without success of one shard, of those with enough tries.
fn longest<'a>(
    shard: u32,
    (from, until): (Nanos, Nanos),
    tries: impl Iterator<Item = &'a (Nanos, Nanos, bool, usize)>,
) -> Option<Gap> {
    let mut served = vec![from, until];
    let mut failed = Vec::new();
    for (invoked, _, ok, id) in tries {
        match ok {
            true => served.push(*invoked),
            false => failed.push((*invoked, *id)),
        }
    }
    served.sort_unstable();
    let gap = |pair: &[Nanos]| {
        let (from, until) = (pair[0], pair[1]);
        let within = failed.iter().filter(|(at, _)| (from..until).contains(at));
        let ids: Vec<usize> = within.map(|(_, id)| *id).collect();
        Gap {
            shard,
            from,
            until,
            tries: ids.len(),
            shown: ids.into_iter().take(TRIES).collect(),
        }
    };
    let gaps = served.windows(2).map(gap).filter(|gap| gap.tries >= TRIES);
    gaps.max_by_key(|gap| gap.until - gap.from)
}

/// The times in which nothing was wrong that are at least so long.
fn long(operations: &[Operation], faults: &[(Nanos, Nanos)], patience: Duration) -> Vec<(Nanos, Nanos)> {
    let end = operations.iter().map(|one| one.invoked).max();
    let mut spans = quiet(faults, end.unwrap_or(0));
    spans.retain(|(from, until)| Duration::from_nanos(until - from) >= patience);
    spans
}

/// The times in which nothing was wrong, until `end`.
fn quiet(faults: &[(Nanos, Nanos)], end: Nanos) -> Vec<(Nanos, Nanos)> {
    let mut faults = faults.to_vec();
    faults.sort_unstable();
    let (mut quiet, mut from) = (Vec::new(), 0);
    for (begin, over) in faults.into_iter().chain([(end, end)]) {
        if begin > from {
            quiet.push((from, begin.min(end)));
        }
        from = from.max(over);
    }
    quiet.retain(|(from, until)| from < until);
    quiet
}

/// It is answered by whoever leads.
pub(crate) fn proves_service(call: &Call) -> bool {
    match call {
        Call::Read { mode, .. } | Call::List { mode, .. } | Call::Scan { mode, .. } => {
            *mode == Mode::Linearizable
        }
        // Between two pages the first one's revision may be compacted.
        Call::Pages(_)
        | Call::Watch { .. }
        | Call::WatchKeys { .. }
        | Call::Consume { .. }
        | Call::ConsumeAt { .. }
        | Call::Reset { .. }
        | Call::Forget { .. }
        | Call::Ack { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Key, Reply};

    const SECOND: Nanos = 1_000_000_000;

    /// An operation at so many seconds, which takes one.
    fn operation(at: u64, ok: bool) -> Operation {
        let key = Key { partition: 1, key: 1 };
        let ended = (at + 1) * SECOND;
        Operation {
            id: at as usize,
            process: 1,
            invoked: at * SECOND,
            first: 2 * at as usize,
            last: 2 * at as usize + 1,
            call: Call::Delete { key },
            end: match ok {
                true => End::Ok(ended, Reply::Acked),
                false => End::Fail(ended, "no_leader: nobody".into()),
            },
        }
    }

    fn found(operations: &[Operation], faults: &[(u64, u64)]) -> Vec<Gap> {
        let faults: Vec<_> = faults.iter().map(|(a, b)| (a * SECOND, b * SECOND)).collect();
        gaps(operations, &faults, &|_| 7, Duration::from_secs(10))
    }

    #[test]
    fn a_shard_that_serves_nobody_for_long_is_told() {
        let operations: Vec<Operation> = (0..30).map(|at| operation(at, !(5..20).contains(&at))).collect();
        let gap = Gap {
            shard: 7,
            from: 4 * SECOND,
            until: 20 * SECOND,
            tries: 15,
            shown: vec![5, 6, 7],
        };
        assert_eq!(found(&operations, &[]), std::slice::from_ref(&gap));
        assert_eq!(
            gap.to_string(),
            "shard 7 served none of 15 operations from 4.0 s to 20.0 s, and nothing was wrong meanwhile"
        );
    }

    #[test]
    fn what_goes_wrong_excuses_its_own_time_only() {
        let operations: Vec<Operation> = (0..30).map(|at| operation(at, !(5..20).contains(&at))).collect();
        assert_eq!(found(&operations, &[(3, 12)]), [], "8 s are left");
        assert_eq!(found(&operations, &[(3, 8)]).len(), 1, "12 s are left");
        assert_eq!(found(&operations, &[(3, 8), (15, 16)]), []);
    }

    fn judged(operations: &[Operation], faults: &[(u64, u64)]) -> Verdict {
        let faults: Vec<_> = faults.iter().map(|(a, b)| (a * SECOND, b * SECOND)).collect();
        check(operations, &faults, &|_| 7, Duration::from_secs(10))
    }

    #[test]
    fn times_that_are_long_enough_to_judge_are_counted() {
        let count = |operations: &[Operation], faults: &[(u64, u64)]| match judged(operations, faults) {
            Verdict::Valid { stats } => stats["quiet times"],
            other => {
                assert!(other.is_empty(), "{other}");
                0
            }
        };
        let all: Vec<Operation> = (0..=40).map(|at| operation(at, true)).collect();
        assert_eq!(count(&all, &[]), 1);
        assert_eq!(count(&all, &[(10, 20)]), 2, "10 s before, and 20 s after");
        assert_eq!(count(&all, &[(9, 20)]), 1, "9 s are too short");
        assert_eq!(count(&all, &[(9, 20), (29, 31)]), 0);
        let few: Vec<Operation> = [0, 1, 2, 30, 40].map(|at| operation(at, true)).to_vec();
        assert_eq!(count(&few, &[(5, 20)]), 0, "one was tried in 20 s");
    }

    #[test]
    fn a_shard_that_nobody_asks_is_not_judged() {
        let mut operations: Vec<Operation> = (0..=40).map(|at| operation(at, true)).collect();
        let key = Key { partition: 2, key: 1 };
        operations[3].call = Call::Delete { key };
        let verdict = check(&operations, &[], &|partition| partition, Duration::from_secs(10));
        assert!(verdict.is_empty(), "{verdict}");
    }

    #[test]
    fn who_was_not_served_is_shown() {
        let operations: Vec<Operation> = (0..30).map(|at| operation(at, !(5..20).contains(&at))).collect();
        let Verdict::Invalid { witness, others: 0 } = judged(&operations, &[]) else {
            panic!("it is not found");
        };
        assert_eq!((witness.rule, witness.operations), ("unserved", vec![5, 6, 7]));
        assert!(judged(&operations, &[(3, 12)]).is_valid(), "8 s are left");
        let served: Vec<Operation> = (0..30).map(|at| operation(at, !(5..14).contains(&at))).collect();
        let Verdict::Invalid { .. } = judged(&served, &[]) else {
            panic!("10 s, from 4 to 14");
        };
        let sooner: Vec<Operation> = (0..30).map(|at| operation(at, !(5..13).contains(&at))).collect();
        assert!(judged(&sooner, &[]).is_valid());
    }

    #[test]
    fn who_asks_for_nothing_is_not_served_and_that_is_well() {
        let few: Vec<Operation> = [0, 6, 12, 25].map(|at| operation(at, at % 25 == 0)).to_vec();
        assert_eq!(found(&few, &[]), []);
        assert_eq!(found(&[], &[]), []);
    }
}
