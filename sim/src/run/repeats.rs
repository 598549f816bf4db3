//! What a network that repeats requests by itself makes of refusals.
//!
//! A node that refuses a command before it is in the log forgets it. If the network carries that command to it once more, later, as a proxy
//! may do that does not keep to the rules, it may be carried out after all: what clients were told was right when they were told. (A command that came into the log is
//! remembered by its session, and carried out once.) So where requests are repeated such a refusal counts as an unknown outcome.

use std::collections::BTreeMap;

use kvsvr_jepsen::history::{Call, Event, Process, Step};

use crate::plan::{Plan, What};

/// What nodes say of commands that they do not let into the log.
const BEFORE_THE_LOG: [&str; 7] = [
    "refused: writes are refused",
    "overloaded:",
    "no_leader:",
    "not_leader:",
    "not_ready:",
    "wrong_shard:",
    "unreachable:",
];

/// The network repeats requests at some time.
fn happen(plan: &Plan) -> bool {
    plan.faults.iter().any(|fault| match &fault.what {
        What::BadLinks { links, .. } => links.duplicate > 0.0 || links.replay > 0.0,
        _ => false,
    })
}

/// The history of a plan, with refused changes as unknown outcomes where requests are repeated.
pub(super) fn history_of(plan: &Plan, told: Vec<Event>) -> Vec<Event> {
    match happen(plan) {
        true => doubted(told),
        false => told,
    }
}

fn doubted(mut history: Vec<Event>) -> Vec<Event> {
    let mut changing: BTreeMap<Process, bool> = BTreeMap::new();
    for event in &mut history {
        match &event.step {
            Step::Invoke { call } => {
                changing.insert(event.process, changes(call));
            }
            Step::Fail { error }
                if changing.get(&event.process) == Some(&true)
                    && BEFORE_THE_LOG.iter().any(|text| error.starts_with(text)) =>
            {
                event.step = Step::Info { error: error.clone() };
            }
            _ => {}
        }
    }
    history
}

fn changes(call: &Call) -> bool {
    !matches!(
        call,
        Call::Read { .. }
            | Call::List { .. }
            | Call::Scan { .. }
            | Call::Count { .. }
            | Call::Balances { .. }
            | Call::Pages(_)
            | Call::Watch { .. }
            | Call::WatchKeys { .. }
            | Call::Consume { .. }
    ) && !matches!(call, Call::Txn(txn) if txn.is_read_only())
}

#[cfg(test)]
mod tests {
    use kvsvr_jepsen::history::{Key, Mode};

    use super::*;

    #[test]
    fn only_refused_changes_are_doubted() {
        let key = Key { partition: 1, key: 2 };
        let of = |call: Call, error: &str| {
            let event = |step| Event {
                time: 1,
                process: 7,
                step,
            };
            let fail = Step::Fail {
                error: error.to_owned(),
            };
            let history = vec![event(Step::Invoke { call }), event(fail)];
            let doubted = doubted(history);
            matches!(doubted[1].step, Step::Info { .. })
        };
        let delete = || Call::Delete { key };
        let read = || Call::Read {
            key,
            mode: Mode::Linearizable,
        };
        assert!(of(delete(), "refused: writes are refused: the disk is full"));
        assert!(of(delete(), "no_leader: nobody leads"));
        assert!(!of(delete(), "refused: there was not enough when it was read"));
        assert!(!of(delete(), "invalid: a key is too long"));
        assert!(!of(read(), "no_leader: nobody leads"));
    }
}
