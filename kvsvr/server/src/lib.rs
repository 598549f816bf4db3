//! A kvsvr node: the shards' replicas on one machine, and everything around them.
//!
//! From the inside out: durable storage ([`disk`], [`wal`], [`store`], the engine `rocks`, before it the write buffer, [`buffer`], and the row cache, [`cache`]); consensus
//! ([`raft`]); one replica of a shard ([`shard`], with its change log: [`hub`], [`history`], [`watch`]); the node ([`node`],
//! [`topology`], [`maintenance`]); what answers requests ([`service`], [`api`], [`exec`], [`peer`], [`admin`], [`convert`]); and the edges of
//! the process (`grpc`, `http`, `cli`, [`config`], [`metrics`]), which only exist with the feature `grpc`. `process` puts the production form
//! together. Nothing below the edges knows gRPC or RocksDB: the simulator runs the same node on other parts.

pub mod admin;
pub mod api;
#[cfg(test)]
mod apply_times;
pub mod budget;
pub mod buffer;
pub mod cache;
pub mod check;
pub mod config;
pub mod controller;
pub mod convert;
pub mod disk;
pub mod exec;
#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
pub mod history;
pub mod hub;
pub mod limits;
#[cfg(any(test, feature = "testing"))]
pub mod local;
pub mod maintenance;
pub mod metrics;
#[cfg(feature = "mutants")]
mod mutants;
pub mod node;
pub mod peer;
pub mod placement;
pub mod raft;
pub mod recover;
pub mod service;
pub mod shard;
pub mod store;
#[cfg(test)]
mod test_keys;
pub mod time;
pub mod topology;
pub mod wal;
pub mod watch;

#[cfg(feature = "grpc")]
pub mod cli;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "grpc")]
pub mod http;
#[cfg(feature = "grpc")]
pub mod listen;
#[cfg(feature = "grpc")]
pub mod logging;
#[cfg(all(feature = "grpc", feature = "rocks"))]
pub mod process;
#[cfg(feature = "rocks")]
pub mod rocks;
