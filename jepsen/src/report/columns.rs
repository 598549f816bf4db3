//! The data of the page: a record as columns of numbers and one list of strings, so that 100,000 operations stay a few megabytes.
//!
//! Times in order of time are differences to the one before. Keep in step with `page/model.js`, which reads it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Fault, Mark, Message, Outcome, Place, Rates, Record, Role, ShownCall, packing};
use crate::history::{Nanos, Process};

/// All of it.
#[derive(Serialize)]
pub(super) struct Columns<'a> {
    nodes: &'a [String],
    clients: &'a [String],
    ended: Nanos,
    faults: Vec<FaultRow<'a>>,
    marks: &'a [Mark],
    states: States,
    operations: Operations,
    seen: Seen,
    /// The processes of each lane.
    lanes: Vec<Vec<Process>>,
    messages: Messages,
    messages_reach: Option<Nanos>,
    moments: Vec<Nanos>,
    rates: &'a Rates,
    witness: (Vec<usize>, Vec<usize>),
    strings: Vec<&'a str>,
}

#[derive(Serialize)]
struct FaultRow<'a> {
    #[serde(flatten)]
    fault: &'a Fault,
    row: usize,
}

#[derive(Default, Serialize)]
struct States {
    time: Vec<Nanos>,
    node: Vec<u32>,
    shard: Vec<u32>,
    role: Vec<Role>,
    term: Vec<u64>,
    commit: Vec<u64>,
    applied: Vec<u64>,
}

#[derive(Default, Serialize)]
struct Operations {
    id: Vec<usize>,
    process: Vec<Process>,
    call: Vec<usize>,
    key: Vec<usize>,
    /// A letter for each.
    outcome: String,
    invoked: Vec<Nanos>,
    /// -1: it never ended.
    took: Vec<i64>,
    revision: Vec<Option<u64>>,
    result: Vec<usize>,
}

#[derive(Default, Serialize)]
struct Seen {
    event: Vec<usize>,
    process: Vec<Process>,
    time: Vec<Nanos>,
    text: Vec<usize>,
}

#[derive(Default, Serialize)]
struct Messages {
    sent: Vec<Nanos>,
    /// -1: it was lost.
    took: Vec<i64>,
    from: Vec<u32>,
    to: Vec<u32>,
    kind: Vec<usize>,
    bytes: Vec<u64>,
    fate: Vec<usize>,
}

impl<'a> Columns<'a> {
    /// Of a record.
    pub(super) fn new(record: &'a Record) -> Self {
        let mut strings = Strings::default();
        Self {
            nodes: &record.nodes,
            clients: &record.clients,
            ended: record.ended,
            faults: faults(record),
            marks: &record.marks,
            states: states(record),
            operations: operations(record, &mut strings),
            seen: seen(record, &mut strings),
            lanes: lanes(record),
            messages: messages(record, &mut strings),
            messages_reach: record.messages_reach,
            moments: record.moments(),
            rates: &record.rates,
            witness: record.witnesses(),
            strings: strings.all,
        }
    }
}

/// Each string once, by number.
#[derive(Default)]
struct Strings<'a> {
    all: Vec<&'a str>,
    numbers: BTreeMap<&'a str, usize>,
}

impl<'a> Strings<'a> {
    fn number(&mut self, text: &'a str) -> usize {
        *self.numbers.entry(text).or_insert_with(|| {
            self.all.push(text);
            self.all.len() - 1
        })
    }
}

/// Each time as the difference to the one before; they are in order.
fn differences(times: impl Iterator<Item = Nanos>) -> Vec<Nanos> {
    let mut last = 0;
    let difference = |time| time - std::mem::replace(&mut last, time);
    times.map(difference).collect()
}

/// How long something took; -1 = it has no end.
fn took(from: Nanos, to: Option<Nanos>) -> i64 {
    to.map_or(-1, |to| {
        i64::try_from(to.saturating_sub(from)).unwrap_or(i64::MAX)
    })
}

/// In order of time, whatever order they were collected in.
fn by_time<T>(items: &[T], time: impl Fn(&T) -> Nanos) -> Vec<&T> {
    let mut sorted: Vec<_> = items.iter().collect();
    sorted.sort_by_key(|item| time(item));
    sorted
}

fn faults(record: &Record) -> Vec<FaultRow<'_>> {
    let span = |fault: &Fault| (fault.from, fault.to.unwrap_or(record.ended));
    let rows = packing::rows(&record.faults.iter().map(span).collect::<Vec<_>>());
    let numbered = record.faults.iter().zip(rows);
    numbered.map(|(fault, row)| FaultRow { fault, row }).collect()
}

fn states(record: &Record) -> States {
    let sorted = by_time(&record.states, |state| state.time);
    let mut states = States {
        time: differences(sorted.iter().map(|state| state.time)),
        ..States::default()
    };
    for state in sorted {
        states.node.push(state.node);
        states.shard.push(state.shard);
        states.role.push(state.role);
        states.term.push(state.term);
        states.commit.push(state.commit);
        states.applied.push(state.applied);
    }
    states
}

