//! Reading rows, and carrying plans out.

use bytes::Bytes;
use chat_core::{
    plan::{Check, Plan, Write},
    register::BadRow,
    room::Row,
};
use kvsvr_client::{Client, Compare, Error, KeyValue, Op, OpReply, Partition, PutOptions, Txn};
use prost::Message;

/// What goes wrong with rows.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store says so.
    #[error("{0}")]
    Kvsvr(#[from] Error),
    /// A row is not what it should be.
    #[error("{0}")]
    Row(#[from] BadRow),
    /// All ids of a region are given out.
    #[error("the region has no {0} ids left: they have {1} bits")]
    Exhausted(&'static str, u32),
    /// Others were quicker, again and again.
    #[error("somebody else changed it each time; try again")]
    Contended,
}

impl StoreError {
    /// It may have been stored.
    pub fn is_unknown(&self) -> bool {
        matches!(self, StoreError::Kvsvr(error) if error.is_unknown())
    }
}

/// What came of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// It is stored, at this revision of the partition's shard.
    Out(u64),
    /// Somebody was quicker: look again.
    Overtaken,
}

/// The rows.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) client: Client,
}

impl Store {
    /// In the cluster of this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// One transaction.
    ///
    /// # Errors
    /// [`StoreError::Kvsvr`].
    pub async fn carry_out(&self, partition: &Partition, plan: &Plan) -> Result<Carried, StoreError> {
        let mut txn = Txn::new();
        for Check::Unchanged(key, revision) in &plan.checks {
            txn = txn.when(Compare::mod_rev(key.clone()).equals(*revision));
        }
        for write in &plan.writes {
            txn = txn.then(match write {
                Write::Put(key, row, None) => Op::put(key.clone(), row.clone()),
                Write::Put(key, row, Some(ttl_ms)) => {
                    let ttl = std::time::Duration::from_millis(*ttl_ms);
                    Op::put_with(key.clone(), row.clone(), PutOptions::ttl(ttl))
                }
                Write::Delete(key) => Op::delete(key.clone()),
            });
        }
        let reply = self.client.txn(partition, txn).await?;
        Ok(if reply.succeeded {
            Carried::Out(reply.revision)
        } else {
            Carried::Overtaken
        })
    }

    /// Several rows and ranges at one instant.
    pub(crate) async fn look(&self, partition: &Partition, ops: Vec<Op>) -> Result<Vec<OpReply>, StoreError> {
        let txn = ops.into_iter().fold(Txn::new(), Txn::then);
        let read = self
            .client
            .txn_read(partition, txn, kvsvr_client::ReadMode::Linearizable)
            .await?;
        Ok(read.value.results)
    }

    /// One row; the default if it is not there.
    pub(crate) async fn row<M: Message + Default>(
        &self,
        partition: &Partition,
        key: impl Into<Bytes>,
    ) -> Result<Row<M>, StoreError> {
        let read = self.client.get(partition, key).await?;
        row(read.value.as_ref())
    }
}

/// A row as it was read.
pub(crate) fn row<M: Message + Default>(kv: Option<&KeyValue>) -> Result<Row<M>, StoreError> {
    let Some(kv) = kv else {
        return Ok(Row::default());
    };
    let row = M::decode(kv.value.clone()).map_err(|error| bad(&kv.key, &error))?;
    Ok(Row {
        row,
        revision: kv.mod_rev,
    })
}

pub(crate) fn bad(key: &[u8], error: &dyn std::fmt::Display) -> BadRow {
    BadRow(format!("{}: {error}", key.escape_ascii()))
}

/// The answer to a read of one row.
pub(crate) fn got(reply: Option<OpReply>) -> Option<KeyValue> {
    match reply {
        Some(OpReply::Get(kv)) => kv,
        _ => None,
    }
}

/// The answer to a read of a range.
pub(crate) fn ranged(reply: Option<OpReply>) -> Vec<KeyValue> {
    match reply {
        Some(OpReply::Range(page)) => page.kvs,
        _ => Vec::new(),
    }
}
