//! Plans: all that a simulation does on purpose, as data.
//!
//! A seed expands to a plan ([`Plan::from_seed`]); a plan can be written to a file, changed by hand or by the shrinker, and run again.
//! What is left to chance during the run (the fate of a message, the delay of a sync) comes from streams of the plan's seed that are
//! named by what they are for, so that taking a fault out leaves the rest as it was.
//!
//! Plans are drawn as a swarm (Groce et al.: Swarm Testing, ISSTA 2012): each seed switches kinds of faults on and off, since kinds
//! that always come together hide what only one of them finds.

mod churn;
mod draw;
mod recipe;
mod valid;

use std::{collections::BTreeSet, time::Duration};

use kvsvr::config::{Settings, Timing};
use kvsvr_jepsen::workload::Spec;
use serde::{Deserialize, Serialize};

use crate::{
    ballast::Ballast,
    damage::Target,
    engine::EngineKind,
    failpoint::{Action, Point},
};

/// Written into each plan; another number is refused.
pub const FORMAT: u32 = 1;

/// A simulation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`FORMAT`].
    pub format: u32,
    /// Names all streams of chance.
    pub seed: u64,
    /// A planted bug that this plan is kept to find; written by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finds: Option<String>,
    /// Where the faults come from, for people: `swarm`, `calm`, `extreme`, or a recipe's name.
    pub origin: String,
    /// Machines of which the cluster is made; numbered from 0 on.
    pub nodes: usize,
    /// Machines besides, which operators may add.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spares: usize,
    /// Voters of each data shard; 0 = one on each machine of which the cluster is made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replication: usize,
    /// Data shards, besides the meta shard.
    pub shards: u32,
    /// How the nodes are set and how good the machines are.
    pub knobs: Knobs,
    /// What keeps the nodes' rows; chosen by who runs it, not by the seed.
    #[serde(default, skip_serializing_if = "EngineKind::is_default")]
    pub engine: EngineKind,
    /// Simulated milliseconds under faults.
    pub length_ms: u64,
    /// What the clients do.
    pub workload: Spec,
    /// Large values that are written besides.
    pub ballast: Option<Ballast>,
    /// What operators ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Order>,
    /// In the order of their begin.
    pub faults: Vec<Fault>,
}

/// What one of the operators asks for. It asks again for a while if it is told that another operation is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// When, in milliseconds since the load began.
    pub at_ms: u64,
    /// Who: 0 or 1. Each asks for one thing after the other.
    pub operator: usize,
    /// For what.
    pub ask: Ask,
}

/// A change of the members. Machines, not nodes: one may be another node later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they are the verbs of kvctl")]
pub enum Ask {
    Add(usize),
    Remove(usize),
    Replace {
        old: usize,
        new: usize,
    },
    Drain(usize),
    Undrain(usize),
    Evict(usize),
    Restore(usize),
    /// What is under way.
    Abort,
    /// A replica is made anew: that of the `nth` voter of a shard then.
    Reseed {
        shard: u32,
        nth: usize,
    },
    /// The machine is killed and loses its disk, and is given its place again as a new node.
    Wipe(usize),
}

/// How the nodes are set, and how quick the world is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// See [`Timing`].
    pub heartbeat_ms: u64,
    /// See [`Timing`].
    pub election_min_ms: u64,
    /// See [`Timing`].
    pub election_max_ms: u64,
    /// See [`Settings::flush_bytes`].
    pub flush_bytes: u64,
    /// See [`Settings::keep_log_bytes`].
    pub keep_log_bytes: u64,
    /// See [`Settings::keep_revisions`].
    pub keep_revisions: u64,
    /// See [`Settings::write_buffer_bytes`].
    pub write_buffer_bytes: usize,
    /// See [`Settings::row_cache_bytes`].
    pub row_cache_bytes: usize,
    /// See [`Settings::hub_bytes`].
    pub hub_bytes: usize,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// The least and the mean additional time of travel on every link.
    pub link_us: (u64, u64),
    /// The least and the mean additional time of a sync.
    pub sync_us: (u64, u64),
    /// Sessions that a shard may have; 0 = as many as usual.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sessions: u64,
    /// For how many milliseconds a session may be unused; 0 = as long as usual.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub session_idle_ms: u64,
}

