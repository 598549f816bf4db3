//! Sync: what has changed for a user since a snapshot, and the next snapshot.
//!
//! First the numbers of changes are read, then the rows: what changes in between is told once more. Who has no snapshot, or one that is too old, is given everything anew, in several answers:
//! the snapshot says where to go on. Conversations that somebody writes in meanwhile are among the changes that follow.

use std::collections::BTreeMap;

use chat_core::{
    ConversationId, UserId,
    limits::KEPT_CHANGES,
    room,
    snapshot::{Kind, Snapshot},
    unread::{self, Facts},
};
use chat_proto::v1::{self, Delta, Head, View};
use chat_storage::{Changes, Glance, Mine};
use futures::future::try_join_all;

use crate::{
    caller::Caller,
    failure::Failure,
    limits::{SYNC_CHANGES, SYNC_CONTACTS, SYNC_CONVERSATIONS, SYNC_MESSAGES},
    logic::Logic,
};

/// How much a device wants at a time.
#[derive(Clone, Copy)]
struct Portion {
    conversations: u32,
    messages: u32,
}

impl Logic {
    pub(crate) async fn sync(&self, caller: Caller, request: v1::Sync) -> Result<Delta, Failure> {
        let portion = Portion {
            conversations: match request.conversations {
                0 => SYNC_CONVERSATIONS,
                wanted => wanted.min(SYNC_CONVERSATIONS),
            },
            messages: request.messages.min(SYNC_MESSAGES),
        };
        let Caller { user, device, epoch } = caller;
        // One that is not good any more means: begin anew.
        let shown = Snapshot::open(&request.snapshot, &self.inner.secrets, user, device, epoch).ok();
        match shown {
            Some(snapshot) if !snapshot.rest.is_empty() => {
                self.rest(caller, snapshot, portion, Delta::default()).await
            }
            Some(snapshot) => match self.changed(caller, snapshot, portion).await? {
                Some(delta) => Ok(delta),
                None => self.anew(caller, portion).await,
            },
            None => self.anew(caller, portion).await,
        }
    }

    async fn anew(&self, caller: Caller, portion: Portion) -> Result<Delta, Failure> {
        let Caller { user, device, epoch } = caller;
        let mut snapshot = Snapshot::empty(user, device, epoch);
        let newest = self.store().newest_changes(user).await?;
        snapshot.seen = Kind::ALL.into_iter().zip(newest).collect();
        snapshot.rest = [(Kind::Contacts, 0), (Kind::Conversations, u64::MAX)].into();
        let delta = Delta {
            reset: true,
            account: self.profiles(&[user]).await?.pop(),
            devices: self.device_infos(caller).await?,
            ..Delta::default()
        };
        self.rest(caller, snapshot, portion, delta).await
    }

    /// Goes on with giving everything: contacts by their ids, then conversations, those of the newest messages first.
    async fn rest(
        &self,
        caller: Caller,
        mut snapshot: Snapshot,
        portion: Portion,
        mut delta: Delta,
    ) -> Result<Delta, Failure> {
        let user = caller.user;
        if let Some(after) = snapshot.rest.get(&Kind::Contacts).copied() {
            let mut others = self.store().contacts(user).await?;
            others.retain(|other| other.0 > after);
            others.truncate(SYNC_CONTACTS as usize);
            match others.last() {
                Some(last) if others.len() == SYNC_CONTACTS as usize => {
                    snapshot.rest.insert(Kind::Contacts, last.0)
                }
                _ => snapshot.rest.remove(&Kind::Contacts),
            };
            delta.contacts = self.contacts(user, &others).await?;
        } else if let Some(before) = snapshot.rest.get(&Kind::Conversations).copied() {
            let heads = self.store().heads(user).await?;
            let (page, before) = older(heads, before, portion.conversations as usize);
            match before {
                Some(before) => snapshot.rest.insert(Kind::Conversations, before),
                None => snapshot.rest.remove(&Kind::Conversations),
            };
            delta.conversations = self.views(user, &page, portion.messages).await?;
        }
        // What has changed since it began is asked for after it.
        delta.more = true;
        delta.snapshot = snapshot.seal(&self.inner.secrets).into();
        Ok(delta)
    }

