//! A bug that is planted in nodes and clients of a run, to show that the checkers find it, and who did.
//!
//! Pure. Which there are is known to whoever is built with the feature `mutants` (`kvsvr_core::mutants`); nodes are told by the environment.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::judge::Problem;
use crate::{
    check::Verdict,
    history::{End, Event, Nanos, Operation, paired},
};

/// Names the bug in the environment of a node.
pub const VARIABLE: &str = "KVSVR_MUTANT";

/// A bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planted {
    /// What it is chosen by.
    pub name: String,
    /// What it does.
    pub breaks: String,
    /// Checkers that may find it; `process`: a node ends by itself, `service`: the cluster does not serve. Some are the simulator's.
    pub expected: Vec<String>,
}

/// Who found it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// What was to be found.
    #[serde(flatten)]
    pub planted: Planted,
    /// Seconds of load until what the first witness shows had happened, by checker; `None`: it shows at the end only.
    pub found_by: BTreeMap<String, Option<f64>>,
    /// One of them was expected.
    pub as_expected: bool,
}

impl Planted {
    /// Looks who found it in a run whose load began then.
    pub fn found(
        &self,
        events: &[Event],
        began: Nanos,
        problems: &[Problem],
        verdicts: &BTreeMap<String, Verdict>,
    ) -> Found {
        let operations = paired(events);
        let seconds = |time: Nanos| time.saturating_sub(began) as f64 / 1e9;
        let mut found_by = BTreeMap::new();
        for (checker, verdict) in verdicts {
            if matches!(verdict, Verdict::Invalid { .. }) {
                let shown = shown_at(verdict, &operations, events);
                found_by.insert(checker.clone(), shown.map(seconds));
            }
        }
        for problem in problems {
            // The first one is the earliest.
            found_by
                .entry(problem.about.name().to_owned())
                .or_insert(Some(seconds(problem.time)));
        }
        Found {
            as_expected: self.expected.iter().any(|checker| found_by.contains_key(checker)),
            planted: self.clone(),
            found_by,
        }
    }
}

/// When all that a verdict's witness shows had happened.
fn shown_at(verdict: &Verdict, operations: &[Operation], events: &[Event]) -> Option<Nanos> {
    let Verdict::Invalid { witness, .. } = verdict else {
        return None;
    };
    let ended = |id: &usize| {
        operations.get(*id).map(|operation| match operation.end {
            End::Ok(at, _) | End::Fail(at, _) => at,
            End::Unknown => operation.invoked,
        })
    };
    let seen = witness.events.iter().filter_map(|at| events.get(*at));
    let ends = witness.operations.iter().filter_map(ended);
    ends.chain(seen.map(|event| event.time)).max()
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "planted     {}: {}", self.planted.name, self.planted.breaks)?;
        let by: Vec<String> = self
            .found_by
            .iter()
            .map(|(checker, seconds)| match seconds {
                Some(seconds) => format!("{checker} ({seconds:.1} s)"),
                None => format!("{checker} (at the end)"),
            })
            .collect();
        let how = match (self.found_by.is_empty(), self.as_expected) {
            (true, _) => "nobody".to_owned(),
            (false, true) => by.join(", "),
            (false, false) => format!("{}: none of these was expected", by.join(", ")),
        };
        write!(
            f,
            "found by    {how}; expected: one of {}",
            self.planted.expected.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::{Stats, Witness},
        history::{Call, Key, Step},
        runner::judge::About,
    };

    fn planted() -> Planted {
        Planted {
            name: "bug".into(),
            breaks: "It loses what it has.".into(),
            expected: vec!["monotonic".into(), "linear".into()],
        }
    }

    fn invalid(operations: Vec<usize>, events: Vec<usize>) -> Verdict {
        let witness = Witness {
            rule: "rule",
            explanation: "lost".into(),
            operations,
            events,
        };
        Verdict::Invalid { witness, others: 0 }
    }

    fn event(seconds: u64, step: Step) -> Event {
        Event {
            time: seconds * 1_000_000_000,
            process: 1,
            step,
        }
    }

    #[test]
    fn who_found_it_is_told_with_the_time_of_the_evidence() {
        let key = Key { partition: 1, key: 1 };
        let events = [
            event(
                11,
                Step::Invoke {
                    call: Call::Delete { key },
                },
            ),
            event(14, Step::Fail { error: "no".into() }),
            event(
                15,
                Step::Invoke {
                    call: Call::Delete { key },
                },
            ),
        ];
        let problem = |seconds: u64| Problem {
            about: About::Process,
            time: seconds * 1_000_000_000,
            text: "node 2 ended".into(),
        };
        let verdicts = BTreeMap::from([
            ("bank".to_owned(), Verdict::Valid { stats: Stats::new() }),
            ("convergence".to_owned(), invalid(vec![], vec![])),
            ("linear".to_owned(), invalid(vec![0], vec![])),
            ("watch".to_owned(), invalid(vec![0], vec![2])),
        ]);
        let found = planted().found(&events, 10_000_000_000, &[problem(12), problem(13)], &verdicts);
        let by = [
            ("convergence", None),
            ("linear", Some(4.0)),
            ("process", Some(2.0)),
            ("watch", Some(5.0)),
        ];
        let by = by.map(|(checker, seconds)| (checker.to_owned(), seconds));
        assert_eq!(found.found_by, BTreeMap::from(by));
        assert!(found.as_expected);
        let text = found.to_string();
        assert!(
            text.contains("convergence (at the end), linear (4.0 s)"),
            "{text}"
        );
    }

    #[test]
    fn others_than_those_expected_do_not_count() {
        let verdicts = BTreeMap::from([("bank".to_owned(), invalid(vec![], vec![]))]);
        let found = planted().found(&[], 0, &[], &verdicts);
        assert!(!found.as_expected && found.to_string().contains("none of these was expected"));
        let nobody = planted().found(&[], 0, &[], &BTreeMap::new());
        assert!(!nobody.as_expected && nobody.to_string().contains("by    nobody"));
    }
}
