//! The few messages of etcd's v3 API that the benchmark uses, by hand, so that building kvctl needs neither etcd's protocol files nor
//! a protobuf compiler. Fields that are not read are left out; protobuf skips them. From etcd's `api/etcdserverpb/rpc.proto` and
//! `api/mvccpb/kv.proto`.

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Request, Response, Status, client::Grpc, codec::Streaming, transport::Channel};
use tonic_prost::ProstCodec;

/// `mvccpb.KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Revision of the last change.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// The value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
}

/// `PutRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct PutRequest {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// An answer of which only the arrival matters.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Done {}

/// `RangeRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct RangeRequest {
    /// The key, or the first.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// End, exclusive; empty: this key only.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Most pairs; 0: all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// Answered by the member at hand from what it has.
    #[prost(bool, tag = "7")]
    pub serializable: bool,
}

/// `RangeResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    /// The pairs.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
}

/// `WatchRequest` with its one form that is used.
#[derive(Clone, PartialEq, Message)]
pub struct WatchRequest {
    /// Asks for a watch.
    #[prost(message, optional, tag = "1")]
    pub create: Option<WatchCreateRequest>,
}

/// `WatchCreateRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct WatchCreateRequest {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// End, exclusive.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
}

/// `WatchResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse {
    /// The watch is there.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch is over.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Why it is over.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// In order.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// `mvccpb.Event`.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// The key after the change.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// `StatusResponse` of the maintenance API.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// For example 3.5.21.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// One connection to one member.
#[derive(Clone)]
pub struct Etcd(Grpc<Channel>);

impl Etcd {
    /// Over this connection.
    pub fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel))
    }

    /// Calls `KV.Put`.
    pub async fn put(&mut self, request: PutRequest) -> Result<Done, Status> {
        self.unary(request, "/etcdserverpb.KV/Put").await
    }

    /// Calls `KV.Range`.
    pub async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.unary(request, "/etcdserverpb.KV/Range").await
    }

    /// Calls `Maintenance.Status`.
    pub async fn status(&mut self) -> Result<StatusResponse, Status> {
        self.unary(Done {}, "/etcdserverpb.Maintenance/Status").await
    }

    /// Calls `Watch.Watch`; the stream stays open as long as `requests` does.
    pub async fn watch(
        &mut self,
        requests: impl futures::Stream<Item = WatchRequest> + Send + 'static,
    ) -> Result<Streaming<WatchResponse>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let answer = self
            .0
            .streaming(Request::new(requests), path, ProstCodec::default())
            .await;
        answer.map(Response::into_inner)
    }

    async fn unary<Q, A>(&mut self, request: Q, path: &'static str) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.ready().await?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let answer = self
            .0
            .unary(Request::new(request), PathAndQuery::from_static(path), codec)
            .await;
        answer.map(Response::into_inner)
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0
            .ready()
            .await
            .map_err(|e| Status::unavailable(format!("cannot connect: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as etcd sends them (header and unused fields included), and what is read of them.
    #[test]
    fn answers_of_etcd_are_understood() {
        // header{revision 7}, kvs[{key "k", create 5, mod 7, version 2, value "v"}], count 1
        let bytes: &[u8] = &[
            0x0a, 0x02, 0x18, 0x07, 0x12, 0x0c, 0x0a, 0x01, b'k', 0x10, 0x05, 0x18, 0x07, 0x20, 0x02, 0x2a,
            0x01, b'v', 0x20, 0x01,
        ];
        let range = RangeResponse::decode(bytes).unwrap();
        let expected = KeyValue {
            key: "k".into(),
            mod_revision: 7,
            value: "v".into(),
        };
        assert_eq!(range.kvs, std::slice::from_ref(&expected));

        // header{}, created, events[{type DELETE, kv}]
        let mut watch = vec![0x0a, 0x00, 0x18, 0x01, 0x5a, 0x0b, 0x08, 0x01, 0x12, 0x07];
        watch.extend([0x0a, 0x01, b'k', 0x18, 0x07, 0x2a, 0x00]);
        let watch = WatchResponse::decode(&watch[..]).unwrap();
        assert!(watch.created && !watch.canceled);
        assert_eq!(watch.events[0].kv.as_ref().unwrap().key, expected.key);
        assert_eq!(
            PutRequest {
                key: "k".into(),
                value: "v".into()
            }
            .encode_to_vec(),
            b"\x0a\x01k\x12\x01v"
        );
    }
}
