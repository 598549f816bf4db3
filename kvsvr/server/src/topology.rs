//! The cluster's topology: what the meta shard stores, and how a first one is laid out. Pure.
//!
//! The meta shard is an ordinary shard; the topology lives in its partition [`PARTITION`], one row for the cluster and one for each node,
//! shard and operation, as encoded protobuf messages. The map's epoch is the newest revision among those of cluster, nodes and shards, which are
//! never deleted, so it grows with every change.

mod change;
pub mod settings;

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;
use kvsvr_core::{
    codec::encode_command,
    command::{Command, Op, Txn, TxnOp},
    engine::{EngineError, EngineRead, Scan},
    keys,
    types::{META_SHARD, Partition, Revision},
};
use kvsvr_proto::{SLOTS, v1 as pb};
use prost::Message;

/// Partition of the meta shard that holds the topology. Clients may read and watch it, only the node itself writes it.
pub const PARTITION: &[u8] = b"topology";
const CLUSTER: &[u8] = b"cluster";
const NODE: &[u8] = b"node/";
const SHARD: &[u8] = b"shard/";
const OPERATION: &[u8] = b"operation/";
/// The version of the rows' format.
pub const FORMAT_VERSION: u32 = 1;

pub use self::change::{Changes, view};

/// Why a layout is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// More replicas than nodes, or none.
    #[error("replication {replication} needs at least that many nodes, there are {nodes}")]
    Replication {
        /// Asked for.
        replication: u32,
        /// Available.
        nodes: usize,
    },
    /// An even number of voters tolerates no more failures than one less.
    #[error("replication must be odd, {0} is not: an even number of voters only adds a way to fail")]
    Even(u32),
    /// No shards, or more than slots.
    #[error("there must be 1..={SLOTS} data shards, not {0}")]
    Shards(u32),
}

/// Lays out a new cluster: equal slot ranges, replicas and preferred leaders spread round-robin, the meta shard on every node.
pub fn layout(
    cluster_id: &str,
    cluster_name: &str,
    nodes: Vec<pb::NodeInfo>,
    shards: u32,
    replication: u32,
) -> Result<pb::ShardMap, LayoutError> {
    if shards == 0 || shards > u32::from(SLOTS) {
        return Err(LayoutError::Shards(shards));
    }
    if replication == 0 || replication as usize > nodes.len() {
        return Err(LayoutError::Replication {
            replication,
            nodes: nodes.len(),
        });
    }
    if replication.is_multiple_of(2) {
        return Err(LayoutError::Even(replication));
    }
    let ids: Vec<u64> = nodes.iter().map(|n| n.id).collect();
    let meta = pb::ShardInfo {
        id: META_SHARD.0,
        replicas: ids.clone(),
        ..Default::default()
    };
    let slots = u32::from(SLOTS);
    let data = (0..shards).map(|i| pb::ShardInfo {
        id: i + 1,
        first_slot: i * slots / shards,
        last_slot: (i + 1) * slots / shards - 1,
        replicas: (0..replication)
            .map(|r| ids[(i + r) as usize % ids.len()])
            .collect(),
        ..Default::default()
    });
    Ok(pb::ShardMap {
        cluster_id: cluster_id.to_owned(),
        cluster_name: cluster_name.to_owned(),
        epoch: 0,
        shards: std::iter::once(meta).chain(data).collect(),
        nodes,
        replication,
        ..Default::default()
    })
}

fn partition() -> Partition {
    Partition::local(Bytes::from_static(PARTITION))
}

/// The command that stores a first map. It does nothing if one is stored already.
pub fn store_command(map: &pb::ShardMap) -> Bytes {
    let row = |key: Bytes, value: Vec<u8>| TxnOp::Put {
        key,
        value: value.into(),
        ttl_ms: 0,
        lease: 0,
    };
    let cluster = pb::ShardMap {
        cluster_id: map.cluster_id.clone(),
        cluster_name: map.cluster_name.clone(),
        replication: map.replication,
        ..Default::default()
    };
    let mut ops = vec![row(Bytes::from_static(CLUSTER), cluster.encode_to_vec())];
    ops.extend(
        map.nodes
            .iter()
            .map(|n| row([NODE, &n.id.to_be_bytes()].concat().into(), n.encode_to_vec())),
    );
    ops.extend(
        map.shards
            .iter()
            .map(|s| row([SHARD, &s.id.to_be_bytes()].concat().into(), s.encode_to_vec())),
    );
    let txn = Txn {
        compares: vec![kvsvr_core::command::Compare::absent(Bytes::from_static(CLUSTER))],
        then_ops: ops,
        else_ops: Vec::new(),
    };
    encode_command(&Command {
        partition: partition(),
        session: None,
        op: Op::Txn(txn),
    })
}

/// All that is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Nodes, those that were removed too, and shards.
    pub map: pb::ShardMap,
    /// By number.
    pub operations: BTreeMap<u64, pb::Operation>,
    /// The revision of each row, by key.
    pub revisions: BTreeMap<Bytes, Revision>,
}

/// The stored map; `None` before the first is stored.
pub fn load(engine: &dyn EngineRead) -> Result<Option<pb::ShardMap>, EngineError> {
    Ok(load_all(engine)?.map(|topology| topology.map))
}

