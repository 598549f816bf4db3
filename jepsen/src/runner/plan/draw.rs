//! Draws a schedule: bursts of a few kinds of faults that overlap, with quiet times between them in which recovery can be seen. Every fourth
//! quiet time, the first among them, is long: who is not served then has no excuse.
//!
//! Kinds are drawn like cards from a deck. It has every kind once; then each way that has not come yet; then, again and again, every kind
//! once, each in its next way. A short schedule does not come to all ways, one of ten minutes does. Faults that hold processes are on
//! different nodes, of which a majority is left, or one after another; those that hold all nodes are alone among them. Everything else
//! overlaps as it comes.

mod deck;

use self::deck::{Deck, shuffle};
use super::{
    Action, BadLink, CLIENTS, Cut, DamagedFiles, FailingCall, MemberChange, Mode, Nemesis, Planned, Victim,
};
use crate::workload::Random;

/// Milliseconds before the first burst: sessions and watches are to have begun.
const WARM_UP_MS: u64 = 2_000;
/// Bounds of a burst's milliseconds.
const BURST_MS: (u64, u64) = (10_000, 18_000);
/// Bounds of the milliseconds between two bursts.
const QUIET_MS: (u64, u64) = (4_000, 7_000);
/// The same of a long quiet time.
const LONG_QUIET_MS: (u64, u64) = (15_000, 20_000);
/// One of so many quiet times is long.
const LONG_QUIET_EVERY: u64 = 4;
/// From so many milliseconds of load on there are long ones.
const LONG_QUIET_FROM_MS: u64 = 60_000;
/// From so many milliseconds of load on a schedule has every way.
const EVERY_WAY_FROM_MS: u64 = 600_000;
/// Most kinds in one burst.
const MOST_KINDS: u64 = 5;
/// Least milliseconds of a fault.
const LEAST_MS: u64 = 800;

/// Draws the faults of a load of so many milliseconds, in these ways.
///
/// # Errors
/// The load is too short for so many kinds; the text says how long it must be.
pub fn draw(
    seed: u64,
    nodes: u64,
    shards: u32,
    load_ms: u64,
    modes: &[Mode],
) -> Result<Vec<Planned>, String> {
    if modes.is_empty() {
        return Ok(Vec::new());
    }
    let mut random = Random::new(seed, &[0x6e65_6d65]);
    let times = Times { load_ms };
    let mut deck = Deck::new(modes, load_ms >= EVERY_WAY_FROM_MS, &mut random);
    let kinds = deck.kinds();
    let needed = times.needed(kinds.div_ceil(MOST_KINDS));
    if load_ms < needed {
        return Err(format!(
            "{kinds} kinds of faults need at least {} s of load, to be seen each and apart",
            needed.div_ceil(1000)
        ));
    }
    let cluster = Cluster {
        nodes,
        shards,
        shared: false,
    };
    let (mut faults, mut at) = (Vec::new(), WARM_UP_MS);
    for number in 0.. {
        let left = times.bursts_left(number, at);
        if left == 0 {
            break;
        }
        let least = deck.owed().div_ceil(left);
        let count = random.range(1, 5).max(least);
        let mut burst: Vec<Mode> = Vec::new();
        while (burst.len() as u64) < count.min(kinds) {
            burst.extend(deck.deal(&burst, &mut random));
        }
        let length = random.range(BURST_MS.0, BURST_MS.1 + 1);
        lay_out(&burst, at, length, cluster, &mut random, &mut faults);
        let (low, high) = times.quiet(number);
        at += length + random.range(low, high + 1);
    }
    faults.sort_by_key(|fault| fault.at_ms);
    Ok(faults)
}

/// How long everything may take in a load of so many milliseconds.
struct Times {
    load_ms: u64,
}

impl Times {
    /// Bounds of the quiet time after a burst, which are numbered from 0 on.
    fn quiet(&self, burst: u64) -> (u64, u64) {
        match self.load_ms >= LONG_QUIET_FROM_MS && burst.is_multiple_of(LONG_QUIET_EVERY) {
            true => LONG_QUIET_MS,
            false => QUIET_MS,
        }
    }

    /// The most that a burst takes with the quiet time after it.
    fn longest(&self, burst: u64) -> u64 {
        BURST_MS.1 + self.quiet(burst).1
    }

    /// The most that so many bursts take.
    fn needed(&self, bursts: u64) -> u64 {
        WARM_UP_MS + (0..bursts).map(|burst| self.longest(burst)).sum::<u64>()
    }

