//! User names and the ids of users and groups: each given out once.

use chat_core::{GroupId, UserId, keys, limits::COUNTER_BITS};
use chat_proto::v1::Name;
use kvsvr_client::{Compare, Op, Partition, Txn};
use prost::Message;

use crate::rows::{Store, StoreError, got, row};

/// What came of a wish for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It is this user's now, or was before.
    Yours,
    /// It is another one's.
    Taken(UserId),
}

fn ids(region: u16) -> Partition {
    Partition::new(region, &b"i"[..])
}

fn place(region: u16, folded: &str) -> Partition {
    Partition::new(region, keys::name_partition(folded))
}

impl Store {
    /// The id of a new user of a region. A try whose outcome is unknown may waste one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn new_user_id(&self, region: u16) -> Result<UserId, StoreError> {
        let number = self.next(region, "u").await?;
        UserId::new(region, number).ok_or(StoreError::Exhausted("user", COUNTER_BITS))
    }

    /// The id of a new group of a region. A try whose outcome is unknown may waste one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn new_group_id(&self, region: u16) -> Result<GroupId, StoreError> {
        let number = self.next(region, "g").await?;
        GroupId::new(region, number).ok_or(StoreError::Exhausted("group", COUNTER_BITS))
    }

    async fn next(&self, region: u16, counter: &'static str) -> Result<u64, StoreError> {
        let reply = self.client.increment(&ids(region), counter, 1).await?;
        Ok(reply.value.unsigned_abs())
    }

    /// Reserves a folded name in the region that gives names out. To ask again is harmless.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn reserve_name(
        &self,
        region: u16,
        folded: &str,
        user: UserId,
        now_ms: u64,
    ) -> Result<Reserved, StoreError> {
        let name = Name {
            uid: user.0,
            reserved_ms: now_ms,
        };
        let txn = Txn::new()
            .when(Compare::absent("n"))
            .then(Op::put("n", name.encode_to_vec()))
            .or_else(Op::get("n"));
        let reply = self.client.txn(&place(region, folded), txn).await?;
        if reply.succeeded {
            return Ok(Reserved::Yours);
        }
        let owner = row::<Name>(got(reply.results.into_iter().next()).as_ref())?
            .row
            .uid;
        Ok(if owner == user.0 {
            Reserved::Yours
        } else {
            Reserved::Taken(UserId(owner))
        })
    }

    /// Gives a name back, if it is this user's.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn release_name(&self, region: u16, folded: &str, user: UserId) -> Result<(), StoreError> {
        let found = self.row::<Name>(&place(region, folded), "n").await?;
        if found.row.uid == user.0 {
            let txn = Txn::new()
                .when(Compare::mod_rev("n").equals(found.revision))
                .then(Op::delete("n"));
            self.client.txn(&place(region, folded), txn).await?;
        }
        Ok(())
    }

    /// Whose name it is.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn user_of_name(&self, region: u16, folded: &str) -> Result<Option<UserId>, StoreError> {
        let found = self.row::<Name>(&place(region, folded), "n").await?;
        Ok((found.revision != 0).then_some(UserId(found.row.uid)))
    }
}
