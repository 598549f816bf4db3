//! Messages: sent once, seen by both, read, recalled, edited, forwarded, kept.

use std::time::Duration;

use bytes::Bytes;
use chat_proto::v1::{
    Code, Edit, Forward, GetReceipts, Keep, ListKept, MarkGot, MarkRead, Media, Pull, Recall, SeekDate, Send,
    SetOptions, media, reply::Reply as R, request::Request as Q, send, server_frame::Body,
};

use crate::world::{Device, World, texts};

#[tokio::test]
async fn both_see_the_same_and_unread_is_counted() {
    let world = World::new().await;
    let (mut alice, mut bob) = world.friends().await;
    let pair = alice.with(&bob);
    for number in 1..=3 {
        assert_eq!(alice.say(&pair, &format!("m{number}")).await.seq, number);
    }
    let told = |seq| {
        let pair = pair.clone();
        move |kept: &crate::world::Kept| kept.views.get(&pair).is_some_and(|view| view.head_seq >= seq)
    };
    bob.until("three messages", told(3)).await;
    alice.until("three messages", told(3)).await;
    assert_eq!((bob.view(&pair).unread, alice.view(&pair).unread), (3, 0));
    assert_eq!(texts(&bob.view(&pair)), texts(&alice.view(&pair)));
    let read = |seq| {
        Q::MarkRead(MarkRead {
            conversation: pair.clone(),
            seq,
        })
    };
    bob.call(read(2)).await.unwrap();
    bob.call(read(1)).await.unwrap();
    bob.until("one unread", |kept| kept.views[&pair].unread == 1)
        .await;
    alice
        .until("the receipt", |kept| kept.views[&pair].peer_read_seq == 2)
        .await;
    // Further than there is: as far as there is.
    bob.call(read(99)).await.unwrap();
    alice
        .until("the receipt", |kept| kept.views[&pair].peer_read_seq == 3)
        .await;
    let got = MarkGot {
        conversation: pair.clone(),
        seq: 3,
    };
    bob.call(Q::MarkGot(got)).await.unwrap();
    alice
        .until("what has arrived", |kept| kept.views[&pair].peer_got_seq == 3)
        .await;
    let R::Receipts(receipts) = alice
        .call(Q::GetReceipts(GetReceipts {
            conversation: pair.clone(),
        }))
        .await
        .unwrap()
    else {
        panic!("no receipts");
    };
    // Who writes has read.
    let read: Vec<_> = receipts
        .receipts
        .iter()
        .map(|receipt| (receipt.user, receipt.read_seq))
        .collect();
    assert_eq!(read, [(alice.user(), 3), (bob.user(), 3)]);
    let heard = world.heard.0.lock();
    let pushed = heard.iter().filter(|(user, body)| {
        user.0 == bob.user() && matches!(body, Body::Push(push) if push.conversation == pair)
    });
    assert_eq!(pushed.count(), 3);
}

#[tokio::test]
async fn a_message_is_taken_once_and_its_id_is_good_for_nothing_else() {
    let world = World::new().await;
    let (alice, bob) = world.friends().await;
    let pair = alice.with(&bob);
    let message = alice.text(&pair, "hello");
    let sent = async |send: Send| alice.call(Q::Send(send)).await;
    let (R::Sent(first), R::Sent(again)) = (
        sent(message.clone()).await.unwrap(),
        sent(message.clone()).await.unwrap(),
    ) else {
        panic!("not sent");
    };
    assert_eq!((first.seq, again.seq, again.again), (1, 1, true));
    let other = Send {
        body: Some(send::Body::Text("other".to_owned())),
        ..message.clone()
    };
    assert_eq!(alice.refused(Q::Send(other)).await, Code::Reused);
    for (bad, code) in [
        (
            Send {
                client_id: Bytes::from_static(b"short"),
                ..message.clone()
            },
            Code::Invalid,
        ),
        (
            Send {
                conversation: "d-1".to_owned(),
                ..message.clone()
            },
            Code::Invalid,
        ),
        (
            Send {
                conversation: "d-1000-1001".to_owned(),
                ..message.clone()
            },
            Code::Forbidden,
        ),
        (
            Send {
                conversation: "g-77".to_owned(),
                ..message.clone()
            },
            Code::Forbidden,
        ),
        (
            Send {
                body: None,
                ..message.clone()
            },
            Code::Invalid,
        ),
        (alice.text(&pair, " \u{200b} "), Code::Invalid),
        (alice.text(&pair, &"x".repeat(16 * 1024 + 1)), Code::TooLarge),
        (alice.text(&pair, "\u{1b}[31m"), Code::Invalid),
    ] {
        assert_eq!(alice.refused(Q::Send(bad.clone())).await, code, "{bad:?}");
    }
}

