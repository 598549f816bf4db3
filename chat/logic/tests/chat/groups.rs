//! Groups: members, what each of them sees, and syncs of all kinds.

use chat_proto::v1::{
    Code, CreateGroup, GetGroup, Invite, Join, Pull, Role, Sync,
    change_group::{Change, SetRole, Users},
    reply::Reply as R,
    request::Request as Q,
    server_frame::Body,
};

use crate::world::{Device, World, texts};

async fn three(world: &World) -> (Device<'_>, Device<'_>, Device<'_>) {
    let (alice, bob) = world.friends().await;
    let carol = world.register("carol").await;
    alice.befriend(&carol).await;
    (alice, bob, carol)
}

#[tokio::test]
async fn a_member_sees_what_came_while_they_were_one() {
    let world = World::new().await;
    let (alice, mut bob, mut carol) = three(&world).await;
    let group = alice.group("friends", &[&bob]).await.conversation;
    alice.say(&group, "before carol").await;
    let add = Change::Add(Users {
        users: vec![carol.user()],
    });
    alice.change(&group, add).await.unwrap();
    alice.say(&group, "with carol").await;
    bob.say(&group, "hi carol").await;
    carol
        .until("two messages", |kept| {
            kept.views.get(&group).is_some_and(|view| view.head_seq == 5)
        })
        .await;
    let shown: Vec<String> = texts(&carol.view(&group))
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(shown, ["(joined)", "with carol", "hi carol"]);
    assert_eq!((carol.view(&group).unread, carol.view(&group).members), (2, 3));
    // Not one of them can be read by asking for it.
    let pull = Pull {
        conversation: group.clone(),
        from_seq: 1,
        ..Pull::default()
    };
    let R::Page(page) = carol.call(Q::Pull(pull.clone())).await.unwrap() else {
        panic!("no page");
    };
    assert!(page.messages.iter().map(|message| message.seq).eq(3..=5));
    alice.change(&group, Change::Remove(carol.user())).await.unwrap();
    alice.say(&group, "without carol").await;
    let late = carol.text(&group, "still here?");
    assert_eq!(carol.refused(Q::Send(late)).await, Code::Forbidden);
    carol.until("it is over", |kept| kept.views[&group].left).await;
    carol
        .until("the last that is hers", |kept| kept.views[&group].head_seq == 6)
        .await;
    let R::Page(page) = carol.call(Q::Pull(pull)).await.unwrap() else {
        panic!("no page");
    };
    assert_eq!(page.messages.last().unwrap().seq, 6);
    bob.until("without carol", |kept| {
        kept.views.get(&group).is_some_and(|view| view.head_seq == 7)
    })
    .await;
    let of_carol = |(user, body): &(chat_core::UserId, Body)| match body {
        Body::Push(push) if user.0 == carol.user() => Some(push.message.as_ref().unwrap().seq),
        _ => None,
    };
    let pushed: Vec<u64> = world.heard.0.lock().iter().filter_map(of_carol).collect();
    assert!(pushed.iter().all(|seq| (3..=5).contains(seq)), "{pushed:?}");
    let dave = world.register("dave").await;
    let ask = Q::GetGroup(GetGroup {
        conversation: group.clone(),
    });
    assert_eq!(dave.refused(ask).await, Code::Forbidden);
    let pull = Pull {
        conversation: group,
        ..Pull::default()
    };
    assert_eq!(dave.refused(Q::Pull(pull)).await, Code::Forbidden);
}

