//! The registers of a history: what is known of each at each revision, from changes and from reads.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    Context, History,
    facts::{self, Effect, Fact, Facts},
    verdict::{Findings, Witness, describe},
};
use crate::history::{Call, End, Key, Operation, Reply, Revision, Row};

/// What is known of a key's change at one revision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The value it left; `None` = deleted.
    pub(super) value: Option<u64>,
    /// The version it left.
    pub(super) version: Option<u64>,
    /// Revision that created the key.
    pub(super) create_rev: Option<Revision>,
    /// The operation that was acknowledged with it.
    pub(super) acknowledged: Option<usize>,
    /// An operation that told of it.
    pub(super) told_by: usize,
}

/// A key that only writes, cas and deletes change.
#[derive(Debug, Default)]
pub(super) struct Register {
    /// By revision.
    pub(super) entries: BTreeMap<Revision, Entry>,
    /// Values that operations of unknown outcome may have written, and that were not seen yet: their operations.
    pub(super) hidden_values: BTreeMap<u64, Vec<usize>>,
    /// Deletes of unknown outcome.
    pub(super) hidden_deletes: Vec<usize>,
    /// It has had a TTL or a lease, and may be gone at any time.
    pub(super) vanishes: bool,
    /// A final read of it was answered.
    pub(super) read_at_end: bool,
}

impl Register {
    /// The newest known change up to a revision.
    pub(super) fn newest(&self, revision: Revision) -> Option<(Revision, &Entry)> {
        let (at, entry) = self.entries.range(..=revision).next_back()?;
        Some((*at, entry))
    }

    /// The first operation of unknown outcome that may have written the value, if it began before a place in the history.
    pub(super) fn hidden_writer(&self, value: u64, before: usize, all: &[Operation]) -> Option<usize> {
        let writers = self.hidden_values.get(&value)?;
        writers.iter().copied().find(|id| all[*id].first < before)
    }

    /// An operation of unknown outcome may have written anything before a place in the history.
    pub(super) fn may_be_written(&self, before: usize, all: &[Operation]) -> bool {
        self.hidden_values
            .values()
            .flatten()
            .any(|id| all[*id].first < before)
    }

    /// The key may have gone in a way that the history does not show.
    pub(super) fn may_be_deleted(&self, before: usize, all: &[Operation]) -> bool {
        self.vanishes || self.hidden_deletes.iter().any(|id| all[*id].first < before)
    }
}

/// All registers.
pub(super) struct Keys<'a> {
    pub(super) operations: &'a [Operation],
    pub(super) keys: BTreeMap<Key, Register>,
    /// Keys that something else changes, too.
    pub(super) special: BTreeSet<Key>,
}

impl<'a> Keys<'a> {
    /// Collects what is known; two different things known of one revision are findings.
    pub(super) fn new(
        history: &'a History<'_>,
        context: &Context<'_>,
        facts: &Facts,
        findings: &mut Findings,
    ) -> Self {
        let mut keys = Self {
            operations: &history.operations,
            keys: BTreeMap::new(),
            special: context.accounts.keys().copied().collect(),
        };
        keys.find_keys();
        for ((_, revision), facts) in &facts.changes {
            facts.iter().for_each(|fact| keys.add_fact(*revision, fact));
        }
        for operation in keys.operations {
            if let (Call::Read { key, .. }, End::Ok(_, Reply::Row { row: Some(row), .. })) =
                (&operation.call, &operation.end)
            {
                keys.add_row(operation, *key, row, findings);
            }
        }
        keys.note_final_reads(context);
        keys
    }

    fn find_keys(&mut self) {
        for operation in self.operations {
            if !matches!(
                operation.call,
                Call::Write { .. } | Call::Cas { .. } | Call::Delete { .. }
            ) {
                self.special.extend(facts::changed_keys(&operation.call));
            }
        }
        for operation in self.operations {
            for key in facts::changed_keys(&operation.call) {
                if self.special.contains(&key) {
                    continue;
                }
                let register = self.keys.entry(key).or_default();
                if let Call::Write { ttl_ms, lease, .. } = operation.call {
                    register.vanishes |= ttl_ms != 0 || lease != 0;
                }
                if operation.end != End::Unknown {
                    continue;
                }
                match facts::written_value(&operation.call) {
                    Some((_, value)) => {
                        register
                            .hidden_values
                            .entry(value)
                            .or_default()
                            .push(operation.id);
                    }
                    None => register.hidden_deletes.push(operation.id),
                }
            }
        }
    }

    fn add_fact(&mut self, revision: Revision, fact: &Fact) {
        let Some(register) = self.keys.get_mut(&fact.key) else {
            return;
        };
        let value = match fact.effect {
            Effect::Value(value) => Some(value),
            Effect::Some | Effect::Gone => None,
        };
        let entry = Entry {
            value,
            version: fact.version,
            create_rev: (fact.version == Some(1)).then_some(revision),
            acknowledged: Some(fact.operation),
            told_by: fact.operation,
        };
        register.entries.insert(revision, entry);
    }

