//! Answers that nothing in the workloads can have caused: a value that is no workload's, a key that is of somebody else, a result of
//! another form ([`Step::Strange`]).
//!
//! - **strange**: there is none.

use std::collections::BTreeMap;

use super::{
    Context, History,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Process, Step};

/// Looks at all answers, and all that watches and consumers saw.
pub fn check(history: &History<'_>, _: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let mut open: BTreeMap<Process, usize> = BTreeMap::new();
    let mut calls = 0;
    for (place, event) in history.events.iter().enumerate() {
        match &event.step {
            Step::Invoke { .. } => {
                open.insert(event.process, calls);
                calls += 1;
            }
            Step::Ok { .. } | Step::Fail { .. } | Step::Info { .. } => {
                findings.count("answers", 1);
                open.remove(&event.process);
            }
            Step::Seen { .. } => findings.count("seen", 1),
            Step::Strange { what } => {
                let call = open.remove(&event.process);
                let who = call.map_or_else(
                    || format!("process {} is shown", event.process),
                    |id| format!("{} was answered with", describe(&history.operations[id])),
                );
                let text = format!("{who} what no workload makes: {what}");
                findings.push(Witness::new("strange", text).operations(call).events([place]));
            }
        }
    }
    findings.verdict()
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, check};

    #[test]
    fn a_strange_answer_is_never_a_failure_like_others() {
        let good = || Script::new().ok(1, (1, 2), write(k(1), 10, 1, 1));
        valid(good().fail(1, (3, 4), call_read(k(1))).check(check));
        let witness = broken("strange", good().strange(1, (3, 4), call_read(k(1))).check(check));
        assert_eq!((witness.operations, witness.events), (vec![1], vec![3]));
    }

    #[test]
    fn nothing_that_was_asked_is_unknown() {
        unknown(Script::new().check(check));
    }
}