/// All that is stored; `None` before the first map is.
pub fn load_all(engine: &dyn EngineRead) -> Result<Option<Topology>, EngineError> {
    let mut topology = Topology::default();
    let prefix = keys::partition_prefix(META_SHARD, &partition());
    let end = keys::prefix_end(&prefix);
    let mut bad = None;
    let scan = Scan {
        start: &prefix,
        end: &end,
        reverse: false,
    };
    engine.scan(
        kvsvr_core::engine::Cf::Data,
        scan,
        &mut |key, value| match topology.add_row(&key[prefix.len()..], value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(reason) => {
                bad = Some(reason);
                ControlFlow::Break(())
            }
        },
    )?;
    match bad {
        Some(reason) => Err(EngineError::Corrupt(format!("meta shard: {reason}"))),
        None => Ok((!topology.map.cluster_id.is_empty()).then_some(topology)),
    }
}

impl Topology {
    /// The number of an operation that is begun now.
    pub fn next_operation(&self) -> u64 {
        self.operations.keys().next_back().map_or(1, |last| last + 1)
    }

    fn add_row(&mut self, key: &[u8], encoded: &[u8]) -> Result<(), String> {
        let row = keys::DataRow::decode(&Bytes::copy_from_slice(encoded)).map_err(|e| e.to_string())?;
        self.revisions.insert(Bytes::copy_from_slice(key), row.mod_rev);
        let undecodable = |e: prost::DecodeError| format!("row {} does not decode: {e}", key.escape_ascii());
        let known = |version: u32| match version {
            0..=FORMAT_VERSION => Ok(()),
            newer => Err(format!(
                "row {} has format version {newer}, this program knows versions up to {FORMAT_VERSION}: run the version of kvsvr that wrote it, or a \
                 newer one",
                key.escape_ascii()
            )),
        };
        let map = &mut self.map;
        if key.starts_with(OPERATION) {
            let operation = pb::Operation::decode(row.value).map_err(undecodable)?;
            known(operation.format_version)?;
            self.operations.insert(operation.id, operation);
            return Ok(());
        }
        // Operations are no part of the map.
        map.epoch = map.epoch.max(row.mod_rev);
        if key == CLUSTER {
            let cluster = pb::ShardMap::decode(row.value).map_err(undecodable)?;
            map.cluster_id = cluster.cluster_id;
            map.cluster_name = cluster.cluster_name;
            map.replication = cluster.replication;
            map.settings = cluster.settings;
        } else if key.starts_with(NODE) {
            let node = pb::NodeInfo::decode(row.value).map_err(undecodable)?;
            known(node.format_version)?;
            map.nodes.push(node);
        } else if key.starts_with(SHARD) {
            let shard = pb::ShardInfo::decode(row.value).map_err(undecodable)?;
            known(shard.format_version)?;
            map.shards.push(shard);
        }
        Ok(())
    }
}

/// Nodes with a replica of a shard, voting or not.
pub fn hosts(shard: &pb::ShardInfo) -> impl Iterator<Item = u64> {
    shard.replicas.iter().chain(&shard.learners).copied()
}

/// Nodes that had an address and were removed.
pub fn removed_at<'a>(map: &'a pb::ShardMap, address: &'a str) -> impl Iterator<Item = u64> + 'a {
    let removed = map
        .nodes
        .iter()
        .filter(|n| n.state() == pb::NodeState::NodeRemoved);
    removed.filter(move |n| n.address == address).map(|n| n.id)
}

/// The data shard of each slot, for routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotTable(Vec<u32>);

impl SlotTable {
    /// The table of a map.
    pub fn new(map: &pb::ShardMap) -> Self {
        let mut table = vec![0; usize::from(SLOTS)];
        for shard in map.shards.iter().filter(|s| s.id != META_SHARD.0) {
            for slot in shard.first_slot..=shard.last_slot.min(u32::from(SLOTS) - 1) {
                table[slot as usize] = shard.id;
            }
        }
        Self(table)
    }

    /// The shard of a slot; `None` before there is a map.
    pub fn shard(&self, slot: u16) -> Option<u32> {
        self.0.get(usize::from(slot)).copied().filter(|shard| *shard != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(n: u64) -> Vec<pb::NodeInfo> {
        (1..=n)
            .map(|id| pb::NodeInfo {
                id,
                ..Default::default()
            })
            .collect()
    }

    #[test]
    fn a_layout_covers_every_slot_once_and_spreads_leaders() {
        let map = layout("c", "test", nodes(5), 16, 3).unwrap();
        let table = SlotTable::new(&map);
        let covered: u32 = map
            .shards
            .iter()
            .skip(1)
            .map(|s| s.last_slot - s.first_slot + 1)
            .sum();
        assert_eq!(covered, u32::from(SLOTS));
        assert!((0..SLOTS).all(|slot| table.shard(slot).is_some()));
        for node in 1..=5 {
            let led = map
                .shards
                .iter()
                .skip(1)
                .filter(|s| s.replicas[0] == node)
                .count();
            assert!((3..=4).contains(&led), "node {node} leads {led} shards");
        }
        assert!(map.shards.iter().skip(1).all(|s| s.replicas.len() == 3));
        assert_eq!(map.shards[0].replicas, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn impossible_layouts_say_why() {
        assert_eq!(
            layout("c", "", nodes(2), 1, 3),
            Err(LayoutError::Replication {
                replication: 3,
                nodes: 2
            })
        );
        assert_eq!(layout("c", "", nodes(3), 1, 2), Err(LayoutError::Even(2)));
        assert_eq!(layout("c", "", nodes(3), 0, 1), Err(LayoutError::Shards(0)));
    }
}
