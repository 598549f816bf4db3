//! A naive cluster in memory behind a [`Transport`], for tests: three nodes, a leader for each shard, sessions, a change log,
//! consumers, and faults on demand. Everything is applied to one shared state at once, as if replication took no time.

pub(crate) mod state;
mod streams;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use kvsvr_proto::v1;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::{Notify, mpsc},
    time::Duration,
};

use self::state::Shard;
use crate::{
    Client, ClientConfig,
    transport::{
        Class, Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver, StreamSender, Transport, TransportError,
    },
};

pub(crate) const NODES: [&str; 3] = ["n1:1", "n2:1", "n3:1"];

/// What happens to the next write that reaches a leader.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The connection breaks before it is applied.
    BreakBefore,
    /// The connection breaks after it is applied.
    BreakAfter,
    /// It is applied, and no answer comes.
    Silence,
    /// It is not applied; this is the answer.
    Answer(v1::Error),
}

#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) map: v1::ShardMap,
    /// Leader's node id by shard; 0 = none.
    pub(crate) leaders: BTreeMap<u32, u64>,
    pub(crate) down: Vec<&'static str>,
    pub(crate) shards: BTreeMap<u32, Shard>,
    pub(crate) faults: VecDeque<Fault>,
    /// As `faults`, for the openings of sessions.
    pub(crate) open_faults: VecDeque<Fault>,
    /// What the nodes received: address, request.
    pub(crate) received: Vec<(String, v1::ExecRequest)>,
    /// Node answers reads with this error.
    pub(crate) read_errors: BTreeMap<&'static str, v1::ErrorCode>,
    /// Events that a watch sends before its stream ends; 0 = it does not end.
    pub(crate) watch_breaks_after: usize,
    /// A watch sends this many revisions before its position again.
    pub(crate) watch_repeats: u64,
    /// Time that a message of a watch takes.
    pub(crate) watch_delay: Duration,
    /// Time that a read and its answer take.
    pub(crate) read_delay: Duration,
    /// Counts the times that all streams were broken.
    pub(crate) breaks: u64,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) cluster: Arc<Mutex<Cluster>>,
    changed: Arc<Notify>,
}

/// Lets all tasks go as far as they can: in virtual time a millisecond passes only when none of them can do anything.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub(crate) fn error(code: v1::ErrorCode) -> v1::Error {
    v1::Error {
        code: code.into(),
        message: format!("{code:?}"),
        ..v1::Error::default()
    }
}