/// All at once, and each once more: everything is there once, in an order that all see.
#[tokio::test]
async fn many_at_once() {
    let world = World::new().await;
    let (alice, mut bob) = world.friends().await;
    let pair = alice.with(&bob);
    let messages: Vec<Send> = (0..90)
        .map(|number| alice.text(&pair, &format!("m{number}")))
        .collect();
    let sends = messages
        .iter()
        .chain(&messages)
        .map(|send| alice.call(Q::Send(send.clone())));
    let sent = futures::future::join_all(sends).await;
    let seq = |reply: &Result<R, _>| match reply {
        Ok(R::Sent(sent)) => sent.seq,
        _ => 0,
    };
    let seqs: Vec<u64> = sent.iter().map(seq).collect();
    assert_eq!(seqs[..90], seqs[90..]);
    assert!(
        seqs[..90].iter().copied().eq(1..=90),
        "in the order in which they were handed in"
    );
    bob.until("all", |kept| {
        kept.views.get(&pair).is_some_and(|view| view.head_seq == 90)
    })
    .await;
    assert_eq!((bob.view(&pair).unread, bob.view(&pair).messages.len()), (90, 20));
    let pull = Pull {
        conversation: pair.clone(),
        from_seq: 1,
        limit: 60,
        ..Pull::default()
    };
    let R::Page(page) = bob.call(Q::Pull(pull.clone())).await.unwrap() else {
        panic!("no page");
    };
    assert!(page.more && page.messages.iter().map(|message| message.seq).eq(1..=60));
    let backwards = Pull {
        to_seq: 40,
        limit: 10,
        backwards: true,
        ..pull
    };
    let R::Page(page) = bob.call(Q::Pull(backwards)).await.unwrap() else {
        panic!("no page");
    };
    assert!(
        page.more
            && page
                .messages
                .iter()
                .map(|message| message.seq)
                .eq((31..=40).rev())
    );
}

#[tokio::test]
async fn recalled_and_edited() {
    let world = World::new().await;
    let (mut alice, mut bob) = world.friends().await;
    let pair = alice.with(&bob);
    for text in ["first", "second", "third"] {
        alice.say(&pair, text).await;
    }
    let recall = |seq| {
        Q::Recall(Recall {
            conversation: pair.clone(),
            seq,
        })
    };
    assert_eq!(bob.refused(recall(1)).await, Code::Forbidden);
    alice.call(recall(1)).await.unwrap();
    alice.call(recall(1)).await.unwrap();
    let edit = |seq, text: &str| {
        Q::Edit(Edit {
            conversation: pair.clone(),
            seq,
            text: text.to_owned(),
        })
    };
    alice.call(edit(2, "2nd")).await.unwrap();
    alice.call(edit(2, "2nd")).await.unwrap();
    assert_eq!(alice.refused(edit(1, "back")).await, Code::Fixed);
    bob.until("both changes", |kept| {
        kept.views.get(&pair).is_some_and(|view| view.revised == 2)
    })
    .await;
    bob.until("both changes", |kept| kept.views[&pair].head_seq == 5)
        .await;
    let shown: Vec<String> = texts(&bob.view(&pair))
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(
        shown,
        ["(recalled)", "2nd", "third", "(revised 1)", "(revised 2)"]
    );
    assert_eq!(bob.view(&pair).unread, 2, "what was recalled is not unread");
    world.pass(Duration::from_secs(25 * 3600));
    assert_eq!(alice.refused(recall(3)).await, Code::TooLate);
    alice.sync().await;
}

