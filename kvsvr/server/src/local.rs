//! A cluster of one node in this process, in memory: the production node on an engine and a disk in memory, behind a [`Transport`] that calls it. For tests of programs that
//! use kvsvr, and of the node itself (feature `testing`).
//!
//! It does everything that a cluster does, but survive: what it holds is gone with it. It has no peers, so it neither sends nor gets snapshots.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr_client::{
    Client, ClientConfig,
    transport::{
        Class, Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver, StreamSender, Transport, TransportError,
    },
};
use kvsvr_core::{
    engine::{EngineError, EngineRead},
    mem::MemEngine,
};
use kvsvr_proto::v1 as pb;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use crate::{
    api::NodeService,
    config::Settings,
    disk::mem::MemDisk,
    maintenance,
    metrics::Metrics,
    node::{Node, NodeParts, StatusProbe},
    raft::snapshot::Checkpoints,
    service::{CallError, Service},
    store::{Store, StoreId},
    time::{Instant, sleep, timeout},
    wal::{Wal, WalOptions},
};

/// Its address, for clients.
pub const ADDRESS: &str = "n1:1";
/// Between two looks at whether the shards have leaders.
const LOOK: Duration = Duration::from_millis(5);

/// The way to the node: from clients, and from the node to itself.
#[derive(Default)]
pub(crate) struct Loopback(OnceLock<NodeService>);

impl Loopback {
    /// The node, once.
    pub(crate) fn set(&self, node: NodeService) {
        // A second one would be a mistake in this file.
        assert!(self.0.set(node).is_ok(), "one node");
    }

    fn node(&self, address: &str) -> Result<NodeService, TransportError> {
        let node = self.0.get().filter(|_| address == ADDRESS);
        node.cloned().ok_or_else(|| TransportError::Unreachable {
            address: address.to_owned(),
            reason: "no such node".to_owned(),
        })
    }
}

fn refused(error: CallError) -> TransportError {
    let address = ADDRESS.to_owned();
    match error {
        CallError::Api(error) => TransportError::Api { address, error },
        other => TransportError::Rejected {
            address,
            reason: other.to_string(),
        },
    }
}

impl Transport for Loopback {
    fn call(
        &self,
        address: &str,
        _class: Class,
        method: Method,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let node = self.node(address);
        Box::pin(async move {
            match timeout(deadline, node?.call(method, request)).await {
                Ok(answer) => answer.map_err(refused),
                Err(_) => Err(TransportError::Timeout {
                    address: ADDRESS.to_owned(),
                    after: deadline,
                }),
            }
        })
    }

    fn open(
        &self,
        address: &str,
        _class: Class,
        method: Method,
    ) -> BoxFuture<'static, Result<(StreamSender, StreamReceiver), TransportError>> {
        let node = self.node(address);
        Box::pin(async move {
            let node = node?;
            let (to_node, input) = mpsc::channel(STREAM_QUEUE);
            let (output, from_node) = mpsc::channel(STREAM_QUEUE);
            let (end, ended) = oneshot::channel();
            tokio::spawn(async move {
                let served = node.open(method, StreamReceiver::new(Input(input)), output).await;
                // Who has gone does not need the end.
                let _ = end.send(served);
            });
            let answers = Answers {
                messages: from_node,
                end: Some(ended),
            };
            Ok((to_node, StreamReceiver::new(answers)))
        })
    }
}

/// What the node receives.
struct Input(mpsc::Receiver<Bytes>);

impl ReceiveMessages for Input {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        Box::pin(async { self.0.recv().await.map(Ok) })
    }
}

/// What the client receives: messages, then how the stream ended.
struct Answers {
    messages: mpsc::Receiver<Bytes>,
    end: Option<oneshot::Receiver<Result<(), CallError>>>,
}

impl ReceiveMessages for Answers {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        Box::pin(async {
            if let Some(message) = self.messages.recv().await {
                return Some(Ok(message));
            }
            let ended = self.end.as_mut()?.await;
            self.end = None;
            ended.ok()?.err().map(|error| Err(refused(error)))
        })
    }
}

/// There is nobody to send a snapshot to.
struct NoCheckpoints;

impl Checkpoints for NoCheckpoints {
    fn create(&self, name: &str) -> Result<(), EngineError> {
        Err(EngineError::Io(format!("no checkpoint {name}")))
    }
    fn open(&self, _: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError> {
        Ok(None)
    }
    fn remove(&self, _: &str) -> Result<(), EngineError> {
        Ok(())
    }
    fn list(&self) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }
}

struct NoProbe;

impl StatusProbe for NoProbe {
    fn fill(&self, _: &mut pb::NodeStatus) {}
}

/// A node in memory that is in no cluster, and the reasons why its replicas stop.
pub(crate) async fn fresh_node(
    transport: Arc<dyn Transport>,
) -> (Arc<Node>, mpsc::UnboundedReceiver<String>) {
    let disk = Arc::new(MemDisk::new(1));
    let store_id = StoreId([9; 16]);
    let store = Store::open(disk.clone(), store_id, 0).await.expect("in memory");
    let options = WalOptions::new(store_id, 1, Arc::new(|_| {}));
    let (wal, _) = Wal::open(disk.clone(), options).await.expect("in memory");
    Node::start(NodeParts {
        settings: Settings::default(),
        address: ADDRESS.into(),
        store,
        disk,
        wal,
        engine: Arc::new(MemEngine::new()),
        checkpoints: Arc::new(NoCheckpoints),
        transport,
        metrics: Metrics::new(),
        probe: Arc::new(NoProbe),
        started: Instant::now(),
    })
    .await
    .expect("in memory")
}

