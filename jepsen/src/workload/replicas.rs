//! Asks the replicas of a cluster for their states, so that they can be compared.

use std::{collections::BTreeMap, time::Duration};

use kvsvr_client::{Client, Result, proto};
use tokio::time::sleep;

use crate::check::Replica;

/// Times that the replicas are asked, until those of each shard are at one index.
const TRIES: u32 = 20;
/// Between two times.
const AGAIN: Duration = Duration::from_millis(500);

/// The node and shard of each replica of a map.
pub fn placement(map: &proto::ShardMap) -> Vec<(u64, u32)> {
    let of = |shard: &proto::ShardInfo| {
        let id = shard.id;
        shard.replicas.clone().into_iter().map(move |node| (node, id))
    };
    map.shards.iter().flat_map(of).collect()
}

/// Where replicas of all shards are, and the states of them. Nobody should write any more: then they are soon at one index, else those of the
/// last of 20 times are given. A node that does not answer has none.
///
/// # Errors
/// There is no shard map; see [`kvsvr_client::Error`].
pub async fn replicas(client: &Client) -> Result<(Vec<(u64, u32)>, Vec<Replica>)> {
    let map = client.shard_map().await?;
    let mut states = Vec::new();
    for _ in 0..TRIES {
        states = ask(client, &map).await;
        if are_even(&states, &map) {
            break;
        }
        sleep(AGAIN).await;
    }
    Ok((placement(&map), states))
}

async fn ask(client: &Client, map: &proto::ShardMap) -> Vec<Replica> {
    let addresses: BTreeMap<u64, &str> = map
        .nodes
        .iter()
        .map(|node| (node.id, &node.address[..]))
        .collect();
    let mut states = Vec::new();
    for shard in &map.shards {
        for node in &shard.replicas {
            let Some(address) = addresses.get(node) else {
                continue;
            };
            if let Ok(state) = client.state_hash(address, shard.id).await {
                states.push(Replica {
                    node: *node,
                    shard: shard.id,
                    applied: state.applied_index,
                    hash: state.hash,
                });
            }
        }
    }
    states
}

/// All replicas have answered, those of one shard with one index.
fn are_even(states: &[Replica], map: &proto::ShardMap) -> bool {
    map.shards.iter().all(|shard| {
        let applied: Vec<u64> = states
            .iter()
            .filter(|state| state.shard == shard.id)
            .map(|state| state.applied)
            .collect();
        applied.len() == shard.replicas.len() && applied.windows(2).all(|pair| pair[0] == pair[1])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_even_when_all_have_answered_at_one_index() {
        let map = proto::ShardMap {
            shards: vec![proto::ShardInfo {
                id: 1,
                replicas: vec![1, 2],
                ..Default::default()
            }],
            ..Default::default()
        };
        let state = |node, applied| Replica {
            node,
            shard: 1,
            applied,
            hash: 0,
        };
        assert!(are_even(&[state(1, 5), state(2, 5)], &map));
        assert!(!are_even(&[state(1, 5), state(2, 6)], &map));
        assert!(!are_even(&[state(1, 5)], &map));
    }
}
