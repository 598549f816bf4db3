//! A cluster of one node in memory, behind the client library's transport: enough of the protocol to run commands against. It keeps
//! the newest values only, has one data shard, and knows neither sessions nor leases. It can pass for several nodes that differ ([`replicas`]).

mod members;
mod replicas;

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr_client::{
    proto::{
        self, command, compare, exec_reply, exec_request, outcome, read_request, read_result, txn_op,
        txn_op_result,
    },
    transport::{
        Class, Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver, StreamSender, Transport, TransportError,
    },
};
use prost::Message;
use tokio::sync::mpsc;

/// Where the node listens.
pub(crate) const ADDRESS: &str = "node:1";
const NODE: u64 = 1;

type Key = (Bytes, Bytes);

#[derive(Default)]
struct State {
    revision: u64,
    compacted: u64,
    data: BTreeMap<Key, proto::KeyValue>,
    log: Vec<proto::WatchEvent>,
    /// Writes refused from now on.
    broken: bool,
    operations: Vec<proto::Operation>,
    replicas: replicas::Replicas,
    /// Where reads were answered.
    read_at: Vec<String>,
}

/// The cluster.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    /// Writes are answered with NO_LEADER or not.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.0.lock().unwrap().broken = broken;
    }

    /// The events up to this revision are gone.
    pub(crate) fn compact(&self, revision: u64) {
        self.0.lock().unwrap().compacted = revision;
    }

    /// Where reads were answered since this was asked last.
    pub(crate) fn read_at(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().read_at)
    }

    /// Changes what its nodes' replicas hold.
    pub(crate) fn replicas<T>(&self, change: impl FnOnce(&mut replicas::Replicas) -> T) -> T {
        change(&mut self.0.lock().unwrap().replicas)
    }

    fn answer(&self, node: u64, method: Method, request: &[u8]) -> Result<Bytes, proto::Error> {
        if method == Method::AdminChangeMembers {
            let request = proto::ChangeMembersRequest::decode(request).unwrap();
            let state = &mut *self.0.lock().unwrap();
            let answer = members::change(request, &mut state.operations, &mut state.replicas)?;
            return Ok(encode(&answer));
        }
        if method == Method::AdminStateHash {
            let request = proto::StateHashRequest::decode(request).unwrap();
            return Ok(encode(&self.replicas(|replicas| replicas.hash(node, &request))?));
        }
        Ok(match method {
            Method::AdminMembers => encode(&members::members(&self.0.lock().unwrap().operations)),
            Method::AdminShardMap => encode(&proto::ShardMapResponse {
                map: Some(self.replicas(|replicas| replicas.map())),
            }),
            Method::AdminStatus => encode(&proto::StatusResponse {
                status: Some(self.status(node)),
            }),
            Method::AdminTransferLeader => {
                let request = proto::TransferLeaderRequest::decode(request).unwrap();
                encode(&self.replicas(|replicas| replicas.transfer(&request)))
            }
            Method::AdminCompact => {
                let request = proto::CompactRequest::decode(request).unwrap();
                let floor = self
                    .0
                    .lock()
                    .unwrap()
                    .revision
                    .saturating_sub(request.keep_revisions);
                self.compact(floor);
                encode(&proto::CompactResponse {
                    floors: [(1, floor)].into(),
                    errors: Vec::new(),
                })
            }
            other => panic!("the fake does not know {other:?}"),
        })
    }

    fn status(&self, node: u64) -> proto::NodeStatus {
        let state = self.0.lock().unwrap();
        let (revision, leader) = (state.revision, state.replicas.leader());
        let replica = |shard| proto::ReplicaStatus {
            shard,
            role: if node == leader { "leader" } else { "follower" }.into(),
            leader,
            term: 1,
            revision,
            ..proto::ReplicaStatus::default()
        };
        proto::NodeStatus {
            node_id: node,
            cluster_id: "fake".into(),
            address: replicas::address(node),
            disk_free_bytes: 1 << 40,
            replicas: vec![replica(0), replica(1)],
            ..proto::NodeStatus::default()
        }
    }

    fn frame(&self, address: &str, frame: proto::ExecFrame) -> proto::ExecReplyFrame {
        let replies = frame.requests.into_iter().map(|request| proto::ExecReply {
            id: request.id,
            map_epoch: 1,
            result: Some(self.request(address, request.op.unwrap())),
        });
        proto::ExecReplyFrame {
            replies: replies.collect(),
        }
    }

    fn request(&self, address: &str, op: exec_request::Op) -> exec_reply::Result {
        let mut state = self.0.lock().unwrap();
        match op {
            exec_request::Op::Read(read) => {
                state.read_at.push(address.to_owned());
                exec_reply::Result::Read(state.read(read))
            }
            exec_request::Op::Command(_) if state.broken => exec_reply::Result::Error(proto::Error {
                code: proto::ErrorCode::NoLeader.into(),
                message: "no leader".into(),
                ..proto::Error::default()
            }),
            exec_request::Op::Command(command) => {
                let command = proto::Command::decode(command).unwrap();
                exec_reply::Result::Outcome(encode(&state.apply(command)))
            }
        }
    }

    fn watched(&self, request: &proto::WatchRequest) -> proto::WatchResponse {
        let state = self.0.lock().unwrap();
        if request.after_revision < state.compacted {
            let error = proto::Error {
                code: proto::ErrorCode::Compacted.into(),
                message: "compacted".into(),
                revision: state.compacted + 1,
                ..proto::Error::default()
            };
            return proto::WatchResponse {
                error: Some(error),
                ..proto::WatchResponse::default()
            };
        }
        let wanted = |event: &&proto::WatchEvent| {
            event.kv.as_ref().is_some_and(|kv| {
                kv.mod_rev > request.after_revision && kv.key.starts_with(&request.key_prefix)
            }) && (request.partition.is_none() || event.partition == request.partition)
        };
        let events = state.log.iter().filter(wanted).cloned().collect();
        proto::WatchResponse {
            revision: state.revision,
            events,
            ..proto::WatchResponse::default()
        }
    }
}

