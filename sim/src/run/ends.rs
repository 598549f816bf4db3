//! Ends of processes: those that a fault explains, and those that nothing explains.
//!
//! The supervisor starts again what ended by itself, as in production, so that such an end would be seen by nobody. A disk that fails, is
//! full or damaged may end a process, or spoil its orderly stop; nothing else may. That it was to be so is no excuse: it must have come
//! to that machine (an error that was returned, something that was damaged), while that process was there and not long ago, and it must be what the
//! process names as its reason ([`Reason`]).

use std::{collections::BTreeMap, time::Duration};

use crate::{
    faults::Band,
    node::{Ended, How},
    outcome::Failure,
    trouble::Reason,
};

/// What was wrong so shortly before a process ended may be why it ended: a disk that stalls tells late.
const BEFORE: Duration = Duration::from_secs(10);

/// How the processes of a run ended that nobody had told to, or not so.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// A failure for each that nothing explains. Those of one node that ended for the same reason are one failure, of the first: the supervisor
    /// starts them again and again.
    pub(super) unexplained: Vec<Failure>,
    /// How many were explained, by the fault's kind and the reason.
    pub(super) excused: BTreeMap<String, u64>,
}

impl Ends {
    pub(super) fn of(bands: &[Band], ended: &[(usize, Ended)]) -> Self {
        let mut ends = Self::default();
        let mut failures: Vec<(usize, &Ended, u64)> = Vec::new();
        for (machine, ended) in ended.iter().filter(|(_, ended)| ended.how != How::Told) {
            if let Some((fault, reason)) = explanation(bands, *machine, ended) {
                *ends.excused.entry(format!("{fault}: {reason}")).or_default() += 1;
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
        ends.unexplained = failures.into_iter().map(failure).collect();
        ends
    }
}

/// The kind of the fault that explains an end, and how.
fn explanation(bands: &[Band], machine: usize, ended: &Ended) -> Option<(&'static str, Reason)> {
    let reason = Reason::of(&ended.reason)?;
    let explains = |band: &&Band| {
        let came = band.came.get(&machine);
        let lately = |until: Duration| ended.began < until && until + BEFORE >= ended.at;
        came.is_some_and(|came| came.contains(&reason.trouble))
            && band.from <= ended.at
            && band.until.is_none_or(lately)
    };
    let band = bands.iter().find(explains)?;
    Some((band.kind, reason))
}

fn failure((machine, ended, more): (usize, &Ended, u64)) -> Failure {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{damage::Target, failpoint::Step, trouble::Trouble};

    const FULL: &str = "the engine cannot flush: storage: no space left on device";
    const DAMAGED: &str = "cannot start: the log is corrupt: wal/1.wal at byte 3";

    /// A process of the second machine.
    fn ended(how: How, began: u64, at: u64, reason: &str) -> (usize, Ended) {
        let (began, at) = (Duration::from_secs(began), Duration::from_secs(at));
        let ended = Ended {
            began,
            at,
            process: 3,
            how,
            reason: reason.to_owned(),
        };
        (1, ended)
    }

    fn band(machine: usize, came: Trouble, from: u64, until: Option<u64>) -> Band {
        Band {
            fault: 0,
            kind: "a_fault",
            nodes: [0, 1, 2].into(),
            came: [(machine, [came].into())].into(),
            from: Duration::from_secs(from),
            until: until.map(Duration::from_secs),
        }
    }

    /// Whether an end at 40 s fails of a process that began at 20 s, if this came in this band.
    fn fails(reason: &str, band: &Band) -> bool {
        let ends = Ends::of(
            std::slice::from_ref(band),
            &[ended(How::ByItself, 20, 40, reason)],
        );
        assert_ne!(ends.unexplained.is_empty(), ends.excused.is_empty());
        !ends.unexplained.is_empty()
    }

    #[test]
    fn what_nothing_explains_fails() {
        let told = |how| Ends::of(&[], &[ended(how, 20, 40, "for a reason")]).unexplained;
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
        let ends = [
            (20, 40, "one"),
            (41, 50, "one"),
            (51, 60, "one"),
            (60, 70, "another"),
        ];
        let ends = ends.map(|(began, at, reason)| ended(How::ByItself, began, at, reason));
        let told = Ends::of(&[], &ends).unexplained;
        let texts: Vec<&str> = told.iter().map(|failure| &failure.text[..]).collect();
        assert_eq!(
            texts,
            [
                "process 3 of node 2 ended by itself: one (and 2 more of it)",
                "process 3 of node 2 ended by itself: another"
            ]
        );
    }

    #[test]
    fn trouble_explains_an_end_in_its_time() {
        let fails = |machine, from, until| fails(FULL, &band(machine, Trouble::NoSpace, from, until));
        assert!(!fails(1, 10, None) && !fails(1, 10, Some(40)) && !fails(1, 10, Some(30)));
        assert!(fails(1, 10, Some(29)), "it was well long ago");
        assert!(fails(1, 41, None), "it came later");
        assert!(fails(0, 10, None), "to another machine");
        let began_after = ended(How::ByItself, 35, 40, FULL);
        let ends = Ends::of(&[band(1, Trouble::NoSpace, 10, Some(35))], &[began_after]);
        assert_eq!(ends.unexplained.len(), 1, "it was over when this one began");
    }

    #[test]
    fn trouble_explains_what_names_it() {
        let point = Step::WalSync.after();
        let came = [
            Trouble::NoSpace,
            Trouble::Error,
            Trouble::Failpoint(point),
            Trouble::Failpoint(Step::WalSync.before()),
            Trouble::Damage(Target::Log),
            Trouble::Damage(Target::Staging),
            Trouble::Damage(Target::Engine),
        ];
        let at_point = format!("the log failed: injected input/output error at {point}");
        for (reason, is) in [
            (FULL, Some(Trouble::NoSpace)),
            (
                "the log failed: (other error: injected sync failure)",
                Some(Trouble::Error),
            ),
            (&at_point, Some(Trouble::Failpoint(point))),
            (DAMAGED, Some(Trouble::Damage(Target::Log))),
            ("shard 1: a row does not decode", None),
            ("the log failed: entries do not follow", None),
        ] {
            for trouble in came {
                let fails = fails(reason, &band(1, trouble, 10, None));
                assert_eq!(fails, is != Some(trouble), "{reason} by {trouble:?}");
            }
        }
    }

    #[test]
    fn what_is_excused_is_counted() {
        let damaged = band(1, Trouble::Damage(Target::Log), 10, None);
        let ended = [
            ended(How::ByItself, 20, 21, DAMAGED),
            ended(How::ByItself, 22, 23, DAMAGED),
            ended(How::ByItself, 24, 25, FULL),
            ended(How::Told, 26, 27, "killed"),
        ];
        let ends = Ends::of(&[damaged], &ended);
        let excused = [("a_fault: cannot start, a damaged log".to_owned(), 2)];
        assert_eq!(ends.excused, excused.into());
        assert_eq!(ends.unexplained.len(), 1);
    }
}
