//! The rows of some partitions at every revision, and what a transaction does to them: a small model.
//!
//! Rows are made anew from the changes of the committed log, or, without one, of the watches of the partition, as far as these are without
//! a hole from the beginning. Versions and creation revisions are counted here, not taken from what was shown.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Context, History,
    subscriptions::{shown, subscriptions},
};
use crate::history::{Action, Answer, Call, Change, Condition, Is, Key, Revision, Row, Seen, Side, Txn};

/// What is left at keys of one partition.
pub(crate) type Changes = BTreeMap<u32, Option<Row>>;

/// What a transaction does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) succeeded: bool,
    pub(crate) answers: Vec<Answer>,
    /// Keys that are not as before.
    pub(crate) changes: Changes,
}

/// The rows of some partitions.
pub(crate) struct States {
    keys: BTreeMap<Key, BTreeMap<Revision, Option<Row>>>,
    /// By shard and revision: keys that changed.
    changes: BTreeMap<(u32, Revision), Vec<Key>>,
    /// By partition: everything up to here is known.
    known: BTreeMap<u32, Revision>,
    /// Changes that say other numbers than are counted here.
    pub(crate) odd: Vec<(Change, Row)>,
}

impl States {
    /// Those of these partitions.
    pub(crate) fn new(history: &History<'_>, context: &Context<'_>, partitions: &BTreeSet<u32>) -> Self {
        let mut states = Self {
            keys: BTreeMap::new(),
            changes: BTreeMap::new(),
            known: known(history, context, partitions),
            odd: Vec::new(),
        };
        for ((shard, revision), changes) in shown(history, context) {
            for (key, (change, _)) in changes {
                if !partitions.contains(&key.partition) {
                    continue;
                }
                let row = next_row(states.row(key, revision), change.value, revision);
                let is_known = revision <= states.known(key.partition);
                if let (Some(told), Some(row)) = (change.row(), row)
                    && told != row
                    && is_known
                {
                    states.odd.push((change, row));
                }
                states.keys.entry(key).or_default().insert(revision, row);
                states.changes.entry((shard, revision)).or_default().push(key);
            }
        }
        states
    }

    /// Every change of the partition up to this revision is known.
    pub(crate) fn known(&self, partition: u32) -> Revision {
        self.known.get(&partition).copied().unwrap_or_default()
    }

    /// A key's row at a revision.
    pub(crate) fn row(&self, key: Key, revision: Revision) -> Option<Row> {
        let rows = self.keys.get(&key)?;
        rows.range(..=revision).next_back().and_then(|(_, row)| *row)
    }

    /// The rows of a partition's keys in `from..to` at a revision, by key.
    pub(crate) fn rows(&self, partition: u32, (from, to): (u32, u32), revision: Revision) -> Vec<(u32, Row)> {
        let key = |key| Key { partition, key };
        if from >= to {
            return Vec::new();
        }
        let keys = self.keys.range(key(from)..key(to)).map(|(key, _)| *key);
        keys.filter_map(|key| Some((key.key, self.row(key, revision)?)))
            .collect()
    }

    /// What changed at a revision in a partition.
    pub(crate) fn changes(&self, shard: u32, revision: Revision, partition: u32) -> Changes {
        let keys = self.changes.get(&(shard, revision)).into_iter().flatten();
        let keys = keys.filter(|key| key.partition == partition);
        keys.map(|key| (key.key, self.row(*key, revision))).collect()
    }

    /// All revisions at which something changed, with the keys.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, Revision, &[Key])> {
        let all = self.changes.iter();
        all.map(|((shard, revision), keys)| (*shard, *revision, &keys[..]))
    }

    /// What a transaction does after the revision `before`; what it changes gets the next one.
    pub(crate) fn run(&self, txn: &Txn, before: Revision) -> Ran {
        let row = |key| {
            let partition = txn.partition;
            self.row(Key { partition, key }, before)
        };
        let holds = |condition: &Condition| holds(condition, row(condition.key));
        let succeeded = txn.conditions.iter().all(holds);
        let mut rows = Changes::new();
        let mut answers = Vec::new();
        for action in txn.branch(succeeded) {
            let found = |key: u32| rows.get(&key).copied().unwrap_or_else(|| row(key));
            let (answer, left) = act(action, found, before + 1);
            answers.push(answer);
            if let (Some(key), Some(left)) = (action.changes(), left) {
                rows.insert(key, left);
            }
        }
        rows.retain(|key, left| *left != row(*key));
        Ran {
            succeeded,
            answers,
            changes: rows,
        }
    }
}

