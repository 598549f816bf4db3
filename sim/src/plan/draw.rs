//! How a seed becomes a plan.

use std::{collections::BTreeSet, time::Duration};

use kvsvr_jepsen::workload::{Random, Spec};

use super::{BadLinks, DiskOperation, FORMAT, Fault, Knobs, Plan, Victims, What, recipe};
use crate::{
    ballast::Ballast,
    damage::Target,
    engine::EngineKind,
    failpoint::{Action, Point, Step},
    faults::CLIENT_HOSTS,
    random::Stream,
};

/// Of a hundred plans.
const CALM: u64 = 5;
const EXTREME: u64 = 10;
const RECIPES: u64 = 25;

/// Names of the kinds, as in [`What::kind`].
const KINDS: [&str; 18] = [
    "kill",
    "power_loss",
    "restart",
    "pause",
    "cut",
    "cut_clients",
    "clog",
    "bad_links",
    "clock_rate",
    "wall_clock",
    "slow_disk",
    "disk_full",
    "disk_error",
    "failpoint",
    "damage",
    "empty_disk",
    "pause_clients",
    "transfer",
];

pub(super) fn plan(seed: u64) -> Plan {
    let mut chance = Stream::new(seed, &[&"plan"]);
    let nodes = if chance.chance(0.25) { 5 } else { 3 };
    // Clients in a hurry find races, idle ones find time-outs; most of the time of a run goes into operations.
    let pace = chance
        .log_uniform(Duration::from_secs(4), Duration::from_secs(80))
        .as_secs_f64();
    let mut plan = Plan {
        format: FORMAT,
        seed,
        finds: None,
        origin: "swarm".into(),
        nodes,
        spares: 0,
        replication: 0,
        orders: Vec::new(),
        shards: chance.range(1, 4) as u32,
        knobs: knobs(&mut Stream::new(seed, &[&"plan", &"knobs"])),
        engine: EngineKind::default(),
        length_ms: chance.range(40_000, 280_000),
        workload: Spec::draw(&mut Random::new(seed, &[])).slowed(pace),
        ballast: ballast(&mut Stream::new(seed, &[&"plan", &"ballast"])),
        faults: Vec::new(),
    };
    let dice = chance.below(100);
    if dice < CALM {
        plan.origin = "calm".into();
        return plan;
    }
    let mut draw = Draw {
        seed,
        chance: Stream::new(seed, &[&"plan", &"faults"]),
        nodes,
        shards: plan.shards,
        length_ms: plan.length_ms,
    };
    if dice < CALM + EXTREME {
        plan.origin = "extreme".into();
        let kind = KINDS[chance.index(KINDS.len())];
        plan.faults = draw.faults(&[kind], Duration::from_millis(700));
    } else if dice < CALM + EXTREME + RECIPES {
        let name = recipe::NAMES[chance.index(recipe::NAMES.len())];
        plan.origin = name.into();
        recipe::prepare(name, &mut plan);
        plan.faults = recipe::faults(name, &mut draw.chance, &plan);
    } else {
        let on: Vec<&str> = KINDS.into_iter().filter(|_| chance.chance(0.5)).collect();
        let between = chance.log_uniform(Duration::from_millis(500), Duration::from_secs(8));
        plan.faults = draw.faults(&on, between);
    }
    plan.faults.sort_by_key(|fault| fault.at_ms);
    plan
}

fn ballast(chance: &mut Stream) -> Option<Ballast> {
    let micros = |chance: &mut Stream, low: u64, high: u64| {
        let (low, high) = (Duration::from_micros(low), Duration::from_micros(high));
        chance.log_uniform(low, high).as_micros() as u64
    };
    chance.chance(0.7).then(|| Ballast {
        bytes: micros(chance, 500, 50_000),
        pause_us: micros(chance, 20_000, 500_000),
    })
}

