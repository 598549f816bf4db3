//! Consumers: at least once, in order, and one owner at a time.
//!
//! Rules, for each consumer of a shard:
//! - What an owner is shown follows the rules of [`watch`](super::watch), for the whole shard, from the cursor that it was given.
//! - **epoch**: each owner has a number of its own, greater than those of all before.
//! - **fencing**: an acknowledgement of an owner fails once a newer one has begun.
//! - **cursor**: it never goes back behind what was acknowledged, so nothing acknowledged is forgotten.
//! - **lost**: it never is beyond what somebody asked to acknowledge, so that nothing is passed over; the first owner's, who begins now, not beyond
//!   what the shard can have had when it was opened. With the first rule this makes delivery at least once.
//! - **compaction**: nobody is told that what the consumer has not acknowledged is gone, nor refused for that. (After 1 GiB it may be; no run writes
//!   that.)

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{
    Context, History,
    subscriptions::{Subscription, subscriptions},
    verdict::{Findings, Verdict, Witness, describe},
    watch::{Followed, Truth},
};
use crate::history::{Call, End, Operation, Revision};

/// Checks every consumer of the history.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let truth = Truth::new(history, context);
    let all = subscriptions(history, context);
    let mut consumers: BTreeMap<(u32, &str), Vec<&Subscription<'_>>> = BTreeMap::new();
    for owner in &all {
        if let Call::Consume { shard, name } = &owner.operation.call {
            consumers.entry((*shard, name)).or_default().push(owner);
        }
    }
    truth.twice(&mut findings);
    for operation in &history.operations {
        refused(operation, &mut findings);
    }
    for ((shard, name), mut owners) in consumers {
        findings.count("owners", owners.len() as u64);
        owners.sort_by_key(|owner| owner.epoch);
        let newest = owners.last().map(|owner| owner.operation.id);
        for owner in &owners {
            let what = Followed {
                subscription: owner,
                partition: None,
                to_end: owner.is_last && Some(owner.operation.id) == newest,
            };
            truth.follow(&what, &mut findings);
        }
        let tried: Vec<_> = acks(history, shard, name).collect();
        let refused = tried.iter().filter(|ack| ack.is_refused());
        let after_another = refused.filter(|ack| newer(&owners, ack).is_some());
        findings.count("refused acks", after_another.count() as u64);
        let acks: Vec<_> = tried.into_iter().filter(|ack| !ack.is_refused()).collect();
        findings.count("acks", acks.len() as u64);
        if let Some(first) = owners.first() {
            start(first, &truth, &mut findings);
        }
        epochs(&owners, &mut findings);
        fencing(&owners, &acks, &mut findings);
        cursors(&owners, &acks, &mut findings);
    }
    findings.verdict()
}

/// How the error begins that says that a consumer's events are gone.
const COMPACTED: &str = "compacted";

/// Nobody is refused to be the owner because events are gone.
fn refused(operation: &Operation, findings: &mut Findings) {
    if let (Call::Consume { .. }, End::Fail(_, error)) = (&operation.call, &operation.end)
        && error.starts_with(COMPACTED)
    {
        let text = format!(
            "{}, but what a consumer has not acknowledged is kept",
            describe(operation)
        );
        findings.push(Witness::new("compaction", text).operations([operation.id]));
    }
}

/// The first owner begins at what the shard had then, or before.
fn start(first: &Subscription<'_>, truth: &Truth<'_>, findings: &mut Findings) {
    let Some(most) = truth.most(first.shard, first.operation.last) else {
        return;
    };
    findings.count("starts", 1);
    if first.after > most {
        let text = format!(
            "{} begins after revision {}, but the shard had {most} at most then",
            describe(first.operation),
            first.after
        );
        findings.push(Witness::new("lost", text).operations([first.operation.id]));
    }
}

/// An acknowledgement.
struct Ack<'a> {
    operation: &'a Operation,
    epoch: u64,
    revision: Revision,
}

