//! Carries out a plan's faults.
//!
//! What holds at any moment is computed anew from the faults that are under way, so that faults which overlap do not undo each other: a
//! link is cut as long as one of them cuts it, a process is down as long as one of them keeps it down. A process that ended by itself
//! is started again after a while, as a supervisor would, unless a fault keeps it down.

mod came;
mod links;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    time::Duration,
};

use futures::future::{Either, select};
use kvsvr_core::types::ShardId;
use madsim::runtime::{Handle, NodeHandle};
use openraft_rt::WatchReceiver as _;
use tokio::time::{Instant, sleep, sleep_until};

use self::came::Met;
use crate::{
    damage::{self, Damage},
    disk::{self, Atlas, DiskSpec},
    net::SimNet,
    node::SimNode,
    plan::{DiskOperation, Fault, Knobs, Plan, Victims, What},
    random::Stream,
    trouble::Trouble,
};

/// Hosts of the workloads' clients.
pub(crate) const CLIENT_HOSTS: usize = 2;
/// How long after its end a supervisor starts a process again.
const SUPERVISION: Duration = Duration::from_millis(300);

/// When a fault began or ended, and which: for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// Its place in the plan.
    pub fault: usize,
    /// Its kind.
    pub kind: &'static str,
    /// The machines that it was for.
    pub nodes: BTreeSet<usize>,
    /// What it came to, that may end a process, at which of them.
    pub came: BTreeMap<usize, BTreeSet<Trouble>>,
    /// Since the simulation began.
    pub from: Duration,
    /// Since then; not yet over if `None`.
    pub until: Option<Duration>,
}

/// The machines, their network, and what is wrong with them.
pub struct Faults {
    net: SimNet,
    nodes: Vec<SimNode>,
    /// Hosts of the workloads' clients, then others.
    clients: Vec<String>,
    /// The processes of the workloads' clients.
    client_process: NodeHandle,
    knobs: Knobs,
    begin: Instant,
    active: Vec<Active>,
    bands: Vec<Band>,
    /// Who may be damaged.
    atlas: Atlas,
    chance: Stream,
}

struct Active {
    /// Its place in the plan, and in the bands.
    fault: usize,
    band: usize,
    what: What,
    victims: BTreeSet<usize>,
    /// What it damaged, and whose.
    damage: Vec<(usize, Damage)>,
    /// What its victims had met before it began.
    before: BTreeMap<usize, Met>,
}

impl Faults {
    /// Nothing is wrong. `begin` is when the simulation began.
    pub fn new(
        net: SimNet,
        nodes: Vec<SimNode>,
        (clients, client_process): (Vec<String>, NodeHandle),
        plan: &Plan,
        begin: Instant,
    ) -> Self {
        let mut atlas = Atlas::new();
        for shard in 0..=plan.shards {
            // Every machine has a replica of every shard.
            atlas.set_group(shard, nodes.iter().map(|node| node.address().to_owned()));
        }
        let faults = Self {
            net,
            nodes,
            clients,
            client_process,
            knobs: plan.knobs.clone(),
            begin,
            active: Vec::new(),
            bands: Vec::new(),
            atlas,
            chance: Stream::new(plan.seed, &[&"damage"]),
        };
        faults.net.set_default(faults.good_link());
        faults.set_disks();
        faults
    }

    /// When which fault held.
    pub fn bands(&self) -> &[Band] {
        &self.bands
    }

    /// Carries out a plan's faults from now on, and supervises the processes, until its length is over. Faults that last longer are
    /// then still under way.
    pub async fn run(&mut self, plan: &Plan) {
        let from = Instant::now();
        let time = |ms: u64| from + Duration::from_millis(ms);
        let end = from + plan.length();
        // At the same time what ends goes first, so that the next one finds the process running.
        let mut steps: Vec<(u64, bool, usize)> = Vec::new();
        for (number, fault) in plan.faults.iter().enumerate() {
            steps.push((fault.at_ms, true, number));
            // What happens at once is over after it happened.
            steps.push((fault.end_ms().max(fault.at_ms + 1), false, number));
        }
        steps.sort_unstable();
        for (at_ms, begins, number) in steps.into_iter().filter(|(at_ms, ..)| time(*at_ms) <= end) {
            self.supervise_until(time(at_ms)).await;
            if begins {
                self.begin(number, &plan.faults[number]);
            } else {
                self.end(number);
            }
        }
        self.supervise_until(end).await;
    }

