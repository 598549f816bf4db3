//! Commands on keys: Put, Delete, DeleteRange, Increment, Append, and transactions of them.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    Machine, Step,
    tx::{Change, Touched, Tx, TxRead},
};
use crate::{
    command::{Op, OutcomeResult, Txn, TxnOp, TxnOpResult, TxnResult},
    engine::{Cf, EngineRead, Scan},
    error::{Corrupt, ErrorCode, Failure, Rejection},
    event::EventKind,
    keys,
    limits::{MAX_DELETE_RANGE_KEYS, MAX_DELETED_KEY_BYTES, MAX_OLD_ROW_BYTES},
    read::{ResultBudget, View, within},
    rows::DataRow,
    types::{Partition, StampMs},
};

/// What a put sets besides the value.
#[derive(Clone, Copy, Default)]
struct Ends {
    expires_at: StampMs,
    lease: u64,
}

/// Where a writing operation runs.
struct Place<'a, 'e> {
    step: &'a Step<'e>,
    partition: &'a Partition,
    /// Keys that DeleteRange may still delete.
    deletions: usize,
    /// Bytes of keys that it may still delete.
    deletion_bytes: usize,
}

impl Machine {
    /// One operation as a command of its own.
    pub(super) fn write(
        &mut self,
        step: &mut Step<'_>,
        partition: &Partition,
        op: Op,
    ) -> Result<OutcomeResult, Failure> {
        let revision = self.head.revision + 1;
        let mut tx = match op {
            Op::DeleteRange { .. } => Tx::indexed(revision),
            _ => Tx::small(revision),
        };
        let result = self.write_op(&mut tx, &mut Place::new(step, partition), op);
        // What is refused was read all the same.
        step.spend(tx.bytes());
        let result = result?;
        self.commit(step, tx, EventKind::Delete)?;
        Ok(result)
    }

    fn write_op(&self, tx: &mut Tx, place: &mut Place<'_, '_>, op: Op) -> Result<OutcomeResult, Failure> {
        Ok(match op {
            Op::Put {
                key,
                value,
                ttl_ms,
                lease,
            } => {
                let version = self.put(tx, place, &key, value, ttl_ms, lease)?;
                OutcomeResult::Put { version }
            }
            Op::Delete { key } => OutcomeResult::Delete {
                deleted: delete(tx, place, &key)?,
            },
            Op::DeleteRange { start, end } => OutcomeResult::Delete {
                deleted: self.delete_range(tx, place, &start, &end)?,
            },
            Op::Increment { key, delta } => OutcomeResult::Increment {
                value: increment(tx, place, &key, delta)?,
            },
            Op::Append {
                prefix,
                value,
                ttl_ms,
            } => OutcomeResult::Append {
                seq: self.append(tx, place, &prefix, value, ttl_ms)?,
            },
            _ => return Err(Corrupt::new("the state machine", "not an operation on a key").into()),
        })
    }

    /// A transaction: compares on the state before it, then operations that see each other, in one revision or not at all.
    ///
    /// Refused as invalid if an operation of either branch reads an older state.
    pub(super) fn txn(
        &mut self,
        step: &mut Step<'_>,
        partition: &Partition,
        txn: Txn,
    ) -> Result<TxnResult, Failure> {
        refuse_pinned("then", &txn.then_ops)?;
        refuse_pinned("else", &txn.else_ops)?;
        let mut before = step.view(&self.head);
        if crate::mutant!("compare-on-stale-state") {
            before.engine = step.overlay.base;
        }
        let succeeded = before.compare_all(partition, &txn.compares)?;
        let (branch, ops) = if succeeded {
            ("then", txn.then_ops)
        } else {
            ("else", txn.else_ops)
        };
        let mut tx = Tx::indexed(self.head.revision + 1);
        let results = self.txn_ops(&mut tx, &mut Place::new(step, partition), branch, ops);
        step.spend(tx.bytes());
        let mut results = results?;
        if self.commit(step, tx, EventKind::Delete)? == 0 {
            // What it wrote it has undone, so there is no revision of its own that a continuation could pin.
            for result in &mut results {
                if let TxnOpResult::Range(page) = result {
                    page.pin(self.head.revision);
                }
            }
        }
        Ok(TxnResult { succeeded, results })
    }

    fn txn_ops(
        &self,
        tx: &mut Tx,
        place: &mut Place<'_, '_>,
        branch: &str,
        ops: Vec<TxnOp>,
    ) -> Result<Vec<TxnOpResult>, Failure> {
        let mut budget = place.step.reads;
        let mut results = Vec::with_capacity(ops.len());
        for (i, op) in ops.into_iter().enumerate() {
            let result = match op {
                op if op.is_read() => self.txn_read_op(tx, place, &op, &mut budget),
                op => self.txn_write_op(tx, place, op),
            };
            results.push(result.map_err(|failure| within(branch, i, failure))?);
        }
        Ok(results)
    }