    /// How many bursts there are at least, when this one may begin then.
    fn bursts_left(&self, burst: u64, at: u64) -> u64 {
        let mut at = at;
        let fits = |burst: &u64| {
            at += self.longest(*burst);
            at <= self.load_ms
        };
        (burst..).take_while(fits).count() as u64
    }
}

#[derive(Clone, Copy)]
struct Cluster {
    nodes: u64,
    shards: u32,
    /// Other faults hold nodes at the same time, one each.
    shared: bool,
}

impl Cluster {
    /// Most nodes of which a majority is still left without them.
    fn minority(self) -> u64 {
        (self.nodes - 1) / 2
    }

    fn node(self, random: &mut Random) -> u64 {
        1 + random.below(self.nodes)
    }

    fn shard(self, random: &mut Random) -> u32 {
        1 + random.below_u32(self.shards)
    }

    /// So many nodes, in order.
    fn some(self, count: u64, random: &mut Random) -> Vec<u64> {
        let mut all: Vec<u64> = (1..=self.nodes).collect();
        while all.len() as u64 > count {
            all.remove(random.below(all.len() as u64) as usize);
        }
        all
    }

    /// One node, or several of which a majority is left.
    fn few(self, random: &mut Random) -> Vec<u64> {
        let count = random.range(1, self.minority().max(1) + 1);
        self.some(count, random)
    }
}

/// Places the faults of a burst.
fn lay_out(
    burst: &[Mode],
    at: u64,
    length: u64,
    cluster: Cluster,
    random: &mut Random,
    faults: &mut Vec<Planned>,
) {
    let (holders, others): (Vec<Mode>, Vec<Mode>) = burst
        .iter()
        .copied()
        .partition(|mode| mode.nemesis.holds_processes());
    for mode in others {
        let start = random.below(length / 3);
        let room = (at + start, length - start);
        add(mode, room, cluster.node(random), cluster, random, faults);
    }
    // As many at a time as leave a majority, or one.
    let at_a_time = match holders.iter().any(|mode| mode.nemesis.holds_all()) {
        true => 1,
        false => cluster.minority().max(1),
    };
    let turns = (holders.len() as u64).div_ceil(at_a_time).max(1);
    let cluster = Cluster {
        shared: holders.len() as u64 > turns,
        ..cluster
    };
    let all: Vec<u64> = (1..=cluster.nodes).collect();
    let mut victims = all;
    shuffle(&mut victims, random);
    for (number, mode) in (0..).zip(holders) {
        let (round, turn) = (number / turns, number % turns);
        let slot = length / turns;
        let start = random.below(slot / 4);
        // Those of one turn are in different rounds, so that they have different victims.
        let victim = victims[((round + turn) % cluster.nodes) as usize];
        let room = (at + turn * slot + start, slot - start);
        add(mode, room, victim, cluster, random, faults);
    }
}

/// Adds a fault that begins then and has at most so long.
fn add(
    mode: Mode,
    (at_ms, room): (u64, u64),
    node: u64,
    cluster: Cluster,
    random: &mut Random,
    faults: &mut Vec<Planned>,
) {
    let (low, high) = match mode.nemesis {
        Nemesis::KillAll | Nemesis::Power => (500, 2_000),
        Nemesis::Kill | Nemesis::DiskError | Nemesis::Corrupt => (1_000, 6_000),
        Nemesis::Pause => (500, 8_000),
        Nemesis::DiskFull | Nemesis::DiskSlow | Nemesis::Replace => (2_000, 8_000),
        Nemesis::Partition | Nemesis::Link | Nemesis::Clock | Nemesis::Members => (3_000, 12_000),
        Nemesis::Transfer => (1_000, 5_000),
        // As long as it takes, but no longer.
        Nemesis::Rolling => (room, room + 1),
    };
    let lasts_ms = random.range(low, high).clamp(LEAST_MS.min(room), room);
    faults.push(Planned {
        at_ms,
        lasts_ms,
        action: action(mode, node, cluster, random),
    });
}

