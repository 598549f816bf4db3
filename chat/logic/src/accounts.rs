//! Accounts: registering, logging in and out, devices, profiles.
//!
//! An account is stored before its name is reserved: who dies in between leaves an account that nobody can find, and not a name that nobody can use. A name that is taken by an account
//! with the password that is shown was registered by the same person, whose answer was lost: they are logged in.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use chat_core::{
    DeviceId, UserId,
    limits::{ACCESS_MS, MAX_ABOUT, MAX_DEVICES, MAX_LINE},
    room::Row,
    text,
    tickets::{Access, Refresh, Turn, turn},
};
use chat_proto::v1::{self, Account, Code, Device, DeviceInfo, Done, Profile};
use chat_storage::Reserved;

use crate::{
    caller::Caller,
    failure::Failure,
    limits::{SEEN_EVERY, TRIES},
    logic::Logic,
};

fn logged_out() -> Failure {
    Failure::new(Code::Unauthenticated, "this device is logged out: log in")
}

fn wrong_password() -> Failure {
    Failure::new(
        Code::WrongPassword,
        "there is no user with this name and password",
    )
}

fn profile(user: UserId, account: &Account) -> Profile {
    Profile {
        user: user.0,
        name: account.name.clone(),
        display_name: account.display_name.clone(),
        about: account.about.clone(),
        avatar: account.avatar.clone(),
        deleted: account.deleted,
    }
}

impl Logic {
    /// A new account, logged in on its first device.
    ///
    /// # Errors
    /// `NAME_TAKEN`; see [`Failure`].
    pub async fn register(&self, request: v1::Register) -> Result<v1::Tokens, Failure> {
        let v1::Register {
            name,
            display_name,
            password,
            device,
        } = request;
        let folded = text::fold_name(&name)?;
        let display_name = if display_name.is_empty() {
            name.clone()
        } else {
            text::line("a display name", &display_name, MAX_LINE)?
        };
        let device = text::line("a device's label", &device, MAX_LINE)?;
        let taken = self.store().user_of_name(self.inner.region, &folded).await?;
        if let Some(user) = taken {
            return self.registered_before(user, &folded, &password, &device).await;
        }
        let account = Account {
            name,
            display_name,
            password: self.inner.passwords.hash(&password).await?,
            created_ms: self.now_ms(),
            epoch: 1,
            ..Account::default()
        };
        let user = self.store().new_user_id(self.inner.region).await?;
        if !self.store().put_account(user, 0, &account).await? {
            return Err(Failure::contended());
        }
        let reserved = self
            .store()
            .reserve_name(self.inner.region, &folded, user, self.now_ms());
        match reserved.await? {
            Reserved::Yours => self.log_in(user, &account, &device).await,
            Reserved::Taken(other) => self.registered_before(other, &folded, &password, &device).await,
        }
    }

    async fn registered_before(
        &self,
        user: UserId,
        folded: &str,
        password: &str,
        device: &str,
    ) -> Result<v1::Tokens, Failure> {
        match self.verified(user, folded, password).await {
            Ok(account) => self.log_in(user, &account.row, device).await,
            Err(failure) if failure.code == Code::WrongPassword => Err(Failure::new(
                Code::NameTaken,
                format!("the user name {folded} is taken"),
            )),
            Err(failure) => Err(failure),
        }
    }

    /// Logs in on a new device.
    ///
    /// # Errors
    /// `WRONG_PASSWORD`, also if there is no such user; `RATE_LIMITED`; see [`Failure`].
    pub async fn login(&self, request: v1::Login) -> Result<v1::Tokens, Failure> {
        let folded = text::fold_name(&request.name)?;
        let device = text::line("a device's label", &request.device, MAX_LINE)?;
        let user = self.store().user_of_name(self.inner.region, &folded).await?;
        let user = user.ok_or_else(wrong_password)?;
        let account = self.verified(user, &folded, &request.password).await?;
        self.log_in(user, &account.row, &device).await
    }

    /// The account, if this is its password.
    async fn verified(&self, user: UserId, folded: &str, password: &str) -> Result<Row<Account>, Failure> {
        let now = Duration::from_millis(self.now_ms());
        self.inner
            .logins
            .take(&folded.to_owned(), 1, now)
            .map_err(|wait| Failure::limited("logins of this user", wait))?;
        let account = self.store().account(user).await?;
        let is_there = account.revision != 0 && !account.row.deleted;
        if is_there && self.inner.passwords.is(password, &account.row.password).await? {
            return Ok(account);
        }
        Err(wrong_password())
    }

    async fn log_in(&self, user: UserId, account: &Account, label: &str) -> Result<v1::Tokens, Failure> {
        let device = self.store().new_device_id(user).await?;
        let now_ms = self.now_ms();
        let row = Device {
            label: label.to_owned(),
            created_ms: now_ms,
            last_seen_ms: now_ms,
            generation: 1,
            epoch: account.epoch,
        };
        if !self.store().put_device(user, device, 0, &row, false).await? {
            return Err(Failure::contended());
        }
        let mut devices = self.store().devices(user).await?;
        if devices.len() > MAX_DEVICES {
            devices.sort_by_key(|(id, row)| (*id == device, row.row.last_seen_ms, *id));
            let old = devices[..devices.len() - MAX_DEVICES].iter().map(|(id, _)| *id);
            self.store()
                .remove_devices(user, &old.collect::<Vec<_>>())
                .await?;
        }
        Ok(self.tokens(user, device, &row))
    }

