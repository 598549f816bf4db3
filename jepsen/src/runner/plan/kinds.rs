//! The kinds of faults, as the command line names them, and the ways of each.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::os::capabilities::Mechanism;

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
            Nemesis::Kill | Nemesis::Pause => &["node", "leader"],
            Nemesis::Link => &["delay", "jitter", "reordering", "loss", "duplicates"],
            Nemesis::Clock => &["jump", "drift"],
            Nemesis::DiskFull => &["full", "nearly-full"],
            Nemesis::DiskError => &["sync", "write", "no-space", "read"],
            Nemesis::Corrupt => &["log", "table"],
            Nemesis::Members => &["drain", "evict"],
            _ => &[""],
        }
    }

    /// It takes processes down, holds them or makes their disks bad, so that two of these must not be on one node.
    pub(super) fn holds_processes(self) -> bool {
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
    pub(super) fn holds_all(self) -> bool {
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

impl Mode {
    /// It happens to single packets, which only the switch sees.
    pub fn needs_packets(self) -> bool {
        self.nemesis == Nemesis::Link && matches!(self.way, "reordering" | "duplicates")
    }
}

/// All ways of these kinds, on so many nodes.
pub fn modes(nemeses: &[Nemesis], nodes: u64) -> Vec<Mode> {
    let of_one = |&nemesis: &Nemesis| {
        let ways = nemesis.ways(nodes).iter();
        ways.map(move |&way| Mode { nemesis, way })
    };
    nemeses.iter().flat_map(of_one).collect()
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.way {
            "" => write!(f, "{}", self.nemesis),
            way => write!(f, "{} ({way})", self.nemesis),
        }
    }
}
