//! The memberships of the data shards, as their committed logs have them, and replicas that were destroyed: what a change of members may do.
//!
//! Voters change through a joint configuration that has the old and the new ones (Raft dissertation, section 4.3), so that the quorums of any
//! two memberships that may be in use at a time overlap. Of the placement controller is wanted more: one comes and one goes at a time, who comes
//! was a learner before, a replica that was given up never counts again, and none is destroyed that has a vote.

use std::collections::{BTreeMap, BTreeSet};

use kvsvr_core::types::ShardId;
use kvsvr_proto::v1::PbMembership;

/// Who is a member of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Members {
    /// Two sets in a joint configuration, the new one last.
    voters: Vec<BTreeSet<u64>>,
    /// The incarnations of all members' replicas, those of learners too.
    incarnations: BTreeMap<u64, u64>,
}

impl Members {
    fn new(membership: PbMembership) -> Self {
        let sets = membership.configs.into_iter();
        let peers = membership.nodes.into_iter();
        Self {
            voters: sets.map(|set| set.ids.into_iter().collect()).collect(),
            incarnations: peers.map(|peer| (peer.id, peer.incarnation)).collect(),
        }
    }

    fn votes(&self, node: u64) -> bool {
        self.voters.iter().any(|set| set.contains(&node))
    }
}

/// A replica that its node has destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// Which shard's.
    pub shard: ShardId,
    /// Whose.
    pub node: u64,
    /// Which one.
    pub incarnation: u64,
    /// Up to which index anybody knew the shard's log to be committed then.
    pub committed: u64,
}

/// The memberships of one shard, with the indexes of their entries, oldest first.
#[derive(Debug, Default)]
struct Chain {
    memberships: Vec<(u64, Members)>,
    /// The newest replica of each node that ever was a member.
    newest: BTreeMap<u64, u64>,
}

/// Those of all shards.
#[derive(Debug, Default)]
pub struct Memberships {
    shards: BTreeMap<ShardId, Chain>,
    broken: Vec<String>,
    /// How many learners have become voters.
    promoted: u64,
}

impl Memberships {
    /// Takes in the committed membership of a shard with the next greater index.
    pub fn take(&mut self, shard: ShardId, index: u64, membership: PbMembership) {
        let after = Members::new(membership);
        let chain = self.shards.entry(shard).or_default();
        if let Some((_, before)) = chain.memberships.last() {
            let come = after.voters.iter().flatten().filter(|node| !before.votes(**node));
            self.promoted += come.collect::<BTreeSet<_>>().len() as u64;
            if let Err(why) = follows(before, &after, &chain.newest) {
                self.broken.push(format!(
                    "shard {shard}, index {index}: {why}: {before:?}, then {after:?}"
                ));
            }
        }
        for (node, incarnation) in &after.incarnations {
            let newest = chain.newest.entry(*node).or_default();
            *newest = (*newest).max(*incarnation);
        }
        chain.memberships.push((index, after));
    }

    /// What is wrong with them, in words.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// How many learners have become voters.
    pub fn promoted(&self) -> u64 {
        self.promoted
    }

    /// What is wrong with the destruction of a replica, if the shard's log is known so far.
    ///
    /// # Errors
    /// It had a vote.
    pub fn judge(&self, destroyed: &Destroyed) -> Result<(), String> {
        let Destroyed {
            shard,
            node,
            incarnation,
            committed,
        } = destroyed;
        let memberships = self.shards.get(shard).map_or(&[][..], |chain| &chain.memberships);
        let then = memberships.iter().rev().find(|(index, _)| index <= committed);
        let Some((index, members)) = then else {
            return Ok(());
        };
        if members.votes(*node) && members.incarnations.get(node) == Some(incarnation) {
            return Err(format!(
                "node {node} has destroyed its replica {incarnation} of shard {shard}, which had a vote: index {index} has {members:?}, and nothing up to {committed} \
                 takes it away"
            ));
        }
        Ok(())
    }
}

/// Whether a membership may follow another one. `newest`: the newest replica of each node that was a member so far.
fn follows(before: &Members, after: &Members, newest: &BTreeMap<u64, u64>) -> Result<(), String> {
    match (&before.voters[..], &after.voters[..]) {
        ([old], [new]) if old == new => {}
        ([old], [from, to]) if old == from => one_at_a_time(before, from, to)?,
        ([_, to], [new]) if to == new => {}
        ([_, _], same) if same == before.voters => {}
        _ => return Err("the voters do not follow from those before".to_owned()),
    }
    for (node, incarnation) in &after.incarnations {
        let stays = before.incarnations.get(node);
        if stays.is_some_and(|known| known != incarnation) {
            return Err(format!(
                "node {node} has another replica, and was a member all the time"
            ));
        }
        if stays.is_none() && newest.get(node).is_some_and(|known| known >= incarnation) {
            return Err(format!(
                "node {node} comes back with a replica that it had before"
            ));
        }
    }
    Ok(())
}

