//! The messages of the chat backend: what it stores, what its services say to each other, and what clients say to it. Generated from
//! `proto/chat/v1/*.proto`.

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
