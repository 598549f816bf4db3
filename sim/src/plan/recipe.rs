//! Compositions of faults that random drawing seldom makes, each with random timing.

use super::{DiskOperation, Fault, Plan, Victims, What};
use crate::{
    failpoint::{Action, Point, Step},
    random::Stream,
};

/// The recipes, by the name that [`Plan::origin`] has.
pub(super) const NAMES: [&str; 10] = [
    "leader_hears_nothing",
    "leader_is_not_heard",
    "leader_wakes_late",
    "snapshot_then_crash",
    "quorum_loses_power",
    "all_lose_power",
    "rolling_kill",
    "faux_leader",
    "flush_crashes",
    "installation_crashes",
];

/// The recipe again and again until the plan's end.
pub(super) fn faults(name: &str, chance: &mut Stream, plan: &Plan) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = chance.range(500, 3_000);
    while at < plan.length_ms {
        let shard = chance.below(u64::from(plan.shards) + 1) as u32;
        let lasts = once(name, chance, plan, shard, at, &mut faults);
        at += lasts + chance.range(200, 4_000);
    }
    faults.retain(|fault| fault.at_ms < plan.length_ms);
    faults
}

/// Adds the recipe's faults from a time on. How long it takes, in milliseconds.
fn once(name: &str, chance: &mut Stream, plan: &Plan, shard: u32, at: u64, faults: &mut Vec<Fault>) -> u64 {
    let mut add = |at_ms: u64, for_ms: u64, what: What| faults.push(Fault { at_ms, for_ms, what });
    let leader = || Victims::Leader(shard);
    let cut = |victims, sending, receiving| What::Cut {
        victims,
        sending,
        receiving,
        clients: false,
    };
    let failpoint = |victims, point: Point, hit, action| What::Failpoint {
        victims,
        point,
        hit,
        action,
    };
    let election = plan.knobs.election_max_ms;
    let some: usize = chance.index(plan.nodes);
    match name {
        "leader_hears_nothing" => {
            let lasts = chance.range(election, 6 * election);
            add(at, lasts, cut(leader(), false, true));
            lasts
        }
        "leader_is_not_heard" => {
            let lasts = chance.range(election, 6 * election);
            add(at, lasts, cut(leader(), true, false));
            lasts
        }
        "leader_wakes_late" => {
            // Longer than the lease, so that another one leads meanwhile; and the client's reads wait in its queues.
            let lasts = chance.range(plan.knobs.election_min_ms / 2, 4 * election);
            add(at, lasts, What::Pause { victims: leader() });
            lasts
        }
        "snapshot_then_crash" => {
            // Away for long enough that the log is purged, back, and killed while it catches up.
            let away = chance.range(3_000, 8_000);
            let victims = Victims::Nodes([some].into());
            add(at, away, cut(victims.clone(), true, true));
            let later = at + away + chance.range(1, 300);
            let down = chance.range(1, 500);
            add(
                later,
                down,
                What::Kill {
                    victims: victims.clone(),
                },
            );
            let again = later + down + chance.range(1, 300);
            add(again, 50, What::PowerLoss { victims });
            again + 50 - at
        }
        "installation_crashes" => {
            // Away for long enough that it is sent a snapshot, and then it dies at one of the steps of installing that.
            let away = chance.range(3_000, 8_000);
            let victims = Victims::Nodes([some].into());
            add(at, away, cut(victims.clone(), true, true));
            let steps = [
                Step::SnapshotWrite,
                Step::SnapshotSync,
                Step::SnapshotMark,
                Step::EngineClear,
                Step::EngineFlush,
                Step::SnapshotRemove,
            ];
            let step = steps[chance.index(steps.len())];
            let point = [step.before(), step.after()][chance.index(2)];
            let action = [Action::Kill, Action::PowerLoss][chance.index(2)];
            add(
                at + away - 1,
                3_000,
                failpoint(victims, point, chance.range(1, 3), action),
            );
            away + 3_000
        }
        "quorum_loses_power" => {
            let down = chance.range(50, 2_000);
            let mut nodes = std::collections::BTreeSet::new();
            while nodes.len() <= plan.nodes / 2 {
                nodes.insert(chance.index(plan.nodes));
            }
            add(at, down, What::PowerLoss { victims: leader() });
            add(
                at,
                down,
                What::PowerLoss {
                    victims: Victims::Nodes(nodes),
                },
            );
            down
        }
        "all_lose_power" => {
            let down = chance.range(10, 1_000);
            add(
                at,
                down,
                What::PowerLoss {
                    victims: Victims::All,
                },
            );
            down
        }
        "rolling_kill" => {
            let mut when = at;
            for node in 0..plan.nodes {
                let down = chance.range(10, 400);
                let victims = Victims::Nodes([node].into());
                add(when, down, What::Kill { victims });
                when += down + chance.range(0, election);
            }
            when - at
        }
        "faux_leader" => {
            // Its syncs take longer than an election, but it hears and is heard.
            let lasts = chance.range(2_000, 6_000);
            let slow = What::SlowDisk {
                victims: leader(),
                sync_us: election * 1_000,
                stall: 0.2,
                stall_ms: 3 * election,
            };
            add(at, lasts, slow);
            lasts
        }
        _ => {
            let point = [Step::EngineFlush.before(), Step::EngineFlush.after()][chance.index(2)];
            let victims = Victims::Nodes([some].into());
            add(
                at,
                2_000,
                failpoint(victims, point, chance.range(1, 3), Action::Kill),
            );
            let operation = [DiskOperation::Write, DiskOperation::Sync][chance.index(2)];
            let victims = Victims::Follower(shard, chance.index(plan.nodes - 1));
            let after = chance.range(1, 20);
            add(
                at + 500,
                1_500,
                What::DiskError {
                    victims,
                    operation,
                    after,
                },
            );
            2_000
        }
    }
}
