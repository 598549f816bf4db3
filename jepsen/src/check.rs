//! Checkers: each takes a history and says whether the cluster kept one kind of promise.
//!
//! [`check_all`] runs those that apply to the workloads that were run. All are pure functions of what they are given, with results that do
//! not depend on anything else. They trust the history: that all writes to the keys in it are in it, and that what stands earlier happened
//! earlier.
//!
//! They look at one partition map: a partition that moves between shards during a run (so that its revisions start anew) is not understood.

pub mod bank;
pub mod committed;
pub mod consumer;
pub mod convergence;
pub mod counter;
pub(crate) mod facts;
pub mod lease;
pub mod linear;
pub mod revisions;
pub mod session;
pub mod set_list;
mod subscriptions;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verdict;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};

pub use self::{
    committed::Commit,
    convergence::Replica,
    verdict::{Stats, Verdict, Witness},
};
use crate::history::{Event, Key, Nanos, Operation, Process, paired};

/// A history, with its calls and ends brought together.
pub struct History<'a> {
    /// As it was recorded.
    pub events: &'a [Event],
    /// Its operations, by [`Operation::id`].
    pub operations: Vec<Operation>,
}

impl<'a> History<'a> {
    /// Pairs the events.
    pub fn new(events: &'a [Event]) -> Self {
        Self {
            events,
            operations: paired(events),
        }
    }
}

/// What the checkers need to know besides the history.
pub struct Context<'a> {
    /// The shard of a partition. Revisions, leases and consumers are a shard's.
    pub shard_of: &'a dyn Fn(u32) -> u32,
    /// From this time on all faults were over and the cluster had recovered: reads invoked later are the final ones. `None` = the run
    /// ended without; nothing is then said about the end.
    pub final_from: Option<Nanos>,
    /// Watches, consumers and the workers of sends went on until they had nothing more to do. They must then have shown and done all.
    pub drained: bool,
    /// What the accounts had before the first operation.
    pub accounts: BTreeMap<Key, u64>,
    /// By how much the servers' clocks may be off against the history's, either way, over any span that is checked.
    pub clock_error: Nanos,
    /// By how much the stamps that end TTLs and leases may have run ahead besides, because a wall clock was set forward.
    pub stamps_ahead: Nanos,
    /// By how much those stamps may lag besides, because a wall clock was set back: they wait until it has caught up.
    pub stamps_behind: Nanos,
    /// A key may be there for so long after its TTL or lease ended.
    pub expiry_delay: Nanos,
    /// Processes that were promised that no revision they see of a shard is less than one they saw before.
    pub monotonic: BTreeSet<Process>,
    /// The committed log of all shards from the beginning to the end, if it was collected.
    pub committed: Option<&'a [Commit]>,
    /// States of replicas.
    pub replicas: &'a [Replica],
    /// The node and shard of each replica that there is, all of whose states are to be in `replicas`; empty: nobody could be asked.
    /// `None`: it is not said.
    pub placement: Option<&'a [(u64, u32)]>,
    /// Memory that the search of one key may use in `linear`.
    pub cache_bytes: usize,
}

impl<'a> Context<'a> {
    /// Nothing known but the shards; 1 GiB for a search; 2 s for expiry.
    pub fn new(shard_of: &'a dyn Fn(u32) -> u32) -> Self {
        Self {
            shard_of,
            final_from: None,
            drained: false,
            accounts: BTreeMap::new(),
            clock_error: 0,
            stamps_ahead: 0,
            stamps_behind: 0,
            expiry_delay: 2_000_000_000,
            monotonic: BTreeSet::new(),
            committed: None,
            replicas: &[],
            placement: None,
            cache_bytes: 1 << 30,
        }
    }

    /// The shard of a key.
    pub(crate) fn shard(&self, key: Key) -> u32 {
        (self.shard_of)(key.partition)
    }

    /// The operation was invoked when the cluster had recovered.
    pub(crate) fn is_final(&self, operation: &Operation) -> bool {
        self.final_from.is_some_and(|from| operation.invoked >= from)
    }
}

/// What was run, and so what must be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// Reads, writes, cas and deletes of keys.
    Register,
    /// Increments and counts.
    Counter,
    /// Lists, and keys as elements of a set.
    SetList,
    /// Accounts.
    Bank,
    /// Keys with a TTL or a lease.
    Lease,
    /// Watches.
    Watch,
    /// Consumers.
    Consumer,
    /// Reads of other modes.
    Session,
}

impl Workload {
    /// Its checkers, besides those that apply to all.
    fn checkers(self) -> &'static [(&'static str, Checker)] {
        match self {
            Workload::Register => &[("linear", linear::check)],
            Workload::Counter => &[("linear", linear::check), ("counter", counter::check)],
            Workload::SetList => &[("set_list", set_list::check)],
            Workload::Bank => &[("bank", bank::check)],
            Workload::Lease => &[("lease", lease::check)],
            Workload::Watch => &[("watch", watch::check)],
            Workload::Consumer => &[("consumer", consumer::check)],
            Workload::Session => &[("session", session::check)],
        }
    }
}

/// A checker.
pub type Checker = fn(&History<'_>, &Context<'_>) -> Verdict;

/// Runs the checkers of these workloads, and `revisions` always, `committed` and `convergence` if the context has what they need. With a
/// committed log, unknown outcomes are resolved first, and the witnesses' operations are those of [`committed::resolve`]'s history.
///
/// Returns a verdict for each checker by its name. All must be valid.
pub fn check_all(
    workloads: &BTreeSet<Workload>,
    events: &[Event],
    context: &Context<'_>,
) -> BTreeMap<&'static str, Verdict> {
    let mut verdicts = BTreeMap::new();
    let resolved = context.committed.map(|log| {
        let resolved = committed::resolve(events, log, context);
        verdicts.insert("committed", resolved.verdict);
        resolved.events
    });
    let history = History::new(resolved.as_deref().unwrap_or(events));
    verdicts.insert("revisions", revisions::check(&history, context));
    if !context.replicas.is_empty() || context.placement.is_some() {
        verdicts.insert("convergence", convergence::check(&history, context));
    }
    for (name, check) in workloads.iter().flat_map(|workload| workload.checkers()) {
        verdicts.entry(name).or_insert_with(|| check(&history, context));
    }
    verdicts
}
