//! Watches: every change after the start, once, in order, those of one revision together; or an explicit word that some are gone.
//!
//! The rules are those of etcd's robustness tests (`tests/robustness/validate/watch.go`: filterable, ordered, unique, atomic, reliable,
//! resumable), with the changes that are known from acknowledged operations, from the committed log and from other watches as the truth:
//! - **filter**: only changes of the watched partition.
//! - **order**: revisions grow, each revision in one piece, also over a broken connection. No change twice.
//! - **atomicity**: all changes of a revision that it shows.
//! - **gap**: no known change between start and end is left out; and none at the end, if [`Context::drained`].
//! - **content**: a change is what was asked for at that revision, nothing is shown that nobody asked for, or before it was asked for. (Keys
//!   that no operation changes are left out in partitions with sends: these keep rows there.)
//! - **twice**: what is shown at different revisions and no acknowledged operation has done needs an operation of unknown outcome each: as many
//!   as write that value, delete that key (if it cannot end by itself), or add to that number; where all changes of a number in between were
//!   shown, as many as add that much.
//! - **removal**: with [`Context::drained`], a key that the final reads do not find has a deletion or an expiry after its last put, which
//!   was shown where all revisions since were.
//! - **compaction**: where it is told that changes are gone, they can be: with [`Context::keep_revisions`] the shard had as many revisions
//!   after those that are gone, and each consumer of the shard may have acknowledged them. It never goes back by that. Whoever is told that
//!   there is a newer owner is an owner, and there is one.

mod compaction;
mod removals;
#[cfg(test)]
mod tests;
mod twice;

use std::collections::BTreeSet;

use self::compaction::{Cursors, Heads};
use super::{
    Context, History,
    facts::{self, Fact, Facts},
    states,
    subscriptions::{Shown, Subscription, shown, subscriptions},
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, Change, Key, Revision, Seen};

/// Checks every watch of the history.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let truth = Truth::new(history, context);
    let watches = subscriptions(history, context);
    for watch in &watches {
        if let Call::Watch { partition, .. } = watch.operation.call {
            let what = Followed {
                subscription: watch,
                partition: Some(partition),
                to_end: watch.is_last,
            };
            findings.count("watches", 1);
            truth.follow(&what, &mut findings);
        }
    }
    truth.twice(&mut findings);
    truth.removals(&watches, &mut findings);
    findings.verdict()
}

/// A watch of a partition, or a consumer of a shard.
pub(super) struct Followed<'a> {
    pub(super) subscription: &'a Subscription<'a>,
    pub(super) partition: Option<u32>,
    /// It was open at the end of the run.
    pub(super) to_end: bool,
}

impl Followed<'_> {
    fn wants(&self, key: Key) -> bool {
        self.partition.is_none_or(|partition| partition == key.partition)
    }
}

/// What is known of the changes.
pub(super) struct Truth<'a> {
    history: &'a History<'a>,
    context: &'a Context<'a>,
    facts: Facts,
    /// Changes that the committed log or any subscription shows.
    shown: Shown,
    /// Keys that have had a TTL or a lease.
    vanishing: BTreeSet<Key>,
    /// Keys that operations change.
    changed: BTreeSet<Key>,
    /// Partitions in which sends keep rows of their own.
    outboxes: BTreeSet<u32>,
    heads: Heads,
    cursors: Cursors<'a>,
}

/// Revisions that are to be shown next.
struct Position {
    /// Everything up to here is done.
    through: Revision,
    /// The last event.
    place: Option<usize>,
}

impl<'a> Truth<'a> {
    pub(super) fn new(history: &'a History<'_>, context: &'a Context<'_>) -> Self {
        let shown = shown(history, context);
        let mut vanishing = BTreeSet::new();
        let mut changed = BTreeSet::new();
        let mut outboxes = BTreeSet::new();
        for operation in &history.operations {
            let keys = facts::changed_keys(&operation.call);
            if matches!(operation.call, Call::Send { .. } | Call::Receive { .. }) {
                outboxes.extend(keys.iter().map(|key| key.partition));
            }
            changed.extend(keys);
            if let Call::Write {
                key, ttl_ms, lease, ..
            } = operation.call
                && (ttl_ms != 0 || lease != 0)
            {
                vanishing.insert(key);
            }
        }
        let facts = Facts::new(history, context);
        let heads = Heads::new(history, context, &facts, &shown);
        Self {
            history,
            context,
            facts,
            shown,
            vanishing,
            changed,
            outboxes,
            heads,
            cursors: Cursors::new(history),
        }
    }

