//! Commands, outcomes and log entries as bytes.
//!
//! Commands and outcomes are the protobuf messages of `proto/kvsvr/v1/log.proto`; decoding a command also checks every limit, so that
//! what comes out of [`decode_command`] is valid, and shares the buffer. A log entry is a small frame of our own around encoded
//! commands ([`encode_batch`]), so that the bytes a client sent go into the log as they are.
//!
//! Unknown fields are ignored. A command whose operation is not known is rejected: a node must not propose operations that another
//! member of its shard does not know.

mod batch;
mod command;
mod encode;
mod outcome;

pub use batch::{EntryBatch, decode_batch, encode_batch};
pub(crate) use command::within;
pub use command::{check_key, check_partition, decode_command, from_pb_range, from_pb_txn};
pub use encode::encode_command;
pub(crate) use outcome::encode_outcome_to;
pub use outcome::{
    decode_outcome, encode_outcome, to_pb_key_value, to_pb_outcome, to_pb_range_result, to_pb_txn_result,
};

#[cfg(test)]
mod tests;
