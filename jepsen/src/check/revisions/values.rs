//! What reads and conditions saw, against the newest change up to their revision.

use super::super::{
    Context, facts,
    verdict::{Findings, Witness, describe},
};
use super::{
    keys::{Keys, Register, Source},
    order::Ceilings,
};
use crate::history::{Call, End, Key, Mode, Operation, Reply, Revision};

/// Checks every answer that says something about a register.
pub(super) fn check(keys: &Keys<'_>, ceilings: &Ceilings, context: &Context<'_>, findings: &mut Findings) {
    for operation in keys.operations {
        let End::Ok(_, reply) = &operation.end else {
            continue;
        };
        let view = View {
            keys,
            operation,
            ceiling: facts::partition(&operation.call).map_or(Revision::MAX, |of| {
                ceilings.at((context.shard_of)(of), operation.last)
            }),
            is_final: facts::is_final_read(operation, context),
        };
        match (&operation.call, reply) {
            (Call::Scan { partition, .. }, Reply::Items { revision, items }) => {
                view.scan(*partition, *revision, items, findings);
            }
            (
                Call::Read {
                    key,
                    mode: Mode::At(at),
                },
                Reply::Row { revision, row, .. },
            ) => {
                let mod_rev = row.map(|row| row.mod_rev);
                findings.count("older", 1);
                view.of(*key, *at, findings, |register| {
                    view.exact(register, (*at, *revision), mod_rev)
                });
            }
            (Call::Read { key, .. }, Reply::Row { revision, row, .. }) => {
                let mod_rev = row.map(|row| row.mod_rev);
                view.of(*key, *revision, findings, |register| {
                    view.row(register, *revision, mod_rev)
                });
            }
            (Call::Cas { key, from, .. }, Reply::Written { revision, .. }) => {
                let before = revision.saturating_sub(1);
                view.of(*key, before, findings, |register| {
                    view.value(register, before, *from)
                });
            }
            (Call::Cas { key, from, .. }, Reply::Mismatch { revision }) => {
                view.of(*key, *revision, findings, |register| {
                    view.other(register, *revision, *from)
                });
            }
            (
                Call::Delete { key },
                Reply::Deleted {
                    revision,
                    existed: false,
                },
            ) => view.of(*key, *revision, findings, |register| {
                view.absent(register, *revision)
            }),
            _ => {}
        }
    }
}

/// One answer.
struct View<'a> {
    keys: &'a Keys<'a>,
    operation: &'a Operation,
    /// The greatest revision that its shard can have had when it ended.
    ceiling: Revision,
    is_final: bool,
}

