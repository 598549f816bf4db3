//! The registers of a history: what is known of each at each revision, from changes and from reads.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    Context, History,
    facts::{self, Effect, Fact, Facts},
    subscriptions::shown,
    verdict::{Findings, Witness, describe},
};
use crate::history::{Call, Change, End, Key, Operation, Reply, Revision, Row};

/// Who tells of a change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// The operation with this id.
    Operation(usize),
    /// The event at this place, which a watch or a consumer was shown.
    Event(usize),
    /// The committed log.
    Log,
}

impl Source {
    /// In words.
    pub(super) fn describe(self, operations: &[Operation]) -> String {
        match self {
            Source::Operation(id) => describe(&operations[id]),
            Source::Event(place) => format!("what event {place} shows"),
            Source::Log => "the committed log".to_owned(),
        }
    }

    /// The change may have been made from this place in the history on.
    pub(super) fn first(self, operations: &[Operation]) -> usize {
        match self {
            Source::Operation(id) => operations[id].first,
            Source::Event(_) | Source::Log => 0,
        }
    }

    /// Puts it into a witness.
    pub(super) fn into_witness(self, witness: Witness) -> Witness {
        match self {
            Source::Operation(id) => witness.operations([id]),
            Source::Event(place) => witness.events([place]),
            Source::Log => witness,
        }
    }
}

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
    /// Who told of it.
    pub(super) told_by: Source,
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
    /// Not all ends of what vanishes are known.
    pub(super) vanishes_unseen: bool,
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
        self.vanishes_unseen || self.hidden_deletes.iter().any(|id| all[*id].first < before)
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
        keys.find_keys(context);
        for ((_, revision), facts) in &facts.changes {
            facts.iter().for_each(|fact| keys.add_fact(*revision, fact));
        }
        for operation in keys.operations {
            if let (Call::Read { key, .. }, End::Ok(_, Reply::Row { row: Some(row), .. })) =
                (&operation.call, &operation.end)
            {
                let (source, before) = (Source::Operation(operation.id), operation.last);
                keys.add_row((source, before), *key, row, findings);
            }
        }
        keys.add_shown(history, context, findings);
        keys.note_final_reads(context);
        keys
    }

    fn find_keys(&mut self, context: &Context<'_>) {
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
                    register.vanishes_unseen = register.vanishes && context.committed.is_none();
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
            told_by: Source::Operation(fact.operation),
        };
        register.entries.insert(revision, entry);
    }

    /// What the log and subscriptions show: rows, and the ends of what may end by itself.
    fn add_shown(&mut self, history: &History<'_>, context: &Context<'_>, findings: &mut Findings) {
        for changes in shown(history, context).into_values() {
            for (change, place) in changes.into_values() {
                let source = place.map_or(Source::Log, Source::Event);
                match change.row() {
                    Some(row) => {
                        let before = place.unwrap_or(usize::MAX);
                        self.add_row((source, before), change.key, &row, findings);
                    }
                    None => self.add_end(source, &change),
                }
            }
        }
    }

    fn add_end(&mut self, source: Source, change: &Change) {
        let register = self.keys.get_mut(&change.key);
        let Some(register) = register.filter(|register| register.vanishes && change.value.is_none()) else {
            return;
        };
        register.entries.entry(change.revision).or_insert(Entry {
            value: None,
            version: None,
            create_rev: None,
            acknowledged: None,
            told_by: source,
        });
    }

    /// What a read, or a change that was shown, tells of the change that wrote the row, before a place in the history.
    fn add_row(&mut self, (source, before): (Source, usize), key: Key, row: &Row, findings: &mut Findings) {
        let Some(register) = self.keys.get_mut(&key) else {
            return;
        };
        let Row {
            value,
            create_rev,
            mod_rev,
            version,
        } = *row;
        let who = source.describe(self.operations);
        if (version == 1) != (create_rev == mod_rev) || create_rev > mod_rev || version == 0 {
            let text = format!("{who} shows numbers that do not fit together: {row:?}");
            findings.push(source.into_witness(Witness::new("chain", text)));
        }
        if let Some(entry) = register.entries.get_mut(&mod_rev) {
            let differs = entry.value != Some(value)
                || entry.version.is_some_and(|known| known != version)
                || entry.create_rev.is_some_and(|known| known != create_rev);
            let other = entry.told_by.describe(self.operations);
            let text = if differs {
                Some(format!(
                    "{other} and {who} tell different things of the change at revision {mod_rev}"
                ))
            } else if entry.acknowledged.is_some() && entry.told_by.first(self.operations) > before {
                Some(format!("{who} read what {other} wrote later"))
            } else {
                None
            };
            if let Some(text) = text {
                let witness = source.into_witness(Witness::new("value", text));
                findings.push(entry.told_by.into_witness(witness));
            }
            entry.create_rev.get_or_insert(create_rev);
            entry.version.get_or_insert(version);
            return;
        }
        let Some(writer) = register.hidden_writer(value, before, self.operations) else {
            // What is shown and nobody wrote is for `watch` and `committed` to say.
            if let Source::Operation(id) = source {
                let text = format!("{who} read a value of revision {mod_rev} that nobody wrote there");
                findings.push(Witness::new("value", text).operations([id]));
            }
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
            told_by: source,
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
            let mut before: Option<(Revision, Entry)> = None;
            for (revision, entry) in &register.entries {
                let unseen = unseen_between(before.as_ref().map(|(_, entry)| entry), entry);
                let is_older = before.is_some_and(|(gone, before)| {
                    before.value.is_none() && entry.create_rev.is_some_and(|created| created <= gone)
                });
                let broken = if unseen.deletes > deletes && !register.vanishes_unseen {
                    Some("the key began anew, but nobody deleted it")
                } else if unseen.puts > puts {
                    Some("there are more changes before it than were asked for")
                } else if is_older && entry.value.is_some() {
                    Some("the key was created before it was gone")
                } else {
                    None
                };
                let sources = before.iter().map(|(_, entry)| entry.told_by);
                findings.count("chained", sources.len() as u64);
                if let Some(why) = broken {
                    let sources = sources.chain([entry.told_by]);
                    let changes = sources.clone().map(|source| source.describe(self.operations));
                    let changes = changes.collect::<Vec<_>>().join(" and ");
                    let text = format!("key {key} at revision {revision}: {why}: {changes}");
                    let witness = Witness::new("chain", text);
                    findings.push(sources.fold(witness, |witness, source| source.into_witness(witness)));
                }
                puts = puts.saturating_sub(unseen.puts);
                deletes = deletes.saturating_sub(unseen.deletes);
                let mut entry = *entry;
                if unseen.is_none() && entry.create_rev.is_none() {
                    entry.create_rev = before.and_then(|(_, before)| before.create_rev);
                }
                before = Some((*revision, entry));
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
