//! The services of the chat backend: [`Logic`] does what clients ask for, [`delivery`] tells users what others did.
//!
//! What may be done, and what is stored then, is decided by `chat-core`; where rows stand is known to `chat-storage`. A service looks, lets the rules decide, stores,
//! and looks again if somebody was quicker. It keeps nothing that matters: processes can be added, killed and started as one likes.
//!
//! Time, random bytes and threads for hashing passwords come in by [`Seams`].

mod accounts;
mod caller;
mod contacts;
pub mod delivery;
mod failure;
mod groups;
pub mod limits;
mod logic;
mod messages;
mod passwords;
mod rate;
mod rooms;
#[cfg(feature = "grpc")]
pub mod rpc;
mod sync;

pub use caller::Caller;
pub use failure::Failure;
pub use logic::{Clock, FillRandom, Logic, Seams, Work};
