//! Reads of a shard's state: keys, ranges, read-only transactions, at the newest or an older revision.
//!
//! A [`View`] is one consistent state; it must be made from an engine snapshot (or from an engine that nobody writes to), because revision,
//! floor and rows have to be of the same moment. It looks at no clock: a key that has expired is there until the log removes it.
//! Lengths are not checked here, see [`codec`](crate::codec); a partition must have passed
//! [`check_partition`](crate::codec::check_partition).
//!
//! A version is visible at revision R if mod_rev <= R < superseded_at. The newest version is in `data`; for older ones the history of
//! the key is asked. Garbage is never visible: it was superseded at or before the floor, which no R is below. But it counts in what a range
//! of an older state has looked at, so where a page ends, and what a transaction may still read, depends on which garbage the engine has
//! dropped: apply reads the newest state only.

use bytes::Bytes;

use crate::{
    command::{
        Compare, CompareOperator, CompareTarget, KeyValue, Range, RangeResult, Txn, TxnOp, TxnOpResult,
        TxnResult,
    },
    engine::{Cf, EngineRead, Scan},
    error::{Corrupt, ErrorCode, Failure, Rejection},
    keys,
    limits::{MAX_RANGE_BYTES, MAX_RANGE_SCAN_BYTES, MAX_RANGE_SKIPS, MAX_TXN_RESULT_BYTES},
    rows::{DataRow, HistRow},
    types::{Partition, Revision, ShardId},
};

mod older;
mod range;
mod replay;

pub use crate::rows::Head;
pub(crate) use range::ScanBudget;
pub(crate) use replay::row_of;
pub use replay::{Replay, replay};

/// The shard's head row; the default if nothing was applied yet. Needs one `get` only.
pub fn shard_head(engine: &dyn EngineRead, shard: ShardId) -> Result<Head, Corrupt> {
    let key = keys::head_key(shard);
    match engine.get(Cf::State, &key)? {
        Some(stored) => Head::decode(&key, &stored),
        None => Ok(Head::default()),
    }
}

/// Reads a key; `revision` `None` = the newest. See [`View::get`].
pub fn get(
    engine: &dyn EngineRead,
    shard: ShardId,
    partition: &Partition,
    key: &[u8],
    revision: Option<Revision>,
) -> Result<Option<KeyValue>, Failure> {
    View::load(engine, shard)?.get(partition, key, revision)
}

/// Reads the newest version of a key with one look-up, without looking at the shard's head.
pub fn newest(
    engine: &dyn EngineRead,
    shard: ShardId,
    partition: &Partition,
    key: &[u8],
) -> Result<Option<KeyValue>, Corrupt> {
    let data_key = keys::data_key(shard, partition, key);
    let stored = engine.get(Cf::Data, &data_key)?;
    let row = stored
        .map(|stored| DataRow::decode_at(&data_key, &stored))
        .transpose()?;
    Ok(row.map(|row| key_value(data_key.slice(data_key.len() - key.len()..), row)))
}

/// Reads a range. See [`View::range`].
pub fn range(
    engine: &dyn EngineRead,
    shard: ShardId,
    partition: &Partition,
    range: &Range,
) -> Result<RangeResult, Failure> {
    View::load(engine, shard)?.range(partition, range, MAX_RANGE_BYTES)
}

/// Evaluates a transaction without writes. See [`View::txn`].
pub fn txn_read(
    engine: &dyn EngineRead,
    shard: ShardId,
    partition: &Partition,
    txn: &Txn,
) -> Result<TxnResult, Failure> {
    View::load(engine, shard)?.txn(partition, txn)
}

/// A key with its row.
pub(crate) fn key_value(key: Bytes, row: DataRow) -> KeyValue {
    let DataRow {
        create_rev,
        mod_rev,
        version,
        expires_at,
        lease,
        value,
    } = row;
    KeyValue {
        key,
        value,
        create_rev,
        mod_rev,
        version,
        lease,
        expires_at,
    }
}

/// One state of a shard, for reading.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(crate) engine: &'a dyn EngineRead,
    pub(crate) shard: ShardId,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub floor: Revision,
}

impl<'a> View<'a> {
    /// The state that the engine shows, which must not change meanwhile.
    pub fn load(engine: &'a dyn EngineRead, shard: ShardId) -> Result<Self, Corrupt> {
        let head = shard_head(engine, shard)?;
        Ok(Self {
            engine,
            shard,
            revision: head.revision,
            floor: head.floor,
        })
    }

    /// The revision to read at: refused if it is compacted or does not exist yet.
    pub(crate) fn check_revision(&self, revision: Option<Revision>) -> Result<Revision, Rejection> {
        match revision {
            None => Ok(self.revision),
            Some(wanted) if wanted < self.floor => Err(Rejection::compacted(wanted, self.floor)),
            Some(wanted) if wanted > self.revision => Err(Rejection::future(wanted, self.revision)),
            Some(wanted) => Ok(wanted),
        }
    }

    /// Reads a key at a revision, or the newest.
    pub fn get(
        &self,
        partition: &Partition,
        key: &[u8],
        revision: Option<Revision>,
    ) -> Result<Option<KeyValue>, Failure> {
        let at = self.check_revision(revision)?;
        let data_key = keys::data_key(self.shard, partition, key);
        let row = match self.newest_row(&data_key)? {
            Some(row) if row.mod_rev <= at => Some(row),
            _ if at == self.revision => None,
            _ => self.older_row(&data_key, at)?,
        };
        Ok(row.map(|row| key_value(data_key.slice(data_key.len() - key.len()..), row)))
    }

