//! What must hold at every moment of a simulation, whatever goes wrong.
//!
//! The cluster is looked at often ([`Watcher::see`]: after every so much simulated time, and at its end). Each invariant sees the
//! replicas as they are then and remembers what it needs of what was. The names are those of the Raft dissertation (Ongaro 2014,
//! figure 3.2), and of what this store promises besides.

mod append_durability;
mod applied;
mod commit_quorum;
mod committed_immutable;
mod consumer_cursor;
mod election_safety;
mod followed;
mod leader_completeness;
mod lease_disjointness;
mod log_matching;
mod map_epochs;
mod membership;
mod monotonic;
mod order_of_indexes;
mod session_window;
mod state_machine_safety;
#[cfg(test)]
pub(crate) mod testing;
mod vote_durability;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use kvsvr::{
    shard::Shard,
    time::skewed::as_node,
    wal::{ShardLog, Wal},
};
use kvsvr_core::types::{LogPosition, Revision, ShardId};
use kvsvr_jepsen::report::Judgement;
use openraft_rt::{Instant as _, WatchReceiver as _};

pub use self::applied::{Applied, Session};
use crate::{node::SimNode, outcome::Failure};

/// A replica at one moment.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its machine, from 0 on.
    pub machine: usize,
    /// Its number in the cluster.
    pub node: u64,
    /// The machine's how manieth process it is in.
    pub process: u64,
    /// Which shard.
    pub shard: ShardId,
    /// The node's how manieth replica of the shard: one that was destroyed and made anew is another one.
    pub incarnation: u64,
    /// It replaces its state by a snapshot: the engine has neither the old state nor the new one.
    pub installing: bool,
    /// Grows at the beginning of each installation in this process, and at its end.
    pub installs: u64,
    /// What it believes to be.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The index that it knows to be committed; `None` = nothing.
    pub committed: Option<u64>,
    /// The index of the last entry that is applied.
    pub applied: Option<u64>,
    /// The index up to which its engine is durable; with `unreadable`, nothing is known of it.
    pub flushed: Option<u64>,
    /// The row that says it was damaged.
    pub unreadable: bool,
    /// Its state's revision.
    pub revision: Revision,
    /// It would answer linearizable reads now without asking anybody.
    pub lease: bool,
    /// The newest vote that its machine has asked others for: term and node.
    pub asked: Option<(u64, u64)>,
    /// The newest vote that its machine has granted to another: term and node.
    pub granted: Option<(u64, u64)>,
    /// The last entry that its machine has acknowledged to a leader, and that leader's term and node.
    pub stored: Option<(LeaderId, LogPosition)>,
    /// Who elected it, if it leads.
    pub election: Option<Election>,
    /// What its log says.
    pub log: ShardLog,
    /// What its state says, if it was looked at; what is wrong with its rows if they do not decode.
    pub contents: Option<Result<Arc<Applied>, String>>,
}

impl Said {
    /// What has come to a leader.
    fn election(&self, shard: &Shard, term: u64, node: u64) -> Election {
        let leader = (shard.id(), term, node);
        Election {
            voters: voters(shard),
            votes: self.votes.get(&leader).cloned().unwrap_or_default(),
            heard: self.heard.get(&leader).cloned().unwrap_or_default(),
            answered: self.answered.get(&leader).cloned().unwrap_or_default(),
        }
    }

    /// What a node has asked for is forgotten: it has another replica of the shard.
    pub fn forget(&mut self, node: u64, shard: ShardId) {
        self.asked.remove(&(node, shard));
    }
}

impl Replica {
    /// Whose it is, and which one. Another one begins with nothing.
    pub fn identity(&self) -> (u64, u64) {
        (self.node, self.incarnation)
    }

    /// Another look shows what is worth a record: not every new entry is.
    pub fn tells_else(&self, other: &Replica) -> bool {
        let coarse = |index: Option<u64>| index.map(|index| index / 64);
        let key = |r: &Replica| {
            (
                r.identity(),
                r.process,
                r.role,
                r.term,
                coarse(r.committed),
                coarse(r.applied),
            )
        };
        key(self) != key(other)
    }
}

/// The votes and acknowledgements that a leader has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Election {
    /// Who votes: a majority of each of these sets elects.
    pub voters: Vec<BTreeSet<u64>>,
    /// The nodes that granted it their votes, of which it has heard.
    pub votes: BTreeSet<u64>,
    /// Up to which index nodes have acknowledged its entries, of which it has heard.
    pub heard: BTreeMap<u64, u64>,
    /// When nodes' last answers to it came, since the simulation began. Known only where members change.
    pub answered: BTreeMap<u64, Duration>,
}

/// An operation that makes a replica anew, and has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reseed {
    /// Its number.
    pub operation: u64,
    /// The replica's shard.
    pub shard: ShardId,
    /// Whose it is.
    pub node: u64,
}