    /// Starts processes that ended by themselves, until then.
    pub async fn supervise_until(&self, until: Instant) {
        loop {
            let next = (Instant::now() + SUPERVISION).min(until);
            sleep_until(next).await;
            if next == until {
                return;
            }
            self.start_missing();
        }
    }

    /// Starts processes that ended by themselves, until this is done.
    pub async fn supervising<T>(&self, doing: impl Future<Output = T>) -> T {
        let mut doing = pin!(doing);
        loop {
            let next = pin!(self.supervise_until(Instant::now() + Duration::from_secs(60)));
            match select(doing, next).await {
                Either::Left((done, _)) => return done,
                Either::Right(((), again)) => doing = again,
            }
        }
    }

    /// Ends the faults that hurt one of these machines or none at all, or all if it is `None`.
    pub fn heal(&mut self, core: Option<&BTreeSet<usize>>) {
        let over: Vec<usize> = self
            .active
            .iter()
            .filter(|active| {
                let hurts = |core| active.victims.is_empty() || !active.victims.is_disjoint(core);
                core.is_none_or(hurts)
            })
            .map(|active| active.fault)
            .collect();
        for fault in over {
            self.end(fault);
        }
        self.start_missing();
    }

    /// Heals these machines, and has nothing of the others: they are down until [`Faults::heal`] heals them too.
    pub fn isolate(&mut self, core: &BTreeSet<usize>) {
        self.heal(Some(core));
        let victims: BTreeSet<usize> = (0..self.nodes.len())
            .filter(|number| !core.contains(number))
            .collect();
        let what = What::Kill {
            victims: Victims::Nodes(victims),
        };
        let fault = Fault {
            at_ms: 0,
            for_ms: 0,
            what,
        };
        self.begin(usize::MAX, &fault);
        self.start_missing();
    }

    fn begin(&mut self, number: usize, fault: &Fault) {
        let mut victims = fault
            .what
            .victims()
            .map_or_else(BTreeSet::new, |v| self.resolve(v));
        if matches!(fault.what, What::EmptyDisk { .. }) {
            // What is damaged is repaired on the disk that is there then.
            victims.retain(|victim| !self.is_damaged(*victim));
        }
        self.bands.push(Band {
            fault: number,
            kind: fault.what.kind(),
            nodes: victims.clone(),
            came: BTreeMap::new(),
            from: self.begin.elapsed(),
            until: None,
        });
        let before = self.met(&victims);
        for victim in &victims {
            self.strike(number, &self.nodes[*victim], &fault.what);
        }
        if let What::Transfer { shard, to } = fault.what {
            self.transfer(shard, to);
        }
        let damage = self.damage(&victims, &fault.what);
        self.active.push(Active {
            fault: number,
            band: self.bands.len() - 1,
            what: fault.what.clone(),
            victims,
            damage,
            before,
        });
        self.settle();
    }

    fn is_damaged(&self, machine: usize) -> bool {
        let mut damage = self.active.iter().flat_map(|active| &active.damage);
        damage.any(|(damaged, _)| *damaged == machine)
    }

    /// Damages what the fault wants, where the atlas lets it.
    fn damage(&mut self, victims: &BTreeSet<usize>, what: &What) -> Vec<(usize, Damage)> {
        let What::Damage { target, restart, .. } = *what else {
            return Vec::new();
        };
        let mut damage = Vec::new();
        for victim in victims {
            let node = &self.nodes[*victim];
            // One thing at a time, so that repairing one does not hide another.
            let has_another_disk = |active: &Active| {
                matches!(active.what, What::EmptyDisk { .. }) && active.victims.contains(victim)
            };
            if self.is_damaged(*victim)
                || self.active.iter().any(has_another_disk)
                || !self.atlas.grant(node.address(), None)
            {
                continue;
            }
            if restart {
                node.kill();
            }
            match damage::inflict(node, target, &mut self.chance) {
                Some(done) => {
                    tracing::info!(machine = victim, damage = ?done, "damaged");
                    damage.push((*victim, done));
                }
                None => self.atlas.repaired(node.address()),
            }
        }
        damage
    }

