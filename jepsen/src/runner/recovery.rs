//! How long clients went without service: after a fault was healed, until an operation that was invoked from then on had succeeded on every
//! shard; and at worst from the fault's beginning on.
//!
//! The outage of a fault is the longest that anybody had to wait who asked while it lasted: over all shards, and all moments from its
//! beginning to its end, the time from that moment until an operation on that shard which was invoked then or later had succeeded. So an
//! outage counts that begins in the middle of a fault and is over before its end; and no outage is shorter than the recovery after it.
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
    /// The longest that anybody waited who asked while it lasted, in nanoseconds; `None`: a shard never served again.
    pub outage: Option<Nanos>,
    /// Nanoseconds from its end until every shard had served; `None`: one never did.
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

    /// The longest that anybody waited who asked between these times. `None`: a shard did not serve any more.
    pub fn outage(&self, from: Nanos, to: Nanos) -> Option<Nanos> {
        let of_shard = |served: &Vec<(Nanos, Nanos)>| {
            let mut longest = 0;
            // Among those whom the same success answers, who asks first waits longest.
            let mut asked = from;
            let first = served.partition_point(|(invoked, _)| *invoked < from);
            for (invoked, ended) in &served[first..] {
                longest = longest.max(ended.saturating_sub(asked));
                if *invoked >= to {
                    return Some(longest);
                }
                asked = invoked + 1;
            }
            None
        };
        let outages: Option<Vec<Nanos>> = self.shards.values().map(of_shard).collect();
        outages?.into_iter().max()
    }
}

/// Recovery from each fault that was installed, or may have been.
pub fn recoveries(injected: &[Injected], service: &Service) -> Vec<Recovery> {
    let happened = |one: &&Injected| !matches!(one.outcome, Outcome::Skipped(_));
    let happened: Vec<&Injected> = injected.iter().filter(happened).collect();
    let measure = |one: &&Injected| {
        let heal = service.again(one.to);
        let until = heal.unwrap_or(Nanos::MAX);
        let overlaps =
            |other: &&Injected| other.fault != one.fault && other.from < until && other.to > one.to;
        Recovery {
            fault: one.fault,
            outage: service.outage(one.from, one.to),
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

    /// Successes of one shard, invoked and ended.
    fn successes(times: &[(Nanos, Nanos)]) -> Service {
        let script = (1..).zip(times).fold(Script::new(), |script, (process, time)| {
            script.ok(process, *time, write(k(0), process, process, 1))
        });
        service(&script.events())
    }

    #[test]
    fn an_outage_in_the_middle_of_a_fault_is_seen() {
        // Served at its beginning and at its end, and not from 20 to 80.
        let service = successes(&[(1, 2), (10, 12), (20, 80), (81, 82), (99, 100), (101, 102)]);
        assert_eq!((service.again(1), service.again(100)), (Some(2), Some(102)));
        assert_eq!(service.outage(1, 100), Some(80 - 11), "who asks just after 10");
        assert_eq!(service.outage(1, 9), Some(12 - 2), "it is not this fault's");
        assert_eq!(service.outage(82, 100), Some(100 - 82));
    }

    #[test]
    fn what_was_asked_before_proves_nothing_of_later() {
        // The answer at 70 is to a question of 10: nothing of what was asked from 11 on is answered before 90.
        let service = successes(&[(10, 70), (60, 90), (95, 96)]);
        assert_eq!(service.outage(11, 50), Some(90 - 11));
        assert_eq!(service.outage(10, 50), Some(90 - 11));
        // An older question whose answer is later hides nobody's.
        let overtaken = successes(&[(10, 70), (12, 20), (30, 31)]);
        assert_eq!(overtaken.outage(10, 25), Some(31 - 13));
        assert_eq!(overtaken.outage(10, 11), Some(20 - 10));
    }

    #[test]
    fn an_outage_is_the_worst_of_all_shards_and_has_no_end_if_one_never_serves_again() {
        let other = Key {
            partition: 10,
            key: 1,
        };
        let events = Script::new()
            .ok(1, (1, 2), write(k(0), 1, 1, 1))
            .ok(2, (1, 3), write(other, 2, 1, 1))
            .ok(1, (10, 11), write(k(0), 3, 3, 1))
            .ok(2, (50, 51), write(other, 4, 4, 1))
            .ok(1, (52, 53), write(k(0), 5, 5, 1))
            .events();
        let service = service(&events);
        assert_eq!(service.outage(1, 10), Some(51 - 2));
        assert_eq!(service.outage(1, 50), Some(51 - 2));
        assert_eq!(service.outage(1, 51), None);
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
        let recovery = |fault, outage, after_heal, alone| Recovery {
            fault,
            outage,
            after_heal,
            alone,
        };
        assert_eq!(
            found,
            [
                recovery(0, Some(25), Some(11), false),
                recovery(1, Some(78), Some(76), true),
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
