//! Calls brought together with their ends.

use super::{Call, Event, Nanos, Process, Reply, Step};

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Carried out between invocation and this time.
    Ok(Nanos, Reply),
    /// Not carried out.
    Fail(Nanos, String),
    /// Carried out at any time since the invocation, or later, or never.
    Unknown,
}

/// A call and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number in the history, by invocation.
    pub id: usize,
    /// Who called.
    pub process: Process,
    /// When.
    pub invoked: Nanos,
    /// Place of its invocation in the history.
    pub first: usize,
    /// Place of its end in the history; `usize::MAX` if the outcome is unknown. A call that ended before another's invocation has the
    /// smaller `last` than the other's `first`.
    pub last: usize,
    /// What.
    pub call: Call,
    /// What came of it.
    pub end: End,
}

/// The calls of a history with their ends, by invocation. A call without an end is unknown.
pub fn paired(history: &[Event]) -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    let mut open = std::collections::BTreeMap::new();
    for (place, event) in history.iter().enumerate() {
        let end = match &event.step {
            Step::Invoke { call } => {
                open.insert(event.process, operations.len());
                operations.push(Operation {
                    id: operations.len(),
                    process: event.process,
                    invoked: event.time,
                    first: place,
                    last: usize::MAX,
                    call: call.clone(),
                    end: End::Unknown,
                });
                continue;
            }
            Step::Seen { .. } => continue,
            Step::Ok { reply } => End::Ok(event.time, reply.clone()),
            Step::Fail { error } => End::Fail(event.time, error.clone()),
            Step::Info { .. } | Step::Strange { .. } => End::Unknown,
        };
        if let Some(at) = open.remove(&event.process) {
            if end != End::Unknown {
                operations[at].last = place;
            }
            operations[at].end = end;
        }
    }
    operations
}