/// What a replica believes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It asks for votes.
    Candidate,
    /// It follows.
    Follower,
    /// It follows and has no vote.
    Learner,
    /// It does nothing any more: its process is about to end.
    Stopped,
}

/// The log of a replica, as far as an invariant needs it.
pub trait Log {
    /// The position of an entry that is there.
    fn position(&self, index: u64) -> Option<LogPosition>;
}

/// A machine whose process runs, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Its number, from 0 on.
    pub machine: usize,
    /// Its how manieth process it is.
    pub process: u64,
    /// The epoch of the shard map that it goes by; 0 = it has none.
    pub epoch: u64,
}

impl Machine {
    /// What is seen of a machine.
    pub fn of(machine: usize, sim: &SimNode) -> Option<Self> {
        Some(Self {
            machine,
            process: sim.process(),
            epoch: sim.node()?.map_epoch(),
        })
    }
}

/// All replicas at one moment, with their logs, in the order of machines and shards.
pub struct Moment<'a> {
    /// Since the simulation began.
    pub at: Duration,
    /// Those that run.
    pub machines: Vec<Machine>,
    /// Operators may change the members of shards.
    pub members_change: bool,
    /// A replica is being made anew, by the newest state of the meta shard that was seen.
    pub reseed: Option<Reseed>,
    /// Each with its log.
    pub replicas: Vec<(Replica, &'a dyn Log)>,
}

/// What is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// When.
    pub at: Duration,
    /// The invariant's name.
    pub invariant: &'static str,
    /// How, in words.
    pub text: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}: {}", self.invariant, self.at, self.text)
    }
}

/// Something that must hold.
pub trait Invariant {
    /// As in the file's name.
    fn name(&self) -> &'static str;

    /// Whether a moment has what it looks at, so that it could be seen broken, before it has looked. Where nothing of it is there, that it is
    /// not broken says nothing.
    fn sees(&self, moment: &Moment<'_>) -> bool;

    /// Looks at a moment that is not earlier than the last one.
    ///
    /// # Errors
    /// How it is broken, in words.
    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String>;
}

/// All invariants.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(log_matching::LogMatching::default()),
        Box::new(committed_immutable::CommittedImmutable::default()),
        Box::new(leader_completeness::LeaderCompleteness::default()),
        Box::new(state_machine_safety::StateMachineSafety::default()),
        Box::new(monotonic::Monotonic::default()),
        Box::new(order_of_indexes::OrderOfIndexes),
        Box::new(lease_disjointness::LeaseDisjointness),
        Box::new(consumer_cursor::ConsumerCursor::default()),
        Box::new(session_window::SessionWindow::default()),
        Box::new(vote_durability::VoteDurability),
        Box::new(append_durability::AppendDurability),
        Box::new(membership::Membership::default()),
        Box::new(commit_quorum::CommitQuorum::default()),
        Box::new(map_epochs::MapEpochs::default()),
    ]
}

/// Looks at a cluster with all invariants.
pub struct Watcher {
    invariants: Vec<Watched>,
    /// How often it looked at replicas.
    looks: u64,
    broken: Vec<Broken>,
}

/// One of them.
struct Watched {
    invariant: Box<dyn Invariant>,
    /// Moments that had something for it.
    moments: u64,
    is_broken: bool,
}

impl Default for Watcher {
    fn default() -> Self {
        let watched = |invariant| Watched {
            invariant,
            moments: 0,
            is_broken: false,
        };
        Self {
            invariants: all().into_iter().map(watched).collect(),
            looks: 0,
            broken: Vec::new(),
        }
    }
}

impl Watcher {
    /// Looks at a moment.
    pub fn see(&mut self, moment: &Moment<'_>) {
        self.looks += moment.replicas.len() as u64;
        // What was broken once says nothing more.
        for watched in self.invariants.iter_mut().filter(|watched| !watched.is_broken) {
            watched.moments += u64::from(watched.invariant.sees(moment));
            let Err(text) = watched.invariant.look(moment) else {
                continue;
            };
            watched.is_broken = true;
            let found = Broken {
                at: moment.at,
                invariant: watched.invariant.name(),
                text,
            };
            tracing::error!(broken = %found, "an invariant is broken");
            self.broken.push(found);
        }
    }

    /// What each of them says. `failures`: all that is wrong with the run; the end of a run may know more of what an invariant is about.
    pub fn judgements(&self, failures: &[Failure]) -> Vec<Judgement> {
        let judgement = |watched: &Watched| {
            let name = watched.invariant.name();
            let broken = failures.iter().find(|failure| failure.found_by == name);
            Judgement::of_invariant(name, watched.moments, broken.map(|failure| failure.text.as_str()))
        };
        self.invariants.iter().map(judgement).collect()
    }