impl Knobs {
    /// The node's settings.
    pub fn settings(&self) -> Settings {
        Settings {
            timing: Timing {
                heartbeat_ms: self.heartbeat_ms,
                election_min_ms: self.election_min_ms,
                election_max_ms: self.election_max_ms,
            },
            hub_bytes: self.hub_bytes,
            write_buffer_bytes: self.write_buffer_bytes,
            row_cache_bytes: self.row_cache_bytes,
            flush_bytes: self.flush_bytes,
            keep_log_bytes: self.keep_log_bytes,
            keep_revisions: self.keep_revisions,
            ..Settings::default()
        }
    }
}

/// Something that goes wrong for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it begins, in milliseconds since the load began.
    pub at_ms: u64,
    /// How long it lasts; what happens at once (a jump of the clock) ignores it.
    pub for_ms: u64,
    /// What.
    pub what: What,
}

impl Fault {
    /// When it is over, in milliseconds since the load began.
    pub fn end_ms(&self) -> u64 {
        self.at_ms.saturating_add(self.for_ms)
    }
}

/// Who is hurt: chosen when the plan is drawn, or when the fault begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Victims {
    /// These.
    Nodes(BTreeSet<usize>),
    /// The one that leads this shard when the fault begins; nobody if none does.
    Leader(u32),
    /// A follower of this shard then, the `nth` of them by number.
    Follower(u32, usize),
    /// Everyone.
    All,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// The process is killed, and started again at the end.
    Kill {
        /// Whose.
        victims: Victims,
    },
    /// The machine loses power, and comes back at the end.
    PowerLoss {
        /// Whose.
        victims: Victims,
    },
    /// SIGTERM, and a start at the end.
    Restart {
        /// Whose.
        victims: Victims,
    },
    /// The process stands still.
    Pause {
        /// Whose.
        victims: Victims,
    },
    /// Messages between the victims and the rest do not arrive.
    Cut {
        /// Those on one side.
        victims: Victims,
        /// What the victims send is cut.
        sending: bool,
        /// What is sent to them is cut.
        receiving: bool,
        /// Clients are cut off too.
        clients: bool,
        /// Only messages between the victims and these nodes are cut; empty = those between the victims and all the rest.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        only: BTreeSet<usize>,
    },
    /// Messages between the victims and some of the workloads' clients do not arrive, either way.
    CutClients {
        /// Which nodes.
        victims: Victims,
        /// Which hosts of clients, 0 or 1.
        hosts: BTreeSet<usize>,
    },
    /// The processes of the workloads' clients stand still.
    PauseClients {},
    /// Messages between the victims and the rest wait until the end and then all arrive.
    Clog {
        /// Those on one side.
        victims: Victims,
    },
    /// All links to and from the victims are bad.
    BadLinks {
        /// At one end of them.
        victims: Victims,
        /// How bad.
        links: BadLinks,
    },
    /// The clock runs at this rate, 1 = right.
    ClockRate {
        /// Whose.
        victims: Victims,
        /// Its seconds for each true one.
        rate: f64,
    },
    /// The wall clock is off by so much.
    WallClock {
        /// Whose.
        victims: Victims,
        /// Milliseconds, either way.
        offset_ms: i64,
    },
    /// The disk is slow.
    SlowDisk {
        /// Whose.
        victims: Victims,
        /// Mean time of a sync, in microseconds.
        sync_us: u64,
        /// Probability that an operation stalls for up to `stall_ms`.
        stall: f64,
        /// The longest stall.
        stall_ms: u64,
    },
    /// The disk has no room for more than it holds then.
    DiskFull {
        /// Whose.
        victims: Victims,
        /// Bytes that still fit.
        room: u64,
    },
    /// After so many operations of this kind one of them fails with EIO.
    DiskError {
        /// Whose.
        victims: Victims,
        /// Which kind.
        operation: DiskOperation,
        /// Of these operations the last one fails.
        after: u64,
    },
    /// Something happens at a failpoint, once; a process that ends by it is started again at the end.
    Failpoint {
        /// Whose.
        victims: Victims,
        /// Where.
        point: Point,
        /// The manieth time from the begin on that it is come by.
        hit: u64,
        /// What.
        action: Action,
    },
    /// Something is damaged on those of the victims of whom it may be: a minority of each shard. What is not found and written over
    /// until then is repaired at the end.
    Damage {
        /// Whose.
        victims: Victims,
        /// What.
        target: Target,
        /// The process is killed before, and begins with it.
        restart: bool,
    },
    /// The process is killed and finds an empty disk, as if the wrong one were mounted; at the end it is killed and has its own again.
    EmptyDisk {
        /// Whose.
        victims: Victims,
    },
    /// The leader hands the shard to another node.
    Transfer {
        /// Which shard.
        shard: u32,
        /// To whom.
        to: usize,
    },
}