    /// A read sees what the operations before it did. A continuation given out after a write of the transaction pins the transaction's
    /// own revision, one given out before it the revision before. The next page is read outside the log.
    fn txn_read_op(
        &self,
        tx: &Tx,
        place: &Place<'_, '_>,
        op: &TxnOp,
        budget: &mut ResultBudget,
    ) -> Result<TxnOpResult, Failure> {
        let before = place.step.view(&self.head);
        let engine = TxRead {
            overlay: &place.step.overlay,
            tx,
        };
        let wrote = tx.touched.iter().any(Touched::is_changed);
        let revision = if wrote { tx.revision } else { before.revision };
        View {
            engine: &engine,
            revision,
            ..before
        }
        .txn_op(place.partition, op, budget)
    }

    fn txn_write_op(
        &self,
        tx: &mut Tx,
        place: &mut Place<'_, '_>,
        op: TxnOp,
    ) -> Result<TxnOpResult, Failure> {
        Ok(match op {
            TxnOp::Put {
                key,
                value,
                ttl_ms,
                lease,
            } => TxnOpResult::Put {
                version: self.put(tx, place, &key, value, ttl_ms, lease)?,
            },
            TxnOp::Delete { key } => TxnOpResult::Delete {
                deleted: delete(tx, place, &key)?,
            },
            TxnOp::DeleteRange { start, end } => TxnOpResult::Delete {
                deleted: self.delete_range(tx, place, &start, &end)?,
            },
            TxnOp::Increment { key, delta } => TxnOpResult::Increment {
                value: increment(tx, place, &key, delta)?,
            },
            TxnOp::Append {
                prefix,
                value,
                ttl_ms,
            } => TxnOpResult::Append {
                seq: self.append(tx, place, &prefix, value, ttl_ms)?,
            },
            TxnOp::Get { .. } | TxnOp::Range(_) => {
                return Err(Corrupt::new("the state machine", "not a writing operation").into());
            }
        })
    }

    fn put(
        &self,
        tx: &mut Tx,
        place: &mut Place<'_, '_>,
        key: &Bytes,
        value: Bytes,
        ttl_ms: u64,
        lease: u64,
    ) -> Result<u64, Failure> {
        if lease != 0 {
            self.leases.find(lease)?;
        }
        let expires_at = self.expiry(ttl_ms);
        let revision = tx.revision;
        Ok(set(
            place.touch(tx, key)?,
            revision,
            value,
            Ends { expires_at, lease },
        ))
    }

    fn expiry(&self, ttl_ms: u64) -> StampMs {
        if ttl_ms == 0 {
            0
        } else {
            self.head.stamp.saturating_add(ttl_ms)
        }
    }

    /// The counter keeps its TTL or lease.
    fn append(
        &self,
        tx: &mut Tx,
        place: &mut Place<'_, '_>,
        prefix: &Bytes,
        value: Bytes,
        ttl_ms: u64,
    ) -> Result<u64, Failure> {
        let number = increment(tx, place, prefix, 1)?;
        let seq = u64::try_from(number).ok().filter(|seq| *seq > 0).ok_or_else(|| {
            let message = format!("the number at the append's prefix is negative: {}", number - 1);
            Rejection::new(ErrorCode::WrongType, message)
        })?;
        let key = [&prefix[..], &seq.to_be_bytes()].concat().into();
        self.put(tx, place, &key, value, ttl_ms, 0)?;
        Ok(seq)
    }

    fn delete_range(
        &self,
        tx: &mut Tx,
        place: &mut Place<'_, '_>,
        start: &[u8],
        end: &[u8],
    ) -> Result<u64, Failure> {
        let prefix = keys::partition_prefix(self.shard, place.partition);
        let first = [&prefix, start].concat();
        let last = if end.is_empty() {
            keys::prefix_end(&prefix)
        } else {
            [&prefix, end].concat().into()
        };
        let mut found: Vec<Bytes> = Vec::new();
        let (mut bytes, mut row_bytes) = (0, 0);
        let read = TxRead {
            overlay: &place.step.overlay,
            tx,
        };
        read.scan(
            Cf::Data,
            Scan {
                start: &first,
                end: &last,
                reverse: false,
            },
            &mut |data_key, stored| {
                if found.len() > place.deletions
                    || bytes > place.deletion_bytes
                    || row_bytes > MAX_OLD_ROW_BYTES
                {
                    return ControlFlow::Break(());
                }
                bytes += data_key.len();
                row_bytes += stored.len();
                found.push(Bytes::copy_from_slice(&data_key[prefix.len()..]));
                ControlFlow::Continue(())
            },
        )?;
        if found.len() > place.deletions {
            let message = format!(
                "the range has more keys than the {MAX_DELETE_RANGE_KEYS} that one command may delete, delete smaller ranges"
            );
            return Err(Rejection::new(ErrorCode::Refused, message).into());
        }
        if bytes > place.deletion_bytes {
            let message = format!(
                "the range's keys have more than the {MAX_DELETED_KEY_BYTES} bytes that one command may delete, delete smaller ranges"
            );
            return Err(Rejection::new(ErrorCode::Refused, message).into());
        }
        // Rows that the command itself has written count here too; the others are counted again where they are touched.
        if row_bytes > MAX_OLD_ROW_BYTES {
            return Err(too_many_old_bytes().into());
        }
        for key in &found {
            delete(tx, place, key)?;
        }
        place.deletions -= found.len();
        place.deletion_bytes -= bytes;
        Ok(found.len() as u64)
    }
}

