//! Compositions of faults that random drawing seldom makes, each with random timing.

use std::collections::BTreeSet;

use kvsvr_jepsen::workload::{Program, Session};

use super::{DiskOperation, Fault, Plan, Victims, What};
use crate::{
    ballast::Ballast,
    damage::Target,
    failpoint::{Action, Point, Step},
    random::Stream,
};

/// The recipes, by the name that [`Plan::origin`] has.
pub(super) const NAMES: [&str; 17] = [
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
    "slow_installation",
    "voters_come_back",
    "candidate_loses_power",
    "log_damaged",
    "snapshot_damaged",
    "bridge",
    "clients_apart",
];

/// What a recipe needs of a plan besides faults.
pub(super) fn prepare(name: &str, plan: &mut Plan) {
    if matches!(
        name,
        "snapshot_then_crash" | "installation_crashes" | "slow_installation" | "snapshot_damaged"
    ) {
        // Who is away for a few seconds needs a snapshot only if the log is purged meanwhile.
        let knobs = &mut plan.knobs;
        knobs.flush_bytes = knobs.flush_bytes.min(64 << 10);
        knobs.keep_log_bytes = knobs.keep_log_bytes.min(32 << 10);
        write_much(plan);
    }
    if matches!(name, "quorum_loses_power" | "all_lose_power") {
        // What counts before it is durable is lost if messages are quicker than the disk.
        plan.knobs.sync_us.1 = plan.knobs.sync_us.1.max(10_000);
    }
    if name == "log_damaged" {
        // What is flushed is not read from the log again.
        let knobs = &mut plan.knobs;
        knobs.flush_bytes = knobs.flush_bytes.max(16 << 20);
        knobs.write_buffer_bytes = knobs.write_buffer_bytes.max(16 << 20);
        write_much(plan);
    }
    if name == "slow_installation" {
        // Somebody reads at the replica whatever it has.
        plan.workload.programs.push(Program::Session(Session {
            others: 4,
            pause_us: 40_000,
            ..Session::default()
        }));
    }
}

