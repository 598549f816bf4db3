//! The states of all replicas when all is over.

use std::{collections::BTreeMap, time::Duration};

use kvsvr_core::{
    hash::state_hash,
    types::{META_SHARD, ShardId},
};
use kvsvr_jepsen::check;
use tokio::time::{Instant, sleep};

use crate::node::SimNode;

/// The shards of a node, and the index of the last entry that each has applied.
type Applied = BTreeMap<u32, Option<u64>>;

/// The states of all replicas, those of the meta shard too, once every node has every shard and all have applied the same. What is in the way
/// of that then, if they are not there in time.
pub(super) async fn once_alike(
    nodes: &[SimNode],
    shards: u32,
    until: Instant,
) -> Result<Vec<check::Replica>, String> {
    loop {
        let running = nodes.iter().filter_map(SimNode::node);
        let applied: Vec<Applied> = running
            .map(|node| {
                let shards = node.shards().into_iter();
                shards
                    .map(|shard| (shard.id().0, shard.head().applied_next().checked_sub(1)))
                    .collect()
            })
            .collect();
        if are_alike(&applied, nodes.len(), shards) {
            return states(nodes);
        }
        if Instant::now() >= until {
            return Err(format!(
                "replicas differ: {} of {} nodes run and have applied, by shards, {applied:?}",
                applied.len(),
                nodes.len()
            ));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The states of all replicas that the newest shard map has, once each of its nodes runs, has those replicas and no others, and all of a
/// shard have applied the same. What is in the way of that then, if they are not there in time.
pub(super) async fn once_placed(
    nodes: &[SimNode],
    replication: usize,
    until: Instant,
) -> Result<Vec<check::Replica>, String> {
    loop {
        match placed(nodes, replication) {
            Ok(()) => return states(nodes),
            Err(why) if Instant::now() >= until => return Err(why),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

fn placed(nodes: &[SimNode], replication: usize) -> Result<(), String> {
    let running = nodes.iter().filter_map(SimNode::node);
    let running = running.filter_map(|node| Some((node.identity()?.node_id, node)));
    let running: BTreeMap<u64, _> = running.collect();
    let maps = running.values().filter_map(|node| node.map_with_leaders());
    let map = maps.max_by_key(|map| map.epoch).ok_or("nobody has a shard map")?;
    for info in &map.shards {
        let is_data = info.id != META_SHARD.0;
        let is_settled = info.change.is_none() && (!is_data || info.learners.is_empty());
        if !is_settled || is_data && info.replicas.len() != replication {
            return Err(format!("shard {} is not as it should be: {info:?}", info.id));
        }
        let hosts: Vec<u64> = info.replicas.iter().chain(&info.learners).copied().collect();
        let applied_by = |node: &u64| {
            let shard = running.get(node)?.shard(ShardId(info.id))?;
            Some(shard.head().applied_next())
        };
        let applied: Vec<Option<u64>> = hosts.iter().map(applied_by).collect();
        if applied.contains(&None) || applied.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!(
                "replicas of shard {} on nodes {hosts:?} have applied {applied:?}",
                info.id
            ));
        }
        let is_member = |node: &&u64| map.nodes.iter().any(|info| info.id == **node);
        let mut others = running
            .keys()
            .filter(is_member)
            .filter(|node| !hosts.contains(node));
        if let Some(other) = others.find(|node| applied_by(node).is_some()) {
            return Err(format!(
                "node {other} has a replica of shard {} that the map does not have",
                info.id
            ));
        }
    }
    Ok(())
}

/// All of so many nodes run, have so many shards and the meta shard, and have applied the same.
fn are_alike(running: &[Applied], nodes: usize, shards: u32) -> bool {
    let has_all = |applied: &Applied| applied.len() == shards as usize + 1;
    running.len() == nodes && running.iter().all(|node| has_all(node) && *node == running[0])
}

fn states(nodes: &[SimNode]) -> Result<Vec<check::Replica>, String> {
    let mut replicas = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let Some(node) = node.node() else { continue };
        for shard in node.shards() {
            let (applied, hash) = shard
                .machine()
                .with_machine(|_, engine| state_hash(engine, shard.id()))
                .map_err(|error| format!("node {}: {error}", number + 1))?;
            replicas.push(check::Replica {
                node: number as u64 + 1,
                shard: shard.id().0,
                applied: applied.map_or(0, |position| position.index),
                hash,
            });
        }
    }
    Ok(replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_must_have_every_shard() {
        let node = |indexes: &[(u32, u64)]| -> Applied {
            let indexes = indexes.iter();
            indexes.map(|(shard, index)| (*shard, Some(*index))).collect()
        };
        let whole = node(&[(0, 5), (1, 7)]);
        let alike = |third: Applied| are_alike(&[whole.clone(), whole.clone(), third], 3, 1);
        assert!(alike(whole.clone()));
        assert!(!alike(node(&[(0, 5), (1, 6)])));
        assert!(!alike(node(&[(0, 5)])), "a shard is not there");
        assert!(!are_alike(&[whole.clone(), whole], 3, 1), "a node does not run");
        let part = node(&[(0, 5)]);
        assert!(!are_alike(&[part.clone(), part.clone(), part], 3, 1));
    }
}