    pub(crate) fn newest_row(&self, data_key: &[u8]) -> Result<Option<DataRow>, Corrupt> {
        let stored = self.engine.get(Cf::Data, data_key)?;
        stored
            .map(|stored| DataRow::decode_at(data_key, &stored))
            .transpose()
    }

    /// The version in history that is visible at `at`.
    fn older_row(&self, data_key: &[u8], at: Revision) -> Result<Option<DataRow>, Corrupt> {
        let Some((key, stored)) = self.older_stored(data_key, at)? else {
            return Ok(None);
        };
        let HistRow { superseded_at, row } = HistRow::decode(&key, &stored)?;
        Ok((superseded_at > at).then_some(row))
    }

    /// The newest version in history that is not newer than `at`: history key and stored row.
    fn older_stored(&self, data_key: &[u8], at: Revision) -> Result<Option<(Bytes, Bytes)>, Corrupt> {
        let start = keys::hist_key(data_key, at);
        let end = keys::prefix_end(&keys::hist_prefix(data_key));
        let mut found = None;
        let scan = Scan {
            start: &start,
            end: &end,
            reverse: false,
        };
        self.engine.scan(Cf::Hist, scan, &mut |key, value| {
            found = Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            std::ops::ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Whether a condition holds.
    pub fn compare(&self, partition: &Partition, compare: &Compare) -> Result<bool, Corrupt> {
        let row = self.newest_row(&keys::data_key(self.shard, partition, &compare.key))?;
        let number = |of: fn(&DataRow) -> u64| row.as_ref().map_or(0, of);
        let order = match &compare.target {
            CompareTarget::Exists => row.is_some().cmp(&true),
            CompareTarget::Version(operand) => number(|row| row.version).cmp(operand),
            CompareTarget::CreateRev(operand) => number(|row| row.create_rev).cmp(operand),
            CompareTarget::ModRev(operand) => number(|row| row.mod_rev).cmp(operand),
            CompareTarget::Value(operand) => match &row {
                Some(row) => row.value.cmp(operand),
                None => return Ok(false),
            },
        };
        Ok(match compare.operator {
            CompareOperator::Equal => order.is_eq(),
            CompareOperator::NotEqual => order.is_ne(),
            CompareOperator::Less => order.is_lt(),
            CompareOperator::Greater => order.is_gt(),
        })
    }

    /// Whether all conditions hold.
    pub fn compare_all(&self, partition: &Partition, compares: &[Compare]) -> Result<bool, Corrupt> {
        for compare in compares {
            if !self.compare(partition, compare)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Evaluates a transaction without writes; one with writes is refused as invalid.
    pub fn txn(&self, partition: &Partition, txn: &Txn) -> Result<TxnResult, Failure> {
        if txn.then_ops.iter().chain(&txn.else_ops).any(|op| !op.is_read()) {
            return Err(Rejection::invalid("a transaction that is read must not write").into());
        }
        let succeeded = self.compare_all(partition, &txn.compares)?;
        let ops = if succeeded { &txn.then_ops } else { &txn.else_ops };
        let branch = if succeeded { "then" } else { "else" };
        let mut budget = ResultBudget::new();
        let mut results = Vec::with_capacity(ops.len());
        for (i, op) in ops.iter().enumerate() {
            let result = self.txn_op(partition, op, &mut budget);
            results.push(result.map_err(|failure| within(branch, i, failure))?);
        }
        Ok(TxnResult { succeeded, results })
    }

    /// Runs a reading operation of a transaction.
    pub(crate) fn txn_op(
        &self,
        partition: &Partition,
        op: &TxnOp,
        budget: &mut ResultBudget,
    ) -> Result<TxnOpResult, Failure> {
        budget.check()?;
        let result = match op {
            TxnOp::Get { key, revision } => TxnOpResult::Get(self.get(partition, key, *revision)?),
            TxnOp::Range(range) => {
                TxnOpResult::Range(self.range_within(partition, range, budget.bytes, &mut budget.scan)?)
            }
            _ => return Err(Rejection::invalid("a transaction that is read must not write").into()),
        };
        budget.spend(&result);
        Ok(result)
    }
}

/// Says in a rejection which operation of a transaction it is about.
pub(crate) fn within(branch: &str, index: usize, failure: Failure) -> Failure {
    match failure {
        Failure::Rejected(rejection) => crate::codec::within(branch, index, rejection).into(),
        corrupt @ Failure::Corrupt(_) => corrupt,
    }
}

/// Bounds the answers of one transaction, and what its ranges look at. Like a page, the last answer may pass it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResultBudget {
    pub(crate) bytes: usize,
    pub(crate) scan: ScanBudget,
}

impl ResultBudget {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: MAX_TXN_RESULT_BYTES,
            scan: ScanBudget::new(),
        }
    }

    fn check(&self) -> Result<(), Rejection> {
        let what = if self.bytes == 0 {
            format!("the answers of the transaction pass {MAX_TXN_RESULT_BYTES} bytes")
        } else if self.scan.is_spent() {
            format!(
                "the ranges of the transaction look at more than {MAX_RANGE_SCAN_BYTES} bytes or {MAX_RANGE_SKIPS} old versions"
            )
        } else {
            return Ok(());
        };
        let message = format!("{what}, read less in one transaction");
        Err(Rejection::new(ErrorCode::Refused, message))
    }

    fn spend(&mut self, result: &TxnOpResult) {
        self.bytes = self.bytes.saturating_sub(result.pair_bytes());
    }
}

#[cfg(test)]
mod tests;
