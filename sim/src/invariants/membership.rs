//! A shard changes one member at a time: the voters of a joint configuration differ by one who comes and one who goes at most (design of
//! the placement controller), and no set of a data shard's voters is ever smaller than the shard began with. So never are fewer replicas
//! than wanted on the way from one placement to another.
//!
//! That the quorums of a joint configuration overlap with those before and after follows from its having both sets (Raft dissertation,
//! section 4.3), each of which must have a majority: `election_safety` counts it.

use std::collections::{BTreeMap, BTreeSet};

use kvsvr_core::types::{META_SHARD, ShardId};

use super::{Invariant, Moment};

/// The voters that each shard began with.
#[derive(Default)]
pub(super) struct Membership(BTreeMap<ShardId, usize>);

impl Invariant for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in &moment.replicas {
            let Some(election) = &replica.election else {
                continue;
            };
            let voters = &election.voters;
            let place = format!("shard {}, led by node {}", replica.shard, replica.node);
            if let [old, new] = &voters[..] {
                let apart = |one: &BTreeSet<u64>, other| one.difference(other).count();
                if apart(old, new) > 1 || apart(new, old) > 1 {
                    return Err(format!(
                        "{place}: more than one change at a time, from {old:?} to {new:?}"
                    ));
                }
            } else if voters.len() > 2 {
                return Err(format!("{place}: {} sets of voters: {voters:?}", voters.len()));
            }
            let least = voters.iter().map(BTreeSet::len).min().unwrap_or(0);
            let began = *self.0.entry(replica.shard).or_insert(least);
            if least < began && replica.shard != META_SHARD {
                return Err(format!(
                    "{place}: fewer voters than the {began} that it began with: {voters:?}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::{
        Election, Replica,
        testing::{World, replica},
    };

    fn leader(voters: &[&[u64]]) -> Replica {
        let mut leader = replica(0, 1);
        leader.election = Some(Election {
            voters: voters.iter().map(|set| set.iter().copied().collect()).collect(),
            ..Election::default()
        });
        leader
    }

    #[test]
    fn one_comes_and_one_goes_at_a_time() {
        let mut world = World::new(Membership::default());
        world.holds(&[
            leader(&[&[1, 2, 3]]),
            leader(&[&[1, 2, 3], &[1, 2, 4]]),
            leader(&[&[1, 2, 4]]),
        ]);
        world.breaks(&[leader(&[&[1, 2, 4], &[1, 5, 6]])], "more than one change");
    }

    #[test]
    fn there_are_never_fewer_voters_than_at_first() {
        let mut world = World::new(Membership::default());
        world.holds(&[leader(&[&[1, 2, 3]]), leader(&[&[1, 2, 3], &[1, 2, 3, 4]])]);
        world.breaks(&[leader(&[&[1, 2, 3], &[1, 2]])], "fewer voters");
    }
}
