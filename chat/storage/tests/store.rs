//! The rows on the production node, in memory: what the rules plan is what is stored, whoever is quicker.
#![expect(clippy::unwrap_used, reason = "a test: what does not work fails it")]

use std::collections::BTreeSet;

use chat_core::{
    ConversationId, GroupId, UserId,
    contact::{self, Relation},
    group::{self, Change},
    limits::{KEPT_CHANGES, MAX_SEND_BATCH},
    room::{Draft, Refusal, Room},
    snapshot::Kind,
};
use chat_proto::v1::{Head, Intent, Message, ReadMark, Text, message::Body};
use chat_storage::{Carried, Reserved, Store, Told};
use kvsvr::local::LocalCluster;
use kvsvr_client::Partition;

const NOW: u64 = 1_700_000_000_000;
const ALICE: UserId = UserId(1);
const BOB: UserId = UserId(2);

async fn store() -> (LocalCluster, Store) {
    let cluster = LocalCluster::start(2).await;
    let store = Store::new(cluster.client());
    (cluster, store)
}

fn draft(sender: UserId, id: u8, text: &str) -> Draft {
    let text = Text {
        text: text.to_owned(),
        forwarded_from: None,
    };
    Draft {
        sender,
        device: 1,
        client_id: [id; 16],
        body: Body::Text(text),
        reply_to: 0,
    }
}

fn pair() -> ConversationId {
    ConversationId::direct(ALICE, BOB).unwrap()
}

fn place(id: ConversationId) -> Partition {
    Partition::new(id.region(), id.to_bytes())
}

async fn befriend(store: &Store) {
    for (user, other) in [(ALICE, BOB), (BOB, ALICE)] {
        let (mine, theirs) = store.intents(user, other).await.unwrap();
        let wish = contact::want(&mine.row, &theirs.row, "hello").unwrap();
        assert!(store.set_intent(user, other, mine.revision, &wish).await.unwrap());
        assert_eq!(store.tell_intent(user, other, &wish).await.unwrap(), Told::New);
        assert_eq!(store.tell_intent(user, other, &wish).await.unwrap(), Told::Known);
    }
}

async fn new_group(store: &Store, members: &[UserId]) -> ConversationId {
    let id = ConversationId::Group(store.new_group_id(0).await.unwrap());
    let plan = group::create(&Room::empty(id), members[0], "friends", members, NOW).unwrap();
    assert!(matches!(
        store.carry_out(&place(id), &plan).await.unwrap(),
        Carried::Out(_)
    ));
    id
}

fn texts(messages: &[Message]) -> Vec<(u64, String)> {
    let text = |message: &Message| match &message.body {
        Some(Body::Text(text)) => text.text.clone(),
        _ => "-".to_owned(),
    };
    messages
        .iter()
        .map(|message| (message.seq, text(message)))
        .collect()
}

#[tokio::test]
async fn ids_and_names_are_given_out_once() {
    let (_cluster, store) = store().await;
    let ids = [
        store.new_user_id(3).await.unwrap(),
        store.new_user_id(3).await.unwrap(),
        store.new_user_id(0).await.unwrap(),
    ];
    assert_eq!(ids, [UserId(3 << 48 | 1), UserId(3 << 48 | 2), UserId(1)]);
    assert_eq!(store.new_group_id(0).await.unwrap(), GroupId(1));
    for _ in 0..2 {
        assert_eq!(
            store.reserve_name(0, "alice", ALICE, NOW).await.unwrap(),
            Reserved::Yours
        );
    }
    assert_eq!(
        store.reserve_name(0, "alice", BOB, NOW).await.unwrap(),
        Reserved::Taken(ALICE)
    );
    store.release_name(0, "alice", BOB).await.unwrap();
    assert_eq!(store.user_of_name(0, "alice").await.unwrap(), Some(ALICE));
    store.release_name(0, "alice", ALICE).await.unwrap();
    assert_eq!(
        store.reserve_name(0, "alice", BOB, NOW).await.unwrap(),
        Reserved::Yours
    );
}

