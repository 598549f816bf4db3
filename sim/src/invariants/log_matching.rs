//! If two logs have an entry with the same index and term, they are the same up to there (Raft dissertation, section 3.5).
//!
//! Each entry's predecessor is remembered; entries with the same position must have the same one. By induction all before is then the
//! same too. Each process's log is followed from where it was looked at last; what was replaced since is looked at again, however far back that
//! is.

use std::collections::BTreeMap;

use kvsvr::wal::ShardLog;
use kvsvr_core::types::{LogPosition, ShardId};

use super::{Invariant, Moment, followed::Followed};

/// The predecessors that were seen.
#[derive(Default)]
pub(super) struct LogMatching {
    before: BTreeMap<(ShardId, LogPosition), LogPosition>,
    /// By shard, machine, process, and which of its replicas.
    looked: BTreeMap<(ShardId, usize, u64, u64), Followed>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log_matching"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        // An entry that has another one before it.
        let has_two = |log: &ShardLog| log.last.is_some_and(|last| last.index > log.first_index);
        moment.replicas.iter().any(|(replica, _)| has_two(&replica.log))
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, log) in &moment.replicas {
            let Some(last) = replica.log.last else { continue };
            let key = (
                replica.shard,
                replica.machine,
                replica.process,
                replica.incarnation,
            );
            let followed = self.looked.entry(key).or_default();
            let from = followed.go_on(*log, replica.log.first_index, last.index + 1);
            for index in from..=last.index {
                let Some(position) = log.position(index) else {
                    continue;
                };
                followed.see(position);
                let Some(before) = index.checked_sub(1).and_then(|before| log.position(before)) else {
                    continue;
                };
                let first = *self.before.entry((replica.shard, position)).or_insert(before);
                if first != before {
                    return Err(format!(
                        "shard {}: {position:?} follows {first:?} in one log and {before:?} on node {}",
                        replica.shard,
                        replica.machine + 1
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica, with_log};

    #[test]
    fn the_same_entry_has_the_same_predecessor() {
        let log = |machine, terms: &[u64]| with_log(replica(machine, 4), terms);
        let mut world = World::new(LogMatching::default());
        world.holds_with(&[log(0, &[1, 1, 2]), log(1, &[1, 1, 1])]);
        // Replaced and shorter.
        world.holds_with(&[log(1, &[1, 1])]);
        world.holds_with(&[log(1, &[1, 1, 2, 3])]);
        world.breaks_with(&[log(2, &[1, 2, 2])], "follows");
    }

    #[test]
    fn all_that_was_replaced_between_two_looks_is_looked_at() {
        let log = |machine, terms: &[(u64, usize)]| {
            let terms = terms.iter().flat_map(|(term, count)| vec![*term; *count]);
            with_log(replica(machine, 4), &terms.collect::<Vec<_>>())
        };
        // Entries 1 to 100, cut to 50 and filled to 100 again.
        let replaced = |world: &mut World<LogMatching>| {
            world.holds_with(&[log(0, &[(1, 101)])]);
            world.holds_with(&[log(0, &[(1, 51), (2, 50)])]);
        };
        let mut world = World::new(LogMatching::default());
        replaced(&mut world);
        world.holds_with(&[log(1, &[(1, 51), (2, 30)])]);
        world.breaks_with(
            &[log(2, &[(1, 70), (2, 31)])],
            "index: 70, term: 2, node: 2 } follows LogPosition { index: 69, term: 2",
        );
    }

    #[test]
    fn it_sees_entries_that_follow_one() {
        let world = World::new(LogMatching::default());
        assert!(world.sees_with(&[with_log(replica(0, 1), &[1, 1])]));
        assert!(!world.sees_with(&[with_log(replica(0, 1), &[1])]));
        assert!(!world.sees(&[replica(0, 1)]));
    }
}
