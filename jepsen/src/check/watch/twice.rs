//! What was shown more often than it was asked for.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        facts::{self, Effect},
        subscriptions::subscriptions,
        verdict::{Findings, Witness, describe},
    },
    Truth,
};
use crate::history::{Call, Key, Operation, Revision, Seen};

/// A change of a key that is shown, and that no acknowledged operation has made.
#[derive(Clone, Copy)]
struct Unclaimed {
    revision: Revision,
    /// `None`: deleted.
    value: Option<u64>,
    /// The event that shows it; `usize::MAX`: the committed log.
    place: usize,
}

/// Revisions after the first and up to the second that somebody was shown all changes of, in one partition or in all.
type Span = (Option<u32>, Revision, Revision);

impl Truth<'_> {
    /// Each change that is shown and that nobody acknowledged needs an operation of unknown outcome of its own.
    pub(in super::super) fn twice(&self, findings: &mut Findings) {
        let (received, spans) = (self.received(), self.spans());
        for (key, changes) in self.unclaimed() {
            findings.count("shown of unknown outcome", changes.len() as u64);
            let (deletes, puts): (Vec<_>, Vec<_>) = changes.iter().partition(|of| of.value.is_none());
            let unknown = self.unknown_of(key, &received);
            // What a transaction does depends on what was there: `txns` looks at these.
            if unknown.iter().any(|of| matches!(of.call, Call::Txn(_))) {
                continue;
            }
            let (deleting, putting): (Vec<_>, Vec<_>) = unknown
                .into_iter()
                .partition(|of| matches!(of.call, Call::Delete { .. }));
            if !self.vanishing.contains(&key) {
                self.enough((key, "deleted"), &deletes, &deleting, findings);
            }
            self.enough((key, "put"), &puts, &putting, findings);
            let written = |of: &Operation| facts::written_value(&of.call).map(|(_, value)| value);
            // Who adds can have made any value.
            if putting.iter().all(|of| written(of).is_some()) {
                for (value, puts) in groups(&puts, |put| put.value) {
                    let those: Vec<_> = putting
                        .iter()
                        .copied()
                        .filter(|of| written(of) == Some(value))
                        .collect();
                    self.enough((key, &format!("made {value}")), &puts, &those, findings);
                }
            } else if putting.iter().all(|of| written(of).is_none()) {
                for (amount, puts) in groups(&puts, |put| self.added(key, put, &spans)) {
                    let those: Vec<_> = putting
                        .iter()
                        .copied()
                        .filter(|of| adds(&of.call, key) == amount)
                        .collect();
                    self.enough((key, &format!("changed by {amount}")), &puts, &those, findings);
                }
            }
        }
    }

    /// For each of the changes there is one of the operations that had begun before it was shown.
    fn enough(
        &self,
        (key, what): (Key, &str),
        changes: &[Unclaimed],
        operations: &[&Operation],
        findings: &mut Findings,
    ) {
        let mut changes = changes.to_vec();
        changes.sort_by_key(|change| (change.place, change.revision));
        for (before, change) in changes.iter().enumerate() {
            let begun = operations.iter().filter(|of| of.first < change.place).count();
            if begun > before {
                continue;
            }
            let revisions: Vec<_> = changes[..=before].iter().map(|of| of.revision).collect();
            let all: Vec<_> = operations.iter().map(|of| describe(of)).collect();
            let text = format!(
                "key {key} is shown to be {what} at revisions {revisions:?}, which nobody has acknowledged, but {begun} of unknown outcome can \
                 have done that: {}",
                all.join(", ")
            );
            let places = changes[..=before].iter().map(|of| of.place);
            let witness = Witness::new("twice", text).operations(operations.iter().map(|of| of.id));
            findings.push(witness.events(places.filter(|place| *place != usize::MAX)));
            return;
        }
    }

    /// All of them, but for what gave the accounts their first money: that is in no operation.
    fn unclaimed(&self) -> BTreeMap<Key, Vec<Unclaimed>> {
        let mut unclaimed: BTreeMap<Key, Vec<Unclaimed>> = BTreeMap::new();
        let mut opened = BTreeSet::new();
        for (at, changes) in &self.shown {
            let is_claimed = self.facts.changes.contains_key(at);
            for (key, (change, event)) in changes {
                if let Some(first) = self.context.accounts.get(key)
                    && !opened.contains(key)
                {
                    if !is_claimed && change.value == Some(*first) {
                        continue;
                    }
                    opened.insert(*key);
                }
                if !is_claimed && !change.expired && !self.is_kept_by_sends(*key) {
                    unclaimed.entry(*key).or_default().push(Unclaimed {
                        revision: at.1,
                        value: change.value,
                        place: event.unwrap_or(usize::MAX),
                    });
                }
            }
        }
        unclaimed
    }

    /// Operations of unknown outcome that may have changed the key, each once, and of all tries to receive a payment one.
    fn unknown_of(&self, key: Key, received: &BTreeSet<u64>) -> Vec<&Operation> {
        let ids: BTreeSet<usize> = self.facts.unknown(key).iter().copied().collect();
        let mut payments = received.clone();
        let all = ids.into_iter().map(|id| &self.history.operations[id]);
        // They come by invocation, so that the first try is the one that is kept.
        all.filter(|of| match of.call {
            Call::Receive { id, .. } => payments.insert(id),
            _ => true,
        })
        .collect()
    }

    /// Payments of which somebody knows that they have arrived.
    fn received(&self) -> BTreeSet<u64> {
        let all = self.facts.changes.values().flatten();
        all.filter_map(|fact| match self.history.operations[fact.operation].call {
            Call::Receive { id, .. } => Some(id),
            _ => None,
        })
        .collect()
    }

    /// By shard.
    fn spans(&self) -> BTreeMap<u32, Vec<Span>> {
        let mut spans: BTreeMap<u32, Vec<Span>> = BTreeMap::new();
        for subscription in subscriptions(self.history, self.context) {
            let partition = match subscription.operation.call {
                Call::Watch { partition, .. } => Some(partition),
                _ => None,
            };
            let of_shard = spans.entry(subscription.shard).or_default();
            let (mut from, mut at) = (subscription.after, subscription.after);
            for (_, seen) in &subscription.seen {
                match seen {
                    Seen::Changes { through, .. } => at = at.max(*through),
                    Seen::Compacted { resumed_after } => {
                        of_shard.push((partition, from, at));
                        (from, at) = (*resumed_after, *resumed_after);
                    }
                    // Keys alone do not say what was made of them.
                    Seen::Keys { .. } | Seen::Resumed | Seen::Ended { .. } => {}
                }
            }
            of_shard.push((partition, from, at));
        }
        spans
    }

    /// How much was added to a number; `None` if it is not known that nothing else changed it since it was known.
    fn added(&self, key: Key, put: &Unclaimed, spans: &BTreeMap<u32, Vec<Span>>) -> Option<i64> {
        let shard = self.context.shard(key);
        let before = (shard, 0)..(shard, put.revision);
        let shown = self.shown.range(before.clone()).rev();
        let shown = shown.filter_map(|((_, at), changes)| Some((*at, changes.get(&key)?.0.value)));
        let shown = shown.take(1).next();
        let facts = self.facts.changes.range(before).rev();
        let known = facts.filter_map(|((_, at), facts)| {
            let fact = facts.iter().find(|fact| fact.key == key)?;
            Some((*at, fact.effect))
        });
        let known = known.take(1).next();
        let (since, number) = match (shown, known) {
            (Some((at, value)), _) if known.is_none_or(|(other, _)| other <= at) => (at, value?),
            (_, Some((at, Effect::Value(value)))) => (at, value),
            (_, Some(_)) | (Some(_), None) => return None,
            (None, None) => (0, self.context.accounts.get(&key).copied().unwrap_or(0)),
        };
        let is_whole = spans.get(&shard)?.iter().any(|(partition, after, through)| {
            partition.is_none_or(|partition| partition == key.partition)
                && *after <= since
                && *through >= put.revision
        });
        is_whole.then(|| (put.value.unwrap_or(0) as i64).wrapping_sub(number as i64))
    }
}

/// Changes by what they have in common; those of which it is not known are left out.
fn groups<T: Ord>(
    changes: &[Unclaimed],
    of: impl Fn(&Unclaimed) -> Option<T>,
) -> BTreeMap<T, Vec<Unclaimed>> {
    let mut groups: BTreeMap<T, Vec<Unclaimed>> = BTreeMap::new();
    for change in changes {
        if let Some(of) = of(change) {
            groups.entry(of).or_default().push(*change);
        }
    }
    groups
}

/// What the call adds to the key if it is carried out.
fn adds(call: &Call, of: Key) -> i64 {
    let pays = |is_it: bool, amount: i64| if is_it { amount } else { 0 };
    match *call {
        Call::Increment { delta, .. } => delta,
        Call::Transfer { from, to, amount, .. } => {
            pays(to == of.key, amount as i64) - pays(from == of.key, amount as i64)
        }
        Call::Send { amount, .. } => -(amount as i64),
        Call::Receive { amount, .. } => amount as i64,
        _ => 0,
    }
}
