//! A shard changes one member at a time: the voters of a joint configuration differ by one who comes and one who goes at most (design of
//! the placement controller), and no set of a data shard's voters is ever smaller than the shard began with. So never are fewer replicas
//! than wanted on the way from one placement to another.
//!
//! One exception ([`anew`]): the vote of a replica that is made anew is taken with nobody in its place.
//!
//! That the quorums of a joint configuration overlap with those before and after follows from its having both sets (Raft dissertation,
//! section 4.3), each of which must have a majority: `election_safety` counts it.

mod anew;

use std::collections::{BTreeMap, BTreeSet};

use kvsvr_core::types::{META_SHARD, ShardId};

use self::anew::Anew;
use super::{Election, Invariant, Moment, Replica};

/// The voters of all shards.
#[derive(Default)]
pub(super) struct Membership {
    shards: BTreeMap<ShardId, Voters>,
    anew: Anew,
}

/// Those of one, as its newest leader has them.
struct Voters {
    /// How many it began with.
    began: usize,
    /// The newest leader: its term and its node.
    leader: (u64, u64),
    /// When there were enough of them last.
    whole: BTreeSet<u64>,
    /// One is missing, rightly: its replica is made anew.
    short: bool,
}

impl Invariant for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        // More than one set of voters, or another one than it was.
        let changes = |replica: &Replica| {
            let election = replica.election.as_ref();
            election.is_some_and(|election| match &election.voters[..] {
                [] => false,
                [voters] => {
                    let known = self.shards.get(&replica.shard);
                    known.is_some_and(|known| known.whole != *voters)
                }
                _ => true,
            })
        };
        moment.replicas.iter().any(|(replica, _)| changes(replica))
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        self.anew.see(moment);
        for (replica, _) in &moment.replicas {
            if let Some(election) = &replica.election {
                let place = format!("shard {}, led by node {}", replica.shard, replica.node);
                let told = |why| format!("{place}: {why}");
                one_at_a_time(&election.voters).map_err(told)?;
                self.enough(moment, replica, election).map_err(told)?;
            }
        }
        Ok(())
    }
}

impl Membership {
    /// A data shard has as many voters as it began with, but for one whose replica is made anew; and that one's vote is taken by the rules.
    fn enough(&mut self, moment: &Moment<'_>, replica: &Replica, election: &Election) -> Result<(), String> {
        let voters = &election.voters;
        let Some(fewest) = voters.iter().min_by_key(|set| set.len()) else {
            return Ok(());
        };
        let leader = (replica.term, replica.node);
        let known = self.shards.entry(replica.shard).or_insert_with(|| Voters {
            began: fewest.len(),
            leader,
            whole: fewest.clone(),
            short: false,
        });
        // Another one has followed: what this one has is not what the shard has any more.
        if leader < known.leader {
            return Ok(());
        }
        let led_before = known.leader == leader;
        known.leader = leader;
        let is_meta = replica.shard == META_SHARD;
        // The meta shard has as many as there are nodes for it.
        let enough = if is_meta { known.whole.len() } else { known.began };
        if fewest.len() >= enough {
            known.short = false;
            if voters.len() == 1 {
                known.whole.clone_from(fewest);
            }
            return Ok(());
        }
        if known.short && fewest.len() + 1 == enough {
            return Ok(());
        }
        let gone: Vec<u64> = known.whole.difference(fewest).copied().collect();
        let is_made_anew = !known.short && self.anew.is_of(moment, replica.shard, &gone);
        if is_made_anew {
            self.anew.judge(moment, replica, election, fewest, led_before)?;
        } else if !is_meta {
            return Err(format!(
                "fewer voters than the {} that it began with, and no operation makes the replica of {gone:?} anew: {voters:?}",
                known.began
            ));
        }
        if is_meta {
            known.whole.clone_from(fewest);
        } else {
            known.short = true;
        }
        Ok(())
    }
}

/// One comes and one goes at most.
fn one_at_a_time(voters: &[BTreeSet<u64>]) -> Result<(), String> {
    match voters {
        [old, new] => {
            let apart = |one: &BTreeSet<u64>, other| one.difference(other).count();
            if apart(old, new) > 1 || apart(new, old) > 1 {
                return Err(format!("more than one change at a time, from {old:?} to {new:?}"));
            }
            Ok(())
        }
        [] | [_] => Ok(()),
        more => Err(format!("{} sets of voters: {more:?}", more.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica};

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

    #[test]
    fn it_sees_voters_that_change() {
        let mut world = World::new(Membership::default());
        assert!(!world.sees(&[leader(&[&[1, 2, 3]]), replica(1, 1)]));
        world.holds(&[leader(&[&[1, 2, 3]])]);
        assert!(!world.sees(&[leader(&[&[1, 2, 3]]), leader(&[])]));
        assert!(world.sees(&[leader(&[&[1, 2, 3], &[1, 2, 4]])]));
        assert!(world.sees(&[leader(&[&[1, 2, 4]])]));
    }
}
