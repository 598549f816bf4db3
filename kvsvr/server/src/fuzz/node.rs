//! A node alone, in memory, that gets any message by any method.

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr_client::transport::{Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver, TransportError};
use kvsvr_proto::v1 as pb;
use prost::Message;
use tokio::sync::mpsc;

use super::block_on;
use crate::{
    local::LocalCluster,
    service::{CallError, Service},
    time::timeout,
};

/// Real time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Real time for which a stream that has nothing to say is kept open.
const STREAM_TIME: Duration = Duration::from_millis(5);

fn put_request() -> pb::PutRequest {
    pb::PutRequest {
        partition: Some(pb::Partition {
            region: 0,
            name: Bytes::from_static(b"alice"),
        }),
        put: Some(pb::Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            ..Default::default()
        }),
    }
}

struct Lone(LocalCluster);

impl Lone {
    async fn start() -> Self {
        Self(LocalCluster::without_maintenance(2).await)
    }

    async fn put(&self) -> Result<Bytes, CallError> {
        self.0
            .service()
            .call(Method::KvPut, put_request().encode_to_vec().into())
            .await
    }

    async fn send(&self, method: Method, message: Bytes) {
        let called = self.0.service().call(method, message.clone());
        // Any answer and any refusal will do.
        let _ = timeout(PATIENCE, called).await.expect("an answer in time");
        let (output, mut answers) = mpsc::channel(STREAM_QUEUE);
        let input = StreamReceiver::new(One(Some(message)));
        let served = self.0.service().open(method, input, output);
        let read = async { while answers.recv().await.is_some() {} };
        // Watches have no end.
        let _ = timeout(STREAM_TIME, futures::future::join(served, read)).await;
    }

    async fn check(&self) {
        if let Some(reason) = self.0.stopped() {
            panic!("a replica has stopped: {reason}");
        }
        let put = timeout(PATIENCE, self.put()).await.expect("an answer in time");
        put.expect("the node goes on");
    }
}

/// A stream of one message.
struct One(Option<Bytes>);

impl ReceiveMessages for One {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        let next = self.0.take().map(Ok);
        Box::pin(async { next })
    }
}

/// Any message by any method (its number is the first byte), as a call and as a stream: an answer or a refusal, and the node goes on.
pub fn api_message(data: &[u8]) {
    static LONE: OnceLock<Lone> = OnceLock::new();
    let lone = LONE.get_or_init(|| block_on(Lone::start()));
    let Some((choice, message)) = data.split_first() else {
        return;
    };
    let method = Method::ALL[usize::from(*choice) % Method::ALL.len()];
    block_on(async {
        lone.send(method, Bytes::copy_from_slice(message)).await;
        lone.check().await;
    });
}

#[cfg(test)]
mod tests {
    use std::{ops::ControlFlow, sync::Arc};

    use kvsvr_core::{
        engine::{Cf, Scan},
        keys,
        types::ShardId,
    };
    use kvsvr_proto::v1::ErrorCode;

    use super::*;
    use crate::{
        api::NodeService,
        controller,
        local::{Loopback, bootstrap_request, fresh_node},
        node::Node,
        placement::{ShardRow, Write},
        time::sleep,
        topology,
    };

    fn refusal(answer: Result<Bytes, CallError>) -> (ErrorCode, String) {
        match answer {
            Err(CallError::Api(error)) => (error.code(), error.message),
            other => panic!("no refusal: {other:?}"),
        }
    }

