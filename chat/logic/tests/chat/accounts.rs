//! Accounts, devices and tokens.

use std::time::Duration;

use chat_core::limits::{ACCESS_MS, MAX_DEVICES};
use chat_proto::v1::{
    ChangePassword, Code, DeleteAccount, FindUser, Login, Refresh, Register, RemoveDevice, SetProfile,
    reply::Reply as R, request::Request as Q,
};

use crate::world::{Device, PASSWORD, PATIENCE, World};

fn login(name: &str, password: &str) -> Login {
    Login {
        name: name.to_owned(),
        password: password.to_owned(),
        device: "another".to_owned(),
    }
}

#[tokio::test]
async fn a_name_is_given_once_and_to_who_knows_the_password_again() {
    let world = World::new().await;
    let alice = world.register("Alice").await;
    let again = Register {
        name: "aLICE".to_owned(),
        password: "another one".to_owned(),
        device: "x".to_owned(),
        ..Register::default()
    };
    assert_eq!(
        world.logic.register(again).await.unwrap_err().code,
        Code::NameTaken
    );
    // The answer was lost: the same person asks again.
    let again = world.register("alice").await;
    assert_eq!(
        (again.user(), again.caller.device.0),
        (alice.user(), alice.caller.device.0 + 1)
    );
    for (name, password) in [("alice", "wrong horse"), ("nobody", PASSWORD), ("alice", "")] {
        let refused = world.logic.login(login(name, password)).await.unwrap_err();
        assert_eq!(refused.code, Code::WrongPassword, "{name} {password}");
    }
    let bad = world.logic.login(login("../etc", PASSWORD)).await.unwrap_err();
    assert_eq!(bad.code, Code::Invalid);
}

#[tokio::test]
async fn guessing_is_slow() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let mut codes = Vec::new();
    for _ in 0..40 {
        codes.push(
            world
                .logic
                .login(login("alice", "guess me not"))
                .await
                .unwrap_err()
                .code,
        );
    }
    assert_eq!(codes[0], Code::WrongPassword);
    assert_eq!(codes[39], Code::RateLimited);
    world.pass(Duration::from_secs(60));
    let tokens = world.logic.login(login("alice", PASSWORD)).await.unwrap();
    assert_eq!(tokens.user, alice.user());
}

