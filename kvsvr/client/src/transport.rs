//! The seam between everything that talks and the network.
//!
//! A [`Transport`] carries encoded protobuf messages: one request and one answer ([`Transport::call`]), or a bidirectional stream
//! of them ([`Transport::open`]). The gRPC form is in [`grpc`](crate::grpc) (feature `grpc`), the simulator has its own. Because messages
//! are already encoded here, the simulator exercises the same codecs as production.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::mpsc;

/// The methods of the wire protocol. A method's path is its gRPC path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named after the methods in proto/kvsvr/v1")]
pub enum Method {
    KvPut,
    KvGet,
    KvRange,
    KvDelete,
    KvTxn,
    KvExecute,
    KvExec,
    WatchWatch,
    ConsumerList,
    ConsumerStream,
    AdminIdentify,
    AdminJoin,
    AdminBootstrap,
    AdminShardMap,
    AdminStatus,
    AdminTransferLeader,
    AdminCompact,
    AdminStateHash,
    AdminBackup,
    AdminRestore,
    AdminChangeMembers,
    AdminMembers,
    AdminConfigure,
    RaftVote,
    RaftPreVote,
    RaftTransferLeadership,
    RaftHeartbeat,
    RaftAppend,
    RaftReadIndex,
    RaftSnapshot,
    RaftGroup,
    RaftChangeGroup,
}

impl Method {
    /// All methods.
    pub const ALL: [Method; 32] = [
        Method::KvPut,
        Method::KvGet,
        Method::KvRange,
        Method::KvDelete,
        Method::KvTxn,
        Method::KvExecute,
        Method::KvExec,
        Method::WatchWatch,
        Method::ConsumerList,
        Method::ConsumerStream,
        Method::AdminIdentify,
        Method::AdminJoin,
        Method::AdminBootstrap,
        Method::AdminShardMap,
        Method::AdminStatus,
        Method::AdminTransferLeader,
        Method::AdminCompact,
        Method::AdminStateHash,
        Method::AdminBackup,
        Method::AdminRestore,
        Method::AdminChangeMembers,
        Method::AdminMembers,
        Method::AdminConfigure,
        Method::RaftVote,
        Method::RaftPreVote,
        Method::RaftTransferLeadership,
        Method::RaftHeartbeat,
        Method::RaftAppend,
        Method::RaftReadIndex,
        Method::RaftSnapshot,
        Method::RaftGroup,
        Method::RaftChangeGroup,
    ];

    /// The gRPC path.
    pub fn path(self) -> &'static str {
        match self {
            Method::KvPut => "/kvsvr.v1.Kv/Put",
            Method::KvGet => "/kvsvr.v1.Kv/Get",
            Method::KvRange => "/kvsvr.v1.Kv/Range",
            Method::KvDelete => "/kvsvr.v1.Kv/Delete",
            Method::KvTxn => "/kvsvr.v1.Kv/Txn",
            Method::KvExecute => "/kvsvr.v1.Kv/Execute",
            Method::KvExec => "/kvsvr.v1.Kv/Exec",
            Method::WatchWatch => "/kvsvr.v1.Watch/Watch",
            Method::ConsumerList => "/kvsvr.v1.Consumer/List",
            Method::ConsumerStream => "/kvsvr.v1.Consumer/Stream",
            Method::AdminIdentify => "/kvsvr.v1.Admin/Identify",
            Method::AdminJoin => "/kvsvr.v1.Admin/Join",
            Method::AdminBootstrap => "/kvsvr.v1.Admin/Bootstrap",
            Method::AdminShardMap => "/kvsvr.v1.Admin/ShardMap",
            Method::AdminStatus => "/kvsvr.v1.Admin/Status",
            Method::AdminTransferLeader => "/kvsvr.v1.Admin/TransferLeader",
            Method::AdminCompact => "/kvsvr.v1.Admin/Compact",
            Method::AdminStateHash => "/kvsvr.v1.Admin/StateHash",
            Method::AdminBackup => "/kvsvr.v1.Admin/Backup",
            Method::AdminRestore => "/kvsvr.v1.Admin/Restore",
            Method::AdminChangeMembers => "/kvsvr.v1.Admin/ChangeMembers",
            Method::AdminMembers => "/kvsvr.v1.Admin/Members",
            Method::AdminConfigure => "/kvsvr.v1.Admin/Configure",
            Method::RaftVote => "/kvsvr.v1.Raft/Vote",
            Method::RaftPreVote => "/kvsvr.v1.Raft/PreVote",
            Method::RaftTransferLeadership => "/kvsvr.v1.Raft/TransferLeadership",
            Method::RaftHeartbeat => "/kvsvr.v1.Raft/Heartbeat",
            Method::RaftAppend => "/kvsvr.v1.Raft/Append",
            Method::RaftReadIndex => "/kvsvr.v1.Raft/ReadIndex",
            Method::RaftSnapshot => "/kvsvr.v1.Raft/Snapshot",
            Method::RaftGroup => "/kvsvr.v1.Raft/Group",
            Method::RaftChangeGroup => "/kvsvr.v1.Raft/ChangeGroup",
        }
    }

    /// The method of a gRPC path.
    pub fn from_path(path: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|m| m.path() == path)
    }
}