    fn tokens(&self, user: UserId, device: DeviceId, row: &Device) -> v1::Tokens {
        let access = Access {
            user,
            device,
            epoch: row.epoch,
            expires_ms: self.now_ms() + ACCESS_MS,
        };
        let refresh = Refresh {
            user,
            device,
            epoch: row.epoch,
            generation: row.generation,
        };
        v1::Tokens {
            user: user.0,
            device: device.0,
            access_token: BASE64.encode(access.seal(&self.inner.secrets)),
            access_expires_ms: access.expires_ms,
            refresh_token: BASE64.encode(refresh.seal(&self.inner.secrets)),
        }
    }

    /// New tokens for an old refresh token.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: log in again.
    pub async fn refresh(&self, request: v1::Refresh) -> Result<v1::Tokens, Failure> {
        let token = BASE64.decode(&request.refresh_token).ok();
        let token = token.and_then(|token| Refresh::open(&token, &self.inner.secrets));
        let Some(shown) = token else {
            return Err(logged_out());
        };
        for _ in 0..TRIES {
            let (account, device) = self.store().account_and_device(shown.user, shown.device).await?;
            let is_good = device.revision != 0
                && !account.row.deleted
                && device.row.epoch == shown.epoch
                && account.row.epoch == shown.epoch;
            if !is_good {
                return Err(logged_out());
            }
            match turn(shown.generation, device.row.generation) {
                Turn::Again => return Ok(self.tokens(shown.user, shown.device, &device.row)),
                Turn::Stolen => {
                    tracing::warn!(user = %shown.user, device = shown.device.0, "an old refresh token was shown: the device is logged out");
                    self.store().remove_devices(shown.user, &[shown.device]).await?;
                    return Err(logged_out());
                }
                Turn::Next => {}
            }
            let next = Device {
                generation: device.row.generation + 1,
                last_seen_ms: self.now_ms(),
                ..device.row
            };
            let put = self
                .store()
                .put_device(shown.user, shown.device, device.revision, &next, true);
            if put.await? {
                return Ok(self.tokens(shown.user, shown.device, &next));
            }
        }
        Err(Failure::contended())
    }

    /// The caller of an access token, whatever the store says of the device.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: refresh it.
    pub fn caller(&self, access_token: &str) -> Result<Caller, Failure> {
        let token = BASE64.decode(access_token).ok();
        let access = token.and_then(|token| Access::open(&token, &self.inner.secrets, self.now_ms()));
        access.map(Caller::from).ok_or_else(|| {
            Failure::new(
                Code::Unauthenticated,
                "this access token is not valid, or not any more: refresh it",
            )
        })
    }

    /// The device is logged in, and these are tokens of now: whoever connects with them is let in.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: it is logged out, or the tokens are of before a change of the password.
    pub async fn admit(&self, caller: Caller) -> Result<(), Failure> {
        let (_, device) = self.logged_in(caller).await?;
        if device.row.epoch != caller.epoch {
            return Err(logged_out());
        }
        let now_ms = self.now_ms();
        if Duration::from_millis(now_ms.saturating_sub(device.row.last_seen_ms)) > SEEN_EVERY {
            let seen = Device {
                last_seen_ms: now_ms,
                ..device.row
            };
            // Somebody else was quicker: it was seen by them.
            self.store()
                .put_device(caller.user, caller.device, device.revision, &seen, true)
                .await?;
        }
        Ok(())
    }

    /// The device is logged in still. Gateways ask whenever the account of somebody who is connected has changed.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`: it is logged out.
    pub async fn still_there(&self, caller: Caller) -> Result<(), Failure> {
        self.logged_in(caller).await.map(drop)
    }

    async fn logged_in(&self, caller: Caller) -> Result<(Row<Account>, Row<Device>), Failure> {
        let found = self
            .store()
            .account_and_device(caller.user, caller.device)
            .await?;
        let (account, device) = &found;
        let is_there = device.revision != 0 && !account.row.deleted && account.row.epoch == device.row.epoch;
        is_there.then_some(found).ok_or_else(logged_out)
    }

    /// Changes an account as long as it takes. `None` of a change: it is so already.
    async fn change_account(
        &self,
        user: UserId,
        change: impl Fn(&Account) -> Option<Account>,
    ) -> Result<Account, Failure> {
        for _ in 0..TRIES {
            let found = self.store().account(user).await?;
            if found.revision == 0 || found.row.deleted {
                return Err(logged_out());
            }
            let Some(changed) = change(&found.row) else {
                return Ok(found.row);
            };
            if self.store().put_account(user, found.revision, &changed).await? {
                return Ok(changed);
            }
        }
        Err(Failure::contended())
    }