#[tokio::test]
async fn tokens_end_and_are_refreshed_and_a_stolen_one_logs_out() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let refresh = async |token: &str| {
        let refresh_token = token.to_owned();
        world.logic.refresh(Refresh { refresh_token }).await
    };
    world.pass(Duration::from_millis(ACCESS_MS + 1));
    let late = world.logic.caller(&alice.tokens.access_token).unwrap_err();
    assert_eq!(late.code, Code::Unauthenticated);
    let second = refresh(&alice.tokens.refresh_token).await.unwrap();
    assert!(world.logic.caller(&second.access_token).is_ok());
    // The answer was lost.
    let once_more = refresh(&alice.tokens.refresh_token).await.unwrap();
    assert_eq!(once_more.refresh_token, second.refresh_token);
    let third = refresh(&second.refresh_token).await.unwrap();
    assert_ne!(third.refresh_token, second.refresh_token);
    // Somebody has a copy of the first one.
    let stolen = refresh(&alice.tokens.refresh_token).await.unwrap_err();
    assert_eq!(stolen.code, Code::Unauthenticated);
    assert_eq!(
        refresh(&third.refresh_token).await.unwrap_err().code,
        Code::Unauthenticated
    );
    assert_eq!(
        world.logic.admit(alice.caller).await.unwrap_err().code,
        Code::Unauthenticated
    );
    assert_eq!(refresh("made up").await.unwrap_err().code, Code::Unauthenticated);
    assert_eq!(
        refresh(&third.access_token).await.unwrap_err().code,
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn devices_are_listed_removed_and_not_too_many() {
    let world = World::new().await;
    let mut first = world.register("alice").await;
    first.sync().await;
    let second = Device::new(&world, world.logic.login(login("alice", PASSWORD)).await.unwrap());
    first.until("two devices", |kept| kept.devices.len() == 2).await;
    assert!(first.kept.devices[0].this && !first.kept.devices[1].this);
    assert_eq!(first.kept.devices[1].label, "another");
    let device = second.caller.device.0;
    first
        .call(Q::RemoveDevice(RemoveDevice { device }))
        .await
        .unwrap();
    assert_eq!(
        world.logic.admit(second.caller).await.unwrap_err().code,
        Code::Unauthenticated
    );
    world.logic.admit(first.caller).await.unwrap();
    for _ in 0..MAX_DEVICES {
        world.pass(Duration::from_secs(10));
        world.logic.login(login("alice", PASSWORD)).await.unwrap();
    }
    // The first one was seen least recently.
    assert_eq!(
        world.logic.admit(first.caller).await.unwrap_err().code,
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn a_new_password_logs_others_out() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let other = Device::new(&world, world.logic.login(login("alice", PASSWORD)).await.unwrap());
    let change = |old: &str| {
        Q::ChangePassword(ChangePassword {
            old: old.to_owned(),
            new: "battery staple".to_owned(),
        })
    };
    assert_eq!(alice.refused(change("wrong horse")).await, Code::WrongPassword);
    let R::Tokens(tokens) = alice.call(change(PASSWORD)).await.unwrap() else {
        panic!("no tokens");
    };
    let mut alice = Device::new(&world, tokens);
    world.logic.admit(alice.caller).await.unwrap();
    alice.sync().await;
    assert_eq!(alice.kept.devices.len(), 1);
    assert_eq!(
        world.logic.admit(other.caller).await.unwrap_err().code,
        Code::Unauthenticated
    );
    assert!(world.logic.login(login("alice", "battery staple")).await.is_ok());
}

#[tokio::test]
async fn a_profile_reaches_contacts_and_a_deleted_account_goes() {
    let world = World::new().await;
    let (alice, mut bob) = world.friends().await;
    let group = alice.group("both", &[&bob]).await.conversation;
    let profile = SetProfile {
        display_name: Some("Alice <b>L.</b>".to_owned()),
        about: Some("here".to_owned()),
        avatar: None,
    };
    alice.call(Q::SetProfile(profile)).await.unwrap();
    let id = alice.user();
    bob.until("the new name", |kept| {
        let contact = kept
            .contacts
            .get(&id)
            .and_then(|contact| contact.profile.as_ref());
        contact.is_some_and(|profile| profile.display_name == "Alice <b>L.</b>" && profile.about == "here")
    })
    .await;
    let control = SetProfile {
        display_name: Some("a\u{202e}b".to_owned()),
        ..SetProfile::default()
    };
    assert_eq!(alice.refused(Q::SetProfile(control)).await, Code::Invalid);
    let delete = |password: &str| {
        let password = password.to_owned();
        Q::DeleteAccount(DeleteAccount { password })
    };
    assert_eq!(alice.refused(delete("wrong horse")).await, Code::WrongPassword);
    alice.call(delete(PASSWORD)).await.unwrap();
    bob.until("alice is gone", |kept| {
        !kept.contacts.contains_key(&id) && kept.views.get(&group).is_some_and(|view| view.members == 1)
    })
    .await;
    assert_eq!(
        world.logic.admit(alice.caller).await.unwrap_err().code,
        Code::Unauthenticated
    );
    let find = FindUser {
        name: "alice".to_owned(),
    };
    let R::Users(found) = bob.call(Q::FindUser(find)).await.unwrap() else {
        panic!("no users");
    };
    assert_eq!(found.users, []);
    // The name is free again, in the end.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let new = loop {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the name is not given back"
        );
        let request = Register {
            name: "alice".to_owned(),
            password: PASSWORD.to_owned(),
            device: "new".to_owned(),
            ..Register::default()
        };
        match world.logic.register(request).await {
            Ok(tokens) => break tokens.user,
            Err(failure) => assert_eq!(failure.code, Code::NameTaken),
        }
        world.pass(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_ne!(new, id);
}
