//! What the planner knows: nodes, rows, memberships, the operation under way.

use std::collections::{BTreeMap, BTreeSet};

use kvsvr_core::types::META_SHARD;

/// What a node is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Serves, and may be given replicas.
    Up,
    /// Has joined, and does not have the meta shard's state yet.
    Joining,
    /// Is to have no data replicas.
    Draining,
    /// Was silent for too long, and is to have no data replicas until it is back.
    Lost,
    /// Is to have no replicas at all, and to be removed then.
    Leaving,
    /// Is not a member any more. Its id and its store are never used again.
    Removed,
}

impl NodeState {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Up => "up",
            NodeState::Joining => "joining",
            NodeState::Draining => "draining",
            NodeState::Lost => "lost",
            NodeState::Leaving => "leaving",
            NodeState::Removed => "removed",
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// HOST:PORT.
    pub address: String,
    /// Its data directory.
    pub store_id: String,
    /// What it is to be.
    pub state: NodeState,
    /// It is to lead nothing.
    pub evicted: bool,
    /// By name, as the operator has set them.
    pub labels: BTreeMap<String, String>,
    /// Its disk is slow: it is to lead nothing until that is over.
    pub slow: bool,
    /// For how long nobody has heard of it, in milliseconds; `None`: it is there.
    pub silent_ms: Option<u64>,
    /// How quick its disk is, as was seen for some time.
    pub pace: Pace,
}

/// How quick a disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// Not known, or neither.
    #[default]
    Unknown,
    /// Slow for long enough.
    Slow,
    /// Quick for long enough.
    Quick,
}

impl Node {
    /// It answers.
    pub fn reachable(&self) -> bool {
        self.silent_ms.is_none()
    }

    /// What it would fail together with: replicas of a shard are kept apart by it.
    pub fn zone(&self) -> Option<&str> {
        let label = |name: &str| self.labels.get(name).map(String::as_str);
        label("zone").or_else(|| label("host"))
    }

    /// Id and address, for people.
    pub fn text(&self) -> String {
        format!("node {} ({})", self.id, self.address)
    }
}

/// A change of one shard's voters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Becomes a voter.
    pub add: Option<u64>,
    /// Stops being one.
    pub remove: Option<u64>,
}

/// What the meta shard stores of a shard, without its slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardRow {
    /// The shard.
    pub id: u32,
    /// Nodes whose replicas vote; the first is the preferred leader.
    pub replicas: Vec<u64>,
    /// Nodes with a replica that does not vote: it is on its way in or out, or, of the meta shard, there to stay.
    pub learners: Vec<u64>,
    /// What is being changed.
    pub change: Option<Change>,
    /// How often this row was changed; 0 = as the cluster was made.
    pub changes: u64,
    /// Which in the row of a node's replicas of this shard is meant; absent = the first.
    pub incarnations: BTreeMap<u64, u64>,
}

impl ShardRow {
    /// The shard is the meta shard.
    pub fn is_meta(&self) -> bool {
        self.id == META_SHARD.0
    }

    /// Nodes that are to have a replica, voting or not.
    pub fn hosts(&self) -> impl Iterator<Item = u64> {
        self.replicas.iter().chain(&self.learners).copied()
    }

    /// A replica of this incarnation is meant.
    pub fn incarnation(&self, node: u64) -> u64 {
        self.incarnations.get(&node).copied().unwrap_or(0)
    }

    /// The voters.
    pub fn voters(&self) -> BTreeSet<u64> {
        self.replicas.iter().copied().collect()
    }

    /// The row with a change begun: the newcomer is to start a replica, and who leaves is not preferred as leader.
    pub fn begin(&self, change: Change) -> ShardRow {
        let mut row = self.clone();
        // A replica that is there keeps its incarnation: another one would begin without what this one has promised and stored.
        if let Some(node) = change.add
            && !row.hosts().any(|host| host == node)
        {
            row.learners.push(node);
            row.incarnations.insert(node, self.changes + 1);
        }
        if let Some(node) = change.remove {
            let (left, mut order): (Vec<u64>, Vec<u64>) = row.replicas.iter().partition(|id| **id == node);
            order.extend(left);
            row.replicas = order;
        }
        row.change = Some(change);
        row
    }

    /// The row with these voters, who are real: the new ones come last, those who were voters are learners, as they are in the group.
    ///
    /// A change leaves who voted in the group. Voters of the row that are no members at all were cut off, by a recovery of the quorum, and with them
    /// whatever the group had besides: what was being changed is over, and a replica of theirs that comes back must not count as the one that
    /// the row meant. Each node is to have the meta shard, so there they are to get another one.
    pub fn follow(&self, voters: &BTreeSet<u64>, learners: &BTreeSet<u64>) -> ShardRow {
        let mut row = self.clone();
        row.replicas.retain(|id| voters.contains(id));
        let new = voters.iter().filter(|id| !self.replicas.contains(id));
        row.replicas.extend(new);
        let were = self.replicas.iter().filter(|id| !voters.contains(id));
        row.learners.extend(were);
        row.learners.retain(|id| !voters.contains(id));
        let is_member = |id: &u64| voters.contains(id) || learners.contains(id);
        if !self.replicas.iter().all(is_member) {
            row.cut_off(is_member);
        }
        row
    }

