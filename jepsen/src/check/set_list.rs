//! Lists that grow by appends, and sets of keys that are each written once.
//!
//! Rules for each list:
//! - **place**: each acknowledged append has a place of its own; places grow with revisions, and in real time.
//! - **dense**: a read shows the places 1, 2, 3, ... without a hole, no value twice, and places beyond the acknowledged ones only for as
//!   many as there are unknown outcomes.
//! - **lost**: a read shows every append up to its revision, and a linearizable one every append acknowledged before it, at its place.
//! - **phantom**: it shows nothing else but what unknown outcomes may have appended.
//! - **order**: what two reads show at one place is the same, and one of a later revision does not show less, nor one of the same revision
//!   more. A linearizable one does not show less than any that had ended before it began. An append has a place after all that any read of a
//!   revision before it shows.
//!
//! A set is the keys of a partition that one plain write and nothing else ever changes. A linearizable scan shows all elements that were
//! acknowledged before it or shown by a scan before it (**lost**), and only what somebody wrote (**phantom**).
//!
//! Each value is appended to a list, or written to an element, only once. With [`Context::final_from`] each list and each set needs a
//! final read.

mod set;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{
    Context, History, facts,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, End, Key, Mode, Operation, Reply, Revision};

/// Checks all lists and sets.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    all_lists(history, context, &mut findings);
    set::check(history, context, &mut findings);
    findings.verdict()
}

/// Checks all lists.
pub fn check_lists(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    all_lists(history, context, &mut findings);
    findings.verdict()
}

fn all_lists(history: &History<'_>, context: &Context<'_>, findings: &mut Findings) {
    for (key, list) in lists(history, context) {
        list.places(key, findings);
        list.reads(key, findings);
        list.growth(key, findings);
        if context.final_from.is_some() && !list.appends.is_empty() && !list.read_at_end {
            findings.unknown(format!("no final linearizable read of list {key} was answered"));
        }
    }
}

/// An acknowledged append.
struct Append<'a> {
    operation: &'a Operation,
    value: u64,
    revision: Revision,
    seq: u64,
}

struct ListRead<'a> {
    operation: &'a Operation,
    revision: Revision,
    items: &'a [(u64, u64)],
    is_fresh: bool,
}

#[derive(Default)]
struct List<'a> {
    appends: Vec<Append<'a>>,
    /// Appends of unknown outcome, by value.
    unknown: BTreeMap<u64, &'a Operation>,
    reads: Vec<ListRead<'a>>,
    read_at_end: bool,
}

fn lists<'a>(history: &'a History<'_>, context: &Context<'_>) -> BTreeMap<Key, List<'a>> {
    let mut lists: BTreeMap<Key, List<'a>> = BTreeMap::new();
    for operation in &history.operations {
        match (&operation.call, &operation.end) {
            (Call::Append { list, value }, End::Ok(_, Reply::Appended { revision, seq })) => {
                let (value, revision, seq) = (*value, *revision, *seq);
                lists.entry(*list).or_default().appends.push(Append {
                    operation,
                    value,
                    revision,
                    seq,
                });
            }
            (Call::Append { list, value }, End::Unknown) => {
                lists.entry(*list).or_default().unknown.insert(*value, operation);
            }
            (Call::List { list, mode }, End::Ok(_, Reply::Items { revision, items })) => {
                let list = lists.entry(*list).or_default();
                list.read_at_end |= facts::is_final_read(operation, context);
                list.reads.push(ListRead {
                    operation,
                    revision: *revision,
                    items,
                    is_fresh: *mode == Mode::Linearizable,
                });
            }
            _ => {}
        }
    }
    lists
}