impl What {
    /// The kind, as in the JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            What::Kill { .. } => "kill",
            What::PowerLoss { .. } => "power_loss",
            What::Restart { .. } => "restart",
            What::Pause { .. } => "pause",
            What::Cut { .. } => "cut",
            What::CutClients { .. } => "cut_clients",
            What::PauseClients {} => "pause_clients",
            What::Clog { .. } => "clog",
            What::BadLinks { .. } => "bad_links",
            What::ClockRate { .. } => "clock_rate",
            What::WallClock { .. } => "wall_clock",
            What::SlowDisk { .. } => "slow_disk",
            What::DiskFull { .. } => "disk_full",
            What::DiskError { .. } => "disk_error",
            What::Failpoint { .. } => "failpoint",
            What::Damage { .. } => "damage",
            What::EmptyDisk { .. } => "empty_disk",
            What::Transfer { .. } => "transfer",
        }
    }
}

/// Probabilities for each message, and delays; see [`crate::net::LinkSpec`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BadLinks {
    /// Mean additional delay.
    pub mean_us: u64,
    /// Even additional delay.
    pub jitter_us: u64,
    /// Lost, and sent again.
    pub loss: f64,
    /// The connection breaks before the message arrives.
    pub reset_before: f64,
    /// It breaks after that.
    pub reset_after: f64,
    /// Carried out twice.
    pub duplicate: f64,
    /// An old message is played again.
    pub replay: f64,
    /// Bytes a second, all connections of a link together; 0 = as many as there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub bandwidth: u64,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// As [`crate::disk::Operation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they are said there")]
pub enum DiskOperation {
    Read,
    Write,
    Sync,
    Flush,
}

impl Plan {
    /// The plan of a seed: the same for ever in one version of this program.
    pub fn from_seed(seed: u64) -> Self {
        draw::plan(seed)
    }

    /// Not every member has every shard, or there are machines that are no members: a majority of the machines need not be one of each shard.
    pub fn may_change_members(&self) -> bool {
        self.replication != 0 || self.spares != 0 || !self.orders.is_empty()
    }

    /// With operators who change the members, unless it has some.
    pub fn add_churn(&mut self) {
        if self.orders.is_empty() {
            churn::add(self);
        }
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let plan: Plan = serde_json::from_str(text).map_err(|error| format!("not a plan: {error}"))?;
        if plan.format != FORMAT {
            return Err(format!(
                "the plan has format {}, this program reads {FORMAT}",
                plan.format
            ));
        }
        valid::check(&plan)?;
        Ok(plan)
    }

    /// All machines.
    pub fn machines(&self) -> usize {
        self.nodes + self.spares
    }

    /// As a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Under faults.
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.length_ms)
    }

    /// HOST:PORT of a machine.
    pub fn address(&self, node: usize) -> String {
        format!("node{}:7101", node + 1)
    }
}

