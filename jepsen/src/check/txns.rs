//! Transactions of several operations: each does what its conditions say of the state before it, all of it, and once.
//!
//! They are held against a [model](super::states) that is brought forward revision by revision; of a transaction whose state is not known
//! only the form of the answer can be said. Rules:
//! - **form**: one answer for each operation of the list that ran, of its kind.
//! - **conditions**: the list that ran is the one that the state before it asks for.
//! - **answers**: each operation found and told what the state and the operations before it make.
//! - **effect**: its revision has what its operations leave, and nothing else.
//! - **phantom**: keys that only transactions change change by transactions that were asked for, each of them once.
//! - **row**: the version and creation revision of a change that is shown are those that its key has by the changes before it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Context, History, facts,
    states::States,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Action, Answer, Call, End, Key, Operation, Reply, Revision, Txn, TxnDone};

/// Checks all transactions.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let all = history.operations.iter();
    let all: Vec<(&Operation, &Txn)> = all
        .filter_map(|operation| match &operation.call {
            Call::Txn(txn) => Some((operation, txn)),
            _ => None,
        })
        .collect();
    let partitions: BTreeSet<u32> = all.iter().map(|(_, txn)| txn.partition).collect();
    let states = States::new(history, context, &partitions);
    for (change, row) in &states.odd {
        let text = format!("{change:?} is shown, but by the changes before it its key has {row:?}");
        findings.push(Witness::new("row", text));
    }
    for (operation, txn) in &all {
        if let End::Ok(_, Reply::Txn(done)) = &operation.end {
            findings.count("transactions", 1);
            let judged = Judged {
                operation,
                txn,
                done,
                shard: (context.shard_of)(txn.partition),
            };
            match judged.has_form() {
                true => judged.check(&states, &mut findings),
                false => judged.wrong("form", "has not one answer for each operation", &mut findings),
            }
        }
    }
    phantoms(&all, history, &states, context, &mut findings);
    findings.verdict()
}

/// An answered transaction.
struct Judged<'a> {
    operation: &'a Operation,
    txn: &'a Txn,
    done: &'a TxnDone,
    shard: u32,
}

impl Judged<'_> {
    fn wrong(&self, rule: &'static str, what: &str, findings: &mut Findings) {
        let text = format!("{} {what}", describe(self.operation));
        findings.push(Witness::new(rule, text).operations([self.operation.id]));
    }

    fn has_form(&self) -> bool {
        let ran = self.txn.branch(self.done.succeeded);
        let fits = |(action, answer): (&Action, &Answer)| {
            matches!(
                (action, answer),
                (Action::Get { .. }, Answer::Row { .. })
                    | (Action::Put { .. }, Answer::Put { .. })
                    | (Action::Delete { .. }, Answer::Deleted { deleted: 0 | 1 })
                    | (Action::Add { .. }, Answer::Sum { .. })
            )
        };
        ran.len() == self.done.answers.len() && ran.iter().zip(&self.done.answers).all(fits)
    }

    fn check(&self, states: &States, findings: &mut Findings) {
        let revision = self.done.revision;
        if revision > states.known(self.txn.partition) {
            return;
        }
        let end = &self.operation.end;
        let has_changed = matches!(end, End::Ok(_, reply) if facts::changes(self.operation, reply).is_some());
        let before = revision.saturating_sub(u64::from(has_changed));
        let ran = states.run(self.txn, before);
        findings.count(if ran.succeeded { "ran" } else { "refused" }, 1);
        if ran.succeeded != self.done.succeeded {
            let what = format!(
                "ran the wrong list: at revision {before} the conditions give {}",
                ran.succeeded
            );
            return self.wrong("conditions", &what, findings);
        }
        if ran.answers != self.done.answers {
            let what = format!("is to have answered {:?} after revision {before}", ran.answers);
            return self.wrong("answers", &what, findings);
        }
        if !has_changed {
            return;
        }
        let changes = states.changes(self.shard, revision, self.txn.partition);
        if changes != ran.changes {
            let what = format!("left {changes:?} and not {:?}", ran.changes);
            self.wrong("effect", &what, findings);
        }
    }
}

/// Changes of keys that only transactions change, and no acknowledged one has made.
fn phantoms(
    all: &[(&Operation, &Txn)],
    history: &History<'_>,
    states: &States,
    context: &Context<'_>,
    findings: &mut Findings,
) {
    let mut keys: BTreeSet<Key> = BTreeSet::new();
    let mut others: BTreeSet<Key> = BTreeSet::new();
    let mut acknowledged: BTreeSet<(u32, Revision)> = BTreeSet::new();
    for operation in &history.operations {
        let changed = facts::changed_keys(&operation.call);
        match operation.call {
            Call::Txn(_) => keys.extend(changed),
            _ => others.extend(changed),
        }
        if let End::Ok(_, reply) = &operation.end
            && let Some((revision, facts)) = facts::changes(operation, reply)
            && let Some(fact) = facts.first()
        {
            acknowledged.insert((context.shard(fact.key), revision));
        }
    }
    keys.retain(|key| !others.contains(key));
    // Each has a value of its own that it puts.
    let mut unknown: BTreeMap<u64, (&Operation, &Txn)> = BTreeMap::new();
    for (operation, txn) in all.iter().filter(|(operation, _)| operation.end == End::Unknown) {
        unknown.extend(values(txn).map(|value| (value, (*operation, *txn))));
    }
    let mut used: BTreeMap<usize, Revision> = BTreeMap::new();
    for (shard, revision, changed) in states.all() {
        let Some(key) = changed.iter().find(|key| keys.contains(key)) else {
            continue;
        };
        if acknowledged.contains(&(shard, revision)) || revision > states.known(key.partition) {
            continue;
        }
        findings.count("of unknown outcome", 1);
        let changes = states.changes(shard, revision, key.partition);
        let left = changes.values().flatten().map(|row| row.value);
        let by = left.filter_map(|value| unknown.get(&value)).find(|(_, txn)| {
            txn.partition == key.partition && states.run(txn, revision.saturating_sub(1)).changes == changes
        });
        match by {
            None => {
                let text = format!(
                    "shard {shard}: no transaction was asked for that leaves {changes:?} at revision {revision}"
                );
                findings.push(Witness::new("phantom", text));
            }
            Some((operation, _)) => {
                if let Some(other) = used.insert(operation.id, revision) {
                    let text = format!(
                        "{} was carried out at {other} and at {revision}",
                        describe(operation)
                    );
                    findings.push(Witness::new("phantom", text).operations([operation.id]));
                }
            }
        }
    }
}

fn values(txn: &Txn) -> impl Iterator<Item = u64> {
    let all = txn.then.iter().chain(&txn.or_else);
    all.filter_map(|action| match action {
        Action::Put { value, .. } => Some(*value),
        _ => None,
    })
}
