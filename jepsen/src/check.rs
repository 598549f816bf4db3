//! Checkers: each takes a history and says whether the cluster kept one kind of promise.
//!
//! [`check_all`] runs those that apply to the workloads that were run. All are pure functions of what they are given, with results that do
//! not depend on anything else. They trust the history: that all writes to the keys in it are in it, and that what stands earlier happened
//! earlier.
//!
//! They look at one partition map: a partition that moves between shards during a run (so that its revisions start anew) is not understood.

pub mod answers;
pub mod bank;
mod clocks;
pub mod committed;
pub mod consumer;
pub mod convergence;
pub mod counter;
pub mod counts;
pub(crate) mod facts;
pub mod lease;
pub mod linear;
pub mod pages;
pub mod resets;
pub mod revisions;
pub mod service;
pub mod session;
pub mod set_list;
mod states;
mod subscriptions;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod txns;
mod verdict;
pub mod watch;
pub mod watch_keys;

use std::collections::{BTreeMap, BTreeSet};

use self::clocks::Clocks;
pub use self::{
    clocks::WrongClock,
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
    /// By how much the servers' clocks may be off against the history's, either way, over any span that is checked, when nothing is wrong
    /// with them. Servers count in whole milliseconds.
    pub clock_error: Nanos,
    /// When clocks of nodes were wrong besides.
    pub wrong_clocks: &'a [WrongClock],
    /// A key may be there for so long after its TTL or lease ended, in quiet times.
    pub expiry_delay: Nanos,
    /// When something disturbed the cluster: faults, processes that ended. `None`: it is not known, and no time but that of the final
    /// reads is a quiet one.
    pub disturbed: Option<&'a [(Nanos, Nanos)]>,
    /// So long after a disturbance the cluster may need to be as it was before.
    pub recovery: Nanos,
    /// Revisions that a shard keeps at least, as its nodes are configured. `None`: it is not known.
    pub keep_revisions: Option<u64>,
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
    /// The run was long enough that each checker must have had all of what it [needs]: one that had not says that it does not know.
    pub demanding: bool,
}

impl<'a> Context<'a> {
    /// Nothing known but the shards; 1 GiB for a search; 2 s for expiry, 10 s to recover.
    pub fn new(shard_of: &'a dyn Fn(u32) -> u32) -> Self {
        Self {
            shard_of,
            final_from: None,
            drained: false,
            accounts: BTreeMap::new(),
            clock_error: 0,
            wrong_clocks: &[],
            expiry_delay: 2_000_000_000,
            disturbed: None,
            recovery: 10_000_000_000,
            keep_revisions: None,
            monotonic: BTreeSet::new(),
            committed: None,
            replicas: &[],
            placement: None,
            cache_bytes: 1 << 30,
            demanding: false,
        }
    }

    /// What wrong clocks excuse.
    pub(crate) fn clocks(&self) -> Clocks<'a> {
        Clocks(self.wrong_clocks)
    }

    /// The shard of a key.
    pub(crate) fn shard(&self, key: Key) -> u32 {
        (self.shard_of)(key.partition)
    }

    /// Since when nothing has disturbed the cluster, as seen at the end of a span; `None`: something may have, within it or just before.
    pub(crate) fn quiet_since(&self, (from, to): (Nanos, Nanos)) -> Option<Nanos> {
        if let Some(recovered) = self.final_from.filter(|recovered| *recovered <= from) {
            return Some(recovered);
        }
        let wrong = self.wrong_clocks.iter().map(|wrong| (wrong.from, wrong.to));
        let all = self.disturbed?.iter().copied().chain(wrong);
        let over = all
            .filter(|(begun, _)| *begun <= to)
            .map(|(_, ended)| ended.saturating_add(self.recovery));
        Some(over.max().unwrap_or(0)).filter(|since| *since <= from)
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
    /// Lists, beside something else.
    List,
    /// Consumers.
    Consumer,
    /// Reads of other modes.
    Session,
    /// What no other one calls: transactions of several operations, ranges page by page, consumers that are reset, watches without values.
    Variety,
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
            Workload::List => &[("list", set_list::check_lists)],
            Workload::Consumer => &[("consumer", consumer::check)],
            Workload::Session => &[("session", session::check)],
            Workload::Variety => &[
                ("txns", txns::check),
                ("pages", pages::check),
                ("resets", resets::check),
                ("watch_keys", watch_keys::check),
            ],
        }
    }
}

