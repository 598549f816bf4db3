//! Sending, recalling and editing, by hand and against a naive account.

use chat_proto::v1::{Intent, Message, Role, Text, message::Body};
use proptest::prelude::*;

use super::{Draft, Refusal, Room, Sent, Taken};
use crate::{
    group::{self, Change},
    ids::{ConversationId, GroupId, UserId},
    keys::conversation as keys,
    limits::REVISION_WINDOW_MS,
    register,
    testing::Rows,
};

const NOW: u64 = 1_000_000;

fn text(text: &str) -> Body {
    Body::Text(Text {
        text: text.to_owned(),
        forwarded_from: None,
    })
}

fn draft(sender: u64, id: u8, what: &str) -> Draft {
    Draft {
        sender: UserId(sender),
        device: 1,
        client_id: [id; 16],
        body: text(what),
        reply_to: 0,
    }
}

fn group() -> Rows {
    let mut rows = Rows::new(ConversationId::Group(GroupId(1)));
    let plan = group::create(&rows.room(), UserId(1), "friends", &[UserId(2)], NOW).unwrap();
    assert!(rows.carry_out(&plan));
    rows
}

fn pair() -> Rows {
    let mut rows = Rows::new(ConversationId::direct(UserId(1), UserId(2)).unwrap());
    for user in [1, 2] {
        wish(
            &mut rows,
            user,
            Intent {
                version: 1,
                wished: 1,
                ..Intent::default()
            },
        );
    }
    rows
}

fn wish(rows: &mut Rows, user: u64, intent: Intent) {
    rows.put(
        keys::intent(UserId(user)),
        register::encode(intent.version, &intent),
    );
}

fn send(rows: &mut Rows, drafts: &[Draft]) -> Vec<Result<Sent, Refusal>> {
    let mut room = rows.room();
    let (plan, sent) = room.send(drafts, &rows.taken(), NOW);
    if !plan.writes.is_empty() {
        assert!(rows.carry_out(&plan));
        room.advance(&plan, rows.revision());
    }
    assert_eq!(room, rows.room(), "as if it had looked again");
    sent
}

fn one(rows: &mut Rows, draft: Draft) -> Result<u64, Refusal> {
    send(rows, &[draft])[0].map(|sent| sent.seq)
}

#[test]
fn a_message_that_is_sent_again_is_one_message() {
    let mut rows = pair();
    let hello = draft(1, 7, "hello");
    // Twice in one batch, and again later.
    let sent = send(
        &mut rows,
        &[hello.clone(), hello.clone(), draft(2, 7, "mine has the same id")],
    );
    let of = |seq, again| {
        Ok(Sent {
            seq,
            at_ms: NOW,
            again,
        })
    };
    assert_eq!(sent, [of(1, false), of(1, true), of(2, false)]);
    assert_eq!(send(&mut rows, &[hello]), [of(1, true)]);
    assert_eq!(one(&mut rows, draft(1, 7, "other")), Err(Refusal::Reused));
    assert_eq!(rows.messages().len(), 2);
}

#[test]
fn who_did_not_look_up_what_was_taken_stores_nothing_twice() {
    let mut rows = pair();
    let before = rows.room();
    one(&mut rows, draft(1, 7, "hello")).unwrap();
    for room in [before, rows.room()] {
        let (plan, _) = room.send(&[draft(1, 7, "hello")], &Taken::new(), NOW);
        assert!(!rows.carry_out(&plan));
    }
}

#[test]
fn who_sends_to_whom_is_decided_when_it_is_stored() {
    let mut rows = pair();
    let (late, _) = rows.room().send(&[draft(2, 1, "too late")], &Taken::new(), NOW);
    wish(
        &mut rows,
        1,
        Intent {
            version: 2,
            wished: 1,
            blocked: true,
            ..Intent::default()
        },
    );
    assert!(!rows.carry_out(&late));
    assert_eq!(one(&mut rows, draft(2, 1, "too late")), Err(Refusal::Blocked));
    assert_eq!(one(&mut rows, draft(1, 1, "me neither")), Err(Refusal::Blocked));
    wish(
        &mut rows,
        1,
        Intent {
            version: 3,
            cancels: 1,
            ..Intent::default()
        },
    );
    assert_eq!(one(&mut rows, draft(2, 1, "hello?")), Err(Refusal::NotContacts));
    assert_eq!(one(&mut rows, draft(3, 1, "who am I")), Err(Refusal::NotMember));
}

#[test]
fn who_left_or_is_muted_does_not_send() {
    let mut rows = group();
    let (late, _) = rows.room().send(&[draft(2, 1, "late")], &Taken::new(), NOW);
    let mute = |rows: &mut Rows, until| {
        let plan = group::change(&rows.room(), UserId(1), &Change::Mute(UserId(2), until), NOW).unwrap();
        assert!(rows.carry_out(&plan));
    };
    mute(&mut rows, NOW + 1);
    assert!(!rows.carry_out(&late));
    assert_eq!(one(&mut rows, draft(2, 1, "mm")), Err(Refusal::Muted));
    assert_eq!(rows.room().may_send(UserId(2), NOW + 1), Ok(()));
    mute(&mut rows, 0);
    assert_eq!(one(&mut rows, draft(2, 1, "back")), Ok(4));
    let plan = group::change(&rows.room(), UserId(2), &Change::Leave, NOW).unwrap();
    assert!(rows.carry_out(&plan));
    assert_eq!(one(&mut rows, draft(2, 2, "gone")), Err(Refusal::NotMember));
}

