//! Watches of whole shards without values, beside what else is known of the shard's changes.
//!
//! Rules:
//! - **order**: revisions grow, no change comes twice, none of what was shown before.
//! - **gap**: no change that the committed log has, or that another subscription was shown, is left out.
//! - **content**: a change is of the kind, version and revisions that are known of it; with a committed log, it is in it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Context, History,
    subscriptions::{Shown, Subscription, shown, subscriptions},
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, Change, Key, Revision, Seen};

/// Checks every such watch.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let shown = shown(history, context);
    let logged = logged(context);
    for watch in &subscriptions(history, context) {
        if matches!(watch.operation.call, Call::WatchKeys { .. }) {
            findings.count("bare watches", 1);
            let followed = Followed {
                watch,
                shown: &shown,
                logged: &logged,
            };
            followed.check(&mut findings);
        }
    }
    findings.verdict()
}

/// The last revision of each shard of which the log has all from the first on.
fn logged(context: &Context<'_>) -> BTreeMap<u32, Revision> {
    let mut logged: BTreeMap<u32, Revision> = BTreeMap::new();
    let log = context.committed.unwrap_or_default();
    let all: BTreeSet<_> = log.iter().map(|commit| (commit.shard, commit.revision)).collect();
    for (shard, revision) in all {
        let last = logged.entry(shard).or_default();
        if revision == *last + 1 {
            *last = revision;
        }
    }
    logged
}

struct Followed<'a> {
    watch: &'a Subscription<'a>,
    shown: &'a Shown,
    logged: &'a BTreeMap<u32, Revision>,
}

impl Followed<'_> {
    fn wrong(&self, rule: &'static str, place: usize, what: &str, findings: &mut Findings) {
        let text = format!("{} {what}", describe(self.watch.operation));
        let witness = Witness::new(rule, text).operations([self.watch.operation.id]);
        findings.push(witness.events([place]));
    }

    fn check(&self, findings: &mut Findings) {
        let mut through = self.watch.after;
        for (place, seen) in &self.watch.seen {
            match seen {
                Seen::Keys { changes, through: to } => {
                    self.batch(*place, (through, *to), changes, findings);
                    through = through.max(*to);
                }
                Seen::Compacted { resumed_after } => through = through.max(*resumed_after),
                _ => {}
            }
        }
    }

    /// What was shown after a revision and up to another one.
    fn batch(
        &self,
        place: usize,
        (after, through): (Revision, Revision),
        changes: &[Change],
        findings: &mut Findings,
    ) {
        let mut seen: BTreeMap<(Revision, Key), &Change> = BTreeMap::new();
        let mut last = after;
        for change in changes {
            findings.count("bare changes", 1);
            let is_early = change.revision <= after || change.revision < last || change.revision > through;
            last = last.max(change.revision);
            if seen.insert((change.revision, change.key), change).is_some() || is_early {
                let what = format!("is shown {change:?} when it has seen everything up to {last}");
                self.wrong("order", place, &what, findings);
            }
            self.content(place, change, findings);
        }
        let shard = self.watch.shard;
        let known = self.shown.range((shard, after)..=(shard, through.max(after)));
        for ((_, revision), known) in known.filter(|((_, revision), _)| *revision > after) {
            for key in known.keys().filter(|key| !seen.contains_key(&(*revision, **key))) {
                let what = format!("is not shown the change of key {key} at revision {revision}");
                self.wrong("gap", place, &what, findings);
            }
        }
    }

    fn content(&self, place: usize, change: &Change, findings: &mut Findings) {
        let shard = self.watch.shard;
        let known = self.shown.get(&(shard, change.revision));
        match known.and_then(|known| known.get(&change.key)) {
            Some((known, _)) => {
                findings.count("held against others", 1);
                let bare = Change {
                    value: known.value.map(|_| 0),
                    ..*known
                };
                if bare != *change {
                    let what = format!("is shown {change:?}, but elsewhere it is {known:?}");
                    self.wrong("content", place, &what, findings);
                }
            }
            None if self
                .logged
                .get(&shard)
                .is_some_and(|last| change.revision <= *last) =>
            {
                let what = format!("is shown {change:?}, which is not in the committed log");
                self.wrong("content", place, &what, findings);
            }
            None => {}
        }
    }
}
