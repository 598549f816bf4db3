//! Expiry: removes what is due, when the leader proposes it and the entry's stamp agrees.
//!
//! The bound is min(up_to, the shard's time), so a leader whose clock is ahead of its own stamps, or an old one that was stalled,
//! removes nothing before its time. All that one command removes shares one revision. It is bounded in keys and in bytes, but one key or
//! one lease may always go.
//!
//! What was removed leaves tombstones in the engine, which a scan from the shard's first ttl key would step over each time, so that many
//! keys that end at once would cost a time quadratic in their number. The machine remembers in memory where the first ttl key is at the
//! earliest (`ttl_from`), and scans from there. It is only a hint where to begin, outcomes do not depend on it: no ttl key is ever below
//! it, because
//! - it is the beginning of the shard after [`Machine::load`], which is also how a snapshot is taken over;
//! - `Expire` raises it, to the first due key that it leaves, or past its bound if it leaves none: it has seen and removed all below;
//! - every ttl key is added by `put_ttl`, which lowers it if need be. That hardly happens: what is added ends at the shard's time + a TTL
//!   of at least 1 ms (a key with TTL 0 has no ttl key, leases are granted and kept alive for 500 ms or more), the shard's time does not
//!   go back, and the bound of an `Expire` is not past it. Only at the end of time, where the sum saturates, it is not greater.
//!
//! An operation that keeps a key's end (an increment) adds no ttl key.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    Machine, Step,
    tx::{Change, Tx},
};
use crate::{
    command::OutcomeResult,
    engine::{Cf, EngineRead, Scan},
    error::{Corrupt, Failure},
    event::EventKind,
    keys::{self, Due, place},
    limits::{MAX_DELETED_KEY_BYTES, MAX_OLD_ROW_BYTES},
    rows::MARK,
    types::StampMs,
};

/// A ttl key and what it stands for.
type DueRow = (Bytes, Due);

/// What a scan calls for each ttl key, with its time and what it stands for.
type VisitTtl<'a> = &'a mut dyn FnMut(&[u8], StampMs, Due) -> ControlFlow<()>;

impl Machine {
    pub(super) fn expire(
        &mut self,
        step: &mut Step<'_>,
        up_to_ms: StampMs,
    ) -> Result<OutcomeResult, Failure> {
        let bound = up_to_ms.min(self.head.stamp);
        let (due, mut next) = self.due(step, bound)?;
        let mut tx = Tx::indexed(self.head.revision + 1);
        let mut leases = Vec::new();
        for (ttl_key, due) in due {
            // A lease is bounded too, but two large ones would be twice as much.
            let lease_bytes = match due {
                Due::Lease(id) if !tx.touched.is_empty() => self.leases.attached(id).row_bytes,
                _ => 0,
            };
            if tx.touched.len() >= step.max_expire
                || tx.key_bytes >= MAX_DELETED_KEY_BYTES
                || tx.old_bytes + lease_bytes >= MAX_OLD_ROW_BYTES
            {
                next = Some(ttl_key);
                break;
            }
            match due {
                Due::Key(data_key) => {
                    keys::split_data_key(&data_key)?;
                    let at = tx.touch_data_key(&step.overlay, data_key)?;
                    let touched = &mut tx.touched[at];
                    if touched.old.as_ref().is_none_or(|(_, row)| row.expires_at == 0) {
                        let what = "a ttl row stands for it, but it does not expire";
                        return Err(Corrupt::new(place(Cf::Data, &touched.data_key), what).into());
                    }
                    touched.new = Change::Delete;
                }
                Due::Lease(id) => {
                    self.delete_lease_keys(step, &mut tx, id)?;
                    leases.push(id);
                }
            }
        }
        let ended = leases.len();
        step.spend(tx.bytes());
        let keys = self.commit(step, tx, EventKind::Expire)?;
        for id in leases {
            self.drop_lease(step, id);
        }
        let room = step.max_expire.saturating_sub(keys as usize + ended);
        let more = self.sessions.close_idle(step, bound, room) || next.is_some();
        let from = next.unwrap_or_else(|| keys::ttl_end(self.shard, bound));
        self.ttl_from = from.max(std::mem::take(&mut self.ttl_from));
        Ok(OutcomeResult::Expire {
            keys,
            leases: ended as u64,
            more,
        })
    }

    /// Adds a key to what expires.
    pub(super) fn put_ttl(&mut self, step: &mut Step<'_>, ttl_key: Bytes) {
        if ttl_key < self.ttl_from {
            self.ttl_from = ttl_key.clone();
        }
        step.overlay.put(Cf::Ttl, ttl_key, MARK);
    }

    /// What is due at the bound, with its ttl keys, as much as one `Expire` may remove; and the ttl key of the next, if there is more.
    fn due(&self, step: &Step<'_>, bound: StampMs) -> Result<(Vec<DueRow>, Option<Bytes>), Corrupt> {
        let end = keys::ttl_end(self.shard, bound);
        let mut due = Vec::new();
        let mut next = None;
        self.scan_ttl(&step.overlay, &end, &mut |key, _, what| {
            let key = Bytes::copy_from_slice(key);
            if due.len() >= step.max_expire {
                next = Some(key);
                return ControlFlow::Break(());
            }
            due.push((key, what));
            ControlFlow::Continue(())
        })?;
        Ok((due, next))
    }

    /// Visits what expires before `end`, in the order of time.
    fn scan_ttl(&self, engine: &dyn EngineRead, end: &[u8], visit: VisitTtl<'_>) -> Result<(), Corrupt> {
        let start = &self.ttl_from[..];
        // An empty end is that of the column family.
        if !end.is_empty() && start >= end {
            return Ok(());
        }
        let mut bad = None;
        let scan = Scan {
            start,
            end,
            reverse: false,
        };
        engine.scan(Cf::Ttl, scan, &mut |key, _| match keys::split_ttl_key(key) {
            Some((expires_at, due)) => visit(key, expires_at, due),
            None => {
                bad = Some(Corrupt::new(place(Cf::Ttl, key), "not a ttl key"));
                ControlFlow::Break(())
            }
        })?;
        bad.map_or(Ok(()), Err)
    }

    /// When the leader should propose `Expire`: the earliest moment at which something is due. `None` = nothing ever is.
    pub fn next_expiry(&self, engine: &dyn EngineRead) -> Result<Option<StampMs>, Corrupt> {
        let (_, end) = keys::shard_range(self.shard);
        let mut first = None;
        self.scan_ttl(engine, &end, &mut |_, expires_at, _| {
            first = Some(expires_at);
            ControlFlow::Break(())
        })?;
        Ok(first.into_iter().chain(self.sessions.next_idle()).min())
    }
}
