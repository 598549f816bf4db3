//! The client against the fake cluster.

mod cache;
mod calls;
mod chaos;
mod following;