#[test]
fn a_recalled_message_has_no_body_and_does_not_count() {
    let mut rows = group();
    let seq = one(&mut rows, draft(2, 1, "oops")).unwrap();
    let recall = |rows: &Rows, user, now| rows.room().recall(UserId(user), &rows.message(seq), now);
    assert_eq!(recall(&rows, 3, NOW), Err(Refusal::NotMember));
    assert_eq!(
        recall(&rows, 2, NOW + REVISION_WINDOW_MS + 1),
        Err(Refusal::TooLate)
    );
    // The owner may recall it, even later.
    assert!(recall(&rows, 1, NOW + REVISION_WINDOW_MS + 1).is_ok());
    let plan = recall(&rows, 2, NOW + 1_000).unwrap();
    assert!(rows.carry_out(&plan));
    let Message {
        body,
        recalled_by,
        ordinal,
        ..
    } = rows.message(seq).row;
    assert_eq!((body, recalled_by, ordinal, rows.recalled()), (None, 2, 1, 1));
    assert_eq!(recall(&rows, 2, NOW), Err(Refusal::Fixed));
    // Its rows do not live longer than they would have.
    let mut ttls = plan.writes.iter().filter_map(|write| write.ttl_ms);
    assert!(ttls.all(|ttl| ttl == 72 * 3_600_000 - 1_000));
    let head = rows.room().head.row;
    assert_eq!((head.seq, head.ordinal, head.revised), (3, 1, 1));
}

#[test]
fn an_edit_is_of_ones_own_text() {
    let mut rows = group();
    let seq = one(&mut rows, draft(2, 1, "helo")).unwrap();
    let edit = |rows: &Rows, user, what: &str| rows.room().edit(UserId(user), &rows.message(seq), what, NOW);
    assert_eq!(edit(&rows, 1, "not mine"), Err(Refusal::NotYours));
    let plan = edit(&rows, 2, "hello").unwrap();
    let stale = edit(&rows, 2, "hullo").unwrap();
    assert!(rows.carry_out(&plan));
    assert!(!rows.carry_out(&stale));
    let message = rows.message(seq).row;
    assert_eq!(
        (message.body, message.edits, message.ordinal),
        (Some(text("hello")), 1, 1)
    );
    let note = Room::recall(&rows.room(), UserId(1), &rows.message(1), NOW);
    assert_eq!(note, Err(Refusal::NotYours));
}

#[test]
fn time_does_not_go_back() {
    let mut rows = pair();
    one(&mut rows, draft(1, 1, "a")).unwrap();
    let (plan, sent) = rows.room().send(&[draft(1, 2, "b")], &Taken::new(), NOW - 500);
    assert!(rows.carry_out(&plan));
    assert_eq!(
        sent,
        [Ok(Sent {
            seq: 2,
            at_ms: NOW,
            again: false
        })]
    );
}

proptest! {
    /// Several who send at once, each with a look at the rooms that may be old, and try again: every message once, dense, in each sender's order.
    #[test]
    fn messages_are_dense_and_once(steps in prop::collection::vec((0..3usize, 1..4usize, any::<bool>()), 1..60)) {
        let mut rows = group();
        let plan = group::change(&rows.room(), UserId(1), &Change::Add(vec![UserId(3)]), NOW).unwrap();
        prop_assert!(rows.carry_out(&plan));
        let mut seen = [rows.room(), rows.room(), rows.room()];
        let mut next = [0u8; 3];
        for (who, count, looks) in steps {
            if looks {
                seen[who] = rows.room();
            }
            let sender = who as u64 + 1;
            let drafts: Vec<Draft> = (0..count as u8).map(|at| draft(sender, next[who] + at, &format!("{sender}:{}", next[who] + at))).collect();
            let (plan, sent) = seen[who].send(&drafts, &rows.taken(), NOW);
            prop_assert!(sent.iter().all(Result::is_ok));
            if rows.carry_out(&plan) {
                next[who] += count as u8;
            }
        }
        let messages = rows.messages();
        prop_assert!(messages.iter().map(|message| message.seq).eq(1..=messages.len() as u64));
        let mut ordinal = 0;
        let mut of_sender = [0u8; 3];
        for message in messages {
            ordinal += u64::from(message.sender != 0);
            prop_assert_eq!(message.ordinal, ordinal);
            if message.sender != 0 {
                let at = &mut of_sender[message.sender as usize - 1];
                prop_assert_eq!(message.client_id[0], *at);
                *at += 1;
            }
        }
        prop_assert_eq!(of_sender, next);
        prop_assert_eq!(rows.room().member(UserId(1)).map(|member| member.role()), Some(Role::Owner));
    }
}
