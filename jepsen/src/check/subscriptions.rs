//! Watches and consumers of a history, each with what it saw.

use std::collections::BTreeMap;

use super::{Context, History};
use crate::history::{Call, Change, End, Key, Operation, Reply, Revision, Seen, Step};

/// Changes by shard, revision and key, each with the first event that showed it; `None`: the committed log has it.
pub(crate) type Shown = BTreeMap<(u32, Revision), BTreeMap<Key, (Change, Option<usize>)>>;

/// Changes that the committed log or any subscription shows.
pub(crate) fn shown(history: &History<'_>, context: &Context<'_>) -> Shown {
    let mut shown = Shown::new();
    for commit in context.committed.unwrap_or_default() {
        for change in &commit.changes {
            let changes = shown.entry((commit.shard, change.revision)).or_default();
            changes.insert(change.key, (*change, None));
        }
    }
    for subscription in subscriptions(history, context) {
        for (place, seen) in &subscription.seen {
            let Seen::Changes { changes, .. } = seen else {
                continue;
            };
            for change in changes {
                let at = shown.entry((subscription.shard, change.revision)).or_default();
                at.entry(change.key).or_insert((*change, Some(*place)));
            }
        }
    }
    shown
}

/// A watch or a consumer, from its begin until its process begins another one.
pub(crate) struct Subscription<'a> {
    /// What opened it.
    pub(crate) operation: &'a Operation,
    /// The shard whose revisions it sees.
    pub(crate) shard: u32,
    /// It sees events after this revision.
    pub(crate) after: Revision,
    /// The owner's number, of a consumer.
    pub(crate) epoch: u64,
    /// What it saw, with places in the history.
    pub(crate) seen: Vec<(usize, &'a Seen)>,
    /// Its process began no other one.
    pub(crate) is_last: bool,
}

/// All subscriptions that were opened, by their opening.
pub(crate) fn subscriptions<'a>(history: &'a History<'_>, context: &Context<'_>) -> Vec<Subscription<'a>> {
    let mut all: Vec<Subscription<'a>> = Vec::new();
    let mut open = BTreeMap::new();
    let mut opened: BTreeMap<usize, &Operation> = history
        .operations
        .iter()
        .filter(|operation| matches!(operation.end, End::Ok(..)))
        .map(|operation| (operation.last, operation))
        .collect();
    for (place, event) in history.events.iter().enumerate() {
        if let Some(operation) = opened.remove(&place)
            && let End::Ok(_, Reply::Watching { after, epoch }) = operation.end
        {
            let (shard, after) = match &operation.call {
                // What was asked for, so that a watch that begins later has a gap.
                Call::Watch { partition, after } => ((context.shard_of)(*partition), *after),
                Call::WatchKeys { shard, after } => (*shard, *after),
                Call::Consume { shard, .. } | Call::ConsumeAt { shard, .. } => (*shard, after),
                _ => continue,
            };
            if let Some(before) = open.insert(event.process, all.len()) {
                let before: &mut Subscription<'_> = &mut all[before];
                before.is_last = false;
            }
            all.push(Subscription {
                operation,
                shard,
                after,
                epoch,
                seen: Vec::new(),
                is_last: true,
            });
        }
        if let Step::Seen { seen } = &event.step
            && let Some(at) = open.get(&event.process)
        {
            all[*at].seen.push((place, seen));
        }
    }
    all
}
