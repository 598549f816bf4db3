//! Users: what they want of others, and what they are told.

use chat_core::{
    ConversationId, UserId,
    keys::{conversation, user as rows},
    register,
    room::Row,
    snapshot::Kind,
};
use chat_proto::v1::{ContactOptions, Head, Intent, ReadMark};
use kvsvr_client::{Compare, Op, RangeOptions, Txn};
use prost::Message;

use crate::{
    changes::{Told, place},
    conversations,
    rows::{Store, StoreError, got, number_in_key, ranged, row, told},
};

/// Others whose rows are read at a time.
const CONTACTS_AT_A_TIME: usize = 200;

/// What there is between a user and another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContactRows {
    /// What the user wants.
    pub mine: Intent,
    /// What the other one wants, as far as the user was told.
    pub theirs: Intent,
    /// What only the user sees.
    pub options: ContactOptions,
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

    /// What there is between a user and others, at one instant.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn contact_rows(
        &self,
        user: UserId,
        others: &[UserId],
    ) -> Result<Vec<ContactRows>, StoreError> {
        let of = |other: &UserId| {
            [
                Op::get(rows::intent(*other)),
                Op::get(rows::intent_told(*other)),
                Op::get(rows::contact_options(*other)),
            ]
        };
        let mut found = Vec::with_capacity(others.len());
        for others in others.chunks(CONTACTS_AT_A_TIME) {
            let ops = others.iter().flat_map(of).collect();
            let mut replies = self.look(&place(user), ops).await?.into_iter();
            let mut next = || got(replies.next());
            for _ in others {
                found.push(ContactRows {
                    mine: told(next().as_ref())?.row,
                    theirs: told(next().as_ref())?.row,
                    options: row(next().as_ref())?.row,
                });
            }
        }
        Ok(found)
    }

    /// Stores what only the user sees of another one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_contact_options(
        &self,
        user: UserId,
        other: UserId,
        options: &ContactOptions,
    ) -> Result<(), StoreError> {
        let txn = Txn::new()
            .then(Op::put(rows::contact_options(other), options.encode_to_vec()))
            .then(Op::append(
                rows::changes(Kind::Contacts),
                other.0.to_be_bytes().to_vec(),
            ));
        self.client.txn(&place(user), txn).await?;
        Ok(())
    }

    /// Tells a user of the newest message of a conversation.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn tell_head(&self, user: UserId, id: ConversationId, head: &Head) -> Result<Told, StoreError> {
        let change = (Kind::Conversations, id.to_bytes().into());
        self.tell(user, rows::head(id), (head.seq, head), change).await
    }

    /// Tells a user of the newest message of a conversation, in which they have written themselves, and so read.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn tell_own_head(
        &self,
        user: UserId,
        id: ConversationId,
        head: &Head,
        mark: &ReadMark,
    ) -> Result<(), StoreError> {
        let (head_key, mark_key) = (rows::head(id), rows::read_mark(id));
        let txn = Txn::new()
            .when(Compare::value(head_key.clone()).less(register::floor(head.seq)))
            .when(Compare::value(mark_key.clone()).less(register::floor(mark.seq)))
            .then(Op::put(head_key, register::encode(head.seq, head)))
            .then(Op::put(mark_key, register::encode(mark.seq, mark)))
            .then(Op::append(rows::changes(Kind::Conversations), id.to_bytes()));
        if !self.client.txn(&place(user), txn).await?.succeeded {
            // The first message of the conversation, or one of both is known already.
            self.mark_read(user, id, mark).await?;
            self.tell_head(user, id, head).await?;
        }
        Ok(())
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
}
