//! Writes: typed calls that become one command each.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use kvsvr_proto::v1::{self, command, outcome};
use tokio::time::{Duration, Instant};

use crate::{
    client::Client,
    core::{Answer, Core},
    error::{Code, Error, Result},
    retry::Repeat,
    router::Place,
    txn::{self, Txn, TxnReply},
    types::{AppendReply, DeleteReply, IncrementReply, LeaseReply, Partition, PutOptions, PutReply},
};

impl Client {
    /// Sets a key.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn put(
        &self,
        partition: &Partition,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> impl Future<Output = Result<PutReply>> + Send {
        self.put_with(partition, key, value, PutOptions::default())
    }

    /// Sets a key that does not live for ever.
    ///
    /// # Errors
    /// `NotFound` if there is no such lease; see [`Error`].
    pub fn put_with(
        &self,
        partition: &Partition,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> impl Future<Output = Result<PutReply>> + Send {
        let write = self.write(
            partition,
            command::Op::Put(txn::put(key.into(), value.into(), options)),
        );
        async move {
            let answer = write.run().await?;
            match answer.value.result {
                Some(outcome::Result::Put(r)) => Ok(PutReply {
                    revision: answer.value.revision,
                    version: r.version,
                }),
                _ => Err(answer.unexpected()),
            }
        }
    }

    /// Deletes a key, if it is there.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn delete(
        &self,
        partition: &Partition,
        key: impl Into<Bytes>,
    ) -> impl Future<Output = Result<DeleteReply>> + Send {
        self.delete_op(partition, command::Op::Delete(v1::Delete { key: key.into() }))
    }

    /// Deletes the keys in [start, end); an empty end means to the end of the partition.
    ///
    /// # Errors
    /// `Invalid` if they are too many for one command; see [`Error`].
    pub fn delete_range(
        &self,
        partition: &Partition,
        start: impl Into<Bytes>,
        end: impl Into<Bytes>,
    ) -> impl Future<Output = Result<DeleteReply>> + Send {
        let op = v1::DeleteRange {
            start: start.into(),
            end: end.into(),
        };
        self.delete_op(partition, command::Op::DeleteRange(op))
    }

    fn delete_op(
        &self,
        partition: &Partition,
        op: command::Op,
    ) -> impl Future<Output = Result<DeleteReply>> + Send + use<> {
        let write = self.write(partition, op);
        async move {
            let answer = write.run().await?;
            match answer.value.result {
                Some(outcome::Result::Delete(r)) => Ok(DeleteReply {
                    revision: answer.value.revision,
                    deleted: r.deleted,
                }),
                _ => Err(answer.unexpected()),
            }
        }
    }

    /// Adds to the number at a key; a missing key counts as 0.
    ///
    /// # Errors
    /// `WrongType` if the value is not a number or the number would overflow; see [`Error`].
    pub fn increment(
        &self,
        partition: &Partition,
        key: impl Into<Bytes>,
        delta: i64,
    ) -> impl Future<Output = Result<IncrementReply>> + Send {
        let op = command::Op::Increment(v1::Increment {
            key: key.into(),
            delta,
        });
        let write = self.write(partition, op);
        async move {
            let answer = write.run().await?;
            match answer.value.result {
                Some(outcome::Result::Increment(r)) => Ok(IncrementReply {
                    revision: answer.value.revision,
                    value: r.value,
                }),
                _ => Err(answer.unexpected()),
            }
        }
    }