    /// `None`: some of the changes are not kept any more.
    async fn changed(
        &self,
        caller: Caller,
        mut snapshot: Snapshot,
        portion: Portion,
    ) -> Result<Option<Delta>, Failure> {
        let user = caller.user;
        let wanted = [1, SYNC_CONTACTS, portion.conversations];
        let wanted = Kind::ALL.into_iter().zip(wanted);
        let wanted: Vec<(Kind, u64, u32)> = wanted
            .map(|(kind, distinct)| (kind, snapshot.seen(kind), distinct))
            .collect();
        let changes = self.store().changes(user, &wanted, SYNC_CHANGES).await?;
        if changes.iter().any(|changes| changes.reset) {
            return Ok(None);
        }
        let mut delta = Delta::default();
        for (kind, changes) in Kind::ALL.into_iter().zip(changes) {
            snapshot.seen.insert(kind, changes.upto);
            delta.more |= changes.more;
            self.hydrate(caller, kind, &changes, portion, &mut delta).await?;
        }
        delta.snapshot = snapshot.seal(&self.inner.secrets).into();
        Ok(Some(delta))
    }

    async fn hydrate(
        &self,
        caller: Caller,
        kind: Kind,
        changes: &Changes,
        portion: Portion,
        delta: &mut Delta,
    ) -> Result<(), Failure> {
        if changes.what.is_empty() {
            return Ok(());
        }
        let user = caller.user;
        match kind {
            Kind::Account => {
                delta.account = self.profiles(&[user]).await?.pop();
                delta.devices = self.device_infos(caller).await?;
            }
            Kind::Contacts => {
                let id = |what: &bytes::Bytes| Some(UserId(u64::from_be_bytes(what[..].try_into().ok()?)));
                let others: Vec<UserId> = changes.what.iter().filter_map(id).collect();
                delta.contacts = self.contacts(user, &others).await?;
            }
            Kind::Conversations => {
                let ids = changes.what.iter();
                let ids: Vec<_> = ids.filter_map(|what| ConversationId::from_bytes(what)).collect();
                delta.conversations = self.views(user, &ids, portion.messages).await?;
            }
        }
        Ok(())
    }

    /// What a user sees of conversations; those that they were never told of are left out.
    async fn views(&self, user: UserId, ids: &[ConversationId], messages: u32) -> Result<Vec<View>, Failure> {
        let mine = self.store().mine(user, ids).await?;
        let told = ids.iter().copied().zip(mine);
        let told = told.filter(|(_, mine)| mine.head.row.seq > 0);
        let views = told.map(|(id, mine)| self.view(user, id, mine, messages));
        try_join_all(views).await
    }

    async fn view(
        &self,
        user: UserId,
        id: ConversationId,
        mine: Mine,
        messages: u32,
    ) -> Result<View, Failure> {
        let known = mine.read.row.ordinal.max(mine.options.row.hidden_ordinal);
        let upto = mine.head.row.seq;
        let glance = self.store().glance(id, user, known, (upto, messages)).await?;
        let expired = self.expired(id, &glance).await?;
        Ok(view(user, id, &mine, glance, expired))
    }

    /// The ordinal up to which messages are past their retention. Media may outlive the texts between them: what is older than texts may be is not unread any more.
    async fn expired(&self, id: ConversationId, glance: &Glance) -> Result<u64, Failure> {
        let Some(oldest) = &glance.oldest else {
            return Ok(glance.head.row.ordinal);
        };
        let gone = oldest.ordinal - u64::from(room::counts(oldest.body.as_ref()));
        let Some(retention_ms) = room::retention_ms(glance.meta.row.retention(), false) else {
            return Ok(gone);
        };
        let since_ms = self.now_ms().saturating_sub(retention_ms);
        if oldest.at_ms >= since_ms {
            return Ok(gone);
        }
        let first = self
            .store()
            .seq_at(id, oldest.seq..=glance.head.row.seq, since_ms)
            .await?;
        Ok(self.store().mark_at(id, first - 1).await?.ordinal)
    }
}