impl State {
    fn apply(&mut self, command: proto::Command) -> proto::Outcome {
        let partition = command.partition.unwrap().name;
        self.revision += 1;
        let result = match command.op.unwrap() {
            command::Op::Put(put) => outcome::Result::Put(self.put(&partition, put)),
            command::Op::Delete(delete) => {
                let deleted = self.data.remove(&(partition, delete.key)).map_or(0, |_| 1);
                outcome::Result::Delete(proto::DeleteResult { deleted })
            }
            command::Op::DeleteRange(range) => {
                let keys = self.keys(&partition, &range.start, &range.end);
                let deleted = keys.iter().filter_map(|key| self.data.remove(key)).count() as u64;
                outcome::Result::Delete(proto::DeleteResult { deleted })
            }
            command::Op::Increment(incr) => {
                let old = self
                    .data
                    .get(&(partition.clone(), incr.key.clone()))
                    .map(|kv| kv.value.clone());
                let old = old.map_or(0, |v| i64::from_be_bytes(v[..].try_into().unwrap()));
                let value = old + incr.delta;
                let put = proto::Put {
                    key: incr.key,
                    value: value.to_be_bytes().to_vec().into(),
                    ..proto::Put::default()
                };
                self.put(&partition, put);
                outcome::Result::Increment(proto::IncrementResult { value })
            }
            command::Op::Txn(txn) => outcome::Result::Txn(self.txn(&partition, txn)),
            other => panic!("the fake does not know {other:?}"),
        };
        proto::Outcome {
            revision: self.revision,
            result: Some(result),
        }
    }

    fn put(&mut self, partition: &Bytes, put: proto::Put) -> proto::PutResult {
        let old = self.data.get(&(partition.clone(), put.key.clone()));
        let version = old.map_or(0, |kv| kv.version) + 1;
        let create_rev = old.map_or(self.revision, |kv| kv.create_rev);
        let kv = proto::KeyValue {
            key: put.key.clone(),
            value: put.value,
            create_rev,
            mod_rev: self.revision,
            version,
            lease: put.lease,
            expires_at_ms: if put.ttl_ms > 0 { u64::MAX } else { 0 },
        };
        self.log.push(proto::WatchEvent {
            kind: proto::watch_event::Kind::Put.into(),
            partition: Some(proto::Partition {
                region: 0,
                name: partition.clone(),
            }),
            kv: Some(kv.clone()),
        });
        self.data.insert((partition.clone(), put.key), kv);
        proto::PutResult { version }
    }