impl Ack<'_> {
    fn is_ok(&self) -> bool {
        matches!(self.operation.end, End::Ok(..))
    }

    fn is_refused(&self) -> bool {
        matches!(self.operation.end, End::Fail(..))
    }
}

fn acks<'a>(history: &'a History<'_>, of: u32, consumer: &str) -> impl Iterator<Item = Ack<'a>> {
    history
        .operations
        .iter()
        .filter_map(move |operation| match &operation.call {
            Call::Ack {
                shard,
                name,
                epoch,
                revision,
            } if *shard == of && name == consumer => Some(Ack {
                operation,
                epoch: *epoch,
                revision: *revision,
            }),
            _ => None,
        })
}

fn epochs(owners: &[&Subscription<'_>], findings: &mut Findings) {
    // By epoch: the newest call of those before.
    let mut latest: Option<&Subscription<'_>> = None;
    for owner in owners {
        if let Some(before) = latest {
            let ids = [before.operation.id, owner.operation.id];
            let both = format!("{} and {}", describe(before.operation), describe(owner.operation));
            if owner.epoch == before.epoch {
                let text = format!("two owners have epoch {}: {both}", owner.epoch);
                findings.push(Witness::new("epoch", text).operations(ids));
            } else if owner.operation.last < before.operation.first {
                let text = format!("the later owner has the smaller epoch: {both}");
                findings.push(Witness::new("epoch", text).operations(ids));
            }
        }
        if latest.is_none_or(|before| before.operation.first < owner.operation.first) {
            latest = Some(owner);
        }
    }
}

/// An owner that had begun, and had a greater number, before the acknowledgement began.
fn newer<'a>(owners: &[&'a Subscription<'a>], ack: &Ack<'_>) -> Option<&'a Subscription<'a>> {
    let mut owners = owners.iter().copied();
    owners.find(|owner| owner.epoch > ack.epoch && owner.operation.last < ack.operation.first)
}

fn fencing(owners: &[&Subscription<'_>], acks: &[Ack<'_>], findings: &mut Findings) {
    for ack in acks.iter().filter(|ack| ack.is_ok()) {
        if let Some(newer) = newer(owners, ack) {
            let text = format!(
                "{} was carried out, but it began after {} had become the owner",
                describe(ack.operation),
                describe(newer.operation)
            );
            let ids = [ack.operation.id, newer.operation.id];
            findings.push(Witness::new("fencing", text).operations(ids));
        }
    }
}

fn cursors(owners: &[&Subscription<'_>], acks: &[Ack<'_>], findings: &mut Findings) {
    let mut before: Option<&Subscription<'_>> = None;
    for owner in owners {
        let operation = owner.operation;
        let acked = acks
            .iter()
            .filter(|ack| ack.is_ok() && ack.operation.last < operation.first && ack.epoch < owner.epoch)
            .max_by_key(|ack| ack.revision);
        findings.count("cursors", u64::from(acked.is_some()));
        if let Some(ack) = acked.filter(|ack| ack.revision > owner.after) {
            let text = format!(
                "{} begins after revision {}, but {} was carried out before",
                describe(operation),
                owner.after,
                describe(ack.operation)
            );
            let ids = [ack.operation.id, operation.id];
            findings.push(Witness::new("cursor", text).operations(ids));
        }
        if let Some(before) = before {
            findings.count("successions", 1);
            let ids = [before.operation.id, operation.id];
            let both = format!("{} after {}", describe(operation), describe(before.operation));
            let asked = acks.iter().filter(|ack| ack.operation.first < operation.last);
            let asked = asked.map(|ack| ack.revision).max().unwrap_or(0).max(before.after);
            if owner.after < before.after {
                let text = format!("the cursor went back: {both}");
                findings.push(Witness::new("cursor", text).operations(ids));
            } else if owner.after > asked {
                let text = format!(
                    "nobody has acknowledged revisions {}..={}: {both}",
                    asked + 1,
                    owner.after
                );
                findings.push(Witness::new("lost", text).operations(ids));
            }
        }
        before = Some(owner);
    }
}
