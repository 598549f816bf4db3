//! The kvsvr node.

pub mod disk;
pub mod service;
