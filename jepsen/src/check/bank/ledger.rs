//! Balances by revision.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::super::{Context, History};
use crate::history::{Call, End, Key, Operation, Reply, Revision};

/// What happened to an account or a partition.
#[derive(Default)]
struct Movements {
    opening: i128,
    /// Acknowledged ones: the balance from this revision on, and the operation.
    known: BTreeMap<Revision, (i128, usize)>,
    /// Possible ones.
    unknown: Vec<(i128, usize)>,
}

impl Movements {
    fn range(&self, revision: Revision, before: usize, all: &[Operation]) -> RangeInclusive<i128> {
        let known = self.known.range(..=revision).next_back();
        let balance = known.map_or(self.opening, |(_, (balance, _))| *balance);
        let possible = self.unknown.iter().filter(|(_, id)| all[*id].first < before);
        let (mut low, mut high) = (balance, balance);
        for (money, _) in possible {
            low += (*money).min(0);
            high += (*money).max(0);
        }
        low..=high
    }
}

/// All accounts, and their sums by partition.
pub(super) struct Ledger<'a> {
    operations: &'a [Operation],
    accounts: BTreeMap<Key, Movements>,
    partitions: BTreeMap<u32, Movements>,
}

impl<'a> Ledger<'a> {
    /// Replays the history.
    pub(super) fn new(history: &'a History<'_>, context: &Context<'_>) -> Self {
        let mut ledger = Self {
            operations: &history.operations,
            accounts: BTreeMap::new(),
            partitions: BTreeMap::new(),
        };
        for (key, money) in &context.accounts {
            let money = i128::from(*money);
            ledger.accounts.entry(*key).or_default().opening = money;
            ledger.partitions.entry(key.partition).or_default().opening += money;
        }
        let mut known: Vec<(Revision, &Operation)> = Vec::new();
        for operation in &history.operations {
            match &operation.end {
                End::Ok(_, Reply::Written { revision, .. }) => known.push((*revision, operation)),
                End::Unknown => ledger.add(operation, None),
                _ => {}
            }
        }
        known.sort_by_key(|(revision, operation)| (*revision, operation.id));
        for (revision, operation) in known {
            ledger.add(operation, Some(revision));
        }
        ledger
    }

    fn add(&mut self, operation: &Operation, revision: Option<Revision>) {
        for (key, money) in movements(&operation.call) {
            let account = self.accounts.entry(key).or_default();
            let partition = self.partitions.entry(key.partition).or_default();
            // A transfer within a partition is there twice, so the sum does not change.
            for side in [account, partition] {
                match revision {
                    None => side.unknown.push((money, operation.id)),
                    Some(revision) => {
                        let before = side.known.last_key_value();
                        let before = before.map_or(side.opening, |(_, (balance, _))| *balance);
                        side.known.insert(revision, (before + money, operation.id));
                    }
                }
            }
            if revision.is_none() && matches!(operation.call, Call::Transfer { .. }) {
                // It changes no sum, whether it happened or not.
                self.partitions.entry(key.partition).or_default().unknown.pop();
            }
        }
    }

    /// What the account can have had at a revision, seen before a place in the history.
    pub(super) fn balance(&self, key: Key, revision: Revision, before: usize) -> RangeInclusive<i128> {
        let account = self.accounts.get(&key);
        account.map_or(0..=0, |account| account.range(revision, before, self.operations))
    }

    /// What all accounts of a partition can have had.
    pub(super) fn sum(&self, partition: u32, revision: Revision, before: usize) -> RangeInclusive<i128> {
        let partition = self.partitions.get(&partition);
        partition.map_or(0..=0, |partition| {
            partition.range(revision, before, self.operations)
        })
    }

    /// The newest acknowledged movement of the account up to a revision.
    pub(super) fn newest(&self, key: Key, revision: Revision) -> Option<usize> {
        let account = self.accounts.get(&key)?;
        let (_, (_, operation)) = account.known.range(..=revision).next_back()?;
        Some(*operation)
    }
}

/// How much the call adds to which account.
fn movements(call: &Call) -> Vec<(Key, i128)> {
    match call {
        Call::Transfer {
            partition,
            from,
            to,
            amount,
        } => {
            let (partition, amount) = (*partition, i128::from(*amount));
            let key = |key: &u32| Key { partition, key: *key };
            vec![(key(from), -amount), (key(to), amount)]
        }
        Call::Send { from, amount, .. } => vec![(*from, -i128::from(*amount))],
        Call::Receive { to, amount, .. } => vec![(*to, i128::from(*amount))],
        _ => Vec::new(),
    }
}
