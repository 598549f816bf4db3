//! The glue between openraft and the rest: types, runtime, log store, state machine, network, snapshots.

pub mod apply;
pub mod convert;
pub mod log;
pub mod network;
pub mod promises;
pub mod runtime;
pub mod snapshot;
pub mod types;

#[cfg(test)]
mod tests;
