//! Balances by revision.
//!
//! A reception of unknown outcome is settled by later answers of the same transfer: it arrives once at most. If another try gave the
//! money, this one did not; if another try was told that it had arrived before, one of those unknown ones gave it, by then.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::super::{Context, History};
use crate::history::{Call, End, Key, Operation, Reply, Revision};

/// A movement of which it is not known when it happened, or whether.
#[derive(Clone, Copy)]
struct Possible {
    money: i128,
    /// Place of the first invocation that may have made it.
    first: usize,
    /// It was made at this revision at the latest; `None`: perhaps never.
    by: Option<Revision>,
}

/// What happened to an account or a partition.
#[derive(Default)]
struct Movements {
    opening: i128,
    /// Acknowledged ones: the balance from this revision on, and the operation.
    known: BTreeMap<Revision, (i128, usize)>,
    unknown: Vec<Possible>,
}

impl Movements {
    fn range(&self, revision: Revision, before: usize) -> RangeInclusive<i128> {
        let known = self.known.range(..=revision).next_back();
        let balance = known.map_or(self.opening, |(_, (balance, _))| *balance);
        let (mut low, mut high) = (balance, balance);
        for Possible { money, first, by } in &self.unknown {
            if by.is_some_and(|by| by <= revision) {
                low += money;
                high += money;
            } else if *first < before {
                low += (*money).min(0);
                high += (*money).max(0);
            }
        }
        low..=high
    }
}

/// What the answers to all tries tell of one reception.
#[derive(Default)]
struct Reception {
    /// One gave the money.
    is_done: bool,
    /// The least revision at which one was told that it had arrived.
    arrived: Option<Revision>,
    /// The first of unknown outcome.
    unknown: Option<usize>,
}

fn receptions(operations: &[Operation]) -> BTreeMap<u64, Reception> {
    let mut receptions: BTreeMap<u64, Reception> = BTreeMap::new();
    for operation in operations {
        let Call::Receive { id, .. } = operation.call else {
            continue;
        };
        let reception = receptions.entry(id).or_default();
        match &operation.end {
            End::Ok(_, Reply::Written { .. }) => reception.is_done = true,
            End::Ok(_, Reply::Mismatch { revision }) => {
                let arrived = reception.arrived.get_or_insert(*revision);
                *arrived = (*arrived).min(*revision);
            }
            End::Unknown => {
                reception.unknown.get_or_insert(operation.id);
            }
            _ => {}
        }
    }
    receptions
}

/// All accounts, and their sums by partition.
#[derive(Default)]
pub(super) struct Ledger {
    accounts: BTreeMap<Key, Movements>,
    partitions: BTreeMap<u32, Movements>,
}

impl Ledger {
    /// Replays the history.
    pub(super) fn new(history: &History<'_>, context: &Context<'_>) -> Self {
        let mut ledger = Self {
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
                End::Unknown if !matches!(operation.call, Call::Receive { .. }) => {
                    ledger.add_possible(operation, None);
                }
                _ => {}
            }
        }
        for reception in receptions(&history.operations).into_values() {
            if let Some(id) = reception.unknown.filter(|_| !reception.is_done) {
                ledger.add_possible(&history.operations[id], reception.arrived);
            }
        }
        known.sort_by_key(|(revision, operation)| (*revision, operation.id));
        for (revision, operation) in known {
            ledger.add(operation, revision);
        }
        ledger
    }

    fn add(&mut self, operation: &Operation, revision: Revision) {
        for (key, money) in movements(&operation.call) {
            let account = self.accounts.entry(key).or_default();
            let partition = self.partitions.entry(key.partition).or_default();
            // A transfer within a partition is there twice, so the sum does not change.
            for side in [account, partition] {
                let before = side.known.last_key_value();
                let before = before.map_or(side.opening, |(_, (balance, _))| *balance);
                side.known.insert(revision, (before + money, operation.id));
            }
        }
    }

    /// One that may have been made, by this revision at the latest if it is known to have been.
    fn add_possible(&mut self, operation: &Operation, by: Option<Revision>) {
        for (key, money) in movements(&operation.call) {
            let possible = Possible {
                money,
                first: operation.first,
                by,
            };
            self.accounts.entry(key).or_default().unknown.push(possible);
            // A transfer within a partition changes no sum, whether it happened or not.
            if !matches!(operation.call, Call::Transfer { .. }) {
                let partition = self.partitions.entry(key.partition).or_default();
                partition.unknown.push(possible);
            }
        }
    }

    /// What the account can have had at a revision, seen before a place in the history.
    pub(super) fn balance(&self, key: Key, revision: Revision, before: usize) -> RangeInclusive<i128> {
        let account = self.accounts.get(&key);
        account.map_or(0..=0, |account| account.range(revision, before))
    }

    /// What all accounts of a partition can have had.
    pub(super) fn sum(&self, partition: u32, revision: Revision, before: usize) -> RangeInclusive<i128> {
        let partition = self.partitions.get(&partition);
        partition.map_or(0..=0, |partition| partition.range(revision, before))
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