    /// The key may hold what a send remembers, which is in no operation.
    fn is_kept_by_sends(&self, key: Key) -> bool {
        self.outboxes.contains(&key.partition) && !self.changed.contains(&key)
    }

    /// Checks one watch or consumer.
    pub(super) fn follow(&self, what: &Followed<'_>, findings: &mut Findings) {
        let mut at = Position {
            through: what.subscription.after,
            place: None,
        };
        for (place, seen) in &what.subscription.seen {
            match seen {
                Seen::Changes { changes, through } => {
                    findings.count("changes seen", changes.len() as u64);
                    self.batch(what, &at, *place, changes, *through, findings);
                    at.through = at.through.max(*through);
                }
                Seen::Compacted { resumed_after } => {
                    self.compacted(what, &at, *place, *resumed_after, findings);
                    at.through = at.through.max(*resumed_after);
                }
                Seen::Ended { code, revision } => {
                    self.ended(what, &at, *place, (code, *revision), findings);
                }
                Seen::Resumed | Seen::Keys { .. } => {}
            }
            at.place = Some(*place);
        }
        if self.context.drained && what.to_end {
            let end = (Revision::MAX, at.place);
            self.gaps(what, at.through, end, &BTreeSet::new(), findings);
        }
    }

    fn witness(
        &self,
        rule: &'static str,
        text: impl Into<String>,
        what: &Followed<'_>,
        events: impl IntoIterator<Item = usize>,
    ) -> Witness {
        let witness = Witness::new(rule, text).operations([what.subscription.operation.id]);
        witness.events(events)
    }

    fn batch(
        &self,
        what: &Followed<'_>,
        at: &Position,
        place: usize,
        changes: &[Change],
        through: Revision,
        findings: &mut Findings,
    ) {
        let who = describe(what.subscription.operation);
        let events = at.place.into_iter().chain([place]);
        let mut seen = BTreeSet::new();
        let mut last = at.through;
        for change in changes {
            let Change { revision, key, .. } = *change;
            if !what.wants(key) {
                let text = format!("{who} is shown a change of key {key}");
                findings.push(self.witness("filter", text, what, [place]));
            }
            if revision <= at.through || revision < last {
                let text =
                    format!("{who} is shown revision {revision} when it has seen everything up to {last}");
                findings.push(self.witness("order", text, what, events.clone()));
            }
            if !seen.insert((revision, key)) {
                let text = format!("{who} is shown the change of key {key} at revision {revision} twice");
                findings.push(self.witness("order", text, what, [place]));
            }
            last = last.max(revision);
            self.content(what, place, change, findings);
        }
        if through < last {
            let text = format!("{who} is told that {through} is the newest it has seen, but it is {last}");
            findings.push(self.witness("order", text, what, events));
        }
        self.gaps(
            what,
            at.through,
            (through.max(last), Some(place)),
            &seen,
            findings,
        );
    }

    /// Known changes after a revision and up to another one that are not among those seen.
    fn gaps(
        &self,
        what: &Followed<'_>,
        after: Revision,
        (through, place): (Revision, Option<usize>),
        seen: &BTreeSet<(Revision, Key)>,
        findings: &mut Findings,
    ) {
        let subscription = what.subscription;
        let shows = |revision: Revision| {
            seen.range((revision, Key::MIN)..=(revision, Key::MAX))
                .next()
                .is_some()
        };
        let mut missing = |revision: Revision, key: Key, operation: Option<usize>, event: Option<usize>| {
            if !what.wants(key) || seen.contains(&(revision, key)) {
                return;
            }
            let is_torn = shows(revision);
            let rule = if is_torn { "atomicity" } else { "gap" };
            let who = describe(subscription.operation);
            let by = operation.map(|id| format!(", of {}", describe(&self.history.operations[id])));
            let text = format!(
                "{who} is not shown the change of key {key} at revision {revision}{}{}",
                by.unwrap_or_default(),
                if is_torn {
                    ", but others of that revision"
                } else {
                    ""
                }
            );
            let witness = self.witness(rule, text, what, place.into_iter().chain(event));
            findings.push(witness.operations(operation));
        };
        for (revision, facts) in self.facts.between(subscription.shard, after, through) {
            for fact in facts {
                missing(revision, fact.key, Some(fact.operation), None);
            }
        }
        let range = (subscription.shard, after)..=(subscription.shard, through.max(after));
        for ((shard, revision), changes) in self.shown.range(range) {
            let is_fact = |key| {
                let facts = self.facts.changes.get(&(*shard, *revision));
                facts.is_some_and(|facts| facts.iter().any(|fact| fact.key == key))
            };
            for (key, (_, event)) in changes {
                if *revision > after && !is_fact(*key) {
                    missing(*revision, *key, None, *event);
                }
            }
        }
    }

