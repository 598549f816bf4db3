//! Sends between partitions: two steps, the second exactly once.

use std::collections::BTreeMap;

use super::super::{
    Context, History,
    verdict::{Findings, Witness, describe},
};
use crate::history::{Call, End, Key, Operation, Reply};

/// The steps of one send.
#[derive(Default)]
struct Saga<'a> {
    sends: Vec<&'a Operation>,
    receptions: Vec<&'a Operation>,
}

/// What both steps must agree on.
fn terms(call: &Call) -> Option<(u64, Key, Key, u64)> {
    match call {
        Call::Send { from, to, amount, id } | Call::Receive { from, to, amount, id } => {
            Some((*id, *from, *to, *amount))
        }
        _ => None,
    }
}

fn is_done(operation: &Operation) -> bool {
    matches!(operation.end, End::Ok(_, Reply::Written { .. }))
}

fn is_refused(operation: &Operation) -> bool {
    matches!(operation.end, End::Ok(_, Reply::Mismatch { .. }))
}

pub(super) fn check(history: &History<'_>, context: &Context<'_>, findings: &mut Findings) {
    let mut sagas: BTreeMap<u64, Saga<'_>> = BTreeMap::new();
    for operation in &history.operations {
        if let Some((id, ..)) = terms(&operation.call)
            && !matches!(operation.end, End::Fail(..))
        {
            let saga = sagas.entry(id).or_default();
            match operation.call {
                Call::Send { .. } => saga.sends.push(operation),
                _ => saga.receptions.push(operation),
            }
        }
    }
    for (id, saga) in &sagas {
        findings.count("sends", 1);
        saga.check(*id, context, findings);
    }
}

impl Saga<'_> {
    fn check(&self, id: u64, context: &Context<'_>, findings: &mut Findings) {
        let done: Vec<_> = self
            .receptions
            .iter()
            .filter(|operation| is_done(operation))
            .collect();
        findings.count("arrivals", done.len() as u64);
        if let [one, other, ..] = done[..] {
            let text = format!(
                "transfer {id} arrived twice: {} and {}",
                describe(one),
                describe(other)
            );
            findings.push(Witness::new("twice", text).operations([one.id, other.id]));
        }
        for reception in &done {
            // The money may have left by any attempt that was not refused and began before it arrived.
            let is_sent = self.sends.iter().any(|send| {
                !is_refused(send)
                    && send.first < reception.last
                    && terms(&send.call) == terms(&reception.call)
            });
            if !is_sent {
                let text = format!("{} is of a transfer that nobody sent so", describe(reception));
                let sends = self.sends.iter().map(|send| send.id);
                findings.push(Witness::new("phantom", text).operations(sends.chain([reception.id])));
            }
        }
        let is_unknown = self
            .receptions
            .iter()
            .any(|operation| operation.end == End::Unknown);
        for refused in self.receptions.iter().filter(|operation| is_refused(operation)) {
            let before = done.iter().any(|reception| reception.first < refused.last);
            if !before && !is_unknown {
                let text = format!("{} was told that it had arrived before", describe(refused));
                findings.push(Witness::new("phantom", text).operations([refused.id]));
            }
        }
        let has_arrived = !done.is_empty() || is_unknown;
        if let Some(send) = self.sends.iter().find(|send| is_done(send))
            && context.drained
            && !has_arrived
        {
            let text = format!("{} has not arrived at the end", describe(send));
            findings.push(Witness::new("lost", text).operations([send.id]));
        }
    }
}
