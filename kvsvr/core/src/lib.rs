//! The state machine of kvsvr.
//!
//! Committed log entries go in, outcomes, events and one engine batch come out ([`machine::Machine::apply`]). Everything here is a pure
//! function of the entries: there is no clock (time is the stamp of an entry), no random number, no hash order, no thread, no
//! async and no I/O other than reads through the [`engine::EngineRead`] trait. The crate knows neither Raft nor RocksDB nor the network.
//!
//! Where to begin: [`command`] has the vocabulary, [`keys`] and [`rows`] what is stored, [`machine`] what happens, [`read`] how it
//! is read, [`limits`] every bound.

pub mod codec;
pub mod command;
pub mod engine;
pub mod error;
pub mod event;
pub mod hash;
pub mod keys;
pub mod limits;
pub mod machine;
pub mod mem;
#[cfg(feature = "mutants")]
pub mod mutants;
mod overlay;
pub mod read;
pub mod restore;
pub mod rows;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod types;
mod wire;

/// Whether the planted bug of this name is chosen: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}
