//! Telling what was gathered.

use std::sync::Arc;

use chat_core::{ConversationId, UserId, contact, room, snapshot::Kind, text};
use chat_proto::v1::{
    Account, Changed, ConversationHead, Head, Intent, Message, Push, ReadMark, server_frame::Body,
};
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use parking_lot::Mutex;
use quick_cache::unsync::Cache;

use super::{
    Notices,
    gather::{Gathered, Talk},
};
use crate::{
    failure::Failure,
    limits::{CACHED_ROOMS, TELLS_AT_A_TIME},
    logic::Logic,
};

/// A member, and the last message that was before them.
type Members = Arc<[(UserId, u64)]>;

/// Who the members of groups are, until the group changes.
pub(crate) struct MembersCache(Mutex<Cache<ConversationId, Members>>);

impl Default for MembersCache {
    fn default() -> Self {
        Self(Mutex::new(Cache::new(CACHED_ROOMS)))
    }
}

impl MembersCache {
    async fn of(&self, logic: &Logic, id: ConversationId, is_changed: bool) -> Result<Members, Failure> {
        if let ConversationId::Direct(low, high) = id {
            return Ok([(low, 0), (high, 0)].into());
        }
        if !is_changed && let Some(members) = self.0.lock().get(&id) {
            return Ok(Arc::clone(members));
        }
        let room = logic.store().room(id).await?;
        let now = room.members.iter().filter(|(_, row)| !row.row.left);
        let members: Members = now.map(|(user, row)| (*user, row.row.joined_seq)).collect();
        self.0.lock().insert(id, Arc::clone(&members));
        Ok(members)
    }
}

type Telling<'a> = BoxFuture<'a, Result<(), Failure>>;

/// Tells all of it, much at a time. After a failure some may have been told: telling it all again is harmless.
pub(crate) async fn all(
    logic: &Logic,
    notices: &dyn Notices,
    cache: &MembersCache,
    gathered: &Gathered,
) -> Result<(), Failure> {
    let teller = Teller { logic, notices };
    let mut tellings: Vec<Telling<'_>> = Vec::new();
    for (id, talk) in &gathered.talks {
        let members = cache.of(logic, *id, talk.is_changed).await?;
        teller.talk(*id, talk, &members, &mut tellings);
    }
    for ((user, other), intent) in &gathered.intents {
        tellings.push(Box::pin(teller.intent(*user, *other, intent)));
    }
    for ((user, id), mark) in &gathered.read {
        tellings.push(Box::pin(teller.read(*user, *id, mark)));
    }
    for (user, account) in &gathered.accounts {
        tellings.push(Box::pin(teller.account(*user, account)));
    }
    for (user, kind) in &gathered.changed {
        notices.notify(&[*user], &changed(*kind));
    }
    stream::iter(tellings)
        .map(Ok)
        .try_for_each_concurrent(TELLS_AT_A_TIME, |telling| telling)
        .await
}

/// A hint that a kind has changed.
fn changed(kind: Kind) -> Body {
    Body::Changed(Changed {
        account: kind == Kind::Account,
        contacts: kind == Kind::Contacts,
        conversations: kind == Kind::Conversations,
    })
}

#[derive(Clone, Copy)]
struct Teller<'a> {
    logic: &'a Logic,
    notices: &'a dyn Notices,
}

impl<'a> Teller<'a> {
    fn talk(self, id: ConversationId, talk: &'a Talk, members: &Members, tellings: &mut Vec<Telling<'a>>) {
        for message in &talk.messages {
            self.push(id, message, members);
        }
        if let Some(head) = &talk.head {
            for (user, _) in members.iter() {
                // Who writes has read up to there.
                let own = talk
                    .messages
                    .iter()
                    .rev()
                    .find(|message| message.sender == user.0);
                tellings.push(Box::pin(self.head(*user, id, head, own)));
            }
        }
        for (user, member) in &talk.gone {
            let head = Head {
                seq: member.left_seq,
                ordinal: member.left_ordinal,
                at_ms: talk.head.map_or(0, |head| head.at_ms),
            };
            tellings.push(Box::pin(self.gone(*user, id, head)));
        }
        for user in &talk.receipts {
            if let Some(peer) = id.peer(*user) {
                tellings.push(Box::pin(self.receipt(peer, id)));
            }
        }
    }

    /// To those who are connected, if the message is theirs.
    fn push(self, id: ConversationId, message: &Message, members: &Members) {
        let theirs = members.iter().filter(|(_, joined)| message.seq > *joined);
        let users: Vec<UserId> = theirs.map(|(user, _)| *user).collect();
        let push = Push {
            conversation: id.to_string(),
            message: Some(message.clone()),
        };
        self.notices.notify(&users, &Body::Push(push));
    }

    async fn head(
        self,
        user: UserId,
        id: ConversationId,
        head: &'a ConversationHead,
        own: Option<&'a Message>,
    ) -> Result<(), Failure> {
        let told = Head {
            seq: head.seq,
            ordinal: head.ordinal,
            at_ms: head.at_ms,
        };
        if let Some(own) = own.filter(|own| room::counts(own.body.as_ref())) {
            let mark = ReadMark {
                seq: own.seq,
                ordinal: own.ordinal,
            };
            self.logic.store().tell_own_head(user, id, &told, &mark).await?;
        } else {
            self.logic.store().tell_head(user, id, &told).await?;
        }
        Ok(())
    }

    async fn gone(self, user: UserId, id: ConversationId, head: Head) -> Result<(), Failure> {
        self.logic.store().tell_head(user, id, &head).await?;
        Ok(())
    }

    async fn receipt(self, peer: UserId, id: ConversationId) -> Result<(), Failure> {
        let what = id.to_bytes().into();
        self.logic
            .store()
            .note_change(peer, Kind::Conversations, what)
            .await?;
        Ok(())
    }

    async fn intent(self, user: UserId, other: UserId, intent: &'a Intent) -> Result<(), Failure> {
        self.logic.store().tell_intent(user, other, intent).await?;
        Ok(())
    }

    async fn read(self, user: UserId, id: ConversationId, mark: &'a ReadMark) -> Result<(), Failure> {
        self.logic.store().tell_receipt(id, user, mark).await?;
        Ok(())
    }

    /// Everybody who shows the account's name.
    async fn account(self, user: UserId, account: &'a Account) -> Result<(), Failure> {
        let others = self.logic.store().contacts(user).await?;
        if account.deleted {
            self.delete(user, account, &others).await?;
        }
        for other in others {
            let what = user.0.to_be_bytes().to_vec().into();
            self.logic
                .store()
                .note_change(other, Kind::Contacts, what)
                .await?;
        }
        Ok(())
    }

    /// What is left of a deleted account goes. Each step may have been done before.
    async fn delete(self, user: UserId, account: &'a Account, others: &[UserId]) -> Result<(), Failure> {
        for other in others {
            self.logic.change_intent(user, *other, contact::decline).await?;
        }
        for (id, _) in self.logic.store().heads(user).await? {
            if let ConversationId::Group(_) = id {
                self.logic.leave(user, id).await?;
            }
        }
        let devices = self.logic.store().devices(user).await?;
        let devices: Vec<_> = devices.iter().map(|(id, _)| *id).collect();
        if !devices.is_empty() {
            self.logic.store().remove_devices(user, &devices).await?;
        }
        if let Ok(folded) = text::fold_name(&account.name) {
            self.logic
                .store()
                .release_name(user.region(), &folded, user)
                .await?;
        }
        Ok(())
    }
}
