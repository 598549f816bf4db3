//! Draws a schedule: bursts of a few kinds of faults that overlap, with quiet times between them in which recovery can be seen.
//!
//! Kinds are drawn like cards from a deck that is shuffled anew when it is empty, so that all come equally often and each comes at least
//! once; so are the ways of each kind, of which a short schedule does not have all. Faults that hold processes are on different nodes, of which a majority is left, or one after another; those that hold all nodes
//! are alone among them. Everything else overlaps as it comes.

use std::collections::BTreeMap;

use super::{Action, CLIENTS, Cut, DamagedFiles, FailingCall, MemberChange, Mode, Nemesis, Planned, Victim};
use crate::workload::Random;

/// Milliseconds before the first burst: sessions and watches are to have begun.
const WARM_UP_MS: u64 = 2_000;
/// Bounds of a burst's milliseconds.
const BURST_MS: (u64, u64) = (10_000, 18_000);
/// Bounds of the milliseconds between two bursts.
const QUIET_MS: (u64, u64) = (4_000, 7_000);
/// Most kinds in one burst.
const MOST_KINDS: u64 = 5;
/// Least milliseconds of a fault.
const LEAST_MS: u64 = 800;

/// Draws the faults of a load of so many milliseconds.
///
/// # Errors
/// The load is too short for so many kinds; the text says how long it must be.
pub fn draw(
    seed: u64,
    nodes: u64,
    shards: u32,
    load_ms: u64,
    nemeses: &[Nemesis],
) -> Result<Vec<Planned>, String> {
    if nemeses.is_empty() {
        return Ok(Vec::new());
    }
    let mut random = Random::new(seed, &[0x6e65_6d65]);
    let (longest, quiet) = (BURST_MS.1, QUIET_MS.1);
    let kinds = nemeses.len() as u64;
    let needed = WARM_UP_MS + kinds.div_ceil(MOST_KINDS) * (longest + quiet);
    if load_ms < needed {
        return Err(format!(
            "{kinds} kinds of faults need at least {} s of load, to be seen each and apart",
            needed.div_ceil(1000)
        ));
    }
    let bursts = (load_ms - WARM_UP_MS) / (longest + quiet);
    let least = kinds.div_ceil(bursts);
    let (mut deck, mut faults, mut at) = (Vec::new(), Vec::new(), WARM_UP_MS);
    let mut ways: BTreeMap<Nemesis, Vec<&'static str>> = BTreeMap::new();
    while at + longest + quiet <= load_ms {
        let count = random.range(1, 5).max(least);
        let mut burst: Vec<Mode> = Vec::new();
        while (burst.len() as u64) < count.min(kinds) {
            let Some(nemesis) = deal(&mut deck, nemeses, &mut random) else {
                break;
            };
            if burst.iter().any(|mode| mode.nemesis == nemesis) {
                continue;
            }
            let of_it = ways.entry(nemesis).or_default();
            let way = deal(of_it, nemesis.ways(nodes), &mut random).unwrap_or_default();
            burst.push(Mode { nemesis, way });
        }
        let length = random.range(BURST_MS.0, longest + 1);
        let cluster = Cluster {
            nodes,
            shards,
            shared: false,
        };
        lay_out(&burst, at, length, cluster, &mut random, &mut faults);
        at += length + random.range(QUIET_MS.0, quiet + 1);
    }
    faults.sort_by_key(|fault| fault.at_ms);
    Ok(faults)
}

/// The next card.
fn deal<T: Copy>(deck: &mut Vec<T>, cards: &[T], random: &mut Random) -> Option<T> {
    if deck.is_empty() {
        deck.extend_from_slice(cards);
        for last in (1..deck.len()).rev() {
            deck.swap(last, random.below(last as u64 + 1) as usize);
        }
    }
    deck.pop()
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
    let (mut deck, mut victims) = (Vec::new(), Vec::new());
    while victims.len() < all.len() {
        victims.extend(deal(&mut deck, &all, random));
    }
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
    let victim = |random: &mut Random| match random.percent(50) {
        true => Victim::Leader(cluster.shard(random)),
        false => Victim::Node(node),
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
        Nemesis::Link => link(cluster, random),
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

fn link(cluster: Cluster, random: &mut Random) -> Action {
    let mut hosts = match random.percent(40) {
        true => (1..=cluster.nodes).collect(),
        false => cluster.few(random),
    };
    if random.percent(30) {
        hosts.insert(0, CLIENTS);
    }
    let mut percent = |most: u64| random.below(most * 10) as f64 / 10.0;
    let (loss, duplicate) = (percent(8), percent(20));
    Action::Link {
        hosts,
        delay_ms: random.below(60),
        jitter_ms: random.below(60),
        reorder: random.percent(50),
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
