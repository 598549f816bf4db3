//! How many more nodes a cluster can lose, and what helps where too many are lost: pure functions of who votes where and who is up.

use std::collections::BTreeMap;

use kvsvr_client::proto::ShardInfo;
use kvsvr_proto::count;
use serde_json::{Value, json};

use crate::{health::View, output::Mood, text::shard_name};

/// Shards without a majority that are named.
const NAMED: usize = 4;

/// Nodes whose majority a shard needs, and which of them are up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voters {
    /// The shard; 0 is the meta shard.
    pub shard: u32,
    /// Nodes with a vote.
    pub voters: Vec<u64>,
    /// Those of them that are up with their replica.
    pub up: Vec<u64>,
}

/// What a cluster survives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Whichever so many of the nodes that are up are lost, each shard keeps a majority.
    CanLose(usize),
    /// These shards have no majority as it is.
    NoMajority(Vec<u32>),
}

/// The greatest number of nodes that may be lost, whichever they are, with a majority left in each shard. `None`: there are no shards.
///
/// The worst loss takes voters of one shard only, so the shard with the fewest voters to spare decides.
pub fn survival(shards: &[Voters]) -> Option<Survival> {
    let spare = |shard: &Voters| shard.up.len().checked_sub(shard.voters.len() / 2 + 1);
    let mut without: Vec<u32> = shards
        .iter()
        .filter(|shard| spare(shard).is_none())
        .map(|shard| shard.shard)
        .collect();
    if !without.is_empty() {
        without.sort_unstable();
        without.dedup();
        return Some(Survival::NoMajority(without));
    }
    shards.iter().filter_map(spare).min().map(Survival::CanLose)
}

/// The voters of each shard of a cluster. A shard whose voters are being changed counts twice: the old ones decide before the change,
/// the new ones after it, and both during it.
pub fn voters(view: &View) -> Vec<Voters> {
    let mut all = Vec::new();
    for shard in &view.map.shards {
        for voters in majorities(shard) {
            let up = voters.iter().copied().filter(|id| view.is_up(*id, shard.id));
            all.push(Voters {
                shard: shard.id,
                up: up.collect(),
                voters,
            });
        }
    }
    all
}

fn majorities(shard: &ShardInfo) -> Vec<Vec<u64>> {
    let mut sets = vec![shard.replicas.clone()];
    if let Some(change) = &shard.change {
        let mut after = shard.replicas.clone();
        after.retain(|id| *id != change.remove);
        if change.add != 0 && !after.contains(&change.add) {
            after.push(change.add);
        }
        if after != sets[0] {
            sets.push(after);
        }
    }
    sets
}

/// Shards of which no majority answers, in words: which nodes would help, and what if they are gone. Those that lack the same are told together.
pub fn no_majority(view: &View) -> Vec<String> {
    let mut alike: BTreeMap<(usize, Vec<u64>), Vec<u32>> = BTreeMap::new();
    for shard in view.map.shards.iter().filter(|shard| !view.has_majority(shard)) {
        let silent = shard
            .replicas
            .iter()
            .copied()
            .filter(|id| !view.is_up(*id, shard.id));
        let mut silent: Vec<u64> = silent.collect();
        silent.sort_unstable();
        alike
            .entry((shard.replicas.len(), silent))
            .or_default()
            .push(shard.id);
    }
    let text = |((voters, silent), shards): (&(usize, Vec<u64>), &Vec<u32>)| {
        let up = voters - silent.len();
        let needed = voters / 2 + 1;
        let who = match shards.as_slice() {
            [shard] => format!("{} has no majority, so nobody leads it", shard_name(*shard)),
            shards => format!("{} have no majority, so nobody leads them", shard_numbers(shards)),
        };
        let all = count(*voters, "replica");
        let answer = if up == 1 || *voters == 1 {
            "answers"
        } else {
            "answer"
        };
        let are = if needed == 1 { "is" } else { "are" };
        format!(
            "{who}: {up} of {all} {answer}, {needed} {are} needed. Bring back {}. If that cannot be: kvsvr recover, \"Lost quorum\" in \
             docs/operations.md",
            some_of(view, silent, needed - up)
        )
    };
    alike.iter().map(text).collect()
}

/// So many of these nodes.
fn some_of(view: &View, nodes: &[u64], wanted: usize) -> String {
    let names: Vec<String> = nodes.iter().map(|id| view.name(*id)).collect();
    match wanted {
        all if all == names.len() => names.join(" and "),
        1 => names.join(" or "),
        some => format!("{some} of {}", names.join(", ")),
    }
}

/// Several shards in a sentence.
fn shard_numbers(shards: &[u32]) -> String {
    let named: Vec<String> = shards.iter().take(NAMED).map(u32::to_string).collect();
    let more = match shards.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("shards {}{more}", named.join(", "))
}

impl Survival {
    /// Of a cluster as it is seen.
    pub fn of(view: &View) -> Option<Survival> {
        survival(&voters(view))
    }

    /// In words.
    pub fn text(&self) -> String {
        match self {
            Survival::CanLose(nodes) => format!("can lose {}", count(*nodes, "more node")),
            Survival::NoMajority(shards) => match shards.as_slice() {
                [shard] => format!("can lose none: {} has no majority", shard_name(*shard)),
                shards => format!("can lose none: no majority in {}", shard_numbers(shards)),
            },
        }
    }

    /// How good that is.
    pub fn mood(&self) -> Mood {
        match self {
            Survival::CanLose(0) => Mood::Warn,
            Survival::CanLose(_) => Mood::Good,
            Survival::NoMajority(_) => Mood::Bad,
        }
    }

