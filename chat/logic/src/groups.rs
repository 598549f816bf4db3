//! Groups: creating, changing, inviting, joining.

use chat_core::{
    ConversationId, UserId,
    group::{self, Change},
    limits::{CLIENT_ID_BYTES, MAX_INVITATION_SECONDS, MAX_LINE, MAX_MEMBERS},
    plan::Plan,
    room::{Refusal, Room},
    text,
    tickets::Invitation,
};
use chat_proto::v1::{self, Code, Group, GroupMember, RetentionClass, Role, change_group::Change as Q};
use chat_storage::Carried;

use crate::{caller::Caller, failure::Failure, limits::TRIES, logic::Logic};

/// A client's id, as it must be.
pub(crate) fn client_id(bytes: &[u8]) -> Result<[u8; CLIENT_ID_BYTES], Failure> {
    bytes.try_into().map_err(|_| {
        Failure::invalid(format!(
            "a client id has {CLIENT_ID_BYTES} bytes, not {}",
            bytes.len()
        ))
    })
}

/// A group's conversation.
fn group_id(text: &str) -> Result<ConversationId, Failure> {
    match text.parse()? {
        id @ ConversationId::Group(_) => Ok(id),
        ConversationId::Direct(..) => Err(Failure::invalid(format!("{text} is no group"))),
    }
}

fn users(ids: Vec<u64>) -> Result<Vec<UserId>, Failure> {
    if ids.len() > MAX_MEMBERS as usize {
        return Err(Refusal::Full.into());
    }
    Ok(ids.into_iter().map(UserId).collect())
}

fn shown(room: &Room) -> Group {
    let now = room.members.iter().filter(|(_, row)| !row.row.left);
    let member = |(user, row): (&UserId, &chat_core::room::Row<v1::Member>)| GroupMember {
        user: user.0,
        role: row.row.role,
        muted_until_ms: row.row.muted_until_ms,
    };
    let meta = &room.meta.row;
    Group {
        conversation: room.id.to_string(),
        title: meta.title.clone(),
        version: meta.version,
        retention: meta.retention,
        muted: meta.muted,
        disbanded: meta.disbanded,
        members: now.map(member).collect(),
    }
}

impl Logic {
    /// To ask again with the same client id is harmless.
    pub(crate) async fn create_group(
        &self,
        caller: Caller,
        request: v1::CreateGroup,
    ) -> Result<Group, Failure> {
        self.may_ask(caller)?;
        let client_id = client_id(&request.client_id)?;
        let title = text::line("a title", &request.title, MAX_LINE)?;
        let members = users(request.members)?;
        let others: Vec<UserId> = members.into_iter().filter(|user| *user != caller.user).collect();
        let new = self.store().new_group_id(self.inner.region).await?;
        let group = self.store().created_group(caller.user, &client_id, new).await?;
        let id = ConversationId::Group(group);
        self.change_room(
            id,
            |room| {
                Ok(if room.meta.revision == 0 {
                    Some(group::create(room, caller.user, &title, &others, self.now_ms())?)
                } else {
                    None
                })
            },
            || self.all_friends(caller, &others),
        )
        .await
    }

    /// Lets a plan be made and carries it out, as long as it takes. `allowed` is asked once, before anything is stored.
    async fn change_room<F: Future<Output = Result<(), Failure>>>(
        &self,
        id: ConversationId,
        plan: impl Fn(&Room) -> Result<Option<Plan>, Refusal>,
        allowed: impl FnOnce() -> F,
    ) -> Result<Group, Failure> {
        let mut allowed = Some(allowed);
        for _ in 0..TRIES {
            let room = self.store().room(id).await?;
            let plan = plan(&room)?.filter(|plan| !plan.writes.is_empty());
            let Some(plan) = plan else {
                return Ok(shown(&room));
            };
            if let Some(allowed) = allowed.take() {
                allowed().await?;
            }
            if let Carried::Out(revision) = self.store().carry_out_in(id, &plan).await? {
                let mut room = room;
                room.advance(&plan, revision);
                return Ok(shown(&room));
            }
        }
        Err(Failure::contended())
    }

