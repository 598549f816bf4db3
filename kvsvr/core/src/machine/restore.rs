//! A shard that is filled from a backup.
//!
//! It must never have been used, and takes the parts in order, each once. Until the last one it is no state of the shard: it takes no other command,
//! and hosts must not let it be read ([`Machine::is_restoring`]). With the last part it continues where the backup was made. Stamps are
//! absolute times: what would have expired since does so then.

use bytes::Bytes;

use super::{Consumers, Leases, Machine, Step};
use crate::{
    command::{Op, OutcomeResult},
    engine::{Cf, EngineRead},
    error::{Corrupt, ErrorCode, Failure, Rejection},
    keys,
    limits::RESTORED_IDS_APART,
    restore::rows,
    rows::{Head, RestoreRow},
    types::ShardId,
};

/// How far a shard is restored; `None`: it is not from a backup.
pub(super) fn load(shard: ShardId, engine: &dyn EngineRead) -> Result<Option<RestoreRow>, Corrupt> {
    let key = keys::restore_key(shard);
    let stored = engine.get(Cf::State, &key)?;
    stored.map(|stored| RestoreRow::decode(&key, &stored)).transpose()
}

impl Machine {
    /// Parts of a backup are still to come: its content is no state of the shard.
    pub fn is_restoring(&self) -> bool {
        self.restore.is_some_and(|row| !row.done)
    }

    /// Refuses what a shard that is being restored does not take.
    pub(super) fn check_restored(&self, op: &Op) -> Result<(), Rejection> {
        if self.is_restoring() && !matches!(op, Op::Restore { .. }) {
            let message =
                "the shard is being restored from a backup, and takes nothing before that has ended";
            return Err(Rejection::new(ErrorCode::NotReady, message));
        }
        Ok(())
    }

    fn is_unused(&self) -> bool {
        let Head { revision, floor, .. } = self.head;
        revision == 0 && floor == 0 && self.leases.len() == 0 && self.consumers.iter().next().is_none()
    }

    pub(super) fn restore(
        &mut self,
        step: &mut Step<'_>,
        (backup, number): (u64, u64),
        part: Bytes,
        head: Option<&Bytes>,
    ) -> Result<OutcomeResult, Failure> {
        let so_far = self.restore.unwrap_or(RestoreRow {
            backup,
            next: 0,
            done: false,
        });
        if backup != so_far.backup {
            let message = "the shard is being restored from another backup, or was: go on with that one, or begin with new nodes";
            return Err(Rejection::new(ErrorCode::Refused, message).into());
        }
        if number < so_far.next {
            return Ok(OutcomeResult::Restore { next: so_far.next });
        }
        if so_far.done || self.restore.is_none() && !self.is_unused() {
            let message = "the shard holds data already: a backup is restored into a new cluster only";
            return Err(Rejection::new(ErrorCode::Refused, message).into());
        }
        if number > so_far.next {
            let message = format!("part {} of the backup comes next, not {number}", so_far.next);
            return Err(Rejection::invalid(message).into());
        }
        let malformed = || Rejection::invalid(format!("part {number} of the backup is malformed"));
        let head_key = keys::head_key(self.shard);
        let head = head.map(|head| Head::decode(&head_key, head)).transpose();
        let head = head.map_err(|_| malformed())?;
        for (cf, key, value) in rows(self.shard, part).ok_or_else(malformed)? {
            if cf == Cf::Data {
                step.overlay.set_data(key, Some(value), None);
            } else {
                step.overlay.put(cf, key, value);
            }
        }
        let row = RestoreRow {
            backup,
            next: number + 1,
            done: head.is_some(),
        };
        let key = keys::restore_key(self.shard);
        step.overlay.put(Cf::State, key, row.encode());
        if let Some(head) = head {
            self.take_over(step, head)?;
        }
        self.restore = Some(row);
        Ok(OutcomeResult::Restore { next: row.next })
    }

    /// Continues where the backup was made.
    fn take_over(&mut self, step: &mut Step<'_>, head: Head) -> Result<(), Corrupt> {
        self.leases = Leases::load(self.shard, &step.overlay)?;
        self.consumers = Consumers::load(self.shard, &step.overlay)?;
        self.ttl_from = keys::shard_range(self.shard).0;
        let own = &mut self.head;
        own.revision = head.revision;
        own.floor = head.floor;
        own.event_bytes = head.event_bytes;
        own.stamp = own.stamp.max(head.stamp);
        // Whoever holds an id that was given out after the backup must not meet another's.
        own.last_lease = own
            .last_lease
            .max(head.last_lease.saturating_add(RESTORED_IDS_APART));
        own.last_session = own
            .last_session
            .max(head.last_session.saturating_add(RESTORED_IDS_APART));
        step.restored = true;
        Ok(())
    }
}