/// Conversations whose newest message is older than this time, the newest first, and the time to go on from. Those of one time are never parted.
fn older(
    mut heads: Vec<(ConversationId, Head)>,
    before_ms: u64,
    count: usize,
) -> (Vec<ConversationId>, Option<u64>) {
    heads.retain(|(_, head)| head.at_ms < before_ms);
    heads.sort_by_key(|(id, head)| (std::cmp::Reverse(head.at_ms), *id));
    let last_ms = heads.get(count.saturating_sub(1)).map(|(_, head)| head.at_ms);
    let page = heads
        .iter()
        .take_while(|(_, head)| last_ms.is_none_or(|last| head.at_ms >= last));
    let page: Vec<ConversationId> = page.map(|(id, _)| *id).collect();
    let rest = last_ms.filter(|_| page.len() < heads.len());
    (page, rest)
}

fn view(user: UserId, id: ConversationId, mine: &Mine, glance: Glance, expired: u64) -> View {
    let (head, options) = (&mine.head.row, &mine.options.row);
    let member = &glance.member.row;
    let facts = Facts {
        head: head.ordinal,
        read: mine.read.row.ordinal,
        joined: member.joined_ordinal,
        hidden: options.hidden_ordinal,
        expired,
        recalled: &glance.recalled,
    };
    let of_peer = |marks: &BTreeMap<UserId, v1::ReadMark>| {
        let peer = id.peer(user);
        peer.and_then(|peer| marks.get(&peer)).map_or(0, |mark| mark.seq)
    };
    let from_seq = member.joined_seq.max(options.hidden_seq) + 1;
    let mut messages = glance.newest;
    messages.reverse();
    messages.retain(|message| message.seq >= from_seq);
    View {
        conversation: id.to_string(),
        title: glance.meta.row.title.clone(),
        version: glance.meta.row.version,
        members: glance.meta.row.members,
        head_seq: head.seq,
        head_ms: head.at_ms,
        read_seq: mine.read.row.seq,
        unread: unread::unread(&facts),
        from_seq,
        left: member.left,
        muted: options.muted,
        pinned: options.pinned,
        peer_read_seq: of_peer(&glance.read),
        peer_got_seq: of_peer(&glance.got),
        revised: glance.head.row.revised,
        messages,
    }
}

const _: () = assert!((SYNC_CHANGES as u64) < KEPT_CHANGES);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chat_core::{ConversationId, GroupId};
    use chat_proto::v1::Head;

    use super::older;

    /// Whatever the times and however many at a time, everything is given, once, the newest first.
    #[test]
    fn pages_give_all_once() {
        for times in [
            vec![5, 5, 5, 5],
            vec![1, 2, 3, 4, 5],
            vec![9, 7, 7, 7, 2, 2],
            vec![],
        ] {
            for count in 1..4 {
                let heads: Vec<_> = (1u64..)
                    .zip(&times)
                    .map(|(id, at_ms)| {
                        let head = Head {
                            at_ms: *at_ms,
                            ..Head::default()
                        };
                        (ConversationId::Group(GroupId(id)), head)
                    })
                    .collect();
                let (mut given, mut before) = (Vec::new(), u64::MAX);
                loop {
                    let (page, rest) = older(heads.clone(), before, count);
                    given.extend(page);
                    match rest {
                        Some(rest) => before = rest,
                        None => break,
                    }
                }
                let different: BTreeSet<_> = given.iter().copied().collect();
                assert_eq!((given.len(), different.len()), (heads.len(), heads.len()));
                let at = |id: &ConversationId| heads.iter().find(|(other, _)| other == id).unwrap().1.at_ms;
                assert!(given.is_sorted_by_key(|id| std::cmp::Reverse(at(id))));
            }
        }
    }
}
