//! What a run does to its cluster, as data: a schedule of faults that is drawn from a seed, kept as `plan.json`, and can be run again.
//!
//! Pure. What a plan cannot know (who leads a shard at that time, which node another fault holds) is decided when the fault is carried
//! out; the plan names whom it would like to hurt. Drawing is in `plan/draw.rs`.

mod draw;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::draw::draw;
use crate::{check::WrongClock, history::Nanos, os::capabilities::Mechanism, workload::Spec};

/// The host that clients are on, where a plan names hosts by number.
pub const CLIENTS: u64 = 0;

/// A kind of fault, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nemesis {
    /// SIGKILL of some nodes or of a leader.
    Kill,
    /// SIGKILL of all nodes at once.
    KillAll,
    /// SIGSTOP of some nodes or of a leader.
    Pause,
    /// Links are cut.
    Partition,
    /// Links are slow, lose and repeat packets.
    Link,
    /// All nodes lose power at once.
    Power,
    /// Clocks jump or drift.
    Clock,
    /// Syncs are slow.
    DiskSlow,
    /// A disk is full.
    DiskFull,
    /// Reads, writes or syncs fail.
    DiskError,
    /// Bits of a stopped node's files are flipped.
    Corrupt,
    /// SIGTERM of one node after another.
    Rolling,
    /// Leaderships are handed over.
    Transfer,
    /// Members are drained, and kept from leading.
    Members,
    /// A node loses its disk, and another one gets its place.
    Replace,
}

impl Nemesis {
    /// All of them.
    pub const ALL: [Nemesis; 15] = [
        Nemesis::Kill,
        Nemesis::KillAll,
        Nemesis::Pause,
        Nemesis::Partition,
        Nemesis::Link,
        Nemesis::Power,
        Nemesis::Clock,
        Nemesis::DiskSlow,
        Nemesis::DiskFull,
        Nemesis::DiskError,
        Nemesis::Corrupt,
        Nemesis::Rolling,
        Nemesis::Transfer,
        Nemesis::Members,
        Nemesis::Replace,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Nemesis::Kill => "kill",
            Nemesis::KillAll => "kill-all",
            Nemesis::Pause => "pause",
            Nemesis::Partition => "partition",
            Nemesis::Link => "link",
            Nemesis::Power => "power",
            Nemesis::Clock => "clock",
            Nemesis::DiskSlow => "disk-slow",
            Nemesis::DiskFull => "disk-full",
            Nemesis::DiskError => "disk-error",
            Nemesis::Corrupt => "corrupt",
            Nemesis::Rolling => "rolling",
            Nemesis::Transfer => "transfer",
            Nemesis::Members => "members",
            Nemesis::Replace => "replace",
        }
    }

    /// It changes the members: shards have three replicas then, and not one on each node.
    pub fn changes_members(self) -> bool {
        matches!(self, Nemesis::Members | Nemesis::Replace)
    }

    /// What must work on this machine. Links can also be had from the proxy, if it knows who connects.
    pub fn needs(self, proxied: bool) -> &'static [Mechanism] {
        match self {
            Nemesis::Power | Nemesis::DiskFull => &[Mechanism::DiskImages, Mechanism::Shim],
            Nemesis::Clock | Nemesis::DiskSlow | Nemesis::DiskError => &[Mechanism::Shim],
            Nemesis::Partition | Nemesis::Link if proxied => &[Mechanism::PeerLookup],
            _ => &[],
        }
    }

    /// The ways in which it happens to so many nodes, of which a run must show all that its schedule has; one without a name if there is
    /// only one.
    pub fn ways(self, nodes: u64) -> &'static [&'static str] {
        match self {
            Nemesis::Partition if nodes > 2 => &[
                "halves",
                "one-way",
                "leader",
                "leader-with-clients",
                "leader-without-clients",
                "bridge",
            ],
            Nemesis::Partition => &[
                "halves",
                "one-way",
                "leader",
                "leader-with-clients",
                "leader-without-clients",
            ],
            Nemesis::Clock => &["jump", "drift"],
            Nemesis::DiskFull => &["full", "nearly-full"],
            Nemesis::DiskError => &["sync", "write", "no-space", "read"],
            Nemesis::Corrupt => &["log", "table"],
            Nemesis::Members => &["drain", "evict"],
            _ => &[""],
        }
    }

    /// It takes processes down, holds them or makes their disks bad, so that two of these must not be on one node.
    fn holds_processes(self) -> bool {
        matches!(
            self,
            Nemesis::Kill
                | Nemesis::KillAll
                | Nemesis::Pause
                | Nemesis::Power
                | Nemesis::DiskSlow
                | Nemesis::DiskFull
                | Nemesis::DiskError
                | Nemesis::Corrupt
                | Nemesis::Rolling
                | Nemesis::Replace
        )
    }

    /// It holds the processes of all nodes.
    fn holds_all(self) -> bool {
        matches!(self, Nemesis::KillAll | Nemesis::Power | Nemesis::Rolling)
    }
}

