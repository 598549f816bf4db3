//! What was seen of the log of one replica, so that what was replaced since is looked at again.

use kvsvr_core::types::LogPosition;

use super::Log;

/// The entries that were seen, from one index up to another: the first one of each leader's in a row says what the others are.
#[derive(Default)]
pub(super) struct Followed {
    runs: Vec<LogPosition>,
    /// The index after the last one.
    end: u64,
}

impl Followed {
    /// Where to go on looking at a log that has the entries from `first` to before `end`: at the first one that is new or was replaced. What was
    /// seen from there on is forgotten. In one process entries are replaced from some index on, so those before two that are as they were are
    /// as they were.
    pub(super) fn go_on(&mut self, log: &dyn Log, first: u64, end: u64) -> u64 {
        let mut from = self.end.min(end).max(first);
        let differs = |index: u64| log.position(index) != self.seen(index);
        while from > first && (differs(from - 1) || from - 1 > first && differs(from - 2)) {
            from -= 1;
        }
        self.end = self.end.min(from);
        let kept = self.runs.partition_point(|run| run.index < self.end);
        self.runs.truncate(kept);
        from
    }

    /// An entry was seen: the next one, or any after a gap.
    pub(super) fn see(&mut self, position: LogPosition) {
        if position.index != self.end {
            self.runs.clear();
        }
        let is_same = |run: &LogPosition| (run.term, run.node) == (position.term, position.node);
        if !self.runs.last().is_some_and(is_same) {
            self.runs.push(position);
        }
        self.end = position.index + 1;
    }

    /// What was seen at an index.
    fn seen(&self, index: u64) -> Option<LogPosition> {
        let runs = self.runs.partition_point(|run| run.index <= index);
        let run = self.runs[..runs].last().filter(|_| index < self.end)?;
        Some(LogPosition { index, ..*run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{replica, with_log};

    /// Looks at a log of these terms from `first` on. Where it began.
    fn look(followed: &mut Followed, terms: &[u64], first: u64) -> u64 {
        let (_, log) = with_log(replica(0, 1), terms);
        let end = terms.len() as u64;
        let from = followed.go_on(&log, first, end);
        for index in from..end {
            followed.see(log.position(index).unwrap());
        }
        from
    }

    #[test]
    fn what_is_new_and_what_was_replaced_is_looked_at() {
        let mut followed = Followed::default();
        assert_eq!(look(&mut followed, &[1, 1, 1, 1], 0), 0);
        assert_eq!(look(&mut followed, &[1, 1, 1, 1], 0), 4, "nothing new");
        assert_eq!(look(&mut followed, &[1, 1, 1, 1, 2, 2], 0), 4);
        // Cut and filled again, as long as before, longer, and shorter.
        assert_eq!(look(&mut followed, &[1, 1, 3, 3, 3, 3], 0), 2);
        assert_eq!(look(&mut followed, &[1, 4, 4, 4, 4, 4, 4], 0), 1);
        assert_eq!(look(&mut followed, &[1, 4, 5], 0), 2);
        assert_eq!(look(&mut followed, &[1, 4, 5, 5], 0), 3);
        assert_eq!(look(&mut followed, &[6, 6], 0), 0);
    }

    #[test]
    fn an_entry_with_another_one_before_it_is_looked_at() {
        let mut followed = Followed::default();
        look(&mut followed, &[1, 1, 1, 1, 2], 0);
        assert_eq!(look(&mut followed, &[1, 1, 3, 3, 2], 0), 2);
    }

    #[test]
    fn what_was_cut_is_new_when_it_comes_again() {
        let mut followed = Followed::default();
        look(&mut followed, &[1, 1, 1, 1], 0);
        assert_eq!(look(&mut followed, &[1, 1], 0), 2);
        assert_eq!(look(&mut followed, &[1, 1, 1, 1], 0), 2);
    }

    #[test]
    fn a_log_that_begins_later_is_looked_at_from_there() {
        let mut followed = Followed::default();
        look(&mut followed, &[1, 1, 1], 0);
        assert_eq!(look(&mut followed, &[1, 1, 1, 1, 2], 2), 3);
        // A snapshot took the place of what was between.
        assert_eq!(look(&mut followed, &[1, 1, 1, 1, 2, 2, 2, 2, 3], 7), 7);
        assert_eq!(followed.seen(6), None);
        assert_eq!(look(&mut followed, &[1, 1, 1, 1, 2, 2, 2, 2, 4], 7), 8);
    }
}
