//! Accounts: money is moved, never made, lost or owed.
//!
//! Balances are replayed by revision from [`Context::accounts`] and the acknowledged transfers; where outcomes are unknown they are a
//! range. Rules:
//! - **sum**: at every read of all accounts of a partition their sum is what the opening balances, the sends and the receptions up to its
//!   revision make it. Transfers do not change it.
//! - **negative**: no account is below 0.
//! - **replay**: each balance is what the transfers up to the revision make it; an account is paid from only if it has enough, and refused
//!   only if it has not. That holds for what reads find, and for what watches and consumers are shown and the committed log has.
//! - **twice**, **phantom**: the second step of a send is applied at most once, and only for a send that was made, as it was made.
//! - **lost**: with [`Context::drained`] each acknowledged send has arrived.
//! - **total**: with [`Context::final_from`] and [`Context::drained`] the last reads of all partitions together make the opening total.

mod ledger;
mod saga;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::ledger::Ledger;
use super::{
    Context, History, facts,
    subscriptions::subscriptions,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, Change, End, Key, Operation, Reply, Revision, Seen};

/// Checks all accounts.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let ledger = Ledger::new(history, context);
    let mut last_reads: BTreeMap<u32, (usize, i128)> = BTreeMap::new();
    for operation in &history.operations {
        let End::Ok(_, reply) = &operation.end else {
            continue;
        };
        match (&operation.call, reply) {
            (Call::Balances { partition }, Reply::Balances { revision, balances }) => {
                findings.count("reads of all accounts", 1);
                let read = AllAccounts {
                    operation,
                    partition: *partition,
                    revision: *revision,
                    balances,
                };
                read.check(&ledger, context, &mut findings);
                if facts::is_final_read(operation, context) {
                    let sum = balances.iter().map(|(_, money)| i128::from(*money)).sum();
                    last_reads.insert(*partition, (operation.id, sum));
                }
            }
            (Call::Read { key, .. }, Reply::Row { row: Some(row), .. })
                if context.accounts.contains_key(key) =>
            {
                let balance = Balance {
                    key: *key,
                    revision: row.mod_rev,
                    money: i128::from(row.value as i64),
                    before: operation.last,
                };
                let who = (describe(operation), Witnessed::Operation(operation.id));
                one_balance(&balance, &who, &ledger, &mut findings);
            }
            (call, reply) => payment(operation, call, reply, &ledger, &mut findings),
        }
    }
    shown_balances(history, context, &ledger, &mut findings);
    saga::check(history, context, &mut findings);
    total(&last_reads, context, &mut findings);
    findings.verdict()
}

/// A read of all accounts of a partition at one revision.
struct AllAccounts<'a> {
    operation: &'a Operation,
    partition: u32,
    revision: Revision,
    balances: &'a [(u32, i64)],
}

impl AllAccounts<'_> {
    fn check(&self, ledger: &Ledger, context: &Context<'_>, findings: &mut Findings) {
        let partition = self.partition;
        let accounts = context
            .accounts
            .range(Key::all_of(partition))
            .map(|(key, _)| key.key);
        let accounts: BTreeSet<u32> = accounts.collect();
        let found: BTreeMap<u32, i64> = self.balances.iter().copied().collect();
        if found.len() != self.balances.len() || !found.keys().eq(accounts.iter()) {
            let text = format!(
                "{} does not show the accounts {accounts:?}",
                describe(self.operation)
            );
            findings.push(Witness::new("sum", text).operations([self.operation.id]));
            return;
        }
        let sum: i128 = found.values().map(|money| i128::from(*money)).sum();
        let expected = ledger.sum(partition, self.revision, self.operation.last);
        if !expected.contains(&sum) {
            let text = format!(
                "{}: the sum is {sum} and not {}",
                describe(self.operation),
                text(&expected)
            );
            findings.push(Witness::new("sum", text).operations([self.operation.id]));
        }
        let who = (describe(self.operation), Witnessed::Operation(self.operation.id));
        for (key, money) in found {
            let balance = Balance {
                key: Key { partition, key },
                revision: self.revision,
                money: i128::from(money),
                before: self.operation.last,
            };
            one_balance(&balance, &who, ledger, findings);
        }
    }
}

fn text(range: &std::ops::RangeInclusive<i128>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("between {} and {}", range.start(), range.end())
    }
}

/// What an account had.
struct Balance {
    key: Key,
    revision: Revision,
    money: i128,
    /// It was seen at this place of the history.
    before: usize,
}