#[tokio::test]
async fn roles_invitations_and_what_is_not_allowed() {
    let world = World::new().await;
    let (alice, bob, carol) = three(&world).await;
    let dave = world.register("dave").await;
    let create = CreateGroup {
        client_id: world.client_id().to_vec().into(),
        title: "friends".to_owned(),
        members: vec![bob.user(), carol.user()],
    };
    let (R::Group(group), R::Group(again)) = (
        alice.call(Q::CreateGroup(create.clone())).await.unwrap(),
        alice.call(Q::CreateGroup(create)).await.unwrap(),
    ) else {
        panic!("no group");
    };
    assert_eq!((group.members.len(), &group), (3, &again));
    let group = group.conversation;
    let stranger = Change::Add(Users {
        users: vec![dave.user()],
    });
    assert_eq!(
        alice.refused(alice.changing(&group, stranger)).await,
        Code::NotContacts
    );
    let rename = |device: &Device<'_>| device.changing(&group, Change::Rename("new".to_owned()));
    assert_eq!(bob.refused(rename(&bob)).await, Code::Forbidden);
    let admin = SetRole {
        user: bob.user(),
        role: Role::Admin.into(),
    };
    alice.change(&group, Change::SetRole(admin)).await.unwrap();
    bob.call(rename(&bob)).await.unwrap();
    bob.change(&group, Change::MuteAll(true)).await.unwrap();
    let muted = carol.text(&group, "?");
    assert_eq!(carol.refused(Q::Send(muted)).await, Code::Muted);
    bob.say(&group, "quiet").await;
    let invite = |device: &Device<'_>, seconds| {
        let _ = device;
        Q::Invite(Invite {
            conversation: group.clone(),
            seconds,
        })
    };
    assert_eq!(alice.refused(invite(&alice, 0)).await, Code::Invalid);
    assert_eq!(dave.refused(invite(&dave, 60)).await, Code::Forbidden);
    let R::Invitation(invitation) = bob.call(invite(&bob, 60)).await.unwrap() else {
        panic!("no invitation");
    };
    let join = |token: &[u8]| {
        let token = token.to_vec().into();
        Q::Join(Join { token })
    };
    assert_eq!(dave.refused(join(b"made up")).await, Code::Forbidden);
    for _ in 0..2 {
        let R::Group(joined) = dave.call(join(&invitation.token)).await.unwrap() else {
            panic!("no group");
        };
        assert_eq!((joined.members.len(), joined.title.as_str()), (4, "new"));
    }
    world.pass(std::time::Duration::from_secs(61));
    assert_eq!(dave.refused(join(&invitation.token)).await, Code::Forbidden);
    alice.change(&group, Change::Leave(true)).await.unwrap();
    // An administrator has become the owner.
    bob.change(&group, Change::Disband(true)).await.unwrap();
    let over = carol.text(&group, "?");
    assert_eq!(carol.refused(Q::Send(over)).await, Code::Forbidden);
}

/// A device that was away, one that is new, one with a snapshot of long ago, and one with somebody else's: all see the same in the end.
#[tokio::test]
async fn all_snapshots_lead_to_the_same() {
    let world = World::new().await;
    let (mut alice, bob, _) = three(&world).await;
    let mut groups = Vec::new();
    for number in 0..12 {
        groups.push(alice.group(&format!("g{number}"), &[&bob]).await.conversation);
    }
    let last = groups[11].clone();
    alice.until("all groups", |kept| kept.views.len() == 12).await;
    let snapshots = [Vec::new(), alice.snapshot.clone(), b"made up".to_vec()];
    for (number, group) in groups.iter().enumerate() {
        for _ in 0..=number % 3 {
            bob.say(group, "hi").await;
        }
    }
    bob.say(&last, "the last").await;
    alice
        .until("the last", |kept| kept.views[&last].head_seq == 5)
        .await;
    for group in &groups {
        alice
            .until("every one", |kept| kept.views[group].unread > 0)
            .await;
    }
    alice.sync().await;
    let mut others = Vec::new();
    for snapshot in snapshots.iter().chain([&alice.snapshot]) {
        for at_a_time in [1, 5, 0] {
            let mut device = Device::new(&world, alice.tokens.clone());
            device.snapshot = snapshot.clone();
            if snapshot == &snapshots[1] || snapshot == &alice.snapshot {
                device.kept = alice.kept.clone();
            }
            while device.sync_once(at_a_time, 20).await.more {}
            others.push(device.kept);
        }
    }
    for other in others {
        assert_eq!(other, alice.kept);
    }
    // Somebody else's: everything anew, of one's own.
    let mut thief = Device::new(&world, bob.tokens.clone());
    thief.snapshot = alice.snapshot.clone();
    let delta = thief.sync_once(0, 0).await;
    assert!(delta.reset && delta.account.unwrap().user == bob.user());
    // Nothing new: nothing is told, and the snapshot is good for the same.
    let sync = Sync {
        snapshot: alice.snapshot.clone().into(),
        ..Sync::default()
    };
    let R::Delta(delta) = alice.call(Q::Sync(sync)).await.unwrap() else {
        panic!("no delta");
    };
    assert_eq!(
        (delta.snapshot.to_vec(), delta.conversations.len(), delta.more),
        (alice.snapshot.clone(), 0, false)
    );
}

/// As many who join at once as there is no room for.
#[tokio::test]
async fn the_limit_of_members_holds_at_once() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let group = alice.group("many", &[]).await.conversation;
    let R::Invitation(invitation) = alice
        .call(Q::Invite(Invite {
            conversation: group.clone(),
            seconds: 60,
        }))
        .await
        .unwrap()
    else {
        panic!("no invitation");
    };
    let mut members = Vec::new();
    for number in 0..12 {
        members.push(world.register(&format!("member{number}")).await);
    }
    let joins = members.iter().map(|member| {
        let token = invitation.token.clone();
        member.call(Q::Join(Join { token }))
    });
    let joined = futures::future::join_all(joins).await;
    let R::Group(shown) = alice
        .call(Q::GetGroup(GetGroup { conversation: group }))
        .await
        .unwrap()
    else {
        panic!("no group");
    };
    let took = joined.iter().filter(|joined| joined.is_ok()).count();
    assert_eq!((took, shown.members.len()), (12, 13), "{joined:?}");
}
