//! Leases and the keys attached to them.
//!
//! A lease ends when it is revoked or expires; its keys are then deleted in one revision, as events of the kind `Expire`. What that takes
//! is bounded when a key is attached or its value grows, so that the end of a lease is never refused.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;

use super::{Machine, Step, tx::Change, tx::Tx};
use crate::{
    command::OutcomeResult,
    engine::{Cf, EngineRead, Scan},
    error::{Corrupt, ErrorCode, Failure, Rejection},
    event::EventKind,
    keys::{self, Key, place},
    limits::{LEASE_LOAD_ROWS, MAX_LEASES},
    rows::LeaseRow,
    types::ShardId,
};

#[derive(Debug)]
struct Lease {
    row: LeaseRow,
    attached: Attached,
}

/// The keys of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) keys: usize,
    /// Bytes of their data keys.
    pub(super) key_bytes: usize,
    /// Bytes of their rows, as stored.
    pub(super) row_bytes: usize,
}

/// The keys stay, without the lease.
#[cfg(feature = "mutants")]
fn leave_keys(step: &mut Step<'_>, tx: &mut Tx, id: u64) {
    if crate::mutant!("revoke-leaves-keys") {
        for touched in &mut tx.touched {
            touched.new = Change::None;
            step.overlay
                .delete(Cf::State, keys::attached_key(&touched.data_key, id));
        }
    }
}

/// The leases of a shard.
#[derive(Debug)]
pub(super) struct Leases(BTreeMap<u64, Lease>);