fn one_at_a_time(before: &Members, from: &BTreeSet<u64>, to: &BTreeSet<u64>) -> Result<(), String> {
    if from.difference(to).count() > 1 || to.difference(from).count() > 1 {
        return Err("more than one voter comes or goes at a time".to_owned());
    }
    match to
        .difference(from)
        .find(|node| !before.incarnations.contains_key(node))
    {
        Some(stranger) => Err(format!("node {stranger} votes, and was no learner before")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_proto::v1::{PbNodeSet, PbPeer};

    use super::*;

    const SHARD: ShardId = ShardId(1);

    /// Members with their incarnations.
    fn membership(configs: &[&[u64]], members: &[(u64, u64)]) -> PbMembership {
        let peer = |(id, incarnation): &(u64, u64)| PbPeer {
            id: *id,
            incarnation: *incarnation,
            ..Default::default()
        };
        PbMembership {
            configs: configs
                .iter()
                .map(|ids| PbNodeSet { ids: ids.to_vec() })
                .collect(),
            nodes: members.iter().map(peer).collect(),
        }
    }

    const THREE: [(u64, u64); 3] = [(1, 0), (2, 0), (3, 0)];
    const FOUR: [(u64, u64); 4] = [(1, 0), (2, 0), (3, 0), (4, 7)];

    /// Node 4 takes the vote of node 3, which is dropped then.
    fn moved() -> Vec<PbMembership> {
        vec![
            membership(&[&[1, 2, 3]], &THREE),
            membership(&[&[1, 2, 3]], &FOUR),
            membership(&[&[1, 2, 3], &[1, 2, 4]], &FOUR),
            membership(&[&[1, 2, 4]], &FOUR),
            membership(&[&[1, 2, 4]], &[(1, 0), (2, 0), (4, 7)]),
        ]
    }

    fn taken(all: Vec<PbMembership>) -> Memberships {
        let mut memberships = Memberships::default();
        for (index, membership) in all.into_iter().enumerate() {
            memberships.take(SHARD, index as u64 * 10, membership);
        }
        memberships
    }

    #[track_caller]
    fn breaks(all: Vec<PbMembership>, text: &str) {
        let memberships = taken(all);
        assert!(
            memberships.broken().iter().any(|broken| broken.contains(text)),
            "{:?}",
            memberships.broken()
        );
    }

    #[test]
    fn a_replica_moves_through_a_joint_configuration() {
        let mut all = moved();
        assert_eq!(taken(all.clone()).broken(), [""; 0]);
        assert_eq!(taken(all.clone()).promoted(), 1);
        // It comes back as another replica, or not at all.
        let again = |incarnation| membership(&[&[1, 2, 4]], &[(1, 0), (2, 0), (3, incarnation), (4, 7)]);
        all.push(again(9));
        assert_eq!(taken(all.clone()).broken(), [""; 0]);
        all.pop();
        all.push(again(0));
        breaks(all, "comes back with a replica");
    }

    #[test]
    fn what_may_not_follow() {
        let first = || membership(&[&[1, 2, 3]], &FOUR);
        let then = |second| vec![first(), second];
        breaks(then(membership(&[&[1, 2, 4]], &FOUR)), "do not follow");
        breaks(
            then(membership(&[&[1, 2, 4], &[1, 2, 3]], &FOUR)),
            "do not follow",
        );
        breaks(then(membership(&[&[1, 2, 3], &[1, 4]], &FOUR)), "more than one");
        let stranger = membership(&[&[1, 2, 3], &[1, 2, 5]], &[(1, 0), (2, 0), (3, 0), (5, 0)]);
        breaks(then(stranger), "was no learner");
        let anew = membership(&[&[1, 2, 3]], &[(1, 0), (2, 0), (3, 0), (4, 8)]);
        breaks(then(anew), "another replica");
        let joint = membership(&[&[1, 2, 3], &[1, 2, 4]], &FOUR);
        breaks(vec![first(), joint, first()], "do not follow");
    }

    #[test]
    fn who_votes_is_not_destroyed() {
        let memberships = taken(moved());
        let destroyed = |node, incarnation, committed| {
            memberships.judge(&Destroyed {
                shard: SHARD,
                node,
                incarnation,
                committed,
            })
        };
        assert!(destroyed(3, 0, 5).unwrap_err().contains("which had a vote"));
        assert!(destroyed(3, 0, 29).is_err(), "a joint configuration has both");
        assert_eq!(destroyed(3, 0, 30), Ok(()));
        assert_eq!(destroyed(4, 6, 99), Ok(()), "that was another one");
        assert!(destroyed(4, 7, 99).is_err());
    }
}
