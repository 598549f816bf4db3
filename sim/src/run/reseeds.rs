//! Replicas that are made anew, as the meta shard tells of them while it is so.

use std::collections::BTreeSet;

use kvsvr::topology::{self, Topology};
use kvsvr_core::types::{META_SHARD, Revision, ShardId};
use kvsvr_proto::v1::{Operation, ShardInfo, operation};

use crate::{invariants::Reseed, node::SimNode};

/// What the newest state of the meta shard tells that any replica has applied.
#[derive(Debug, Default)]
pub(super) struct Reseeds {
    revision: Revision,
    under_way: Option<Reseed>,
    is_short: bool,
    /// Operations that were taken back when there was nothing to go back to.
    taken_back: BTreeSet<u64>,
}

impl Reseeds {
    /// Looks at what has changed. True if an operation is taken back, and goes on because the vote is gone.
    pub(super) fn look(&mut self, nodes: &[SimNode]) -> bool {
        let mut is_new = false;
        for node in nodes.iter().filter_map(SimNode::node) {
            let Some(meta) = node.shard(META_SHARD) else {
                continue;
            };
            let (revision, is_installing) = (meta.revision(), meta.head().installs() % 2 == 1);
            if revision <= self.revision || is_installing {
                continue;
            }
            // One that cannot be read ends its process.
            if let Ok(Some(stored)) = topology::load_all(&*meta.engine().snapshot()) {
                self.revision = revision;
                is_new |= self.note(&stored);
            }
        }
        is_new
    }

    /// The one that is under way.
    pub(super) fn under_way(&self) -> Option<Reseed> {
        self.under_way
    }

    /// Some shard has a voter fewer than it is to have, or will soon.
    pub(super) fn is_unfinished(&self) -> bool {
        self.under_way.is_some() || self.is_short
    }

    fn note(&mut self, stored: &Topology) -> bool {
        let wanted = stored.map.replication as usize;
        let is_data = |info: &&ShardInfo| info.id != META_SHARD.0;
        let mut data = stored.map.shards.iter().filter(is_data);
        self.is_short = data.any(|info| info.replicas.len() < wanted);
        let last = stored.operations.values().next_back();
        let Some(last) = last.filter(|last| is_under_way(last) && last.kind() == operation::Kind::Reseed)
        else {
            self.under_way = None;
            return false;
        };
        self.under_way = Some(Reseed {
            operation: last.id,
            shard: ShardId(last.shard),
            node: last.node,
        });
        let row = stored.map.shards.iter().find(|info| info.id == last.shard);
        let is_gone = row.is_some_and(|row| !row.replicas.contains(&last.node));
        last.state() == operation::State::Aborting && is_gone && self.taken_back.insert(last.id)
    }
}

/// The operation has not ended.
pub(super) fn is_under_way(operation: &Operation) -> bool {
    matches!(
        operation.state(),
        operation::State::Running | operation::State::Aborting
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(state: operation::State, replicas: &[u64]) -> Topology {
        let mut stored = Topology::default();
        stored.map.replication = 3;
        stored.map.shards = [(0, &[1, 2][..]), (1, replicas)]
            .map(|(id, replicas)| ShardInfo {
                id,
                replicas: replicas.to_vec(),
                ..ShardInfo::default()
            })
            .into();
        let operation = Operation {
            id: 7,
            kind: operation::Kind::Reseed.into(),
            state: state.into(),
            shard: 1,
            node: 2,
            ..Operation::default()
        };
        stored.operations.insert(7, operation);
        stored
    }

    #[test]
    fn what_is_taken_back_in_the_middle_counts_once() {
        use operation::State::{Aborted, Aborting, Done, Running};
        let mut reseeds = Reseeds::default();
        assert!(!reseeds.is_unfinished());
        assert!(!reseeds.note(&stored(Running, &[1, 2, 3])));
        let under_way = Reseed {
            operation: 7,
            shard: ShardId(1),
            node: 2,
        };
        assert_eq!(reseeds.under_way(), Some(under_way));
        assert!(!reseeds.note(&stored(Running, &[1, 3])));
        assert!(!reseeds.note(&stored(Aborting, &[1, 2, 3])), "it stays as it was");
        assert!(reseeds.note(&stored(Aborting, &[1, 3])));
        assert!(!reseeds.note(&stored(Aborting, &[1, 3])), "that is known");
        assert!(!reseeds.note(&stored(Aborted, &[1, 3])));
        assert!(reseeds.under_way().is_none() && reseeds.is_unfinished());
        assert!(!reseeds.note(&stored(Done, &[1, 3, 2])));
        assert!(!reseeds.is_unfinished());
    }
}