fn knobs(chance: &mut Stream) -> Knobs {
    let heartbeat_ms = [100, 100, 50, 200][chance.index(4)];
    let election_min_ms = heartbeat_ms * chance.range(3, 6);
    let bytes = |chance: &mut Stream, low: u64, high: u64| {
        let (low, high) = (Duration::from_nanos(low), Duration::from_nanos(high));
        chance.log_uniform(low, high).as_nanos() as u64
    };
    Knobs {
        heartbeat_ms,
        election_min_ms,
        election_max_ms: election_min_ms + election_min_ms * chance.range(40, 110) / 100 + 1,
        flush_bytes: bytes(chance, 4 << 10, 16 << 20),
        keep_log_bytes: bytes(chance, 1 << 10, 16 << 20),
        keep_revisions: bytes(chance, 20, 100_000),
        write_buffer_bytes: bytes(chance, 8 << 10, 16 << 20) as usize,
        // A cache of a few rows evicts all the time; none at all is a case of its own.
        row_cache_bytes: if chance.chance(0.2) {
            0
        } else {
            bytes(chance, 1 << 10, 8 << 20) as usize
        },
        hub_bytes: bytes(chance, 1 << 10, 8 << 20) as usize,
        segment_bytes: bytes(chance, 64 << 10, 1 << 20),
        link_us: (chance.range(50, 500), chance.range(50, 2000)),
        sync_us: (chance.range(50, 200), chance.range(20, 2000)),
        // A client has one in each shard. Who finds its own closed must say that it does not know.
        sessions: if chance.chance(0.3) { chance.range(4, 9) } else { 0 },
        session_idle_ms: if chance.chance(0.3) {
            bytes(chance, 1_000, 60_000)
        } else {
            0
        },
    }
}

struct Draw {
    seed: u64,
    chance: Stream,
    nodes: usize,
    shards: u32,
    length_ms: u64,
}

