//! The messages of kvsvr's API, log and peer protocol, generated from `proto/kvsvr/v1/*.proto`, and the functions that
//! both sides of the API need: [`slot()`], [`count()`].
//!
//! With the feature `grpc` the typed tonic clients and servers are generated too.

mod operation;
mod slot;
mod words;

pub use slot::{MAX_PARTITION_NAME, SLOTS, slot};
pub use words::count;

/// Package `kvsvr.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    reason = "generated"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/kvsvr.v1.rs"));
}

/// The encoded `FileDescriptorSet` of all files, for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
