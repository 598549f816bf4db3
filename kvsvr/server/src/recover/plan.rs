//! Which shards have lost their quorum, and which survivor each of them goes on from. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kvsvr_core::types::META_SHARD;
use serde::{Deserialize, Serialize};

use super::{Collected, Members, Position, RecoverError, Replica, Vote, numbers};
use crate::{limits::RECOVERY_TERMS, placement::majority};

/// What becomes of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The node whose replica becomes the only voter.
    pub chosen: u64,
    /// The membership entry that says so.
    pub entry: Position,
    /// Nodes whose replicas are destroyed.
    pub retired: BTreeSet<u64>,
}

impl Recovery {
    /// The vote that goes with the entry: as if its node had been elected to write it.
    pub fn vote(&self) -> Vote {
        Vote {
            term: self.entry.term,
            node: self.entry.node,
            committed: true,
        }
    }

    /// The chosen replica's group from then on.
    pub fn members(&self, before: &Members) -> Members {
        let me = before.nodes.get_key_value(&self.chosen);
        Members {
            position: Some(self.entry),
            voters: vec![[self.chosen].into()],
            nodes: me.map(|(id, peer)| (*id, peer.clone())).into_iter().collect(),
        }
    }

    /// The chosen replica when all is done.
    pub fn done(&self, before: &Replica) -> Replica {
        Replica {
            members: self.members(&before.members),
            vote: Some(self.vote()),
            last: Some(self.entry),
            ..before.clone()
        }
    }
}

/// What is to be done on the files of the survivors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's id, 16 hex digits.
    pub cluster_id: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The survivors as they were collected: the plan is for no other state.
    pub nodes: BTreeMap<u64, Collected>,
    /// By shard; those that keep their quorum are not in it.
    pub shards: BTreeMap<u32, Recovery>,
}

/// What was found of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A majority of its voters is there.
    Kept,
    /// Its quorum is lost; it goes on from one survivor.
    Recovered {
        /// How.
        recovery: Recovery,
        /// Of the chosen replica, before.
        last: Position,
        /// What is known to be committed, on whichever survivor; 0: nothing.
        committed: u64,
        /// Entries that were acknowledged may be on the lost nodes only.
        may_lack: bool,
    },
    /// Nobody has a replica of it.
    Lost,
}

/// A shard, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Nodes that vote, as far as is known.
    pub voters: BTreeSet<u64>,
    /// Members that do not vote.
    pub learners: BTreeSet<u64>,
    /// Members that are there, each with the end of its log.
    pub survivors: BTreeMap<u64, Option<Position>>,
    /// What becomes of it.
    pub fate: Fate,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// The cluster's name.
    pub cluster_name: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// Nodes that files were given of.
    pub present: BTreeSet<u64>,
    /// Nodes of the newest known map without a file, with their addresses.
    pub missing: BTreeMap<u64, String>,
    /// By shard.
    pub shards: BTreeMap<u32, Finding>,
}

/// Looks at all that was collected. The findings are given where there is no plan, too.
pub fn plan(collected: Vec<Collected>) -> Result<(Findings, Result<Plan, RecoverError>), RecoverError> {
    let (cluster_id, cluster_name) = one_cluster(&collected)?;
    let mut nodes = BTreeMap::new();
    for one in collected {
        let id = one.node_id;
        if nodes.insert(id, one).is_some() {
            return Err(RecoverError::SameNode(id));
        }
    }
    let map = nodes.values().filter_map(|node| node.map.as_ref());
    let map = map.max_by_key(|map| map.epoch).cloned().unwrap_or_default();
    let of_nodes = nodes.values().flat_map(|node| node.replicas.keys());
    let shards: BTreeSet<u32> = of_nodes.chain(map.shards.keys()).copied().collect();
    let empty = Vec::new();
    let findings = Findings {
        cluster_name: cluster_name.clone(),
        cluster_id: cluster_id.clone(),
        present: nodes.keys().copied().collect(),
        missing: map
            .nodes
            .iter()
            .filter(|(id, _)| !nodes.contains_key(id))
            .map(|(id, address)| (*id, address.clone()))
            .collect(),
        shards: shards
            .into_iter()
            .map(|shard| {
                (
                    shard,
                    judge(shard, &nodes, map.shards.get(&shard).unwrap_or(&empty)),
                )
            })
            .collect(),
    };
    let lost = |found: &&u32| findings.shards[*found].fate == Fate::Lost;
    let lost: Vec<u32> = findings.shards.keys().filter(lost).copied().collect();
    let recovered = findings
        .shards
        .iter()
        .filter_map(|(shard, finding)| match &finding.fate {
            Fate::Recovered { recovery, .. } => Some((*shard, recovery.clone())),
            Fate::Kept | Fate::Lost => None,
        });
    let shards: BTreeMap<u32, Recovery> = recovered.collect();
    let plan = match (lost.is_empty(), shards.is_empty()) {
        (false, _) => Err(RecoverError::NoSurvivor(lost)),
        (true, true) => Err(RecoverError::NothingLost),
        (true, false) => Ok(Plan {
            cluster_id,
            cluster_name,
            nodes,
            shards,
        }),
    };
    Ok((findings, plan))
}

