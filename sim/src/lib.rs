//! A simulated world for kvsvr clusters: real nodes and clients on a network, disks, engines and clocks that go wrong as told, in one
//! thread, with simulated time, and the same again for the same seed.
//!
//! From the inside out: chance ([`random`]); the parts ([`net`], [`disk`], [`engine`], [`clock`]), each of which stands for one seam of
//! the product; a machine made of them ([`node`]); a run to look at ([`demo`]). One simulation runs on a thread, and one in a
//! process if it is to be repeatable: the runtime keeps counts of its own for each process.

pub mod ballast;
pub mod cli;
pub mod clock;
pub mod damage;
pub mod demo;
pub mod disk;
pub mod engine;
pub mod failpoint;
pub mod faults;
pub mod hunt;
pub mod interrupt;
pub mod invariants;
pub mod members;
pub mod net;
pub mod node;
pub mod operate;
pub mod outcome;
pub mod plan;
pub mod random;
pub mod run;
pub mod shadow;
pub mod shrink;
pub mod sometimes;
pub mod sweep;
pub mod timeline;
pub mod trouble;

/// Version and commit of this program.
pub const VERSION: &str = env!("KVSVR_BUILD");

// A fifth of a simulation's time is spent on memory with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
