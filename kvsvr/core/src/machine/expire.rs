//! Expiry: removes what is due, when the leader proposes it and the entry's stamp agrees.
//!
//! The bound is min(up_to, the shard's time), so a leader whose clock is ahead of its own stamps, or an old one that was stalled,
//! removes nothing before its time. All that one command removes shares one revision. It is bounded in keys and in bytes, but one key or
//! one lease may always go.

use std::ops::ControlFlow;

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
    limits::{MAX_DELETED_KEY_BYTES, MAX_EXPIRE, MAX_OLD_ROW_BYTES},
    types::StampMs,
};

impl Machine {
    pub(super) fn expire(
        &mut self,
        step: &mut Step<'_>,
        up_to_ms: StampMs,
    ) -> Result<OutcomeResult, Failure> {
        let bound = up_to_ms.min(self.head.stamp);
        let (due, mut more) = self.due(step, bound)?;
        let mut tx = Tx::indexed(self.head.revision + 1);
        let mut leases = Vec::new();
        for due in due {
            // A lease is bounded too, but two large ones would be twice as much.
            let lease_bytes = match due {
                Due::Lease(id) if !tx.touched.is_empty() => self.leases.attached(id).row_bytes,
                _ => 0,
            };
            if tx.touched.len() >= MAX_EXPIRE
                || tx.key_bytes >= MAX_DELETED_KEY_BYTES
                || tx.old_bytes + lease_bytes >= MAX_OLD_ROW_BYTES
            {
                more = true;
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
        let room = MAX_EXPIRE.saturating_sub(keys as usize + ended);
        more |= self.sessions.close_idle(step, bound, room);
        Ok(OutcomeResult::Expire {
            keys,
            leases: ended as u64,
            more,
        })
    }

    /// What is due at the bound, at most [`MAX_EXPIRE`] of it, and whether there is more.
    fn due(&self, step: &Step<'_>, bound: StampMs) -> Result<(Vec<Due>, bool), Corrupt> {
        let (start, _) = keys::shard_range(self.shard);
        let end = keys::ttl_end(self.shard, bound);
        let mut due = Vec::new();
        let mut more = false;
        let mut bad = None;
        let scan = Scan {
            start: &start,
            end: &end,
            reverse: false,
        };
        step.overlay.scan(Cf::Ttl, scan, &mut |key, _| {
            more = due.len() >= MAX_EXPIRE;
            match keys::split_ttl_key(key) {
                Some((_, next)) if !more => {
                    due.push(next);
                    return ControlFlow::Continue(());
                }
                Some(_) => {}
                None => bad = Some(Corrupt::new(place(Cf::Ttl, key), "not a ttl key")),
            }
            ControlFlow::Break(())
        })?;
        bad.map_or(Ok((due, more)), Err)
    }

    /// When the leader should propose `Expire`: the earliest moment at which something is due. `None` = nothing ever is.
    pub fn next_expiry(&self, engine: &dyn EngineRead) -> Result<Option<StampMs>, Corrupt> {
        let (start, end) = keys::shard_range(self.shard);
        let mut first = None;
        let mut bad = None;
        engine.scan(
            Cf::Ttl,
            Scan {
                start: &start,
                end: &end,
                reverse: false,
            },
            &mut |key, _| {
                match keys::split_ttl_key(key) {
                    Some((expires_at, _)) => first = Some(expires_at),
                    None => bad = Some(Corrupt::new(place(Cf::Ttl, key), "not a ttl key")),
                }
                ControlFlow::Break(())
            },
        )?;
        if let Some(bad) = bad {
            return Err(bad);
        }
        Ok(first.into_iter().chain(self.sessions.next_idle()).min())
    }
}