    pub(crate) async fn set_profile(&self, caller: Caller, request: v1::SetProfile) -> Result<Done, Failure> {
        let v1::SetProfile {
            display_name,
            about,
            avatar,
        } = request;
        let display_name = display_name
            .map(|name| text::line("a display name", &name, MAX_LINE))
            .transpose()?;
        let about = match about {
            Some(about) if !about.trim().is_empty() => {
                Some(text::body("what you say of yourself", &about, MAX_ABOUT)?)
            }
            other => other.map(|_| String::new()),
        };
        if avatar
            .as_ref()
            .is_some_and(|hash| !hash.is_empty() && hash.len() != HASH_BYTES)
        {
            return Err(Failure::invalid(format!(
                "an avatar is the hash of a medium, {HASH_BYTES} bytes, or empty"
            )));
        }
        self.change_account(caller.user, |account| {
            let changed = Account {
                display_name: display_name
                    .clone()
                    .unwrap_or_else(|| account.display_name.clone()),
                about: about.clone().unwrap_or_else(|| account.about.clone()),
                avatar: avatar.clone().unwrap_or_else(|| account.avatar.clone()),
                ..account.clone()
            };
            (changed != *account).then_some(changed)
        })
        .await?;
        Ok(Done {})
    }

    /// All other devices are logged out, and this one gets new tokens.
    pub(crate) async fn change_password(
        &self,
        caller: Caller,
        request: v1::ChangePassword,
    ) -> Result<v1::Tokens, Failure> {
        let (account, device) = self.logged_in(caller).await?;
        let folded = text::fold_name(&account.row.name)?;
        let hash = self.inner.passwords.hash(&request.new).await?;
        let verified = self.verified(caller.user, &folded, &request.old).await?;
        let changed = Account {
            password: hash,
            epoch: verified.row.epoch + 1,
            ..verified.row
        };
        let row = Device {
            epoch: changed.epoch,
            generation: 1,
            ..device.row
        };
        let others = self.store().devices(caller.user).await?;
        let others = others.iter().map(|(id, _)| *id).filter(|id| *id != caller.device);
        let others: Vec<DeviceId> = others.collect();
        let stored = self.store().put_account_and_device(
            caller.user,
            (verified.revision, &changed),
            (caller.device, device.revision, &row),
            &others,
        );
        // Whoever changed it at the same time may have taken the old one away.
        if stored.await? {
            Ok(self.tokens(caller.user, caller.device, &row))
        } else {
            Err(Failure::contended())
        }
    }

    /// The account is deleted from now on; what else there is of it is taken away afterwards ([`delivery`](crate::delivery)).
    pub(crate) async fn delete_account(
        &self,
        caller: Caller,
        request: v1::DeleteAccount,
    ) -> Result<Done, Failure> {
        let account = self.store().account(caller.user).await?;
        if account.row.deleted {
            return Ok(Done {});
        }
        let folded = text::fold_name(&account.row.name)?;
        let verified = self.verified(caller.user, &folded, &request.password).await?;
        let deleted = Account {
            name: verified.row.name.clone(),
            created_ms: verified.row.created_ms,
            deleted: true,
            epoch: verified.row.epoch + 1,
            ..Account::default()
        };
        if self
            .store()
            .put_account(caller.user, verified.revision, &deleted)
            .await?
        {
            Ok(Done {})
        } else {
            Err(Failure::contended())
        }
    }

    pub(crate) async fn list_devices(&self, caller: Caller) -> Result<v1::Devices, Failure> {
        let devices = self.device_infos(caller).await?;
        Ok(v1::Devices { devices })
    }

    pub(crate) async fn device_infos(&self, caller: Caller) -> Result<Vec<DeviceInfo>, Failure> {
        let devices = self.store().devices(caller.user).await?;
        let info = |(id, row): (DeviceId, Row<Device>)| DeviceInfo {
            device: id.0,
            label: row.row.label,
            created_ms: row.row.created_ms,
            last_seen_ms: row.row.last_seen_ms,
            this: id == caller.device,
        };
        Ok(devices.into_iter().map(info).collect())
    }

    pub(crate) async fn remove_device(
        &self,
        caller: Caller,
        request: v1::RemoveDevice,
    ) -> Result<Done, Failure> {
        self.store()
            .remove_devices(caller.user, &[DeviceId(request.device)])
            .await?;
        Ok(Done {})
    }

    /// What everybody may know of users. Those that are not there are left out.
    pub(crate) async fn profiles(&self, users: &[UserId]) -> Result<Vec<Profile>, Failure> {
        let accounts = users.iter().map(|user| self.store().account(*user));
        let accounts = futures::future::try_join_all(accounts).await?;
        let found = users
            .iter()
            .zip(&accounts)
            .filter(|(_, account)| account.revision != 0);
        Ok(found
            .map(|(user, account)| profile(*user, &account.row))
            .collect())
    }
}

/// Of a medium.
pub(crate) const HASH_BYTES: usize = 32;
