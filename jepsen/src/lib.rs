//! What proves that a kvsvr cluster keeps its promises: workloads that write down what they did and saw, and checkers of these
//! histories.
//!
//! Shared by the simulator (`sim/`), which runs the workloads on simulated nodes, and by the fault harness, which runs them on real
//! processes. Nothing in the library part calls the operating system, sees a clock or a random number that it was not given; `os` and
//! `runner`, which do, are behind the feature `runner`.

pub mod check;
#[cfg(feature = "log")]
pub mod committed_log;
pub mod history;
#[cfg(feature = "runner")]
pub mod os;
pub mod report;
#[cfg(feature = "runner")]
pub mod runner;
#[cfg(feature = "workload")]
pub mod workload;
