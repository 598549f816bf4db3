//! A client of the chat backend (docs/protocol.md): it connects again when its connection breaks, syncs, pulls what is missing, and keeps what is to be sent until it is.
//!
//! [`Model`] is what a device knows; [`Connection`] is one WebSocket; [`Client`] is both together, and goes on until it is dropped.

mod accounts;
mod client;
mod connection;
mod model;

pub use accounts::{login, refresh, register};
pub use client::{Client, Happened, Options};
pub use connection::{Connection, Hint, Lost};
pub use model::{History, Model, News};
