//! What is asked for, and which service answers.

use std::{fmt, sync::Arc, time::Duration};

use chat_core::{UserId, secrets::Secrets};
use chat_proto::v1::{Reply, Request, reply::Reply as R, request::Request as Q};
use chat_storage::Store;

use crate::{
    caller::Caller,
    failure::Failure,
    limits::{ASK_BURST, ASK_EVERY, CACHED_BUCKETS, LOGIN_BURST, LOGIN_EVERY, SEND_BURST, SEND_EVERY},
    passwords::Passwords,
    rate::Buckets,
    rooms::Rooms,
};

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Fills bytes so that nobody can guess them.
pub type FillRandom = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Something that takes long, and must not hold up others.
pub type Work = Box<dyn FnOnce() + Send>;

/// What comes from outside of the rules.
#[derive(Clone)]
pub struct Seams {
    /// What time it is.
    pub now_ms: Clock,
    /// Random bytes that nobody can guess.
    pub fill_random: FillRandom,
    /// Does work on a thread of its own.
    pub run: Arc<dyn Fn(Work) + Send + Sync>,
    /// What a hash of a password costs.
    pub argon2: argon2::Params,
}

/// The services. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Logic {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) secrets: Secrets,
    pub(crate) seams: Seams,
    pub(crate) region: u16,
    pub(crate) passwords: Passwords,
    pub(crate) rooms: Rooms,
    pub(crate) logins: Buckets<String>,
    pub(crate) sends: Buckets<UserId>,
    pub(crate) asks: Buckets<UserId>,
}

impl fmt::Debug for Logic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logic(region {})", self.inner.region)
    }
}

impl Logic {
    /// Services on these rows, for users of this region.
    pub fn new(store: Store, secrets: Secrets, region: u16, seams: Seams) -> Self {
        let inner = Inner {
            rooms: Rooms::new(store.clone(), Arc::clone(&seams.now_ms)),
            passwords: Passwords::new(seams.clone()),
            logins: Buckets::new(LOGIN_BURST, LOGIN_EVERY, CACHED_BUCKETS),
            sends: Buckets::new(SEND_BURST, SEND_EVERY, CACHED_BUCKETS),
            asks: Buckets::new(ASK_BURST, ASK_EVERY, CACHED_BUCKETS),
            store,
            secrets,
            seams,
            region,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn now_ms(&self) -> u64 {
        (self.inner.seams.now_ms)()
    }

    /// Something that others feel: so often and not more.
    pub(crate) fn may_ask(&self, caller: Caller) -> Result<(), Failure> {
        let now = Duration::from_millis(self.now_ms());
        let taken = self.inner.asks.take(&caller.user, 1, now);
        taken.map_err(|wait| Failure::limited("requests", wait))
    }

    /// Does what a device asks for.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn call(&self, caller: Caller, request: Request) -> Result<Reply, Failure> {
        let Some(request) = request.request else {
            return Err(Failure::invalid(
                "the request is empty, or one that this server does not know",
            ));
        };
        // Boxed: one answer of many, each with a future of its own size.
        let reply = match request {
            Q::Sync(q) => Box::pin(self.sync(caller, q)).await.map(R::Delta),
            Q::Send(q) => self.send(caller, q).await.map(R::Sent),
            Q::Forward(q) => Box::pin(self.forward(caller, q)).await.map(R::Sent),
            Q::Recall(q) => Box::pin(self.recall(caller, q)).await.map(R::Done),
            Q::Edit(q) => Box::pin(self.edit(caller, q)).await.map(R::Done),
            Q::MarkRead(q) => Box::pin(self.mark_read(caller, q)).await.map(R::Done),
            Q::MarkGot(q) => Box::pin(self.mark_got(caller, q)).await.map(R::Done),
            Q::SetOptions(q) => Box::pin(self.set_options(caller, q)).await.map(R::Done),
            Q::Pull(q) => Box::pin(self.pull(caller, q)).await.map(R::Page),
            Q::SeekDate(q) => Box::pin(self.seek_date(caller, q)).await.map(R::Sought),
            Q::GetReceipts(q) => Box::pin(self.receipts(caller, q)).await.map(R::Receipts),
            Q::Keep(q) => Box::pin(self.keep(caller, q)).await.map(R::Done),
            Q::ListKept(q) => Box::pin(self.list_kept(caller, q)).await.map(R::Kept),
            Q::FindUser(q) => Box::pin(self.find_user(caller, q)).await.map(R::Users),
            Q::GetUsers(q) => Box::pin(self.get_users(q)).await.map(R::Users),
            Q::Want(q) => Box::pin(self.want(caller, q)).await.map(R::Done),
            Q::Decline(q) => Box::pin(self.decline(caller, q)).await.map(R::Done),
            Q::Block(q) => Box::pin(self.block(caller, q)).await.map(R::Done),
            Q::SetAlias(q) => Box::pin(self.set_alias(caller, q)).await.map(R::Done),
            Q::CreateGroup(q) => Box::pin(self.create_group(caller, q)).await.map(R::Group),
            Q::GetGroup(q) => Box::pin(self.get_group(caller, q)).await.map(R::Group),
            Q::ChangeGroup(q) => Box::pin(self.change_group(caller, q)).await.map(R::Group),
            Q::Invite(q) => Box::pin(self.invite(caller, q)).await.map(R::Invitation),
            Q::Join(q) => Box::pin(self.join(caller, q)).await.map(R::Group),
            Q::SetProfile(q) => Box::pin(self.set_profile(caller, q)).await.map(R::Done),
            Q::ChangePassword(q) => Box::pin(self.change_password(caller, q)).await.map(R::Tokens),
            Q::DeleteAccount(q) => Box::pin(self.delete_account(caller, q)).await.map(R::Done),
            Q::ListDevices(_) => Box::pin(self.list_devices(caller)).await.map(R::Devices),
            Q::RemoveDevice(q) => Box::pin(self.remove_device(caller, q)).await.map(R::Done),
        };
        Ok(Reply { reply: Some(reply?) })
    }
}
