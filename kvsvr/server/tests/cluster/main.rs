//! End-to-end tests: clusters of real processes, driven through the client library, under kill -9, pauses, damage and bad input.
//!
//! [`harness`] runs the processes, [`load`] keeps clients busy and says afterwards whether a promise was broken; the other modules are
//! the scenarios, [`runbook`] those of `docs/operations.md`. Sizes are for CI; with `KVSVR_PROVE=1` they are those of a proof, times are
//! asserted and figures matter (`scripts/prove.sh`). Each scenario prints its figures in a line `prove: NAME: ...`. Conditions are waited
//! for with a deadline, nothing sleeps to let something happen.
#![cfg(all(feature = "grpc", feature = "rocks"))]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is a test: a failed step fails it, figures go to its output"
)]

mod harness;
mod load;

mod backups;
mod cache;
mod corruption;
mod failover;
mod hostile;
mod identity;
mod interrupted;
mod members;
mod once;
mod oversight;
mod quorum;
mod recover;
mod repair;
mod restart;
mod runbook;
mod snapshots;
mod stopping;
mod watching;