fn too_many_old_bytes() -> Rejection {
    let message = format!(
        "the values that the command replaces or deletes pass {MAX_OLD_ROW_BYTES} bytes, delete smaller ranges or fewer keys at a time"
    );
    Rejection::new(ErrorCode::Refused, message)
}

/// Refuses reads of an older state, even if the revision is the newest one. What such a read looks at, and so what it and those after it
/// may still look at, depends on which garbage this replica's engine has dropped: replicas would answer differently.
fn refuse_pinned(branch: &str, ops: &[TxnOp]) -> Result<(), Failure> {
    let pinned = |op: &TxnOp| match op {
        TxnOp::Get { revision, .. } => revision.is_some(),
        TxnOp::Range(range) => range.revision.is_some() || !range.continuation.is_empty(),
        _ => false,
    };
    let Some(at) = ops.iter().position(pinned) else {
        return Ok(());
    };
    let message = "a transaction that goes through the log reads the newest state only, without a revision or a continuation; \
                   send this as a read of its own, or in a transaction without writes that is sent as a read";
    Err(within(branch, at, Rejection::invalid(message).into()))
}

impl<'a, 'e> Place<'a, 'e> {
    fn new(step: &'a Step<'e>, partition: &'a Partition) -> Self {
        Self {
            step,
            partition,
            deletions: MAX_DELETE_RANGE_KEYS,
            deletion_bytes: MAX_DELETED_KEY_BYTES,
        }
    }

    /// Refused if the rows that the command replaces or deletes become too many bytes.
    fn touch<'t>(&self, tx: &'t mut Tx, key: &Bytes) -> Result<&'t mut Touched, Failure> {
        let at = tx.touch(self.step.shard, &self.step.overlay, self.partition, key)?;
        if tx.old_bytes > MAX_OLD_ROW_BYTES {
            return Err(too_many_old_bytes().into());
        }
        Ok(&mut tx.touched[at])
    }
}

fn delete(tx: &mut Tx, place: &mut Place<'_, '_>, key: &Bytes) -> Result<u64, Failure> {
    let touched = place.touch(tx, key)?;
    let existed = touched.row().is_some();
    if matches!(touched.new, Change::Put(..)) {
        // The key is in one buffer with the row that goes, and lives on in the tombstone and the event.
        touched.data_key = Bytes::copy_from_slice(&touched.data_key);
    }
    touched.new = Change::Delete;
    Ok(u64::from(existed))
}

fn increment(tx: &mut Tx, place: &mut Place<'_, '_>, key: &Bytes, delta: i64) -> Result<i64, Failure> {
    let revision = tx.revision;
    let touched = place.touch(tx, key)?;
    let (number, ends) = match touched.row() {
        None => (0, Ends::default()),
        Some(row) => {
            let bytes = <[u8; 8]>::try_from(&row.value[..]).map_err(|_| {
                let len = row.value.len();
                let message = format!("the value is not a number: it has {len} bytes, a number has 8");
                Rejection::new(ErrorCode::WrongType, message)
            })?;
            (
                i64::from_be_bytes(bytes),
                Ends {
                    expires_at: row.expires_at,
                    lease: row.lease,
                },
            )
        }
    };
    let sum = number.checked_add(delta).ok_or_else(|| {
        Rejection::new(
            ErrorCode::WrongType,
            format!("{number} + {delta} overflows 64 bits"),
        )
    })?;
    set(
        touched,
        revision,
        Bytes::copy_from_slice(&sum.to_be_bytes()),
        ends,
    );
    Ok(sum)
}

/// Puts a value at a touched key and returns its version.
fn set(touched: &mut Touched, revision: u64, value: Bytes, ends: Ends) -> u64 {
    let (create_rev, version) = touched
        .row()
        .map_or((revision, 1), |row| (row.create_rev, row.version + 1));
    let Ends { expires_at, lease } = ends;
    let mut row = DataRow {
        create_rev,
        mod_rev: revision,
        version,
        expires_at,
        lease,
        value,
    };
    let (data_key, stored) = row.encode_at(&touched.data_key);
    // The value came in a whole log entry, which its event must not keep in memory.
    row.value = stored.slice(stored.len() - row.value.len()..);
    touched.data_key = data_key;
    touched.new = Change::Put(stored, row);
    version
}