impl fmt::Display for Nemesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Nemesis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|nemesis| nemesis.name() == text);
        let names = Self::ALL.map(Self::name).join(", ");
        named.ok_or_else(|| format!("there is no nemesis \"{text}\": {names}, or all"))
    }
}

/// A kind of fault, and in which way it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mode {
    /// The kind.
    pub nemesis: Nemesis,
    /// The way; empty if there is only one.
    pub way: &'static str,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.way {
            "" => write!(f, "{}", self.nemesis),
            way => write!(f, "{} ({way})", self.nemesis),
        }
    }
}

/// Whom a fault of processes is to hit. If another fault has that node, the next free one is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Victim {
    /// This node.
    Node(u64),
    /// Whoever leads the shard.
    Leader(u32),
}

/// Which links are cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "kebab-case")]
pub enum Cut {
    /// Between these nodes and the others, both ways.
    Halves {
        /// The smaller side.
        side: Vec<u64>,
    },
    /// What these send to the others.
    OneWay {
        /// The senders.
        from: Vec<u64>,
    },
    /// Between two sides that both reach one node.
    Bridge {
        /// One side. The other has the rest.
        side: Vec<u64>,
        /// The node that reaches all.
        bridge: u64,
    },
    /// Between whoever leads the shard and the other nodes. Clients reach it.
    Leader {
        /// The shard.
        shard: u32,
    },
    /// The same, and all clients reach it only: nobody who leads after it.
    LeaderWithClients {
        /// The shard.
        shard: u32,
    },
    /// Between whoever leads the shard and all clients. Other nodes reach it.
    LeaderWithoutClients {
        /// The shard.
        shard: u32,
    },
}

impl Cut {
    /// The shard whose leader it is about.
    pub fn shard(&self) -> Option<u32> {
        match self {
            Cut::Leader { shard }
            | Cut::LeaderWithClients { shard }
            | Cut::LeaderWithoutClients { shard } => Some(*shard),
            Cut::Halves { .. } | Cut::OneWay { .. } | Cut::Bridge { .. } => None,
        }
    }

    fn way(&self) -> &'static str {
        match self {
            Cut::Halves { .. } => "halves",
            Cut::OneWay { .. } => "one-way",
            Cut::Bridge { .. } => "bridge",
            Cut::Leader { .. } => "leader",
            Cut::LeaderWithClients { .. } => "leader-with-clients",
            Cut::LeaderWithoutClients { .. } => "leader-without-clients",
        }
    }
}

