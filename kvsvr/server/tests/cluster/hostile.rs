//! Peers and clients that break the rules: nothing panics, nothing hangs, memory stays bounded, others notice nothing.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use kvsvr_client::{
    Code, Partition,
    grpc::GrpcTransport,
    proto as pb,
    transport::{Class, Method, StreamReceiver, Transport as _, TransportError},
};
use prost::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::timeout;

use crate::{
    harness::{Cluster, PATIENCE, eventually, proving, report, size},
    load::partition,
};

/// What a node's memory may grow by, whatever one client does.
const GROWTH: u64 = 300 << 20;

async fn call(address: &str, method: Method, bytes: Vec<u8>) -> Result<bytes::Bytes, TransportError> {
    GrpcTransport::new()
        .call(
            address,
            Class::Data,
            method,
            bytes.into(),
            Duration::from_secs(10),
        )
        .await
}

fn assert_unharmed(cluster: &Cluster) {
    for (i, node) in cluster.nodes.iter().enumerate() {
        assert!(!node.log_text().contains("panicked"), "node {} panicked", i + 1);
    }
}

async fn rss(cluster: &Cluster, i: usize) -> u64 {
    eventually("a status", PATIENCE, async || cluster.status(i).await)
        .await
        .rss_bytes
}

fn streaming(method: Method) -> bool {
    matches!(
        method,
        Method::KvExec
            | Method::RaftAppend
            | Method::RaftSnapshot
            | Method::WatchWatch
            | Method::ConsumerStream
            | Method::AdminBackup
    )
}

/// Every message until the end.
async fn drain(what: &str, receiver: &mut StreamReceiver) -> Option<TransportError> {
    loop {
        let next = timeout(Duration::from_secs(10), receiver.next()).await;
        match next.unwrap_or_else(|_| panic!("{what}: the stream must end")) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Some(error),
            None => return None,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_hurts_only_its_sender() {
    let cluster = Cluster::start(3, 1, &[]).await;
    let client = cluster.client().await;
    let address = cluster.nodes[0].address.clone();
    // Bytes that are no HTTP/2, and HTTP/2 that goes wrong after its preface.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let noise: Vec<u8> = (0..64 << 10).map(|_| rand::random()).collect();
    for head in [&b""[..], &preface[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The node may close while this is being written.
        let _ = stream.write_all(head).and_then(|()| stream.write_all(&noise));
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("the connection stays open"),
            _ => {}
        }
    }
    // Well-formed calls whose messages are noise.
    let mut refused = 0;
    for method in Method::ALL {
        let bytes = vec![0xff; 100];
        if streaming(method) {
            let (sender, mut receiver) = GrpcTransport::new()
                .open(&address, Class::Data, method)
                .await
                .unwrap();
            sender.send(bytes.into()).await.unwrap();
            // A server-streaming call begins when the request has ended.
            drop(sender);
            let ended = drain(method.path(), &mut receiver).await;
            assert!(
                matches!(
                    ended,
                    Some(TransportError::Rejected { .. } | TransportError::Api { .. })
                ),
                "{method:?}: {ended:?}"
            );
            refused += 1;
            continue;
        }
        match call(&address, method, bytes).await {
            Err(TransportError::Rejected { .. } | TransportError::Api { .. }) => refused += 1,
            other => panic!("{method:?}: noise was answered with {other:?}"),
        }
    }
    client.put(&partition(0), "k", "v").await.unwrap();
    assert_unharmed(&cluster);
    report(
        "garbage",
        format!("{refused} methods refuse noise; the node serves on"),
    );
}

#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_break_a_rule_are_invalid() {
    let cluster = Cluster::start(1, 1, &[]).await;
    let client = cluster.client().await;
    let address = &cluster.nodes[0].address;
    let good = partition(0);
    let long_name = Partition::local("n".repeat(257));
    let big = "v".repeat((1 << 20) + 1);
    let errors = [
        client.put(&good, "", "v").await.map(drop),
        client.put(&good, "k".repeat(4097), "v").await.map(drop),
        client.put(&good, "k", big).await.map(drop),
        client.put(&Partition::local(""), "k", "v").await.map(drop),
        client.put(&long_name, "k", "v").await.map(drop),
        client.get(&good, "").await.map(drop),
        client.get(&long_name, "k").await.map(drop),
        client.delete_range(&good, "b", "a").await.map(drop),
        client
            .put_with(
                &good,
                "k",
                "v",
                kvsvr_client::PutOptions {
                    ttl: Some(Duration::from_secs(1)),
                    lease: Some(1),
                },
            )
            .await
            .map(drop),
    ];
    for (i, error) in errors.into_iter().enumerate() {
        let error = error.expect_err(&format!("request {i} breaks a rule"));
        assert!(
            error.code == Code::Invalid && !error.is_unknown(),
            "request {i}: {error}"
        );
    }
    let error = client
        .put_with(&good, "k", "v", kvsvr_client::PutOptions::lease(77))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::NotFound, "{error}");
    client.put(&good, "text", "abc").await.unwrap();
    let error = client.increment(&good, "text", 1).await.unwrap_err();
    assert_eq!(error.code, Code::WrongType, "{error}");
    // What the library cannot even say.
    let put = |region| pb::PutRequest {
        partition: Some(pb::Partition {
            region,
            name: "p".into(),
        }),
        put: Some(pb::Put {
            key: "k".into(),
            ..Default::default()
        }),
    };
    for bad in [
        put(70_000),
        pb::PutRequest {
            partition: None,
            ..put(0)
        },
        pb::PutRequest { put: None, ..put(0) },
    ] {
        match call(address, Method::KvPut, bad.encode_to_vec()).await {
            Err(TransportError::Api { error, .. }) => {
                assert_eq!(error.code(), pb::ErrorCode::Invalid, "{error:?}")
            }
            Err(TransportError::Rejected { .. }) => {}
            other => panic!("{bad:?} was answered with {other:?}"),
        }
    }
    let too_large = call(address, Method::KvPut, vec![0; 17 << 20]).await;
    assert!(
        matches!(too_large, Err(TransportError::Rejected { .. })),
        "{:?}",
        too_large.map(drop)
    );
    // A vote for another cluster.
    let envelope = pb::Envelope {
        cluster_id: "0123456789abcdef".into(),
        from_node: 2,
        to_node: 1,
        ..Default::default()
    };
    let vote = pb::VoteRequest {
        envelope: Some(envelope),
        ..Default::default()
    };
    match call(address, Method::RaftVote, vote.encode_to_vec()).await {
        Err(TransportError::Api { error, .. }) => {
            assert_eq!(error.code(), pb::ErrorCode::Refused);
            assert!(error.message.contains("belongs to cluster"), "{}", error.message);
        }
        other => panic!("a foreign vote was answered with {other:?}"),
    }
    client.put(&good, "k", "v").await.unwrap();
    assert_unharmed(&cluster);
    report("bad-requests", "each has its code, and none its effect");
}

