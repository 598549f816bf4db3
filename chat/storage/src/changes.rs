//! What a user is told, and the list of what has changed for them.
//!
//! Each kind has a list of its own, numbered without gaps: a device that knows the first n has missed the rest. Only the newest are kept
//! ([`KEPT_CHANGES`]); who has missed more gets everything anew.

use std::collections::BTreeSet;

use bytes::Bytes;
use chat_core::{
    UserId,
    keys::{self, user as rows},
    limits::KEPT_CHANGES,
    register,
    snapshot::Kind,
};
use kvsvr_client::{Compare, Op, OpReply, Partition, RangeOptions, Txn};
use prost::Message;

use crate::rows::{Store, StoreError, got, ranged};

/// Changes between two looks at whether old ones can go.
const TRIM_EVERY: u64 = 256;
/// Looks before telling gives up: each time somebody else was quicker.
const TELL_TRIES: usize = 8;

/// What came of telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was news.
    New,
    /// The user knew it, or something newer.
    Known,
}

/// What a device has missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What changed, each once.
    pub what: BTreeSet<Bytes>,
    /// The last change that is among them.
    pub upto: u64,
    /// There are more.
    pub more: bool,
    /// Some are not kept any more: everything of this kind is to be given anew. Then `upto` is the newest.
    pub reset: bool,
}

/// Where a user's rows are.
pub(crate) fn place(user: UserId) -> Partition {
    Partition::new(user.region(), keys::user_partition(user))
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_be_bytes)
}

impl Store {
    /// Puts a register where an older one stands, or none, and says that it changed. To tell it again is harmless.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn tell(
        &self,
        user: UserId,
        key: Bytes,
        (version, message): (u64, &impl Message),
        (kind, what): (Kind, Bytes),
    ) -> Result<Told, StoreError> {
        let row = register::encode(version, message);
        let place = place(user);
        let mut is_there = true;
        for _ in 0..TELL_TRIES {
            let older = if is_there {
                Compare::value(key.clone()).less(register::floor(version))
            } else {
                Compare::absent(key.clone())
            };
            let txn = Txn::new()
                .when(older)
                .then(Op::put(key.clone(), row.clone()))
                .then(Op::append(rows::changes(kind), what.clone()))
                .or_else(Op::get(key.clone()));
            let reply = self.client.txn(&place, txn).await?;
            if reply.succeeded {
                if let Some(OpReply::Append { seq }) = reply.results.get(1) {
                    self.trim(&place, kind, *seq).await?;
                }
                return Ok(Told::New);
            }
            let found = got(reply.results.into_iter().next());
            if found
                .as_ref()
                .is_some_and(|kv| kv.value >= register::floor(version))
            {
                return Ok(Told::Known);
            }
            is_there = found.is_some();
        }
        Err(StoreError::Contended)
    }

    /// Says that something changed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn note_change(&self, user: UserId, kind: Kind, what: Bytes) -> Result<(), StoreError> {
        let reply = self
            .client
            .append(&place(user), rows::changes(kind), what)
            .await?;
        self.trim(&place(user), kind, reply.seq).await
    }

    async fn trim(&self, place: &Partition, kind: Kind, newest: u64) -> Result<(), StoreError> {
        if newest.is_multiple_of(TRIM_EVERY) && newest > KEPT_CHANGES {
            let end = rows::change(kind, newest - KEPT_CHANGES + 1);
            self.client
                .delete_range(place, rows::change(kind, 0), end)
                .await?;
        }
        Ok(())
    }

    /// What changed after the first `seen` changes, at most `limit` of them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn changes(
        &self,
        user: UserId,
        kind: Kind,
        seen: u64,
        limit: u32,
    ) -> Result<Changes, StoreError> {
        let end = kvsvr_client::prefix_end(&rows::changes(kind));
        let range = RangeOptions::between(rows::change(kind, seen.saturating_add(1)), end).limit(limit);
        let ops = vec![Op::get(rows::changes(kind)), Op::range(&range)];
        let mut replies = self.look(&place(user), ops).await?.into_iter();
        let newest = got(replies.next()).map_or(0, |kv| number(&kv.value));
        let found = ranged(replies.next());
        let prefix = rows::changes(kind).len();
        let at = |kv: &kvsvr_client::KeyValue| number(kv.key.get(prefix..).unwrap_or_default());
        let first = found.first().map_or(newest + 1, at);
        // A snapshot of the future is of another life of this user's rows: a restored backup.
        if seen > newest || first != seen + 1 {
            return Ok(Changes {
                upto: newest,
                reset: true,
                ..Changes::default()
            });
        }
        let upto = found.last().map_or(seen, at);
        Ok(Changes {
            what: found.into_iter().map(|kv| kv.value).collect(),
            upto,
            more: upto < newest,
            reset: false,
        })
    }
}