    fn end(&mut self, number: usize) {
        let Some(place) = self.active.iter().position(|active| active.fault == number) else {
            return;
        };
        let ended = self.active.remove(place);
        self.note_what_came_of(&ended);
        self.bands[ended.band].until = Some(self.begin.elapsed());
        for victim in &ended.victims {
            self.nodes[*victim].failpoints().disarm(number);
            if let What::EmptyDisk { .. } = ended.what {
                self.nodes[*victim].give_disk_back();
            }
            self.nodes[*victim].disk_control().fail_no_more(number);
        }
        for (victim, damage) in &ended.damage {
            let node = &self.nodes[*victim];
            damage::repair(node, damage);
            self.atlas.repaired(node.address());
        }
        self.settle();
        let is_down = ended.what.keeps_down() || matches!(ended.what, What::EmptyDisk { .. });
        if is_down || !ended.damage.is_empty() {
            self.start_missing();
        }
    }

    /// What a fault does at its begin, and once.
    fn strike(&self, number: usize, node: &SimNode, what: &What) {
        match what {
            What::Kill { .. } => {
                node.kill();
            }
            What::PowerLoss { .. } => node.power_off(),
            What::EmptyDisk { .. } => node.take_disk(),
            What::Restart { .. } => {
                let node = node.clone();
                // One that cannot stop in order, because it has not started, is killed.
                tokio::spawn(async move {
                    if node.stop().await.is_err() {
                        node.kill();
                    }
                });
            }
            What::DiskFull { room, .. } => {
                node.set_disk_capacity(node.disk().used().saturating_add(*room));
            }
            What::DiskError { operation, after, .. } => {
                let control = node.disk_control();
                control.fail_after(number, operation_of(*operation), *after);
            }
            What::Failpoint {
                point, hit, action, ..
            } => node.failpoints().arm(number, *point, *hit, *action),
            _ => {}
        }
    }

    /// Makes everything as the faults under way want it, but for processes that have to be started.
    fn settle(&self) {
        self.set_links();
        self.set_disks();
        self.set_clients();
        for (number, node) in self.nodes.iter().enumerate() {
            let on_it = || {
                self.active
                    .iter()
                    .filter(move |active| active.victims.contains(&number))
            };
            let (rate, offset_ms) = of_clock(on_it().map(|active| &active.what));
            node.clock().set_rate(rate);
            node.clock().set_wall_offset_ms(offset_ms);
            if on_it().any(|active| matches!(active.what, What::Pause { .. })) {
                node.pause();
            } else {
                node.resume();
            }
            if !on_it().any(|active| matches!(active.what, What::DiskFull { .. })) {
                node.set_disk_capacity(u64::MAX);
            }
        }
    }

