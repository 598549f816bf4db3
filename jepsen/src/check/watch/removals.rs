//! What is gone at the end was shown to go.

use std::collections::BTreeMap;

use super::{
    super::{
        facts,
        subscriptions::Subscription,
        verdict::{Findings, Witness, describe},
    },
    Truth,
};
use crate::history::{Call, End, Key, Operation, Reply, Revision, Seen};

/// Revisions after the first and up to the second that a watch was shown without a hole, as one of its events says.
type Span = (Revision, Revision);

/// The last puts and the last removals of keys.
struct Ends<'a> {
    /// By key: the revision of its last acknowledged put, and the operation.
    puts: BTreeMap<Key, (Revision, usize)>,
    /// By key: the newest deletion or expiry that anybody was shown.
    removals: BTreeMap<Key, Revision>,
    /// By shard: acknowledged changes by the place of their invocation.
    changes: BTreeMap<u32, BTreeMap<usize, Revision>>,
    /// By watched partition, in order.
    spans: BTreeMap<u32, Vec<Span>>,
    /// By partition: who watched it last.
    watches: BTreeMap<u32, &'a Operation>,
}

impl Truth<'_> {
    /// With everything followed to the end: a key that had been put and that a final read does not find has a deletion or an expiry after
    /// that put, of whatever outcome the call was that made it. Where watches saw all revisions from the put to the end, they saw it.
    pub(super) fn removals(&self, watches: &[Subscription<'_>], findings: &mut Findings) {
        if !self.context.drained {
            return;
        }
        let ends = self.ends(watches);
        for read in &self.history.operations {
            if let (Call::Read { key, .. }, End::Ok(_, Reply::Row { row: None, .. })) =
                (&read.call, &read.end)
                && facts::is_final_read(read, self.context)
            {
                self.removal(*key, read, &ends, findings);
            }
        }
    }

    fn removal(&self, key: Key, read: &Operation, ends: &Ends<'_>, findings: &mut Findings) {
        let Some((put, by)) = ends.puts.get(&key).copied() else {
            return;
        };
        let by = &self.history.operations[by];
        // Whatever was changed after the read has a greater revision than the removal.
        let later = ends.changes.get(&self.context.shard(key));
        let until = later.and_then(|changes| changes.range(read.last..).map(|(_, revision)| *revision).min());
        let (Some(until), Some(spans), Some(watch)) = (
            until.filter(|_| by.last < read.first),
            ends.spans.get(&key.partition),
            ends.watches.get(&key.partition),
        ) else {
            return;
        };
        let mut shown = put;
        for (after, through) in spans {
            if *after <= shown {
                shown = shown.max(*through);
            }
        }
        if shown < until {
            return;
        }
        findings.count("gone at the end", 1);
        if ends.removals.get(&key).is_none_or(|removal| *removal < put) {
            let text = format!(
                "{} found nothing, so that key {key} was removed after {}, but no watch of its partition was shown that, though they \
                 were shown all revisions up to {shown}",
                describe(read),
                describe(by)
            );
            findings.push(Witness::new("removal", text).operations([watch.id, by.id, read.id]));
        }
    }

    fn ends<'a>(&self, watches: &[Subscription<'a>]) -> Ends<'a> {
        let mut ends = Ends {
            puts: BTreeMap::new(),
            removals: BTreeMap::new(),
            changes: BTreeMap::new(),
            spans: BTreeMap::new(),
            watches: BTreeMap::new(),
        };
        for ((shard, revision), facts) in &self.facts.changes {
            for fact in facts {
                let operation = &self.history.operations[fact.operation];
                let changes = ends.changes.entry(*shard).or_default();
                changes.insert(operation.first, *revision);
                if matches!(
                    operation.call,
                    Call::Write { .. } | Call::Cas { .. } | Call::Increment { .. }
                ) {
                    // They come by revision.
                    ends.puts.insert(fact.key, (*revision, fact.operation));
                }
            }
        }
        for ((_, revision), changes) in &self.shown {
            let gone = changes.values().filter(|(change, _)| change.value.is_none());
            ends.removals
                .extend(gone.map(|(change, _)| (change.key, *revision)));
        }
        for watch in watches {
            let Call::Watch { partition, .. } = watch.operation.call else {
                continue;
            };
            ends.watches.insert(partition, watch.operation);
            let spans = ends.spans.entry(partition).or_default();
            let mut at = watch.after;
            for (_, seen) in &watch.seen {
                match seen {
                    Seen::Changes { through, .. } => {
                        spans.push((at, *through));
                        at = at.max(*through);
                    }
                    Seen::Compacted { resumed_after } => at = at.max(*resumed_after),
                    Seen::Resumed | Seen::Ended { .. } | Seen::Keys { .. } => {}
                }
            }
        }
        ends.spans.values_mut().for_each(|spans| spans.sort_unstable());
        ends
    }
}
