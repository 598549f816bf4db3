//! Streams: order, bounds, ends.

use super::*;

fn numbered(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

#[test]
fn messages_stay_in_order_whatever_the_delays() {
    lab(|lab| async move {
        lab.to_server(|link| link.jitter = 50 * MS);
        lab.to_client(|link| {
            link.jitter = 50 * MS;
            link.loss = 0.1;
        });
        let (sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        let sending = async {
            for number in 0..100 {
                sender.send(numbered(number)).await.unwrap();
            }
            drop(sender);
        };
        let receiving = async {
            let mut got = Vec::new();
            while let Some(item) = receiver.next().await {
                got.push(item.unwrap());
            }
            got
        };
        let ((), got) = futures::join!(sending, receiving);
        assert_eq!(got, (0..100).map(numbered).collect::<Vec<_>>());
    });
}

#[test]
fn a_stream_that_nobody_reads_takes_a_window_and_no_more() {
    lab(|lab| async move {
        let megabyte = Bytes::from(vec![0; 1 << 20]);
        let (sender, _receiver) = lab.open(Class::Data, Method::RaftSnapshot).await;
        let mut taken = 0;
        while taken < 100 {
            match tokio::time::timeout(200 * MS, sender.send(megabyte.clone())).await {
                Ok(sent) => sent.unwrap(),
                Err(_) => break,
            }
            taken += 1;
        }
        // The window, what waits in the queue, and the one that waits for room.
        assert_eq!(taken, 4 + kvsvr_client::transport::STREAM_QUEUE + 1);
        // Others on the connection go on.
        assert_took(lab.call(Method::KvGet, "x").await.1, 20 * MS);
    });
}

#[test]
fn streams_that_nobody_reads_hold_up_a_servers_connection() {
    lab(|lab| async move {
        let megabyte = Bytes::from(vec![0; 1 << 20]);
        let mut stuck = Vec::new();
        for _ in 0..2 {
            let (sender, receiver) = lab.open(Class::Data, Method::RaftSnapshot).await;
            for _ in 0..8 {
                sender.send(megabyte.clone()).await.unwrap();
            }
            stuck.push((sender, receiver));
        }
        let (sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        sender.send("x".into()).await.unwrap();
        let held_up = tokio::time::timeout(Duration::from_secs(1), receiver.next()).await;
        held_up.unwrap_err();
        // With one of them given up there is room again.
        drop(stuck.pop());
        assert_eq!(receiver.next().await.unwrap().unwrap(), "x");
    });
}

#[test]
fn a_reader_makes_room_after_a_round_trip() {
    lab(|lab| async move {
        let megabyte = Bytes::from(vec![0; 1 << 20]);
        let (sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        let sending = async {
            for _ in 0..40 {
                sender.send(megabyte.clone()).await.unwrap();
            }
            drop(sender);
        };
        let begun = Instant::now();
        let receiving = async {
            let mut count = 0;
            while let Some(item) = receiver.next().await {
                item.unwrap();
                count += 1;
            }
            count
        };
        assert_eq!(futures::join!(sending, receiving).1, 40);
        // 4 MiB for each round trip of 20 ms.
        assert!(
            (180 * MS..260 * MS).contains(&begun.elapsed()),
            "{:?}",
            begun.elapsed()
        );
    });
}

#[test]
fn dropping_a_call_or_a_receiver_cancels_at_the_server() {
    lab(|lab| async move {
        let (sender, receiver) = lab.open(Class::Data, Method::RaftSnapshot).await;
        let call = lab
            .endpoint
            .call("server", Class::Data, Method::AdminCompact, Bytes::new(), LONG);
        let calling = lab.client.spawn(call);
        sleep(50 * MS).await;
        assert_eq!((lab.calls(), lab.echo.0.lock().streams), (1, 1));
        drop(receiver);
        calling.abort();
        sleep(8 * MS).await;
        assert_eq!(lab.echo.0.lock().ended, 0);
        sleep(5 * MS).await;
        assert_eq!(lab.echo.0.lock().ended, 2);
        sender.closed().await;
    });
}

#[test]
fn a_deadline_ends_a_call_on_both_sides() {
    lab(|lab| async move {
        let (answer, took) = lab.call_within(Method::AdminCompact, "x", 300 * MS).await;
        assert!(
            matches!(answer, Err(TransportError::Timeout { .. })),
            "{answer:?}"
        );
        assert_took(took, 300 * MS);
        sleep(12 * MS).await;
        assert_eq!(lab.echo.0.lock().ended, 1);
    });
}

#[test]
fn a_stream_ends_after_its_messages_in_order_or_with_the_services_error() {
    lab(|lab| async move {
        for method in [Method::KvExec, Method::WatchWatch] {
            let (sender, mut receiver) = lab.open(Class::Data, method).await;
            sender.send("x".into()).await.unwrap();
            drop(sender);
            assert_eq!(receiver.next().await.unwrap().unwrap(), "x");
            match (method, receiver.next().await) {
                (Method::KvExec, None) => {}
                (_, Some(Err(TransportError::Rejected { .. }))) => {}
                (method, other) => panic!("{method:?}: {other:?}"),
            }
            assert!(receiver.next().await.is_none());
        }
    });
}

#[test]
fn classes_overtake_each_other() {
    lab(|lab| async move {
        lab.to_server(|link| link.jitter = 50 * MS);
        let call = |class, name: &'static str| {
            lab.endpoint.call(
                "server",
                class,
                Method::KvGet,
                Bytes::from_static(name.as_bytes()),
                LONG,
            )
        };
        call(Class::Data, "warm").await.unwrap();
        call(Class::Control, "warm").await.unwrap();
        for _ in 0..20 {
            let first = lab.client.spawn(call(Class::Data, "first"));
            sleep(MS).await;
            let second = lab.client.spawn(call(Class::Control, "second"));
            first.await.unwrap().unwrap();
            second.await.unwrap().unwrap();
        }
        let journal = lab.echo.0.lock();
        let overtaken = journal.calls[2..]
            .chunks(2)
            .filter(|pair| pair[0].1 == "second")
            .count();
        assert!((1..20).contains(&overtaken), "{overtaken}");
    });
}
