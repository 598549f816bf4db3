//! What a user sees of conversations: the rows of both partitions that a view is made of.

use std::collections::BTreeMap;

use bytes::Bytes;
use chat_core::{
    ConversationId, UserId,
    keys::{conversation, user as rows},
    limits::CLIENT_ID_BYTES,
    register,
    room::Row,
};
use chat_proto::v1::{
    Conversation, ConversationHead, ConversationOptions, Favourite, Head, Intent, Member, Message, ReadMark,
};
use kvsvr_client::{Compare, KeyValue, Op, RangeOptions, Txn};
use prost::Message as _;

use crate::{
    changes::place,
    conversations,
    rows::{Store, StoreError, bad, got, number, number_in_key, ranged, row, told},
};

/// What the user's own rows say of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mine {
    /// The newest that the user was told.
    pub head: Row<Head>,
    /// How far they have read.
    pub read: Row<ReadMark>,
    /// What they set.
    pub options: Row<ConversationOptions>,
}

/// What the conversation's rows say, at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Glance {
    /// The conversation.
    pub meta: Row<Conversation>,
    /// Its newest message.
    pub head: Row<ConversationHead>,
    /// The user's membership of a group.
    pub member: Row<Member>,
    /// One to one: what both want of each other.
    pub intents: BTreeMap<UserId, Intent>,
    /// One to one: how far each has read.
    pub read: BTreeMap<UserId, ReadMark>,
    /// One to one: up to where a device of each has everything.
    pub got: BTreeMap<UserId, ReadMark>,
    /// Ordinals of recalled messages above the one that was asked for.
    pub recalled: Vec<u64>,
    /// The oldest message that is left.
    pub oldest: Option<Message>,
    /// The newest messages, the newest first.
    pub newest: Vec<Message>,
}

fn by_user<M: prost::Message + Default>(
    kvs: &[KeyValue],
    prefix: &[u8],
) -> Result<BTreeMap<UserId, M>, StoreError> {
    let decode = |kv: &KeyValue| {
        let user = UserId(number_in_key(kv, prefix)?);
        Ok((user, register::decode::<M>(&kv.value)?.1))
    };
    kvs.iter().map(decode).collect()
}

fn messages(kvs: Vec<KeyValue>) -> Result<Vec<Message>, StoreError> {
    let decode = |kv: KeyValue| Ok(Message::decode(kv.value).map_err(|error| bad(&kv.key, &error))?);
    kvs.into_iter().map(decode).collect()
}

