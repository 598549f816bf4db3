//! Conversations: their rows, and their messages.

use std::ops::RangeInclusive;

use chat_core::{
    ConversationId, UserId,
    keys::{self, conversation as rows},
    limits::MAX_SEND_BATCH,
    plan::Plan,
    register,
    room::{Draft, Refusal, Room, Row, Sent, Taken, counts},
};
use chat_proto::v1::{ConversationHead, Intent, Member, Message, ReadMark};
use kvsvr_client::{KeyValue, Op, OpReply, Partition, RangeOptions};
use prost::Message as _;

use crate::rows::{Carried, Store, StoreError, bad, got, number_in_key, ranged, row};

/// Looks before a send gives up: each time somebody else was quicker.
const SEND_TRIES: usize = 128;

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

/// What a room is read with.
fn room_ops() -> Vec<Op> {
    vec![
        Op::get(rows::META),
        Op::get(rows::HEAD),
        Op::range(&RangeOptions::prefix(rows::MEMBERS)),
        Op::range(&RangeOptions::prefix(rows::INTENTS)),
    ]
}

/// The same, and which of these messages were taken.
fn send_ops(drafts: &[Draft]) -> Vec<Op> {
    let accepted = |draft: &Draft| Op::get(rows::accepted(draft.sender, &draft.client_id));
    room_ops()
        .into_iter()
        .chain(drafts.iter().map(accepted))
        .collect()
}

fn room(id: ConversationId, replies: &mut impl Iterator<Item = OpReply>) -> Result<Room, StoreError> {
    let mut room = Room::empty(id);
    room.meta = row(got(replies.next()).as_ref())?;
    room.head = row(got(replies.next()).as_ref())?;
    for kv in ranged(replies.next()) {
        let user = UserId(number_in_key(&kv, rows::MEMBERS)?);
        room.members.insert(user, row(Some(&kv))?);
    }
    for kv in ranged(replies.next()) {
        let user = UserId(number_in_key(&kv, rows::INTENTS)?);
        let (_, row) = register::decode::<Intent>(&kv.value)?;
        let revision = kv.mod_rev;
        room.intents.insert(user, Row { row, revision });
    }
    Ok(room)
}

fn taken(drafts: &[Draft], replies: impl Iterator<Item = OpReply>) -> Result<Taken, StoreError> {
    let mut taken = Taken::new();
    for (draft, reply) in drafts.iter().zip(replies) {
        if let Some(kv) = got(Some(reply)) {
            taken.insert((draft.sender, draft.client_id), row(Some(&kv))?.row);
        }
    }
    Ok(taken)
}

impl Store {
    /// What the conversation's rows are, at one instant.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn room(&self, id: ConversationId) -> Result<Room, StoreError> {
        let mut replies = self.look(&place(id), room_ops()).await?.into_iter();
        room(id, &mut replies)
    }

    /// One transaction in a conversation's partition.
    ///
    /// # Errors
    /// [`StoreError::Kvsvr`].
    pub async fn carry_out_in(&self, id: ConversationId, plan: &Plan) -> Result<Carried, StoreError> {
        self.carry_out(&place(id), plan).await
    }

    /// Sends messages, in order, and answers each: taken (perhaps before), or refused. `room` is what was known, and is what is known now.
    ///
    /// # Errors
    /// [`StoreError::Contended`]; [`StoreError::Kvsvr`]. After both some may have been taken: send all of them again.
    pub async fn send(
        &self,
        room: &mut Room,
        drafts: &[Draft],
        now_ms: u64,
    ) -> Result<Vec<Result<Sent, Refusal>>, StoreError> {
        let mut sent = Vec::with_capacity(drafts.len());
        for drafts in drafts.chunks(MAX_SEND_BATCH) {
            sent.extend(self.send_batch(room, drafts, now_ms).await?);
        }
        Ok(sent)
    }

    async fn send_batch(
        &self,
        room: &mut Room,
        drafts: &[Draft],
        now_ms: u64,
    ) -> Result<Vec<Result<Sent, Refusal>>, StoreError> {
        let place = place(room.id);
        let (mut taken, mut is_newest) = (Taken::new(), false);
        for _ in 0..SEND_TRIES {
            let (plan, sent) = room.send(drafts, &taken, now_ms);
            let mut replies = if plan.writes.is_empty() {
                // Who is refused now may have been taken before; and a refusal must not be of a room that is long past.
                if is_newest || sent.iter().all(Result::is_ok) {
                    return Ok(sent);
                }
                self.look(&place, send_ops(drafts)).await?.into_iter()
            } else {
                let tried = self.carry_out_or(&place, &plan, send_ops(drafts));
                match tried.await? {
                    Ok(revision) => {
                        room.advance(&plan, revision);
                        return Ok(sent);
                    }
                    Err(newest) => newest.into_iter(),
                }
            };
            *room = self::room(room.id, &mut replies)?;
            taken = self::taken(drafts, replies)?;
            is_newest = true;
        }
        Err(StoreError::Contended)
    }

    /// A message, if it is there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn message(&self, id: ConversationId, seq: u64) -> Result<Row<Message>, StoreError> {
        self.row(&place(id), rows::message(seq)).await
    }

    /// A group's member, now or before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn member(&self, id: ConversationId, user: UserId) -> Result<Row<Member>, StoreError> {
        self.row(&place(id), rows::member(user)).await
    }

    /// The mark of whoever has all messages up to this one; that of the newest, if there are not so many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn mark_at(&self, id: ConversationId, seq: u64) -> Result<ReadMark, StoreError> {
        let end = kvsvr_client::prefix_end(rows::MESSAGES);
        let next = RangeOptions::between(rows::message(seq), end).limit(1);
        let ops = vec![Op::get(rows::HEAD), Op::range(&next)];
        let mut replies = self.look(&place(id), ops).await?.into_iter();
        let head = row::<ConversationHead>(got(replies.next()).as_ref())?.row;
        if seq >= head.seq {
            return Ok(ReadMark {
                seq: head.seq,
                ordinal: head.ordinal,
            });
        }
        // The message itself may be past its retention: then the next one knows.
        let next = ranged(replies.next());
        let next = next.first().map(|kv| row::<Message>(Some(kv))).transpose()?;
        let ordinal = next.map_or(head.ordinal, |next| {
            let itself = next.row.seq == seq;
            next.row.ordinal - u64::from(!itself && counts(next.row.body.as_ref()))
        });
        Ok(ReadMark { seq, ordinal })
    }

    /// The first message among these that was sent at or after a time; the number after the last one, if there is none. Times never go back in a conversation: a binary search.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn seq_at(
        &self,
        id: ConversationId,
        among: RangeInclusive<u64>,
        at_ms: u64,
    ) -> Result<u64, StoreError> {
        let (mut low, mut high) = (*among.start(), among.end().saturating_add(1));
        while low < high {
            let middle = low + (high - low) / 2;
            // The first that is left at or after it.
            let page = self.messages(id, middle, high - 1, 1, false).await?;
            match page.messages.first() {
                Some(message) if message.at_ms < at_ms => low = message.seq + 1,
                Some(_) | None => high = middle,
            }
        }
        Ok(low)
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
        let decode = |kv: KeyValue| Message::decode(kv.value).map_err(|error| bad(&kv.key, &error));
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
        let ordinals = kvs.iter().map(|kv| number_in_key(kv, rows::RECALLED));
        Ok(ordinals.collect::<Result<_, _>>()?)
    }
}
