//! The state machine of kvsvr.
//!
//! Committed log entries go in, outcomes, events and one engine batch come out ([`Machine::apply`]). Everything here is a pure
//! function of the entries: there is no clock (time is the stamp of an entry), no random number, no hash order, no thread, no
//! async and no I/O other than reads through the [`Engine`] trait. The crate knows neither Raft nor RocksDB nor the network.

pub mod engine;
pub mod event;
pub mod limits;
pub mod types;
