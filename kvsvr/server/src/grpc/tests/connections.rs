//! Connections that misbehave, are too many, or outlive the server.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// True once the server has ended the connection (with an orderly end or a reset).
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn garbage_ends_its_connection_only() {
    let running = start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let after_preface = [&preface[..], &[0xff; 64]].concat();
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0; 100],
        &[0xff; 9000],
        &after_preface,
    ] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        // The server may close before it has read everything.
        drop(stream.write_all(garbage).await);
        assert!(is_closed(&mut stream).await, "{garbage:?}");
    }
    assert!(running.get(b"still serving").await.is_ok());
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let options = GrpcOptions {
        greeting: Duration::from_millis(20),
        ..Default::default()
    };
    let running = start_with(FakeNode::default(), options).await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"PRI * HT").await.unwrap();
    assert!(is_closed(&mut silent).await && is_closed(&mut slow).await);
    assert!(running.get(b"in time").await.is_ok());
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_and_counted() {
    let running = start_with(
        FakeNode::default(),
        GrpcOptions {
            max_connections: 2,
            ..Default::default()
        },
    )
    .await;
    let first = running.channel().await;
    let (_frames, _replies) = exec(&running, 1).await;
    let mut third = TcpStream::connect(running.address).await.unwrap();
    assert!(is_closed(&mut third).await);
    assert!(
        running
            .metrics
            .render()
            .unwrap()
            .contains("kvsvr_connections_refused_total{listener=\"grpc\"} 1")
    );

    let request = pb::GetRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    };
    let mut client = KvClient::new(first.clone());
    client.get(request).await.unwrap();
    drop((client, first));
    // A place is free as soon as the server has seen the end of the first connection.
    let replies = timeout(PATIENCE, async {
        loop {
            let endpoint = Endpoint::new(format!("http://{}", running.address)).unwrap();
            let Ok(channel) = endpoint.connect().await else {
                continue;
            };
            let request = pb::GetRequest {
                key: Bytes::from_static(b"k"),
                ..Default::default()
            };
            if let Ok(answer) = KvClient::new(channel).get(request).await {
                return answer;
            }
        }
    });
    assert_eq!(replies.await.unwrap().into_inner().revision, 7);
}

#[tokio::test]
async fn what_does_not_end_is_cut_after_the_drain() {
    struct Stubborn;
    impl Service for Stubborn {
        fn call(&self, _: Method, _: Bytes) -> BoxFuture<'static, Result<Bytes, CallError>> {
            futures::future::pending().boxed()
        }
        fn open(
            &self,
            _: Method,
            _: StreamReceiver,
            output: StreamSender,
        ) -> BoxFuture<'static, Result<(), CallError>> {
            async move {
                drop(output.send(Bytes::new()).await);
                futures::future::pending().await
            }
            .boxed()
        }
    }
    let server = GrpcServer::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (address, health) = (server.local_addr(), server.health());
    let options = GrpcOptions {
        drain: Duration::from_millis(20),
        ..Default::default()
    };
    let metrics = Metrics::new();
    let serve = server.serve(Arc::new(Stubborn), metrics.clone(), options, async move {
        drop(stopped.await)
    });
    let running = Running {
        address,
        health,
        metrics,
        stop: Some(stop),
        task: tokio::spawn(serve),
    };
    let requests = futures::stream::pending::<pb::ExecFrame>();
    let mut replies = KvClient::new(running.channel().await)
        .exec(requests)
        .await
        .unwrap()
        .into_inner();
    assert!(replies.message().await.unwrap().is_some());
    running.stop().await;
    assert!(replies.message().await.is_err());
}

/// Connections that say hello and then nothing, all held open, with both ends in this process.
#[tokio::test]
#[ignore = "needs 19,000 file handles: ulimit -n 20000"]
async fn thousands_of_connections_cost_little_memory() {
    const CONNECTIONS: usize = 9_000;
    let running = start_with(
        FakeNode::default(),
        GrpcOptions {
            max_connections: CONNECTIONS + 1,
            ..Default::default()
        },
    )
    .await;
    let before = crate::metrics::resident_bytes();
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        // The preface and an empty SETTINGS frame; the answer shows that the server has set the connection up.
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        stream.read_u8().await.unwrap();
        open.push(stream);
    }
    let each = crate::metrics::resident_bytes().saturating_sub(before) / CONNECTIONS as u64;
    assert!(running.get(b"still serving").await.is_ok());
    assert!(each < 48 << 10, "{each} bytes for each connection, both ends");
    println!("{each} bytes for each connection, both ends");
}
