//! The messages of the chat backend: what it stores, what its services say to each other, and what clients say to it. Generated from
//! `proto/chat/v1/*.proto`. And [`Service`]: which service answers what.

mod service;

pub use service::{Service, UnknownService, kind_of};

/// Package `chat.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    reason = "generated"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/chat.v1.rs"));
    #[cfg(feature = "json")]
    include!(concat!(env!("OUT_DIR"), "/chat.v1.serde.rs"));
}

/// Package `chat.internal.v1`: what processes of the backend say to each other.
pub mod internal {
    /// Its first version.
    #[allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        reason = "generated"
    )]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chat.internal.v1.rs"));
    }
}
