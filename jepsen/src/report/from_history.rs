//! The parts of a [`Record`](super::Record) that a history has.

use std::collections::BTreeMap;

use super::{Outcome, ShownCall, ShownEvent};
use crate::history::{Call, End, Event, Nanos, Operation, Reply, Revision, Step, paired};

/// The operations of a history, by [`Operation::id`].
pub fn operations_of(history: &[Event]) -> Vec<ShownCall> {
    let unknown = unknown_ends(history);
    let show = |operation: Operation| {
        let heard = unknown.get(&operation.id).copied();
        shown(operation, heard)
    };
    paired(history).into_iter().map(show).collect()
}

/// When and what clients heard of calls whose outcome is unknown, by [`Operation::id`].
fn unknown_ends(history: &[Event]) -> BTreeMap<usize, (Nanos, &str)> {
    let (mut open, mut ends, mut calls) = (BTreeMap::new(), BTreeMap::new(), 0);
    for event in history {
        match &event.step {
            Step::Invoke { .. } => {
                open.insert(event.process, calls);
                calls += 1;
            }
            Step::Ok { .. } | Step::Fail { .. } => {
                open.remove(&event.process);
            }
            Step::Info { error } | Step::Strange { what: error } => {
                let id = open.remove(&event.process);
                ends.extend(id.map(|id| (id, (event.time, error.as_str()))));
            }
            Step::Seen { .. } => {}
        }
    }
    ends
}

fn shown(operation: Operation, heard: Option<(Nanos, &str)>) -> ShownCall {
    let (outcome, ended, revision, result) = match operation.end {
        End::Ok(ended, reply) => (Outcome::Ok, Some(ended), revision_of(&reply), reply.to_string()),
        End::Fail(ended, error) => (Outcome::Fail, Some(ended), None, error),
        End::Unknown => match heard {
            Some((time, error)) => (Outcome::Info, Some(time), None, error.to_owned()),
            None => (Outcome::Info, None, None, "no answer".to_owned()),
        },
    };
    ShownCall {
        id: operation.id,
        process: operation.process,
        call: operation.call.to_string(),
        key: key_of(&operation.call),
        outcome,
        invoked: operation.invoked,
        ended,
        revision,
        result,
    }
}

/// What watches and consumers of a history saw, in order.
pub fn seen_of(history: &[Event]) -> Vec<ShownEvent> {
    let show = |(place, event): (usize, &Event)| match &event.step {
        Step::Seen { seen } => Some(ShownEvent {
            event: place,
            process: event.process,
            time: event.time,
            text: seen.to_string(),
        }),
        _ => None,
    };
    history.iter().enumerate().filter_map(show).collect()
}

/// What a call is about. Of a transfer between partitions it is the account that pays.
fn key_of(call: &Call) -> String {
    match call {
        Call::Read { key, .. }
        | Call::Write { key, .. }
        | Call::Cas { key, .. }
        | Call::Delete { key }
        | Call::Increment { key, .. }
        | Call::Count { key }
        | Call::Append { list: key, .. }
        | Call::List { list: key, .. }
        | Call::Send { from: key, .. }
        | Call::Receive { from: key, .. } => key.to_string(),
        Call::Txn(txn) => format!("partition {}", txn.partition),
        Call::Pages(pages) => format!("partition {}", pages.partition),
        Call::Transfer { partition, .. }
        | Call::Balances { partition }
        | Call::Scan { partition, .. }
        | Call::Grant { partition, .. }
        | Call::KeepAlive { partition, .. }
        | Call::Revoke { partition, .. }
        | Call::Watch { partition, .. } => format!("partition {partition}"),
        Call::WatchKeys { shard, .. }
        | Call::Consume { shard, .. }
        | Call::ConsumeAt { shard, .. }
        | Call::Reset { shard, .. }
        | Call::Forget { shard, .. }
        | Call::Ack { shard, .. } => format!("shard {shard}"),
    }
}

fn revision_of(reply: &Reply) -> Option<Revision> {
    match reply {
        Reply::Row { revision, .. }
        | Reply::Written { revision, .. }
        | Reply::Mismatch { revision }
        | Reply::Deleted { revision, .. }
        | Reply::Number { revision, .. }
        | Reply::Appended { revision, .. }
        | Reply::Items { revision, .. }
        | Reply::Balances { revision, .. } => Some(*revision),
        Reply::Txn(done) => Some(done.revision),
        Reply::Pages(all) => Some(all.revision),
        Reply::Watching { after, .. } => Some(*after),
        Reply::Lease { .. } | Reply::Acked => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::testing::{Script, call_read, change, changes, k, write},
        history::Seen,
    };

    #[test]
    fn each_end_is_shown_when_the_client_heard_of_it() {
        let mut events = Script::new()
            .ok(1, (0, 10), write(k(0), 5, 7, 1))
            .fail(2, (1, 11), call_read(k(1)))
            .unknown(3, (2, 12), call_read(k(1)))
            .ok(4, (3, 13), write(k(0), 6, 8, 2))
            .events();
        events.pop();
        let operations = operations_of(&events);
        let ends: Vec<_> = operations
            .iter()
            .map(|one| (one.outcome, one.ended, one.revision))
            .collect();
        let expected = [
            (Outcome::Ok, Some(10), Some(7)),
            (Outcome::Fail, Some(11), None),
            (Outcome::Info, Some(12), None),
            (Outcome::Info, None, None),
        ];
        assert_eq!(ends, expected);
        let results: Vec<_> = operations.iter().map(|one| one.result.as_str()).collect();
        assert_eq!(
            results,
            [
                "written at revision 7, version 1",
                "REFUSED",
                "TIMEOUT",
                "no answer"
            ]
        );
        assert_eq!(
            (operations[0].call.as_str(), operations[0].key.as_str()),
            ("write [0 0] = 5", "[0 0]")
        );
    }

    #[test]
    fn events_keep_their_places() {
        let events = Script::new()
            .seen(
                1,
                5,
                changes(&[change(3, k(0), Some(9)), change(4, k(1), None)], 4),
            )
            .ok(2, (1, 10), write(k(0), 5, 7, 1))
            .seen(1, 12, Seen::Resumed)
            .events();
        let seen = seen_of(&events);
        assert_eq!(
            seen.iter().map(|one| (one.event, one.time)).collect::<Vec<_>>(),
            [(1, 5), (3, 12)]
        );
        assert_eq!(seen[0].text, "{3: [0 0]=9, 4: [0 1] deleted} through 4");
        assert_eq!(seen[1].text, "resumed");
    }
}
