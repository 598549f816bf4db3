//! What the order of events says of revisions: how far a shard can have been at a moment, and that what has gone does not come back.

use std::collections::BTreeMap;

use super::super::{
    Context, History, facts,
    verdict::{Findings, Witness, describe},
};
use crate::history::{Call, End, Key, Mode, Operation, Reply, Revision};

/// How far shards can have been: a change that began later made a greater revision, a linearizable read that began later was told one that is not
/// smaller.
pub(super) struct Ceilings(BTreeMap<u32, Vec<(usize, Revision)>>);

impl Ceilings {
    pub(super) fn new(history: &History<'_>, context: &Context<'_>) -> Self {
        let mut shards: BTreeMap<u32, Vec<(usize, Revision)>> = BTreeMap::new();
        for operation in history.operations.iter().rev() {
            let Some((shard, most)) = most_before(operation, context) else {
                continue;
            };
            let ceilings = shards.entry(shard).or_default();
            if ceilings.last().is_none_or(|(_, least)| most < *least) {
                ceilings.push((operation.first, most));
            }
        }
        Self(shards)
    }

    /// The greatest revision that a shard can have had at a place in the history.
    pub(super) fn at(&self, shard: u32, place: usize) -> Revision {
        let ceilings = self.0.get(&shard).map_or(&[][..], Vec::as_slice);
        // From the latest place to the first, each with a smaller revision than the one before.
        let later = ceilings.partition_point(|(first, _)| *first > place);
        later
            .checked_sub(1)
            .map_or(Revision::MAX, |last| ceilings[last].1)
    }
}

/// The greatest revision that the operation's shard can have had before it began.
fn most_before(operation: &Operation, context: &Context<'_>) -> Option<(u32, Revision)> {
    let End::Ok(_, reply) = &operation.end else {
        return None;
    };
    let shard = (context.shard_of)(facts::partition(&operation.call)?);
    let revision = facts::revision(reply)?;
    if facts::changes(operation, reply).is_some() {
        return Some((shard, revision.saturating_sub(1)));
    }
    (facts::mode(&operation.call) == Mode::Linearizable).then_some((shard, revision))
}

/// No linearizable read finds a version of a key that another one, which ended before it began, had found to be gone.
pub(super) fn comebacks(history: &History<'_>, findings: &mut Findings) {
    // The greatest revision at which a key was not there, and who saw that.
    let mut gone: BTreeMap<Key, (Revision, usize)> = BTreeMap::new();
    let mut absences: BTreeMap<usize, (Key, Revision, usize)> = BTreeMap::new();
    let mut invocations = history.operations.iter().peekable();
    for place in 0..history.events.len() {
        if let Some(operation) = invocations.next_if(|operation| operation.first == place) {
            match read(operation) {
                Some((key, revision, None)) => {
                    absences.insert(operation.last, (key, revision, operation.id));
                }
                Some((key, _, Some(mod_rev))) => {
                    if let Some((revision, other)) = gone.get(&key) {
                        findings.count("after absences", 1);
                        if mod_rev <= *revision {
                            let text = format!(
                                "{} found what {} had not found any more",
                                describe(operation),
                                describe(&history.operations[*other])
                            );
                            findings.push(Witness::new("comeback", text).operations([*other, operation.id]));
                        }
                    }
                }
                None => {}
            }
        }
        if let Some((key, revision, id)) = absences.remove(&place) {
            let newest = gone.entry(key).or_insert((revision, id));
            if revision > newest.0 {
                *newest = (revision, id);
            }
        }
    }
}

/// What a linearizable read found: the key, the revision that it was told, and that of the row.
fn read(operation: &Operation) -> Option<(Key, Revision, Option<Revision>)> {
    match (&operation.call, &operation.end) {
        (
            Call::Read {
                key,
                mode: Mode::Linearizable,
            },
            End::Ok(_, Reply::Row { revision, row, .. }),
        ) => Some((*key, *revision, row.map(|row| row.mod_rev))),
        _ => None,
    }
}
