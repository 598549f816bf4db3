//! Contacts: both sides see the same, and it decides who may write.

use chat_proto::v1::{
    Code, Decline, FindUser, GetUsers, SetAlias, Want, contact::Relation, reply::Reply as R,
    request::Request as Q,
};

use crate::world::World;

#[tokio::test]
async fn asked_accepted_written_and_removed() {
    let world = World::new().await;
    let (mut alice, mut bob) = (world.register("alice").await, world.register("bob").await);
    let find = FindUser {
        name: "BOB".to_owned(),
    };
    let R::Users(found) = alice.call(Q::FindUser(find)).await.unwrap() else {
        panic!("no users");
    };
    assert_eq!(found.users[0].user, bob.user());
    let want = Want {
        user: bob.user(),
        greeting: "it's me".to_owned(),
    };
    alice.call(Q::Want(want.clone())).await.unwrap();
    alice.call(Q::Want(want)).await.unwrap();
    let (a, b) = (alice.user(), bob.user());
    bob.until("a request", |kept| kept.contacts.contains_key(&a))
        .await;
    assert_eq!(
        (bob.relation(&alice), bob.kept.contacts[&a].greeting.as_str()),
        (Relation::Asked, "it's me")
    );
    let pair = alice.with(&bob);
    let early = alice.text(&pair, "too early");
    assert_eq!(alice.refused(Q::Send(early)).await, Code::NotContacts);
    bob.befriend(&alice).await;
    let friends = |kept: &crate::world::Kept, id| {
        kept.contacts
            .get(&id)
            .is_some_and(|contact| contact.relation() == Relation::Friends)
    };
    alice.until("a contact", |kept| friends(kept, b)).await;
    bob.until("a contact", |kept| friends(kept, a)).await;
    alice.say(&pair, "hello").await;
    let alias = SetAlias {
        user: b,
        alias: "Bobby".to_owned(),
    };
    alice.call(Q::SetAlias(alias)).await.unwrap();
    alice
        .until("an alias", |kept| kept.contacts[&b].alias == "Bobby")
        .await;
    bob.call(Q::Decline(Decline { user: a })).await.unwrap();
    let late = alice.text(&pair, "too late");
    assert_eq!(alice.refused(Q::Send(late)).await, Code::NotContacts);
    alice
        .until("no contact", |kept| !kept.contacts.contains_key(&b))
        .await;
}

#[tokio::test]
async fn a_block_is_in_force_once_it_is_answered() {
    let world = World::new().await;
    let (alice, bob) = world.friends().await;
    let pair = alice.with(&bob);
    alice.say(&pair, "hello").await;
    bob.block(&alice, false).await;
    for device in [&alice, &bob] {
        let blocked = device.text(&pair, "?");
        assert_eq!(device.refused(Q::Send(blocked)).await, Code::Blocked);
    }
    bob.block(&alice, true).await;
    assert_eq!(alice.say(&pair, "again").await.seq, 2);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    for (user, code) in [
        (alice.user(), Code::Invalid),
        (0, Code::NotFound),
        (77, Code::NotFound),
    ] {
        let want = Want {
            user,
            ..Want::default()
        };
        assert_eq!(alice.refused(Q::Want(want)).await, code, "{user}");
    }
    let many = GetUsers { users: vec![1; 101] };
    assert_eq!(alice.refused(Q::GetUsers(many)).await, Code::TooLarge);
    let mut codes = Vec::new();
    for _ in 0..80 {
        let find = FindUser {
            name: "nobody".to_owned(),
        };
        codes.push(
            alice
                .call(Q::FindUser(find))
                .await
                .map_err(|failure| failure.code),
        );
    }
    assert_eq!(codes.last(), Some(&Err(Code::RateLimited)));
}
