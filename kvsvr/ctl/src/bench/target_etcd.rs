//! etcd as a target: unary calls of its v3 API over several HTTP/2 connections, spread over the given members.
//!
//! The partition is the first part of the key. Reads are linearizable (etcd's default) or, for `local`, serializable. There is no
//! retry: etcd's own client does not retry writes either.

use std::time::Duration;

use bytes::Bytes;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, transport::Endpoint};

use super::{
    etcd_api::{Etcd, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse},
    target::{Client, OpError, Target, Watcher},
};
use crate::failure::Failure;

/// etcd and the connections to it.
pub struct EtcdTarget {
    connections: Vec<Etcd>,
    serializable: bool,
}

impl EtcdTarget {
    /// Connects `connections` times, to the endpoints (HOST:PORT or URL) in turn.
    pub async fn connect(
        endpoints: &[String],
        connections: usize,
        serializable: bool,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let mut made = Vec::with_capacity(connections);
        for endpoint in endpoints.iter().cycle().take(connections) {
            let url = if endpoint.contains("://") {
                endpoint.clone()
            } else {
                format!("http://{endpoint}")
            };
            let invalid = |e: tonic::transport::Error| {
                Failure::invalid(format!("endpoint {endpoint:?}: {e}")).with_help("write HOST:PORT")
            };
            let channel = Endpoint::from_shared(url)
                .map_err(invalid)?
                .tcp_nodelay(true)
                .connect_timeout(timeout)
                .timeout(timeout)
                .connect()
                .await
                .map_err(|e| super::unreachable(endpoint, &e))?;
            made.push(Etcd::new(channel));
        }
        Ok(Self {
            connections: made,
            serializable,
        })
    }
}

impl Target for EtcdTarget {
    type Key = EtcdKey;
    type Client = EtcdClient;
    const NAME: &'static str = "etcd";

    fn key(&self, partition: u64, number: u64) -> EtcdKey {
        let prefix = prefix(partition);
        let end = kvsvr_client::prefix_end(prefix.as_bytes());
        EtcdKey {
            key: format!("{prefix}{number:012}").into(),
            end,
        }
    }

    fn client(&self, index: usize) -> EtcdClient {
        let connection = self.connections[index % self.connections.len()].clone();
        EtcdClient {
            connection,
            serializable: self.serializable,
        }
    }

    async fn version(&self) -> Result<String, OpError> {
        let status = self.connections[0].clone().status().await.map_err(read_error)?;
        Ok(status.version)
    }
}

fn prefix(partition: u64) -> String {
    format!("bench{partition:06}/")
}

/// A key, and where its partition ends.
pub struct EtcdKey {
    key: Bytes,
    end: Bytes,
}

/// A logical client of etcd.
pub struct EtcdClient {
    connection: Etcd,
    serializable: bool,
}

impl EtcdClient {
    async fn range(&mut self, key: Bytes, range_end: Bytes, limit: u32) -> Result<usize, OpError> {
        let request = RangeRequest {
            key,
            range_end,
            limit: limit.into(),
            serializable: self.serializable,
        };
        let answer = self.connection.range(request).await.map_err(read_error)?;
        Ok(answer.kvs.len())
    }
}

impl Client for EtcdClient {
    type Key = EtcdKey;
    type Watcher = EtcdWatcher;

    async fn get(&mut self, key: &EtcdKey) -> Result<bool, OpError> {
        self.range(key.key.clone(), Bytes::new(), 0)
            .await
            .map(|found| found > 0)
    }

    async fn put(&mut self, key: &EtcdKey, value: Bytes) -> Result<(), OpError> {
        let request = PutRequest {
            key: key.key.clone(),
            value,
        };
        self.connection.put(request).await.map_err(write_error)?;
        Ok(())
    }

    async fn scan(&mut self, key: &EtcdKey, limit: u32) -> Result<usize, OpError> {
        self.range(key.key.clone(), key.end.clone(), limit).await
    }

    async fn watch(&mut self, partition: u64) -> Result<EtcdWatcher, OpError> {
        let key: Bytes = prefix(partition).into();
        let create = WatchCreateRequest {
            range_end: kvsvr_client::prefix_end(&key),
            key,
        };
        let requests =
            tokio_stream::once(WatchRequest { create: Some(create) }).chain(futures::stream::pending());
        let mut stream = self.connection.watch(requests).await.map_err(read_error)?;
        match stream.message().await.map_err(read_error)? {
            Some(WatchResponse {
                created: true,
                canceled: false,
                ..
            }) => Ok(EtcdWatcher(stream)),
            answer => Err(OpError::definite(format!(
                "etcd does not create the watch: {answer:?}"
            ))),
        }
    }
}

/// A watch of etcd.
pub struct EtcdWatcher(tonic::Streaming<WatchResponse>);

impl Watcher for EtcdWatcher {
    async fn next(&mut self, values: &mut Vec<Bytes>) -> Result<(), OpError> {
        match self.0.message().await.map_err(read_error)? {
            Some(answer) if !answer.canceled => {
                values.extend(
                    answer
                        .events
                        .into_iter()
                        .filter_map(|event| event.kv)
                        .map(|kv| kv.value),
                );
                Ok(())
            }
            Some(answer) => Err(OpError::definite(format!(
                "etcd ended the watch: {}",
                answer.cancel_reason
            ))),
            None => Err(OpError::definite("etcd ended the watch")),
        }
    }
}

fn read_error(status: Status) -> OpError {
    OpError::definite(format!("{:?}: {}", status.code(), status.message()))
}

/// Only refusals of the request itself, or of new work, are certain not to have happened.
fn write_error(status: Status) -> OpError {
    let refused = matches!(
        status.code(),
        Code::InvalidArgument | Code::ResourceExhausted | Code::FailedPrecondition | Code::Unimplemented
    );
    OpError {
        unknown: !refused,
        ..read_error(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_unknown_unless_refused() {
        assert!(write_error(Status::unavailable("leader changed")).unknown);
        assert!(write_error(Status::deadline_exceeded("late")).unknown);
        assert!(!write_error(Status::resource_exhausted("too many requests")).unknown);
        assert!(!read_error(Status::unavailable("x")).unknown);
    }
}
