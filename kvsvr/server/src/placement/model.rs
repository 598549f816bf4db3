//! A naive model of a cluster whose shards change: what steps do to memberships. For plans that are shown before they are carried out,
//! and for the tests of the planner.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    decide::{Decision, Doing, Write, decide},
    state::{NodeState, Progress, Real, View, majority},
    step::Step,
};
use crate::limits::MAX_PLAN_STEPS;

/// One shard's group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) configs: Vec<BTreeSet<u64>>,
    pub(super) learners: BTreeSet<u64>,
    pub(super) leader: Option<u64>,
    /// Which of their replicas the members are, as in [`Real`].
    pub(super) incarnations: BTreeMap<u64, u64>,
    /// Members with all entries.
    pub(super) caught_up: BTreeSet<u64>,
    /// Replicas that exist, with their incarnations, whether members or not.
    pub(super) replicas: BTreeMap<u64, u64>,
}

/// A cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct World {
    /// What the meta shard stores; `real` is not used.
    pub(super) stored: View,
    pub(super) groups: BTreeMap<u32, Group>,
}

impl Group {
    /// The replica that a member is exists.
    pub(super) fn has(&self, node: u64) -> bool {
        let member = self.incarnations.get(&node).copied().unwrap_or(0);
        self.replicas.get(&node) == Some(&member)
    }
}

impl World {
    /// A cluster that is as it is seen.
    pub(super) fn of(view: &View) -> World {
        let mut stored = view.clone();
        stored.real.clear();
        for node in stored.nodes.values_mut() {
            // It will be heard of.
            if node.state == NodeState::Joining {
                node.silent_ms = None;
            }
        }
        let mut world = World {
            stored,
            groups: BTreeMap::new(),
        };
        for row in view.rows.values() {
            let mut group = Group {
                configs: vec![row.voters()],
                caught_up: row.voters(),
                ..Group::default()
            };
            if let Some(real) = view.real.get(&row.id) {
                group.configs.clone_from(&real.configs);
                group.learners.clone_from(&real.learners);
                group.leader = Some(real.leader);
                group.incarnations.clone_from(&real.incarnations);
                let caught_up = real.progress.iter().filter(|(_, p)| p.caught_up);
                group.caught_up = caught_up.map(|(id, _)| *id).collect();
            }
            group.replicas = row.hosts().map(|id| (id, row.incarnation(id))).collect();
            world.groups.insert(row.id, group);
        }
        world
    }

    pub(super) fn alive(&self, node: u64) -> bool {
        self.stored.nodes.get(&node).is_some_and(super::Node::reachable)
    }

    /// All sets of voters have a majority that is alive.
    fn has_quorum(&self, configs: &[BTreeSet<u64>]) -> bool {
        configs
            .iter()
            .all(|set| set.iter().filter(|id| self.alive(**id)).count() >= majority(set.len()))
    }

    /// What the nodes do by themselves: start and destroy replicas, elect leaders, catch up.
    pub(super) fn tick(&mut self) {
        let ids: Vec<u32> = self.groups.keys().copied().collect();
        for id in ids {
            let Some(mut group) = self.groups.remove(&id) else {
                continue;
            };
            if let Some(row) = self.stored.rows.get(&id) {
                for node in self.stored.nodes.keys().copied().filter(|id| self.alive(*id)) {
                    if !row.hosts().any(|host| host == node) {
                        group.replicas.remove(&node);
                    } else if group.replicas.get(&node) != Some(&row.incarnation(node)) {
                        group.replicas.insert(node, row.incarnation(node));
                        group.caught_up.remove(&node);
                    }
                }
            }
            let votes = |node: &u64| group.configs.iter().any(|set| set.contains(node));
            if !self.has_quorum(&group.configs) {
                group.leader = None;
            } else if !group.leader.is_some_and(|id| self.alive(id) && votes(&id)) {
                let able = group.configs.iter().flatten();
                group.leader = able
                    .copied()
                    .find(|id| self.alive(*id) && group.caught_up.contains(id));
            }
            if group.leader.is_some() {
                let members = group.configs.iter().flatten().chain(&group.learners);
                let reached: Vec<u64> = members
                    .copied()
                    .filter(|id| self.alive(*id) && group.has(*id))
                    .collect();
                group.caught_up.extend(reached);
            }
            self.groups.insert(id, group);
        }
    }