    /// Those that have seen something of what they look at.
    pub fn have_seen(&self) -> impl Iterator<Item = &'static str> {
        let have_seen = self.invariants.iter().filter(|watched| watched.moments > 0);
        have_seen.map(|watched| watched.invariant.name())
    }

    /// What was broken, oldest first.
    pub fn broken(&self) -> &[Broken] {
        &self.broken
    }

    /// How many times it looked at a replica.
    pub fn looks(&self) -> u64 {
        self.looks
    }
}

/// The log of a replica.
pub struct ReplicaLog {
    wal: Wal,
    shard: ShardId,
}

impl ReplicaLog {
    /// The machine's log, of all its shards.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }
}

impl Log for ReplicaLog {
    fn position(&self, index: u64) -> Option<LogPosition> {
        self.wal.position(self.shard, index)
    }
}

/// A replica: its node, which of the node's it is, and its shard.
pub type ReplicaId = (u64, u64, ShardId);
/// A leader: its term and its node.
pub type LeaderId = (u64, u64);

/// What nodes have said on the network.
#[derive(Debug, Default)]
pub struct Said {
    /// In which terms who handed a shard over.
    pub handed_over: BTreeSet<(usize, ShardId, u64)>,
    /// The newest vote that each node has asked others for: term and node.
    pub asked: BTreeMap<(u64, ShardId), (u64, u64)>,
    /// The newest vote that each replica (node, incarnation, shard) has granted to another, whether that has heard of it or not.
    pub granted: BTreeMap<ReplicaId, LeaderId>,
    /// The last entry that each replica has acknowledged to a leader, whether that has heard of it or not, and that leader's term and
    /// node.
    pub stored: BTreeMap<ReplicaId, (LeaderId, LogPosition)>,
    /// Which nodes' votes have come to whom: shard, term, and the node that asked.
    pub votes: BTreeMap<(ShardId, u64, u64), BTreeSet<u64>>,
    /// Up to which index which nodes' acknowledgements have come to whom: shard, term, and the node that leads.
    pub heard: BTreeMap<(ShardId, u64, u64), BTreeMap<u64, u64>>,
    /// When which nodes' last answers have come to whom.
    pub answered: BTreeMap<(ShardId, u64, u64), BTreeMap<u64, Duration>>,
}

/// The replicas of a machine; `contents`: with what their states say, which takes longer.
pub fn views(machine: usize, sim: &SimNode, said: &Said, contents: bool) -> Vec<(Replica, ReplicaLog)> {
    let (Some(node), Some(host)) = (sim.node(), sim.host()) else {
        return Vec::new();
    };
    let process = sim.process();
    let number = node.identity().map_or(0, |identity| identity.node_id);
    let mut views = Vec::new();
    for shard in node.shards() {
        let status = shard.status();
        let log = node.wal().shard(shard.id());
        let given_up = said.handed_over.contains(&(machine, shard.id(), status.term));
        let durable = shard.durable_head();
        let of_replica = (number, shard.incarnation(), shard.id());
        let replica = Replica {
            machine,
            node: number,
            process,
            shard: shard.id(),
            incarnation: shard.incarnation(),
            installing: shard.head().installs() % 2 == 1,
            installs: shard.head().installs(),
            role: role(&status.role),
            term: status.term,
            committed: log.committed.map(|position| position.index),
            applied: shard.head().applied_next().checked_sub(1),
            unreadable: durable.is_err(),
            flushed: durable
                .ok()
                .and_then(|head| head.applied)
                .map(|position| position.index),
            revision: status.revision,
            lease: !given_up && as_node(host, || has_lease(&shard)),
            asked: said.asked.get(&(number, shard.id())).copied(),
            granted: said.granted.get(&of_replica).copied(),
            stored: said.stored.get(&of_replica).copied(),
            election: (status.role == "leader").then(|| said.election(&shard, status.term, number)),
            log,
            contents: contents
                .then(|| Applied::of(&shard))
                .flatten()
                .map(|read| read.map(Arc::new)),
        };
        let wal = node.wal().clone();
        views.push((
            replica,
            ReplicaLog {
                wal,
                shard: shard.id(),
            },
        ));
    }
    views
}

/// By the clock of who asks.
fn has_lease(shard: &Shard) -> bool {
    let metrics = shard.raft().metrics();
    let metrics = metrics.borrow_watched();
    let acknowledged = metrics.last_quorum_acked.as_ref();
    metrics.state.is_leader() && acknowledged.is_some_and(|at| at.elapsed() < shard.reads().lease())
}

fn voters(shard: &Shard) -> Vec<BTreeSet<u64>> {
    let metrics = shard.raft().metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().get_joint_config().clone()
}

fn role(name: &str) -> Role {
    match name {
        "leader" => Role::Leader,
        "candidate" => Role::Candidate,
        "learner" => Role::Learner,
        "shutdown" => Role::Stopped,
        _ => Role::Follower,
    }
}
