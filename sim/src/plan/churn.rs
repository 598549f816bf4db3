//! Operators who change the members of the cluster while everything else goes on.

use std::{collections::BTreeSet, time::Duration};

use super::{Ask, Order, Plan, Victims, What};
use crate::random::Stream;

/// Voters of each data shard: so many that one may be lost.
const REPLICATION: usize = 3;
/// One operator kills machines and their disks: two could take more than a shard can lose.
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
