//! Reads that need not be linearizable, and what they promise all the same.
//!
//! - **at least**: a read at least at a revision sees that revision or a later one; so whoever passes on what it was told reads its own
//!   writes and never goes back. What it sees of the key includes all acknowledged changes up to the revision.
//! - **bounded**: a read that may be so old sees every change that was acknowledged longer ago before it was invoked, and by its own
//!   account was no older than that then: its age is that of the answer, and a read that is confirmed on its way grows older on it.
//! - **age**: the age that a read tells is true in the same sense.
//! - **monotonic**: processes in [`Context::monotonic`] never see a smaller revision of a shard than before.
//!
//! Time is measured by clocks that may be off by [`Context::clock_error`], and by what rates were wrong while it was measured. That what was read is right for its revision is looked at by
//! `revisions`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{
    Context, History,
    facts::{self, Facts},
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, End, Key, Mode, Nanos, Operation, Process, Reply, Revision};

const NANOS_PER_MS: Nanos = 1_000_000;

/// Checks all reads that are not linearizable, and all replies of monotonic processes.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let known = Known::new(history, context);
    for operation in &history.operations {
        let End::Ok(_, reply) = &operation.end else {
            continue;
        };
        if let (Some(partition), Some(revision)) = (facts::partition(&operation.call), facts::revision(reply))
        {
            let read = Read {
                operation,
                reply,
                shard: (context.shard_of)(partition),
                revision,
            };
            known.check(&read, context, &mut findings);
        }
    }
    monotonic(history, context, &mut findings);
    findings.verdict()
}

/// An answered operation with a revision.
struct Read<'a> {
    operation: &'a Operation,
    reply: &'a Reply,
    shard: u32,
    revision: Revision,
}

impl Read<'_> {
    /// Whole milliseconds from its invocation to its end.
    fn lasted_ms(&self) -> u64 {
        match self.operation.end {
            End::Ok(ended, _) => ended.saturating_sub(self.operation.invoked) / NANOS_PER_MS,
            _ => 0,
        }
    }
}

/// The changes of one key, by revision.
type KeyChanges = BTreeMap<Revision, usize>;

/// Acknowledged changes.
struct Known<'a> {
    operations: &'a [Operation],
    by_key: BTreeMap<Key, KeyChanges>,
    /// For each shard by time: when a change was acknowledged, the greatest revision acknowledged so far, and its operation.
    by_time: BTreeMap<u32, Vec<(Nanos, Revision, usize)>>,
}

impl<'a> Known<'a> {
    fn new(history: &'a History<'_>, context: &Context<'_>) -> Self {
        let mut by_key: BTreeMap<Key, KeyChanges> = BTreeMap::new();
        let mut by_time: BTreeMap<u32, Vec<(Nanos, Revision, usize)>> = BTreeMap::new();
        for ((shard, revision), changed) in Facts::new(history, context).changes {
            for fact in &changed {
                by_key
                    .entry(fact.key)
                    .or_default()
                    .insert(revision, fact.operation);
            }
            if let Some(fact) = changed.first()
                && let End::Ok(ended, _) = history.operations[fact.operation].end
            {
                by_time
                    .entry(shard)
                    .or_default()
                    .push((ended, revision, fact.operation));
            }
        }
        for times in by_time.values_mut() {
            times.sort_unstable();
            let mut greatest = (0, 0);
            for (_, revision, operation) in times {
                greatest = greatest.max((*revision, *operation));
                (*revision, *operation) = greatest;
            }
        }
        Self {
            operations: &history.operations,
            by_key,
            by_time,
        }
    }

    /// The greatest revision of a shard that was acknowledged before a time.
    fn acknowledged_before(&self, shard: u32, time: Nanos) -> Option<(Revision, usize)> {
        let times = self.by_time.get(&shard)?;
        let after = times.partition_point(|(ended, ..)| *ended < time);
        let (_, revision, operation) = times.get(after.checked_sub(1)?)?;
        Some((*revision, *operation))
    }