/// Which of a node's connections carries a message. Messages of one class may wait for each other, those of different classes
/// never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Votes, heartbeats, read indices, administration.
    Control,
    /// Client requests and log replication.
    Data,
    /// Snapshots and other bulk.
    Bulk,
}

/// Why a message did not get through.
#[derive(Clone, Debug, Error)]
pub enum TransportError {
    /// No connection could be made: the request was certainly not sent.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// HOST:PORT.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// The connection broke after the request may have been sent: it may have been carried out.
    #[error("connection to {address} broke: {reason}")]
    Broken {
        /// HOST:PORT.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// No answer in time: it may have been carried out.
    #[error("no answer from {address} within {}", crate::time::show(.after))]
    Timeout {
        /// HOST:PORT.
        address: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The other side refused the call itself (unknown method, message too large, malformed).
    #[error("{address} refused the call: {reason}")]
    Rejected {
        /// HOST:PORT.
        address: String,
        /// What the other side said.
        reason: String,
    },
    /// The other side answered with the API's own error.
    #[error("{address}: {}", .error.message)]
    Api {
        /// HOST:PORT.
        address: String,
        /// The error.
        error: Box<kvsvr_proto::v1::Error>,
    },
}

impl TransportError {
    /// True if the request may have been carried out.
    pub fn is_unknown(&self) -> bool {
        match self {
            TransportError::Broken { .. } | TransportError::Timeout { .. } => true,
            TransportError::Unreachable { .. } | TransportError::Rejected { .. } => false,
            TransportError::Api { error, .. } => error.unknown,
        }
    }
}

/// Receives the messages of a stream. `None` is the orderly end, an error is the last item.
pub struct StreamReceiver(Box<dyn ReceiveMessages>);

/// What a transport implements for the receiving half of a stream.
pub trait ReceiveMessages: Send {
    /// The next message. Cancel-safe.
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>>;
}

impl StreamReceiver {
    /// Wraps a transport's receiver.
    pub fn new(inner: impl ReceiveMessages + 'static) -> Self {
        Self(Box::new(inner))
    }

    /// The next message. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, TransportError>> {
        self.0.receive().await
    }
}

impl fmt::Debug for StreamReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamReceiver")
    }
}

/// Sends the messages of a stream; waits when the other side does not take them. Dropping it ends the stream in this direction.
pub type StreamSender = mpsc::Sender<Bytes>;

/// Messages that a stream's sender holds before it waits.
pub const STREAM_QUEUE: usize = 16;

/// Sends encoded messages to nodes by address (HOST:PORT). Connections are made when needed, shared, and made anew when broken.
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer.
    fn call(
        &self,
        address: &str,
        class: Class,
        method: Method,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// A bidirectional stream. Resolves when the request to open it has been sent or refused; an answer is not waited for.
    fn open(
        &self,
        address: &str,
        class: Class,
        method: Method,
    ) -> BoxFuture<'static, Result<(StreamSender, StreamReceiver), TransportError>>;
}