impl List<'_> {
    /// The rules of appends among themselves.
    fn places(&self, key: Key, findings: &mut Findings) {
        findings.count("appends", self.appends.len() as u64);
        let mut by_seq: Vec<&Append<'_>> = self.appends.iter().collect();
        by_seq.sort_by_key(|append| append.seq);
        for pair in by_seq.windows(2) {
            let ids = pair.iter().map(|append| append.operation.id);
            let both = format!(
                "{} and {}",
                describe(pair[0].operation),
                describe(pair[1].operation)
            );
            if pair[0].seq == pair[1].seq {
                let text = format!("list {key}: two appends have one place: {both}");
                findings.push(Witness::new("place", text).operations(ids));
            } else if pair[0].revision >= pair[1].revision {
                let text = format!("list {key}: the later place has not the later revision: {both}");
                findings.push(Witness::new("place", text).operations(ids));
            }
        }
        // An append began after one with a greater place had ended: seen from the greatest place down, the earliest end so far.
        let mut earliest: Option<&Append<'_>> = None;
        for append in by_seq.iter().rev() {
            if let Some(later) = earliest.filter(|later| later.operation.last < append.operation.first) {
                let text = format!(
                    "list {key}: {} began after {} had ended",
                    describe(append.operation),
                    describe(later.operation)
                );
                let ids = [append.operation.id, later.operation.id];
                findings.push(Witness::new("place", text).operations(ids));
            }
            if earliest.is_none_or(|later| append.operation.last < later.operation.last) {
                earliest = Some(append);
            }
        }
        let places = by_seq.last().map_or(0, |append| append.seq);
        let free = places.saturating_sub(by_seq.len() as u64);
        if free > self.unknown.len() as u64 {
            let text = format!(
                "list {key}: {free} places up to {places} are nobody's, but only {} appends have an unknown outcome",
                self.unknown.len()
            );
            let last = by_seq.last().map(|append| append.operation.id);
            findings.push(Witness::new("dense", text).operations(last));
        }
    }

    fn reads(&self, key: Key, findings: &mut Findings) {
        findings.count("list reads", self.reads.len() as u64);
        let known: BTreeMap<u64, &Append<'_>> =
            self.appends.iter().map(|append| (append.value, append)).collect();
        // The longest read so far says what is at each place.
        let mut longest: Option<&ListRead<'_>> = None;
        for read in &self.reads {
            let mut wrong = |rule: &'static str, what: String, other: Option<usize>| {
                let text = format!("list {key}: {} {what}", describe(read.operation));
                let ids = other.into_iter().chain([read.operation.id]);
                findings.push(Witness::new(rule, text).operations(ids));
            };
            shape(read, &mut wrong);
            for append in &self.appends {
                let is_included = append.revision <= read.revision
                    || read.is_fresh && append.operation.last < read.operation.first;
                let at = usize::try_from(append.seq)
                    .ok()
                    .and_then(|seq| seq.checked_sub(1));
                let found = at.and_then(|at| read.items.get(at));
                if is_included && found != Some(&(append.seq, append.value)) {
                    let what = format!("does not show {} there", describe(append.operation));
                    wrong("lost", what, Some(append.operation.id));
                }
            }
            for (seq, value) in read.items {
                let other = known.get(value);
                let is_known =
                    other.is_some_and(|append| append.revision <= read.revision && append.seq == *seq);
                let unknown = self.unknown.get(value);
                let may_be = unknown.is_some_and(|append| append.first < read.operation.last);
                if !is_known && !may_be {
                    let what = format!("shows {value} at place {seq}, where nobody put it");
                    wrong("phantom", what, other.map(|append| append.operation.id));
                }
            }
            if let Some(other) = longest {
                let differs = read
                    .items
                    .iter()
                    .zip(other.items)
                    .find(|(one, other)| one != other);
                if let Some((one, two)) = differs {
                    let what = format!("shows {one:?} where {} shows {two:?}", describe(other.operation));
                    wrong("order", what, Some(other.operation.id));
                }
            }
            if longest.is_none_or(|other| other.items.len() < read.items.len()) {
                longest = Some(read);
            }
        }
    }
}

impl<'a> List<'a> {
    /// Lists only grow: by revision, and in real time.
    fn growth(&self, key: Key, findings: &mut Findings) {
        let mut by_revision: Vec<_> = self.reads.iter().collect();
        by_revision.sort_by_key(|read| (read.revision, read.items.len(), read.operation.id));
        for pair in by_revision.windows(2) {
            let [one, other] = [pair[0], pair[1]];
            let is_same = one.revision == other.revision;
            if other.items.len() < one.items.len() || is_same && other.items.len() != one.items.len() {
                findings.push(differ(key, one, other));
            }
        }
        for append in &self.appends {
            let before = by_revision.partition_point(|read| read.revision < append.revision);
            if let Some(read) = before.checked_sub(1).map(|at| by_revision[at])
                && read.items.len() as u64 >= append.seq
            {
                let (who, other) = (describe(append.operation), describe(read.operation));
                let text = format!("list {key}: {who} has a place that {other} had shown before");
                let ids = [append.operation.id, read.operation.id];
                findings.push(Witness::new("order", text).operations(ids));
            }
        }
        for (before, read) in self.longest_before() {
            if before.items.len() > read.items.len() {
                findings.push(differ(key, before, read));
            }
        }
    }

    /// Each linearizable read with the longest of those that had ended before it began.
    fn longest_before(&self) -> Vec<(&ListRead<'a>, &ListRead<'a>)> {
        let mut by_end: Vec<_> = self.reads.iter().collect();
        by_end.sort_by_key(|read| read.operation.last);
        let mut ended = by_end.into_iter().peekable();
        let mut longest: Option<&ListRead<'_>> = None;
        let mut pairs = Vec::new();
        // They come by invocation.
        for read in self.reads.iter().filter(|read| read.is_fresh) {
            while let Some(other) = ended.next_if(|other| other.operation.last < read.operation.first) {
                if longest.is_none_or(|longest| longest.items.len() < other.items.len()) {
                    longest = Some(other);
                }
            }
            pairs.extend(longest.map(|longest| (longest, read)));
        }
        pairs
    }
}

/// One of two reads shows what the other one must not leave out.
fn differ(key: Key, before: &ListRead<'_>, read: &ListRead<'_>) -> Witness {
    let text = format!(
        "list {key}: {} shows {} items, but {} shows {}",
        describe(read.operation),
        read.items.len(),
        describe(before.operation),
        before.items.len()
    );
    Witness::new("order", text).operations([before.operation.id, read.operation.id])
}

/// A read by itself.
fn shape(read: &ListRead<'_>, wrong: &mut impl FnMut(&'static str, String, Option<usize>)) {
    for (at, (seq, _)) in read.items.iter().enumerate() {
        if *seq != at as u64 + 1 {
            wrong("dense", format!("has place {seq} where {} belongs", at + 1), None);
            break;
        }
    }
    let mut values: Vec<_> = read.items.iter().map(|(_, value)| value).collect();
    values.sort_unstable();
    if let Some(pair) = values.windows(2).find(|pair| pair[0] == pair[1]) {
        wrong("dense", format!("has the value {} twice", pair[0]), None);
    }
}