/// Id and name of the one cluster that all belong to.
fn one_cluster(collected: &[Collected]) -> Result<(String, String), RecoverError> {
    let ids: BTreeSet<&str> = collected.iter().map(|one| one.cluster_id.as_str()).collect();
    let names = collected.iter().map(|one| one.cluster_name.as_str());
    let names: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    match (&ids.iter().collect::<Vec<_>>()[..], names.first()) {
        ([id], Some(name)) if names.len() == 1 => Ok(((**id).to_owned(), (*name).to_owned())),
        ([_], None) => Err(RecoverError::OtherCluster(
            "none of these nodes knows the cluster's name: none of them has the meta shard's state. Collect from the others that are left".to_owned(),
        )),
        ([_], Some(_)) => Err(RecoverError::OtherCluster(format!(
            "the files give one cluster several names: {}. At least one of them was not collected from this cluster",
            numbers(names)
        ))),
        _ => Err(RecoverError::OtherCluster(format!(
            "the files are of several clusters: {}. Give files of one cluster only",
            numbers(ids)
        ))),
    }
}

/// One shard. `listed`: its voters by the map, which are all that is known of a shard without survivors.
fn judge(shard: u32, nodes: &BTreeMap<u64, Collected>, listed: &[u64]) -> Finding {
    let replicas: BTreeMap<u64, (&Collected, &Replica)> = nodes
        .iter()
        .filter_map(|(id, node)| Some((*id, (node, node.replicas.get(&shard)?))))
        .collect();
    // Who would be elected before all others: what it has for the group is the group.
    let ahead = replicas.values().filter(|(_, replica)| replica.last.is_some());
    let ahead = ahead.max_by_key(|(_, replica)| replica.last);
    let Some((_, ahead)) = ahead else {
        return Finding {
            voters: listed.iter().copied().collect(),
            learners: BTreeSet::new(),
            survivors: BTreeMap::new(),
            fate: Fate::Lost,
        };
    };
    let members = &ahead.members;
    let voters: BTreeSet<u64> = members.voters.iter().flatten().copied().collect();
    let is_member = |id: &u64, node: &Collected, replica: &Replica| {
        members.nodes.get(id).is_some_and(|peer| {
            peer.store_id == node.store_id.to_string() && peer.incarnation == replica.incarnation
        })
    };
    let survivors: BTreeMap<u64, &Replica> = replicas
        .iter()
        .filter(|(id, (node, replica))| is_member(id, node, replica))
        .map(|(id, (_, replica))| (*id, *replica))
        .collect();
    Finding {
        fate: fate(shard, members, &survivors, &replicas),
        learners: members
            .nodes
            .keys()
            .filter(|id| !voters.contains(id))
            .copied()
            .collect(),
        survivors: survivors
            .iter()
            .map(|(id, replica)| (*id, replica.last))
            .collect(),
        voters,
    }
}

fn fate(
    shard: u32,
    members: &Members,
    survivors: &BTreeMap<u64, &Replica>,
    replicas: &BTreeMap<u64, (&Collected, &Replica)>,
) -> Fate {
    let left = |set: &BTreeSet<u64>| set.iter().filter(|id| survivors.contains_key(id)).count();
    let mut sets = members.voters.iter();
    if sets.len() > 0 && sets.all(|set| left(set) >= majority(set.len())) {
        return Fate::Kept;
    }
    let ends = survivors
        .iter()
        .filter_map(|(id, replica)| Some((replica.last?, *id)));
    // Of equal logs that on the lowest node.
    let chosen = ends.max_by_key(|(last, id)| (*last, std::cmp::Reverse(*id)));
    let Some((last, chosen)) = chosen else {
        return Fate::Lost;
    };
    let seen = replicas.values().flat_map(|(_, replica)| {
        let vote = replica.vote.map(|vote| vote.term);
        vote.into_iter().chain(replica.last.map(|last| last.term))
    });
    let entry = Position {
        term: seen.max().unwrap_or(0) + RECOVERY_TERMS,
        node: chosen,
        index: last.index + 1,
    };
    // The meta shard's are all made anew, those too that are no members yet: the map will mean other ones.
    let retired = if shard == META_SHARD.0 {
        replicas.keys().copied().collect::<BTreeSet<u64>>()
    } else {
        survivors.keys().copied().collect()
    };
    let retired = retired.into_iter().filter(|id| *id != chosen);
    let known = survivors.values().filter_map(|replica| replica.committed);
    let sets = &members.voters;
    Fate::Recovered {
        recovery: Recovery {
            chosen,
            entry,
            retired: retired.collect(),
        },
        last,
        committed: known.map(|committed| committed.index).max().unwrap_or(0),
        may_lack: sets
            .iter()
            .all(|set| set.len() - left(set) >= majority(set.len())),
    }
}
