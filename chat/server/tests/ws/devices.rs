//! Devices of the client library: what was sent arrives once and in order, whatever dies in between.

use std::{collections::BTreeMap, time::Duration};

use chat_client::{Client, Happened, History, News, Options};
use chat_proto::v1::{Code, Send, Tokens, Want, message::Body, request::Request as Q, send};
use tokio::{sync::mpsc, time::timeout};

use crate::client::World;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

fn start(world: &World, tokens: Tokens) -> Client {
    start_at(vec![world.chat.address.to_string()], tokens)
}

pub(crate) fn start_at(addresses: Vec<String>, tokens: Tokens) -> Client {
    let options = Options {
        backoff: (Duration::from_millis(20), Duration::from_millis(200)),
        history: History::All,
        ..Options::new(addresses)
    };
    Client::start(options, tokens)
}

/// Until it is connected and knows all there is.
pub(crate) async fn in_sync(client: &Client) {
    loop {
        let happened = timeout(PATIENCE, client.happened())
            .await
            .expect("it does not come into sync");
        if happened.unwrap() == Happened::InSync {
            return;
        }
    }
}

/// The texts of a conversation, in the order in which they came, until there are so many.
pub(crate) async fn texts(client: &Client, conversation: &str, count: usize) -> Vec<String> {
    let mut texts = BTreeMap::new();
    let mut order = Vec::new();
    while texts.len() < count {
        let happened = timeout(PATIENCE, client.happened()).await;
        let happened = happened.unwrap_or_else(|_| panic!("{} of {count} came: {order:?}", texts.len()));
        let Some(Happened::News(News::Message(of, message))) = happened else {
            continue;
        };
        let Some(Body::Text(text)) = message.body.filter(|_| of == conversation) else {
            continue;
        };
        assert_eq!(
            texts.insert(message.seq, text.text.clone()),
            None,
            "{} came twice",
            message.seq
        );
        order.push(text.text);
    }
    assert!(texts.into_values().eq(order.iter().cloned()), "out of order");
    order
}

pub(crate) fn text(conversation: &str, number: u8) -> Send {
    let mut client_id = [0; 16];
    client_id[0] = number;
    Send {
        conversation: conversation.to_owned(),
        client_id: client_id.to_vec().into(),
        reply_to: 0,
        body: Some(send::Body::Text(format!("m{number}"))),
    }
}

pub(crate) async fn want(client: &Client, user: u64) {
    loop {
        let want = Want {
            user,
            greeting: String::new(),
        };
        match client.call(Q::Want(want)).await {
            Ok(_) => return,
            Err(error) => assert_ne!(error.code(), Code::Forbidden),
        }
    }
}

/// Gateway, services and workers die three times while messages are sent; a second device of the receiver is there all the time, a third one comes at the end.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_told_twice_when_everything_but_the_store_dies() {
    const COUNT: u8 = 120;
    let mut world = World::start().await;
    let (alice, bob) = (
        world.tokens("/v1/register", "alice").await,
        world.tokens("/v1/register", "bob").await,
    );
    let pair = format!("d-{}-{}", alice.user, bob.user);
    let second = world.login("bob").await;
    let third = world.login("bob").await;
    let (bob_id, alice_id) = (bob.user, alice.user);
    let (alice, bob, second) = (start(&world, alice), start(&world, bob), start(&world, second));
    for client in [&alice, &bob, &second] {
        in_sync(client).await;
    }
    want(&alice, bob_id).await;
    want(&bob, alice_id).await;
    let (told, mut sent_so_far) = mpsc::unbounded_channel();
    let sending = async {
        for number in 0..COUNT {
            let sent = timeout(PATIENCE, alice.send(text(&pair, number)))
                .await
                .expect("it is not sent");
            assert_eq!(sent.unwrap().seq, u64::from(number) + 1);
            told.send(number).unwrap();
        }
    };
    let dying = async {
        // In the middle of sending, three times.
        for life in 1..=3 {
            while sent_so_far.recv().await.unwrap() < life * (COUNT / 4) {}
            world.restart(&format!("life-{life}")).await;
        }
    };
    let count = usize::from(COUNT);
    let (first, other, (), ()) = tokio::join!(
        texts(&bob, &pair, count),
        texts(&second, &pair, count),
        sending,
        dying
    );
    let expected: Vec<String> = (0..COUNT).map(|number| format!("m{number}")).collect();
    assert_eq!((&first, &other), (&expected, &expected));
    let third = start(&world, third);
    assert_eq!(texts(&third, &pair, count).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_take_is_told() {
    let world = World::start().await;
    let alice = start(&world, world.tokens("/v1/register", "alice").await);
    in_sync(&alice).await;
    let refused = alice.send(text("d-1-2000", 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotContacts);
}
