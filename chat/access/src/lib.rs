//! The gateway of the chat backend: it lets clients in, takes their frames to the services behind it, and passes hints on to who is connected.
//!
//! It knows no rules and keeps nothing that matters: a client that finds another gateway goes on there, and a sync tells it everything. What it needs of the services is
//! [`Backend`]: the services themselves in the same process, or [`Remote`].

mod backend;
mod codec;
mod connection;
mod gateway;
mod hub;
pub mod limits;
mod link;
mod metrics;
mod outbox;
mod remote;
mod web;

pub use backend::{Answer, Backend, Identity};
pub use codec::{JSON, PROTOBUF};
pub use gateway::Gateway;
pub use hub::Hub;
pub use metrics::Metrics;
pub use remote::{BadAddress, Remote};
