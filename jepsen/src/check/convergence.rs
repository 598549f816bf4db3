//! Replicas that have applied the same entries have the same state.
//!
//! Only looks at [`Context::replicas`]. A shard of which no two states are of one index is unknown: nothing could be compared.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Context, History,
    verdict::{Findings, Verdict, Witness},
};

/// The state of a shard on a node at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The node.
    pub node: u64,
    /// The shard.
    pub shard: u32,
    /// Index of the last entry that it has applied.
    pub applied: u64,
    /// Hash of its state.
    pub hash: u64,
}

/// Compares the states of each shard.
pub fn check(_: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let mut first: BTreeMap<(u32, u64), &Replica> = BTreeMap::new();
    let mut compared = BTreeSet::new();
    for replica in context.replicas {
        let other = *first.entry((replica.shard, replica.applied)).or_insert(replica);
        if other.hash != replica.hash {
            let text = format!(
                "shard {} after entry {}: node {} has the hash {:016x}, node {} has {:016x}",
                replica.shard, replica.applied, other.node, other.hash, replica.node, replica.hash
            );
            findings.push(Witness::new("convergence", text));
        }
        if other.node != replica.node {
            findings.count("compared", 1);
            compared.insert(replica.shard);
        }
    }
    for replica in context.replicas {
        if !compared.contains(&replica.shard) {
            findings.unknown(format!(
                "shard {}: no two replicas are at one index",
                replica.shard
            ));
        }
    }
    findings.verdict()
}
