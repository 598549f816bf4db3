//! Whether a plan from a file can be run: one that cannot would fail as if the nodes were to blame.
//!
//! Plans that are drawn always can. What is refused here is what somebody wrote by hand and did not mean.

use std::collections::BTreeSet;

use super::{Fault, Knobs, Order, Plan, Victims, What};

/// Says what is wrong with a plan, in words.
pub(super) fn check(plan: &Plan) -> Result<(), String> {
    cluster(plan)?;
    knobs(&plan.knobs)?;
    plan.faults.iter().try_for_each(|fault| of_fault(plan, fault))?;
    plan.orders.iter().try_for_each(|order| of_order(plan, order))
}

fn cluster(plan: &Plan) -> Result<(), String> {
    if plan.nodes == 0 || plan.machines() > 9 || !(1..=16).contains(&plan.shards) {
        return Err("a plan has 1 to 9 nodes and 1 to 16 shards".into());
    }
    if plan.replication > plan.nodes {
        return Err(format!(
            "replication is {}, but the cluster is made of {} nodes",
            plan.replication, plan.nodes
        ));
    }
    Ok(())
}

/// As the configuration of a node is checked: with other times no leader would be elected, or none would stay.
fn knobs(knobs: &Knobs) -> Result<(), String> {
    let (heartbeat, min, max) = (knobs.heartbeat_ms, knobs.election_min_ms, knobs.election_max_ms);
    if heartbeat == 0 || min < heartbeat.saturating_mul(2) {
        return Err(format!(
            "election_min_ms is {min}, which must be at least twice heartbeat_ms, {heartbeat}, and that above 0"
        ));
    }
    if max <= min {
        return Err(format!(
            "election_max_ms is {max}, which must be greater than election_min_ms, {min}"
        ));
    }
    Ok(())
}

fn of_fault(plan: &Plan, fault: &Fault) -> Result<(), String> {
    if fault.at_ms >= plan.length_ms {
        return Err(too_late(plan, "fault", fault.at_ms));
    }
    let beyond = |victims: &BTreeSet<usize>| victims.iter().any(|node| *node >= plan.machines());
    let is_unknown = matches!(fault.what.victims(), Some(Victims::Nodes(nodes)) if beyond(nodes))
        || match &fault.what {
            What::Transfer { to, .. } => *to >= plan.machines(),
            What::Cut { only, .. } => beyond(only),
            _ => false,
        };
    if is_unknown {
        return Err(format!(
            "the fault at {} ms names a node that does not exist; nodes are 0 to {}",
            fault.at_ms,
            plan.machines() - 1
        ));
    }
    Ok(())
}

fn of_order(plan: &Plan, order: &Order) -> Result<(), String> {
    if order.at_ms >= plan.length_ms {
        return Err(too_late(plan, "order", order.at_ms));
    }
    let machines = order.ask.machines();
    if order.operator > 1 || machines.iter().any(|machine| *machine >= plan.machines()) {
        return Err(format!(
            "the order at {} ms names a machine or an operator that does not exist",
            order.at_ms
        ));
    }
    Ok(())
}

fn too_late(plan: &Plan, what: &str, at_ms: u64) -> String {
    format!(
        "the {what} at {at_ms} ms never comes: the plan's length_ms is {}",
        plan.length_ms
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Ask;

    /// Seed 1 with a change, read from a file.
    fn told(change: impl FnOnce(&mut Plan)) -> Result<Plan, String> {
        let mut plan = Plan::from_seed(1);
        change(&mut plan);
        Plan::from_json(&plan.to_json())
    }

    fn refused(part: &str, change: impl FnOnce(&mut Plan)) {
        let error = told(change).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    fn kill(at_ms: u64, node: usize) -> Fault {
        let victims = Victims::Nodes([node].into());
        Fault {
            at_ms,
            for_ms: 1_000,
            what: What::Kill { victims },
        }
    }

    #[test]
    fn what_comes_after_the_end_is_refused() {
        let late = |plan: &mut Plan, by: u64| {
            plan.faults = vec![kill(plan.length_ms + by - 1, 0)];
        };
        assert!(told(|plan| late(plan, 0)).is_ok(), "it may last beyond the end");
        refused("never comes: the plan's length_ms is", |plan| late(plan, 1));
        refused("the fault at", |plan| late(plan, 60_000));
        refused("the order at", |plan| {
            plan.orders = vec![Order {
                at_ms: plan.length_ms,
                operator: 0,
                ask: Ask::Abort,
            }];
        });
    }

    #[test]
    fn times_that_elect_nobody_are_refused() {
        let min = |min: u64| move |plan: &mut Plan| plan.knobs.election_min_ms = min;
        refused("election_max_ms", |plan| {
            plan.knobs.election_min_ms = plan.knobs.election_max_ms + 1;
        });
        refused("must be greater than election_min_ms", |plan| {
            plan.knobs.election_min_ms = plan.knobs.election_max_ms;
        });
        refused("at least twice heartbeat_ms", min(1));
        refused("above 0", |plan| plan.knobs.heartbeat_ms = 0);
        assert!(told(|_| {}).is_ok());
    }

    #[test]
    fn nodes_that_are_not_there_are_refused() {
        refused("does not exist; nodes are 0 to", |plan| {
            plan.faults = vec![kill(1, 9)]
        });
        refused("1 to 9 nodes", |plan| (plan.nodes, plan.spares) = (0, 3));
        refused("replication is 4", |plan| (plan.nodes, plan.replication) = (3, 4));
    }

    #[test]
    fn what_is_drawn_and_what_is_kept_can_be_run() {
        for seed in 0..3_000 {
            let mut plan = Plan::from_seed(seed);
            assert_eq!(check(&plan), Ok(()), "seed {seed}");
            plan.add_churn();
            assert_eq!(check(&plan), Ok(()), "seed {seed} with operators");
        }
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
        let mut plans = std::fs::read_dir(corpus).unwrap();
        assert!(plans.all(|plan| {
            let text = std::fs::read_to_string(plan.unwrap().path()).unwrap();
            Plan::from_json(&text).is_ok()
        }));
    }
}