fn write_much(plan: &mut Plan) {
    let ballast = plan.ballast.get_or_insert(Ballast {
        bytes: 5_000,
        pause_us: 50_000,
    });
    ballast.bytes = ballast.bytes.max(4_000);
    ballast.pause_us = ballast.pause_us.min(100_000);
}

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
            "slow_installation" => self.slow_installation(),
            "voters_come_back" => self.voters_come_back(),
            "candidate_loses_power" => self.candidate_loses_power(),
            "log_damaged" => self.log_damaged(),
            "snapshot_damaged" => self.snapshot_damaged(),
            "bridge" => self.bridge(),
            "clients_apart" => self.clients_apart(),
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

    fn slow_installation(&mut self) -> u64 {
        // Away for long enough that it is sent a snapshot, which its disk then takes long to give.
        let away = self.chance.range(3_000, 8_000);
        self.add(self.at, away, cut(self.somebody(), true, true));
        let slow = What::SlowDisk {
            victims: self.somebody(),
            sync_us: self.chance.range(1_000, 50_000),
            stall: 0.2 + 0.6 * self.chance.unit(),
            stall_ms: self.chance.range(100, 1_000),
        };
        let lasts = self.chance.range(3_000, 8_000);
        self.add(self.at + away - 1, lasts, slow);
        away + lasts
    }

    fn voters_come_back(&mut self) -> u64 {
        // One is cut off until it wants to lead. Then the leader is, at the moment at which those come back whose promises it trusts. The
        // meta shard is it, since others are written to, and who was cut off gets no votes.
        let (nodes, election) = (self.plan.nodes, self.plan.knobs.election_max_ms);
        let leader = (self.some + 1) % nodes;
        let transfer = What::Transfer { shard: 0, to: leader };
        self.add(self.at, 0, transfer);
        let cut_off = self.at + self.chance.range(300, 1_000);
        let away = self.chance.range(3 * election, 5 * election);
        self.add(cut_off, away, cut(self.somebody(), true, true));
        let back = cut_off + away;
        let leader = Victims::Nodes([leader].into());
        self.add(back, 2 * election, cut(leader, true, true));
        for voter in 2..2 + nodes / 2 {
            let victims = Victims::Nodes([(self.some + voter) % nodes].into());
            let down = self.chance.range(1, 20);
            self.add(back, down, What::Kill { victims });
        }
        back + 2 * election - self.at
    }

    fn candidate_loses_power(&mut self) -> u64 {
        // Syncs take long, so that it is asking for votes while its own is on its way to the disk.
        let knobs = &self.plan.knobs;
        let (min, max) = (knobs.election_min_ms, knobs.election_max_ms);
        let lasts = 4 * max;
        let slow = What::SlowDisk {
            victims: Victims::All,
            sync_us: self.chance.range(20_000, 200_000),
            stall: 0.0,
            stall_ms: 1,
        };
        self.add(self.at, lasts, slow);
        let victims = self.leader();
        self.add(self.at + 10, lasts - 10, What::Kill { victims });
        // Nobody wants to lead before the promises to the last leader have run out, and each waits for some time more.
        let when = self.at + 10 + max + self.chance.range(min, max + 200);
        let down = self.chance.range(1, 50);
        let victims = self.somebody();
        self.add(when, down, What::PowerLoss { victims });
        lasts
    }

    fn log_damaged(&mut self) -> u64 {
        let lasts = self.chance.range(1_000, 4_000);
        let damage = What::Damage {
            victims: self.somebody(),
            target: Target::Log,
            restart: true,
        };
        self.add(self.at, lasts, damage);
        lasts
    }

    fn snapshot_damaged(&mut self) -> u64 {
        // Away for long enough that it is sent a snapshot. It is held up when that is checked, or is marked to be installed, and what it
        // has staged is damaged meanwhile.
        let away = self.chance.range(3_000, 8_000);
        self.add(self.at, away, cut(self.somebody(), true, true));
        let point = [Step::SnapshotMark.before(), Step::SnapshotMark.after()][self.chance.index(2)];
        let held = Action::Delay(self.chance.range(2_000, 5_000));
        let back = self.at + away;
        self.add(back - 1, 3_000, failpoint(self.somebody(), point, 1, held));
        let damage = What::Damage {
            victims: self.somebody(),
            target: Target::Staging,
            restart: self.chance.chance(0.5),
        };
        let lasts = self.chance.range(3_000, 6_000);
        let when = back + self.chance.range(500, 2_500);
        self.add(when, lasts, damage);
        when + lasts - self.at
    }

    fn bridge(&mut self) -> u64 {
        // Two parts do not hear each other, one node hears both: at three nodes a chain, whose middle may lead or not.
        let nodes = self.plan.nodes;
        let other = |by: usize| (self.some + by) % nodes;
        let lasts = self.chance.range(
            2 * self.plan.knobs.election_max_ms,
            8 * self.plan.knobs.election_max_ms,
        );
        let parts = [1..nodes.div_ceil(2), nodes.div_ceil(2)..nodes];
        let [one, another] = parts.map(|part| part.map(other).collect::<BTreeSet<usize>>());
        let what = What::Cut {
            victims: Victims::Nodes(one),
            sending: true,
            receiving: true,
            clients: false,
            only: another,
        };
        self.add(self.at, lasts, what);
        lasts
    }

    fn clients_apart(&mut self) -> u64 {
        // One node, which leads some shards, is apart with clients that hear nobody else; the others hear the rest only. Their processes may
        // stand still over the end of it.
        let election = self.plan.knobs.election_max_ms;
        let lasts = self.chance.range(2 * election, 8 * election);
        let rest = (0..self.plan.nodes).filter(|node| *node != self.some).collect();
        self.add(self.at, lasts, cut(self.somebody(), true, true));
        for (victims, host) in [(self.somebody(), 1), (Victims::Nodes(rest), 0)] {
            let hosts = [host].into();
            self.add(self.at, lasts, What::CutClients { victims, hosts });
        }
        if self.chance.chance(0.5) {
            let late = self.chance.range(1, lasts);
            let still = self.chance.range(1, 3_000);
            self.add(self.at + late, still, What::PauseClients {});
        }
        lasts
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
        only: BTreeSet::new(),
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