impl Ask {
    /// The machines that it is about.
    pub fn machines(&self) -> Vec<usize> {
        match self {
            // Whose replica it is turns out when it is asked for.
            Ask::Abort | Ask::Reseed { .. } => Vec::new(),
            Ask::Replace { old, new } => vec![*old, *new],
            Ask::Add(one)
            | Ask::Remove(one)
            | Ask::Drain(one)
            | Ask::Undrain(one)
            | Ask::Evict(one)
            | Ask::Restore(one)
            | Ask::Wipe(one) => vec![*one],
        }
    }
}

impl What {
    /// Who is hurt, if it is somebody.
    pub fn victims(&self) -> Option<&Victims> {
        match self {
            What::Kill { victims }
            | What::PowerLoss { victims }
            | What::Restart { victims }
            | What::Pause { victims }
            | What::Cut { victims, .. }
            | What::CutClients { victims, .. }
            | What::Clog { victims }
            | What::BadLinks { victims, .. }
            | What::ClockRate { victims, .. }
            | What::WallClock { victims, .. }
            | What::SlowDisk { victims, .. }
            | What::DiskFull { victims, .. }
            | What::DiskError { victims, .. }
            | What::Failpoint { victims, .. }
            | What::Damage { victims, .. }
            | What::EmptyDisk { victims } => Some(victims),
            What::Transfer { .. } | What::PauseClients {} => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_jepsen::workload::Program;

    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_it_survives_a_file() {
        for seed in 0..300 {
            let plan = Plan::from_seed(seed);
            assert_eq!(plan, Plan::from_seed(seed));
            assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan, "seed {seed}");
            assert!(plan.faults.is_sorted_by_key(|fault| fault.at_ms), "seed {seed}");
            assert!(
                plan.faults.iter().all(|fault| fault.at_ms < plan.length_ms),
                "seed {seed}"
            );
            let knobs = &plan.knobs;
            assert!(knobs.heartbeat_ms * 2 < knobs.election_min_ms, "seed {seed}");
            assert!(knobs.election_min_ms < knobs.election_max_ms, "seed {seed}");
        }
    }

    /// A sweep meets every kind of fault, alone and in company.
    #[test]
    fn every_kind_is_drawn_alone_and_in_company() {
        let mut alone = BTreeSet::new();
        let mut company = BTreeSet::new();
        let mut origins = BTreeSet::new();
        for seed in 0..2000 {
            let plan = Plan::from_seed(seed);
            let kinds: BTreeSet<&str> = plan.faults.iter().map(|fault| fault.what.kind()).collect();
            match kinds.len() {
                1 => alone.extend(kinds),
                _ => company.extend(kinds),
            }
            origins.insert(plan.origin);
        }
        assert_eq!(alone.len(), 18, "{alone:?}");
        assert_eq!(company.len(), 18, "{company:?}");
        for origin in ["swarm", "calm", "extreme"] {
            assert!(origins.contains(origin), "{origins:?}");
        }
        assert!(
            recipe::NAMES.iter().all(|name| origins.contains(*name)),
            "{origins:?}"
        );
    }

    #[test]
    fn recipes_get_what_they_need_besides_faults() {
        let plans = |name| {
            let is_it = move |plan: &Plan| plan.origin == name;
            (0..2000).map(Plan::from_seed).filter(is_it)
        };
        for plan in plans("slow_installation") {
            let has_session =
                |program: &Program| matches!(program, Program::Session(session) if session.others > 0);
            assert!(
                plan.workload.programs.iter().any(has_session),
                "seed {}",
                plan.seed
            );
            assert!(plan.knobs.keep_log_bytes <= 32 << 10, "seed {}", plan.seed);
        }
        for plan in plans("log_damaged") {
            assert!(plan.knobs.flush_bytes >= 16 << 20, "seed {}", plan.seed);
            assert!(plan.ballast.is_some(), "seed {}", plan.seed);
        }
    }

    #[test]
    fn a_plan_that_cannot_be_run_is_refused() {
        let plan = Plan::from_seed(1);
        let other = Plan {
            format: FORMAT + 1,
            ..plan
        };
        assert!(Plan::from_json(&other.to_json()).unwrap_err().contains("format"));
        assert!(Plan::from_json("{}").unwrap_err().contains("not a plan"));
    }
}
