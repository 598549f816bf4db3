//! Counters: each increment is applied exactly once, however often it was sent.
//!
//! - **sum**: the number that an increment returns is the sum of all acknowledged ones up to its revision and of some of those with unknown
//!   outcome that had begun.
//! - **growth**: from one acknowledged increment to the next in revision order it grows by the latter and some of the unknown ones.
//! - **bounds**: a count is not less than what was acknowledged before it began, and not more than what had begun before it ended. This
//!   one does not look at revisions.
//! - **final**: with [`Context::final_from`] the last count is the sum of the acknowledged ones and some of the unknown ones.

mod sums;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::sums::Sums;
use super::{
    Context, History, facts,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, End, Key, Operation, Reply, Revision};

/// Checks each counter.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let mut counters: BTreeMap<Key, Counter<'_>> = BTreeMap::new();
    for operation in &history.operations {
        match (&operation.call, &operation.end) {
            (Call::Increment { key, delta }, End::Ok(_, Reply::Number { revision, value })) => {
                let known = Known {
                    operation,
                    delta: i128::from(*delta),
                    revision: *revision,
                    value: i128::from(*value),
                };
                counters.entry(*key).or_default().known.push(known);
            }
            (Call::Increment { key, delta }, End::Unknown) => {
                let unknown = (operation, i128::from(*delta));
                counters.entry(*key).or_default().unknown.push(unknown);
            }
            (Call::Count { key }, End::Ok(_, Reply::Number { revision, value })) => {
                let count = Known {
                    operation,
                    delta: 0,
                    revision: *revision,
                    value: i128::from(*value),
                };
                counters.entry(*key).or_default().counts.push(count);
            }
            _ => {}
        }
    }
    for (key, mut counter) in counters {
        findings.count("increments", counter.known.len() as u64);
        findings.count("counts", counter.counts.len() as u64);
        counter
            .known
            .sort_by_key(|known| (known.revision, known.operation.id));
        counter.sums(key, &mut findings);
        counter.bounds(key, &mut findings);
        if context.final_from.is_some() {
            counter.end(key, context, &mut findings);
        }
    }
    findings.verdict()
}

/// An acknowledged increment, or an answered count, which adds nothing.
struct Known<'a> {
    operation: &'a Operation,
    delta: i128,
    revision: Revision,
    value: i128,
}

#[derive(Default)]
struct Counter<'a> {
    /// By revision.
    known: Vec<Known<'a>>,
    /// With what they add.
    unknown: Vec<(&'a Operation, i128)>,
    /// By number of the operation.
    counts: Vec<Known<'a>>,
}

impl Counter<'_> {
    fn all_unknown(&self) -> Sums {
        let mut sums = Sums::default();
        self.unknown.iter().for_each(|(_, delta)| sums.add(*delta));
        sums
    }

    fn sums(&self, key: Key, findings: &mut Findings) {
        let mut base = 0;
        // What the returned numbers are above the sums of the acknowledged ones.
        let mut above: Vec<(&Known<'_>, i128)> = Vec::new();
        for known in &self.known {
            base += known.delta;
            above.push((known, known.value - base));
        }
        let all = self.all_unknown();
        let mut before: Option<(&Known<'_>, i128)> = None;
        for (known, extra) in &above {
            if let Some((other, old)) = before
                && !all.contains(extra - old)
            {
                let text = format!(
                    "counter {key}: {} does not follow from {}",
                    describe(known.operation),
                    describe(other.operation)
                );
                let ids = [known.operation.id, other.operation.id];
                findings.push(Witness::new("growth", text).operations(ids));
            }
            before = Some((known, *extra));
        }
        above.sort_by_key(|(known, _)| known.operation.last);
        let mut begun = self.unknown.iter().peekable();
        let mut sums = Sums::default();
        for (known, extra) in above {
            while let Some((_, delta)) = begun.next_if(|(other, _)| other.first < known.operation.last) {
                sums.add(*delta);
            }
            if !sums.contains(extra) {
                let text = format!(
                    "counter {key}: {} returned {extra} more than all acknowledged up to its revision, which no unknown outcomes make",
                    describe(known.operation)
                );
                findings.push(Witness::new("sum", text).operations([known.operation.id]));
            }
        }
    }

    fn bounds(&self, key: Key, findings: &mut Findings) {
        let known = self.known.iter().map(|known| (known.operation, known.delta));
        let unknown = self.unknown.iter().copied();
        let all: Vec<_> = known.chain(unknown).collect();
        for Known {
            operation: count,
            value,
            ..
        } in &self.counts
        {
            let (mut low, mut high) = (0, 0);
            for (operation, delta) in &all {
                if operation.last < count.first {
                    low += delta;
                    high += delta;
                } else if operation.first < count.last {
                    low += (*delta).min(0);
                    high += (*delta).max(0);
                }
            }
            if !(low..=high).contains(value) {
                let text = format!(
                    "counter {key}: {} is not between {low} and {high}",
                    describe(count)
                );
                findings.push(Witness::new("bounds", text).operations([count.id]));
            }
        }
    }

    fn end(&self, key: Key, context: &Context<'_>, findings: &mut Findings) {
        // Nobody changed it, so that nothing can have been lost.
        if self.known.is_empty() && self.unknown.is_empty() {
            return;
        }
        let mut newest = self.counts.iter().rev();
        let Some(end) = newest.find(|count| facts::is_final_read(count.operation, context)) else {
            findings.unknown(format!("no final read of counter {key} was answered"));
            return;
        };
        // One whose outcome only the committed log told may seem to end late; the read says by its revision that it is after it.
        let is_before =
            |known: &&Known<'_>| known.operation.last < end.operation.first || known.revision <= end.revision;
        let before = self.known.iter().filter(is_before);
        if before.clone().count() < self.known.len() {
            findings.unknown(format!("counter {key}: increments went on during its final read"));
            return;
        }
        findings.count("finals", 1);
        let base: i128 = before.map(|known| known.delta).sum();
        if !self.all_unknown().contains(end.value - base) {
            let text = format!(
                "counter {key}: {} at the end, but the acknowledged increments make {base} and unknown ones cannot make up the difference",
                describe(end.operation)
            );
            findings.push(Witness::new("final", text).operations([end.operation.id]));
        }
    }
}