impl Draw {
    /// Faults of these kinds, begun at random times with this mean distance.
    fn faults(&mut self, kinds: &[&str], between: Duration) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut at_ms = 0;
        while !kinds.is_empty() {
            at_ms += self.chance.exponential(between).as_millis() as u64 + 1;
            if at_ms >= self.length_ms {
                break;
            }
            let kind = kinds[self.chance.index(kinds.len())];
            faults.push(Fault {
                at_ms,
                for_ms: self.millis(20, 6_000),
                what: self.what(kind, at_ms),
            });
        }
        faults
    }

    fn millis(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = (Duration::from_millis(low), Duration::from_millis(high));
        self.chance.log_uniform(low, high).as_millis() as u64
    }

    fn shard(&mut self) -> u32 {
        self.chance.below(u64::from(self.shards) + 1) as u32
    }

    /// One node, or a leader, or some, or all.
    fn victims(&mut self) -> Victims {
        match self.chance.below(10) {
            0..=2 => Victims::Leader(self.shard()),
            3 => Victims::Follower(self.shard(), self.chance.index(self.nodes - 1)),
            4..=6 => Victims::Nodes([self.chance.index(self.nodes)].into()),
            7 | 8 => {
                let mut nodes: BTreeSet<usize> = BTreeSet::new();
                let count = self.chance.range(1, self.nodes as u64) as usize;
                while nodes.len() < count {
                    nodes.insert(self.chance.index(self.nodes));
                }
                Victims::Nodes(nodes)
            }
            _ => Victims::All,
        }
    }

    /// Mostly none: then a cut is between its victims and all the rest.
    fn some_nodes(&self, at_ms: u64) -> BTreeSet<usize> {
        let mut chance = Stream::new(self.seed, &[&"plan", &"only", &at_ms]);
        if chance.chance(0.5) {
            return BTreeSet::new();
        }
        (0..self.nodes).filter(|_| chance.chance(0.5)).collect()
    }

    fn what(&mut self, kind: &str, at_ms: u64) -> What {
        let victims = self.victims();
        match kind {
            "kill" => What::Kill { victims },
            "power_loss" => What::PowerLoss { victims },
            "restart" => What::Restart { victims },
            "pause" => What::Pause { victims },
            "cut" => self.cut(victims, at_ms),
            "cut_clients" => What::CutClients {
                victims,
                hosts: [self.chance.index(CLIENT_HOSTS)].into(),
            },
            "pause_clients" => What::PauseClients {},
            "clog" => What::Clog { victims },
            "bad_links" => What::BadLinks {
                victims,
                links: self.bad_links(at_ms),
            },
            "clock_rate" => What::ClockRate {
                victims,
                rate: 0.9 + 0.2 * self.chance.unit(),
            },
            "wall_clock" => What::WallClock {
                victims,
                offset_ms: self.chance.below(7_200_000) as i64 - 3_600_000,
            },
            "slow_disk" => What::SlowDisk {
                victims,
                sync_us: self.millis(1, 500) * 1000,
                stall: 0.05 * self.chance.unit(),
                stall_ms: self.millis(10, 5_000),
            },
            "disk_full" => What::DiskFull {
                victims,
                room: self.chance.below(512 << 10),
            },
            "disk_error" => {
                use DiskOperation::{Flush, Read, Sync, Write};
                let operation = [Read, Write, Sync, Flush][self.chance.index(4)];
                let after = self.chance.range(1, 50);
                What::DiskError {
                    victims,
                    operation,
                    // The engine flushes seldom.
                    after: if operation == Flush { 1 + after % 3 } else { after },
                }
            }
            "failpoint" => self.failpoint(victims),
            "damage" => {
                let target =
                    [Target::Log, Target::Log, Target::Engine, Target::Staging][self.chance.index(4)];
                // Of a log that is in use little is read but by who starts with it.
                let restarts = if target == Target::Log { 0.85 } else { 0.5 };
                What::Damage {
                    victims,
                    target,
                    restart: self.chance.chance(restarts),
                }
            }
            "empty_disk" => What::EmptyDisk { victims },
            _ => What::Transfer {
                shard: self.shard(),
                to: self.chance.index(self.nodes),
            },
        }
    }

    fn cut(&mut self, victims: Victims, at_ms: u64) -> What {
        let (sending, receiving) = [(true, true), (true, false), (false, true)][self.chance.index(3)];
        What::Cut {
            victims,
            sending,
            receiving,
            clients: self.chance.chance(0.3),
            only: self.some_nodes(at_ms),
        }
    }

    fn failpoint(&mut self, victims: Victims) -> What {
        let (step, _) = Step::ALL[self.chance.index(Step::ALL.len())];
        let point = Point {
            step,
            after: self.chance.chance(0.5),
        };
        // The log is written all the time, the rest seldom.
        let most = if matches!(step, Step::WalWrite | Step::WalSync) {
            100
        } else {
            4
        };
        let action = match self.chance.below(if step.is_of_engine() { 3 } else { 4 }) {
            0 => Action::Kill,
            1 => Action::PowerLoss,
            2 => Action::Error,
            _ => Action::Delay(self.millis(1, 3_000)),
        };
        What::Failpoint {
            victims,
            point,
            hit: self.chance.range(1, most),
            action,
        }
    }

    /// Each way to be bad is on or off.
    fn bad_links(&mut self, at_ms: u64) -> BadLinks {
        // Of a stream of its own: what came later to the plans leaves the rest of them as it was.
        let mut width = Stream::new(self.seed, &[&"plan", &"bandwidth", &at_ms]);
        let bandwidth = match width.chance(0.3) {
            true => {
                let kilobytes = width.log_uniform(Duration::from_millis(200), Duration::from_secs(20));
                1_000 * kilobytes.as_millis() as u64
            }
            false => 0,
        };
        let mut some = |most: f64| {
            let share = self.chance.unit();
            if self.chance.chance(0.5) {
                most * share
            } else {
                0.0
            }
        };
        BadLinks {
            mean_us: some(20_000.0) as u64,
            jitter_us: some(200_000.0) as u64,
            loss: some(0.1),
            reset_before: some(0.02),
            reset_after: some(0.02),
            duplicate: some(0.1),
            replay: some(0.1),
            bandwidth,
        }
    }
}
