//! Client library of kvsvr.
//!
//! A [`Client`] finds the node that serves a partition, shares one stream to it with all other callers, retries what is safe to
//! retry, and says of every failed call whether it may have taken effect. [`Watch`] and [`Consumer`] follow changes without gap or
//! duplicate, [`NearCache`] answers reads from memory and says how old they may be.
//!
//! ```no_run
//! use kvsvr_client::{Client, ClientConfig, Partition};
//! # async fn example() -> kvsvr_client::Result<()> {
//! let client = Client::connect(ClientConfig::new(["127.0.0.1:7101"])).await?;
//! let alice = Partition::local("alice");
//! client.put(&alice, "city", "Lisbon").await?;
//! let city = client.get(&alice, "city").await?;
//! assert_eq!(city.value.unwrap().value, "Lisbon");
//! # Ok(())
//! # }
//! ```
//!
//! The library relies on a tokio runtime and on [`Transport`](transport::Transport), through which all of its traffic goes; the
//! server uses [`mux`] and [`grpc`] for its own traffic between nodes. It keeps nothing on disk.

/// Whether the planted bug of this name is chosen: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}
#[cfg(feature = "mutants")]
pub(crate) use kvsvr_core::mutant;
#[cfg(not(feature = "mutants"))]
pub(crate) use mutant;

mod admin;
mod client;
mod consumer;
mod core;
mod error;
#[cfg(test)]
mod fake;
mod follow;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod limits;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod mux;
mod near_cache;
mod reads;
mod retry;
mod router;
mod session;
#[cfg(test)]
mod tests;
pub mod time;
pub mod transport;
mod txn;
mod types;
mod watch;
mod writes;

pub use admin::{Backup, Compacted};
pub use client::{Client, ClientConfig};
pub use consumer::{Consumer, ConsumerBatch, ConsumerStart};
pub use error::{Certainty, Code, Error, Result};
pub use kvsvr_proto::v1 as proto;
pub use near_cache::{CacheStats, CachedGet, CachedRead, NearCache, NearCacheOptions};
pub use reads::Pages;
pub use txn::{Compare, CompareNumber, CompareValue, Op, OpReply, Txn, TxnReply};
pub use types::{
    AppendReply, CallOptions, DeleteReply, GetOptions, IncrementReply, KeyValue, LeaseReply, Page, Partition,
    PutOptions, PutReply, RangeOptions, Read, ReadFrom, ReadMode, prefix_end,
};
pub use watch::{Event, EventKind, Watch, WatchBatch, WatchItem, WatchOptions, WatchStart};