/// What a fault does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "nemesis", rename_all = "kebab-case")]
pub enum Action {
    /// SIGKILL; started again at the end.
    Kill {
        /// Who.
        victim: Victim,
    },
    /// SIGKILL of all; started again at the end.
    KillAll,
    /// SIGSTOP; SIGCONT at the end.
    Pause {
        /// Who.
        victim: Victim,
    },
    /// Cuts links.
    Partition {
        /// Which.
        cut: Cut,
    },
    /// Makes links bad.
    Link {
        /// All links from and to these hosts; [`CLIENTS`] is one.
        hosts: Vec<u64>,
        /// Milliseconds that each packet takes longer at least.
        delay_ms: u64,
        /// Milliseconds that are added at most.
        jitter_ms: u64,
        /// Packets may overtake each other.
        reorder: bool,
        /// Percent of packets that are lost.
        loss: f64,
        /// Percent of packets that arrive twice.
        duplicate: f64,
    },
    /// Cuts the power of all disks and processes; started again at the end.
    Power,
    /// Sets the wall clock of a node; set right at the end.
    ClockJump {
        /// The node.
        node: u64,
        /// Milliseconds ahead.
        ms: i64,
    },
    /// Lets all clocks of a node run at another rate; set right at the end.
    ClockDrift {
        /// The node.
        node: u64,
        /// Percent of the true rate.
        percent: f64,
    },
    /// Makes syncs of nodes slow, as many of these as no other fault has.
    DiskSlow {
        /// The nodes.
        nodes: Vec<u64>,
        /// Milliseconds that each sync takes longer.
        delay_ms: u64,
    },
    /// Takes a node's disk space. If it ends by that, it is started again at the end.
    DiskFull {
        /// The node.
        node: u64,
        /// Mebibytes that are left. With 0 it is to see an error of the file system, and is stopped at the end if it has not.
        leave_mib: u64,
    },
    /// Lets files of a node fail. If it ends by that, it is started again at the end.
    DiskError {
        /// The node.
        node: u64,
        /// What fails.
        call: FailingCall,
    },
    /// Stops a node, flips a bit of its files and starts it: it may refuse to start, or end. At the end the bit is flipped back.
    Corrupt {
        /// The node.
        node: u64,
        /// Which files.
        files: DamagedFiles,
        /// Chooses the bit.
        seed: u64,
    },
    /// SIGTERM of one node after another, each started again before the next.
    Rolling {
        /// The node to begin with.
        first: u64,
    },
    /// Hands leaderships over, again and again.
    Transfer {
        /// Shards and the nodes that are to lead them.
        moves: Vec<(u32, u64)>,
    },
    /// Gives a member less to do; as before at the end.
    Members {
        /// The node.
        node: u64,
        /// What it is not to do.
        change: MemberChange,
    },
    /// SIGKILL of a node, whose data directory is emptied. At the end it is started, as a new node that gets the place of the old one.
    Replace {
        /// The node.
        node: u64,
    },
}

/// What a member does not do for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberChange {
    /// Have replicas.
    Drain,
    /// Lead.
    Evict,
}

/// A call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailingCall {
    /// `fsync` and `fdatasync`: EIO.
    Sync,
    /// Writes: EIO.
    Write,
    /// Writes: ENOSPC.
    NoSpace,
    /// Reads: EIO.
    Read,
}

/// Files that are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DamagedFiles {
    /// Segments of the log.
    Log,
    /// Tables of the engine.
    Table,
}

impl Action {
    /// Its kind.
    pub fn nemesis(&self) -> Nemesis {
        match self {
            Action::Kill { .. } => Nemesis::Kill,
            Action::KillAll => Nemesis::KillAll,
            Action::Pause { .. } => Nemesis::Pause,
            Action::Partition { .. } => Nemesis::Partition,
            Action::Link { .. } => Nemesis::Link,
            Action::Power => Nemesis::Power,
            Action::ClockJump { .. } | Action::ClockDrift { .. } => Nemesis::Clock,
            Action::DiskSlow { .. } => Nemesis::DiskSlow,
            Action::DiskFull { .. } => Nemesis::DiskFull,
            Action::DiskError { .. } => Nemesis::DiskError,
            Action::Corrupt { .. } => Nemesis::Corrupt,
            Action::Rolling { .. } => Nemesis::Rolling,
            Action::Transfer { .. } => Nemesis::Transfer,
            Action::Members { .. } => Nemesis::Members,
            Action::Replace { .. } => Nemesis::Replace,
        }
    }

