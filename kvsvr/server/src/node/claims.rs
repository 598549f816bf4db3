//! Whose messages a node takes, and who claims its address.

use kvsvr_proto::v1 as pb;

use super::{Node, cluster_text};
use crate::store::MEMBER_LOST;

/// A refusal of a peer's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) text: String,
    /// The cluster that claims this address, and for which of its nodes.
    cluster_id: String,
    node: u64,
}

impl Node {
    /// Refuses what is not meant for this node, this store, this cluster.
    pub fn check_envelope(&self, envelope: &pb::Envelope) -> Result<(), String> {
        let store = &self.store_id;
        let text = match self.identity() {
            Some(me) if cluster_text(me) != envelope.cluster_id => format!(
                "this node belongs to cluster {}, the message to cluster {}: two clusters have the same address in their lists",
                cluster_text(me),
                envelope.cluster_id
            ),
            Some(me) if me.node_id != envelope.to_node && self.took_place_of(envelope.to_node) => {
                // Expected until the other one is removed everywhere.
                return Err(format!(
                    "node {} has the place of node {}, which leaves the cluster",
                    me.node_id, envelope.to_node
                ));
            }
            Some(me) if me.node_id != envelope.to_node => {
                format!(
                    "this is node {}, the message is for node {}: the data directories or the addresses of two nodes are swapped. Start each node with its own \
                     --data and --advertise",
                    me.node_id, envelope.to_node
                )
            }
            Some(_) if *store == envelope.to_store => return self.check_member(envelope.from_node),
            // A member already, by the word of the others, and not told yet: no reason to refuse what will tell it.
            None if *store == envelope.to_store => {
                return Err(format!(
                    "this is to be node {}, and has not joined yet",
                    envelope.to_node
                ));
            }
            _ => format!(
                "cluster {} knows this address as node {} with store {}, but this data directory is store {store}: its disk was lost or replaced, or --data names \
                 another directory. A node without its log cannot vote again under its old identity. If the old directory exists, start the node with it. \
                 {MEMBER_LOST}",
                envelope.cluster_id, envelope.to_node, envelope.to_store
            ),
        };
        let mut last = self.refusal.lock();
        // Between `take_places` and the end of joining the old node's peers still speak to it: nobody would take that back.
        let is_given_its_place = self.replaces.lock().contains(&envelope.to_node);
        if !is_given_its_place && last.as_ref().is_none_or(|last| last.text != text) {
            tracing::error!(from = envelope.from_node, "refusing a peer's messages: {text}");
            *last = Some(Refusal {
                text: text.clone(),
                cluster_id: envelope.cluster_id.clone(),
                node: envelope.to_node,
            });
        }
        Err(text)
    }

    /// Who was removed does not vote any more, nor is asked to.
    fn check_member(&self, from: u64) -> Result<(), String> {
        if self.was_removed(from) {
            return Err(format!(
                "node {from} was removed from the cluster: stop it; it can come back as a new node with an empty data directory (kvctl member add)"
            ));
        }
        match self.identity() {
            Some(me) if self.was_removed(me.node_id) => {
                Err(format!("node {} was removed from the cluster", me.node_id))
            }
            _ => Ok(()),
        }
    }

    /// By the map that this node knows.
    pub(super) fn was_removed(&self, node: u64) -> bool {
        let state = self.map.read().clone();
        let nodes = state.map.iter().flat_map(|map| &map.nodes);
        nodes
            .filter(|n| n.id == node)
            .any(|n| n.state() == pb::NodeState::NodeRemoved)
    }

    /// The other node had this node's address, and leaves.
    fn took_place_of(&self, node: u64) -> bool {
        if self.replaces.lock().contains(&node) {
            return true;
        }
        let state = self.map.read().clone();
        let nodes = state.map.iter().flat_map(|map| &map.nodes);
        let leaves =
            |n: &pb::NodeInfo| matches!(n.state(), pb::NodeState::NodeLeaving | pb::NodeState::NodeRemoved);
        nodes
            .filter(|n| n.id == node)
            .any(|n| n.address == self.address && leaves(n))
    }

    /// Refuses what would make this node part of a cluster while another one claims its address: peers' messages for another store or
    /// cluster have come here. Known for as long as this process runs.
    pub fn check_unclaimed(&self) -> Result<(), String> {
        self.refusal
            .lock()
            .as_ref()
            .map_or(Ok(()), |refusal| Err(refusal.text.clone()))
    }

    /// Who claims this address, if that has been refused.
    pub fn claim(&self) -> Option<pb::Claim> {
        self.refusal.lock().as_ref().map(|refusal| pb::Claim {
            cluster_id: refusal.cluster_id.clone(),
            node_id: refusal.node,
            reason: refusal.text.clone(),
        })
    }

    /// The same as `check_unclaimed`, but the cluster that claims the address for one of these nodes gives their places to this one.
    pub fn take_places(&self, cluster_id: &str, replaces: &[u64]) -> Result<(), String> {
        let mut refusal = self.refusal.lock();
        if let Some(claim) = &*refusal {
            if claim.cluster_id != cluster_id || !replaces.contains(&claim.node) {
                return Err(claim.text.clone());
            }
            *refusal = None;
        }
        self.replaces.lock().extend(replaces);
        Ok(())
    }
}