    /// The change is what happened at its revision.
    fn content(&self, what: &Followed<'_>, place: usize, change: &Change, findings: &mut Findings) {
        let Change {
            revision,
            key,
            value,
            expired,
            ..
        } = *change;
        let shard = what.subscription.shard;
        let who = describe(what.subscription.operation);
        if expired && (value.is_some() || !self.vanishing.contains(&key)) {
            let text = format!("{who} is shown that key {key} expired at revision {revision}, but it cannot");
            findings.push(self.witness("content", text, what, [place]));
        }
        let others = self.shown.get(&(shard, revision)).and_then(|at| at.get(&key));
        if let Some((other, event)) = others.filter(|(other, _)| other != change) {
            let text = format!("{who} is shown {change:?}, but elsewhere it is {other:?}");
            findings.push(self.witness("content", text, what, event.iter().copied().chain([place])));
        }
        if self.is_kept_by_sends(key) {
            return;
        }
        let claimed = self.facts.changes.get(&(shard, revision));
        match claimed.map(|facts| facts.iter().find(|fact| fact.key == key)) {
            Some(Some(fact)) => self.fact_content(what, place, change, fact, findings),
            Some(None) => {
                let by = claimed.and_then(|facts| facts.first()).map(|fact| fact.operation);
                let other = by.map(|id| describe(&self.history.operations[id]));
                let text = format!(
                    "{who} is shown a change of key {key} at revision {revision}, which is that of {}",
                    other.unwrap_or_default()
                );
                findings.push(self.witness("content", text, what, [place]).operations(by));
            }
            None if expired => {}
            None if self.may_be_unknown(key, value, place) => {}
            None => {
                let text = format!("{who} is shown {change:?}, which nobody had asked for");
                findings.push(self.witness("content", text, what, [place]));
            }
        }
    }

    fn fact_content(
        &self,
        what: &Followed<'_>,
        place: usize,
        change: &Change,
        fact: &Fact,
        findings: &mut Findings,
    ) {
        let operation = &self.history.operations[fact.operation];
        let is_same = fact.is_shown_by(change, &operation.call);
        let who = describe(what.subscription.operation);
        let text = if !is_same {
            format!(
                "{who} is shown {change:?}, but the change was that of {}",
                describe(operation)
            )
        } else if place < operation.first {
            format!(
                "{who} is shown {change:?} before it was asked for by {}",
                describe(operation)
            )
        } else {
            return;
        };
        findings.push(
            self.witness("content", text, what, [place])
                .operations([fact.operation]),
        );
    }

    /// An operation of unknown outcome that began before this place may have made the change.
    fn may_be_unknown(&self, key: Key, value: Option<u64>, place: usize) -> bool {
        self.facts.unknown(key).iter().any(|id| {
            let operation = &self.history.operations[*id];
            if let Call::Txn(txn) = &operation.call {
                return states::may_leave(txn, key, value) && operation.first < place;
            }
            let fits = match (facts::written_value(&operation.call), value) {
                (Some((_, written)), Some(value)) => written == value,
                (Some(_), None) => false,
                (None, value) => matches!(operation.call, Call::Delete { .. }) == value.is_none(),
            };
            fits && operation.first < place
        }) || (value.is_none() && self.revoked_before(key, place))
    }

    /// A lease that the key may have had was ended by its owner; that removes it, too.
    fn revoked_before(&self, key: Key, place: usize) -> bool {
        let shard = self.context.shard(key);
        let mut operations = self.history.operations.iter();
        self.vanishing.contains(&key)
            && operations.any(|operation| match operation.call {
                Call::Revoke { partition, .. } => {
                    (self.context.shard_of)(partition) == shard && operation.first < place
                }
                _ => false,
            })
    }
}