/// What a put of a value, or a removal, leaves of a row.
fn next_row(before: Option<Row>, value: Option<u64>, revision: Revision) -> Option<Row> {
    value.map(|value| Row {
        value,
        create_rev: before.map_or(revision, |row| row.create_rev),
        mod_rev: revision,
        version: before.map_or(1, |row| row.version + 1),
    })
}

/// What an operation answers, and what it leaves at its key if it changes it.
fn act(
    action: &Action,
    found: impl Fn(u32) -> Option<Row>,
    revision: Revision,
) -> (Answer, Option<Option<Row>>) {
    match *action {
        Action::Get { key } => (Answer::Row { row: found(key) }, None),
        Action::Put { key, value } => {
            let row = next_row(found(key), Some(value), revision);
            let version = row.map_or(0, |row| row.version);
            (Answer::Put { version }, Some(row))
        }
        Action::Add { key, delta } => {
            let value = found(key).map_or(0, |row| row.value as i64).wrapping_add(delta);
            let row = next_row(found(key), Some(value as u64), revision);
            (Answer::Sum { value }, Some(row))
        }
        Action::Delete { key } => {
            let deleted = u64::from(found(key).is_some());
            (Answer::Deleted { deleted }, Some(None))
        }
    }
}

fn holds(condition: &Condition, row: Option<Row>) -> bool {
    let side = match condition.side {
        // Values are compared as bytes, which is how their numbers compare.
        Side::Value => match row {
            Some(row) => row.value,
            None => return false,
        },
        Side::Version => row.map_or(0, |row| row.version),
        Side::CreateRev => row.map_or(0, |row| row.create_rev),
        Side::ModRev => row.map_or(0, |row| row.mod_rev),
        Side::Exists => u64::from(row.is_some()),
    };
    match condition.is {
        Is::Equal => side == condition.number,
        Is::Other => side != condition.number,
        Is::Less => side < condition.number,
        Is::Greater => side > condition.number,
    }
}

/// A transaction may leave this at a key, or remove it.
pub(crate) fn may_leave(txn: &Txn, key: Key, value: Option<u64>) -> bool {
    let mut all = txn.then.iter().chain(&txn.or_else);
    key.partition == txn.partition
        && all.any(|action| match (*action, value) {
            (Action::Put { key: of, value }, Some(left)) => of == key.key && value == left,
            (Action::Add { key: of, .. }, Some(_)) | (Action::Delete { key: of }, None) => of == key.key,
            _ => false,
        })
}

/// Up to which revision the changes of partitions are known without a hole.
fn known(
    history: &History<'_>,
    context: &Context<'_>,
    partitions: &BTreeSet<u32>,
) -> BTreeMap<u32, Revision> {
    let mut next: BTreeMap<u32, Revision> = BTreeMap::new();
    let log = context.committed.unwrap_or_default();
    let log: BTreeSet<_> = log.iter().map(|commit| (commit.shard, commit.revision)).collect();
    let mut torn = BTreeSet::new();
    for (shard, revision) in log {
        let expected = next.entry(shard).or_insert(1);
        if revision != *expected {
            torn.insert(shard);
        }
        *expected = revision + 1;
    }
    let is_whole = |partition: &u32| {
        let shard = (context.shard_of)(*partition);
        context.committed.is_some() && !torn.contains(&shard)
    };
    let mut known: BTreeMap<u32, Revision> = partitions
        .iter()
        .filter(|partition| is_whole(partition))
        .map(|partition| (*partition, Revision::MAX))
        .collect();
    let mut spans: BTreeMap<u32, Vec<(Revision, Revision)>> = BTreeMap::new();
    for watch in subscriptions(history, context) {
        let Call::Watch { partition, .. } = watch.operation.call else {
            continue;
        };
        let mut at = watch.after;
        for (_, seen) in &watch.seen {
            match seen {
                Seen::Changes { through, .. } => {
                    spans.entry(partition).or_default().push((at, *through));
                    at = at.max(*through);
                }
                Seen::Compacted { resumed_after } => at = at.max(*resumed_after),
                _ => {}
            }
        }
    }
    for (partition, mut spans) in spans {
        spans.sort_unstable();
        let through = known.entry(partition).or_default();
        for (after, until) in spans {
            if after <= *through {
                *through = until.max(*through);
            }
        }
    }
    known
}