fn frame(requests: Vec<pb::ExecRequest>) -> bytes::Bytes {
    pb::ExecFrame { requests }.encode_to_vec().into()
}

fn get_large(id: u64) -> pb::ExecRequest {
    let read = pb::ReadRequest {
        partition: Some(partition(0).to_proto()),
        op: Some(pb::read_request::Op::Get(pb::Get {
            key: "large".into(),
            revision: 0,
        })),
        ..Default::default()
    };
    pb::ExecRequest {
        id,
        op: Some(pb::exec_request::Op::Read(read)),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_is_bounded() {
    let cluster = Cluster::start(1, 1, &[]).await;
    let client = cluster.client().await;
    let large = "v".repeat(1 << 20);
    client.put(&partition(0), "large", large.clone()).await.unwrap();
    // Many large answers at once are no problem for who reads them.
    let place = partition(0);
    let reads = (0..64).map(|_| client.get(&place, "large"));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.unwrap().value.unwrap().value, large);
    }
    let before = rss(&cluster, 0).await;
    let address = cluster.nodes[0].address.clone();
    let (sender, receiver) = GrpcTransport::new()
        .open(&address, Class::Data, Method::KvExec)
        .await
        .unwrap();
    let mut asked = 0u64;
    // Until the node does not take more; the answers would be many GiB.
    let stalled = loop {
        let requests = (asked..asked + 100).map(get_large).collect();
        match timeout(Duration::from_secs(1), sender.send(frame(requests))).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => break true,
        }
        asked += 100;
        if asked > 2_000_000 {
            break false;
        }
    };
    assert!(
        stalled,
        "the node took {asked} requests of a client that reads no answers"
    );
    // Others are served meanwhile.
    for n in 0..100 {
        client.put(&partition(1), format!("{n}"), "v").await.unwrap();
    }
    let stalled = rss(&cluster, 0).await;
    assert!(
        stalled < before + GROWTH,
        "grew from {} to {} MiB",
        before >> 20,
        stalled >> 20
    );
    drop((sender, receiver));

    // A frame of the allowed size with as many requests as fit in it.
    let bomb = [0x0a, 0x00].repeat((15 << 20) / 2);
    let (sender, mut receiver) = GrpcTransport::new()
        .open(&address, Class::Data, Method::KvExec)
        .await
        .unwrap();
    sender.send(bomb.into()).await.unwrap();
    let ended = drain("a frame of empty requests", &mut receiver).await;
    assert!(ended.is_some(), "the frame must be refused");
    let bombed = rss(&cluster, 0).await;
    assert!(
        bombed < before + GROWTH,
        "grew from {} to {} MiB",
        before >> 20,
        bombed >> 20
    );
    client.put(&partition(1), "k", "v").await.unwrap();
    assert_unharmed(&cluster);
    report(
        "stalled-reader",
        format!(
            "{asked} requests for 1 MiB each, no answer read: memory {} -> {} MiB; a frame of 7.8 million requests: {} MiB",
            before >> 20,
            stalled >> 20,
            bombed >> 20
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .unwrap();
    let allowed = limit.maximum.map_or(usize::MAX, |n| n as usize);
    let wanted = size(1_000, 10_000);
    assert!(
        !proving() || allowed > wanted + 500,
        "a proof needs {} open files, {allowed} are allowed",
        wanted + 500
    );
    let cluster = Cluster::start(1, 1, &[]).await;
    let client = cluster.client().await;
    let before = rss(&cluster, 0).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut open = Vec::new();
    for n in 0..wanted.min(allowed - 200) {
        let mut stream = TcpStream::connect(&cluster.nodes[0].address).unwrap();
        // Half of them say nothing.
        if n % 2 == 0 {
            let _ = stream.write_all(preface);
        }
        open.push(stream);
    }
    for n in 0..50 {
        client.put(&partition(0), format!("{n}"), "v").await.unwrap();
    }
    let after = rss(&cluster, 0).await;
    assert!(
        after < before + GROWTH * 2,
        "grew from {} to {} MiB",
        before >> 20,
        after >> 20
    );
    assert_unharmed(&cluster);
    report(
        "connections",
        format!(
            "{} open: served; memory {} -> {} MiB",
            open.len(),
            before >> 20,
            after >> 20
        ),
    );
}
