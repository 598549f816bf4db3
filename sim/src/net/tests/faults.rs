//! What links do to messages, and what is told of it.

use std::collections::BTreeSet;

use super::*;

#[test]
fn lost_packets_are_sent_again_later() {
    lab(|lab| async move {
        lab.call(Method::KvGet, "x").await.0.unwrap();
        lab.to_server(|link| link.loss = 0.3);
        let mut late = 0;
        for _ in 0..50 {
            let (answer, took) = lab.call(Method::KvGet, "x").await;
            answer.unwrap();
            late += usize::from(took > 30 * MS);
        }
        assert!((5..30).contains(&late), "{late}");
        assert_eq!(lab.calls(), 51);
    });
}

#[test]
fn a_link_that_loses_everything_breaks_its_connections() {
    lab(|lab| async move {
        lab.call(Method::KvGet, "x").await.0.unwrap();
        lab.to_server(|link| link.loss = 1.0);
        assert_broken(&lab.call(Method::KvGet, "x").await.0);
    });
}

#[test]
fn a_clogged_link_holds_messages_and_lets_them_go_in_order() {
    lab(|lab| async move {
        let (sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        lab.to_server(|link| link.clogged = true);
        for text in ["a", "b", "c"] {
            sender.send(text.into()).await.unwrap();
        }
        sleep(500 * MS).await;
        assert!(lab.echo.0.lock().messages.is_empty());
        let begun = Instant::now();
        lab.to_server(|link| link.clogged = false);
        for text in ["a", "b", "c"] {
            assert_eq!(receiver.next().await.unwrap().unwrap(), text);
        }
        assert_took(begun.elapsed(), 10 * MS);
    });
}

#[test]
fn cuts_are_one_way() {
    lab(|lab| async move {
        lab.call(Method::KvGet, "x").await.0.unwrap();
        lab.to_client(|link| link.cut = true);
        let (answer, _) = lab.call_within(Method::KvGet, "y", 500 * MS).await;
        assert!(
            matches!(answer, Err(TransportError::Timeout { .. })),
            "{answer:?}"
        );
        assert_eq!(lab.calls(), 2);
    });
}

#[test]
fn bandwidth_is_shared_by_the_connections_of_a_link() {
    lab(|lab| async move {
        lab.call(Method::KvGet, "x").await.0.unwrap();
        lab.to_server(|link| link.bandwidth = Some(1_000_000));
        let big = Bytes::from(vec![0; 500_000]);
        let call = |class| {
            lab.client.spawn(
                lab.endpoint
                    .call("server", class, Method::KvGet, big.clone(), LONG),
            )
        };
        let begun = Instant::now();
        let (one, other) = futures::join!(call(Class::Data), call(Class::Bulk));
        one.unwrap().unwrap();
        other.unwrap().unwrap();
        assert!(
            (1000 * MS..1080 * MS).contains(&begun.elapsed()),
            "{:?}",
            begun.elapsed()
        );
    });
}

#[test]
fn a_reset_before_delivery_loses_the_request() {
    lab(|lab| async move {
        lab.to_server(|link| link.reset_before = 1.0);
        let (_sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        assert_broken(&lab.call(Method::KvGet, "x").await.0);
        assert_broken(&receiver.next().await.unwrap());
        assert_eq!(lab.calls(), 0);
        assert_eq!(lab.fates(Fate::ResetBefore), 1);
    });
}

#[test]
fn a_reset_after_delivery_loses_the_answer() {
    lab(|lab| async move {
        lab.to_server(|link| link.reset_after = 1.0);
        assert_broken(&lab.call(Method::KvRange, "x").await.0);
        // It was carried out to its end: not cancelled.
        assert_eq!((lab.calls(), lab.echo.0.lock().ended), (1, 1));
        let (sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        sender.send("y".into()).await.unwrap();
        assert_broken(&receiver.next().await.unwrap());
        assert_eq!(lab.echo.0.lock().messages.len(), 1);
        assert_eq!(lab.fates(Fate::ResetAfter), 2);
    });
}

#[test]
fn a_duplicated_call_is_carried_out_again_later() {
    lab(|lab| async move {
        lab.to_server(|link| {
            link.duplicate = 1.0;
            link.replay_delay = Duration::from_secs(2);
        });
        lab.call(Method::KvPut, "x").await.0.unwrap();
        assert_eq!(lab.calls(), 1);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(lab.calls(), 2);
        assert_eq!(lab.fates(Fate::Duplicated), 1);
    });
}

#[test]
fn an_old_stream_is_played_again_even_to_a_later_process() {
    lab(|mut lab| async move {
        lab.to_server(|link| {
            link.replay = 1.0;
            link.replay_delay = Duration::from_secs(2);
        });
        let (sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        for text in ["a", "b"] {
            sender.send(text.into()).await.unwrap();
            receiver.next().await.unwrap().unwrap();
        }
        lab.net.end_process("server");
        Handle::current().kill(lab.server.id());
        lab.restart_server();
        sleep(Duration::from_secs(3)).await;
        let journal = lab.echo.0.lock();
        assert!(journal.streams > 1, "{}", journal.streams);
        let heads = journal.messages[2..].iter().map(|(_, text)| text.clone());
        assert!(heads.collect::<BTreeSet<_>>().contains(&b"a"[..]));
        drop(journal);
        assert!(lab.fates(Fate::Replayed) > 0);
    });
}

#[test]
fn a_paused_process_does_nothing_and_then_all() {
    lab(|lab| async move {
        lab.call(Method::KvGet, "x").await.0.unwrap();
        lab.net.pause("server", true);
        Handle::current().pause(lab.server.id());
        let resuming = async {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(lab.calls(), 1);
            Handle::current().resume(lab.server.id());
            lab.net.pause("server", false);
        };
        let ((answer, took), ()) = futures::join!(lab.call(Method::KvGet, "y"), resuming);
        answer.unwrap();
        assert!((1000 * MS..1020 * MS).contains(&took), "{took:?}");
    });
}

#[test]
fn a_process_that_is_paused_for_long_loses_its_connections() {
    lab(|lab| async move {
        let (_sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        lab.net.pause("server", true);
        Handle::current().pause(lab.server.id());
        assert_broken(&receiver.next().await.unwrap());
    });
}

#[test]
fn observers_see_every_message_with_its_fate() {
    lab(|lab| async move {
        let seen: Arc<Mutex<Vec<Event>>> = Arc::default();
        let sink = seen.clone();
        lab.net
            .observe(Arc::new(move |event, _| sink.lock().push(event.clone())));
        lab.call(Method::KvGet, "hello").await.0.unwrap();
        let seen = seen.lock();
        let told: Vec<_> = seen
            .iter()
            .map(|it| (&*it.from, &*it.to, it.method, it.direction, it.bytes, it.fate))
            .collect();
        let get = Method::KvGet;
        assert_eq!(
            told,
            [
                ("client", "server", get, Direction::Request, 5, Fate::Delivered),
                ("server", "client", get, Direction::Answer, 5, Fate::Delivered),
            ]
        );
    });
}

#[test]
fn what_a_broken_connection_carried_is_counted_as_dropped() {
    lab(|lab| async move {
        let (sender, _receiver) = lab.open(Class::Data, Method::KvExec).await;
        sender.send("x".into()).await.unwrap();
        sleep(5 * MS).await;
        lab.net.end_machine("client");
        sleep(50 * MS).await;
        assert_eq!(lab.fates(Fate::Dropped), 1);
        assert!(lab.echo.0.lock().messages.is_empty());
    });
}

/// Some traffic over a bad network.
fn traffic(seed: u64, spoil: impl Fn(&mut LinkSpec)) -> u64 {
    lab_with_seed(seed, |lab| async move {
        lab.to_server(&spoil);
        lab.to_client(&spoil);
        for _ in 0..50 {
            let _ = lab.call_within(Method::KvGet, "x", 500 * MS).await;
        }
        lab.net.hash()
    })
}

#[test]
fn a_seed_gives_one_hash() {
    let bad = |link: &mut LinkSpec| {
        link.mean = 5 * MS;
        link.loss = 0.1;
        link.reset_before = 0.05;
        link.reset_after = 0.05;
        link.duplicate = 0.1;
        link.replay = 0.1;
    };
    assert_eq!(traffic(7, bad), traffic(7, bad));
    assert_ne!(traffic(7, bad), traffic(8, bad));
}