    /// A node that lost its disk must not answer as if it were new, nor become part of a second cluster at an address of the first.
    #[tokio::test]
    async fn an_address_that_a_cluster_claims_gets_no_other_cluster() {
        let transport = Arc::new(Loopback::default());
        let (node, _fatal) = fresh_node(transport.clone()).await;
        let service = NodeService(node.clone());
        transport.set(service.clone());
        let ask = |method, message: Vec<u8>| service.call(method, message.into());
        let map = pb::ShardMapRequest {}.encode_to_vec();
        let answer = ask(Method::AdminShardMap, map.clone()).await.unwrap();
        assert_eq!(pb::ShardMapResponse::decode(answer).unwrap().map, None);

        let envelope = pb::Envelope {
            cluster_id: "00000000000000aa".into(),
            from_node: 1,
            to_node: 3,
            to_store: "lost".into(),
            ..Default::default()
        };
        // For the node that this one is to be by the map: it is early, and claims nothing.
        let early = pb::VoteRequest {
            envelope: Some(pb::Envelope {
                to_store: node.store_id().to_owned(),
                ..envelope.clone()
            }),
            ..Default::default()
        };
        let (code, reason) = refusal(ask(Method::RaftVote, early.encode_to_vec()).await);
        assert_eq!(code, ErrorCode::Refused);
        assert!(reason.contains("has not joined yet"), "{reason}");
        assert_eq!(node.claim(), None);

        let vote = pb::VoteRequest {
            envelope: Some(envelope),
            ..Default::default()
        };
        let (code, reason) = refusal(ask(Method::RaftVote, vote.encode_to_vec()).await);
        assert_eq!(code, ErrorCode::Refused);
        assert!(reason.contains("its disk was lost"), "{reason}");

        let (code, message) = refusal(ask(Method::AdminShardMap, map).await);
        assert_eq!((code, &message), (ErrorCode::NotReady, &reason));
        let (code, message) = refusal(ask(Method::KvPut, put_request().encode_to_vec()).await);
        assert_eq!((code, &message), (ErrorCode::NotReady, &reason));
        let bootstrap = bootstrap_request(2).encode_to_vec();
        let (code, message) = refusal(ask(Method::AdminBootstrap, bootstrap).await);
        assert_eq!((code, &message), (ErrorCode::Refused, &reason));
        let join = pb::JoinRequest {
            cluster_id: "00000000000000bb".into(),
            node_id: 1,
            store_id: node.store_id().to_owned(),
            replaces: Vec::new(),
        };
        let (code, message) = refusal(ask(Method::AdminJoin, join.encode_to_vec()).await);
        assert_eq!((code, &message), (ErrorCode::Refused, &reason));
        assert_eq!(node.identity(), None);

        // The cluster that claims it may give that node's place away, no other one, and no other place.
        let cases: [(_, &[u64]); 3] = [
            ("00000000000000bb", &[3]),
            ("00000000000000aa", &[2]),
            ("00000000000000aa", &[]),
        ];
        for (cluster, replaces) in cases {
            assert_eq!(node.take_places(cluster, replaces), Err(reason.clone()));
        }
        let claim = node.claim().unwrap();
        assert_eq!(
            (claim.cluster_id.as_str(), claim.node_id),
            ("00000000000000aa", 3)
        );
        // As one that replaces node 2, where node 3 was before it was removed.
        assert_eq!(node.take_places("00000000000000aa", &[2, 3]), Ok(()));
        assert_eq!(node.claim(), None);
        assert_eq!(node.check_unclaimed(), Ok(()));
        // Until it has joined, peers that do not know yet are refused as before; it is no claim any more.
        let (_, late) = refusal(ask(Method::RaftVote, vote.encode_to_vec()).await);
        assert_eq!(late, reason);
        assert_eq!(node.check_unclaimed(), Ok(()));
    }

    /// Stores another row of shard 1, as the controller would.
    async fn store_row(lone: &Lone, change: impl FnOnce(&mut ShardRow)) {
        let meta = lone.0.service().0.shard_number(0).unwrap();
        let topology = topology::load_all(&*meta.engine().snapshot()).unwrap().unwrap();
        let mut row = topology::view(&topology).rows[&1].clone();
        change(&mut row);
        let mut changes = topology::Changes::new(&topology, 7);
        changes.add(&Write::Row(row), "");
        let stored = controller::commit(&meta, changes.command().unwrap()).await;
        assert_eq!(stored, Ok(true));
        let node = lone.0.service().0.clone();
        let epoch = meta.revision();
        wait("the node has followed the map", || node.map_epoch() == epoch).await;
    }

