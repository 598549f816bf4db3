//! An oracle from the revisions that clients were told, in nearly linear time and without any search.
//!
//! The idea is that of version-order recovery in Elle (Kingsbury and Alvaro, VLDB 2020, section 4): where a reply says at which place of the
//! order it happened, the order need not be searched for. Rules, for each shard:
//! - **unique**: no two changes have the same revision.
//! - **real time**: a change has a greater revision than anything that was told or shown before it was invoked, a linearizable read not a
//!   smaller one.
//! - **chain**: the versions, creation revisions and deletions of a key follow from one another, with as many changes in between as there
//!   are unknown outcomes and no more.
//! - **value**: what a read, a scan, a cas or a delete saw at a revision is what the newest change up to it left. Nothing is read that was
//!   not written, or is older than an acknowledged change that the revision includes.
//! - **states**: what answers showed at one revision after the other follows from known changes and from unknown outcomes, each of which happens
//!   once at most. What one of those was shown to have done is there at all later revisions, until something changes it.
//! - **absence**: a key that was written and not deleted is not absent. A deletion explains an absence only if the shard can have come to its revision by then.
//! - **comeback**: what a linearizable read has found to be gone no later one finds, also if it goes by itself.
//! - **durability**: the final reads cover all keys with an acknowledged change; the rules above then say that nothing of it is lost.
//!
//! The other five are for registers. Keys with a TTL or a lease may vanish at any time; `lease` looks at that.

mod keys;
mod order;
mod states;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;

use super::{
    Context, History,
    facts::{self, Facts},
    subscriptions::subscriptions,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{End, Mode, Operation, Reply, Revision, Seen};

/// Checks all rules.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let facts = Facts::new(history, context);
    findings.count("changes", facts.changes.len() as u64);
    for (one, other) in &facts.claimed_twice {
        let [one, other] = [*one, *other].map(|id| &history.operations[id]);
        let text = format!("{} and {} have one revision", describe(one), describe(other));
        findings.push(Witness::new("unique", text).operations([one.id, other.id]));
    }
    real_time(history, context, &mut findings);
    let keys = keys::Keys::new(history, context, &facts, &mut findings);
    keys.chains(&mut findings);
    let ceilings = order::Ceilings::new(history, context);
    values::check(&keys, &ceilings, context, &mut findings);
    states::check(&keys, &mut findings);
    order::comebacks(history, &mut findings);
    durability(&keys, context, &mut findings);
    findings.verdict()
}

/// Where a revision was told: by an operation or an event.
#[derive(Clone, Copy)]
enum Told {
    Operation(usize),
    Event(usize),
}

/// The greatest revision of each shard that was told so far, and where.
#[derive(Default)]
struct Floors(BTreeMap<u32, (Revision, Option<Told>)>);

impl Floors {
    fn raise(&mut self, shard: u32, revision: Revision, told: Told) {
        let floor = self.0.entry(shard).or_default();
        if revision > floor.0 {
            *floor = (revision, Some(told));
        }
    }

    fn get(&self, shard: u32) -> (Revision, Option<Told>) {
        self.0.get(&shard).copied().unwrap_or_default()
    }
}

/// An answered operation, and what had been told of its shard when it was invoked.
struct Begun<'a> {
    operation: &'a Operation,
    reply: &'a Reply,
    shard: u32,
    revision: Revision,
    floor: (Revision, Option<Told>),
}

impl<'a> Begun<'a> {
    /// `None` if the operation has no revision.
    fn new(operation: &'a Operation, floors: &Floors, context: &Context<'_>) -> Option<Self> {
        let End::Ok(_, reply) = &operation.end else {
            return None;
        };
        let shard = (context.shard_of)(facts::partition(&operation.call)?);
        Some(Self {
            operation,
            reply,
            shard,
            revision: facts::revision(reply)?,
            floor: floors.get(shard),
        })
    }

    /// The greatest revision that the reply proves.
    fn newest(&self) -> Revision {
        match self.reply {
            Reply::Row { row: Some(row), .. } => self.revision.max(row.mod_rev),
            _ => self.revision,
        }
    }

    fn too_low(&self, history: &History<'_>, context: &Context<'_>) -> Option<Witness> {
        let (floor, told) = self.floor;
        let operation = self.operation;
        let is_change = facts::changes(operation, self.reply).is_some();
        let is_fresh = facts::mode(&operation.call) == Mode::Linearizable;
        let is_low = if is_change {
            self.revision <= floor
        } else {
            is_fresh && self.revision < floor
        };
        if !is_low {
            return None;
        }
        let rule = if context.is_final(operation) && !is_change {
            "durability"
        } else {
            "real time"
        };
        let witness = |text: String| Witness::new(rule, text).operations([operation.id]);
        let who = describe(operation);
        Some(match told? {
            Told::Operation(id) => {
                let before = describe(&history.operations[id]);
                let text = format!("{who} began after {before} had ended with revision {floor}");
                witness(text).operations([id])
            }
            Told::Event(place) => {
                let text = format!("{who} began after event {place} had shown revision {floor}");
                witness(text).events([place])
            }
        })
    }
}

fn real_time(history: &History<'_>, context: &Context<'_>, findings: &mut Findings) {
    let mut shown: BTreeMap<usize, (u32, Revision)> = BTreeMap::new();
    for subscription in subscriptions(history, context) {
        for (place, seen) in &subscription.seen {
            if let Seen::Changes { through, .. } = seen {
                shown.insert(*place, (subscription.shard, *through));
            }
        }
    }
    let mut floors = Floors::default();
    let mut invocations = history.operations.iter().peekable();
    // By the place of their end.
    let mut open: BTreeMap<usize, Begun<'_>> = BTreeMap::new();
    for place in 0..history.events.len() {
        if let Some(operation) = invocations.next_if(|operation| operation.first == place)
            && let Some(begun) = Begun::new(operation, &floors, context)
        {
            open.insert(operation.last, begun);
        }
        if let Some(begun) = open.remove(&place) {
            findings.count("real time", 1);
            if let Some(witness) = begun.too_low(history, context) {
                findings.push(witness);
            }
            floors.raise(begun.shard, begun.newest(), Told::Operation(begun.operation.id));
        }
        if let Some((shard, through)) = shown.get(&place) {
            floors.raise(*shard, *through, Told::Event(place));
        }
    }
}

/// There is a final read of every key that must be there or must not.
fn durability(keys: &keys::Keys<'_>, context: &Context<'_>, findings: &mut Findings) {
    if context.final_from.is_none() {
        return;
    }
    for (key, told) in &keys.keys {
        if told.vanishes || !told.entries.values().any(|entry| entry.acknowledged.is_some()) {
            continue;
        }
        if told.read_at_end {
            findings.count("read at the end", 1);
        } else {
            findings.unknown(format!(
                "durability: no final linearizable read of key {key} was answered"
            ));
        }
    }
}