fn operations<'a>(record: &'a Record, strings: &mut Strings<'a>) -> Operations {
    let sorted = by_time(&record.operations, |operation| operation.invoked);
    let mut operations = Operations {
        invoked: differences(sorted.iter().map(|operation| operation.invoked)),
        ..Operations::default()
    };
    for operation in sorted {
        operations.id.push(operation.id);
        operations.process.push(operation.process);
        operations.call.push(strings.number(&operation.call));
        operations.key.push(strings.number(&operation.key));
        operations.outcome.push(letter(operation));
        operations.took.push(took(operation.invoked, operation.ended));
        operations.revision.push(operation.revision);
        operations.result.push(strings.number(&operation.result));
    }
    operations
}

fn letter(operation: &ShownCall) -> char {
    match operation.outcome {
        Outcome::Ok => 'o',
        Outcome::Fail => 'f',
        Outcome::Info => 'i',
    }
}

fn seen<'a>(record: &'a Record, strings: &mut Strings<'a>) -> Seen {
    let sorted = by_time(&record.seen, |seen| seen.time);
    Seen {
        event: sorted.iter().map(|seen| seen.event).collect(),
        process: sorted.iter().map(|seen| seen.process).collect(),
        time: differences(sorted.iter().map(|seen| seen.time)),
        text: sorted.iter().map(|seen| strings.number(&seen.text)).collect(),
    }
}

/// Processes that follow one another, as one does in whose place another came after an unknown outcome, share a lane.
fn lanes(record: &Record) -> Vec<Vec<Process>> {
    let mut spans = BTreeMap::new();
    let calls = record.operations.iter();
    let calls = calls.map(|call| (call.process, call.invoked, call.ended.unwrap_or(call.invoked)));
    let seen = record
        .seen
        .iter()
        .map(|seen| (seen.process, seen.time, seen.time));
    for (process, from, to) in calls.chain(seen) {
        let span = spans.entry(process).or_insert((from, to));
        *span = (span.0.min(from), span.1.max(to));
    }
    let rows = packing::rows(&spans.values().copied().collect::<Vec<_>>());
    let mut lanes = vec![Vec::new(); rows.iter().max().map_or(0, |last| last + 1)];
    for (process, row) in spans.into_keys().zip(rows) {
        lanes[row].push(process);
    }
    lanes
}

fn messages<'a>(record: &'a Record, strings: &mut Strings<'a>) -> Messages {
    let sorted: Vec<&Message> = by_time(&record.messages, |message| message.sent);
    let mut messages = Messages {
        sent: differences(sorted.iter().map(|message| message.sent)),
        ..Messages::default()
    };
    for message in sorted {
        messages.took.push(took(message.sent, message.arrived));
        messages.from.push(message.from);
        messages.to.push(message.to);
        messages.kind.push(strings.number(&message.kind));
        messages.bytes.push(message.bytes);
        messages.fate.push(strings.number(&message.fate));
    }
    messages
}

/// The name of a node or of another end.
pub(super) fn end_name(record: &Record, end: u32) -> &str {
    let mut names = record.nodes.iter().chain(&record.clients);
    names.nth(end as usize).map_or("?", String::as_str)
}

/// Where a fault is, in words.
pub(super) fn place_text(record: &Record, place: &Place) -> String {
    match place {
        Place::All => "everywhere".to_owned(),
        Place::Nodes(nodes) => {
            let names: Vec<_> = nodes.iter().map(|node| end_name(record, *node)).collect();
            names.join(", ")
        }
        Place::Link { from, to } => format!("{} to {}", end_name(record, *from), end_name(record, *to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(process: Process, invoked: Nanos, ended: Option<Nanos>) -> ShownCall {
        ShownCall {
            id: 0,
            process,
            call: "read".to_owned(),
            key: "k".to_owned(),
            outcome: Outcome::Ok,
            invoked,
            ended,
            revision: None,
            result: "read".to_owned(),
        }
    }

    #[test]
    fn processes_that_follow_one_another_share_a_lane() {
        let operations = vec![
            call(0, 0, Some(9)),
            call(1, 3, Some(4)),
            call(1, 5, None),
            call(11, 6, Some(20)),
            call(10, 10, Some(12)),
        ];
        let record = Record {
            operations,
            ..Record::default()
        };
        assert_eq!(lanes(&record), [vec![0, 10], vec![1, 11]]);
    }

    #[test]
    fn columns_are_in_order_of_time_and_name_each_string_once() {
        let record = Record {
            operations: vec![call(0, 7, None), call(1, 3, Some(4))],
            ..Record::default()
        };
        let columns = Columns::new(&record);
        assert_eq!(columns.operations.process, [1, 0]);
        assert_eq!(columns.operations.invoked, [3, 4]);
        assert_eq!(columns.operations.took, [1, -1]);
        assert_eq!(columns.strings, ["read", "k"]);
        assert_eq!(columns.operations.result, columns.operations.call);
    }
}
