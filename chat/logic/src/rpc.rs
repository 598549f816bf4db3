//! The services for gateways in other processes, over gRPC.

mod exchange;
mod metrics;
mod server;

pub use exchange::Exchange;
pub use metrics::Metrics;
pub use server::{MAX_MESSAGE, Rpc, Vouch};
