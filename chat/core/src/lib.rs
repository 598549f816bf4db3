//! The rules of the chat backend, pure and synchronous: who and what ids name ([`ids`]), where rows stand ([`keys`]), how rows that are told
//! to others never go back ([`register`]), what two people are to each other ([`contact`]), what is unread ([`unread`]), what a device has seen
//! ([`snapshot`]), which tokens are ours and what they are good for ([`secrets`], [`tickets`]), what may be done in a conversation and what is stored for it ([`room`], [`group`], as [`plan`]s), and what text may be ([`text`]).
//!
//! No clock, no chance, no store and no socket: time and random bytes come in as arguments.

pub mod contact;
pub mod group;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod plan;
pub mod register;
pub mod room;
pub mod secrets;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod text;
pub mod tickets;
pub mod unread;

pub use ids::{ConversationId, DeviceId, GroupId, UserId};