    pub(crate) async fn get_group(&self, caller: Caller, request: v1::GetGroup) -> Result<Group, Failure> {
        let room = self.store().room(group_id(&request.conversation)?).await?;
        room.member(caller.user).ok_or(Refusal::NotMember)?;
        Ok(shown(&room))
    }

    pub(crate) async fn change_group(
        &self,
        caller: Caller,
        request: v1::ChangeGroup,
    ) -> Result<Group, Failure> {
        let id = group_id(&request.conversation)?;
        let Some(asked) = request.change else {
            return Err(Failure::invalid(
                "the change is empty, or one that this server does not know",
            ));
        };
        let change = change(asked)?;
        let new = match &change {
            Change::Add(users) => users.clone(),
            _ => Vec::new(),
        };
        self.change_room(
            id,
            |room| group::change(room, caller.user, &change, self.now_ms()).map(Some),
            || self.all_friends(caller, &new),
        )
        .await
    }

    /// A member goes, who may have gone before.
    pub(crate) async fn leave(&self, user: UserId, id: ConversationId) -> Result<(), Failure> {
        let plan = |room: &Room| match room.member(user) {
            Some(_) if !room.meta.row.disbanded => {
                group::change(room, user, &Change::Leave, self.now_ms()).map(Some)
            }
            _ => Ok(None),
        };
        self.change_room(id, plan, || async { Ok(()) }).await?;
        Ok(())
    }

    pub(crate) async fn invite(
        &self,
        caller: Caller,
        request: v1::Invite,
    ) -> Result<v1::Invitation, Failure> {
        let id = group_id(&request.conversation)?;
        let ConversationId::Group(group) = id else {
            return Err(Failure::invalid("only groups have invitations"));
        };
        if !(1..=MAX_INVITATION_SECONDS).contains(&request.seconds) {
            return Err(Failure::invalid(format!(
                "an invitation is good for 1 to {MAX_INVITATION_SECONDS} seconds"
            )));
        }
        let room = self.store().room(id).await?;
        room.member(caller.user).ok_or(Refusal::NotMember)?;
        let expires_ms = self.now_ms() + u64::from(request.seconds) * 1000;
        let invitation = Invitation {
            group,
            by: caller.user,
            expires_ms,
        };
        Ok(v1::Invitation {
            token: invitation.seal(&self.inner.secrets).into(),
            expires_ms,
        })
    }

    /// The one who invited adds the one who joins: so an invitation is as good as its member.
    pub(crate) async fn join(&self, caller: Caller, request: v1::Join) -> Result<Group, Failure> {
        self.may_ask(caller)?;
        let invitation = Invitation::open(&request.token, &self.inner.secrets, self.now_ms());
        let Some(Invitation { group, by, .. }) = invitation else {
            return Err(Failure::new(
                Code::Forbidden,
                "this invitation is not valid, or not any more",
            ));
        };
        let add = Change::Add(vec![caller.user]);
        let plan = |room: &Room| match room.member(caller.user) {
            Some(_) => Ok(None),
            None => group::change(room, by, &add, self.now_ms()).map(Some),
        };
        self.change_room(ConversationId::Group(group), plan, || async { Ok(()) })
            .await
    }
}

fn change(asked: Q) -> Result<Change, Failure> {
    Ok(match asked {
        Q::Add(added) => Change::Add(users(added.users)?),
        Q::Leave(_) => Change::Leave,
        Q::Remove(user) => Change::Remove(UserId(user)),
        Q::Rename(title) => Change::Rename(text::line("a title", &title, MAX_LINE)?),
        Q::SetRole(set) => Change::SetRole(
            UserId(set.user),
            Role::try_from(set.role).unwrap_or(Role::Unspecified),
        ),
        Q::Mute(mute) => Change::Mute(UserId(mute.user), mute.until_ms),
        Q::MuteAll(muted) => Change::MuteAll(muted),
        Q::Retain(class) => Change::Retain(
            RetentionClass::try_from(class)
                .map_err(|_| Failure::invalid(format!("{class} is no retention class")))?,
        ),
        Q::Disband(_) => Change::Disband,
    })
}
