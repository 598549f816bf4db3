//! What a gateway needs of the services behind it. In one process that is the services themselves, otherwise calls to other processes.

use chat_proto::{
    Service,
    v1::{Error, Login, Refresh, Register, Reply, Request, Tokens},
};
use futures::future::BoxFuture;

/// A user's device, as its access token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's id.
    pub user: u64,
    /// The device's number.
    pub device: u32,
    /// The account's epoch.
    pub epoch: u64,
}

/// What came of a call.
pub type Answer<T> = BoxFuture<'static, Result<T, Error>>;

/// The services.
pub trait Backend: Send + Sync + 'static {
    /// Services that are not there now: what they answer cannot be asked for.
    fn missing(&self) -> Vec<Service> {
        Vec::new()
    }
    /// Processes of services that there is a link to.
    fn links(&self) -> usize {
        0
    }
    /// A new account.
    fn register(&self, request: Register) -> Answer<Tokens>;
    /// A new device.
    fn login(&self, request: Login) -> Answer<Tokens>;
    /// New tokens.
    fn refresh(&self, request: Refresh) -> Answer<Tokens>;
    /// Whose access token it is, and that the device is logged in.
    fn identify(&self, access_token: &str) -> Answer<Identity>;
    /// The device is logged in still.
    fn still_there(&self, who: Identity) -> Answer<()>;
    /// Does what a device asks for.
    fn call(&self, who: Identity, request: Request) -> Answer<Reply>;
    /// A user is writing: the others of the conversation are told, if it is theirs.
    fn typing(&self, who: Identity, conversation: String) -> Answer<()>;
    /// Those of these users whose presence a user may see.
    fn visible(&self, who: Identity, users: Vec<u64>) -> Answer<Vec<u64>>;
}
