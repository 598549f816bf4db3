//! Groups by hand, and any number of changes against a naive account.

use std::collections::BTreeMap;

use chat_proto::v1::{RetentionClass, Role};
use proptest::prelude::*;

use super::{Change, change, create};
use crate::{
    ids::{ConversationId, GroupId, UserId},
    limits::MAX_MEMBERS,
    room::Refusal,
    testing::Rows,
};

const NOW: u64 = 1_000_000;

fn group(members: &[u64]) -> Rows {
    let mut rows = Rows::new(ConversationId::Group(GroupId(1)));
    let members: Vec<UserId> = members.iter().copied().map(UserId).collect();
    let plan = create(&rows.room(), members[0], "friends", &members, NOW).unwrap();
    assert!(rows.carry_out(&plan));
    rows
}

fn act(rows: &mut Rows, actor: u64, what: &Change) -> Result<(), Refusal> {
    let mut room = rows.room();
    let plan = change(&room, UserId(actor), what, NOW)?;
    assert!(rows.carry_out(&plan));
    room.advance(&plan, rows.revision());
    assert_eq!(room, rows.room(), "as if it had looked again");
    Ok(())
}

fn role(rows: &Rows, user: u64) -> Option<Role> {
    rows.room().member(UserId(user)).map(|member| member.role())
}

#[test]
fn a_new_member_gets_the_note_and_nothing_from_before() {
    let mut rows = group(&[1, 2]);
    act(&mut rows, 2, &Change::Add(vec![UserId(3), UserId(2)])).unwrap();
    let room = rows.room();
    let member = room.member(UserId(3)).unwrap();
    assert_eq!(
        (member.joined_seq, room.head.row.seq, room.meta.row.members),
        (1, 2, 3)
    );
    // Nothing new: nothing happens.
    let plan = change(&room, UserId(1), &Change::Add(vec![UserId(3)]), NOW).unwrap();
    assert!(plan.writes.is_empty());
}

#[test]
fn the_owner_hands_the_group_on() {
    let mut rows = group(&[1, 2, 3]);
    act(&mut rows, 1, &Change::SetRole(UserId(3), Role::Admin)).unwrap();
    act(&mut rows, 1, &Change::Leave).unwrap();
    assert_eq!(
        (role(&rows, 1), role(&rows, 2), role(&rows, 3)),
        (None, Some(Role::Member), Some(Role::Owner))
    );
    act(&mut rows, 3, &Change::Leave).unwrap();
    assert_eq!(role(&rows, 2), Some(Role::Owner));
    act(&mut rows, 2, &Change::Leave).unwrap();
    assert!(rows.room().meta.row.disbanded);
    assert_eq!(act(&mut rows, 2, &Change::Leave), Err(Refusal::Disbanded));
}

#[test]
fn roles_are_kept_to() {
    let mut rows = group(&[1, 2, 3]);
    assert_eq!(
        act(&mut rows, 2, &Change::Rename("x".into())),
        Err(Refusal::NotAllowed)
    );
    assert_eq!(
        act(&mut rows, 2, &Change::Remove(UserId(3))),
        Err(Refusal::NotAllowed)
    );
    assert_eq!(act(&mut rows, 9, &Change::Leave), Err(Refusal::NotMember));
    act(&mut rows, 1, &Change::SetRole(UserId(2), Role::Admin)).unwrap();
    assert_eq!(
        act(&mut rows, 2, &Change::Remove(UserId(1))),
        Err(Refusal::NotAllowed)
    );
    assert_eq!(
        act(&mut rows, 2, &Change::SetRole(UserId(3), Role::Admin)),
        Err(Refusal::NotAllowed)
    );
    assert_eq!(
        act(&mut rows, 2, &Change::Retain(RetentionClass::RetentionKeep)),
        Err(Refusal::NotAllowed)
    );
    act(&mut rows, 2, &Change::Remove(UserId(3))).unwrap();
    assert_eq!(
        rows.room().members[&UserId(3)].row.left_seq,
        rows.room().head.row.seq
    );
    // The owner cannot step down without another one.
    assert_eq!(
        act(&mut rows, 1, &Change::SetRole(UserId(1), Role::Member)),
        Err(Refusal::NotAllowed)
    );
    act(&mut rows, 1, &Change::SetRole(UserId(2), Role::Owner)).unwrap();
    assert_eq!(
        (role(&rows, 1), role(&rows, 2)),
        (Some(Role::Admin), Some(Role::Owner))
    );
}

#[test]
fn two_that_join_at_once_do_not_pass_the_limit() {
    let members: Vec<u64> = (1..u64::from(MAX_MEMBERS)).collect();
    let mut rows = group(&members);
    let room = rows.room();
    let [a, b] =
        [600, 700].map(|user| change(&room, UserId(1), &Change::Add(vec![UserId(user)]), NOW).unwrap());
    assert!(rows.carry_out(&a));
    assert!(!rows.carry_out(&b));
    assert_eq!(
        act(&mut rows, 1, &Change::Add(vec![UserId(700)])),
        Err(Refusal::Full)
    );
    assert_eq!(rows.room().users().len(), MAX_MEMBERS as usize);
    let room = Rows::new(ConversationId::Group(GroupId(2))).room();
    let users: Vec<UserId> = (1..=u64::from(MAX_MEMBERS) + 1).map(UserId).collect();
    assert_eq!(create(&room, UserId(1), "many", &users, NOW), Err(Refusal::Full));
}

fn changes() -> impl Strategy<Value = Change> {
    let user = || (1..6u64).prop_map(UserId);
    prop_oneof![
        4 => prop::collection::vec(user(), 1..3).prop_map(Change::Add),
        3 => Just(Change::Leave),
        2 => user().prop_map(Change::Remove),
        2 => (user(), 1..4i32).prop_map(|(user, role)| Change::SetRole(user, Role::try_from(role).unwrap())),
        1 => (user(), 0..3u64).prop_map(|(user, factor)| Change::Mute(user, factor * NOW)),
        1 => any::<bool>().prop_map(Change::MuteAll),
        1 => "[a-c]".prop_map(Change::Rename),
    ]
}

proptest! {
    #[test]
    fn there_is_one_owner_and_the_numbers_are_right(acts in prop::collection::vec((1..6u64, changes()), 0..80)) {
        let mut rows = group(&[1, 2]);
        let mut versions: BTreeMap<UserId, u64> = BTreeMap::new();
        for (actor, what) in acts {
            let before = rows.room();
            let done = act(&mut rows, actor, &what);
            let room = rows.room();
            if done.is_err() {
                prop_assert_eq!(&room, &before);
                continue;
            }
            let now: Vec<_> = room.users();
            prop_assert_eq!(room.meta.row.members as usize, now.len());
            let owners = now.iter().filter(|user| role(&rows, user.0) == Some(Role::Owner)).count();
            prop_assert_eq!(owners, usize::from(!now.is_empty()));
            prop_assert_eq!(room.meta.row.disbanded, now.is_empty());
            let changed = room.meta.row.version - before.meta.row.version;
            prop_assert_eq!(changed, u64::from(room != before));
            for (user, row) in &room.members {
                let version = versions.entry(*user).or_default();
                prop_assert!(row.row.version >= *version && row.row.version <= room.meta.row.version);
                *version = row.row.version;
            }
            let seqs: Vec<u64> = rows.messages().iter().map(|message| message.seq).collect();
            prop_assert_eq!(seqs, (1..=room.head.row.seq).collect::<Vec<_>>());
        }
    }
}