/// What a checker must have counted in its [`Stats`] for its verdict on a long run to mean something. It counts where a rule could have been
/// broken: without one of these a rule was never looked at.
pub fn needs(checker: &str) -> &'static [&'static str] {
    match checker {
        "answers" => &["answers"],
        "bank" => &["reads of all accounts", "payments", "sends", "arrivals", "totals"],
        "committed" => &["commits", "acknowledged"],
        "consumer" => &[
            "owners",
            "starts",
            "acks",
            "changes seen",
            "cursors",
            "successions",
        ],
        "convergence" => &["compared"],
        "counter" => &["increments", "counts", "finals"],
        "lease" => &["absences", "expiries", "late at the end"],
        "linear" => &["keys", "operations"],
        "list" => &["appends", "list reads"],
        "pages" => &["ranges", "continued", "backwards", "compared"],
        "resets" => &["begun"],
        "revisions" => &["changes", "real time"],
        "session" => &["at least", "bounded", "bounds", "local"],
        "set_list" => &["appends", "list reads", "scans"],
        "txns" => &["transactions"],
        "watch" => &["watches", "changes seen"],
        "watch_keys" => &["bare watches", "bare changes"],
        _ => &[],
    }
}

/// What `revisions` needs besides where there are registers.
const OF_REGISTERS: [&str; 5] = ["chained", "values", "states", "absences", "read at the end"];

/// What it must have counted besides in some of many runs: not every workload has it, or only trouble brings it about.
pub fn wants(checker: &str) -> &'static [&'static str] {
    match checker {
        "bank" => &["balances shown"],
        "committed" => &["resolved"],
        "consumer" => &["fenced", "refused acks"],
        "lease" => &["late", "refusals", "after revocations", "reads after revocations"],
        "pages" => &["states"],
        "resets" => &[
            "taken over",
            "resets",
            "deletions",
            "after deletions",
            "not found",
            "refused acks",
            "changes seen",
        ],
        "revisions" => &[
            "after absences",
            "chained",
            "values",
            "states",
            "absences",
            "older",
            "read at the end",
        ],
        "session" => &["ages", "monotonic"],
        "txns" => &["ran", "refused", "of unknown outcome"],
        "watch" => &["gone at the end", "compactions"],
        "watch_keys" => &["held against others"],
        _ => &[],
    }
}

fn not_counted(needed: &[&'static str], verdict: &Verdict) -> Vec<&'static str> {
    let Verdict::Valid { stats } = verdict else {
        return Vec::new();
    };
    let is_missing = |name: &&str| stats.get(name).is_none_or(|count| *count == 0);
    needed.iter().copied().filter(is_missing).collect()
}

/// What a checker [needs] and has not met, if it found nothing wrong.
pub fn missing(checker: &str, verdict: &Verdict) -> Vec<&'static str> {
    not_counted(needs(checker), verdict)
}

/// What a checker [wants] and has not met, if it found nothing wrong.
pub fn wanting(checker: &str, verdict: &Verdict) -> Vec<&'static str> {
    not_counted(wants(checker), verdict)
}

/// A checker.
pub type Checker = fn(&History<'_>, &Context<'_>) -> Verdict;

/// Runs the checkers of these workloads, `answers` and `revisions` always, `committed` and `convergence` if the context has what they need. With a
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
    verdicts.insert("answers", answers::check(&History::new(events), context));
    verdicts.insert("revisions", revisions::check(&history, context));
    if !context.replicas.is_empty() || context.placement.is_some() {
        verdicts.insert("convergence", convergence::check(&history, context));
    }
    for (name, check) in workloads.iter().flat_map(|workload| workload.checkers()) {
        verdicts.entry(name).or_insert_with(|| check(&history, context));
    }
    if context.demanding {
        for (name, verdict) in &mut verdicts {
            let mut missing = missing(name, verdict);
            if *name == "revisions" && workloads.contains(&Workload::Register) {
                missing.extend(not_counted(&OF_REGISTERS, verdict));
            }
            if !missing.is_empty() {
                let why = format!("there is nothing to check of: {}", missing.join(", "));
                *verdict = Verdict::Unknown { why };
            }
        }
    }
    verdicts
}
