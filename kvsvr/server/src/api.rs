//! The methods of the API as thin adapters: decode, call, encode.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr_client::transport::{Method, StreamReceiver, StreamSender};
use kvsvr_proto::v1::{
    self as pb, ErrorCode, command::Op as CommandOp, exec_reply::Result as Answer,
    exec_request::Op as ExecOp, outcome::Result as OutcomeResult, read_request::Op as ReadRequestOp,
    read_result::Result as ReadAnswer,
};
use prost::Message;

use crate::{
    admin,
    admin::{backup, members},
    exec,
    node::Node,
    peer,
    service::{CallError, Service},
    shard::{error, reply::ReplyTo},
    time::timeout,
    watch,
};

/// Answers everything that comes to a node.
#[derive(Clone)]
pub struct NodeService(pub Arc<Node>);

fn malformed(e: impl ToString) -> CallError {
    CallError::Malformed(e.to_string())
}

/// An API error as the failure of a unary call.
pub fn failed(error: pb::Error) -> CallError {
    CallError::Api(Box::new(error))
}

fn decode<M: Message + Default>(request: Bytes) -> Result<M, CallError> {
    M::decode(request).map_err(malformed)
}

fn encode(message: &impl Message) -> Result<Bytes, CallError> {
    Ok(message.encode_to_vec().into())
}

fn surprising() -> CallError {
    failed(error::unknown(
        ErrorCode::Internal,
        "the answer does not fit the request",
    ))
}

/// Runs one request on the same path as those of a stream.
async fn run(node: &Arc<Node>, request: pb::ExecRequest) -> Result<Answer, CallError> {
    let (reply, answer) = ReplyTo::call();
    exec::dispatch_one(node, request, reply);
    match answer.await {
        Ok(Answer::Error(error)) => Err(failed(error)),
        Ok(answer) => Ok(answer),
        Err(_) => Err(failed(error::unknown(
            ErrorCode::Internal,
            "the request was dropped without an answer",
        ))),
    }
}

async fn execute(
    node: &Arc<Node>,
    command: &pb::Command,
    shard: u32,
    meta: bool,
) -> Result<pb::Outcome, CallError> {
    let op = Some(ExecOp::Command(command.encode_to_vec().into()));
    let request = pb::ExecRequest {
        shard,
        meta,
        op,
        ..Default::default()
    };
    match run(node, request).await? {
        Answer::Outcome(bytes) => {
            let outcome = pb::Outcome::decode(bytes).map_err(malformed)?;
            match outcome.result {
                Some(OutcomeResult::Rejected(rejection)) => {
                    Err(failed(crate::convert::rejection_message(rejection)))
                }
                _ => Ok(outcome),
            }
        }
        _ => Err(surprising()),
    }
}

async fn write(
    node: &Arc<Node>,
    partition: Option<pb::Partition>,
    op: CommandOp,
) -> Result<pb::Outcome, CallError> {
    let command = pb::Command {
        partition,
        op: Some(op),
        ..Default::default()
    };
    execute(node, &command, 0, false).await
}

async fn read(
    node: &Arc<Node>,
    partition: Option<pb::Partition>,
    mode: Option<pb::ReadMode>,
    op: ReadRequestOp,
) -> Result<pb::ReadResult, CallError> {
    let op = Some(ExecOp::Read(pb::ReadRequest {
        partition,
        mode,
        op: Some(op),
    }));
    match run(
        node,
        pb::ExecRequest {
            op,
            ..Default::default()
        },
    )
    .await?
    {
        Answer::Read(result) => Ok(result),
        _ => Err(surprising()),
    }
}

async fn kv_write(node: &Arc<Node>, method: Method, request: Bytes) -> Result<Bytes, CallError> {
    match method {
        Method::KvPut => {
            let m: pb::PutRequest = decode(request)?;
            let put = m.put.ok_or_else(|| malformed("no put"))?;
            let outcome = write(node, m.partition, CommandOp::Put(put)).await?;
            let Some(OutcomeResult::Put(put)) = outcome.result else {
                return Err(surprising());
            };
            encode(&pb::PutResponse {
                revision: outcome.revision,
                version: put.version,
            })
        }
        Method::KvDelete => {
            let m: pb::DeleteRequest = decode(request)?;
            let outcome = write(node, m.partition, CommandOp::Delete(pb::Delete { key: m.key })).await?;
            let Some(OutcomeResult::Delete(d)) = outcome.result else {
                return Err(surprising());
            };
            encode(&pb::DeleteResponse {
                revision: outcome.revision,
                deleted: d.deleted,
            })
        }
        Method::KvTxn => {
            let m: pb::TxnRequest = decode(request)?;
            let txn = m.txn.ok_or_else(|| malformed("no txn"))?;
            let outcome = write(node, m.partition, CommandOp::Txn(txn)).await?;
            let Some(OutcomeResult::Txn(result)) = outcome.result else {
                return Err(surprising());
            };
            encode(&pb::TxnResponse {
                revision: outcome.revision,
                result: Some(result),
            })
        }
        Method::KvExecute => {
            let m: pb::ExecuteRequest = decode(request)?;
            let command = m.command.ok_or_else(|| malformed("no command"))?;
            let outcome = execute(node, &command, m.shard, m.meta).await?;
            encode(&pb::ExecuteResponse {
                outcome: Some(outcome),
            })
        }
        _ => Err(CallError::Unsupported(method.path())),
    }
}