    fn cut_off(&mut self, is_member: impl Fn(&u64) -> bool) {
        self.change = None;
        let gone: Vec<u64> = self
            .learners
            .iter()
            .copied()
            .filter(|id| !is_member(id))
            .collect();
        for node in gone {
            if self.is_meta() {
                // The node counts in the same way, see `Node::recover_shards`.
                self.incarnations.insert(node, self.incarnation(node) + 1);
            } else {
                *self = self.without_learner(node);
            }
        }
    }

    /// The row without a learner.
    pub fn without_learner(&self, node: u64) -> ShardRow {
        let mut row = self.clone();
        row.learners.retain(|id| *id != node);
        if !row.replicas.contains(&node) {
            row.incarnations.remove(&node);
        }
        row
    }
}

/// How far a member is, by the leader's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// It has what the leader had a moment ago, and little is missing.
    pub caught_up: bool,
    /// Entries that it lacks.
    pub lag_entries: u64,
    /// How long ago the leader's log ended where its log ends, in milliseconds, if that is known.
    pub lag_ms: Option<u64>,
    /// It has answered within the last heartbeats.
    pub heard: bool,
}

/// A shard's membership, by its leader's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Real {
    /// The leader.
    pub leader: u64,
    /// The voters: one set, or two while they change.
    pub configs: Vec<BTreeSet<u64>>,
    /// Members that do not vote.
    pub learners: BTreeSet<u64>,
    /// Which of the node's replicas is meant, of every member; absent = the first.
    pub incarnations: BTreeMap<u64, u64>,
    /// The newest membership is committed.
    pub committed: bool,
    /// Of every member.
    pub progress: BTreeMap<u64, Progress>,
}

impl Real {
    /// What is known of a member.
    pub fn progress(&self, node: u64) -> Progress {
        self.progress.get(&node).copied().unwrap_or_default()
    }

    /// The member is the replica that the row means.
    pub fn is_meant(&self, row: &ShardRow, node: u64) -> bool {
        self.incarnations.get(&node).copied().unwrap_or(0) == row.incarnation(node)
    }

    /// Members of a set that are there.
    pub fn live(&self, nodes: &BTreeSet<u64>) -> usize {
        nodes.iter().filter(|id| self.progress(**id).heard).count()
    }
}

/// What an operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// A node becomes a member.
    Add(u64),
    /// A node gives its replicas away.
    Drain(u64),
    /// A node may have replicas again.
    Undrain(u64),
    /// A node leaves for good.
    Remove(u64),
    /// A node leaves for good, and another one, which is new, gets its replicas.
    Replace(u64, u64),
    /// A node is to lead nothing.
    Evict(u64),
    /// A node may lead again.
    Restore(u64),
    /// A node has other labels.
    Label(u64),
    /// A node was silent for too long: its replicas are made anew elsewhere.
    Repair(u64),
    /// That node is there again.
    Return(u64),
    /// A node's disk is slow: it leads nothing.
    Slow(u64),
    /// That is over.
    Quick(u64),
    /// The replica of a shard on a node is destroyed and copied anew from the others.
    Reseed {
        /// The shard.
        shard: u32,
        /// The node.
        node: u64,
    },
}

impl OpKind {
    /// For people.
    pub fn text(self) -> String {
        match self {
            OpKind::Add(node) => format!("add node {node}"),
            OpKind::Drain(node) => format!("drain node {node}"),
            OpKind::Undrain(node) => format!("undrain node {node}"),
            OpKind::Remove(node) => format!("remove node {node}"),
            OpKind::Replace(old, new) => format!("replace node {old} by node {new}"),
            OpKind::Evict(node) => format!("evict node {node}"),
            OpKind::Restore(node) => format!("restore node {node}"),
            OpKind::Label(node) => format!("label node {node}"),
            OpKind::Repair(node) => format!("repair what node {node} had"),
            OpKind::Return(node) => format!("take node {node} back"),
            OpKind::Slow(node) => format!("let node {node}, whose disk is slow, lead nothing"),
            OpKind::Quick(node) => format!("let node {node} lead again, whose disk was slow"),
            OpKind::Reseed { shard, node } => format!("reseed shard {shard} on node {node}"),
        }
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpState {
    /// It is being carried out.
    Running,
    /// It is being taken back.
    Aborting,
    /// It is done.
    Done,
    /// It was taken back.
    Aborted,
}

impl OpState {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            OpState::Running => "running",
            OpState::Aborting => "aborting",
            OpState::Done => "done",
            OpState::Aborted => "aborted",
        }
    }