    async fn wait(what: &str, reached: impl Fn() -> bool) {
        let waiting = async {
            while !reached() {
                sleep(STREAM_TIME).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect(what);
    }

    fn rows_of(node: &Node, shard: ShardId) -> usize {
        let (start, end) = keys::shard_range(shard);
        let scan = Scan {
            start: &start,
            end: &end,
            reverse: false,
        };
        let mut rows = 0;
        for cf in Cf::ALL {
            let mut count = |_: &[u8], _: &[u8]| {
                rows += 1;
                ControlFlow::Continue(())
            };
            node.engine().snapshot().scan(cf, scan, &mut count).unwrap();
        }
        rows
    }

    #[tokio::test]
    async fn a_replica_that_was_destroyed_comes_back_as_another_one_only() {
        let lone = Lone::start().await;
        let node = lone.0.service().0.clone();
        let id = ShardId(1);
        wait("shard 1 is there", || {
            node.shard(id).is_some() && rows_of(&node, id) > 0
        })
        .await;

        let first = node.shard(id).unwrap();
        assert!(first.head().installs().is_multiple_of(2));
        store_row(&lone, |row| row.replicas = vec![2]).await;
        wait("shard 1 is gone", || {
            node.shard(id).is_none() && !node.wal().shards().contains(&id) && rows_of(&node, id) == 0
        })
        .await;
        assert!(node.shard_number(2).is_some(), "the other shard stays");
        assert!(
            !first.head().installs().is_multiple_of(2),
            "a read of the rows that are gone must not find that there are none"
        );

        // As an old map would say, after a restart.
        store_row(&lone, |row| row.replicas = vec![1]).await;
        store_row(&lone, |row| row.learners = vec![3]).await;
        assert!(node.shard(id).is_none(), "it would have forgotten its votes");

        store_row(&lone, |row| {
            row.incarnations.insert(1, row.changes + 1);
        })
        .await;
        wait("a new replica", || {
            node.shard(id).is_some_and(|shard| shard.incarnation() > 0)
        })
        .await;
        let shard = node.shard(id).unwrap();
        assert!(
            shard.leader().leader().is_none(),
            "it waits for its group's leader"
        );
        let asked = pb::GroupRequest {
            envelope: Some(pb::Envelope {
                cluster_id: crate::node::cluster_text(node.identity().unwrap()),
                from_node: 2,
                to_node: 1,
                to_store: node.store_id().to_owned(),
                shard: 1,
                ..Default::default()
            }),
        };
        let ask = lone
            .0
            .service()
            .call(Method::RaftGroup, asked.encode_to_vec().into());
        let (code, message) = refusal(ask.await);
        assert_eq!(code, ErrorCode::NotReady);
        assert!(message.contains("was destroyed and made anew"), "{message}");
        assert_eq!(lone.0.stopped(), None);
    }

    /// The map cannot tell a node whose replica of the meta shard is no member any more: the group does, by speaking to the one that is.
    #[tokio::test]
    async fn the_replica_of_the_meta_shard_is_made_anew_when_its_group_has_another_one() {
        let lone = Lone::start().await;
        let node = lone.0.service().0.clone();
        let id = ShardId(0);
        wait("there is a map", || node.map_epoch() > 0).await;
        let first = node.shard(id).unwrap();
        let speak = async |from_node, from_store: &str, to_incarnation| {
            let envelope = pb::Envelope {
                cluster_id: crate::node::cluster_text(node.identity().unwrap()),
                from_node,
                from_store: from_store.to_owned(),
                to_node: 1,
                to_store: node.store_id().to_owned(),
                shard: 0,
                to_incarnation,
            };
            let asked = pb::GroupRequest {
                envelope: Some(envelope),
            };
            let call = lone
                .0
                .service()
                .call(Method::RaftGroup, asked.encode_to_vec().into());
            refusal(call.await)
        };
        // Node 1 has another store than this one says.
        speak(1, "another", 9).await;
        let (code, message) = speak(2, "its own", 7).await;
        assert_eq!(code, ErrorCode::NotReady);
        assert!(message.contains("is number 0, not 7"), "{message}");
        wait("there is another one", || {
            node.shard(id).is_some_and(|shard| shard.incarnation() > 0)
        })
        .await;
        let shard = node.shard(id).unwrap();
        assert_eq!((shard.incarnation(), shard.revision()), (7, 0));
        assert!(
            shard.leader().leader().is_none(),
            "it waits for its group's leader"
        );
        assert!(first.is_retired());
        let (_, message) = speak(2, "its own", 3).await;
        assert!(message.contains("is number 7, not 3"), "{message}");
        assert!(node.shard_number(1).is_some(), "the other shards stay");
        assert_eq!(lone.0.stopped(), None);
    }

    #[tokio::test]
    async fn a_node_is_ready_when_its_replicas_are_confirmed() {
        let lone = Lone::start().await;
        let node = lone.0.service().0.clone();
        timeout(PATIENCE, async {
            while node.ready().is_err() {
                sleep(STREAM_TIME).await;
            }
        })
        .await
        .unwrap();
        let shard = node.shards().pop().unwrap();
        assert!(shard.reads().age().is_some());
        *shard.reads().fresh_at.lock() = None;
        let reasons = node.ready().unwrap_err();
        assert!(
            reasons[0].contains("has not been confirmed by a leader"),
            "{reasons:?}"
        );
        assert!(!node.messages().concat().contains("has not been confirmed"));
    }
}
