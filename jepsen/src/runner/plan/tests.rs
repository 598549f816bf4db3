//! Schedules from many seeds.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn draw(seed: u64, nodes: u64, shards: u32, load_ms: u64, kinds: &[Nemesis]) -> Result<Vec<Planned>, String> {
    super::draw(seed, nodes, shards, load_ms, &modes(kinds, nodes))
}

fn kinds() -> impl Strategy<Value = Vec<Nemesis>> {
    proptest::sample::subsequence(Nemesis::ALL.to_vec(), 1..=Nemesis::ALL.len())
}

/// Nodes that a fault names.
fn named(action: &Action) -> Vec<u64> {
    match action {
        Action::Kill { victim } | Action::Pause { victim } => match victim {
            Victim::Node(node) => vec![*node],
            Victim::Leader(_) => Vec::new(),
        },
        Action::Partition { cut } => match cut {
            Cut::Halves { side } => side.clone(),
            Cut::OneWay { from } => from.clone(),
            Cut::Bridge { side, bridge } => side.iter().copied().chain([*bridge]).collect(),
            Cut::Leader { .. } | Cut::LeaderWithClients { .. } | Cut::LeaderWithoutClients { .. } => {
                Vec::new()
            }
        },
        Action::Link { hosts, .. } => hosts.iter().copied().filter(|host| *host != CLIENTS).collect(),
        Action::ClockJump { node, .. }
        | Action::ClockDrift { node, .. }
        | Action::DiskFull { node, .. }
        | Action::DiskError { node, .. }
        | Action::Corrupt { node, .. }
        | Action::Members { node, .. }
        | Action::Replace { node }
        | Action::Rolling { first: node } => vec![*node],
        Action::DiskSlow { nodes, .. } => nodes.clone(),
        Action::Transfer { moves } => moves.iter().map(|(_, node)| *node).collect(),
        Action::KillAll | Action::Power => Vec::new(),
    }
}

fn overlap(one: &Planned, other: &Planned) -> bool {
    one.at_ms < other.ends_ms() && other.at_ms < one.ends_ms()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_kind_happens_within_the_load_and_ends_before_it(
        seed: u64, nodes in 1u64..8, shards in 1u32..5, load_ms in 90_000u64..900_000, kinds in kinds()
    ) {
        let faults = draw(seed, nodes, shards, load_ms, &kinds).unwrap();
        prop_assert_eq!(&draw(seed, nodes, shards, load_ms, &kinds).unwrap(), &faults);
        let happens: BTreeSet<Nemesis> = faults.iter().map(|fault| fault.action.nemesis()).collect();
        prop_assert_eq!(happens, kinds.iter().copied().collect());
        prop_assert!(faults.is_sorted_by_key(|fault| fault.at_ms));
        for fault in &faults {
            prop_assert!(fault.lasts_ms >= 500 && fault.ends_ms() + 4_000 <= load_ms, "{fault:?}");
            prop_assert!(named(&fault.action).iter().all(|node| (1..=nodes).contains(node)), "{fault:?}");
        }
        prop_assert_eq!(&draw(seed, nodes, shards, 900_000, &[]).unwrap(), &[]);
    }

    #[test]
    fn a_majority_is_never_held_but_by_what_holds_all(seed: u64, nodes in 3u64..8, kinds in kinds()) {
        let faults = draw(seed, nodes, 3, 600_000, &kinds).unwrap();
        let holders: Vec<&Planned> =
            faults.iter().filter(|fault| fault.action.nemesis().holds_processes()).collect();
        let held = |fault: &Planned| match &fault.action {
            Action::DiskSlow { nodes, .. } => nodes.len() as u64,
            _ => 1,
        };
        for fault in &holders {
            let others: Vec<_> = holders
                .iter()
                .filter(|other| **other != *fault && overlap(fault, other))
                .collect();
            let at_once = held(fault) + others.iter().map(|other| held(other)).sum::<u64>();
            prop_assert!(at_once <= (nodes - 1) / 2 || others.is_empty() && at_once == 1, "{fault:?} {others:?}");
            prop_assert!(!fault.action.nemesis().holds_all() || others.is_empty());
        }
    }

    #[test]
    fn a_long_schedule_has_every_way_and_a_short_one_says_which_not(
        seed: u64, nodes in 1u64..8, load_ms in 90_000u64..900_000
    ) {
        let mut plan = Plan {
            seed,
            nodes,
            shards: 3,
            load_ms,
            workload: Spec::named(&["bank"]).unwrap(),
            faults: draw(seed, nodes, 3, load_ms, &Nemesis::ALL).unwrap(),
            nemeses: Nemesis::ALL.to_vec(),
        };
        let all: usize = Nemesis::ALL.iter().map(|nemesis| nemesis.ways(nodes).len()).sum();
        prop_assert_eq!(plan.modes().len() + plan.unplanned().len(), all);
        let drifts = plan.faults.iter().filter_map(|fault| match fault.action {
            Action::ClockDrift { percent, .. } => Some((percent - 100.0).abs()),
            _ => None,
        });
        for off in drifts {
            prop_assert!((2.99..9.01).contains(&off), "{off}");
        }
        plan.faults = draw(seed, nodes, 3, 600_000, &Nemesis::ALL).unwrap();
        prop_assert_eq!(plan.unplanned(), []);
    }

    #[test]
    fn what_links_are_to_show_they_do(seed: u64) {
        let faults = draw(seed, 5, 3, 600_000, &[Nemesis::Link]).unwrap();
        for fault in faults {
            let Action::Link { shows, delay_ms, jitter_ms, reorder, loss, duplicate, .. } = fault.action else {
                continue;
            };
            let does = match shows {
                BadLink::Delay => delay_ms >= 10,
                BadLink::Jitter => jitter_ms >= 10,
                BadLink::Reordering => jitter_ms >= 10 && reorder,
                BadLink::Loss => loss >= 2.0,
                BadLink::Duplicates => duplicate >= 4.0,
            };
            prop_assert!(does, "{:?}", shows);
        }
    }

    /// Four bursts with three short quiet times take 93 s; at a load's end there may be one burst more, and what it would have been followed by.
    #[test]
    fn a_long_quiet_time_is_never_far(seed: u64, load_ms in 90_000u64..900_000, kinds in kinds()) {
        let faults = draw(seed, 5, 3, load_ms, &kinds).unwrap();
        let (mut until, mut last_long) = (0, 0);
        for fault in &faults {
            if fault.at_ms >= until + 15_000 {
                last_long = fault.at_ms;
            }
            until = until.max(fault.ends_ms());
            prop_assert!(until <= last_long + 93_000, "none from {last_long} to {until} ms");
        }
        prop_assert!(load_ms <= last_long + 93_000 + 38_000, "none from {last_long} to {load_ms} ms");
    }

    #[test]
    fn there_are_quiet_times(seed: u64, kinds in kinds()) {
        let faults = draw(seed, 5, 3, 600_000, &kinds).unwrap();
        let (mut until, mut quiet) = (0, 0);
        for fault in &faults {
            quiet += u64::from(fault.at_ms >= until + 3_000);
            until = until.max(fault.ends_ms());
        }
        prop_assert!(quiet >= 20, "{quiet}");
    }

    #[test]
    fn a_plan_survives_json(seed: u64, kinds in kinds()) {
        let plan = Plan {
            seed,
            nodes: 5,
            shards: 3,
            load_ms: 300_000,
            workload: Spec::named(&["bank"]).unwrap(),
            faults: draw(seed, 5, 3, 300_000, &kinds).unwrap(),
            nemeses: kinds,
        };
        let json = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    }
}