fn action(mode: Mode, node: u64, cluster: Cluster, random: &mut Random) -> Action {
    let victim = |random: &mut Random| match mode.way {
        "leader" => Victim::Leader(cluster.shard(random)),
        _ => Victim::Node(node),
    };
    match mode.nemesis {
        Nemesis::Kill => Action::Kill {
            victim: victim(random),
        },
        Nemesis::KillAll => Action::KillAll,
        Nemesis::Pause => Action::Pause {
            victim: victim(random),
        },
        Nemesis::Partition => Action::Partition {
            cut: cut(mode.way, cluster, random),
        },
        Nemesis::Link => link(mode.way, cluster, random),
        Nemesis::Power => Action::Power,
        Nemesis::Clock => clock(mode.way, node, random),
        Nemesis::DiskSlow => Action::DiskSlow {
            nodes: match cluster.shared {
                true => vec![node],
                false => cluster.few(random),
            },
            delay_ms: random.range(20, 400),
        },
        Nemesis::DiskFull => Action::DiskFull {
            node,
            leave_mib: match mode.way {
                "full" => 0,
                _ => random.range(4, 33),
            },
        },
        Nemesis::DiskError => Action::DiskError {
            node,
            call: match mode.way {
                "sync" => FailingCall::Sync,
                "write" => FailingCall::Write,
                "no-space" => FailingCall::NoSpace,
                _ => FailingCall::Read,
            },
        },
        Nemesis::Corrupt => Action::Corrupt {
            node,
            files: match mode.way {
                "log" => DamagedFiles::Log,
                _ => DamagedFiles::Table,
            },
            seed: random.next_u64(),
        },
        Nemesis::Rolling => Action::Rolling { first: node },
        Nemesis::Replace => Action::Replace { node },
        Nemesis::Members => Action::Members {
            node,
            change: match mode.way {
                "drain" => MemberChange::Drain,
                _ => MemberChange::Evict,
            },
        },
        Nemesis::Transfer => {
            let moves = random.range(3, 9);
            let moves = (0..moves).map(|_| (cluster.shard(random), cluster.node(random)));
            Action::Transfer {
                moves: moves.collect(),
            }
        }
    }
}

fn cut(way: &str, cluster: Cluster, random: &mut Random) -> Cut {
    let shard = cluster.shard(random);
    match way {
        "halves" => Cut::Halves {
            side: cluster.some(cluster.minority().max(1), random),
        },
        "one-way" => Cut::OneWay {
            from: cluster.few(random),
        },
        "bridge" => {
            let bridge = cluster.node(random);
            let mut side: Vec<u64> = (1..=cluster.nodes).filter(|node| *node != bridge).collect();
            while side.len() as u64 > cluster.minority() {
                side.remove(random.below(side.len() as u64) as usize);
            }
            Cut::Bridge { side, bridge }
        }
        "leader-with-clients" => Cut::LeaderWithClients { shard },
        "leader-without-clients" => Cut::LeaderWithoutClients { shard },
        _ => Cut::Leader { shard },
    }
}

/// Links do several things at once; what they are to show they do for sure.
fn link(way: &str, cluster: Cluster, random: &mut Random) -> Action {
    let mut hosts = match random.percent(40) {
        true => (1..=cluster.nodes).collect(),
        false => cluster.few(random),
    };
    if random.percent(30) {
        hosts.insert(0, CLIENTS);
    }
    let mut percent = |least: u64, most: u64| random.range(least * 10, most * 10) as f64 / 10.0;
    let (mut loss, mut duplicate) = (percent(0, 8), percent(0, 20));
    let (some_loss, some_duplicate) = (percent(2, 8), percent(4, 20));
    let (mut delay_ms, mut jitter_ms, mut reorder) = (random.below(60), random.below(60), random.percent(50));
    let some_ms = random.range(10, 60);
    let shows = match way {
        "jitter" => {
            jitter_ms = some_ms;
            BadLink::Jitter
        }
        "reordering" => {
            (jitter_ms, reorder) = (some_ms, true);
            BadLink::Reordering
        }
        "loss" => {
            loss = some_loss;
            BadLink::Loss
        }
        "duplicates" => {
            duplicate = some_duplicate;
            BadLink::Duplicates
        }
        _ => {
            delay_ms = some_ms;
            BadLink::Delay
        }
    };
    Action::Link {
        shows,
        hosts,
        delay_ms,
        jitter_ms,
        reorder,
        loss,
        duplicate,
    }
}

fn clock(way: &str, node: u64, random: &mut Random) -> Action {
    if way == "drift" {
        // Leases allow for a fifth: a slow leader keeps one for 0.8 / 0.91 of what a fast follower promises for 1 / 1.09. What is nearly
        // right shows nothing.
        let off = 3.0 + random.below(61) as f64 / 10.0;
        let percent = if random.percent(50) {
            100.0 + off
        } else {
            100.0 - off
        };
        return Action::ClockDrift { node, percent };
    }
    let ms = random.range(100, 60_000) as i64;
    Action::ClockJump {
        node,
        ms: if random.percent(50) { ms } else { -ms },
    }
}
