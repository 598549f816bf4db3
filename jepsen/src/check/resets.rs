//! Consumers that begin at a revision, are reset and deleted: each is where its last call has put it.
//!
//! One client after another call has each of them, and no name is used again after a deletion. So every answer can be told from those
//! before, up to the first unknown outcome. Rules, for each consumer:
//! - What an owner is shown follows the rules of [`watch`](super::watch), for the whole shard, from the cursor that it was given: after a
//!   reset it begins right after that revision.
//! - **cursor**: a new consumer is right before the revision that was asked for, one that was reset at its revision, one that is taken over where its
//!   owner's acknowledgements have brought it.
//! - **epoch**: each later owner and each reset has one more; the first owner more than any consumer of the shard had that was deleted before.
//! - **fencing**: acknowledgements are carried out for the owner and refused to who was it before.
//! - **deleted**: what is deleted is not there for anybody, and what is there is.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{
    Context, History,
    subscriptions::subscriptions,
    verdict::{Findings, Verdict, Witness, describe},
    watch::{Followed, Truth},
};
use crate::history::{Call, End, Operation, Reply, Revision};

/// How errors begin that say so.
const NOT_FOUND: &str = "not_found";
const FENCED: &str = "fenced";

/// Checks every such consumer.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let truth = Truth::new(history, context);
    for subscription in &subscriptions(history, context) {
        if matches!(subscription.operation.call, Call::ConsumeAt { .. }) {
            let what = Followed {
                subscription,
                partition: None,
                to_end: false,
            };
            truth.follow(&what, &mut findings);
        }
    }
    let mut consumers: BTreeMap<(u32, &str), Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        if let Some(place) = place(&operation.call) {
            consumers.entry(place).or_default().push(operation);
        }
    }
    let is_begun = |calls: &Vec<&Operation>| {
        let mut calls = calls.iter();
        calls.any(|operation| matches!(operation.call, Call::ConsumeAt { .. }))
    };
    let mut epochs = Epochs::default();
    for calls in consumers.values().filter(|calls| is_begun(calls)) {
        life(calls, &mut epochs, &mut findings);
    }
    epochs.check(&mut findings);
    findings.verdict()
}

/// Of consumers that began and that were deleted.
#[derive(Default)]
struct Epochs<'a> {
    /// The first openings.
    begun: Vec<(&'a Operation, u64)>,
    /// By shard: when its deletion was answered, and its last epoch.
    deleted: BTreeMap<u32, Vec<(usize, u64)>>,
}

impl<'a> Epochs<'a> {
    /// A call that was carried out.
    fn note(&mut self, operation: &'a Operation, before: Option<At>, after: Option<At>) {
        match (&operation.call, before, after) {
            (Call::ConsumeAt { .. }, None, Some(at)) => self.begun.push((operation, at.epoch)),
            (Call::Forget { shard, .. }, Some(at), None) => {
                let deleted = self.deleted.entry(*shard).or_default();
                deleted.push((operation.last, at.epoch));
            }
            _ => {}
        }
    }

    fn check(&self, findings: &mut Findings) {
        for (operation, epoch) in &self.begun {
            let shard = place(&operation.call).map(|(shard, _)| shard);
            let deleted = shard.and_then(|shard| self.deleted.get(&shard));
            let before = deleted.into_iter().flatten();
            let before = before.filter(|(last, _)| *last < operation.first);
            let Some(greatest) = before.map(|(_, epoch)| *epoch).max() else {
                continue;
            };
            findings.count("after deletions", 1);
            if *epoch <= greatest {
                let text = format!(
                    "{} begins with an epoch that one had which was deleted before: {greatest}",
                    describe(operation)
                );
                findings.push(Witness::new("epoch", text).operations([operation.id]));
            }
        }
    }
}

fn place(call: &Call) -> Option<(u32, &str)> {
    match call {
        Call::ConsumeAt { shard, name, .. }
        | Call::Reset { shard, name, .. }
        | Call::Forget { shard, name }
        | Call::Ack { shard, name, .. } => Some((*shard, name)),
        _ => None,
    }
}

/// Where a consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    epoch: u64,
    cursor: Revision,
}

fn life<'a>(calls: &[&'a Operation], epochs: &mut Epochs<'a>, findings: &mut Findings) {
    let mut now: Option<At> = None;
    for operation in calls {
        match &operation.end {
            End::Unknown => return,
            End::Ok(_, reply) => match carried_out(operation, reply, now, findings) {
                Ok(next) => {
                    epochs.note(operation, now, next);
                    now = next;
                }
                Err((rule, what)) => {
                    let text = format!("{} {what}; it was {now:?}", describe(operation));
                    findings.push(Witness::new(rule, text).operations([operation.id]));
                    return;
                }
            },
            End::Fail(_, error) => refused(operation, error, now, findings),
        }
    }
}

type Broken = (&'static str, String);

/// What a call that was carried out leaves.
fn carried_out(
    operation: &Operation,
    reply: &Reply,
    now: Option<At>,
    findings: &mut Findings,
) -> Result<Option<At>, Broken> {
    let next = match (&operation.call, now) {
        (Call::ConsumeAt { start, .. }, None) => {
            findings.count("begun", 1);
            begin(*start, reply)
        }
        (Call::ConsumeAt { .. }, Some(at)) => {
            findings.count("taken over", 1);
            at.next(at.cursor)
        }
        (Call::Reset { revision, .. }, Some(at)) => {
            findings.count("resets", 1);
            at.next(*revision)
        }
        (Call::Forget { .. }, Some(_)) => {
            findings.count("deletions", 1);
            return Ok(None);
        }
        (Call::Ack { epoch, revision, .. }, Some(at)) => {
            if *epoch != at.epoch {
                return Err(("fencing", "was carried out".into()));
            }
            findings.count("acks", 1);
            let cursor = at.cursor.max(*revision);
            return Ok(Some(At { cursor, ..at }));
        }
        _ => return Err(("deleted", "was carried out, but there is none".into())),
    };
    match *reply {
        Reply::Watching { epoch, .. } if epoch != next.epoch => {
            Err(("epoch", format!("has not epoch {}", next.epoch)))
        }
        Reply::Watching { after, .. } if after != next.cursor => {
            Err(("cursor", format!("is not at {}", next.cursor)))
        }
        _ => Ok(Some(next)),
    }
}

fn begin(start: Revision, reply: &Reply) -> At {
    let epoch = match reply {
        Reply::Watching { epoch, .. } => *epoch,
        _ => 1,
    };
    At {
        epoch,
        cursor: start.saturating_sub(1),
    }
}

impl At {
    /// With the next owner.
    fn next(self, cursor: Revision) -> Self {
        Self {
            epoch: self.epoch + 1,
            cursor,
        }
    }
}

/// Whoever is refused because there is none, or another owner, must be right. Other refusals mean nothing.
fn refused(operation: &Operation, error: &str, now: Option<At>, findings: &mut Findings) {
    let rule = if error.starts_with(NOT_FOUND) {
        findings.count("not found", 1);
        now.is_some().then_some("deleted")
    } else if error.starts_with(FENCED) {
        findings.count("refused acks", 1);
        let is_old = match &operation.call {
            Call::Ack { epoch, .. } => now.is_some_and(|at| *epoch < at.epoch),
            _ => false,
        };
        (!is_old).then_some("fencing")
    } else {
        None
    };
    if let Some(rule) = rule {
        let text = format!("{}, but it was {now:?}", describe(operation));
        findings.push(Witness::new(rule, text).operations([operation.id]));
    }
}
