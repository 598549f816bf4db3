//! The chat backend in one process: the gateway in front of the services, on a kvsvr cluster.

pub mod cli;
mod local;
mod replay;
mod run;
mod secrets;

pub use local::InProcess;
pub use run::{Chat, system_seams};
