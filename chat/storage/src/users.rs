//! Users: what they want of others, and what they are told.

use chat_core::{
    ConversationId, UserId,
    keys::{conversation, user as rows},
    register,
    room::Row,
    snapshot::Kind,
};
use chat_proto::v1::{Head, Intent, ReadMark};
use kvsvr_client::{Compare, KeyValue, Op, RangeOptions, Txn};
use prost::Message;

use crate::{
    changes::{Told, place},
    conversations,
    rows::{Store, StoreError, got, number_in_key, ranged},
};

fn told<M: Message + Default>(kv: Option<&KeyValue>) -> Result<Row<M>, StoreError> {
    let Some(kv) = kv else {
        return Ok(Row::default());
    };
    let (_, row) = register::decode(&kv.value)?;
    Ok(Row {
        row,
        revision: kv.mod_rev,
    })
}

impl Store {
    /// What a user wants of another one, and what that one wants, as far as the user was told.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn intents(
        &self,
        user: UserId,
        other: UserId,
    ) -> Result<(Row<Intent>, Row<Intent>), StoreError> {
        let ops = vec![Op::get(rows::intent(other)), Op::get(rows::intent_told(other))];
        let mut replies = self.look(&place(user), ops).await?.into_iter();
        Ok((
            told(got(replies.next()).as_ref())?,
            told(got(replies.next()).as_ref())?,
        ))
    }

    /// Stores what a user wants of another one from now on, if it was unchanged since this revision. False: it was not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_intent(
        &self,
        user: UserId,
        other: UserId,
        before: u64,
        intent: &Intent,
    ) -> Result<bool, StoreError> {
        let key = rows::intent(other);
        let txn = Txn::new()
            .when(Compare::mod_rev(key.clone()).equals(before))
            .then(Op::put(key, register::encode(intent.version, intent)))
            .then(Op::append(
                rows::changes(Kind::Contacts),
                other.0.to_be_bytes().to_vec(),
            ));
        Ok(self.client.txn(&place(user), txn).await?.succeeded)
    }

    /// Tells the other one, and their conversation, what a user wants. From the latter on it decides who may send. To tell it again is harmless.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn tell_intent(
        &self,
        user: UserId,
        other: UserId,
        intent: &Intent,
    ) -> Result<Told, StoreError> {
        if let Some(id) = ConversationId::direct(user, other) {
            let row = (intent.version, intent);
            self.put_newer(&conversations::place(id), conversation::intent(user), row, None)
                .await?;
        }
        let what = user.0.to_be_bytes().to_vec().into();
        self.tell(
            other,
            rows::intent_told(user),
            (intent.version, intent),
            (Kind::Contacts, what),
        )
        .await
    }

    /// Everybody a user wants something of, or who wants something of the user.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn contacts(&self, user: UserId) -> Result<Vec<UserId>, StoreError> {
        let prefixes = [rows::INTENTS, rows::INTENTS_TOLD];
        let ops = prefixes.map(|prefix| Op::range(&RangeOptions::prefix(prefix).keys_only()));
        let replies = self.look(&place(user), ops.into()).await?;
        let mut found = Vec::new();
        for (prefix, reply) in prefixes.into_iter().zip(replies) {
            for kv in ranged(Some(reply)) {
                found.push(UserId(number_in_key(&kv, prefix)?));
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Tells a user of the newest message of a conversation.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn tell_head(&self, user: UserId, id: ConversationId, head: &Head) -> Result<Told, StoreError> {
        let change = (Kind::Conversations, id.to_bytes().into());
        self.tell(user, rows::head(id), (head.seq, head), change).await
    }

    /// The user has read so far, on whatever device: it only goes forward.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn mark_read(
        &self,
        user: UserId,
        id: ConversationId,
        mark: &ReadMark,
    ) -> Result<Told, StoreError> {
        let change = (Kind::Conversations, id.to_bytes().into());
        self.tell(user, rows::read_mark(id), (mark.seq, mark), change)
            .await
    }

    /// What a user was told of a conversation, and how far they have read.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn view(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<(Row<Head>, Row<ReadMark>), StoreError> {
        let ops = vec![Op::get(rows::head(id)), Op::get(rows::read_mark(id))];
        let mut replies = self.look(&place(user), ops).await?.into_iter();
        Ok((
            told(got(replies.next()).as_ref())?,
            told(got(replies.next()).as_ref())?,
        ))
    }
}