    /// Its kind and way.
    pub fn mode(&self) -> Mode {
        let way = match self {
            Action::Partition { cut } => cut.way(),
            Action::ClockJump { .. } => "jump",
            Action::ClockDrift { .. } => "drift",
            Action::DiskFull { leave_mib: 0, .. } => "full",
            Action::DiskFull { .. } => "nearly-full",
            Action::DiskError { call, .. } => match call {
                FailingCall::Sync => "sync",
                FailingCall::Write => "write",
                FailingCall::NoSpace => "no-space",
                FailingCall::Read => "read",
            },
            Action::Corrupt { files, .. } => match files {
                DamagedFiles::Log => "log",
                DamagedFiles::Table => "table",
            },
            Action::Members { change, .. } => match change {
                MemberChange::Drain => "drain",
                MemberChange::Evict => "evict",
            },
            _ => "",
        };
        Mode {
            nemesis: self.nemesis(),
            way,
        }
    }
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// Milliseconds after the load began.
    pub at_ms: u64,
    /// Milliseconds until it is healed.
    pub lasts_ms: u64,
    /// What.
    #[serde(flatten)]
    pub action: Action,
}

impl Planned {
    /// Milliseconds after the load began when it is healed.
    pub fn ends_ms(&self) -> u64 {
        self.at_ms + self.lasts_ms
    }
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Of all chance.
    pub seed: u64,
    /// Nodes, numbered from 1 on.
    pub nodes: u64,
    /// Data shards, numbered from 1 on.
    pub shards: u32,
    /// Milliseconds of load.
    pub load_ms: u64,
    /// What clients do.
    pub workload: Spec,
    /// Kinds of faults that must happen.
    pub nemeses: Vec<Nemesis>,
    /// When what happens, by time.
    pub faults: Vec<Planned>,
}

impl Plan {
    /// How many replicas each data shard has.
    pub fn replication(&self) -> u32 {
        let changes = self.nemeses.iter().any(|nemesis| nemesis.changes_members());
        let least = if changes { 3 } else { self.nodes };
        least.min(self.nodes) as u32
    }

    /// What must happen at least once.
    pub fn modes(&self) -> BTreeSet<Mode> {
        self.faults.iter().map(|fault| fault.action.mode()).collect()
    }

    /// Ways of its kinds of faults that its schedule does not have.
    pub fn unplanned(&self) -> Vec<Mode> {
        let planned = self.modes();
        let modes = self.nemeses.iter().flat_map(|&nemesis| {
            let ways = nemesis.ways(self.nodes).iter();
            ways.map(move |&way| Mode { nemesis, way })
        });
        modes.filter(|mode| !planned.contains(mode)).collect()
    }

    /// What a fault did to clocks that was under way between two times of the history; `None`: nothing.
    pub fn wrong_clock(&self, fault: usize, (from, to): (Nanos, Nanos)) -> Option<WrongClock> {
        let (node, off, rate_off) = match self.faults.get(fault)?.action {
            Action::ClockJump { node, ms } => (node, i128::from(ms) * 1_000_000, 0),
            Action::ClockDrift { node, percent } => {
                let rate_off = (percent - 100.0) / 100.0;
                let off = to.saturating_sub(from) as f64 * rate_off;
                (node, off as i128, (rate_off.abs() * 1e6).ceil() as u64)
            }
            _ => return None,
        };
        let amount = Nanos::try_from(off.unsigned_abs()).unwrap_or(Nanos::MAX);
        let (ahead, behind) = if off > 0 { (amount, 0) } else { (0, amount) };
        Some(WrongClock {
            node,
            from,
            to,
            ahead,
            behind,
            rate_off,
        })
    }
}