/// Makes a cluster of the node, with so many data shards.
pub(crate) fn bootstrap_request(shards: u32) -> pb::BootstrapRequest {
    pb::BootstrapRequest {
        addresses: vec![ADDRESS.into()],
        shards,
        replication: 1,
        cluster_name: "local".into(),
    }
}

/// The cluster.
pub struct LocalCluster {
    transport: Arc<Loopback>,
    service: NodeService,
    /// Says why a replica has stopped.
    fatal: Mutex<mpsc::UnboundedReceiver<String>>,
}

impl LocalCluster {
    /// Starts it, with so many data shards, and waits until they serve.
    ///
    /// # Panics
    /// If they do not, which would be a bug.
    pub async fn start(shards: u32) -> Self {
        let cluster = Self::without_maintenance(shards).await;
        maintenance::spawn(&cluster.service.0);
        cluster
    }

    /// Nothing expires, and nothing else happens by itself.
    pub(crate) async fn without_maintenance(shards: u32) -> Self {
        let transport = Arc::new(Loopback::default());
        let (node, fatal) = fresh_node(transport.clone()).await;
        let service = NodeService(node);
        transport.set(service.clone());
        let cluster = Self {
            transport,
            service,
            fatal: Mutex::new(fatal),
        };
        let request = bootstrap_request(shards).encode_to_vec().into();
        let made = cluster.service.call(Method::AdminBootstrap, request).await;
        made.expect("a cluster of one node");
        for shard in 1..=shards {
            while !cluster.serves(shard) {
                sleep(LOOK).await;
            }
        }
        cluster
    }

    fn serves(&self, shard: u32) -> bool {
        let node = &self.service.0;
        node.replica(shard).is_ok_and(|replica| replica.leader().is_me())
    }

    /// A new client of it.
    ///
    /// # Panics
    /// Never: the address is well formed.
    pub fn client(&self) -> Client {
        let config = ClientConfig::new([ADDRESS]);
        Client::with_transport(self.transport.clone(), config).expect("a well-formed address")
    }

    /// What answers its methods.
    pub(crate) fn service(&self) -> &NodeService {
        &self.service
    }

    /// Why a replica has stopped, if one has.
    pub fn stopped(&self) -> Option<String> {
        self.fatal.lock().try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_client::{Code, ConsumerStart, EventKind, Partition, RangeOptions, WatchItem, WatchOptions};

    use super::LocalCluster;

    #[tokio::test]
    async fn it_writes_reads_and_tells() {
        let cluster = LocalCluster::start(2).await;
        let client = cluster.client();
        let alice = Partition::local("alice");
        let mut watch = client
            .watch(WatchOptions::partition(alice.clone()))
            .await
            .unwrap();
        client.put(&alice, "key", "value").await.unwrap();
        let read = client.get(&alice, "key").await.unwrap().value.unwrap();
        assert_eq!(&read.value[..], b"value");
        let WatchItem::Events(batch) = watch.next().await.unwrap() else {
            panic!("no events");
        };
        assert_eq!(
            (batch.events[0].kind, &batch.events[0].kv.key[..]),
            (EventKind::Put, &b"key"[..])
        );
        assert_eq!(cluster.stopped(), None);
    }

    /// Somebody writes between the pages: the answer is of one revision, and says which.
    #[tokio::test]
    async fn a_range_in_pages_is_of_the_revision_that_it_names() {
        let cluster = LocalCluster::start(1).await;
        let (client, alice) = (cluster.client(), Partition::local("alice"));
        for key in 0..20 {
            client.put(&alice, format!("k{key:02}"), "0").await.unwrap();
        }
        let writing = async {
            for value in 1..200 {
                let key = format!("k{:02}", value % 20);
                client.put(&alice, key, value.to_string()).await.unwrap();
            }
        };
        let reading = async {
            for _ in 0..10 {
                let all = client
                    .range_all(&alice, RangeOptions::prefix("k").limit(1))
                    .await
                    .unwrap();
                let options = RangeOptions::prefix("k").revision(all.revision);
                let whole = client.range(&alice, &options).await.unwrap().value;
                assert_eq!(all.value, whole.kvs, "at {}", all.revision);
            }
        };
        futures::join!(writing, reading);
    }

    /// An acknowledgement of a consumer of the same name, that was deleted, is none.
    #[tokio::test]
    async fn the_epochs_of_a_deleted_consumer_are_not_used_again() {
        let cluster = LocalCluster::start(1).await;
        let (client, alice) = (cluster.client(), Partition::local("alice"));
        let mut before = client.consumer_open(1, "c", ConsumerStart::Now).await.unwrap();
        client.consumer_delete(1, "c").await.unwrap();
        let after = client.consumer_open(1, "c", ConsumerStart::Now).await.unwrap();
        let put = client.put(&alice, "key", "value").await.unwrap();
        assert!(after.epoch() > before.epoch());
        assert_eq!(before.ack(put.revision).await.unwrap_err().code, Code::Fenced);
        let other = client
            .consumer_open(1, "another", ConsumerStart::Now)
            .await
            .unwrap();
        assert_eq!(other.epoch(), before.epoch() + 1);
    }
}
