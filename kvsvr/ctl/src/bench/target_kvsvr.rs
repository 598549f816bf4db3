//! kvsvr as a target, through its client library. Each logical client is a caller of a shared [`Client`], whose requests travel
//! together in frames on one stream to each node.

use bytes::Bytes;
use kvsvr_client::{Error, GetOptions, Partition, RangeOptions, ReadMode, Watch, WatchItem, WatchOptions};

use super::target::{Client, OpError, Target, Watcher};
use crate::{context::Context, failure::Failure};

/// A kvsvr cluster and the client instances that reach it.
pub struct KvsvrTarget {
    clients: Vec<kvsvr_client::Client>,
    region: u16,
    mode: ReadMode,
}

impl KvsvrTarget {
    /// Makes `connections` independent client instances.
    ///
    /// # Errors
    /// No node can be reached, or none is part of a cluster.
    pub async fn connect(context: &Context, connections: usize, mode: ReadMode) -> Result<Self, Failure> {
        let clients = (0..connections)
            .map(|_| context.connect())
            .collect::<Result<Vec<_>, _>>()?;
        for client in &clients {
            client.shard_map().await?;
        }
        Ok(Self::new(clients, context.global.region, mode))
    }

    /// Over these clients, at least one.
    pub fn new(clients: Vec<kvsvr_client::Client>, region: u16, mode: ReadMode) -> Self {
        Self {
            clients,
            region,
            mode,
        }
    }

    fn partition(&self, number: u64) -> Partition {
        partition(self.region, number)
    }
}

fn partition(region: u16, number: u64) -> Partition {
    Partition::new(region, format!("bench{number:06}"))
}

impl Target for KvsvrTarget {
    type Key = (Partition, Bytes);
    type Client = KvsvrClient;
    const NAME: &'static str = "kvsvr";

    fn key(&self, partition: u64, number: u64) -> (Partition, Bytes) {
        (self.partition(partition), format!("{number:012}").into())
    }

    fn client(&self, index: usize) -> KvsvrClient {
        let client = self.clients[index % self.clients.len()].clone();
        KvsvrClient {
            client,
            region: self.region,
            mode: self.mode,
        }
    }

    async fn version(&self) -> Result<String, OpError> {
        let map = self.clients[0].shard_map().await.map_err(error)?;
        Ok(map
            .nodes
            .first()
            .map(|node| node.version.clone())
            .unwrap_or_default())
    }
}

/// A logical client of kvsvr.
pub struct KvsvrClient {
    client: kvsvr_client::Client,
    region: u16,
    mode: ReadMode,
}

impl Client for KvsvrClient {
    type Key = (Partition, Bytes);
    type Watcher = KvsvrWatcher;

    async fn get(&mut self, (partition, key): &Self::Key) -> Result<bool, OpError> {
        let options = GetOptions {
            mode: self.mode,
            revision: 0,
        };
        let read = self
            .client
            .get_with(partition, key.clone(), options)
            .await
            .map_err(error)?;
        Ok(read.value.is_some())
    }

    async fn put(&mut self, (partition, key): &Self::Key, value: Bytes) -> Result<(), OpError> {
        self.client
            .put(partition, key.clone(), value)
            .await
            .map_err(error)?;
        Ok(())
    }

    async fn scan(&mut self, (partition, key): &Self::Key, limit: u32) -> Result<usize, OpError> {
        let options = RangeOptions {
            limit,
            mode: self.mode,
            ..RangeOptions::between(key.clone(), Bytes::new())
        };
        let read = self.client.range(partition, &options).await.map_err(error)?;
        Ok(read.value.kvs.len())
    }

    async fn watch(&mut self, number: u64) -> Result<KvsvrWatcher, OpError> {
        let partition = partition(self.region, number);
        Ok(KvsvrWatcher(
            self.client
                .watch(WatchOptions::partition(partition))
                .await
                .map_err(error)?,
        ))
    }
}

/// A watch of kvsvr.
pub struct KvsvrWatcher(Watch);

impl Watcher for KvsvrWatcher {
    async fn next(&mut self, values: &mut Vec<Bytes>) -> Result<(), OpError> {
        match self.0.next().await.map_err(error)? {
            WatchItem::Events(batch) => {
                values.extend(batch.events.into_iter().map(|event| event.kv.value));
                Ok(())
            }
            WatchItem::Progress { .. } => Ok(()),
            WatchItem::Compacted { resume_from } => Err(OpError::definite(format!(
                "compacted up to revision {resume_from}"
            ))),
        }
    }
}

fn error(error: Error) -> OpError {
    OpError {
        unknown: error.is_unknown(),
        message: error.to_string(),
    }
}
