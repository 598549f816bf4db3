//! Conversations: their rows, and their messages.

use bytes::Bytes;
use chat_core::{
    ConversationId, UserId,
    keys::{self, conversation as rows},
    register,
    room::{Draft, Refusal, Room, Row, Sent, Taken},
};
use chat_proto::v1::{Intent, Message};
use kvsvr_client::{KeyValue, Op, Partition, RangeOptions};
use prost::Message as _;

use crate::rows::{Carried, Store, StoreError, got, ranged, row};

/// Looks before a send gives up: each time somebody else was quicker.
const SEND_TRIES: usize = 32;

/// Some messages of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the order that was asked for.
    pub messages: Vec<Message>,
    /// There are more in this direction.
    pub more: bool,
}

/// Where a conversation's rows are.
pub(crate) fn place(id: ConversationId) -> Partition {
    Partition::new(id.region(), keys::conversation_partition(id))
}

/// The user whose id ends the key.
fn user_of(kv: &KeyValue, prefix: &[u8]) -> Option<UserId> {
    let id = kv.key.strip_prefix(prefix)?;
    Some(UserId(u64::from_be_bytes(id.try_into().ok()?)))
}

impl Store {
    /// What the conversation's rows are, at one instant.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn room(&self, id: ConversationId) -> Result<Room, StoreError> {
        let ops = vec![
            Op::get(rows::META),
            Op::get(rows::HEAD),
            Op::range(&RangeOptions::prefix(rows::MEMBERS)),
            Op::range(&RangeOptions::prefix(rows::INTENTS)),
        ];
        let mut replies = self.look(&place(id), ops).await?.into_iter();
        let mut room = Room::empty(id);
        room.meta = row(got(replies.next()).as_ref())?;
        room.head = row(got(replies.next()).as_ref())?;
        for kv in ranged(replies.next()) {
            if let Some(user) = user_of(&kv, rows::MEMBERS) {
                room.members.insert(user, row(Some(&kv))?);
            }
        }
        for kv in ranged(replies.next()) {
            if let Some(user) = user_of(&kv, rows::INTENTS) {
                let (_, row) = register::decode::<Intent>(&kv.value)?;
                room.intents.insert(
                    user,
                    Row {
                        row,
                        revision: kv.mod_rev,
                    },
                );
            }
        }
        Ok(room)
    }

    /// Sends messages, in order, and answers each: taken (perhaps before), or refused. `room` is what was known, and is what is known now.
    ///
    /// # Errors
    /// [`StoreError::Contended`]; [`StoreError::Kvsvr`], after which they may have been taken: send them again.
    pub async fn send(
        &self,
        room: &mut Room,
        drafts: &[Draft],
        now_ms: u64,
    ) -> Result<Vec<Result<Sent, Refusal>>, StoreError> {
        let mut taken = Taken::new();
        for _ in 0..SEND_TRIES {
            let (plan, sent) = room.send(drafts, &taken, now_ms);
            if plan.writes.is_empty() {
                // A refusal must not be of a room that is long past.
                let refused = sent.iter().any(Result::is_err);
                let newest = if refused {
                    self.room(room.id).await?
                } else {
                    room.clone()
                };
                if newest == *room {
                    return Ok(sent);
                }
                *room = newest;
                continue;
            }
            match self.carry_out(&place(room.id), &plan).await? {
                Carried::Out(revision) => {
                    room.advance(&plan, revision);
                    return Ok(sent);
                }
                Carried::Overtaken => {
                    *room = self.room(room.id).await?;
                    taken = self.taken(room.id, drafts).await?;
                }
            }
        }
        Err(StoreError::Contended)
    }

    /// Which of these messages were taken.
    async fn taken(&self, id: ConversationId, drafts: &[Draft]) -> Result<Taken, StoreError> {
        let keys = drafts
            .iter()
            .map(|draft| Op::get(rows::accepted(draft.sender, &draft.client_id)));
        let replies = self.look(&place(id), keys.collect()).await?;
        let mut taken = Taken::new();
        for (draft, reply) in drafts.iter().zip(replies) {
            if let Some(kv) = got(Some(reply)) {
                taken.insert((draft.sender, draft.client_id), row(Some(&kv))?.row);
            }
        }
        Ok(taken)
    }

    /// A message, if it is there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn message(&self, id: ConversationId, seq: u64) -> Result<Row<Message>, StoreError> {
        self.row(&place(id), rows::message(seq)).await
    }

    /// Messages with numbers in `from..=to`, the oldest first or, backwards, the newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn messages(
        &self,
        id: ConversationId,
        from: u64,
        to: u64,
        limit: u32,
        backwards: bool,
    ) -> Result<Page, StoreError> {
        let end = to
            .checked_add(1)
            .map_or_else(|| kvsvr_client::prefix_end(rows::MESSAGES), rows::message);
        let range = RangeOptions::between(rows::message(from), end).limit(limit);
        let range = if backwards { range.reverse() } else { range };
        let page = self.client.range(&place(id), &range).await?.value;
        let decode =
            |kv: KeyValue| Message::decode(kv.value).map_err(|error| crate::rows::bad(&kv.key, &error));
        Ok(Page {
            more: !page.continuation.is_empty(),
            messages: page.kvs.into_iter().map(decode).collect::<Result<_, _>>()?,
        })
    }

    /// The ordinals of recalled messages in `from..=to`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn recalled(&self, id: ConversationId, from: u64, to: u64) -> Result<Vec<u64>, StoreError> {
        let range =
            RangeOptions::between(rows::recalled(from), rows::recalled(to.saturating_add(1))).keys_only();
        let kvs = self.client.range_all(&place(id), range).await?.value;
        let ordinal = |key: Bytes| Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?));
        Ok(kvs.into_iter().filter_map(|kv| ordinal(kv.key)).collect())
    }
}
