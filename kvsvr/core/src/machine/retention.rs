//! How far the history may be compacted. The leader asks, and proposes `Compact`; applying it only sees to consumers that have come or gone
//! back meanwhile.

use super::Machine;
use crate::{
    command::{Op, OutcomeResult},
    engine::{Cf, EngineRead},
    error::{Corrupt, Rejection},
    keys::place,
    read::row_of,
    rows::LogRow,
    types::Revision,
};

/// What to propose, see [`Op::Compact`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionTarget {
    /// The new floor.
    pub revision: Revision,
    /// Consumers whose cursor is below this are passed; 0 = none.
    pub pass_below: Revision,
}

impl From<CompactionTarget> for Op {
    fn from(target: CompactionTarget) -> Self {
        let CompactionTarget { revision, pass_below } = target;
        Op::Compact { revision, pass_below }
    }
}

impl Machine {
    /// The floor to propose: `keep_revisions` behind the newest revision, but not past the cursor of a consumer, unless that
    /// consumer is more than `max_lag_bytes` of events behind: then it is cut off. Never below the present floor.
    ///
    /// Which consumers it passes is said by a bound for their cursors: those behind it lag even more.
    pub fn compaction_target(
        &self,
        engine: &dyn EngineRead,
        keep_revisions: u64,
        max_lag_bytes: u64,
    ) -> Result<CompactionTarget, Corrupt> {
        let floor = self.floor();
        let mut revision = self.revision().saturating_sub(keep_revisions).max(floor);
        let mut pass_below = 0;
        let mut cursors: Vec<Revision> = self.consumers.iter().map(|(_, row)| row.cursor).collect();
        if crate::mutant!("compaction-ignores-consumers") {
            cursors.clear();
        }
        cursors.sort_unstable();
        // A consumer below the floor is cut off already.
        for cursor in cursors.into_iter().filter(|cursor| *cursor >= floor) {
            if cursor >= revision {
                break;
            }
            if self.lag_bytes(engine, cursor)? <= max_lag_bytes {
                revision = cursor;
                break;
            }
            pass_below = cursor + 1;
        }
        Ok(CompactionTarget { revision, pass_below })
    }

    /// Raises the floor, but not past a consumer that has its events still and whose cursor is not below `pass_below`.
    pub(super) fn compact(
        &mut self,
        revision: Revision,
        pass_below: Revision,
    ) -> Result<OutcomeResult, Rejection> {
        if revision > self.head.revision {
            return Err(Rejection::future(revision, self.head.revision));
        }
        let spared = self.head.floor.max(pass_below);
        let cursors = self.consumers.iter().map(|(_, row)| row.cursor);
        let is_ignored = crate::mutant!("compaction-ignores-consumers");
        let slowest = cursors.filter(|cursor| *cursor >= spared && !is_ignored).min();
        let revision = slowest.map_or(revision, |cursor| revision.min(cursor));
        self.head.floor = self.head.floor.max(revision);
        Ok(OutcomeResult::Compact {
            floor: self.head.floor,
        })
    }

    /// Bytes of events after a cursor; counts all of the change log row that the next event is in. Of a cursor below the floor: the bytes
    /// that are left.
    pub fn lag_bytes(&self, engine: &dyn EngineRead, cursor: Revision) -> Result<u64, Corrupt> {
        let after = cursor.max(self.floor()) + 1;
        if after > self.revision() {
            return Ok(0);
        }
        let (key, stored) = row_of(engine, self.shard, after)?;
        let row = LogRow::read_head(&stored);
        let (_, _, event_bytes) =
            row.ok_or_else(|| Corrupt::new(place(Cf::Log, &key), "the value does not decode"))?;
        Ok(self.event_bytes().saturating_sub(event_bytes))
    }
}
