//! The client's front: typed calls that become one command or one read each.

use std::{fmt, future::Future, sync::Arc};

use bytes::Bytes;
use kvsvr_proto::v1::{self, command, outcome, read_request, read_result};
use tokio::time::{Duration, Instant};

use crate::{
    core::{self, Answer, Core},
    error::{Code, Error, Result},
    limits::{REQUEST_TIMEOUT, TRY_TIMEOUT},
    retry::Repeat,
    router::Place,
    transport::Transport,
    txn::{self, Txn, TxnReply},
    types::{
        AppendReply, CallOptions, DeleteReply, GetOptions, IncrementReply, KeyValue, LeaseReply, Page,
        Partition, PutOptions, PutReply, RangeOptions, Read, ReadFrom, ReadMode,
    },
};

/// How a client is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// HOST:PORT of some nodes; the others are learnt from them.
    pub endpoints: Vec<String>,
    /// Time that a call may take, all its tries together.
    pub request_timeout: Duration,
    /// Time that one try may take before another node is asked.
    pub try_timeout: Duration,
    /// Writes carry a session and a sequence number, so that they can be tried again and are applied once. Without, a write whose
    /// connection breaks is reported as unknown.
    pub sessions: bool,
    /// Which replica answers reads.
    pub read_from: ReadFrom,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            request_timeout: REQUEST_TIMEOUT,
            try_timeout: TRY_TIMEOUT,
            sessions: true,
            read_from: ReadFrom::Leader,
        }
    }
}

impl ClientConfig {
    /// The defaults, with these endpoints.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// A client of a kvsvr cluster. Cheap to clone; clones share connections, sessions and what is known about the cluster. Needs a
/// tokio runtime.
///
/// Every call ends by its deadline. Calls are retried until then where that is safe: reads always, writes under the same session
/// and sequence number, which the server applies once. See [`Error`] for what a failed call means.
#[derive(Clone)]
pub struct Client {
    pub(crate) core: Arc<Core>,
    request_timeout: Duration,
    read_from: ReadFrom,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("request_timeout", &self.request_timeout)
            .field("read_from", &self.read_from)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client over gRPC that has the cluster's shard map.
    ///
    /// # Errors
    /// No endpoint could be reached, or none is part of a cluster.
    #[cfg(feature = "grpc")]
    pub async fn connect(config: ClientConfig) -> Result<Client> {
        let client = Self::new(config)?;
        client.core.fetch_map(client.deadline(), 0).await?;
        Ok(client)
    }

    /// A client over gRPC that connects with its first call.
    ///
    /// # Errors
    /// The configuration has no endpoints.
    #[cfg(feature = "grpc")]
    pub fn new(config: ClientConfig) -> Result<Client> {
        Self::with_transport(Arc::new(crate::grpc::GrpcTransport::new()), config)
    }

    /// A client over another transport. Connects with its first call.
    ///
    /// # Errors
    /// The configuration has no endpoints.
    pub fn with_transport(transport: Arc<dyn Transport>, config: ClientConfig) -> Result<Client> {
        if config.endpoints.is_empty() {
            return Err(Error::definite(
                Code::Invalid,
                "no endpoints: give HOST:PORT of at least one node",
            ));
        }
        let endpoints = config.endpoints.iter().map(|e| e.as_str().into()).collect();
        Ok(Client {
            core: Arc::new(Core::new(
                transport,
                endpoints,
                config.try_timeout,
                config.sessions,
            )),
            request_timeout: config.request_timeout,
            read_from: config.read_from,
        })
    }

    /// The same client with other options for its calls. Cheap.
    pub fn with_options(&self, options: CallOptions) -> Client {
        Client {
            core: self.core.clone(),
            request_timeout: options.timeout.unwrap_or(self.request_timeout),
            read_from: options.read_from.unwrap_or(self.read_from),
        }
    }