    /// What a read shows of the change that wrote what it read.
    fn add_row(&mut self, read: &Operation, key: Key, row: &Row, findings: &mut Findings) {
        let Some(register) = self.keys.get_mut(&key) else {
            return;
        };
        let Row {
            value,
            create_rev,
            mod_rev,
            version,
        } = *row;
        if (version == 1) != (create_rev == mod_rev) || create_rev > mod_rev || version == 0 {
            let text = format!("{} shows numbers that do not fit together", describe(read));
            findings.push(Witness::new("chain", text).operations([read.id]));
        }
        if let Some(entry) = register.entries.get_mut(&mod_rev) {
            let other = &self.operations[entry.told_by];
            let differs = entry.value != Some(value)
                || entry.version.is_some_and(|known| known != version)
                || entry.create_rev.is_some_and(|known| known != create_rev);
            if differs {
                let text = format!(
                    "{} and {} tell different things of the change at revision {mod_rev}",
                    describe(other),
                    describe(read)
                );
                findings.push(Witness::new("value", text).operations([read.id, other.id]));
            } else if other.first > read.last && entry.acknowledged.is_some() {
                let text = format!("{} read what {} wrote later", describe(read), describe(other));
                findings.push(Witness::new("value", text).operations([read.id, other.id]));
            }
            entry.create_rev.get_or_insert(create_rev);
            return;
        }
        let Some(writer) = register.hidden_writer(value, read.last, self.operations) else {
            let text = format!(
                "{} read a value of revision {mod_rev} that nobody wrote there",
                describe(read)
            );
            findings.push(Witness::new("value", text).operations([read.id]));
            return;
        };
        if let Some(writers) = register.hidden_values.get_mut(&value) {
            writers.retain(|id| *id != writer);
        }
        let entry = Entry {
            value: Some(value),
            version: Some(version),
            create_rev: Some(create_rev),
            acknowledged: None,
            told_by: read.id,
        };
        register.entries.insert(mod_rev, entry);
    }

    fn note_final_reads(&mut self, context: &Context<'_>) {
        let reads = self.operations.iter();
        for operation in reads.filter(|operation| facts::is_final_read(operation, context)) {
            match &operation.call {
                Call::Read { key, .. } => {
                    if let Some(register) = self.keys.get_mut(key) {
                        register.read_at_end = true;
                    }
                }
                Call::Scan { partition, .. } => {
                    let partition = *partition;
                    for (_, register) in self.keys.range_mut(Key::all_of(partition)) {
                        register.read_at_end = true;
                    }
                }
                _ => {}
            }
        }
    }

    /// Follows the versions and deletions of each key.
    pub(super) fn chains(&self, findings: &mut Findings) {
        for (key, register) in &self.keys {
            let mut puts = register.hidden_values.values().map(Vec::len).sum::<usize>() as u64;
            let mut deletes = register.hidden_deletes.len() as u64;
            let mut before: Option<Entry> = None;
            for (revision, entry) in &register.entries {
                findings.count("chained changes", 1);
                let unseen = unseen_between(before.as_ref(), entry);
                let broken = if unseen.deletes > deletes && !register.vanishes {
                    Some("the key began anew, but nobody deleted it")
                } else if unseen.puts > puts {
                    Some("there are more changes before it than were asked for")
                } else {
                    None
                };
                if let Some(why) = broken {
                    let ids = before.iter().map(|e| e.told_by).chain([entry.told_by]);
                    let changes = ids.clone().map(|id| describe(&self.operations[id]));
                    let changes = changes.collect::<Vec<_>>().join(" and ");
                    let text = format!("key {key} at revision {revision}: {why}: {changes}");
                    findings.push(Witness::new("chain", text).operations(ids));
                }
                puts = puts.saturating_sub(unseen.puts);
                deletes = deletes.saturating_sub(unseen.deletes);
                let mut entry = *entry;
                if unseen.is_none() && entry.create_rev.is_none() {
                    entry.create_rev = before.and_then(|before| before.create_rev);
                }
                before = Some(entry);
            }
        }
    }
}

/// The least that must have happened between two known changes of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Unseen {
    puts: u64,
    deletes: u64,
}

impl Unseen {
    fn is_none(self) -> bool {
        self == Unseen { puts: 0, deletes: 0 }
    }
}

fn unseen_between(before: Option<&Entry>, entry: &Entry) -> Unseen {
    let unseen = |puts, deletes| Unseen { puts, deletes };
    let Some(before) = before.filter(|before| before.value.is_some()) else {
        return match entry.value {
            // There was something to delete.
            None => unseen(1, 0),
            Some(_) => unseen(entry.version.map_or(0, |version| version.saturating_sub(1)), 0),
        };
    };
    let (Some(old), Some(version), Some(_)) = (before.version, entry.version, entry.value) else {
        return unseen(0, 0);
    };
    let is_same_key = match (before.create_rev, entry.create_rev) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    if version > old && is_same_key {
        unseen(version - old - 1, 0)
    } else {
        unseen(version.saturating_sub(1), 1)
    }
}
