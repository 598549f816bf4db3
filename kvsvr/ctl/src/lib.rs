//! kvctl: the operator's command line of kvsvr, and its benchmark.
//!
//! [`cli`] is the tree of commands; each group of commands is a module that is given a [`context::Context`] and writes results to its
//! [`output::Output`]. Requests go through `kvsvr-client` only. Nothing here retries on its own: the client library does, within the
//! deadline of `--timeout`, and says whether a failed write may have happened.

pub mod backup_file;
pub mod bench;
pub mod cli;
pub mod cluster;
pub mod configure;
pub mod consumer;
pub mod context;
pub mod data;
pub mod export;
pub mod failure;
pub mod health;
pub mod import;
pub mod leader;
pub mod lease;
pub mod limits;
pub mod member;
mod named;
pub mod operation;
pub mod output;
pub mod progress;
pub mod record;
pub mod shard;
pub mod snapshot;
pub mod survive;
pub mod text;
pub mod top;
pub mod txn;
pub mod txn_syntax;
pub mod verify;
pub mod watch;