    /// For programs: how many, and the shards without a majority.
    pub fn json(survival: Option<&Survival>) -> (Value, Value) {
        match survival {
            Some(Survival::CanLose(nodes)) => (json!(nodes), json!([])),
            Some(Survival::NoMajority(shards)) => (json!(0), json!(shards)),
            None => (Value::Null, json!([])),
        }
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_client::proto::ReplicaChange;
    use proptest::prelude::*;

    use super::*;
    use crate::health::tests::{healthy, view};

    /// Shards with these voters, numbered from 0, of which these nodes are down.
    fn shards(voters: &[&[u64]], down: &[u64]) -> Vec<Voters> {
        let shard = |(shard, voters): (usize, &&[u64])| Voters {
            shard: shard as u32,
            voters: voters.to_vec(),
            up: voters.iter().copied().filter(|id| !down.contains(id)).collect(),
        };
        voters.iter().enumerate().map(shard).collect()
    }

    #[test]
    fn the_shard_with_the_fewest_voters_to_spare_decides() {
        let three: &[&[u64]] = &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]];
        assert_eq!(survival(&shards(three, &[])), Some(Survival::CanLose(1)));
        assert_eq!(survival(&shards(three, &[3])), Some(Survival::CanLose(0)));
        let of_five: &[&[u64]] = &[&[1, 2, 3], &[2, 3, 4], &[3, 4, 5], &[4, 5, 1], &[5, 1, 2]];
        assert_eq!(survival(&shards(of_five, &[])), Some(Survival::CanLose(1)));
        let all_five: &[&[u64]] = &[&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]];
        assert_eq!(survival(&shards(all_five, &[])), Some(Survival::CanLose(2)));
        assert_eq!(survival(&shards(&[&[1]], &[])), Some(Survival::CanLose(0)));
        assert_eq!(survival(&[]), None);
    }

    #[test]
    fn a_shard_without_a_majority_is_named() {
        let voters: &[&[u64]] = &[&[1, 2, 3], &[1, 2, 3], &[3, 4, 5]];
        let survival = survival(&shards(voters, &[4, 5])).unwrap();
        assert_eq!(survival, Survival::NoMajority(vec![2]));
        assert_eq!(survival.text(), "can lose none: shard 2 has no majority");
        let survival = Survival::NoMajority(vec![0, 1, 2]);
        assert_eq!(survival.text(), "can lose none: no majority in shards 0, 1, 2");
        assert_eq!(Survival::json(Some(&survival)), (json!(0), json!([0, 1, 2])));
    }

    #[test]
    fn of_many_shards_the_first_are_named() {
        let survival = Survival::NoMajority((0..64).collect());
        assert_eq!(
            survival.text(),
            "can lose none: no majority in shards 0, 1, 2, 3 and 60 more"
        );
    }

    #[test]
    fn words_agree_with_the_number() {
        assert_eq!(Survival::CanLose(0).text(), "can lose 0 more nodes");
        assert_eq!(Survival::CanLose(1).text(), "can lose 1 more node");
        assert_eq!(Survival::json(Some(&Survival::CanLose(2))), (json!(2), json!([])));
        assert_eq!(Survival::json(None), (Value::Null, json!([])));
    }

    #[test]
    fn of_a_cluster_whose_nodes_are_down_or_somebody_else() {
        assert_eq!(Survival::of(&healthy()), Some(Survival::CanLose(1)));
        let one_down = view(|nodes| nodes[1].status = Err("refused".into()));
        assert_eq!(Survival::of(&one_down), Some(Survival::CanLose(0)));
        let other = view(|nodes| {
            if let Ok(status) = &mut nodes[1].status {
                status.node_id = 9;
            }
        });
        assert_eq!(Survival::of(&other), Some(Survival::CanLose(0)));
        let without_replica = view(|nodes| {
            for node in &mut nodes[..2] {
                if let Ok(status) = &mut node.status {
                    status.replicas.truncate(2);
                }
            }
        });
        assert_eq!(
            Survival::of(&without_replica),
            Some(Survival::NoMajority(vec![2]))
        );
    }

    #[test]
    fn a_change_of_voters_needs_both_majorities() {
        let mut view = healthy();
        view.map.shards[1].change = Some(ReplicaChange { add: 4, remove: 3 });
        assert_eq!(
            Survival::of(&view),
            Some(Survival::CanLose(0)),
            "node 4 is not there"
        );
        view.map.shards[1].change = Some(ReplicaChange { add: 0, remove: 0 });
        assert_eq!(Survival::of(&view), Some(Survival::CanLose(1)));
    }

    proptest! {
        /// Against trying every loss.
        #[test]
        fn is_what_trying_every_loss_says(
            masks in proptest::collection::vec(1u32..64, 1..5),
            down in 0u32..64,
        ) {
            let members = |mask: u32| (0..6).filter(move |n| mask & (1 << n) != 0);
            let shards: Vec<Voters> = masks.iter().enumerate().map(|(shard, mask)| Voters {
                shard: shard as u32,
                voters: members(*mask).collect(),
                up: members(mask & !down).collect(),
            }).collect();
            let holds = |lost: u32| masks.iter().all(|mask| {
                (mask & !down & !lost).count_ones() > mask.count_ones() / 2
            });
            // Greatest k such that no loss of up to k nodes that are up breaks a shard; None if one is broken now.
            let up = 63 & !down;
            let breaking = (0..64u32).filter(|lost| lost & !up == 0 && !holds(*lost)).map(u32::count_ones).min();
            let expected = breaking.map(|fewest| fewest.checked_sub(1));
            match (survival(&shards).unwrap(), expected.unwrap()) {
                (Survival::CanLose(nodes), Some(most)) => prop_assert_eq!(nodes as u32, most),
                (Survival::NoMajority(_), None) => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
