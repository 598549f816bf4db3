//! Reading rows, and carrying plans out.

use std::time::Duration;

use bytes::Bytes;
use chat_core::{
    plan::{Plan, Write},
    register::{self, BadRow},
    room::Row,
};
use kvsvr_client::{Client, Compare, Error, KeyValue, Op, OpReply, Partition, PutOptions, Txn, TxnReply};
use prost::Message;

/// Looks before putting a register gives up: each time somebody else was quicker.
const PUT_NEWER_TRIES: usize = 8;

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

    /// The client of the cluster.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One transaction.
    ///
    /// # Errors
    /// [`StoreError::Kvsvr`].
    pub async fn carry_out(&self, partition: &Partition, plan: &Plan) -> Result<Carried, StoreError> {
        let tried = self.carry_out_or(partition, plan, Vec::new()).await?;
        Ok(tried.map_or_else(|_| Carried::Overtaken, Carried::Out))
    }

    /// One transaction, at this revision; if somebody was quicker, what is looked at instead.
    pub(crate) async fn carry_out_or(
        &self,
        partition: &Partition,
        plan: &Plan,
        look: Vec<Op>,
    ) -> Result<Result<u64, Vec<OpReply>>, StoreError> {
        let mut txn = Txn::new();
        for (key, revision) in &plan.checks {
            txn = txn.when(Compare::mod_rev(key.clone()).equals(*revision));
        }
        for Write { key, row, ttl_ms } in &plan.writes {
            let ttl = ttl_ms.map(Duration::from_millis);
            let options = ttl.map_or_else(PutOptions::default, PutOptions::ttl);
            txn = txn.then(Op::put_with(key.clone(), row.clone(), options));
        }
        let txn = look.into_iter().fold(txn, Txn::or_else);
        let reply = self.client.txn(partition, txn).await?;
        Ok(if reply.succeeded {
            Ok(reply.revision)
        } else {
            Err(reply.results)
        })
    }

    /// Puts a register where an older one stands, or none; then `also` is done with it. `None`: there was this one already, or a newer one.
    pub(crate) async fn put_newer(
        &self,
        partition: &Partition,
        key: Bytes,
        (version, message): (u64, &impl Message),
        also: Option<Op>,
    ) -> Result<Option<TxnReply>, StoreError> {
        let row = register::encode(version, message);
        let mut is_there = true;
        for _ in 0..PUT_NEWER_TRIES {
            let older = if is_there {
                Compare::value(key.clone()).less(register::floor(version))
            } else {
                Compare::absent(key.clone())
            };
            let txn = Txn::new()
                .when(older)
                .then(Op::put(key.clone(), row.clone()))
                .or_else(Op::get(key.clone()));
            let txn = also.iter().cloned().fold(txn, Txn::then);
            let reply = self.client.txn(partition, txn).await?;
            if reply.succeeded {
                return Ok(Some(reply));
            }
            let found = got(reply.results.into_iter().next());
            let is_known = |kv: &KeyValue| kv.value >= register::floor(version);
            if found.as_ref().is_some_and(is_known) {
                return Ok(None);
            }
            is_there = found.is_some();
        }
        Err(StoreError::Contended)
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

/// A register as it was read.
pub(crate) fn told<M: Message + Default>(kv: Option<&KeyValue>) -> Result<Row<M>, StoreError> {
    let Some(kv) = kv else {
        return Ok(Row::default());
    };
    let (_, row) = register::decode(&kv.value)?;
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

/// A number that is a row, or ends a key.
pub(crate) fn number(of: &[u8], bytes: &[u8]) -> Result<u64, BadRow> {
    let number = bytes.try_into().map(u64::from_be_bytes);
    number.map_err(|_| bad(of, &"no number of 8 bytes"))
}

/// The number that ends a key.
pub(crate) fn number_in_key(kv: &KeyValue, prefix: &[u8]) -> Result<u64, BadRow> {
    number(&kv.key, kv.key.strip_prefix(prefix).unwrap_or_default())
}
