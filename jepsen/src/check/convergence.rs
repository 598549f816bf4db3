//! Replicas that have applied the same entries have the same state.
//!
//! Only looks at [`Context::replicas`]. A shard of which no two states are of one index is unknown: nothing could be compared. If it is known
//! where replicas are ([`Context::placement`]), so is one of which a replica has told nothing or is at another index than the others: it
//! may never catch up.

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
    if let Some(placement) = context.placement {
        look_for_all(placement, context.replicas, &mut findings);
    }
    findings.verdict()
}

/// Every replica of each shard is at one index.
fn look_for_all(placement: &[(u64, u32)], replicas: &[Replica], findings: &mut Findings) {
    if placement.is_empty() {
        findings.unknown("nobody knows where replicas are");
    }
    let mut shards: BTreeMap<u32, BTreeMap<u64, Option<u64>>> = BTreeMap::new();
    for (node, shard) in placement {
        let mut states = replicas.iter().rev();
        let state = states.find(|one| (one.node, one.shard) == (*node, *shard));
        let applied = state.map(|one| one.applied);
        shards.entry(*shard).or_default().insert(*node, applied);
    }
    for (shard, nodes) in shards {
        let indexes: BTreeSet<Option<u64>> = nodes.values().copied().collect();
        if indexes.len() > 1 || indexes.contains(&None) {
            let of = |(node, applied): (&u64, &Option<u64>)| match applied {
                Some(applied) => format!("node {node} has applied {applied}"),
                None => format!("node {node} has told nothing"),
            };
            let nodes: Vec<String> = nodes.iter().map(of).collect();
            findings.unknown(format!(
                "shard {shard}: not all replicas are at one index: {}",
                nodes.join(", ")
            ));
        }
    }
}
