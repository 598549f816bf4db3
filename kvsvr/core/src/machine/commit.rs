//! Turns what a command changes into rows: the newest version, history, expiry, attachments to leases, change log and events.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Machine, Step,
    tx::{Change, Touched, Tx},
};
use crate::{
    engine::Cf,
    error::{ErrorCode, Rejection},
    event::{Event, EventKind},
    keys,
    limits::{LOG_ROW_BYTES, MAX_DELETED_KEY_BYTES, MAX_LEASE_KEYS, MAX_LEASE_ROW_BYTES},
    rows::{DataRow, MARK, Retired},
};

/// The keys in an order that is another on each replica.
#[cfg(feature = "mutants")]
fn by_hash(mut tx: Tx) -> Tx {
    use std::hash::BuildHasher as _;
    if crate::mutant!("commit-by-hash-order") {
        let hasher = std::hash::RandomState::new();
        tx.touched
            .sort_by_key(|touched| hasher.hash_one(&touched.data_key));
    }
    tx
}

/// What a command adds to a lease.
#[derive(Default)]
struct Growth {
    keys: usize,
    key_bytes: usize,
    /// Less than 0 if its rows become shorter.
    row_bytes: i64,
}

impl Machine {
    /// Writes the command's changes, as one revision if there are any, and returns how many keys changed. Deletions become events of
    /// the kind `deleted_as`.
    ///
    /// Refused, without any effect, if a lease would get too many keys or too many bytes.
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
        #[cfg(feature = "mutants")]
        let tx = by_hash(tx);
        for touched in tx.touched.into_iter().filter(Touched::is_changed) {
            let is_told =
                changed == 0 || deleted_as != EventKind::Expire || !crate::mutant!("expire-without-event");
            self.commit_key(step, touched, deleted_as, is_told);
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

    /// `is_told`: with an event, as always but for a planted bug.
    fn commit_key(&mut self, step: &mut Step<'_>, touched: Touched, deleted_as: EventKind, is_told: bool) {
        let revision = self.head.revision;
        let Touched { data_key, old, new } = touched;
        let (partition, key) = keys::data_key_parts(&data_key);
        let kind = if matches!(new, Change::Put(..)) {
            EventKind::Put
        } else {
            deleted_as
        };
        let previous = old.as_ref().map_or(0, |(_, row)| row.mod_rev);
        if is_told {
            step.log.push(revision, kind, &partition, &key, previous);
        }
        let new = match new {
            Change::Put(stored, row) => Some((stored, row)),
            Change::Delete | Change::None => None,
        };
        self.move_ends(step, &data_key, old.as_ref(), new.as_ref());
        let (stored, row) = new.map_or((None, None), |(stored, row)| (Some(stored), Some(row)));
        let retired = old.map(|(row, _)| Retired {
            data_key: data_key.clone(),
            row,
            mod_rev: previous,
            superseded_at: revision,
        });
        let stays =
            stored.is_none() && deleted_as == EventKind::Expire && crate::mutant!("expired-key-stays");
        if !stays {
            step.overlay.set_data(data_key, stored, retired);
        }
        let event = match row {
            Some(row) => Event::put(partition, key, row),
            None => Event::deletion(revision, kind, partition, key),
        };
        if is_told {
            self.head.event_bytes += event.size();
            step.events.push(event);
        }
    }

    /// Keeps the ttl rows and the attachments to leases.
    fn move_ends(
        &mut self,
        step: &mut Step<'_>,
        data_key: &Bytes,
        old: Option<&(Bytes, DataRow)>,
        new: Option<&(Bytes, DataRow)>,
    ) {
        let ends = |row: Option<&(Bytes, DataRow)>| {
            row.map_or((0, 0, 0), |(stored, row)| {
                (row.expires_at, row.lease, stored.len())
            })
        };
        let (old_expiry, old_lease, old_len) = ends(old);
        let (new_expiry, new_lease, new_len) = ends(new);
        if old_expiry != new_expiry {
            if old_expiry != 0 {
                step.overlay.delete(Cf::Ttl, keys::ttl_key(data_key, old_expiry));
            }
            if new_expiry != 0 {
                self.put_ttl(step, keys::ttl_key(data_key, new_expiry));
            }
        }
        self.leases.detach(old_lease, data_key, old_len);
        self.leases.attach(new_lease, data_key, new_len);
        if old_lease != new_lease {
            if old_lease != 0 {
                step.overlay
                    .delete(Cf::State, keys::attached_key(data_key, old_lease));
            }
            if new_lease != 0 {
                step.overlay
                    .put(Cf::State, keys::attached_key(data_key, new_lease), MARK);
            }
        }
    }

    fn check_lease_keys(&self, tx: &Tx) -> Result<(), Rejection> {
        let mut more = BTreeMap::<u64, Growth>::new();
        for touched in &tx.touched {
            let Change::Put(stored, row) = &touched.new else {
                continue;
            };
            if row.lease == 0 {
                continue;
            }
            let more = more.entry(row.lease).or_default();
            more.row_bytes += stored.len() as i64;
            match &touched.old {
                Some((before, old)) if old.lease == row.lease => more.row_bytes -= before.len() as i64,
                _ => {
                    more.keys += 1;
                    more.key_bytes += touched.data_key.len();
                }
            }
        }
        for (lease, more) in more {
            let has = self.leases.attached(lease);
            let too_much = if has.keys + more.keys > MAX_LEASE_KEYS {
                format!("{MAX_LEASE_KEYS} keys")
            } else if has.key_bytes + more.key_bytes > MAX_DELETED_KEY_BYTES {
                format!("{MAX_DELETED_KEY_BYTES} bytes of keys")
            } else if more.row_bytes > 0 && has.row_bytes as i64 + more.row_bytes > MAX_LEASE_ROW_BYTES as i64
            {
                format!("{MAX_LEASE_ROW_BYTES} bytes of values")
            } else {
                continue;
            };
            let message = format!("lease {lease} would have more than {too_much}, use more leases");
            return Err(Rejection::new(ErrorCode::Refused, message));
        }
        Ok(())
    }
}
