//! How far the history may be compacted. The leader asks, and proposes `Compact`; the state machine only obeys.

use super::Machine;
use crate::{
    engine::Cf, engine::EngineRead, error::Corrupt, keys::place, read::row_of, rows::LogRow, types::Revision,
};

impl Machine {
    /// The floor to propose: `keep_revisions` behind the newest revision, but not past the cursor of a consumer, unless that
    /// consumer is more than `max_lag_bytes` of events behind: then it is cut off. Never below the present floor.
    pub fn compaction_target(
        &self,
        engine: &dyn EngineRead,
        keep_revisions: u64,
        max_lag_bytes: u64,
    ) -> Result<Revision, Corrupt> {
        let mut target = self.revision().saturating_sub(keep_revisions);
        let mut cursors: Vec<Revision> = self.consumers.iter().map(|(_, row)| row.cursor).collect();
        cursors.sort_unstable();
        for cursor in cursors {
            if cursor >= target {
                break;
            }
            if cursor >= self.floor() && self.lag_bytes(engine, cursor)? <= max_lag_bytes {
                target = cursor;
            }
        }
        Ok(target.max(self.floor()))
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
