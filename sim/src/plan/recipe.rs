//! Compositions of faults that random drawing seldom makes, each with random timing.

use std::collections::BTreeSet;

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
        let some = chance.index(plan.nodes);
        let mut once = Once {
            chance,
            plan,
            shard,
            some,
            at,
            faults: &mut faults,
        };
        let lasts = once.cook(name);
        at += lasts + chance.range(200, 4_000);
    }
    faults.retain(|fault| fault.at_ms < plan.length_ms);
    faults
}

/// A recipe carried out once.
struct Once<'a> {
    chance: &'a mut Stream,
    plan: &'a Plan,
    /// The shard that it is about.
    shard: u32,
    /// The node that it is about.
    some: usize,
    /// From then on.
    at: u64,
    faults: &'a mut Vec<Fault>,
}

impl Once<'_> {
    /// Adds the recipe's faults. How long it takes, in milliseconds.
    fn cook(&mut self, name: &str) -> u64 {
        match name {
            "leader_hears_nothing" => self.leader_cut(false, true),
            "leader_is_not_heard" => self.leader_cut(true, false),
            "leader_wakes_late" => self.leader_wakes_late(),
            "snapshot_then_crash" => self.snapshot_then_crash(),
            "installation_crashes" => self.installation_crashes(),
            "quorum_loses_power" => self.quorum_loses_power(),
            "all_lose_power" => self.all_lose_power(),
            "rolling_kill" => self.rolling_kill(),
            "faux_leader" => self.faux_leader(),
            _ => self.flush_crashes(),
        }
    }

    fn add(&mut self, at_ms: u64, for_ms: u64, what: What) {
        self.faults.push(Fault { at_ms, for_ms, what });
    }

    fn leader(&self) -> Victims {
        Victims::Leader(self.shard)
    }

    fn somebody(&self) -> Victims {
        Victims::Nodes([self.some].into())
    }

    fn leader_cut(&mut self, sending: bool, receiving: bool) -> u64 {
        let election = self.plan.knobs.election_max_ms;
        let lasts = self.chance.range(election, 6 * election);
        self.add(self.at, lasts, cut(self.leader(), sending, receiving));
        lasts
    }

    fn leader_wakes_late(&mut self) -> u64 {
        // Longer than the lease, so that another one leads meanwhile; and the client's reads wait in its queues.
        let knobs = &self.plan.knobs;
        let lasts = self
            .chance
            .range(knobs.election_min_ms / 2, 4 * knobs.election_max_ms);
        let victims = self.leader();
        self.add(self.at, lasts, What::Pause { victims });
        lasts
    }

    fn snapshot_then_crash(&mut self) -> u64 {
        // Away for long enough that the log is purged, back, and killed while it catches up.
        let away = self.chance.range(3_000, 8_000);
        self.add(self.at, away, cut(self.somebody(), true, true));
        let later = self.at + away + self.chance.range(1, 300);
        let down = self.chance.range(1, 500);
        let victims = self.somebody();
        self.add(later, down, What::Kill { victims });
        let again = later + down + self.chance.range(1, 300);
        let victims = self.somebody();
        self.add(again, 50, What::PowerLoss { victims });
        again + 50 - self.at
    }

    fn installation_crashes(&mut self) -> u64 {
        // Away for long enough that it is sent a snapshot, and then it dies at one of the steps of installing that.
        let away = self.chance.range(3_000, 8_000);
        self.add(self.at, away, cut(self.somebody(), true, true));
        let steps = [
            Step::SnapshotWrite,
            Step::SnapshotSync,
            Step::SnapshotMark,
            Step::EngineClear,
            Step::EngineFlush,
            Step::SnapshotRemove,
        ];
        let step = steps[self.chance.index(steps.len())];
        let point = [step.before(), step.after()][self.chance.index(2)];
        let action = [Action::Kill, Action::PowerLoss][self.chance.index(2)];
        let hit = self.chance.range(1, 3);
        self.add(
            self.at + away - 1,
            3_000,
            failpoint(self.somebody(), point, hit, action),
        );
        away + 3_000
    }

    fn quorum_loses_power(&mut self) -> u64 {
        let down = self.chance.range(50, 2_000);
        let mut nodes = BTreeSet::new();
        while nodes.len() <= self.plan.nodes / 2 {
            nodes.insert(self.chance.index(self.plan.nodes));
        }
        for victims in [self.leader(), Victims::Nodes(nodes)] {
            self.add(self.at, down, What::PowerLoss { victims });
        }
        down
    }

    fn all_lose_power(&mut self) -> u64 {
        let down = self.chance.range(10, 1_000);
        let victims = Victims::All;
        self.add(self.at, down, What::PowerLoss { victims });
        down
    }

    fn rolling_kill(&mut self) -> u64 {
        let mut when = self.at;
        for node in 0..self.plan.nodes {
            let down = self.chance.range(10, 400);
            let victims = Victims::Nodes([node].into());
            self.add(when, down, What::Kill { victims });
            when += down + self.chance.range(0, self.plan.knobs.election_max_ms);
        }
        when - self.at
    }

    fn faux_leader(&mut self) -> u64 {
        // Its syncs take longer than an election, but it hears and is heard.
        let election = self.plan.knobs.election_max_ms;
        let lasts = self.chance.range(2_000, 6_000);
        let slow = What::SlowDisk {
            victims: self.leader(),
            sync_us: election * 1_000,
            stall: 0.2,
            stall_ms: 3 * election,
        };
        self.add(self.at, lasts, slow);
        lasts
    }

    fn flush_crashes(&mut self) -> u64 {
        let point = [Step::EngineFlush.before(), Step::EngineFlush.after()][self.chance.index(2)];
        let hit = self.chance.range(1, 3);
        self.add(
            self.at,
            2_000,
            failpoint(self.somebody(), point, hit, Action::Kill),
        );
        let operation = [DiskOperation::Write, DiskOperation::Sync][self.chance.index(2)];
        let victims = Victims::Follower(self.shard, self.chance.index(self.plan.nodes - 1));
        let after = self.chance.range(1, 20);
        let error = What::DiskError {
            victims,
            operation,
            after,
        };
        self.add(self.at + 500, 1_500, error);
        2_000
    }
}

fn cut(victims: Victims, sending: bool, receiving: bool) -> What {
    What::Cut {
        victims,
        sending,
        receiving,
        clients: false,
    }
}

fn failpoint(victims: Victims, point: Point, hit: u64, action: Action) -> What {
    What::Failpoint {
        victims,
        point,
        hit,
        action,
    }
}
