//! The states of each register by revision, as answers showed them. What an unknown outcome was shown to have done is not forgotten by those
//! that come after it, and nobody is shown it twice.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{
    super::verdict::{Findings, Witness, describe},
    keys::{Keys, Register, Source},
};
use crate::history::{Call, End, Key, Mode, Operation, Reply, Revision};

/// Holds what each answer showed of a register against what is known of the revisions before.
pub(super) fn check(keys: &Keys<'_>, findings: &mut Findings) {
    let mut answers = Answers::new(keys.operations);
    for (key, register) in &keys.keys {
        let mut walk = Walk::new(*key, register, keys.operations);
        for shown in answers.of(*key) {
            walk.meet(&shown, findings);
        }
    }
}

/// What an answer says of a key at exactly a revision.
struct Shown<'a> {
    revision: Revision,
    /// `None`: it was not there.
    value: Option<u64>,
    /// It had been so since this revision.
    since: Option<Revision>,
    by: &'a Operation,
}

/// Revision, keys with values, and who read them.
type Scan<'a> = (Revision, &'a [(u64, u64)], &'a Operation);

#[derive(Default)]
struct Answers<'a> {
    of_keys: BTreeMap<Key, Vec<Shown<'a>>>,
    /// By partition.
    scans: BTreeMap<u32, Vec<Scan<'a>>>,
}

impl<'a> Answers<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let mut answers = Self::default();
        for operation in operations {
            let End::Ok(_, reply) = &operation.end else {
                continue;
            };
            if let (Call::Scan { partition, .. }, Reply::Items { revision, items }) = (&operation.call, reply)
            {
                let scans = answers.scans.entry(*partition).or_default();
                scans.push((*revision, items, operation));
            } else if let Some((key, shown)) = shown(operation, reply) {
                answers.of_keys.entry(key).or_default().push(shown);
            }
        }
        answers
    }

    /// All of a key, by revision.
    fn of(&mut self, key: Key) -> Vec<Shown<'a>> {
        let mut all = self.of_keys.remove(&key).unwrap_or_default();
        let scans = self.scans.get(&key.partition).into_iter().flatten();
        all.extend(scans.map(|(revision, items, by)| {
            let at = items.binary_search_by_key(&u64::from(key.key), |(key, _)| *key);
            Shown {
                revision: *revision,
                value: at.ok().map(|at| items[at].1),
                since: None,
                by,
            }
        }));
        all.sort_by_key(|shown| (shown.revision, shown.by.id));
        all
    }
}

/// What an answer about one key says. A point read that finds nothing may be of a later revision than it tells.
fn shown<'a>(by: &'a Operation, reply: &Reply) -> Option<(Key, Shown<'a>)> {
    let (key, revision, value, since) = match (&by.call, reply) {
        (
            Call::Read { key, .. },
            Reply::Row {
                revision,
                row: Some(row),
                ..
            },
        ) => (
            *key,
            row.mod_rev.max(*revision),
            Some(row.value),
            Some(row.mod_rev),
        ),
        (
            Call::Read {
                key,
                mode: Mode::At(_),
            },
            Reply::Row { revision, .. },
        )
        | (
            Call::Delete { key },
            Reply::Deleted {
                revision,
                existed: false,
            },
        ) => (*key, *revision, None, None),
        (Call::Cas { key, from, .. }, Reply::Written { revision, .. }) => {
            (*key, revision.saturating_sub(1), Some(*from), None)
        }
        _ => return None,
    };
    let shown = Shown {
        revision,
        value,
        since,
        by,
    };
    Some((key, shown))
}

/// What is known of a key at a revision, and from whom.
#[derive(Clone, Copy)]
struct State {
    revision: Revision,
    value: Option<u64>,
    told_by: Option<Source>,
}

/// A key, from revision to revision.
struct Walk<'a> {
    key: Key,
    register: &'a Register,
    operations: &'a [Operation],
    /// Operations of unknown outcome that have not been needed yet, by what they write.
    puts: BTreeMap<u64, Vec<usize>>,
    deletes: Vec<usize>,
    /// The newest known state.
    state: State,
    /// The newest that was shown, and the newest of those that were another one.
    last: Option<State>,
    other: Option<State>,
}

impl<'a> Walk<'a> {
    fn new(key: Key, register: &'a Register, operations: &'a [Operation]) -> Self {
        let state = State {
            revision: 0,
            value: None,
            told_by: None,
        };
        Self {
            key,
            register,
            operations,
            puts: register.hidden_values.clone(),
            deletes: register.hidden_deletes.clone(),
            state,
            last: None,
            other: None,
        }
    }

    fn meet(&mut self, shown: &Shown<'_>, findings: &mut Findings) {
        if shown
            .since
            .is_some_and(|since| !self.register.entries.contains_key(&since))
        {
            // Nobody wrote it: that is said elsewhere.
            return;
        }
        if let Some((revision, entry)) = self.register.newest(shown.revision)
            && revision >= self.state.revision
        {
            self.state = State {
                revision,
                value: entry.value,
                told_by: Some(entry.told_by),
            };
        }
        findings.count("states", 1);
        if let Some(other) = self.contradicted(shown) {
            findings.push(self.witness(shown, "shows that it has not changed since, but", other));
        } else if self.state.value != shown.value && !self.may_change(shown) {
            findings.push(self.witness(
                shown,
                "shows what nothing can have changed it to after",
                self.state,
            ));
        }
        let state = State {
            revision: shown.revision,
            value: shown.value,
            told_by: Some(Source::Operation(shown.by.id)),
        };
        if self.last.is_some_and(|last| last.value != state.value) {
            self.other = self.last;
        }
        (self.state, self.last) = (state, Some(state));
    }

    /// Another state that somebody was shown, since when the key has not changed, as this answer says.
    fn contradicted(&self, shown: &Shown<'_>) -> Option<State> {
        let since = shown.since?;
        let differs = |state: &State| state.value != shown.value;
        let other = self.last.filter(differs).or(self.other.filter(differs));
        other.filter(|other| other.revision >= since)
    }

    /// Something of unknown outcome that nobody else needs can have made it so, after what is known and up to the revision.
    fn may_change(&mut self, shown: &Shown<'_>) -> bool {
        if self.state.revision >= shown.revision {
            return false;
        }
        let hidden = match shown.value {
            Some(value) => self.puts.get_mut(&value),
            None if self.register.vanishes_unseen => return true,
            None => Some(&mut self.deletes),
        };
        let Some(hidden) = hidden else { return false };
        // The latest that fits: the others are there for answers that were earlier.
        let fits = |id: &usize| self.operations[*id].first < shown.by.last;
        let Some(at) = hidden.iter().rposition(fits) else {
            return false;
        };
        hidden.remove(at);
        true
    }

    fn witness(&self, shown: &Shown<'_>, why: &str, before: State) -> Witness {
        let words = |value: Option<u64>| value.map_or("nothing".to_owned(), |value| value.to_string());
        let source = before.told_by.map(|told_by| told_by.describe(self.operations));
        let text = format!(
            "key {} is {} at revision {}: {} {why} it was {} at revision {}{}",
            self.key,
            words(shown.value),
            shown.revision,
            describe(shown.by),
            words(before.value),
            before.revision,
            source.map_or(String::new(), |source| format!(" by {source}")),
        );
        let witness = Witness::new("states", text).operations([shown.by.id]);
        before
            .told_by
            .into_iter()
            .fold(witness, |witness, by| by.into_witness(witness))
    }
}