impl View<'_> {
    /// Runs one rule on a register; other keys are left out.
    fn of(
        &self,
        key: Key,
        revision: Revision,
        findings: &mut Findings,
        rule: impl FnOnce(&Register) -> Result<(), Witness>,
    ) {
        if let Some(register) = self.keys.keys.get(&key) {
            self.count(register, revision, findings);
            if let Err(witness) = rule(register) {
                findings.push(witness);
            }
        }
    }

    /// Counts an answer: an old value would be seen where a change is known, an absence where in addition no unknown deletion may be.
    fn count(&self, register: &Register, revision: Revision, findings: &mut Findings) {
        findings.count("answers", 1);
        if register.newest(revision).is_some() {
            let may_be = register.may_be_deleted(self.operation.last, self.keys.operations);
            findings.count("values", 1);
            findings.count("absences", u64::from(!may_be));
        }
    }

    fn wrong(&self, rule: &'static str, what: &str, other: Option<Source>) -> Witness {
        let mut text = format!("{} {what}", describe(self.operation));
        if let Some(other) = other {
            text += &format!(" {}", other.describe(self.keys.operations));
        }
        let rule = if self.is_final { "durability" } else { rule };
        let witness = Witness::new(rule, text).operations([self.operation.id]);
        other
            .into_iter()
            .fold(witness, |witness, other| other.into_witness(witness))
    }

    /// A point read: of the state at the revision, or a later one.
    fn row(&self, register: &Register, revision: Revision, mod_rev: Option<Revision>) -> Result<(), Witness> {
        let Some(mod_rev) = mod_rev else {
            // Gone at the revision, or by a later deletion, if that can have been made by then.
            let later = register.entries.range(revision.saturating_add(1)..);
            let later = later.take_while(|(at, _)| **at <= self.ceiling);
            let mut begun =
                later.filter(|(_, e)| e.told_by.first(self.keys.operations) < self.operation.last);
            if begun.any(|(_, entry)| entry.value.is_none()) {
                return Ok(());
            }
            return self.absent(register, revision);
        };
        match register.newest(revision) {
            Some((newest, entry)) if newest > mod_rev => {
                Err(self.wrong("value", "saw an older version than that of", Some(entry.told_by)))
            }
            _ => Ok(()),
        }
    }

    /// A read of the state at exactly a revision, and the one that was told.
    fn exact(
        &self,
        register: &Register,
        (at, told): (Revision, Revision),
        mod_rev: Option<Revision>,
    ) -> Result<(), Witness> {
        if told != at || mod_rev.is_some_and(|mod_rev| mod_rev > at) {
            return Err(self.wrong("value", "saw another revision than it asked for", None));
        }
        match mod_rev {
            Some(_) => self.row(register, at, mod_rev),
            None => self.absent(register, at),
        }
    }

    /// The key had this value at exactly this revision.
    fn value(&self, register: &Register, revision: Revision, value: u64) -> Result<(), Witness> {
        let newest = register.newest(revision);
        if newest.is_some_and(|(_, entry)| entry.value == Some(value)) {
            return Ok(());
        }
        let all = self.keys.operations;
        if register.hidden_writer(value, self.operation.last, all).is_some() {
            return Ok(());
        }
        let what = format!("saw {value} at revision {revision}, which is not what was there:");
        Err(self.wrong("value", &what, newest.map(|(_, entry)| entry.told_by)))
    }

    /// The key did not have this value at exactly this revision.
    fn other(&self, register: &Register, revision: Revision, value: u64) -> Result<(), Witness> {
        let (before, all) = (self.operation.last, self.keys.operations);
        match register.newest(revision) {
            Some((_, entry))
                if entry.value == Some(value)
                    && !register.may_be_written(before, all)
                    && !register.may_be_deleted(before, all) =>
            {
                Err(self.wrong(
                    "value",
                    "was told that the value is another one, but it is that of",
                    Some(entry.told_by),
                ))
            }
            _ => Ok(()),
        }
    }

    /// The key was not there at exactly this revision.
    fn absent(&self, register: &Register, revision: Revision) -> Result<(), Witness> {
        match register.newest(revision) {
            Some((_, entry))
                if entry.value.is_some()
                    && !register.may_be_deleted(self.operation.last, self.keys.operations) =>
            {
                Err(self.wrong(
                    "absence",
                    "found nothing, but nothing has deleted the value of",
                    Some(entry.told_by),
                ))
            }
            _ => Ok(()),
        }
    }

    /// A scan: of the state at exactly its revision.
    fn scan(&self, partition: u32, revision: Revision, items: &[(u64, u64)], findings: &mut Findings) {
        for (key, register) in self.keys.keys.range(Key::all_of(partition)) {
            self.count(register, revision, findings);
            let found = items.binary_search_by_key(&u64::from(key.key), |(key, _)| *key);
            let result = match found {
                Ok(at) => self.value(register, revision, items[at].1),
                Err(_) => self.absent(register, revision),
            };
            if let Err(mut witness) = result {
                witness.explanation = format!("key {key}: {}", witness.explanation);
                findings.push(witness);
            }
        }
        if items.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            findings.push(self.wrong("value", "has keys twice or out of order", None));
        }
        for (key, _) in items {
            let is_known = u32::try_from(*key).is_ok_and(|key| {
                let key = Key { partition, key };
                self.keys.keys.contains_key(&key) || self.keys.special.contains(&key)
            });
            if !is_known {
                let what = format!("has key {key}, which nobody wrote");
                findings.push(self.wrong("value", &what, None));
            }
        }
    }
}
