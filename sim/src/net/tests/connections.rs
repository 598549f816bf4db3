//! Making connections, and how they end.

use super::*;

#[test]
fn the_first_call_takes_two_round_trips_and_the_next_one() {
    lab(|lab| async move {
        let (answer, took) = lab.call(Method::KvGet, "hello").await;
        assert_eq!(answer.unwrap(), "hello");
        assert_took(took, 40 * MS);
        assert_took(lab.call(Method::KvGet, "hello").await.1, 20 * MS);
    });
}

#[test]
fn a_malformed_request_is_rejected_and_the_connection_stays() {
    lab(|lab| async move {
        let (answer, _) = lab.call(Method::KvDelete, "x").await;
        assert!(
            matches!(answer, Err(TransportError::Rejected { .. })),
            "{answer:?}"
        );
        assert_took(lab.call(Method::KvGet, "x").await.1, 20 * MS);
    });
}

#[test]
fn a_dead_process_refuses_and_an_unknown_host_is_unreachable() {
    lab(|mut lab| async move {
        lab.net.end_process("server");
        let (answer, took) = lab.call(Method::KvGet, "x").await;
        assert_unreachable(&answer);
        assert_took(took, 20 * MS);
        let call = lab
            .endpoint
            .call("nobody", Class::Data, Method::KvGet, Bytes::new(), LONG);
        assert_unreachable(&call.await);
        lab.restart_server();
        lab.call(Method::KvGet, "x").await.0.unwrap();
    });
}

#[test]
fn a_process_that_does_not_listen_yet_refuses() {
    lab(|lab| async move {
        lab.net.end_process("server");
        let host = Handle::current().create_node().build();
        lab.net.boot("server", host);
        assert_unreachable(&lab.call(Method::KvGet, "x").await.0);
    });
}

#[test]
fn connecting_hangs_over_a_cut_in_either_direction_and_to_machines_that_do_not_answer() {
    type Spoil = fn(&Lab);
    let spoils: [Spoil; 4] = [
        |lab| lab.to_server(|link| link.cut = true),
        |lab| lab.to_client(|link| link.cut = true),
        |lab| lab.net.end_machine("server"),
        |lab| lab.net.pause("server", true),
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        lab(|lab| async move {
            spoil(&lab);
            let (answer, took) = lab.call(Method::KvGet, "x").await;
            assert_unreachable(&answer);
            assert_took(took, kvsvr_client::limits::CONNECT_TIMEOUT);
            assert_eq!(lab.calls(), 0, "{number}");
        });
    }
}

#[test]
fn callers_share_the_connection_being_made() {
    lab(|lab| async move {
        let both = futures::join!(lab.call(Method::KvGet, "a"), lab.call(Method::KvGet, "b"));
        assert_took(both.0.1.max(both.1.1), 40 * MS);
    });
}

#[test]
fn the_end_of_a_process_breaks_calls_and_streams() {
    lab(|lab| async move {
        let (sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        sender.send("x".into()).await.unwrap();
        assert_eq!(receiver.next().await.unwrap().unwrap(), "x");
        let killing = async {
            sleep(500 * MS).await;
            lab.net.end_process("server");
            Handle::current().kill(lab.server.id());
        };
        let ((answer, took), ()) = futures::join!(lab.call(Method::KvRange, "slow"), killing);
        assert_broken(&answer);
        assert_took(took, 510 * MS);
        assert_broken(&receiver.next().await.unwrap());
        assert!(receiver.next().await.is_none());
        sender.closed().await;
        assert_eq!(lab.echo.0.lock().ended, 2);
    });
}

#[test]
fn a_machine_without_power_is_noticed_by_keep_alive() {
    lab(|lab| async move {
        let (_sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        lab.net.end_machine("server");
        Handle::current().kill(lab.server.id());
        let begun = Instant::now();
        assert_broken(&receiver.next().await.unwrap());
        let limits = kvsvr_client::limits::KEEP_ALIVE_INTERVAL + kvsvr_client::limits::KEEP_ALIVE_TIMEOUT;
        assert!(begun.elapsed() <= limits + 5 * MS, "{:?}", begun.elapsed());
        assert!(begun.elapsed() >= kvsvr_client::limits::KEEP_ALIVE_TIMEOUT);
    });
}

#[test]
fn a_half_open_connection_is_reset_when_the_machine_is_back() {
    lab(|mut lab| async move {
        lab.call(Method::KvGet, "x").await.0.unwrap();
        lab.net.end_machine("server");
        Handle::current().kill(lab.server.id());
        lab.restart_server();
        let (answer, took) = lab.call(Method::KvGet, "y").await;
        assert_broken(&answer);
        assert_took(took, 20 * MS);
        assert_eq!(lab.calls(), 1);
        assert_took(lab.call(Method::KvGet, "z").await.1, 40 * MS);
    });
}

#[test]
fn a_server_notices_by_keep_alive_that_its_client_is_gone() {
    lab(|lab| async move {
        let (sender, _receiver) = lab.open(Class::Data, Method::KvExec).await;
        sender.send("x".into()).await.unwrap();
        sleep(50 * MS).await;
        lab.net.end_machine("client");
        Handle::current().kill(lab.client.id());
        sleep(Duration::from_secs(9)).await;
        assert_eq!(lab.echo.0.lock().ended, 0);
        sleep(Duration::from_secs(8)).await;
        assert_eq!(lab.echo.0.lock().ended, 1);
    });
}

#[test]
fn a_server_hears_at_once_of_the_end_of_a_client_process() {
    lab(|lab| async move {
        let (sender, _receiver) = lab.open(Class::Data, Method::KvExec).await;
        sender.send("x".into()).await.unwrap();
        sleep(50 * MS).await;
        lab.net.end_process("client");
        Handle::current().kill(lab.client.id());
        sleep(12 * MS).await;
        assert_eq!(lab.echo.0.lock().ended, 1);
    });
}

#[test]
fn a_cut_connection_ends_on_both_sides_though_no_reset_gets_through() {
    lab(|lab| async move {
        let (sender, mut receiver) = lab.open(Class::Data, Method::KvExec).await;
        sender.send("x".into()).await.unwrap();
        sleep(50 * MS).await;
        lab.to_server(|link| link.cut = true);
        lab.to_client(|link| link.cut = true);
        assert_eq!(receiver.next().await.unwrap().unwrap(), "x");
        assert_broken(&receiver.next().await.unwrap());
        assert_eq!(lab.echo.0.lock().ended, 0);
        sleep(Duration::from_secs(15)).await;
        assert_eq!(lab.echo.0.lock().ended, 1);
    });
}

#[test]
fn a_short_cut_delays_what_was_sent() {
    lab(|lab| async move {
        lab.call(Method::KvGet, "x").await.0.unwrap();
        lab.to_server(|link| link.cut = true);
        let healing = async {
            sleep(700 * MS).await;
            assert_eq!(lab.calls(), 1);
            lab.net.heal();
        };
        let ((answer, took), ()) = futures::join!(lab.call(Method::KvGet, "y"), healing);
        assert_eq!(answer.unwrap(), "y");
        assert!((700 * MS..1500 * MS).contains(&took), "{took:?}");
    });
}

#[test]
fn connections_close_with_their_last_user() {
    lab(|lab| async move {
        lab.call(Method::KvGet, "x").await.0.unwrap();
        let Lab { net, endpoint, .. } = lab;
        assert_eq!(net.open_connections(), 1);
        drop(endpoint);
        sleep(50 * MS).await;
        assert_eq!(net.open_connections(), 0);
    });
}