    fn txn(&mut self, partition: &Bytes, txn: proto::Txn) -> proto::TxnResult {
        let holds = |c: &proto::Compare| {
            let exists = self.data.contains_key(&(partition.clone(), c.key.clone()));
            assert_eq!(
                c.target(),
                compare::Target::Exists,
                "the fake compares existence only"
            );
            exists == (c.operator() == compare::Operator::Equal)
        };
        let succeeded = txn.compares.iter().all(holds);
        let ops = if succeeded { txn.then_ops } else { txn.else_ops };
        let results = ops.into_iter().map(|op| {
            let result = match op.op.unwrap() {
                txn_op::Op::Put(put) => txn_op_result::Result::Put(self.put(partition, put)),
                txn_op::Op::Get(get) => txn_op_result::Result::Get(proto::GetResult {
                    kv: self.data.get(&(partition.clone(), get.key)).cloned(),
                }),
                other => panic!("the fake does not know {other:?}"),
            };
            proto::TxnOpResult { result: Some(result) }
        });
        proto::TxnResult {
            succeeded,
            results: results.collect(),
        }
    }

    fn read(&self, read: proto::ReadRequest) -> proto::ReadResult {
        let partition = read.partition.unwrap().name;
        let result = match read.op.unwrap() {
            read_request::Op::Get(get) => read_result::Result::Get(proto::GetResult {
                kv: self.data.get(&(partition, get.key)).cloned(),
            }),
            read_request::Op::Range(range) => read_result::Result::Range(self.range(&partition, range)),
            other => panic!("the fake does not know {other:?}"),
        };
        proto::ReadResult {
            revision: self.revision,
            age_ms: 0,
            result: Some(result),
        }
    }

    fn range(&self, partition: &Bytes, range: proto::Range) -> proto::RangeResult {
        let mut keys = self.keys(partition, &range.start, &range.end);
        if range.reverse {
            keys.reverse();
        }
        if !range.continuation.is_empty() {
            let seen = keys
                .iter()
                .position(|(_, key)| key == &range.continuation)
                .unwrap();
            keys.drain(..=seen);
        }
        let more = range.limit > 0 && keys.len() > range.limit as usize;
        if more {
            keys.truncate(range.limit as usize);
        }
        let continuation = if more {
            keys.last().unwrap().1.clone()
        } else {
            Bytes::new()
        };
        proto::RangeResult {
            kvs: keys.iter().map(|key| self.data[key].clone()).collect(),
            continuation,
        }
    }

    fn keys(&self, partition: &Bytes, start: &Bytes, end: &Bytes) -> Vec<Key> {
        let from = Bound::Included((partition.clone(), start.clone()));
        let inside = |key: &&Key| key.0 == *partition && (end.is_empty() || key.1 < *end);
        self.data
            .range((from, Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(inside)
            .cloned()
            .collect()
    }
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

struct Replies(mpsc::Receiver<Bytes>);

impl ReceiveMessages for Replies {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        Box::pin(async { self.0.recv().await.map(Ok) })
    }
}

impl Transport for Fake {
    fn call(
        &self,
        address: &str,
        _: Class,
        method: Method,
        request: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let node = self.replicas(|replicas| replicas.at(address));
        let answer = if let Some(node) = node {
            let answer = self.answer(node, method, &request);
            answer.map_err(|error| TransportError::Api {
                address: address.into(),
                error: Box::new(error),
            })
        } else {
            Err(TransportError::Unreachable {
                address: address.into(),
                reason: "no such node".into(),
            })
        };
        Box::pin(std::future::ready(answer))
    }

    fn open(
        &self,
        address: &str,
        _: Class,
        method: Method,
    ) -> BoxFuture<'static, Result<(StreamSender, StreamReceiver), TransportError>> {
        let (sender, mut requests) = mpsc::channel::<Bytes>(STREAM_QUEUE);
        let (replies, receiver) = mpsc::channel(STREAM_QUEUE);
        let (fake, address) = (self.clone(), address.to_owned());
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                let reply = match method {
                    Method::KvExec => {
                        encode(&fake.frame(&address, proto::ExecFrame::decode(request).unwrap()))
                    }
                    Method::WatchWatch => {
                        encode(&fake.watched(&proto::WatchRequest::decode(request).unwrap()))
                    }
                    other => panic!("the fake does not know {other:?}"),
                };
                if replies.send(reply).await.is_err() {
                    return;
                }
            }
        });
        Box::pin(async move { Ok((sender, StreamReceiver::new(Replies(receiver)))) })
    }
}
