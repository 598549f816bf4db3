//! How long clients went without service: after a fault began, and after it was healed, until an operation that was invoked from then on
//! had succeeded on every shard.
//!
//! Pure. Only operations that prove service count: writes, and reads that are linearizable. When other faults are under way while one
//! is recovered from, its time is theirs, too; so these are told apart.

use std::collections::BTreeMap;

use serde::Serialize;

use super::nemesis::{Injected, Outcome};
use crate::{
    check::{facts, service::proves_service},
    history::{End, Nanos, Operation},
};

/// Recovery from one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// The fault's place in the plan.
    pub fault: usize,
    /// Nanoseconds from its beginning until every shard had served; `None`: not before the run ended.
    pub after_begin: Option<Nanos>,
    /// Nanoseconds from its end until every shard had served.
    pub after_heal: Option<Nanos>,
    /// No other fault was under way at its end, until every shard had served.
    pub alone: bool,
}

/// Percentiles (nearest rank) of times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Half are at most this.
    pub p50: Nanos,
    /// 99 of 100 are at most this.
    pub p99: Nanos,
    /// All are at most this.
    pub max: Nanos,
}

impl Spread {
    /// Of these times.
    pub fn of(times: impl IntoIterator<Item = Nanos>) -> Self {
        let mut times: Vec<Nanos> = times.into_iter().collect();
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100);
            rank.checked_sub(1).map_or(0, |at| times[at])
        };
        Self {
            count: times.len(),
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

/// When each shard served.
#[derive(Debug)]
pub struct Service {
    /// Of each shard: when a successful operation was invoked, and the earliest end of it and of all later ones.
    shards: BTreeMap<u32, Vec<(Nanos, Nanos)>>,
}

impl Service {
    /// From a history's operations. Every shard counts that they ask; one of which nothing succeeds never serves.
    pub fn new(operations: &[Operation], shard_of: &dyn Fn(u32) -> u32) -> Self {
        let mut by_shard: BTreeMap<u32, Vec<(Nanos, Nanos)>> = BTreeMap::new();
        for operation in operations.iter().filter(|one| proves_service(&one.call)) {
            let Some(partition) = facts::partition(&operation.call) else {
                continue;
            };
            let served = by_shard.entry(shard_of(partition)).or_default();
            if let End::Ok(ended, _) = operation.end {
                served.push((operation.invoked, ended));
            }
        }
        for served in by_shard.values_mut() {
            served.sort_unstable();
            let mut earliest = Nanos::MAX;
            for (_, ended) in served.iter_mut().rev() {
                earliest = earliest.min(*ended);
                *ended = earliest;
            }
        }
        Self { shards: by_shard }
    }

    /// When an operation that was invoked at `from` or later had succeeded on every shard.
    pub fn again(&self, from: Nanos) -> Option<Nanos> {
        let again = |served: &Vec<(Nanos, Nanos)>| {
            let at = served.partition_point(|(invoked, _)| *invoked < from);
            served.get(at).map(|(_, ended)| *ended)
        };
        let ends: Option<Vec<Nanos>> = self.shards.values().map(again).collect();
        ends?.into_iter().max()
    }
}

/// Recovery from each fault that was installed, or may have been.
pub fn recoveries(injected: &[Injected], service: &Service) -> Vec<Recovery> {
    let happened = |one: &&Injected| !matches!(one.outcome, Outcome::Skipped(_));
    let happened: Vec<&Injected> = injected.iter().filter(happened).collect();
    let measure = |one: &&Injected| {
        let (begin, heal) = (service.again(one.from), service.again(one.to));
        let until = heal.unwrap_or(Nanos::MAX);
        let overlaps =
            |other: &&Injected| other.fault != one.fault && other.from < until && other.to > one.to;
        Recovery {
            fault: one.fault,
            after_begin: begin.map(|at| at - one.from),
            after_heal: heal.map(|at| at - one.to),
            alone: !happened.iter().any(overlaps),
        }
    };
    happened.iter().map(measure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::testing::{Script, call_read, k, read, shard_of, write},
        history::{Event, Key, paired},
        report::Place,
        runner::plan::Nemesis,
    };

    fn service(events: &[Event]) -> Service {
        Service::new(&paired(events), &shard_of)
    }

    fn fault(fault: usize, from: Nanos, to: Nanos, outcome: Outcome) -> Injected {
        Injected {
            fault,
            nemesis: Nemesis::Kill,
            way: String::new(),
            text: String::new(),
            place: Place::All,
            from,
            to,
            touched: true,
            outcome,
        }
    }

    #[test]
    fn service_is_an_operation_invoked_since_that_succeeded() {
        let events = Script::new()
            .ok(1, (0, 50), write(k(0), 1, 1, 1))
            .ok(2, (20, 90), write(k(1), 2, 2, 1))
            .ok(3, (30, 70), read(k(0), 1, None))
            .fail(4, (40, 41), call_read(k(1)))
            .events();
        let service = service(&events);
        assert_eq!(service.again(0), Some(50));
        assert_eq!(
            service.again(1),
            Some(70),
            "the one invoked before does not count"
        );
        assert_eq!(service.again(25), Some(70));
        assert_eq!(service.again(31), None);
    }

    #[test]
    fn every_shard_must_serve() {
        let other = Key {
            partition: 10,
            key: 1,
        };
        let one = || Script::new().ok(1, (0, 50), write(k(0), 1, 1, 1));
        assert_eq!(service(&one().events()).again(0), Some(50));
        let refused = one().fail(2, (1, 2), call_read(other));
        assert_eq!(service(&refused.events()).again(0), None);
        let both = one().ok(2, (1, 70), write(other, 2, 1, 1));
        assert_eq!(service(&both.events()).again(0), Some(70));
    }

    #[test]
    fn what_overlaps_is_told_apart_and_what_was_skipped_left_out() {
        let events = Script::new()
            .ok(1, (5, 12), write(k(0), 1, 1, 1))
            .ok(2, (22, 31), write(k(1), 2, 2, 1))
            .ok(3, (100, 101), write(k(1), 3, 3, 2))
            .events();
        let injected = [
            fault(0, 0, 20, Outcome::Installed),
            fault(1, 2, 25, Outcome::Indeterminate("?".into())),
            fault(2, 3, 4, Outcome::Skipped("no".into())),
            fault(3, 200, 201, Outcome::Installed),
        ];
        let found = recoveries(&injected, &service(&events));
        let recovery = |fault, after_begin, after_heal, alone| Recovery {
            fault,
            after_begin,
            after_heal,
            alone,
        };
        assert_eq!(
            found,
            [
                recovery(0, Some(12), Some(11), false),
                recovery(1, Some(10), Some(76), true),
                recovery(3, None, None, true),
            ]
        );
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let spread = Spread::of((1..=100).rev());
        assert_eq!(
            (spread.count, spread.p50, spread.p99, spread.max),
            (100, 50, 99, 100)
        );
        assert_eq!(Spread::of([]), Spread::default());
    }
}
