//! Accounts and devices.

use chat_core::{DeviceId, UserId, keys::user as rows, room::Row, snapshot::Kind};
use chat_proto::v1::{Account, Device};
use kvsvr_client::{Compare, Op, RangeOptions, Txn};
use prost::Message;

use crate::{
    changes::place,
    rows::{Store, StoreError, bad, got, ranged, row},
};

/// What an account's change says.
fn changed() -> Op {
    Op::append(rows::changes(Kind::Account), Vec::new())
}

impl Store {
    /// An account, if it is there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn account(&self, user: UserId) -> Result<Row<Account>, StoreError> {
        self.row(&place(user), rows::ACCOUNT).await
    }

    /// An account and one of its devices, at one instant.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn account_and_device(
        &self,
        user: UserId,
        device: DeviceId,
    ) -> Result<(Row<Account>, Row<Device>), StoreError> {
        let ops = vec![Op::get(rows::ACCOUNT), Op::get(rows::device(device))];
        let mut replies = self.look(&place(user), ops).await?.into_iter();
        Ok((
            row(got(replies.next()).as_ref())?,
            row(got(replies.next()).as_ref())?,
        ))
    }

    /// Stores an account that was unchanged since a revision (0 = is new). False: it was not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn put_account(
        &self,
        user: UserId,
        before: u64,
        account: &Account,
    ) -> Result<bool, StoreError> {
        let txn = Txn::new()
            .when(Compare::mod_rev(rows::ACCOUNT).equals(before))
            .then(Op::put(rows::ACCOUNT, account.encode_to_vec()))
            .then(changed());
        Ok(self.client.txn(&place(user), txn).await?.succeeded)
    }

    /// Stores an account and one of its devices, both unchanged since a revision, and logs others out. False: one of both was not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn put_account_and_device(
        &self,
        user: UserId,
        (account_before, account): (u64, &Account),
        (device, device_before, row): (DeviceId, u64, &Device),
        others: &[DeviceId],
    ) -> Result<bool, StoreError> {
        let key = rows::device(device);
        let txn = Txn::new()
            .when(Compare::mod_rev(rows::ACCOUNT).equals(account_before))
            .when(Compare::mod_rev(key.clone()).equals(device_before))
            .then(Op::put(rows::ACCOUNT, account.encode_to_vec()))
            .then(Op::put(key, row.encode_to_vec()))
            .then(changed());
        let delete = |txn: Txn, device: &DeviceId| txn.then(Op::delete(rows::device(*device)));
        let txn = others.iter().fold(txn, delete);
        Ok(self.client.txn(&place(user), txn).await?.succeeded)
    }

    /// The number of a new device. A try whose outcome is unknown may waste one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn new_device_id(&self, user: UserId) -> Result<DeviceId, StoreError> {
        let reply = self
            .client
            .increment(&place(user), rows::DEVICE_COUNTER, 1)
            .await?;
        let number = u32::try_from(reply.value);
        number
            .map(DeviceId)
            .map_err(|_| StoreError::Exhausted("device", u32::BITS))
    }

    /// Stores a device that was unchanged since a revision (0 = is new). False: it was not. `quiet`: nobody needs to hear of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn put_device(
        &self,
        user: UserId,
        device: DeviceId,
        before: u64,
        row: &Device,
        quiet: bool,
    ) -> Result<bool, StoreError> {
        let key = rows::device(device);
        let mut txn = Txn::new()
            .when(Compare::mod_rev(key.clone()).equals(before))
            .then(Op::put(key, row.encode_to_vec()));
        if !quiet {
            txn = txn.then(changed());
        }
        Ok(self.client.txn(&place(user), txn).await?.succeeded)
    }

    /// Logs devices out. Those that are not there are none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn remove_devices(&self, user: UserId, devices: &[DeviceId]) -> Result<(), StoreError> {
        let delete = |txn: Txn, device: &DeviceId| txn.then(Op::delete(rows::device(*device)));
        let txn = devices.iter().fold(Txn::new(), delete).then(changed());
        self.client.txn(&place(user), txn).await?;
        Ok(())
    }

    /// All devices, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn devices(&self, user: UserId) -> Result<Vec<(DeviceId, Row<Device>)>, StoreError> {
        let ops = vec![Op::range(&RangeOptions::prefix(rows::DEVICES))];
        let replies = self.look(&place(user), ops).await?;
        let decode = |kv: &kvsvr_client::KeyValue| {
            let number = kv.key.strip_prefix(rows::DEVICES).unwrap_or_default();
            let number = number
                .try_into()
                .map_err(|_| bad(&kv.key, &"no number of 4 bytes"))?;
            Ok((DeviceId(u32::from_be_bytes(number)), row(Some(kv))?))
        };
        ranged(replies.into_iter().next()).iter().map(decode).collect()
    }
}
