//! What a run does to its cluster, as data: a schedule of faults that is drawn from a seed, kept as `plan.json`, and can be run again.
//!
//! Pure. What a plan cannot know (who leads a shard at that time, which node another fault holds) is decided when the fault is carried
//! out; the plan names whom it would like to hurt. Kinds of faults and their ways are in `plan/kinds.rs`, drawing in `plan/draw.rs`.

mod draw;
mod kinds;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::{
    draw::draw,
    kinds::{Mode, Nemesis, modes},
};
use crate::{check::WrongClock, history::Nanos, workload::Spec};

/// The host that clients are on, where a plan names hosts by number.
pub const CLIENTS: u64 = 0;

/// Whom a fault of processes is to hit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Victim {
    /// This node; if another fault has it, the next free one.
    Node(u64),
    /// Whoever leads the shard, and nobody else.
    Leader(u32),
}

impl Victim {
    fn way(&self) -> &'static str {
        match self {
            Victim::Node(_) => "node",
            Victim::Leader(_) => "leader",
        }
    }
}

/// What bad links must have done to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadLink {
    /// Let them take longer.
    Delay,
    /// Let them take longer, some more than others.
    Jitter,
    /// Let them overtake each other.
    Reordering,
    /// Lost them.
    Loss,
    /// Let them arrive twice.
    Duplicates,
}

impl BadLink {
    /// Its name as a way of a fault.
    pub fn way(self) -> &'static str {
        match self {
            BadLink::Delay => "delay",
            BadLink::Jitter => "jitter",
            BadLink::Reordering => "reordering",
            BadLink::Loss => "loss",
            BadLink::Duplicates => "duplicates",
        }
    }
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
        /// What must happen to packets between nodes, and to those of clients if these have any, or it has shown nothing. The rest may.
        shows: BadLink,
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
            Action::Kill { victim } | Action::Pause { victim } => victim.way(),
            Action::Link { shows, .. } => shows.way(),
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
        let mut modes = modes(&self.nemeses, self.nodes);
        modes.retain(|mode| !planned.contains(mode));
        modes
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