    fn check(&self, read: &Read<'_>, context: &Context<'_>, findings: &mut Findings) {
        let mode = facts::mode(&read.operation.call);
        match mode {
            Mode::Linearizable => return,
            Mode::AtLeast(least) => {
                findings.count("at least", 1);
                self.at_least(read, least, findings);
            }
            Mode::Bounded(bound) => {
                findings.count("bounded", 1);
                self.not_older(read, bound, "bounded", context, findings);
            }
            Mode::Local => findings.count("local", 1),
            Mode::At(_) => {}
        }
        if let Reply::Row { age_ms, .. } = *read.reply {
            let text = format!(
                "{} says that it is older than it may be",
                describe(read.operation)
            );
            match mode {
                Mode::Bounded(bound) if age_ms > bound.saturating_add(read.lasted_ms()) => {
                    findings.push(Witness::new("bounded", text).operations([read.operation.id]));
                }
                Mode::Bounded(_) | Mode::Local => {
                    // The age is in whole milliseconds.
                    self.not_older(read, age_ms.saturating_add(1), "age", context, findings);
                }
                Mode::Linearizable | Mode::AtLeast(_) | Mode::At(_) => {}
            }
        }
    }

    fn at_least(&self, read: &Read<'_>, least: Revision, findings: &mut Findings) {
        if read.revision < least {
            let text = format!("{} saw revision {}", describe(read.operation), read.revision);
            findings.push(Witness::new("at least", text).operations([read.operation.id]));
        }
        if let (Call::Read { key, .. }, Reply::Row { row: Some(row), .. }) =
            (&read.operation.call, read.reply)
            && row.mod_rev < least
            && let Some(changes) = self.by_key.get(key)
            && let Some((_, missed)) = changes.range(row.mod_rev + 1..=least).next_back()
        {
            let missed = &self.operations[*missed];
            let text = format!("{} did not see {}", describe(read.operation), describe(missed));
            findings.push(Witness::new("at least", text).operations([read.operation.id, missed.id]));
        }
    }

    /// The read includes what was acknowledged more than so many milliseconds before it was invoked.
    fn not_older(
        &self,
        read: &Read<'_>,
        age_ms: u64,
        rule: &'static str,
        context: &Context<'_>,
        findings: &mut Findings,
    ) {
        let age = age_ms.saturating_mul(NANOS_PER_MS);
        let ended = match read.operation.end {
            End::Ok(ended, _) => ended,
            _ => read.operation.invoked,
        };
        let error = context.clocks().age_error(ended, age);
        let age = age.saturating_add(error).saturating_add(context.clock_error);
        let Some(time) = read.operation.invoked.checked_sub(age) else {
            return;
        };
        let Some((revision, missed)) = self.acknowledged_before(read.shard, time) else {
            return;
        };
        findings.count(if rule == "age" { "ages" } else { "bounds" }, 1);
        if revision > read.revision {
            let missed = &self.operations[missed];
            let text = format!(
                "{} saw revision {} and not that of {}, acknowledged more than {age_ms} ms before",
                describe(read.operation),
                read.revision,
                describe(missed)
            );
            findings.push(Witness::new(rule, text).operations([read.operation.id, missed.id]));
        }
    }
}

fn monotonic(history: &History<'_>, context: &Context<'_>, findings: &mut Findings) {
    let mut last: BTreeMap<(Process, u32), (Revision, usize)> = BTreeMap::new();
    for operation in &history.operations {
        if !context.monotonic.contains(&operation.process) {
            continue;
        }
        let End::Ok(_, reply) = &operation.end else {
            continue;
        };
        let (Some(partition), Some(revision)) = (facts::partition(&operation.call), facts::revision(reply))
        else {
            continue;
        };
        let place = (operation.process, (context.shard_of)(partition));
        let Some((before, id)) = last.insert(place, (revision, operation.id)) else {
            continue;
        };
        findings.count("monotonic", 1);
        if revision < before {
            let one = describe(&history.operations[id]);
            let text = format!(
                "{} saw revision {revision} after {one} saw {before}",
                describe(operation)
            );
            findings.push(Witness::new("monotonic", text).operations([id, operation.id]));
        }
    }
}
