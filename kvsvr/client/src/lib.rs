//! Client library of kvsvr.

pub mod transport;