async fn kv_read(node: &Arc<Node>, method: Method, request: Bytes) -> Result<Bytes, CallError> {
    match method {
        Method::KvGet => {
            let m: pb::GetRequest = decode(request)?;
            let get = pb::Get {
                key: m.key,
                revision: m.revision,
            };
            let result = read(node, m.partition, m.mode, ReadRequestOp::Get(get)).await?;
            let Some(ReadAnswer::Get(get)) = result.result else {
                return Err(surprising());
            };
            encode(&pb::GetResponse {
                revision: result.revision,
                age_ms: result.age_ms,
                kv: get.kv,
            })
        }
        Method::KvRange => {
            let m: pb::RangeRequest = decode(request)?;
            let range = m.range.ok_or_else(|| malformed("no range"))?;
            let result = read(node, m.partition, m.mode, ReadRequestOp::Range(range)).await?;
            let Some(ReadAnswer::Range(range)) = result.result else {
                return Err(surprising());
            };
            encode(&pb::RangeResponse {
                revision: result.revision,
                age_ms: result.age_ms,
                result: Some(range),
            })
        }
        _ => Err(CallError::Unsupported(method.path())),
    }
}

async fn call(node: Arc<Node>, method: Method, request: Bytes) -> Result<Bytes, CallError> {
    match method {
        Method::KvGet | Method::KvRange => kv_read(&node, method, request).await,
        Method::KvPut | Method::KvDelete | Method::KvTxn | Method::KvExecute => {
            kv_write(&node, method, request).await
        }
        Method::AdminIdentify => {
            let _: pb::IdentifyRequest = decode(request)?;
            encode(&admin::identify(&node))
        }
        Method::AdminJoin => encode(&admin::join(&node, decode(request)?).await?),
        Method::AdminBootstrap => encode(&admin::bootstrap(&node, decode(request)?).await?),
        Method::AdminShardMap => {
            let _: pb::ShardMapRequest = decode(request)?;
            encode(&pb::ShardMapResponse {
                map: node.shard_map().map_err(failed)?,
            })
        }
        Method::AdminStatus => {
            let _: pb::StatusRequest = decode(request)?;
            encode(&pb::StatusResponse {
                status: Some(node.status().await),
            })
        }
        Method::AdminTransferLeader => encode(&admin::transfer_leader(&node, decode(request)?).await?),
        Method::AdminCompact => encode(&admin::compact(&node, decode(request)?).await?),
        Method::AdminRestore => encode(&backup::restore(&node, decode(request)?).await?),
        Method::AdminStateHash => encode(&admin::state_hash(&node, decode(request)?).await?),
        Method::AdminChangeMembers => encode(&members::change(&node, decode(request)?).await?),
        Method::AdminConfigure => encode(&members::configure(&node, decode(request)?).await?),
        Method::AdminMembers => {
            let _: pb::MembersRequest = decode(request)?;
            encode(&members::list(&node).await?)
        }
        Method::ConsumerList => {
            let _: pb::ConsumerListRequest = decode(request)?;
            encode(&admin::consumers(&node))
        }
        Method::RaftVote
        | Method::RaftPreVote
        | Method::RaftHeartbeat
        | Method::RaftTransferLeadership
        | Method::RaftReadIndex
        | Method::RaftGroup
        | Method::RaftChangeGroup => peer::call(&node, method, request).await,
        Method::KvExec
        | Method::WatchWatch
        | Method::ConsumerStream
        | Method::AdminBackup
        | Method::RaftAppend
        | Method::RaftSnapshot => Err(CallError::Unsupported("this method is a stream")),
    }
}

async fn open(
    node: Arc<Node>,
    method: Method,
    mut input: StreamReceiver,
    output: StreamSender,
) -> Result<(), CallError> {
    match method {
        Method::KvExec => exec::serve(node, input, output).await,
        Method::RaftAppend | Method::RaftSnapshot => peer::open(node, method, input, output).await,
        Method::WatchWatch => {
            let request: pb::WatchRequest = first(&mut input).await?;
            let slot = match crate::convert::optional_partition(request.partition.as_ref()) {
                Ok(partition) => partition.map(|p| p.slot()),
                Err(e) => return Err(failed(e)),
            };
            let shard = node.route(request.shard, request.meta, slot).map_err(failed)?;
            let shard = node.replica(shard).map_err(failed)?;
            let _open = node.metrics().watch_opened();
            watch::serve_watch(&*shard, request, output).await
        }
        Method::AdminBackup => backup::save(&node, first(&mut input).await?, output).await,
        Method::ConsumerStream => {
            let request: pb::ConsumerStreamRequest = first(&mut input).await?;
            let shard = node.replica(request.shard).map_err(failed)?;
            let _open = node.metrics().watch_opened();
            watch::serve_consumer(&*shard, request, output).await
        }
        _ => Err(CallError::Unsupported("this method is not a stream")),
    }
}

/// The one request of a server-streaming call.
async fn first<M: Message + Default>(input: &mut StreamReceiver) -> Result<M, CallError> {
    let wait = timeout(Duration::from_secs(10), input.next());
    match wait.await {
        Ok(Some(Ok(bytes))) => decode(bytes),
        Ok(Some(Err(e))) => Err(malformed(e)),
        Ok(None) | Err(_) => Err(malformed("no request came on the stream")),
    }
}

impl Service for NodeService {
    fn call(&self, method: Method, request: Bytes) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(call(self.0.clone(), method, request))
    }

    fn open(
        &self,
        method: Method,
        input: StreamReceiver,
        output: StreamSender,
    ) -> BoxFuture<'static, Result<(), CallError>> {
        Box::pin(open(self.0.clone(), method, input, output))
    }
}