/// What shows a balance.
#[derive(Clone, Copy)]
enum Witnessed {
    Operation(usize),
    Event(usize),
    Log,
}

/// `who` shows it, in words.
fn one_balance(balance: &Balance, who: &(String, Witnessed), ledger: &Ledger, findings: &mut Findings) {
    let Balance {
        key,
        revision,
        money,
        before,
    } = *balance;
    findings.count("balances", 1);
    let witness = |rule: &'static str, text: String| {
        let witness = Witness::new(rule, text);
        match who.1 {
            Witnessed::Operation(id) => witness.operations([id]),
            Witnessed::Event(place) => witness.events([place]),
            Witnessed::Log => witness,
        }
    };
    if money < 0 {
        findings.push(witness(
            "negative",
            format!("{}: account {key} has {money}", who.0),
        ));
    }
    let expected = ledger.balance(key, revision, before);
    if !expected.contains(&money) {
        let text = format!(
            "{}: account {key} has {money} at revision {revision} and not {}",
            who.0,
            text(&expected)
        );
        let newest = ledger.newest(key, revision);
        findings.push(witness("replay", text).operations(newest));
    }
}

/// Balances that watches and consumers were shown, and those in the committed log.
fn shown_balances(history: &History<'_>, context: &Context<'_>, ledger: &Ledger, findings: &mut Findings) {
    let mut one = |change: &Change, before: usize, who: (String, Witnessed)| {
        if let Some(value) = change.value
            && context.accounts.contains_key(&change.key)
        {
            let balance = Balance {
                key: change.key,
                revision: change.revision,
                money: i128::from(value as i64),
                before,
            };
            one_balance(&balance, &who, ledger, findings);
            findings.count("balances shown", 1);
        }
    };
    for subscription in subscriptions(history, context) {
        for (place, seen) in &subscription.seen {
            let Seen::Changes { changes, .. } = seen else {
                continue;
            };
            for change in changes {
                let who = describe(subscription.operation);
                one(change, *place, (who, Witnessed::Event(*place)));
            }
        }
    }
    for commit in context.committed.unwrap_or_default() {
        for change in &commit.changes {
            one(
                change,
                usize::MAX,
                ("the committed log".to_owned(), Witnessed::Log),
            );
        }
    }
}

/// Who pays has enough, who is refused has not.
fn payment(operation: &Operation, call: &Call, reply: &Reply, ledger: &Ledger, findings: &mut Findings) {
    let (from, amount) = match call {
        Call::Transfer {
            partition,
            from,
            amount,
            ..
        } => (
            Key {
                partition: *partition,
                key: *from,
            },
            *amount,
        ),
        Call::Send { from, amount, .. } => (*from, *amount),
        _ => return,
    };
    findings.count("payments", 1);
    let (amount, who) = (i128::from(amount), describe(operation));
    let wrong = match reply {
        Reply::Written { revision, .. } => {
            let had = ledger.balance(from, revision.saturating_sub(1), operation.last);
            (*had.end() < amount).then(|| format!("{who}: account {from} had only {}", text(&had)))
        }
        Reply::Mismatch { revision } => {
            let had = ledger.balance(from, *revision, operation.last);
            (*had.start() >= amount).then(|| format!("{who}: account {from} had {}", text(&had)))
        }
        _ => None,
    };
    if let Some(text) = wrong {
        findings.push(Witness::new("replay", text).operations([operation.id]));
    }
}

fn total(last_reads: &BTreeMap<u32, (usize, i128)>, context: &Context<'_>, findings: &mut Findings) {
    if context.final_from.is_none() || !context.drained || context.accounts.is_empty() {
        return;
    }
    let partitions: BTreeSet<u32> = context.accounts.keys().map(|key| key.partition).collect();
    if let Some(partition) = partitions
        .iter()
        .find(|partition| !last_reads.contains_key(partition))
    {
        findings.unknown(format!(
            "no final read of all accounts of partition {partition} was answered"
        ));
        return;
    }
    let opening: i128 = context.accounts.values().map(|money| i128::from(*money)).sum();
    let sum: i128 = last_reads.values().map(|(_, sum)| sum).sum();
    findings.count("totals", 1);
    if sum != opening {
        let text = format!("all partitions together had {opening} and have {sum} at the end");
        let reads = last_reads.values().map(|(id, _)| *id);
        findings.push(Witness::new("total", text).operations(reads));
    }
}