    /// Appends a value under a prefix: it gets the next of the dense sequence 1, 2, 3, ... and is found at the prefix followed by
    /// that number as 8 big-endian bytes.
    ///
    /// # Errors
    /// `WrongType` if the prefix holds something else than a number; see [`Error`].
    pub fn append(
        &self,
        partition: &Partition,
        prefix: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> impl Future<Output = Result<AppendReply>> + Send {
        self.append_with_ttl(partition, prefix, value, Duration::ZERO)
    }

    /// Appends a value that is deleted after a time; zero = never.
    ///
    /// # Errors
    /// As [`Client::append`].
    pub fn append_with_ttl(
        &self,
        partition: &Partition,
        prefix: impl Into<Bytes>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> impl Future<Output = Result<AppendReply>> + Send {
        let ttl_ms = crate::time::millis(ttl);
        let op = v1::Append {
            prefix: prefix.into(),
            value: value.into(),
            ttl_ms,
        };
        let write = self.write(partition, command::Op::Append(op));
        async move {
            let answer = write.run().await?;
            match answer.value.result {
                Some(outcome::Result::Append(r)) => Ok(AppendReply {
                    revision: answer.value.revision,
                    seq: r.seq,
                }),
                _ => Err(answer.unexpected()),
            }
        }
    }

    /// A transaction. One without writes is better sent with [`Client::txn_read`], which does not go through the log. Ranges in it read
    /// the newest state: only [`Client::txn_read`] and [`Client::range`] take a revision or the continuation of a page.
    ///
    /// # Errors
    /// The refusal of any operation refuses all; see [`Error`]. That a compare does not hold is not an error.
    pub fn txn(&self, partition: &Partition, txn: Txn) -> impl Future<Output = Result<TxnReply>> + Send {
        let write = self.write(partition, command::Op::Txn(txn.into_proto()));
        async move {
            let answer = write.run().await?;
            match answer.value.result {
                Some(outcome::Result::Txn(r)) => {
                    TxnReply::from_proto(r, answer.value.revision, &answer.address)
                }
                _ => Err(answer.unexpected()),
            }
        }
    }

    /// Creates a lease in the partition's shard. Keys of the shard attached to it vanish together when it ends. `id` 0 = the
    /// server chooses.
    ///
    /// # Errors
    /// `AlreadyExists` if the id is taken; see [`Error`].
    pub async fn lease_grant(&self, partition: &Partition, id: u64, ttl: Duration) -> Result<LeaseReply> {
        let op = command::Op::LeaseGrant(v1::LeaseGrant {
            id,
            ttl_ms: crate::time::millis(ttl),
        });
        lease_reply(self.write(partition, op).run().await?)
    }

    /// Makes the lease live for its whole TTL again.
    ///
    /// # Errors
    /// `NotFound` if it has ended; see [`Error`].
    pub async fn lease_keep_alive(&self, partition: &Partition, id: u64) -> Result<LeaseReply> {
        let op = command::Op::LeaseKeepAlive(v1::LeaseKeepAlive { id });
        lease_reply(self.write_as(Repeat::Harmless, partition, op).run().await?)
    }

    /// Ends the lease and deletes the keys attached to it.
    ///
    /// # Errors
    /// `NotFound` if there is no such lease; see [`Error`].
    pub async fn lease_revoke(&self, partition: &Partition, id: u64) -> Result<LeaseReply> {
        let op = command::Op::LeaseRevoke(v1::LeaseRevoke { id });
        lease_reply(self.write(partition, op).run().await?)
    }

    /// Any command on the shard of its partition. Session fields are filled in here.
    ///
    /// # Errors
    /// `Invalid` if the command has no partition; see [`Error`].
    pub async fn execute(&self, command: v1::Command) -> Result<v1::Outcome> {
        let partition = command.partition.clone().and_then(Partition::from_proto);
        let Some(partition) = partition else {
            return Err(Error::definite(
                Code::Invalid,
                "the command has no partition, or its region is not a u16",
            ));
        };
        let place = Place::Slot(partition.slot());
        Ok(self
            .core
            .execute(place, command, self.repeat(), self.deadline())
            .await?
            .value)
    }

    /// Any command on a shard by its number; 0 is the meta shard. Session fields are filled in here.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute_on(&self, shard: u32, command: v1::Command) -> Result<v1::Outcome> {
        let answer = self
            .core
            .execute(Place::Shard(shard), command, self.repeat(), self.deadline())
            .await?;
        Ok(answer.value)
    }

    fn write(&self, partition: &Partition, op: command::Op) -> WriteCall {
        self.write_as(self.repeat(), partition, op)
    }

    fn write_as(&self, repeat: Repeat, partition: &Partition, op: command::Op) -> WriteCall {
        WriteCall {
            core: self.core.clone(),
            place: Place::Slot(partition.slot()),
            command: v1::Command {
                partition: Some(partition.to_proto()),
                op: Some(op),
                ..v1::Command::default()
            },
            repeat,
            deadline: self.deadline(),
        }
    }
}

/// A write that has not begun; not a future yet, as a read.
struct WriteCall {
    core: Arc<Core>,
    place: Place,
    command: v1::Command,
    repeat: Repeat,
    deadline: Instant,
}

impl WriteCall {
    async fn run(self) -> Result<Answer<v1::Outcome>> {
        self.core
            .execute(self.place, self.command, self.repeat, self.deadline)
            .await
    }
}

impl<T> Answer<T> {
    pub(crate) fn unexpected(&self) -> Error {
        Error::unexpected("the outcome of another kind of command", &self.address)
    }
}

fn lease_reply(answer: Answer<v1::Outcome>) -> Result<LeaseReply> {
    match answer.value.result {
        Some(outcome::Result::Lease(r)) => Ok(LeaseReply {
            id: r.id,
            ttl: Duration::from_millis(r.ttl_ms),
            deleted: r.deleted,
        }),
        _ => Err(answer.unexpected()),
    }
}