impl Fake {
    /// Three nodes; shards 0 (meta), 1 (lower half of the slots) and 2, led by nodes 1, 1 and 2.
    pub(crate) fn new() -> Self {
        let nodes = (1..).zip(NODES).map(|(id, address)| v1::NodeInfo {
            id,
            address: address.to_owned(),
            ..v1::NodeInfo::default()
        });
        let shard = |id, first_slot, last_slot, replicas| v1::ShardInfo {
            id,
            first_slot,
            last_slot,
            replicas,
            ..v1::ShardInfo::default()
        };
        let map = v1::ShardMap {
            cluster_id: "c".to_owned(),
            cluster_name: String::new(),
            epoch: 1,
            nodes: nodes.collect(),
            shards: vec![
                shard(0, 0, 0, vec![1, 2, 3]),
                shard(1, 0, 2047, vec![1, 2, 3]),
                shard(2, 2048, 4095, vec![2, 3, 1]),
            ],
            replication: 3,
            ..v1::ShardMap::default()
        };
        let cluster = Cluster {
            map,
            leaders: [(0, 1), (1, 1), (2, 2)].into(),
            shards: (0..3).map(|id| (id, Shard::default())).collect(),
            ..Cluster::default()
        };
        Self {
            cluster: Arc::new(Mutex::new(cluster)),
            changed: Arc::new(Notify::new()),
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client_with(ClientConfig::new(NODES))
    }

    pub(crate) fn client_with(&self, config: ClientConfig) -> Client {
        Client::with_transport(Arc::new(self.clone()), config).unwrap()
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.cluster.lock().faults.push_back(fault);
    }

    pub(crate) fn lead(&self, shard: u32, node: u64) {
        self.cluster.lock().leaders.insert(shard, node);
        self.wake();
    }

    /// Kills a node: its connections break and none can be made.
    pub(crate) fn kill(&self, address: &'static str) {
        let mut cluster = self.cluster.lock();
        cluster.down.push(address);
        cluster.breaks += 1;
        drop(cluster);
        self.wake();
    }

    pub(crate) fn restart(&self, address: &'static str) {
        self.cluster.lock().down.retain(|a| *a != address);
    }

    pub(crate) fn break_streams(&self) {
        self.cluster.lock().breaks += 1;
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// The commands that reached nodes, with their addresses.
    pub(crate) fn commands(&self) -> Vec<(String, v1::Command)> {
        let cluster = self.cluster.lock();
        let commands = cluster
            .received
            .iter()
            .filter_map(|(address, request)| match &request.op {
                Some(v1::exec_request::Op::Command(bytes)) => {
                    Some((address.clone(), v1::Command::decode(bytes.clone()).unwrap()))
                }
                _ => None,
            });
        commands
            .filter(|(_, c)| !matches!(c.op, Some(v1::command::Op::SessionOpen(_))))
            .collect()
    }
}

impl Transport for Fake {
    fn call(
        &self,
        address: &str,
        _class: Class,
        method: Method,
        request: Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let fake = self.clone();
        let address = address.to_owned();
        async move {
            let cluster = fake.cluster.lock();
            cluster.check_up(&address)?;
            let refused = |error| TransportError::Api {
                address: address.clone(),
                error: Box::new(error),
            };
            cluster.unary(&address, method, request).map_err(refused)
        }
        .boxed()
    }

    fn open(
        &self,
        address: &str,
        _class: Class,
        method: Method,
    ) -> BoxFuture<'static, Result<(StreamSender, StreamReceiver), TransportError>> {
        let fake = self.clone();
        let address = address.to_owned();
        async move {
            fake.cluster.lock().check_up(&address)?;
            let (sender, input) = mpsc::channel(STREAM_QUEUE);
            let (output, receiver) = mpsc::channel(STREAM_QUEUE);
            match method {
                Method::KvExec => drop(tokio::spawn(streams::exec(fake, address, input, output))),
                _ => drop(tokio::spawn(streams::follow(
                    fake, address, method, input, output,
                ))),
            }
            Ok((sender, StreamReceiver::new(Receiver(receiver))))
        }
        .boxed()
    }
}

impl Cluster {
    fn check_up(&self, address: &str) -> Result<(), TransportError> {
        if self.down.contains(&address) || !NODES.contains(&address) {
            let reason = "connection refused".to_owned();
            return Err(TransportError::Unreachable {
                address: address.to_owned(),
                reason,
            });
        }
        Ok(())
    }

    fn unary(&self, address: &str, method: Method, request: Bytes) -> Result<Bytes, v1::Error> {
        match method {
            Method::AdminShardMap => {
                let response = v1::ShardMapResponse {
                    map: Some(self.map.clone()),
                };
                Ok(response.encode_to_vec().into())
            }
            Method::AdminTransferLeader => {
                let request = v1::TransferLeaderRequest::decode(request).unwrap();
                if self.leaders[&request.shard] != self.id(address) {
                    return Err(self.not_leader(request.shard));
                }
                Ok(v1::TransferLeaderResponse { leader: request.to }
                    .encode_to_vec()
                    .into())
            }
            other => panic!("the fake does not know {other:?}"),
        }
    }

    pub(crate) fn id(&self, address: &str) -> u64 {
        self.map.nodes.iter().find(|n| n.address == address).unwrap().id
    }

    pub(crate) fn not_leader(&self, shard: u32) -> v1::Error {
        let leader = self.leaders[&shard];
        let Some(node) = self.map.nodes.iter().find(|n| n.id == leader) else {
            return error(v1::ErrorCode::NoLeader);
        };
        v1::Error {
            leader_node: leader,
            leader_address: node.address.clone(),
            ..error(v1::ErrorCode::NotLeader)
        }
    }
}

pub(crate) struct Receiver(pub(crate) mpsc::Receiver<Result<Bytes, TransportError>>);

impl ReceiveMessages for Receiver {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        self.0.recv().boxed()
    }
}
