//! If two logs have an entry with the same index and term, they are the same up to there (Raft dissertation, section 3.5).
//!
//! Each entry's predecessor is remembered; entries with the same position must have the same one. By induction all before is then the
//! same too. Each process's log is followed from where it was looked at last; a truncation makes it be looked at again from there.

use std::collections::BTreeMap;

use kvsvr_core::types::{LogPosition, ShardId};

use super::{Invariant, Moment};

/// Entries that are looked at again at every moment, in case they were replaced.
const AGAIN: u64 = 4;

/// The predecessors that were seen.
#[derive(Default)]
pub(super) struct LogMatching {
    before: BTreeMap<(ShardId, LogPosition), LogPosition>,
    looked: BTreeMap<(ShardId, usize, u64), LogPosition>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log_matching"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, log) in &moment.replicas {
            let Some(last) = replica.log.last else { continue };
            let key = (replica.shard, replica.machine, replica.process);
            // If the last one that was seen is still there, so is all before it.
            let from = match self.looked.get(&key) {
                Some(seen) if log.position(seen.index) == Some(*seen) => seen.index,
                Some(seen) => seen.index.min(last.index).saturating_sub(AGAIN),
                None => replica.log.first_index,
            };
            let from = from.max(replica.log.first_index);
            for index in from.max(1)..=last.index {
                let (Some(before), Some(position)) = (log.position(index - 1), log.position(index)) else {
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
            self.looked.insert(key, last);
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
}