#[test]
fn seeds_differ_and_too_little_time_is_told() {
    let draw_of = |seed, load_ms| draw(seed, 5, 3, load_ms, &Nemesis::ALL);
    assert_ne!(draw_of(1, 600_000), draw_of(2, 600_000));
    let error = draw_of(1, 60_000).unwrap_err();
    assert!(error.contains("15 kinds") && error.contains("90 s"), "{error}");
    assert!(draw_of(1, 90_000).is_ok());
}

#[test]
fn a_short_load_has_no_long_quiet_times() {
    let kinds = [Nemesis::Kill, Nemesis::Pause];
    assert!(draw(1, 3, 2, 30_000, &kinds).is_ok(), "2 + 18 + 7 s are enough");
    assert!(draw(1, 3, 2, 26_000, &kinds).is_err());
}

#[test]
fn overlap_is_common() {
    let faults = draw(1, 5, 3, 600_000, &Nemesis::ALL).unwrap();
    let at_once = |fault: &Planned| faults.iter().filter(|other| overlap(fault, other)).count();
    assert!(faults.iter().filter(|fault| at_once(fault) > 2).count() > faults.len() / 4);
}

#[test]
fn clocks_that_were_set_bound_the_error() {
    let fault = |lasts_ms, action| Planned {
        at_ms: 0,
        lasts_ms,
        action,
    };
    let plan = Plan {
        seed: 1,
        nodes: 3,
        shards: 1,
        load_ms: 1,
        workload: Spec::named(&["lease"]).unwrap(),
        nemeses: Vec::new(),
        faults: vec![
            fault(1, Action::ClockJump { node: 1, ms: -700 }),
            fault(1, Action::ClockJump { node: 1, ms: 500 }),
            fault(
                1_000,
                Action::ClockDrift {
                    node: 1,
                    percent: 105.0,
                },
            ),
            fault(
                2_000,
                Action::ClockDrift {
                    node: 2,
                    percent: 95.0,
                },
            ),
        ],
    };
    let wrong = |fault| {
        let wrong = plan.wrong_clock(fault, (SECOND, 3 * SECOND)).unwrap();
        assert_eq!((wrong.from, wrong.to), (SECOND, 3 * SECOND));
        (wrong.node, wrong.ahead, wrong.behind, wrong.rate_off)
    };
    const SECOND: u64 = 1_000_000_000;
    assert_eq!(wrong(0), (1, 0, 700_000_000, 0));
    assert_eq!(wrong(1), (1, 500_000_000, 0, 0));
    assert_eq!(wrong(2), (1, 100_000_000, 0, 50_000));
    assert_eq!(wrong(3), (2, 0, 100_000_000, 50_000));
    assert_eq!(plan.wrong_clock(4, (0, 1)), None);
}

#[test]
fn names_lead_back() {
    for nemesis in Nemesis::ALL {
        assert_eq!(nemesis.name().parse(), Ok(nemesis));
        assert_eq!(serde_json::to_value(nemesis).unwrap(), nemesis.name());
    }
}
