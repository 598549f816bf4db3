//! Ranges that are read page by page: the pages together are what one read of the whole range finds.
//!
//! Rules:
//! - **order**: keys go up, or down if that was asked for, over all pages, none twice, none outside the range.
//! - **limit**: no page has more keys than were asked for. (It may have fewer, or none.)
//! - **whole**: two reads of a range at one revision find the same, however they read it: forwards, backwards, by pages of any size, without values, or as
//!   a scan.
//! - **state**: what is found is what the changes up to the revision leave, where all of them are [known](super::states).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Context, History,
    states::States,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{AllPages, Call, End, Operation, Pages, Reply, Revision, Row};

/// Checks all reads of pages.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let mut partitions = BTreeSet::new();
    let mut reads: BTreeMap<(u32, Revision), Vec<Found<'_>>> = BTreeMap::new();
    for operation in &history.operations {
        let End::Ok(_, reply) = &operation.end else {
            continue;
        };
        let found = match (&operation.call, reply) {
            (Call::Pages(asked), Reply::Pages(all)) => {
                findings.count("ranges", 1);
                findings.count("continued", u64::from(all.pages.len() > 1));
                findings.count("backwards", u64::from(asked.reverse && all.pages.len() > 1));
                form(operation, asked, all, &mut findings);
                partitions.insert(asked.partition);
                Found::pages(operation, asked, all)
            }
            (Call::Scan { partition, .. }, Reply::Items { revision, items }) => {
                Found::scan(operation, *partition, *revision, items)
            }
            _ => continue,
        };
        reads
            .entry((found.partition, found.revision))
            .or_default()
            .push(found);
    }
    let states = States::new(history, context, &partitions);
    for ((partition, _), found) in &reads {
        if partitions.contains(partition) {
            agree(found, &mut findings);
            found.iter().for_each(|found| found.state(&states, &mut findings));
        }
    }
    findings.verdict()
}

/// What is known of a row: its value, and the rest of it.
type Known = (Option<u64>, Option<Row>);

/// What a read found.
struct Found<'a> {
    operation: &'a Operation,
    partition: u32,
    revision: Revision,
    /// From this key on, and below that.
    range: (u32, u32),
    rows: BTreeMap<u32, Known>,
    by_pages: bool,
}

impl<'a> Found<'a> {
    fn pages(operation: &'a Operation, asked: &Pages, all: &AllPages) -> Self {
        let known = |row: Row| match asked.keys_only {
            true => (None, Some(Row { value: 0, ..row })),
            false => (Some(row.value), Some(Row { value: 0, ..row })),
        };
        Self {
            operation,
            partition: asked.partition,
            revision: all.revision,
            range: (asked.from, asked.to),
            rows: all.rows().map(|row| (row.key, known(row.row))).collect(),
            by_pages: true,
        }
    }

    fn scan(operation: &'a Operation, partition: u32, revision: Revision, items: &[(u64, u64)]) -> Self {
        let rows = items.iter().filter_map(|(key, value)| {
            let key = u32::try_from(*key).ok()?;
            Some((key, (Some(*value), None)))
        });
        Self {
            operation,
            partition,
            revision,
            range: (0, u32::MAX),
            rows: rows.collect(),
            by_pages: false,
        }
    }

    /// The first key in both ranges of which the other read found something else.
    fn differs(&self, other: &Self) -> Option<u32> {
        let from = self.range.0.max(other.range.0);
        let to = self.range.1.min(other.range.1).max(from);
        let keys = self.rows.range(from..to).chain(other.rows.range(from..to));
        let differ = |key: &u32| match (self.rows.get(key), other.rows.get(key)) {
            (Some(one), Some(two)) => {
                let values = one.0.zip(two.0).is_some_and(|(one, two)| one != two);
                values || one.1.zip(two.1).is_some_and(|(one, two)| one != two)
            }
            (one, two) => one.is_some() != two.is_some(),
        };
        keys.map(|(key, _)| *key).find(differ)
    }

    fn state(&self, states: &States, findings: &mut Findings) {
        if !self.by_pages || self.revision > states.known(self.partition) {
            return;
        }
        findings.count("states", 1);
        let rows = states.rows(self.partition, self.range, self.revision);
        let known = |row: Row| (Some(row.value), Some(Row { value: 0, ..row }));
        let state = Found {
            rows: rows.into_iter().map(|(key, row)| (key, known(row))).collect(),
            ..*self
        };
        if let Some(key) = self.differs(&state) {
            let is = state.rows.get(&key);
            let text = format!(
                "{} found {:?} of key {key}, but it is {is:?}",
                describe(self.operation),
                self.rows.get(&key)
            );
            findings.push(Witness::new("state", text).operations([self.operation.id]));
        }
    }
}

/// All reads of a partition at one revision.
fn agree(found: &[Found<'_>], findings: &mut Findings) {
    let Some((first, others)) = found.split_first() else {
        return;
    };
    // Ranges may overlap with some of the others only.
    let pairs = others.iter().map(|other| (first, other));
    let pairs = pairs.chain(others.iter().zip(others.iter().skip(1)));
    for (one, other) in pairs {
        if !one.by_pages && !other.by_pages {
            continue;
        }
        findings.count("compared", 1);
        if let Some(key) = one.differs(other) {
            let [one, other] = [one, other].map(|found| (found.operation, found.rows.get(&key)));
            let text = format!(
                "{} found {:?} of key {key}, but {} found {:?}",
                describe(one.0),
                one.1,
                describe(other.0),
                other.1
            );
            findings.push(Witness::new("whole", text).operations([one.0.id, other.0.id]));
        }
    }
}

/// The order of the keys, and the sizes of the pages.
fn form(operation: &Operation, asked: &Pages, all: &AllPages, findings: &mut Findings) {
    let mut wrong = |rule: &'static str, what: String| {
        let text = format!("{} {what}", describe(operation));
        findings.push(Witness::new(rule, text).operations([operation.id]));
    };
    let keys: Vec<u32> = all.rows().map(|row| row.key).collect();
    let in_order = |pair: &[u32]| match asked.reverse {
        true => pair[0] > pair[1],
        false => pair[0] < pair[1],
    };
    if !keys.windows(2).all(in_order) {
        wrong("order", format!("has keys twice or out of order: {keys:?}"));
    }
    if let Some(key) = keys.iter().find(|key| !(asked.from..asked.to).contains(key)) {
        wrong("order", format!("has key {key}, which is not asked for"));
    }
    let most = all.pages.iter().map(Vec::len).max().unwrap_or(0);
    if asked.limit != 0 && most > asked.limit as usize {
        wrong("limit", format!("has a page of {most} keys"));
    }
}
