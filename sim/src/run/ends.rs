//! Ends of processes that nothing explains.
//!
//! The supervisor starts again what ended by itself, as in production, so that such an end would be seen by nobody. A disk that fails, is
//! full, empty or damaged may end a process, or spoil its orderly stop; nothing else may. That it was to be so is no excuse: it must have come
//! to that machine (an error that was returned, something that was damaged), and not long ago.

use std::time::Duration;

use crate::{
    faults::Band,
    node::{Ended, How},
    outcome::Failure,
};

/// What was wrong so shortly before a process ended may be why it ended: a disk that stalls tells late.
const BEFORE: Duration = Duration::from_secs(10);

/// A failure for each process that ended by itself, or could not stop in order, though nothing was wrong with its disk at the time. Those of
/// one node that ended for the same reason are one failure, of the first: the supervisor starts them again and again.
pub(super) fn unexplained(bands: &[Band], ended: &[(usize, Ended)]) -> Vec<Failure> {
    let mut failures: Vec<(usize, &Ended, u64)> = Vec::new();
    for (machine, ended) in ended.iter().filter(|(_, ended)| ended.how != How::Told) {
        let explains = |band: &Band| {
            let lately = band.until.is_none_or(|until| until + BEFORE >= ended.at);
            band.hit.contains(machine) && band.from <= ended.at && lately
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

#[cfg(test)]
mod tests {
    use super::*;
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

    /// Whether an end at 40 s fails, if something came to a machine from `from` on.
    fn fails(machine: usize, from: u64, until: Option<u64>) -> bool {
        let band = Band {
            fault: 0,
            kind: "",
            nodes: [0, 1, 2].into(),
            hit: [machine].into(),
            from: Duration::from_secs(from),
            until: until.map(Duration::from_secs),
        };
        !unexplained(&[band], &[ended(How::ByItself, 20, 40)]).is_empty()
    }

    #[test]
    fn what_nothing_explains_fails() {
        let told = |how| unexplained(&[], &[ended(how, 20, 40)]);
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
        let mut other = ended(How::ByItself, 60, 70);
        other.1.reason = "for another".into();
        let ended = [
            (How::ByItself, 20, 40),
            (How::ByItself, 41, 50),
            (How::ByItself, 51, 60),
        ]
        .map(|(how, began, at)| ended(how, began, at));
        let told = unexplained(&[], &[&ended[..], &[other]].concat());
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
        assert!(!fails(1, 10, None) && !fails(1, 10, Some(40)) && !fails(1, 10, Some(30)));
        assert!(fails(1, 10, Some(29)), "it was well long ago");
        assert!(fails(1, 41, None), "it came later");
        assert!(fails(0, 10, None), "to another machine");
    }
}
