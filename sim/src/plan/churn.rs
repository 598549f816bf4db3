//! Operators who change the members of the cluster while everything else goes on.

use std::{collections::BTreeSet, time::Duration};

use super::{Ask, Order, Plan, Victims, What};
use crate::random::Stream;

/// Voters of each data shard: so many that one may be lost.
const REPLICATION: usize = 3;
/// One operator kills machines and their disks, and has replicas made anew: two could take more than a shard can lose.
const DESTROYER: usize = 0;

/// Gives a plan spare machines and operators. What it damages is left out: which replicas of a shard there are changes, so nobody can say which
/// may be damaged without more being lost than was promised.
pub(super) fn add(plan: &mut Plan) {
    let mut chance = Stream::new(plan.seed, &[&"plan", &"orders"]);
    plan.spares = chance.range(1, 3) as usize;
    plan.replication = REPLICATION;
    plan.faults
        .retain(|fault| !matches!(fault.what, What::Damage { .. } | What::EmptyDisk { .. }));
    spare_too(plan, &mut chance);
    let between = chance.log_uniform(Duration::from_millis(800), Duration::from_secs(25));
    let mut at_ms = chance.range(500, 3_000);
    while at_ms < plan.length_ms {
        let operator = chance.index(2);
        let ask = ask(plan, operator, &mut chance);
        plan.orders.push(Order { at_ms, operator, ask });
        at_ms += chance.exponential(between).as_millis() as u64 + 1;
    }
    // They came later to the plans, with a stream of their own: the other orders are what they were.
    plan.orders.extend(reseeds(plan));
    plan.orders.sort_by_key(|order| order.at_ms);
}

/// Replicas that are made anew. Some of that is taken back soon.
fn reseeds(plan: &Plan) -> Vec<Order> {
    let mut chance = Stream::new(plan.seed, &[&"plan", &"reseeds"]);
    let between = chance.log_uniform(Duration::from_secs(4), Duration::from_secs(40));
    let mut orders = Vec::new();
    let mut at_ms = chance.range(500, 10_000);
    while at_ms < plan.length_ms {
        let shard = chance.below(u64::from(plan.shards) + 1) as u32;
        let nth = chance.index(REPLICATION);
        orders.push(Order {
            at_ms,
            operator: DESTROYER,
            ask: Ask::Reseed { shard, nth },
        });
        if chance.chance(0.3) {
            let soon = chance.log_uniform(Duration::from_millis(100), Duration::from_secs(5));
            orders.push(Order {
                at_ms: at_ms + soon.as_millis() as u64,
                operator: 1 - DESTROYER,
                ask: Ask::Abort,
            });
        }
        at_ms += chance.exponential(between).as_millis() as u64 + 1;
    }
    orders.retain(|order| order.at_ms < plan.length_ms);
    orders
}

/// Some faults of single nodes come to spare machines.
fn spare_too(plan: &mut Plan, chance: &mut Stream) {
    let (nodes, machines) = (plan.nodes, plan.machines());
    for fault in &mut plan.faults {
        let victims = match &mut fault.what {
            What::Kill { victims } | What::PowerLoss { victims } | What::Pause { victims } => victims,
            What::Cut { victims, .. } => victims,
            _ => continue,
        };
        if matches!(victims, Victims::Nodes(nodes) if nodes.len() == 1) && chance.chance(0.4) {
            let spare = nodes + chance.index(machines - nodes);
            *victims = Victims::Nodes(BTreeSet::from([spare]));
        }
    }
}

fn ask(plan: &Plan, operator: usize, chance: &mut Stream) -> Ask {
    let (nodes, machines) = (plan.nodes, plan.machines());
    let some = chance.index(machines);
    let spare = nodes + chance.index(machines - nodes);
    match chance.below(20) {
        0..4 => Ask::Add(if chance.chance(0.7) { spare } else { some }),
        4..7 => Ask::Remove(some),
        7..9 => Ask::Replace {
            old: some,
            new: if chance.chance(0.7) {
                spare
            } else {
                chance.index(machines)
            },
        },
        9..11 => Ask::Drain(some),
        11 => Ask::Undrain(some),
        12 => Ask::Evict(some),
        13 => Ask::Restore(some),
        14..16 => Ask::Abort,
        _ if operator == DESTROYER => Ask::Wipe(some),
        _ => Ask::Undrain(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn churned(seed: u64) -> Plan {
        let mut plan = Plan::from_seed(seed);
        plan.add_churn();
        plan
    }

    #[test]
    fn a_plan_with_orders_survives_a_file() {
        for seed in 0..100 {
            let plan = churned(seed);
            assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan, "seed {seed}");
            assert!(plan.orders.is_sorted_by_key(|order| order.at_ms), "seed {seed}");
            let in_time = |order: &Order| order.at_ms < plan.length_ms;
            assert!(plan.orders.iter().all(in_time), "seed {seed}");
        }
    }

    /// Every shard's replicas are made anew, the meta shard's too, and some of it is taken back soon.
    #[test]
    fn replicas_of_every_shard_are_made_anew() {
        let mut shards = BTreeSet::new();
        let mut aborted = 0;
        for plan in (0..100).map(churned) {
            let mut orders = plan.orders.iter().peekable();
            while let Some(order) = orders.next() {
                if let Ask::Reseed { shard, nth } = order.ask {
                    assert!(shard <= plan.shards && nth < REPLICATION);
                    shards.insert(shard);
                    aborted += u32::from(orders.peek().is_some_and(|next| next.ask == Ask::Abort));
                }
            }
        }
        assert_eq!(shards, (0..4).collect());
        assert!(aborted > 20, "{aborted}");
    }

    /// As old plans have it, and new ones.
    #[test]
    fn orders_have_a_stable_form() {
        let read = |text: &str| serde_json::from_str::<Order>(text).unwrap();
        let order = |ask| Order {
            at_ms: 9,
            operator: 1,
            ask,
        };
        assert_eq!(
            read(r#"{"at_ms": 9, "operator": 1, "ask": {"replace": {"old": 2, "new": 4}}}"#),
            order(Ask::Replace { old: 2, new: 4 })
        );
        assert_eq!(
            read(r#"{"at_ms": 9, "operator": 1, "ask": "abort"}"#),
            order(Ask::Abort)
        );
        let reseed = order(Ask::Reseed { shard: 0, nth: 2 });
        let text = r#"{"at_ms":9,"operator":1,"ask":{"reseed":{"shard":0,"nth":2}}}"#;
        assert_eq!(serde_json::to_string(&reseed).unwrap(), text);
        assert_eq!(read(text), reseed);
    }
}
