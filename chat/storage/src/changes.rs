//! What a user is told, and the list of what has changed for them.
//!
//! Each kind has a list of its own, numbered without gaps: a device that knows the first n has missed the rest. Only the newest are kept
//! ([`KEPT_CHANGES`]); who has missed more gets everything anew.

use std::collections::BTreeSet;

use bytes::Bytes;
use chat_core::register::BadRow;
use chat_core::{
    UserId,
    keys::{self, user as rows},
    limits::KEPT_CHANGES,
    snapshot::Kind,
};
use kvsvr_client::{KeyValue, Op, OpReply, Partition, RangeOptions};
use prost::Message;

use crate::rows::{Store, StoreError, got, number, number_in_key, ranged};

/// Changes between two looks at whether old ones can go.
const TRIM_EVERY: u64 = 256;

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

impl Store {
    /// Puts a register where an older one stands, or none, and says that it changed. To tell it again is harmless.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn tell(
        &self,
        user: UserId,
        key: Bytes,
        row: (u64, &impl Message),
        (kind, what): (Kind, Bytes),
    ) -> Result<Told, StoreError> {
        let place = place(user);
        let change = Op::append(rows::changes(kind), what);
        let Some(reply) = self.put_newer(&place, key, row, Some(change)).await? else {
            return Ok(Told::Known);
        };
        if let Some(OpReply::Append { seq }) = reply.results.last() {
            self.trim(&place, kind, *seq).await?;
        }
        Ok(Told::New)
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

    /// How many changes of each kind there were, in the order of [`Kind::ALL`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn newest_changes(&self, user: UserId) -> Result<Vec<u64>, StoreError> {
        let ops = Kind::ALL.map(|kind| Op::get(rows::changes(kind)));
        let replies = self.look(&place(user), ops.into()).await?;
        let newest = replies.into_iter().map(|reply| newest(Some(reply)));
        Ok(newest.collect::<Result<_, _>>()?)
    }

    /// What changed of some kinds at one instant: after the first so many changes, and so many different things at most. At most `limit` changes of each are looked at.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn changes(
        &self,
        user: UserId,
        wanted: &[(Kind, u64, u32)],
        limit: u32,
    ) -> Result<Vec<Changes>, StoreError> {
        let ops = wanted.iter().flat_map(|(kind, seen, _)| {
            let end = kvsvr_client::prefix_end(&rows::changes(*kind));
            let range = RangeOptions::between(rows::change(*kind, seen.saturating_add(1)), end).limit(limit);
            [Op::get(rows::changes(*kind)), Op::range(&range)]
        });
        let mut replies = self.look(&place(user), ops.collect()).await?.into_iter();
        let mut all = Vec::with_capacity(wanted.len());
        for (kind, seen, distinct) in wanted {
            let newest = newest(replies.next())?;
            all.push(changes(*kind, *seen, *distinct, newest, ranged(replies.next()))?);
        }
        Ok(all)
    }
}

fn newest(counter: Option<OpReply>) -> Result<u64, BadRow> {
    got(counter).map_or(Ok(0), |kv| number(&kv.key, &kv.value))
}

/// Of the changes that were found after the first `seen` of `newest`.
fn changes(
    kind: Kind,
    seen: u64,
    distinct: u32,
    newest: u64,
    found: Vec<KeyValue>,
) -> Result<Changes, BadRow> {
    let at = |kv: &KeyValue| number_in_key(kv, &rows::changes(kind));
    let first = found.first().map_or(Ok(newest + 1), at)?;
    // A snapshot of the future is of another life of this user's rows: a restored backup.
    if seen > newest || first != seen + 1 {
        return Ok(Changes {
            upto: newest,
            reset: true,
            ..Changes::default()
        });
    }
    let mut changes = Changes {
        upto: seen,
        ..Changes::default()
    };
    for kv in found {
        if changes.what.len() == distinct as usize && !changes.what.contains(&kv.value) {
            break;
        }
        changes.upto = at(&kv)?;
        changes.what.insert(kv.value);
    }
    changes.more = changes.upto < newest;
    Ok(changes)
}