impl Leases {
    pub(super) fn load(shard: ShardId, engine: &dyn EngineRead) -> Result<Self, Corrupt> {
        let mut leases = Self(BTreeMap::new());
        let mut start = keys::lease_key(shard, 0);
        // Attachments sort after all leases.
        let end = keys::session_key(shard, 0);
        loop {
            // An engine may hold a lock during a scan, so other rows are read between two.
            let mut rows = Vec::<(Bytes, Bytes)>::new();
            let scan = Scan {
                start: &start,
                end: &end,
                reverse: false,
            };
            engine.scan(Cf::State, scan, &mut |key, value| {
                rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                if rows.len() < LEASE_LOAD_ROWS {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            for (key, value) in &rows {
                leases.load_row(engine, key, value)?;
            }
            match rows.last() {
                Some((last, _)) if rows.len() == LEASE_LOAD_ROWS => start = [last, &[0][..]].concat().into(),
                _ => return Ok(leases),
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn find(&self, id: u64) -> Result<LeaseRow, Rejection> {
        self.0.get(&id).map(|lease| lease.row).ok_or_else(|| {
            Rejection::new(
                ErrorCode::NotFound,
                format!("there is no lease {id}, it has ended or never was"),
            )
        })
    }

    pub(super) fn attached(&self, id: u64) -> Attached {
        self.0
            .get(&id)
            .map_or(Attached::default(), |lease| lease.attached)
    }

    /// Counts a key with its stored row. Does nothing for lease 0, which is none.
    pub(super) fn attach(&mut self, id: u64, data_key: &[u8], row_len: usize) {
        if let Some(lease) = self.0.get_mut(&id) {
            lease.attached.keys += 1;
            lease.attached.key_bytes += data_key.len();
            lease.attached.row_bytes += row_len;
        }
    }

    /// The inverse of [`Leases::attach`].
    pub(super) fn detach(&mut self, id: u64, data_key: &[u8], row_len: usize) {
        if let Some(lease) = self.0.get_mut(&id) {
            lease.attached.keys -= 1;
            lease.attached.key_bytes -= data_key.len();
            lease.attached.row_bytes -= row_len;
        }
    }

    fn load_row(&mut self, engine: &dyn EngineRead, key: &[u8], value: &[u8]) -> Result<(), Corrupt> {
        match Key::decode(Cf::State, key)?.1 {
            Key::Lease(id) => {
                let row = LeaseRow::decode(key, value)?;
                let attached = Attached::default();
                self.0.insert(id, Lease { row, attached });
            }
            Key::LeaseKey { lease, .. } => {
                let bad = |what: &str| Corrupt::new(place(Cf::State, key), what);
                if !self.0.contains_key(&lease) {
                    return Err(bad("attached to a lease that does not exist"));
                }
                let data_key = keys::attached_data_key(key).unwrap_or_default();
                let stored = engine.get(Cf::Data, &data_key)?;
                let stored = stored.ok_or_else(|| bad("attached to a lease, but it does not exist"))?;
                self.attach(lease, &data_key, stored.len());
            }
            _ => return Err(Corrupt::new(place(Cf::State, key), "not a row of a lease")),
        }
        Ok(())
    }
}

impl Machine {
    pub(super) fn lease_grant(
        &mut self,
        step: &mut Step<'_>,
        id: u64,
        ttl_ms: u64,
    ) -> Result<OutcomeResult, Rejection> {
        if self.leases.len() >= MAX_LEASES {
            let message = format!("the shard has {MAX_LEASES} leases, the most it can have; let some end");
            return Err(Rejection::new(ErrorCode::Overloaded, message));
        }
        if id != 0 && self.leases.0.contains_key(&id) {
            return Err(Rejection::new(
                ErrorCode::AlreadyExists,
                format!("lease {id} exists already"),
            ));
        }
        let id = if id == 0 { self.choose_lease_id() } else { id };
        let row = LeaseRow {
            ttl_ms,
            expires_at: self.head.stamp.saturating_add(ttl_ms),
        };
        self.put_lease(step, id, row);
        Ok(OutcomeResult::Lease {
            id,
            ttl_ms,
            deleted: 0,
        })
    }

    /// The next number that no lease has. Ends because there are fewer leases than numbers.
    fn choose_lease_id(&mut self) -> u64 {
        loop {
            self.head.last_lease = self.head.last_lease.checked_add(1).unwrap_or(1);
            if !self.leases.0.contains_key(&self.head.last_lease) {
                return self.head.last_lease;
            }
        }
    }

    pub(super) fn lease_keep_alive(
        &mut self,
        step: &mut Step<'_>,
        id: u64,
    ) -> Result<OutcomeResult, Rejection> {
        let LeaseRow { ttl_ms, .. } = self.leases.find(id)?;
        let expires_at = self.head.stamp.saturating_add(ttl_ms);
        self.put_lease(step, id, LeaseRow { ttl_ms, expires_at });
        Ok(OutcomeResult::Lease {
            id,
            ttl_ms,
            deleted: 0,
        })
    }

    fn put_lease(&mut self, step: &mut Step<'_>, id: u64, row: LeaseRow) {
        let before = self.leases.0.get(&id).map(|lease| lease.row.expires_at);
        if let Some(before) = before {
            step.overlay
                .delete(Cf::Ttl, keys::ttl_lease_key(self.shard, before, id));
        }
        self.put_ttl(step, keys::ttl_lease_key(self.shard, row.expires_at, id));
        if before.is_none() || !crate::mutant!("lease-renewal-not-stored") {
            step.overlay
                .put(Cf::State, keys::lease_key(self.shard, id), row.encode());
        }
        let attached = self.leases.attached(id);
        self.leases.0.insert(id, Lease { row, attached });
    }

    pub(super) fn lease_revoke(&mut self, step: &mut Step<'_>, id: u64) -> Result<OutcomeResult, Failure> {
        let LeaseRow { ttl_ms, .. } = self.leases.find(id)?;
        let mut tx = Tx::indexed(self.head.revision + 1);
        self.delete_lease_keys(step, &mut tx, id)?;
        #[cfg(feature = "mutants")]
        leave_keys(step, &mut tx, id);
        step.spend(tx.bytes());
        let deleted = self.commit(step, tx, EventKind::Expire)?;
        self.drop_lease(step, id);
        Ok(OutcomeResult::Lease { id, ttl_ms, deleted })
    }

    /// Marks the keys of a lease for deletion.
    pub(super) fn delete_lease_keys(&self, step: &Step<'_>, tx: &mut Tx, id: u64) -> Result<(), Corrupt> {
        let start = keys::attached_prefix(self.shard, id);
        let end = keys::prefix_end(&start);
        let mut attached = Vec::<Bytes>::new();
        let scan = Scan {
            start: &start,
            end: &end,
            reverse: false,
        };
        step.overlay.scan(Cf::State, scan, &mut |key, _| {
            attached.extend(keys::attached_data_key(key));
            ControlFlow::Continue(())
        })?;
        for data_key in attached {
            keys::split_data_key(&data_key)?;
            let at = tx.touch_data_key(&step.overlay, data_key)?;
            let touched = &mut tx.touched[at];
            if touched.old.as_ref().is_none_or(|(_, row)| row.lease != id) {
                return Err(Corrupt::new(
                    place(Cf::Data, &touched.data_key),
                    format!("lease {id} has it, but it has not the lease"),
                ));
            }
            touched.new = Change::Delete;
        }
        Ok(())
    }

    /// Removes the lease itself, after its keys.
    pub(super) fn drop_lease(&mut self, step: &mut Step<'_>, id: u64) {
        if let Some(lease) = self.leases.0.remove(&id) {
            let ttl_key = keys::ttl_lease_key(self.shard, lease.row.expires_at, id);
            step.overlay.delete(Cf::Ttl, ttl_key);
            step.overlay.delete(Cf::State, keys::lease_key(self.shard, id));
        }
    }
}