    /// The same client with another timeout for its calls. Cheap.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        self.with_options(CallOptions {
            timeout: Some(timeout),
            read_from: None,
        })
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    pub(crate) fn read_from(&self) -> ReadFrom {
        self.read_from
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.request_timeout
    }

    // Reads.

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
            let (result, meta) = read.await?;
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
            let (result, meta) = read.await?;
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

    /// All keys of a range, however many there are, of one revision. Holds them all in memory; use [`Client::pages`] for large
    /// ranges. `options.limit` is the size of a page here.
    ///
    /// # Errors
    /// As [`Client::get_with`].
    pub async fn range_all(
        &self,
        partition: &Partition,
        options: RangeOptions,
    ) -> Result<Read<Vec<KeyValue>>> {
        let mut pages = self.pages(partition, options);
        let mut all = Read {
            value: Vec::new(),
            revision: 0,
            age: Duration::ZERO,
        };
        while let Some(page) = pages.next().await? {
            all.value.extend(page.value.kvs);
            all.revision = page.revision;
            all.age = page.age;
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
            let (result, meta) = read.await?;
            match result {
                read_result::Result::Txn(r) => {
                    let reply = TxnReply::from_proto(r, meta.revision, &meta.address)?;
                    Ok(meta.with(reply))
                }
                _ => Err(meta.unexpected()),
            }
        }
    }

    fn read(
        &self,
        partition: &Partition,
        mode: ReadMode,
        op: read_request::Op,
    ) -> impl Future<Output = Result<(read_result::Result, ReadMeta)>> + Send + use<> {
        let core = self.core.clone();
        let (from, deadline) = (self.read_from, self.deadline());
        let place = Place::Slot(partition.slot());
        let request = core::read_request(partition.to_proto(), mode, op);
        async move {
            let Answer { value, address } = core.read(place, request, from, deadline).await?;
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

    // Writes.

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
            let answer = write.await?;
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
            let answer = write.await?;
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
            let answer = write.await?;
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
            let answer = write.await?;
            match answer.value.result {
                Some(outcome::Result::Append(r)) => Ok(AppendReply {
                    revision: answer.value.revision,
                    seq: r.seq,
                }),
                _ => Err(answer.unexpected()),
            }
        }
    }

    /// A transaction. One without writes is better sent with [`Client::txn_read`], which does not go through the log.
    ///
    /// # Errors
    /// The refusal of any operation refuses all; see [`Error`]. That a compare does not hold is not an error.
    pub fn txn(&self, partition: &Partition, txn: Txn) -> impl Future<Output = Result<TxnReply>> + Send {
        let write = self.write(partition, command::Op::Txn(txn.into_proto()));
        async move {
            let answer = write.await?;
            match answer.value.result {
                Some(outcome::Result::Txn(r)) => {
                    TxnReply::from_proto(r, answer.value.revision, &answer.address)
                }
                _ => Err(answer.unexpected()),
            }
        }
    }

    // Leases.

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
        lease_reply(self.write(partition, op).await?)
    }

    /// Makes the lease live for its whole TTL again.
    ///
    /// # Errors
    /// `NotFound` if it has ended; see [`Error`].
    pub async fn lease_keep_alive(&self, partition: &Partition, id: u64) -> Result<LeaseReply> {
        let op = command::Op::LeaseKeepAlive(v1::LeaseKeepAlive { id });
        lease_reply(self.write_as(Repeat::Harmless, partition, op).await?)
    }

    /// Ends the lease and deletes the keys attached to it.
    ///
    /// # Errors
    /// `NotFound` if there is no such lease; see [`Error`].
    pub async fn lease_revoke(&self, partition: &Partition, id: u64) -> Result<LeaseReply> {
        let op = command::Op::LeaseRevoke(v1::LeaseRevoke { id });
        lease_reply(self.write(partition, op).await?)
    }

    // Raw commands.

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

    pub(crate) fn repeat(&self) -> Repeat {
        if self.core.sessions_on {
            Repeat::Deduplicated
        } else {
            Repeat::Forbidden
        }
    }

    fn write(
        &self,
        partition: &Partition,
        op: command::Op,
    ) -> impl Future<Output = Result<Answer<v1::Outcome>>> + Send + use<> {
        self.write_as(self.repeat(), partition, op)
    }

    fn write_as(
        &self,
        repeat: Repeat,
        partition: &Partition,
        op: command::Op,
    ) -> impl Future<Output = Result<Answer<v1::Outcome>>> + Send + use<> {
        let core = self.core.clone();
        let deadline = self.deadline();
        let place = Place::Slot(partition.slot());
        let command = v1::Command {
            partition: Some(partition.to_proto()),
            op: Some(op),
            ..v1::Command::default()
        };
        async move { core.execute(place, command, repeat, deadline).await }
    }
}

impl<T> Answer<T> {
    pub(crate) fn unexpected(&self) -> Error {
        Error::unexpected("the outcome of another kind of command", &self.address)
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
        self.options.continuation.clone_from(&page.value.continuation);
        self.done = page.value.continuation.is_empty();
        Ok(Some(page))
    }
}