#[tokio::test]
async fn contacts_that_write_to_each_other() {
    let (_cluster, store) = store().await;
    let mut room = store.room(pair()).await.unwrap();
    let hello = [draft(ALICE, 1, "hello")];
    assert_eq!(
        store.send(&mut room, &hello, NOW).await.unwrap(),
        [Err(Refusal::NotContacts)]
    );
    befriend(&store).await;
    for user in [ALICE, BOB] {
        let other = pair().peer(user).unwrap();
        let (mine, theirs) = store.intents(user, other).await.unwrap();
        assert_eq!(contact::relation(&mine.row, &theirs.row), Relation::Friends);
        assert_eq!(store.contacts(user).await.unwrap(), [other]);
    }
    // It was refused by what the room was before: the store looks again by itself.
    let sent = store.send(&mut room, &hello, NOW).await.unwrap();
    assert_eq!(sent[0].unwrap().seq, 1);
    // With a room that is long past.
    let mut past = Room::empty(pair());
    let sent = store.send(&mut past, &hello, NOW + 5).await.unwrap()[0].unwrap();
    assert_eq!((sent.seq, sent.at_ms, sent.again), (1, NOW, true));
    assert_eq!(store.room(pair()).await.unwrap().head.row.seq, 1);
    // An intent of before does not bring anything back.
    let old = Intent {
        version: 1,
        cancels: 9,
        ..Intent::default()
    };
    assert_eq!(store.tell_intent(ALICE, BOB, &old).await.unwrap(), Told::Known);
    assert_eq!(
        store.send(&mut room, &[draft(BOB, 1, "hi")], NOW).await.unwrap()[0]
            .unwrap()
            .seq,
        2
    );
}

