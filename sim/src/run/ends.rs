//! Ends of processes that nothing explains.
//!
//! The supervisor starts again what ended by itself, as in production, so that such an end would be seen by nobody. A disk that fails, is
//! full, empty or damaged may end a process, or spoil its orderly stop; nothing else may.

use std::time::Duration;

use crate::{
    failpoint::Action,
    faults::Band,
    node::{Ended, How},
    outcome::Failure,
    plan::{Plan, What},
};

/// What was wrong so shortly before a process began may be what it found.
const BEFORE: Duration = Duration::from_secs(1);

/// A failure for each process that ended by itself, or could not stop in order, though nothing was wrong with its disk in its life. Those of
/// one node that ended for the same reason are one failure, of the first: the supervisor starts them again and again.
pub(super) fn unexplained(plan: &Plan, bands: &[Band], ended: &[(usize, Ended)]) -> Vec<Failure> {
    let mut failures: Vec<(usize, &Ended, u64)> = Vec::new();
    for (machine, ended) in ended.iter().filter(|(_, ended)| ended.how != How::Told) {
        let explains = |band: &Band| {
            let within =
                band.from <= ended.at && band.until.is_none_or(|until| until + BEFORE >= ended.began);
            let what = plan.faults.get(band.fault).map(|fault| &fault.what);
            within && band.nodes.contains(machine) && what.is_some_and(may_end_a_process)
        };
        if bands.iter().any(explains) {
            continue;
        }
        let is_same = |(of, first, _): &&mut (usize, &Ended, u64)| {
            of == machine && first.how == ended.how && first.reason == ended.reason
        };
        match failures.iter_mut().find(is_same) {
            Some((.., more)) => *more += 1,
            None => failures.push((*machine, ended, 0)),
        }
    }
    let told = failures.into_iter().map(|(machine, ended, more)| {
        let by_itself = match ended.how {
            How::Uncleanly => "",
            _ => "ended by itself: ",
        };
        let (process, number, reason) = (ended.process, machine + 1, &ended.reason);
        let mut text = format!("process {process} of node {number} {by_itself}{reason}");
        if more > 0 {
            text += &format!(" (and {more} more of it)");
        }
        Failure::new("process", text).at(ended.at)
    });
    told.collect()
}

fn may_end_a_process(what: &What) -> bool {
    match what {
        What::DiskFull { .. } | What::DiskError { .. } | What::Damage { .. } | What::EmptyDisk { .. } => true,
        What::Failpoint { action, .. } => *action == Action::Error,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        failpoint::Step,
        plan::{DiskOperation, Fault, Victims},
    };

    fn ended(how: How, began: u64, at: u64) -> (usize, Ended) {
        let (began, at) = (Duration::from_secs(began), Duration::from_secs(at));
        let reason = "for a reason".to_owned();
        (
            1,
            Ended {
                began,
                at,
                process: 3,
                how,
                reason,
            },
        )
    }

    /// Whether an end at 40 s of a process that began at 20 s fails, if this was wrong with a machine from 10 s on.
    fn fails(what: What, machine: usize, until: Option<u64>) -> bool {
        let mut plan = Plan::from_seed(1);
        plan.faults = vec![Fault {
            at_ms: 1,
            for_ms: 1,
            what,
        }];
        let band = Band {
            fault: 0,
            kind: "",
            nodes: [machine].into(),
            from: Duration::from_secs(10),
            until: until.map(Duration::from_secs),
        };
        !unexplained(&plan, &[band], &[ended(How::ByItself, 20, 40)]).is_empty()
    }

    fn failpoint(action: Action) -> What {
        What::Failpoint {
            victims: Victims::All,
            point: Step::WalSync.before(),
            hit: 1,
            action,
        }
    }

    #[test]
    fn what_nothing_explains_fails() {
        let plan = Plan::from_seed(1);
        let told = |how| unexplained(&plan, &[], &[ended(how, 20, 40)]);
        assert_eq!(told(How::Told), []);
        let text = |how| told(how)[0].text.clone();
        assert_eq!(
            text(How::ByItself),
            "process 3 of node 2 ended by itself: for a reason"
        );
        assert_eq!(text(How::Uncleanly), "process 3 of node 2 for a reason");
        assert_eq!(told(How::ByItself)[0].found_by, "process");
    }

    #[test]
    fn what_ends_again_and_again_is_told_once() {
        let plan = Plan::from_seed(1);
        let mut other = ended(How::ByItself, 60, 70);
        other.1.reason = "for another".into();
        let ended = [
            (How::ByItself, 20, 40),
            (How::ByItself, 41, 50),
            (How::ByItself, 51, 60),
        ]
        .map(|(how, began, at)| ended(how, began, at));
        let told = unexplained(&plan, &[], &[&ended[..], &[other]].concat());
        let texts: Vec<&str> = told.iter().map(|failure| &failure.text[..]).collect();
        assert_eq!(
            texts,
            [
                "process 3 of node 2 ended by itself: for a reason (and 2 more of it)",
                "process 3 of node 2 ended by itself: for another"
            ]
        );
    }

    #[test]
    fn a_bad_disk_explains_an_end_in_its_time() {
        let bad = || What::DiskError {
            victims: Victims::All,
            operation: DiskOperation::Sync,
            after: 1,
        };
        assert!(!fails(bad(), 1, None) && !fails(bad(), 1, Some(30)) && !fails(bad(), 1, Some(19)));
        assert!(fails(bad(), 1, Some(15)), "it was well when the process began");
        assert!(fails(bad(), 0, None), "of another machine");
        let victims = Victims::All;
        assert!(fails(What::Pause { victims }, 1, None));
        assert!(fails(failpoint(Action::Delay(9)), 1, None));
        assert!(!fails(failpoint(Action::Error), 1, None));
    }
}
