//! Reads: typed calls that become one read request each.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use kvsvr_proto::v1::{self, read_request, read_result};
use tokio::time::{Duration, Instant};

use crate::{
    client::Client,
    core::{self, Answer, Core},
    error::{Code, Error, Result},
    router::Place,
    txn::{Txn, TxnReply},
    types::{GetOptions, KeyValue, Page, Partition, RangeOptions, Read, ReadFrom, ReadMode},
};

impl Client {
    /// The newest value of a key, linearizable.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get(
        &self,
        partition: &Partition,
        key: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Read<Option<KeyValue>>>> + Send {
        self.get_with(partition, key, GetOptions::default())
    }

    /// The value of a key, as fresh as asked for or at a revision.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` if the revision cannot be read, `TooStale` if no replica is fresh enough; see [`Error`].
    pub fn get_with(
        &self,
        partition: &Partition,
        key: impl Into<Bytes>,
        options: impl Into<GetOptions>,
    ) -> impl Future<Output = Result<Read<Option<KeyValue>>>> + Send {
        let GetOptions { mode, revision } = options.into();
        let op = read_request::Op::Get(v1::Get {
            key: key.into(),
            revision,
        });
        let read = self.read(partition, mode, op);
        async move {
            let (result, meta) = read.run().await?;
            match result {
                read_result::Result::Get(get) => Ok(meta.with(get.kv)),
                _ => Err(meta.unexpected()),
            }
        }
    }

    /// One page of a range of keys.
    ///
    /// # Errors
    /// As [`Client::get_with`].
    pub fn range(
        &self,
        partition: &Partition,
        options: &RangeOptions,
    ) -> impl Future<Output = Result<Read<Page>>> + Send {
        let read = self.read(
            partition,
            options.mode,
            read_request::Op::Range(options.to_proto()),
        );
        async move {
            let (result, meta) = read.run().await?;
            match result {
                read_result::Result::Range(r) => Ok(meta.with(Page {
                    kvs: r.kvs,
                    continuation: r.continuation,
                })),
                _ => Err(meta.unexpected()),
            }
        }
    }

    /// The pages of a range, one after the other, all of the state of the first page's revision.
    pub fn pages(&self, partition: &Partition, options: RangeOptions) -> Pages {
        Pages {
            client: self.clone(),
            partition: partition.clone(),
            options,
            done: false,
        }
    }

    /// All keys of a range, however many there are, of one revision, which is in the answer. Holds them all in memory; use
    /// [`Client::pages`] for large ranges. `options.limit` is the size of a page here.
    ///
    /// # Errors
    /// As [`Client::get_with`].
    pub async fn range_all(
        &self,
        partition: &Partition,
        options: RangeOptions,
    ) -> Result<Read<Vec<KeyValue>>> {
        let mut pages = self.pages(partition, options);
        let first = self.range(partition, &pages.options).await?;
        pages.go_on_after(&first.value);
        // Later pages are of the same state, and say how far the shard has come since.
        let mut all = Read {
            value: first.value.kvs,
            revision: first.revision,
            age: first.age,
        };
        while let Some(page) = pages.next().await? {
            all.value.extend(page.value.kvs);
        }
        Ok(all)
    }

    /// A transaction without writes, on one state.
    ///
    /// # Errors
    /// `Invalid` if it has writes; otherwise as [`Client::get_with`].
    pub fn txn_read(
        &self,
        partition: &Partition,
        txn: Txn,
        mode: ReadMode,
    ) -> impl Future<Output = Result<Read<TxnReply>>> + Send {
        let read_only = txn.is_read_only();
        let read = self.read(partition, mode, read_request::Op::Txn(txn.into_proto()));
        async move {
            if !read_only {
                return Err(Error::definite(
                    Code::Invalid,
                    "the transaction has writes: use `txn`",
                ));
            }
            let (result, meta) = read.run().await?;
            match result {
                read_result::Result::Txn(r) => {
                    let reply = TxnReply::from_proto(r, meta.revision, &meta.address)?;
                    Ok(meta.with(reply))
                }
                _ => Err(meta.unexpected()),
            }
        }
    }

    fn read(&self, partition: &Partition, mode: ReadMode, op: read_request::Op) -> ReadCall {
        ReadCall {
            core: self.core.clone(),
            place: Place::Slot(partition.slot()),
            request: core::read_request(partition.to_proto(), mode, op),
            from: self.read_from(),
            deadline: self.deadline(),
        }
    }
}

/// A read that has not begun. Not a future yet: those are large, and moving one from call to call costs more than making it where it is awaited.
struct ReadCall {
    core: Arc<Core>,
    place: Place,
    request: v1::ReadRequest,
    from: ReadFrom,
    deadline: Instant,
}

impl ReadCall {
    async fn run(self) -> Result<(read_result::Result, ReadMeta)> {
        let Answer { value, address } = self
            .core
            .read(self.place, &self.request, self.from, self.deadline)
            .await?;
        let age = Duration::from_millis(value.age_ms);
        let meta = ReadMeta {
            revision: value.revision,
            age,
            address,
        };
        match value.result {
            Some(result) => Ok((result, meta)),
            None => Err(meta.unexpected()),
        }
    }
}

/// What an answer to a read says beside its result.
struct ReadMeta {
    revision: u64,
    age: Duration,
    address: Arc<str>,
}

impl ReadMeta {
    fn with<T>(self, value: T) -> Read<T> {
        Read {
            value,
            revision: self.revision,
            age: self.age,
        }
    }

    fn unexpected(&self) -> Error {
        Error::unexpected("the result of another kind of read", &self.address)
    }
}

/// The pages of a range, see [`Client::pages`].
#[derive(Debug)]
pub struct Pages {
    client: Client,
    partition: Partition,
    options: RangeOptions,
    done: bool,
}

impl Pages {
    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// As [`Client::range`]; the same page may be asked for again.
    pub async fn next(&mut self) -> Result<Option<Read<Page>>> {
        if self.done {
            return Ok(None);
        }
        let page = self.client.range(&self.partition, &self.options).await?;
        self.go_on_after(&page.value);
        Ok(Some(page))
    }

    fn go_on_after(&mut self, page: &Page) {
        self.options.continuation.clone_from(&page.continuation);
        self.done = page.continuation.is_empty();
    }
}
