//! The processes of the chat backend, on a kvsvr cluster: [`cli`] runs all of it in one (`chat dev`), [`access`] a gateway, [`logic`] some of the services.

pub mod access;
mod bench;
pub mod cli;
mod crowd;
mod local;
pub mod logic;
mod process;
mod replay;
mod run;
mod secrets;
mod seed;
mod status;

pub use local::InProcess;
pub use logic::Services;
pub use run::{Chat, system_seams};