    /// Nothing more will be done for it.
    pub fn ended(self) -> bool {
        matches!(self, OpState::Done | OpState::Aborted)
    }
}

/// An operation, as the planner needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub id: u64,
    /// What it is.
    pub kind: OpKind,
    /// What the node that it is about was before; a new node: joining.
    pub was: NodeState,
    /// How far it is.
    pub state: OpState,
}

/// All that is known at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The nodes, those that were removed too.
    pub nodes: BTreeMap<u64, Node>,
    /// The rows.
    pub rows: BTreeMap<u32, ShardRow>,
    /// The memberships of shards with a leader that answers.
    pub real: BTreeMap<u32, Real>,
    /// Voters that each data shard is to have.
    pub replication: usize,
    /// After so many milliseconds of silence a node's replicas are made anew elsewhere; `None`: never.
    pub repair_after_ms: Option<u64>,
    /// The operation under way; there is one at a time.
    pub operation: Option<Operation>,
}

impl View {
    /// A node's state; one that is not known was never a member.
    pub fn state(&self, node: u64) -> NodeState {
        self.nodes.get(&node).map_or(NodeState::Removed, |n| n.state)
    }

    /// Nodes in a state.
    pub fn in_state(&self, state: NodeState) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(move |n| n.state == state)
    }

    /// A node's name for people.
    pub fn name(&self, node: u64) -> String {
        self.nodes
            .get(&node)
            .map_or_else(|| format!("node {node}"), Node::text)
    }

    /// It may be given a replica now.
    pub fn may_receive(&self, node: u64) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|n| n.state == NodeState::Up && n.reachable())
    }

    /// The leader of the meta shard has heard of it within the last heartbeats; who has not answered since is called silent only later.
    pub fn is_heard(&self, node: u64) -> bool {
        let (Some(row), Some(real)) = (self.meta(), self.real.get(&META_SHARD.0)) else {
            return false;
        };
        // Where its replica is made anew, the old one answers no more and the new one is no member yet: that says nothing of the node.
        !real.is_meant(row, node) || real.progress.get(&node).is_none_or(|progress| progress.heard)
    }

    /// It may lead.
    pub fn may_lead(&self, node: u64) -> bool {
        let known = self.nodes.get(&node);
        known.is_some_and(|n| n.state == NodeState::Up && !n.evicted && !n.slow)
    }

    /// It is to lead nothing: an operator wants that, or its disk is slow.
    pub fn evicted(&self, node: u64) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.evicted || n.slow)
    }

    /// Nodes of these that would fail together with a node, itself aside.
    pub fn neighbours(&self, node: u64, of: impl IntoIterator<Item = u64>) -> usize {
        let zone = |node: u64| self.nodes.get(&node).and_then(Node::zone);
        let Some(here) = zone(node) else { return 0 };
        let of = of.into_iter().filter(|id| *id != node);
        of.filter(|id| zone(*id) == Some(here)).count()
    }

    /// The data shards.
    pub fn data(&self) -> impl Iterator<Item = &ShardRow> {
        self.rows.values().filter(|row| !row.is_meta())
    }

    /// The meta shard.
    pub fn meta(&self) -> Option<&ShardRow> {
        self.rows.get(&META_SHARD.0)
    }

    /// Voters that a shard is to have.
    pub fn wanted_voters(&self, row: &ShardRow) -> usize {
        if !row.is_meta() {
            return self.replication;
        }
        // A node that drains may keep its vote where nobody else can have it, and who joins will have one.
        let voting = |n: &&Node| !matches!(n.state, NodeState::Leaving | NodeState::Removed);
        match self.nodes.values().filter(voting).count() {
            n @ 0..3 => n.max(1),
            3..5 => 3,
            _ => 5,
        }
    }

    /// Data replicas of each node that may have some, counting changes as if they were done.
    pub fn load(&self) -> BTreeMap<u64, usize> {
        let mut load: BTreeMap<u64, usize> = self.in_state(NodeState::Up).map(|n| (n.id, 0)).collect();
        for row in self.data() {
            let mut voters = row.voters();
            if let Some(change) = row.change {
                voters.extend(change.add);
                if let Some(node) = change.remove {
                    voters.remove(&node);
                }
            }
            for node in voters {
                if let Some(count) = load.get_mut(&node) {
                    *count += 1;
                }
            }
        }
        load
    }
}

/// Those of some nodes that do not answer, in words; empty if all do.
pub(super) fn silent<'a>(of: impl IntoIterator<Item = &'a Node>) -> String {
    let silent = of.into_iter().filter(|node| !node.reachable());
    let names: Vec<String> = silent.map(Node::text).collect();
    match names.as_slice() {
        [] => String::new(),
        [name] => format!("{name} does not answer"),
        names => format!("{} do not answer", names.join(", ")),
    }
}

/// How many of `n` voters decide.
pub fn majority(n: usize) -> usize {
    n / 2 + 1
}