#[tokio::test]
async fn many_who_send_at_once_are_all_taken_once() {
    let (_cluster, store) = store().await;
    let members: Vec<UserId> = (1..=8).map(UserId).collect();
    let id = new_group(&store, &members).await;
    let senders = members.iter().map(|user| {
        let (store, user) = (store.clone(), *user);
        tokio::spawn(async move {
            let mut room = store.room(id).await.unwrap();
            for number in 0..20u8 {
                let draft = [draft(user, number, &format!("{user}:{number}"))];
                // Each of them twice, as after an answer that was lost.
                let first = store.send(&mut room, &draft, NOW).await.unwrap()[0].unwrap();
                let again = store.send(&mut room, &draft, NOW).await.unwrap()[0].unwrap();
                assert_eq!((first.seq, first.again, again.again), (again.seq, false, true));
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    let page = store.messages(id, 1, u64::MAX, 1_000, false).await.unwrap();
    let found = texts(&page.messages);
    assert!(found.iter().map(|(seq, _)| *seq).eq(1..=161) && !page.more);
    let different: BTreeSet<&String> = found.iter().map(|(_, text)| text).collect();
    assert_eq!(different.len(), 161);
    for user in &members {
        let mine = format!("{user}:");
        let order = found
            .iter()
            .filter_map(|(_, text)| text.strip_prefix(&mine)?.parse::<u8>().ok());
        assert!(order.eq(0..20));
    }
}

#[tokio::test]
async fn more_than_fit_into_a_transaction_are_sent_in_order() {
    let (_cluster, store) = store().await;
    befriend(&store).await;
    let mut room = store.room(pair()).await.unwrap();
    let drafts: Vec<Draft> = (0..=MAX_SEND_BATCH as u8)
        .map(|id| draft(ALICE, id, "hi"))
        .collect();
    let sent = store.send(&mut room, &drafts, NOW).await.unwrap();
    assert!(
        sent.iter()
            .map(|sent| sent.unwrap().seq)
            .eq(1..=drafts.len() as u64)
    );
}

#[tokio::test]
async fn who_left_is_refused_with_an_old_room_too() {
    let (_cluster, store) = store().await;
    let id = new_group(&store, &[ALICE, BOB]).await;
    let mut before = store.room(id).await.unwrap();
    let plan = group::change(&before, ALICE, &Change::Remove(BOB), NOW).unwrap();
    assert!(matches!(
        store.carry_out(&place(id), &plan).await.unwrap(),
        Carried::Out(_)
    ));
    assert_eq!(
        store.carry_out(&place(id), &plan).await.unwrap(),
        Carried::Overtaken
    );
    let sent = store
        .send(
            &mut before,
            &[draft(BOB, 1, "still here?"), draft(ALICE, 1, "bye")],
            NOW,
        )
        .await
        .unwrap();
    assert_eq!(
        (sent[0], sent[1].map(|sent| sent.seq)),
        (Err(Refusal::NotMember), Ok(3))
    );
}

/// Its answer was lost, and then it was removed: what was taken is not told as refused.
#[tokio::test]
async fn what_was_taken_before_its_sender_left_stays_taken() {
    let (_cluster, store) = store().await;
    let id = new_group(&store, &[ALICE, BOB]).await;
    let mut room = store.room(id).await.unwrap();
    let hello = [draft(BOB, 1, "hello")];
    store.send(&mut room, &hello, NOW).await.unwrap();
    let plan = group::change(&room, ALICE, &Change::Remove(BOB), NOW).unwrap();
    assert!(matches!(
        store.carry_out(&place(id), &plan).await.unwrap(),
        Carried::Out(_)
    ));
    for mut room in [room, store.room(id).await.unwrap()] {
        let sent = store.send(&mut room, &hello, NOW).await.unwrap()[0].unwrap();
        assert_eq!((sent.seq, sent.again), (2, true));
    }
}

#[tokio::test]
async fn history_in_both_directions_and_recalled_ordinals() {
    let (_cluster, store) = store().await;
    befriend(&store).await;
    let mut room = store.room(pair()).await.unwrap();
    let drafts: Vec<Draft> = (1..=5)
        .map(|number| draft(ALICE, number, &format!("m{number}")))
        .collect();
    store.send(&mut room, &drafts, NOW).await.unwrap();
    let page = store.messages(pair(), 2, 4, 2, true).await.unwrap();
    assert_eq!(
        texts(&page.messages),
        [(4, "m4".to_owned()), (3, "m3".to_owned())]
    );
    assert!(page.more);
    let message = store.message(pair(), 3).await.unwrap();
    let plan = room.recall(ALICE, &message, NOW).unwrap();
    assert!(matches!(
        store.carry_out(&place(pair()), &plan).await.unwrap(),
        Carried::Out(_)
    ));
    assert_eq!(store.message(pair(), 3).await.unwrap().row.body, None);
    assert_eq!(store.recalled(pair(), 1, 5).await.unwrap(), [3]);
    assert_eq!(store.recalled(pair(), 4, 5).await.unwrap(), [0u64; 0]);
}

#[tokio::test]
async fn what_is_told_only_goes_forward() {
    let (_cluster, store) = store().await;
    let head = |seq| Head {
        seq,
        ..Head::default()
    };
    for (seq, told) in [(4, Told::New), (4, Told::Known), (2, Told::Known), (9, Told::New)] {
        assert_eq!(
            store.tell_head(ALICE, pair(), &head(seq)).await.unwrap(),
            told,
            "{seq}"
        );
    }
    for (seq, told) in [(3, Told::New), (1, Told::Known)] {
        let mark = ReadMark { seq, ordinal: seq };
        assert_eq!(store.mark_read(ALICE, pair(), &mark).await.unwrap(), told);
    }
    let mine = store.mine(ALICE, &[pair()]).await.unwrap().remove(0);
    assert_eq!((mine.head.row.seq, mine.read.row.seq), (9, 3));
    // Three things were news, of one conversation.
    let changes = async |seen| {
        let wanted = [(Kind::Conversations, seen, 100)];
        store.changes(ALICE, &wanted, 100).await.unwrap().remove(0)
    };
    let nothing = changes(3).await;
    let future = changes(4).await;
    let changes = changes(0).await;
    assert_eq!((changes.upto, changes.more, changes.reset), (3, false, false));
    assert_eq!(changes.what, BTreeSet::from([pair().to_bytes().into()]));
    assert_eq!((nothing.upto, nothing.reset, nothing.what.len()), (3, false, 0));
    assert!(future.reset);
}

#[tokio::test]
async fn only_the_newest_changes_are_kept() {
    let (_cluster, store) = store().await;
    let total = KEPT_CHANGES + 512;
    for number in 0..total {
        let what = (number % 7).to_be_bytes().to_vec().into();
        store.note_change(ALICE, Kind::Contacts, what).await.unwrap();
    }
    let changes = async |seen, limit| {
        let wanted = [(Kind::Contacts, seen, 100)];
        store.changes(ALICE, &wanted, limit).await.unwrap().remove(0)
    };
    let far_behind = changes(0, 100).await;
    assert_eq!((far_behind.reset, far_behind.upto), (true, total));
    let near = changes(total - KEPT_CHANGES, 10_000).await;
    assert_eq!(
        (near.reset, near.upto, near.more, near.what.len()),
        (false, total, false, 7)
    );
    let part = changes(total - 100, 10).await;
    assert_eq!((part.upto, part.more), (total - 90, true));
    // Another kind has a list of its own.
    assert_eq!(store.newest_changes(ALICE).await.unwrap(), [0, total, 0]);
    // Not more different things than are wanted.
    let wanted = [(Kind::Contacts, total - 100, 3)];
    let few = store.changes(ALICE, &wanted, 100).await.unwrap().remove(0);
    assert_eq!((few.what.len(), few.upto, few.more), (3, total - 97, true));
}
