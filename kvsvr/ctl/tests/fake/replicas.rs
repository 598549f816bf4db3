//! The nodes of the fake, and what their replicas hold: a hash for each shard, the same one but where a test has them differ. A replica that is made anew
//! holds what the leader's does.

use std::collections::BTreeMap;

use kvsvr_client::proto;

use super::NODE;

/// What a replica holds that is as it should be.
const RIGHT: u64 = 0xc0ffee;

/// Nodes and what they hold.
pub(crate) struct Replicas {
    /// How many nodes there are; each has a replica of both shards.
    pub(crate) nodes: u64,
    /// By shard and node: the hash that it has instead, or none if it cannot read what it has.
    pub(crate) others: BTreeMap<(u32, u64), Option<u64>>,
    /// Who leads both shards.
    pub(crate) leads: u64,
}

impl Default for Replicas {
    fn default() -> Self {
        Self {
            nodes: 1,
            others: BTreeMap::new(),
            leads: NODE,
        }
    }
}

/// Where a node listens.
pub(super) fn address(node: u64) -> String {
    match node {
        NODE => super::ADDRESS.into(),
        _ => format!("node{node}:1"),
    }
}

impl Replicas {
    pub(super) fn leader(&self) -> u64 {
        self.leads
    }

    /// The node at an address.
    pub(super) fn at(&self, place: &str) -> Option<u64> {
        (1..=self.nodes).find(|node| address(*node) == place)
    }

    fn held(&self, shard: u32, node: u64) -> Option<u64> {
        self.others.get(&(shard, node)).copied().unwrap_or(Some(RIGHT))
    }

    pub(super) fn hash(
        &self,
        node: u64,
        request: &proto::StateHashRequest,
    ) -> Result<proto::StateHashResponse, proto::Error> {
        let hash = self.held(request.shard, node).ok_or_else(|| proto::Error {
            code: proto::ErrorCode::Corrupt.into(),
            message: "a block is damaged".into(),
            ..proto::Error::default()
        })?;
        Ok(proto::StateHashResponse {
            hash,
            applied_index: request.at_index,
        })
    }

    pub(super) fn transfer(
        &mut self,
        request: &proto::TransferLeaderRequest,
    ) -> proto::TransferLeaderResponse {
        self.leads = request.to;
        proto::TransferLeaderResponse { leader: self.leads }
    }

    /// Makes a replica anew.
    pub(super) fn reseed(&mut self, replica: &proto::ReseedReplica) {
        let (shard, node) = (replica.shard, replica.node);
        if self.leads == node {
            self.leads = (1..=self.nodes).find(|other| *other != node).unwrap();
        }
        let copy = self.held(shard, self.leads);
        self.others.insert((shard, node), copy);
    }

    pub(super) fn map(&self) -> proto::ShardMap {
        let last_slot = u32::from(kvsvr_proto::SLOTS) - 1;
        let shard = |id, last_slot| proto::ShardInfo {
            id,
            last_slot,
            replicas: (1..=self.nodes).collect(),
            leader: self.leads,
            ..proto::ShardInfo::default()
        };
        let nodes = (1..=self.nodes).map(|id| proto::NodeInfo {
            id,
            address: address(id),
            ..proto::NodeInfo::default()
        });
        proto::ShardMap {
            cluster_id: "fake".into(),
            cluster_name: "fake".into(),
            epoch: 1,
            nodes: nodes.collect(),
            shards: vec![shard(0, 0), shard(1, last_slot)],
            replication: self.nodes as u32,
            ..proto::ShardMap::default()
        }
    }
}
