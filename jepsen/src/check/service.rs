//! Whether clients were served while nothing was wrong: no shard may go without for long then.
//!
//! Pure. Only what proves service counts: operations that went through the shard's leader. That a majority serves after faults is for who
//! runs them to see; this is about the time without any.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::facts;
use crate::history::{Call, End, Mode, Nanos, Operation};

/// So many tries must have failed before a time without service is one: clients that ask for nothing are not served.
const TRIES: usize = 3;

/// A time in which a shard served nobody though nothing was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The shard.
    pub shard: u32,
    /// From then on, in nanoseconds: the end of the last fault, or when the last operation that succeeded was invoked.
    pub from: Nanos,
    /// Until then: when one succeeded again, something went wrong, or the history ends.
    pub until: Nanos,
    /// Operations that were invoked within, none of which succeeded.
    pub tries: usize,
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

/// Times of at least `patience`. `faults`: when something was wrong, begin and end.
pub fn gaps(
    operations: &[Operation],
    faults: &[(Nanos, Nanos)],
    shard_of: &dyn Fn(u32) -> u32,
    patience: Duration,
) -> Vec<Gap> {
    let patience = patience.as_nanos() as Nanos;
    let mut by_shard: BTreeMap<u32, Vec<(Nanos, Nanos, bool)>> = BTreeMap::new();
    for operation in operations.iter().filter(|one| proves_service(&one.call)) {
        let (ended, ok) = match &operation.end {
            End::Ok(ended, _) => (*ended, true),
            End::Fail(ended, _) => (*ended, false),
            End::Unknown => (operation.invoked, false),
        };
        if let Some(partition) = facts::partition(&operation.call) {
            let tries = by_shard.entry(shard_of(partition)).or_default();
            tries.push((operation.invoked, ended, ok));
        }
    }
    let mut gaps = Vec::new();
    for (from, until) in quiet(
        faults,
        operations.iter().map(|one| one.invoked).max().unwrap_or(0),
    ) {
        for (shard, tries) in &by_shard {
            let within = tries
                .iter()
                .filter(|(invoked, ended, _)| *invoked >= from && *ended <= until);
            gaps.extend(
                longest(*shard, (from, until), within).filter(|gap| gap.until - gap.from >= patience),
            );
        }
    }
    gaps
}

/// The longest time without success of one shard, of those with enough tries.
fn longest<'a>(
    shard: u32,
    (from, until): (Nanos, Nanos),
    tries: impl Iterator<Item = &'a (Nanos, Nanos, bool)>,
) -> Option<Gap> {
    let mut served = vec![from, until];
    let mut failed = Vec::new();
    for (invoked, _, ok) in tries {
        if *ok { &mut served } else { &mut failed }.push(*invoked);
    }
    served.sort_unstable();
    let gap = |pair: &[Nanos]| {
        let (from, until) = (pair[0], pair[1]);
        let tries = failed.iter().filter(|at| (from..until).contains(*at)).count();
        Gap {
            shard,
            from,
            until,
            tries,
        }
    };
    let gaps = served.windows(2).map(gap).filter(|gap| gap.tries >= TRIES);
    gaps.max_by_key(|gap| gap.until - gap.from)
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
        };
        assert_eq!(found(&operations, &[]), [gap]);
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

    #[test]
    fn who_asks_for_nothing_is_not_served_and_that_is_well() {
        let few: Vec<Operation> = [0, 6, 12, 25].map(|at| operation(at, at % 25 == 0)).to_vec();
        assert_eq!(found(&few, &[]), []);
        assert_eq!(found(&[], &[]), []);
    }
}