    fn start_missing(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            let is_victim = |active: &Active| active.what.keeps_down() && active.victims.contains(&number);
            if !node.is_running() && !self.active.iter().any(is_victim) && node.start() {
                // A new process may begin paused.
                let pauses = |a: &Active| matches!(a.what, What::Pause { .. }) && a.victims.contains(&number);
                if self.active.iter().any(pauses) {
                    node.pause();
                }
            }
        }
    }

    fn set_clients(&self) {
        let paused = self
            .active
            .iter()
            .any(|a| matches!(a.what, What::PauseClients {}));
        let process = self.client_process.id();
        match paused {
            true => Handle::current().pause(process),
            false => Handle::current().resume(process),
        }
        for host in self.clients.iter().take(CLIENT_HOSTS) {
            self.net.pause(host, paused);
        }
    }

    fn set_disks(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            let mut spec = DiskSpec::default();
            let micros = Duration::from_micros;
            (spec.sync.floor, spec.sync.mean) = (micros(self.knobs.sync_us.0), micros(self.knobs.sync_us.1));
            for active in self
                .active
                .iter()
                .filter(|active| active.victims.contains(&number))
            {
                if let What::SlowDisk {
                    sync_us,
                    stall,
                    stall_ms,
                    ..
                } = active.what
                {
                    spec.sync.mean = spec.sync.mean.max(micros(sync_us));
                    for operation in [&mut spec.read, &mut spec.write, &mut spec.sync] {
                        operation.stall = operation.stall.max(stall);
                        operation.longest_stall = Duration::from_millis(stall_ms);
                    }
                }
            }
            node.disk_control().change(|of_disk| *of_disk = spec);
        }
    }

    fn resolve(&self, victims: &Victims) -> BTreeSet<usize> {
        match victims {
            Victims::Nodes(nodes) => nodes.clone(),
            Victims::All => (0..self.nodes.len()).collect(),
            Victims::Leader(shard) => self.leader(*shard).into_iter().collect(),
            Victims::Follower(shard, nth) => {
                let leader = self.leader(*shard);
                let has = |number: &usize| {
                    self.nodes[*number]
                        .node()
                        .is_some_and(|node| node.shard(ShardId(*shard)).is_some())
                };
                let followers = (0..self.nodes.len())
                    .filter(|number| Some(*number) != leader)
                    .filter(has);
                followers.skip(*nth).take(1).collect()
            }
        }
    }

    /// The machine whose replica believes to lead, of the highest term if there are several.
    pub fn leader(&self, shard: u32) -> Option<usize> {
        let claims = self.nodes.iter().enumerate().filter_map(|(number, node)| {
            let replica = node.node()?.shard(ShardId(shard))?;
            let term = replica.raft().metrics().borrow_watched().current_term;
            replica.leader().is_me().then_some((term, number))
        });
        claims.max().map(|(_, number)| number)
    }

    fn transfer(&self, shard: u32, to: usize) {
        let leader = self.leader(shard).and_then(|number| self.nodes[number].node());
        let identity = self.nodes[to].node().and_then(|node| node.identity());
        let replica = leader.and_then(|leader| leader.shard(ShardId(shard)));
        if let (Some(replica), Some(identity)) = (replica, identity) {
            tokio::spawn(async move {
                // It may lead no more by then.
                let _ = replica.raft().trigger().transfer_leader(identity.node_id).await;
            });
        }
    }
}

/// The rate of a clock, and by how many milliseconds its wall clock is set ahead, while these are under way.
pub(crate) fn of_clock<'a>(faults: impl Iterator<Item = &'a What>) -> (f64, i64) {
    let (mut rate, mut offset) = (1.0, 0i64);
    for what in faults {
        match what {
            What::ClockRate { rate: of_it, .. } => rate *= of_it,
            What::WallClock { offset_ms, .. } => offset += offset_ms,
            _ => {}
        }
    }
    // Leases are promised to hold for clocks that differ by this much at most.
    (f64::clamp(rate, 0.9, 1.1), offset)
}

fn operation_of(operation: DiskOperation) -> disk::Operation {
    match operation {
        DiskOperation::Read => disk::Operation::Read,
        DiskOperation::Write => disk::Operation::Write,
        DiskOperation::Sync => disk::Operation::Sync,
        DiskOperation::Flush => disk::Operation::Flush,
    }
}

impl What {
    /// The process does not run while it is under way.
    fn keeps_down(&self) -> bool {
        matches!(
            self,
            What::Kill { .. } | What::PowerLoss { .. } | What::Restart { .. }
        )
    }
}

/// Waits until all machines have a node that has started, or the time is up.
pub async fn all_started(nodes: &[SimNode], within: Duration) -> bool {
    let until = Instant::now() + within;
    while nodes.iter().any(|node| node.node().is_none()) {
        if Instant::now() >= until {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}
