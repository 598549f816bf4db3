//! Clients at a real socket: the whole backend in one process, on one production node in memory.
#![expect(clippy::unwrap_used, reason = "tests: what does not work fails them")]

mod apart;
mod client;
mod devices;

use std::time::Duration;

use chat_proto::v1::{
    ClientFrame, Code, Hello, Ping, RemoveDevice, Request, Send, Sync, Typing, Want, WatchPresence,
    client_frame, reply::Reply as R, request::Request as Q, send, server_frame::Body,
};
use client::{Client, World};

fn text(conversation: &str, id: u8, text: &str) -> Q {
    Q::Send(Send {
        conversation: conversation.to_owned(),
        client_id: vec![id; 16].into(),
        reply_to: 0,
        body: Some(send::Body::Text(text.to_owned())),
    })
}

fn want(user: u64) -> Q {
    Q::Want(Want {
        user,
        greeting: String::new(),
    })
}

async fn friends(world: &World) -> (Client, Client, String) {
    let (mut alice, mut bob) = (world.connect("alice").await, world.connect("bob").await);
    alice.call(want(bob.user)).await.unwrap();
    bob.call(want(alice.user)).await.unwrap();
    let pair = format!("d-{}-{}", alice.user.min(bob.user), alice.user.max(bob.user));
    (alice, bob, pair)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_pushed_and_synced() {
    let world = World::start().await;
    let (mut alice, mut bob, pair) = friends(&world).await;
    let R::Sent(sent) = alice.call(text(&pair, 1, "hello <b>Bob</b>")).await.unwrap() else {
        panic!("not sent");
    };
    assert_eq!(sent.seq, 1);
    let pushed = bob
        .until(|body| match body {
            Body::Push(push) => Some(push.clone()),
            _ => None,
        })
        .await;
    assert_eq!(
        (pushed.conversation.as_str(), pushed.message.unwrap().seq),
        (pair.as_str(), 1)
    );
    bob.until(|body| matches!(body, Body::Changed(changed) if changed.conversations).then_some(()))
        .await;
    let (mut snapshot, mut seen) = (Vec::new(), Vec::new());
    loop {
        let sync = Sync {
            snapshot: snapshot.clone().into(),
            messages: 5,
            ..Sync::default()
        };
        let R::Delta(delta) = bob.call(Q::Sync(sync)).await.unwrap() else {
            panic!("no delta");
        };
        seen.extend(delta.conversations);
        snapshot = delta.snapshot.to_vec();
        if !delta.more {
            break;
        }
    }
    let view = seen.last().unwrap();
    assert_eq!((view.unread, view.messages.len()), (1, 1));
}

/// Many at once, without waiting for answers: in the order in which they were written.
#[tokio::test(flavor = "multi_thread")]
async fn messages_keep_their_order() {
    let world = World::start().await;
    let (mut alice, _bob, pair) = friends(&world).await;
    let mut ids = Vec::new();
    for number in 0..60 {
        ids.push(alice.ask(text(&pair, number, &format!("m{number}"))).await);
    }
    let mut seqs = vec![0; ids.len()];
    for _ in &ids {
        let (id, answer) = alice.answer().await;
        let R::Sent(sent) = answer.unwrap() else {
            panic!("not sent");
        };
        seqs[ids.iter().position(|other| *other == id).unwrap()] = sent.seq;
    }
    assert!(seqs.iter().copied().eq(1..=60), "{seqs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_and_presence_are_for_friends() {
    let world = World::start().await;
    let (mut alice, mut bob, pair) = friends(&world).await;
    let mut carol = world.connect("carol").await;
    let typing = client_frame::Body::Typing(Typing {
        conversation: pair.clone(),
        user: 0,
    });
    carol.write(7, typing.clone()).await;
    alice.write(8, typing).await;
    let seen = bob
        .until(|body| match body {
            Body::Typing(typing) => Some(typing.clone()),
            _ => None,
        })
        .await;
    assert_eq!((seen.user, seen.conversation), (alice.user, pair));
    let watch = client_frame::Body::WatchPresence(WatchPresence {
        users: vec![bob.user, carol.user],
    });
    alice.write(9, watch).await;
    let presence = |body: &Body| match body {
        Body::Presence(presence) => Some(presence.clone()),
        _ => None,
    };
    let first = alice.until(presence).await;
    assert_eq!(
        (first.online, first.offline),
        (vec![bob.user], vec![]),
        "carol is no friend"
    );
    let tokens = bob.tokens.clone();
    bob.close().await;
    carol.close().await;
    let again = world.with_tokens(tokens).await;
    assert!(!again.ready.resumed, "it went by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_resumed() {
    let world = World::start().await;
    let (mut alice, bob, pair) = friends(&world).await;
    let (session, tokens) = (bob.ready.session.clone(), bob.tokens.clone());
    drop(bob);
    alice.call(text(&pair, 1, "are you there?")).await.unwrap();
    let mut bob = world.hello(&tokens, session.to_vec()).await.unwrap();
    assert!(bob.ready.resumed);
    bob.until(|body| matches!(body, Body::Push(_)).then_some(()))
        .await;
    // Only one connection has the session.
    let mut second = world.hello(&tokens, session.to_vec()).await.unwrap();
    assert!(second.ready.resumed);
    bob.closed().await;
    second.call(text(&pair, 1, "here")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_removed_is_cut_off() {
    let world = World::start().await;
    let mut first = world.connect("alice").await;
    let second = world.login("alice").await;
    let device = second.device;
    let mut second = world.with_tokens(second).await;
    first
        .call(Q::RemoveDevice(RemoveDevice { device }))
        .await
        .unwrap();
    let error = second
        .until(|body| match body {
            Body::Error(error) => Some(error.clone()),
            _ => None,
        })
        .await;
    assert_eq!(error.code(), Code::Unauthenticated);
    second.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_protocol_ends_the_connection_and_nothing_else() {
    let world = World::start().await;
    let mut alice = world.connect("alice").await;
    for raw in [
        "",
        "{",
        "null",
        "[1]",
        "{\"id\":1,\"ping\":{}}",
        "{\"id\":1,\"hello\":{\"version\":9}}",
    ] {
        let mut stranger = world.stranger().await;
        stranger.write_raw(raw.into()).await;
        assert_eq!(stranger.error().await.code(), Code::Protocol, "{raw}");
        stranger.closed().await;
    }
    let mut forged = world.stranger().await;
    let hello = Hello {
        version: 1,
        access_token: alice.tokens.refresh_token.clone(),
        ..Hello::default()
    };
    forged.write(1, client_frame::Body::Hello(hello)).await;
    assert_eq!(forged.error().await.code(), Code::Unauthenticated);
    let mut large = world.connect("bob").await;
    large.write_raw("x".repeat(1 << 20).into()).await;
    large.closed().await;
    let empty = ClientFrame {
        id: 5,
        body: Some(client_frame::Body::Request(Request::default())),
    };
    alice
        .write_raw(serde_json::to_string(&empty).unwrap().into())
        .await;
    assert_eq!(alice.answer().await, (5, Err(Code::Invalid)));
    alice.write(6, client_frame::Body::Ping(Ping {})).await;
    alice
        .until(|body| matches!(body, Body::Pong(_)).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_to_come_back_when_it_drains() {
    let mut world = World::start().await;
    let mut alice = world.connect("alice").await;
    let drained = tokio::time::timeout(Duration::from_secs(8), world.chat.drain());
    let (after, drained) = tokio::join!(
        alice.until(|body| match body {
            Body::GoAway(go_away) => Some(go_away.reconnect_after_ms),
            _ => None,
        }),
        drained
    );
    assert!(after <= 5_000 && drained.is_ok());
    alice.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http() {
    let world = World::start().await;
    for (path, body, status) in [
        ("/v1/register", "{", 400),
        (
            "/v1/register",
            r#"{"name":"a","password":"correct horse","device":"x"}"#,
            400,
        ),
        (
            "/v1/register",
            r#"{"name":"alice","password":"short","device":"x"}"#,
            400,
        ),
        (
            "/v1/register",
            r#"{"name":"alice","password":"correct horse","device":"x"}"#,
            200,
        ),
        (
            "/v1/login",
            r#"{"name":"alice","password":"wrong horse","device":"x"}"#,
            401,
        ),
        ("/v1/refresh", r#"{"refreshToken":"AAAA"}"#, 401),
    ] {
        let (got, answer) = world.post(path, body).await;
        assert_eq!(got, status, "{path} {body}: {answer}");
        if status != 200 {
            assert!(answer.contains("\"code\""), "{answer}");
        }
    }
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(100_000));
    assert!([400, 413].contains(&world.post("/v1/register", &large).await.0));
    let (status, page) = world.get("/").await;
    assert_eq!(status, 200);
    assert!(page.to_lowercase().contains("content-security-policy"), "{page}");
    assert_eq!(world.get("/healthz").await.0, 200);
    assert_eq!(world.get("/../Cargo.toml").await.0, 404);
}