    /// What the controller sees.
    pub(super) fn view(&self) -> View {
        let mut view = self.stored.clone();
        for (id, group) in &self.groups {
            let Some(leader) = group.leader else { continue };
            let members = group.configs.iter().flatten().chain(&group.learners);
            let progress = members.map(|node| {
                let heard = self.alive(*node) && group.has(*node);
                let caught_up = heard && group.caught_up.contains(node);
                let progress = Progress {
                    caught_up,
                    heard,
                    ..Progress::default()
                };
                (*node, progress)
            });
            let real = Real {
                leader,
                configs: group.configs.clone(),
                learners: group.learners.clone(),
                incarnations: group.incarnations.clone(),
                committed: true,
                progress: progress.collect(),
            };
            view.real.insert(*id, real);
        }
        view
    }

    /// Stores what is decided.
    pub(super) fn store(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Row(row) => {
                    let mut row = row.clone();
                    row.changes += 1;
                    self.stored.rows.insert(row.id, row);
                }
                Write::Node(id, state) => {
                    if let Some(node) = self.stored.nodes.get_mut(id) {
                        node.state = *state;
                    }
                }
                Write::Evicted(id, evicted) => {
                    if let Some(node) = self.stored.nodes.get_mut(id) {
                        node.evicted = *evicted;
                    }
                }
                Write::Slow(id, slow) => {
                    if let Some(node) = self.stored.nodes.get_mut(id) {
                        node.slow = *slow;
                    }
                }
                Write::Labels(id, labels) => {
                    if let Some(node) = self.stored.nodes.get_mut(id) {
                        node.labels.clone_from(labels);
                    }
                }
                Write::NewNode(node) => {
                    self.stored.nodes.insert(node.id, node.clone());
                }
                Write::NewOperation(operation) => self.stored.operation = Some(*operation),
                Write::Operation(state) => {
                    if let Some(operation) = &mut self.stored.operation {
                        operation.state = *state;
                    }
                }
            }
        }
    }

    /// A leader carries out a step; `to_the_end`: it lives to end a joint configuration.
    pub(super) fn perform(&mut self, shard: u32, step: &Step, to_the_end: bool) {
        let Some(mut group) = self.groups.remove(&shard) else {
            return;
        };
        if group.leader.is_some() {
            match step {
                Step::AddLearner { node, incarnation } => {
                    group.learners.insert(*node);
                    group.incarnations.insert(*node, *incarnation);
                    group.caught_up.remove(node);
                }
                Step::MoveLeader(to) => group.leader = Some(*to),
                Step::ChangeVoters(next) => {
                    group.configs.push(next.clone());
                    group.learners.retain(|id| !next.contains(id));
                    if to_the_end && self.has_quorum(&group.configs) {
                        finish(&mut group);
                    }
                }
                Step::FinishJoint(_) if self.has_quorum(&group.configs) => finish(&mut group),
                Step::DropLearner(node) => {
                    group.learners.remove(node);
                    group.incarnations.remove(node);
                    group.caught_up.remove(node);
                }
                Step::FinishJoint(_) | Step::Row(_) | Step::Wait(_) | Step::Settled => {}
            }
        }
        self.groups.insert(shard, group);
    }

    /// Carries out all of a decision.
    pub(super) fn carry_out(&mut self, decision: &Decision) {
        for (shard, step) in &decision.steps {
            self.perform(*shard, step, true);
        }
        self.store(&decision.writes);
    }
}

/// The last set of voters is the only one; the others stay as learners.
fn finish(group: &mut Group) {
    let Some(last) = group.configs.pop() else { return };
    let were = group.configs.iter().flatten().filter(|id| !last.contains(id));
    group.learners.extend(were);
    group.configs = vec![last];
}

/// Changes a view as the writes would change what is stored.
pub fn assume(view: &mut View, writes: &[Write]) {
    let mut world = World {
        stored: std::mem::take(view),
        groups: BTreeMap::new(),
    };
    world.store(writes);
    *view = world.stored;
}

/// The steps from here to the end of the operation, if all goes well. What would stand in the way for good comes last.
pub fn plan(view: &View) -> Vec<Doing> {
    let mut world = World::of(view);
    let mut steps = Vec::new();
    while steps.len() < MAX_PLAN_STEPS {
        world.tick();
        let decision = decide(&world.view());
        if decision.writes.is_empty() && decision.steps.is_empty() {
            // What still stands in the way would stay there.
            steps.extend(decision.waiting.into_iter().map(Doing::plain));
            return steps;
        }
        world.carry_out(&decision);
        steps.extend(decision.doing);
        let ended = world.stored.operation.is_none_or(|op| op.state.ended());
        if ended {
            return steps;
        }
    }
    steps
}