#[tokio::test]
async fn forwarded_and_kept() {
    let world = World::new().await;
    let (alice, bob) = world.friends().await;
    let pair = alice.with(&bob);
    for text in ["first", "second", "third"] {
        alice.say(&pair, text).await;
    }
    let recall = Recall {
        conversation: pair.clone(),
        seq: 1,
    };
    alice.call(Q::Recall(recall)).await.unwrap();
    let carol = world.register("carol").await;
    bob.befriend(&carol).await;
    let forward = |seq| {
        Q::Forward(Forward {
            from: pair.clone(),
            seq,
            to: bob.with(&carol),
            client_id: world.client_id().to_vec().into(),
        })
    };
    bob.call(forward(3)).await.unwrap();
    assert_eq!(bob.refused(forward(1)).await, Code::NotFound);
    let R::Page(page) = carol
        .call(Q::Pull(Pull {
            conversation: bob.with(&carol),
            ..Pull::default()
        }))
        .await
        .unwrap()
    else {
        panic!("no page");
    };
    let Some(chat_proto::v1::message::Body::Text(text)) = &page.messages[0].body else {
        panic!("no text");
    };
    assert_eq!(text.forwarded_from.unwrap().sender, alice.user());
    let keep = |seq, drop| {
        Q::Keep(Keep {
            conversation: pair.clone(),
            seq,
            drop,
        })
    };
    bob.call(keep(2, false)).await.unwrap();
    bob.call(keep(3, false)).await.unwrap();
    assert_eq!(carol.refused(keep(3, false)).await, Code::Forbidden);
    assert_eq!(kept(&bob).await, [2, 3]);
    bob.call(keep(2, true)).await.unwrap();
    assert_eq!(kept(&bob).await, [3]);
}

/// One at a time.
async fn kept(device: &Device<'_>) -> Vec<u64> {
    let (mut all, mut after) = (Vec::new(), Bytes::new());
    loop {
        let R::Kept(kept) = device
            .call(Q::ListKept(ListKept { after, limit: 1 }))
            .await
            .unwrap()
        else {
            panic!("nothing");
        };
        all.extend(kept.kept.iter().map(|kept| kept.message.as_ref().unwrap().seq));
        after = kept.next;
        if after.is_empty() {
            return all;
        }
    }
}

#[tokio::test]
async fn options_hiding_and_dates() {
    let world = World::new().await;
    let (alice, mut bob) = world.friends().await;
    let pair = alice.with(&bob);
    let start_ms = world.now_ms.load(std::sync::atomic::Ordering::SeqCst);
    for number in 0..10u64 {
        alice.say(&pair, &format!("m{number}")).await;
        world.pass(Duration::from_secs(3600));
    }
    let seek = |hours: u64| {
        Q::SeekDate(SeekDate {
            conversation: pair.clone(),
            at_ms: start_ms + hours * 3_600_000,
        })
    };
    for (hours, seq) in [(0, 1), (3, 4), (9, 10), (50, 11)] {
        let R::Sought(sought) = bob.call(seek(hours)).await.unwrap() else {
            panic!("nothing");
        };
        assert_eq!(sought.seq, seq, "{hours} h");
    }
    let options = SetOptions {
        conversation: pair.clone(),
        muted: Some(true),
        pinned: None,
        hide_seq: 6,
    };
    bob.call(Q::SetOptions(options)).await.unwrap();
    bob.until("what is hidden", |kept| {
        kept.views
            .get(&pair)
            .is_some_and(|view| view.from_seq == 7 && view.head_seq == 10)
    })
    .await;
    let view = bob.view(&pair);
    assert_eq!((view.muted, view.pinned, view.unread), (true, false, 4));
    assert!(view.messages.iter().map(|message| message.seq).eq(7..=10));
}

#[tokio::test]
async fn a_medium_must_be_one() {
    let world = World::new().await;
    let (alice, bob) = world.friends().await;
    let good = Media {
        kind: media::Kind::Voice.into(),
        hash: vec![1; 32].into(),
        bytes: 1_000,
        mime: "audio/webm".to_owned(),
        duration_ms: 2_000,
        ..Media::default()
    };
    let send = |media: Media| {
        Q::Send(Send {
            body: Some(send::Body::Media(media)),
            ..alice.text(&alice.with(&bob), "")
        })
    };
    assert!(alice.call(send(good.clone())).await.is_ok());
    for (bad, code) in [
        (
            Media {
                kind: 0,
                ..good.clone()
            },
            Code::Invalid,
        ),
        (
            Media {
                hash: vec![1; 31].into(),
                ..good.clone()
            },
            Code::Invalid,
        ),
        (
            Media {
                bytes: 0,
                ..good.clone()
            },
            Code::TooLarge,
        ),
        (
            Media {
                bytes: 16 * 1024 * 1024 + 1,
                ..good.clone()
            },
            Code::TooLarge,
        ),
        (
            Media {
                mime: "text/html;<script>".to_owned(),
                ..good.clone()
            },
            Code::Invalid,
        ),
        (
            Media {
                name: "../../etc/passwd".to_owned(),
                ..good.clone()
            },
            Code::Invalid,
        ),
    ] {
        assert_eq!(alice.refused(send(bad.clone())).await, code, "{bad:?}");
    }
}
