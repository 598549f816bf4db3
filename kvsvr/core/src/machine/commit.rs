//! Turns what a command changes into rows: the newest version, history, expiry, attachments to leases, change log and events.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Machine, Step,
    leases::Attached,
    tx::{Change, Touched, Tx},
};
use crate::{
    engine::Cf,
    error::{ErrorCode, Rejection},
    event::{Event, EventKind},
    keys,
    limits::{LOG_ROW_BYTES, MAX_DELETED_KEY_BYTES, MAX_LEASE_KEYS},
    rows::{DataRow, HistRow, MARK},
};

impl Machine {
    /// Writes the command's changes, as one revision if there are any, and returns how many keys changed. Deletions become events of
    /// the kind `deleted_as`.
    ///
    /// Refused, without any effect, if a lease would get too many keys.
    pub(super) fn commit(
        &mut self,
        step: &mut Step<'_>,
        tx: Tx,
        deleted_as: EventKind,
    ) -> Result<u64, Rejection> {
        self.check_lease_keys(&tx)?;
        if !tx.touched.iter().any(Touched::is_changed) {
            return Ok(0);
        }
        self.head.revision = tx.revision;
        step.log.begin(self.head.event_bytes);
        let mut changed = 0;
        for touched in tx.touched.into_iter().filter(Touched::is_changed) {
            self.commit_key(step, touched, deleted_as);
            changed += 1;
        }
        if step.log.len() >= LOG_ROW_BYTES {
            self.close_log_row(step);
        }
        Ok(changed)
    }

    /// Writes the change log row of what was committed since the last one.
    pub(super) fn close_log_row(&self, step: &mut Step<'_>) {
        if let Some((first, row)) = step.log.finish(self.head.stamp) {
            step.overlay.put(Cf::Log, keys::log_key(self.shard, first), row);
        }
    }

    fn commit_key(&mut self, step: &mut Step<'_>, touched: Touched, deleted_as: EventKind) {
        let revision = self.head.revision;
        let Touched {
            data_key,
            partition,
            key,
            old,
            new,
        } = touched;
        let kind = if matches!(new, Change::Put(..)) {
            EventKind::Put
        } else {
            deleted_as
        };
        let previous = old.as_ref().map_or(0, |(_, row)| row.mod_rev);
        step.log.push(revision, kind, &partition, &key, previous);
        let (stored, row) = match new {
            Change::Put(stored, row) => (Some(stored), Some(row)),
            Change::Delete | Change::None => (None, None),
        };
        self.move_ends(step, &data_key, old.as_ref().map(|(_, row)| row), row.as_ref());
        if let Some((old, _)) = old {
            let superseded = HistRow::encode_stored(revision, &old);
            step.overlay
                .push_history(keys::hist_key(&data_key, previous), superseded);
        }
        match stored {
            Some(stored) => step.overlay.put(Cf::Data, data_key, stored),
            None => step.overlay.delete(Cf::Data, data_key),
        }
        let event = match row {
            Some(row) => Event::put(partition, key, row),
            None => Event::deletion(revision, kind, partition, key),
        };
        self.head.event_bytes += event.size();
        step.events.push(event);
    }

    /// Keeps the ttl rows and the attachments to leases.
    fn move_ends(
        &mut self,
        step: &mut Step<'_>,
        data_key: &Bytes,
        old: Option<&DataRow>,
        new: Option<&DataRow>,
    ) {
        let ends = |row: Option<&DataRow>| row.map_or((0, 0), |row| (row.expires_at, row.lease));
        let ((old_expiry, old_lease), (new_expiry, new_lease)) = (ends(old), ends(new));
        if old_expiry != new_expiry {
            if old_expiry != 0 {
                step.overlay.delete(Cf::Ttl, keys::ttl_key(data_key, old_expiry));
            }
            if new_expiry != 0 {
                step.overlay
                    .put(Cf::Ttl, keys::ttl_key(data_key, new_expiry), MARK);
            }
        }
        if old_lease != new_lease {
            if old_lease != 0 {
                self.leases.detach(old_lease, data_key);
                step.overlay
                    .delete(Cf::State, keys::attached_key(data_key, old_lease));
            }
            if new_lease != 0 {
                self.leases.attach(new_lease, data_key);
                step.overlay
                    .put(Cf::State, keys::attached_key(data_key, new_lease), MARK);
            }
        }
    }

    fn check_lease_keys(&self, tx: &Tx) -> Result<(), Rejection> {
        let mut more = BTreeMap::<u64, Attached>::new();
        for touched in &tx.touched {
            let Change::Put(_, row) = &touched.new else {
                continue;
            };
            let before = touched.old.as_ref().map_or(0, |(_, row)| row.lease);
            if row.lease != 0 && row.lease != before {
                let more = more.entry(row.lease).or_default();
                more.keys += 1;
                more.bytes += touched.data_key.len();
            }
        }
        for (lease, more) in more {
            let has = self.leases.attached(lease);
            let too_much = if has.keys + more.keys > MAX_LEASE_KEYS {
                format!("{MAX_LEASE_KEYS} keys")
            } else if has.bytes + more.bytes > MAX_DELETED_KEY_BYTES {
                format!("{MAX_DELETED_KEY_BYTES} bytes of keys")
            } else {
                continue;
            };
            let message = format!("lease {lease} would have more than {too_much}, use more leases");
            return Err(Rejection::new(ErrorCode::Refused, message));
        }
        Ok(())
    }
}