impl Store {
    /// The user's own rows of these conversations, at one instant.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn mine(&self, user: UserId, ids: &[ConversationId]) -> Result<Vec<Mine>, StoreError> {
        let of = |id: &ConversationId| {
            [
                Op::get(rows::head(*id)),
                Op::get(rows::read_mark(*id)),
                Op::get(rows::conversation_options(*id)),
            ]
        };
        let ops = ids.iter().flat_map(of).collect();
        let mut replies = self.look(&place(user), ops).await?.into_iter();
        let mut next = || got(replies.next());
        let mine = ids.iter().map(|_| {
            Ok(Mine {
                head: told(next().as_ref())?,
                read: told(next().as_ref())?,
                options: row(next().as_ref())?,
            })
        });
        mine.collect()
    }

    /// What a user sees of a conversation: the newest messages up to a number, so many of them, and what was recalled above an ordinal.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn glance(
        &self,
        id: ConversationId,
        user: UserId,
        above: u64,
        (upto, newest): (u64, u32),
    ) -> Result<Glance, StoreError> {
        let recalled = RangeOptions::between(
            conversation::recalled(above.saturating_add(1)),
            kvsvr_client::prefix_end(conversation::RECALLED),
        );
        let log = RangeOptions::prefix(conversation::MESSAGES);
        let known = RangeOptions::between(
            conversation::MESSAGES,
            conversation::message(upto.saturating_add(1)),
        );
        let mut ops = vec![
            Op::get(conversation::META),
            Op::get(conversation::HEAD),
            Op::get(conversation::member(user)),
            Op::range(&recalled.keys_only()),
            Op::range(&log.limit(1)),
            Op::range(&known.limit(newest.max(1)).reverse()),
        ];
        if let ConversationId::Direct(..) = id {
            let prefixes = [conversation::INTENTS, conversation::RECEIPTS, conversation::GOT];
            ops.extend(prefixes.map(|prefix| Op::range(&RangeOptions::prefix(prefix))));
        }
        let mut replies = self.look(&conversations::place(id), ops).await?.into_iter();
        let mut glance = Glance {
            meta: row(got(replies.next()).as_ref())?,
            head: row(got(replies.next()).as_ref())?,
            member: row(got(replies.next()).as_ref())?,
            ..Glance::default()
        };
        let ordinals = ranged(replies.next());
        let ordinals = ordinals
            .iter()
            .map(|kv| number_in_key(kv, conversation::RECALLED));
        glance.recalled = ordinals.collect::<Result<_, _>>()?;
        glance.oldest = messages(ranged(replies.next()))?.pop();
        glance.newest = messages(ranged(replies.next()))?;
        glance.newest.truncate(newest as usize);
        glance.intents = by_user(&ranged(replies.next()), conversation::INTENTS)?;
        glance.read = by_user(&ranged(replies.next()), conversation::RECEIPTS)?;
        glance.got = by_user(&ranged(replies.next()), conversation::GOT)?;
        Ok(glance)
    }

    /// All conversations that a user was ever told of, and the newest of each.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn heads(&self, user: UserId) -> Result<Vec<(ConversationId, Head)>, StoreError> {
        let range = RangeOptions::prefix(rows::HEADS);
        let kvs = self.client.range_all(&place(user), range).await?.value;
        let decode = |kv: &KeyValue| {
            let id = kv.key.strip_prefix(rows::HEADS).unwrap_or_default();
            let id = ConversationId::from_bytes(id).ok_or_else(|| bad(&kv.key, &"no conversation"))?;
            Ok((id, register::decode(&kv.value)?.1))
        };
        kvs.iter().map(decode).collect()
    }

    /// How far all members have read, as they told.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn receipts(&self, id: ConversationId) -> Result<BTreeMap<UserId, ReadMark>, StoreError> {
        let range = RangeOptions::prefix(conversation::RECEIPTS);
        let kvs = self.client.range_all(&conversations::place(id), range).await?;
        by_user(&kvs.value, conversation::RECEIPTS)
    }

    /// Tells a conversation how far a user has read. To tell it again is harmless.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn tell_receipt(
        &self,
        id: ConversationId,
        user: UserId,
        mark: &ReadMark,
    ) -> Result<(), StoreError> {
        self.tell_mark(id, conversation::receipt(user), mark).await
    }

    /// Tells a conversation of two that a device of a user has everything up to a message. To tell it again is harmless.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn tell_got(
        &self,
        id: ConversationId,
        user: UserId,
        mark: &ReadMark,
    ) -> Result<(), StoreError> {
        self.tell_mark(id, conversation::got(user), mark).await
    }

    async fn tell_mark(&self, id: ConversationId, key: Bytes, mark: &ReadMark) -> Result<(), StoreError> {
        let place = conversations::place(id);
        self.put_newer(&place, key, (mark.seq, mark), None).await?;
        Ok(())
    }

    /// Stores what a user set for a conversation, if it was unchanged since a revision. False: it was not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_options(
        &self,
        user: UserId,
        id: ConversationId,
        before: u64,
        options: &ConversationOptions,
    ) -> Result<bool, StoreError> {
        let key = rows::conversation_options(id);
        let changes = rows::changes(chat_core::snapshot::Kind::Conversations);
        let txn = Txn::new()
            .when(Compare::mod_rev(key.clone()).equals(before))
            .then(Op::put(key, options.encode_to_vec()))
            .then(Op::append(changes, id.to_bytes()));
        Ok(self.client.txn(&place(user), txn).await?.succeeded)
    }

    /// The group that a request of this id created or is to create: this one, unless there was another one before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn created_group(
        &self,
        user: UserId,
        client_id: &[u8; CLIENT_ID_BYTES],
        group: chat_core::GroupId,
    ) -> Result<chat_core::GroupId, StoreError> {
        let key = rows::created(client_id);
        let txn = Txn::new()
            .when(Compare::absent(key.clone()))
            .then(Op::put(key.clone(), group.0.to_be_bytes().to_vec()))
            .or_else(Op::get(key));
        let reply = self.client.txn(&place(user), txn).await?;
        if reply.succeeded {
            return Ok(group);
        }
        let found = got(reply.results.into_iter().next());
        let number = found.map_or(Ok(group.0), |kv| number(&kv.key, &kv.value))?;
        Ok(chat_core::GroupId(number))
    }

    /// Keeps a message for a user, or gives it up.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn keep(
        &self,
        user: UserId,
        (id, seq): (ConversationId, u64),
        kept: Option<&Favourite>,
    ) -> Result<(), StoreError> {
        let key = rows::favourite(id, seq);
        match kept {
            Some(kept) => drop(self.client.put(&place(user), key, kept.encode_to_vec()).await?),
            None => drop(self.client.delete(&place(user), key).await?),
        }
        Ok(())
    }

    /// Messages that a user keeps, and where to go on; empty = that is all.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn kept(
        &self,
        user: UserId,
        after: &[u8],
        limit: u32,
    ) -> Result<(Vec<Favourite>, Bytes), StoreError> {
        let mut range = RangeOptions::prefix(rows::FAVOURITES).limit(limit);
        if !after.is_empty() {
            // What comes right after this key.
            range.start = [rows::FAVOURITES, after, &[0]].concat().into();
        }
        let page = self.client.range(&place(user), &range).await?.value;
        let next = match page.kvs.last() {
            Some(kv) if !page.continuation.is_empty() => kv.key.slice(rows::FAVOURITES.len()..),
            _ => Bytes::new(),
        };
        let decode = |kv: KeyValue| Favourite::decode(kv.value).map_err(|error| bad(&kv.key, &error));
        let kept = page.kvs.into_iter().map(decode).collect::<Result<_, _>>()?;
        Ok((kept, next))
    }
}
