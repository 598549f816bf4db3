//! What tests of this and other crates share (feature `testing`): the conformance suite of engines, a naive model of the state
//! machine, and generators of commands.
//!
//! Panics are its way to report. Not for production code.

mod conformance;
pub mod fuzz;
mod history;
mod model;
mod strategy;

pub use conformance::engine_conformance;
pub use history::{Log, check_reads};
pub use model::{Model, ModelRow};
pub use strategy::{any_command, any_log, any_partition, any_stored_key, tiny_key};

/// Cases of a property test: `default`, or what the environment variable PROPTEST_CASES says.
pub fn cases(default: u32) -> proptest::test_runner::Config {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    proptest::test_runner::Config::with_cases(cases.unwrap_or(default))
}
