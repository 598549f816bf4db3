//! Writes of large values beside the workloads, whose own values are a few bytes: they make blocks of the log that a power loss can tear,
//! and logs that are purged.
//!
//! They go to partitions that no workload has, and nobody checks what became of them but the invariants and the comparison of replicas.

use std::time::Duration;

use kvsvr_client::Client;
use kvsvr_jepsen::workload::{Stop, names};
use serde::{Deserialize, Serialize};

use crate::random::Stream;

/// Partitions that are written to; their numbers follow those of all workloads.
const PARTITIONS: u64 = 16;
const FIRST_PARTITION: u32 = 2_000_000;
/// Keys of each.
const KEYS: u64 = 8;

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ballast {
    /// Most bytes of a value.
    pub bytes: u64,
    /// Mean microseconds between two writes.
    pub pause_us: u64,
}

/// Writes until it is stopped.
pub async fn write(client: Client, ballast: Ballast, mut chance: Stream, stop: Stop) {
    while stop
        .pause(chance.exponential(Duration::from_micros(ballast.pause_us)))
        .await
    {
        let partition = names::partition(FIRST_PARTITION + chance.below(PARTITIONS) as u32);
        let key = format!("ballast {}", chance.below(KEYS));
        let value = vec![chance.below(256) as u8; chance.below(ballast.bytes + 1) as usize];
        // What came of it does not matter.
        let _ = stop.or(client.put(&partition, key, value)).await;
    }
}
