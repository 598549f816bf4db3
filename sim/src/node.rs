//! A simulated machine with a kvsvr node on it: the production node on the simulator's parts.
//!
//! The machine has a disk, an engine and a clock, which outlive its processes, and an address, which stays. Each process has a simulation
//! node of its own, so that ending it ends all its tasks at once. A process that cannot go on (a failed log, a replica that stopped) ends
//! as the real one does, and the reason is kept; nobody starts it again but the plan.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Weak},
    time::Duration,
};

use kvsvr::{
    api::NodeService,
    config::Settings,
    disk::{DynDisk, mem::MemDisk},
    maintenance,
    metrics::Metrics,
    node::{Node, NodeParts, StatusProbe},
    raft::{runtime::random_u64, snapshot::free_staging},
    store::{STAGING_DIR, Store, StoreId},
    time::{Instant, wall_clock_ms},
    wal::{Wal, WalOptions},
};
use kvsvr_proto::v1::NodeStatus;
use madsim::{
    runtime::{Handle, NodeHandle},
    task::NodeId,
};
use parking_lot::Mutex;

use crate::{
    clock::MachineClock,
    disk::{DiskControl, SimDisk},
    engine::{EngineKind, Loss, SimEngine},
    failpoint::{Action, Failpoints, Gate},
    net::{Endpoint, SimNet},
    random::Stream,
};

/// Bytes of a segment of the log: small, so that short runs have many.
const SEGMENT_BYTES: u64 = 1 << 20;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When it was started, since the begin of the simulation.
    pub began: Duration,
    /// When it ended, since then.
    pub at: Duration,
    /// The machine's first process is 1.
    pub process: u64,
    /// By whom.
    pub how: How,
    /// In words.
    pub reason: String,
}

/// By whom a process was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By the plan.
    Told,
    /// By itself, because it could not go on.
    ByItself,
    /// By the plan, which told it to stop in order; and it could not do that.
    Uncleanly,
}

impl Ended {
    /// It could not go on.
    pub fn by_itself(&self) -> bool {
        self.how == How::ByItself
    }
}

/// What a process finds on its disk when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// The log ended in a write that was interrupted.
    TornLog,
    /// A snapshot that was being installed.
    Installation,
    /// A snapshot that was being received.
    Transfer,
}

/// A machine. Clones are the same one.
#[derive(Clone)]
pub struct SimNode(Arc<Machine>);

struct Machine {
    address: String,
    net: SimNet,
    settings: Settings,
    clock: MachineClock,
    disk_control: Arc<DiskControl>,
    failpoints: Arc<Failpoints>,
    state: Mutex<State>,
}

struct State {
    disk: MemDisk,
    /// Bytes of the disk.
    capacity: u64,
    engine: Arc<SimEngine>,
    /// What was there before an empty disk took its place.
    kept: Option<(MemDisk, Arc<SimEngine>)>,
    segment_bytes: u64,
    running: Option<Running>,
    processes: u64,
    ended: Vec<Ended>,
    found: BTreeMap<Found, u64>,
    chance: Stream,
}

struct Running {
    host: NodeHandle,
    /// Since the begin of the simulation.
    began: Duration,
    /// Once it has started.
    node: Option<Arc<Node>>,
    /// It has been told to stop in order: replicas that stop are no news.
    stopping: bool,
}

struct NoProbe;

impl StatusProbe for NoProbe {
    fn fill(&self, _: &mut NodeStatus) {}
}

impl fmt::Debug for SimNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNode({})", self.0.address)
    }
}

impl SimNode {
    /// A machine with an empty disk, without a process.
    pub fn new(seed: u64, net: SimNet, address: &str, settings: Settings) -> Self {
        let mut chance = Stream::new(seed, &[&"node", &address]);
        let state = State {
            disk: MemDisk::new(chance.next_u64()),
            capacity: u64::MAX,
            engine: Arc::new(SimEngine::new(EngineKind::default())),
            kept: None,
            segment_bytes: SEGMENT_BYTES,
            running: None,
            processes: 0,
            ended: Vec::new(),
            found: BTreeMap::new(),
            chance,
        };
        Self(Arc::new(Machine {
            address: address.to_owned(),
            net,
            settings,
            clock: MachineClock::default(),
            disk_control: Arc::new(DiskControl::new(seed, address)),
            failpoints: Arc::default(),
            state: Mutex::new(state),
        }))
    }

    /// HOST:PORT.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Its clock.
    pub fn clock(&self) -> &MachineClock {
        &self.0.clock
    }

    /// The faults of its disk.
    pub fn disk_control(&self) -> &Arc<DiskControl> {
        &self.0.disk_control
    }

    /// Its failpoints.
    pub fn failpoints(&self) -> &Failpoints {
        &self.0.failpoints
    }

    /// What its processes found when they started, and how often.
    pub fn found(&self) -> BTreeMap<Found, u64> {
        self.0.state.lock().found.clone()
    }

    /// What is on its disk now. Another one after the process has ended.
    pub fn disk(&self) -> MemDisk {
        self.0.state.lock().disk.clone()
    }

    /// Sets how many bytes its disk has: what does not fit fails with ENOSPC. Files that are there stay.
    pub fn set_disk_capacity(&self, bytes: u64) {
        self.0.disk_control.set_full(bytes != u64::MAX);
        let mut state = self.0.state.lock();
        state.capacity = bytes;
        state.disk.set_capacity(bytes);
    }

    /// Its engine. Another one after the process has ended.
    pub fn engine(&self) -> Arc<SimEngine> {
        self.0.state.lock().engine.clone()
    }

    /// The node, when it has started and not ended.
    pub fn node(&self) -> Option<Arc<Node>> {
        let state = self.0.state.lock();
        state.running.as_ref().and_then(|running| running.node.clone())
    }

    /// The simulation's node that its process runs on, while there is one.
    pub fn host(&self) -> Option<NodeId> {
        let state = self.0.state.lock();
        state.running.as_ref().map(|running| running.host.id())
    }

    /// The number of its last process; the first one is 1.
    pub fn process(&self) -> u64 {
        self.0.state.lock().processes
    }

    /// Sets the bytes of a segment of the log, for processes that start later.
    pub fn set_segment_bytes(&self, bytes: u64) {
        self.0.state.lock().segment_bytes = bytes;
    }

    /// Gives it an empty engine of this kind. Before its first process starts.
    pub fn set_engine(&self, kind: EngineKind) {
        self.0.state.lock().engine = Arc::new(SimEngine::new(kind));
    }

    /// Whether it has a process.
    pub fn is_running(&self) -> bool {
        self.0.state.lock().running.is_some()
    }

    /// How its processes ended so far, oldest first.
    pub fn ended(&self) -> Vec<Ended> {
        self.0.state.lock().ended.clone()
    }

    /// Starts a process with what the last one left, and the machine if it is off. False if there is one.
    pub fn start(&self) -> bool {
        let mut state = self.0.state.lock();
        if state.running.is_some() {
            return false;
        }
        state.processes += 1;
        let process = state.processes;
        let name = format!("{}#{process}", self.0.address);
        let host = Handle::current().create_node().name(name).build();
        state.running = Some(Running {
            host: host.clone(),
            began: now(),
            node: None,
            stopping: false,
        });
        let engine = state.engine.clone();
        let control = self.0.disk_control.clone();
        let gate = self.gate(process);
        engine.set_process(gate.clone(), control.clone(), Some(host.id()));
        let disk: DynDisk = Arc::new(SimDisk::mount(state.disk.clone(), control, &host, Some(gate)));
        drop(state);
        self.0.clock.attach(host.id());
        let endpoint = self.0.net.boot(&self.0.address, host.clone());
        let machine = self.0.clone();
        host.spawn(async move {
            let reason = match machine.run(process, disk, engine, endpoint).await {
                Ok(reason) => reason,
                Err(error) => format!("cannot start: {error}"),
            };
            end(&Arc::downgrade(&machine), process, &reason);
        });
        true
    }

    fn gate(&self, process: u64) -> Gate {
        let machine = Arc::downgrade(&self.0);
        let crash = move |action, point| {
            let (loss, what) = match action {
                Action::PowerLoss => (Loss::Power, "power lost"),
                _ => (Loss::Process, "killed"),
            };
            if let Some(machine) = machine.upgrade() {
                machine.end(Some(process), How::Told, loss, &format!("{what} at {point}"));
            }
        };
        Gate::new(self.0.failpoints.clone(), Arc::new(crash))
    }

    /// Kills the process: what it wrote stays, synced or not. False if there is none.
    pub fn kill(&self) -> bool {
        self.0.end(None, How::Told, Loss::Process, "killed")
    }

    /// The machine loses power: of what was not synced anything may be lost. It comes back with [`SimNode::start`].
    pub fn power_off(&self) {
        self.0.end(None, How::Told, Loss::Power, "power lost");
    }

    /// Kills the process and empties the disk and the engine, as when the data directory is lost.
    pub fn wipe(&self) {
        self.kill();
        let mut state = self.0.state.lock();
        let seed = state.chance.next_u64();
        state.disk = MemDisk::new(seed);
        state.disk.set_capacity(state.capacity);
        state.engine = Arc::new(state.engine.emptied());
    }

    /// Kills the process and puts an empty disk in the place of the one that is there, which is kept until [`SimNode::give_disk_back`].
    pub fn take_disk(&self) {
        let kept = {
            self.kill();
            let state = self.0.state.lock();
            (state.disk.clone(), state.engine.clone())
        };
        self.wipe();
        self.0.state.lock().kept.get_or_insert(kept);
    }

    /// Kills the process and mounts the disk again that was taken.
    pub fn give_disk_back(&self) {
        self.kill();
        let mut state = self.0.state.lock();
        if let Some((disk, engine)) = state.kept.take() {
            disk.set_capacity(state.capacity);
            (state.disk, state.engine) = (disk, engine);
        }
    }

    /// The process stands still until [`SimNode::resume`]: it does nothing and hears nothing.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// See [`SimNode::pause`].
    pub fn resume(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, paused: bool) {
        let host = {
            let state = self.0.state.lock();
            state.running.as_ref().map(|running| running.host.id())
        };
        let Some(host) = host else { return };
        match paused {
            true => Handle::current().pause(host),
            false => Handle::current().resume(host),
        }
        self.0.net.pause(&self.0.address, paused);
    }

    /// Stops the process in order, as SIGTERM does, and waits for its end.
    ///
    /// # Errors
    /// What the node says, or that there is none.
    pub async fn stop(&self) -> io::Result<()> {
        let (host, process) = {
            let mut state = self.0.state.lock();
            let host = state.running.as_mut().map(|running| {
                running.stopping = true;
                running.host.clone()
            });
            (host, state.processes)
        };
        let (Some(host), Some(node)) = (host, self.node()) else {
            return Err(io::Error::other("there is no running node"));
        };
        let stopped = host.spawn(async move { maintenance::stop(&node).await }).await;
        let stopped = stopped.map_err(io::Error::other).flatten();
        let (how, reason) = match &stopped {
            Ok(()) => (How::Told, "stopped".to_owned()),
            Err(error) => (How::Uncleanly, format!("could not stop in order: {error}")),
        };
        self.0.end(Some(process), how, Loss::Process, &reason);
        stopped
    }
}

/// Ends a process from inside it.
fn end(machine: &Weak<Machine>, process: u64, reason: &str) {
    if let Some(machine) = machine.upgrade() {
        machine.end(Some(process), How::ByItself, Loss::Process, reason);
    }
}

/// Since the begin of the simulation.
fn now() -> Duration {
    madsim::time::TimeHandle::current().elapsed()
}

impl Machine {
    /// Ends the process, if there is one and it is this one, before any of its code runs again. Its disk and its connections are
    /// as this moment finds them.
    fn end(&self, process: Option<u64>, how: How, loss: Loss, reason: &str) -> bool {
        let mut state = self.state.lock();
        if process.is_some_and(|process| process != state.processes) {
            return false;
        }
        let running = state.running.take();
        if running.is_none() && loss == Loss::Process {
            return false;
        }
        let seed = state.chance.next_u64();
        state.disk = match loss {
            Loss::Process => state.disk.kill(seed),
            Loss::Power => state.disk.crash(seed),
        };
        state.engine = Arc::new(state.engine.restarted(loss, seed));
        if let Some(running) = &running {
            let ended = Ended {
                began: running.began,
                at: now(),
                process: state.processes,
                how,
                reason: reason.to_owned(),
            };
            state.ended.push(ended);
        }
        drop(state);
        match loss {
            Loss::Process => self.net.end_process(&self.address),
            Loss::Power => self.net.end_machine(&self.address),
        }
        if let Some(running) = &running {
            Handle::current().kill(running.host.id());
        }
        running.is_some()
    }

    /// Runs the node until it cannot go on, and says why.
    async fn run(
        self: &Arc<Self>,
        process: u64,
        disk: DynDisk,
        engine: Arc<SimEngine>,
        endpoint: Endpoint,
    ) -> io::Result<String> {
        let started = Instant::now();
        let fresh = StoreId((u128::from(random_u64()) << 64 | u128::from(random_u64())).to_be_bytes());
        let store = Store::open(disk.clone(), fresh, wall_clock_ms())
            .await
            .map_err(io::Error::other)?;
        disk.create_dir(STAGING_DIR).await?;
        free_staging(&disk, self.settings.disk_reserve_bytes).await?;
        self.look_at_staging(&disk).await?;
        let wal = self.open_wal(process, &store, disk.clone()).await?;
        engine.ready().map_err(io::Error::other)?;
        let parts = NodeParts {
            settings: self.settings,
            address: self.address.clone(),
            store,
            disk,
            wal,
            engine: engine.clone(),
            checkpoints: engine,
            transport: Arc::new(endpoint),
            metrics: Metrics::new(),
            probe: Arc::new(NoProbe),
            started,
        };
        let (node, mut fatal) = Node::start(parts).await?;
        maintenance::spawn(&node);
        self.net
            .listen(&self.address, Arc::new(NodeService(node.clone())));
        if let Some(running) = self.state.lock().running.as_mut() {
            running.node = Some(node);
        }
        let reason = fatal.recv().await;
        if self.is_stopping() {
            std::future::pending::<()>().await;
        }
        Ok(reason.unwrap_or_else(|| "the node was dropped".into()))
    }

    fn is_stopping(&self) -> bool {
        let state = self.state.lock();
        state.running.as_ref().is_some_and(|running| running.stopping)
    }

    fn note(&self, found: Found) {
        *self.state.lock().found.entry(found).or_default() += 1;
    }

    async fn look_at_staging(&self, disk: &DynDisk) -> io::Result<()> {
        for shard in disk.list(STAGING_DIR).await? {
            let names = disk.list(&format!("{STAGING_DIR}/{shard}")).await?;
            let has = |name: &str| names.iter().any(|found| found == name);
            if has("INSTALL") {
                self.note(Found::Installation);
            } else if has("OFFER") {
                self.note(Found::Transfer);
            }
        }
        Ok(())
    }

    async fn open_wal(self: &Arc<Self>, process: u64, store: &Store, disk: DynDisk) -> io::Result<Wal> {
        let machine = Arc::downgrade(self);
        let on_fatal = move |error: &io::Error| {
            end(&machine, process, &format!("the log failed: {error}"));
        };
        let options = WalOptions {
            segment_bytes: self.state.lock().segment_bytes,
            reserve_bytes: self.settings.disk_reserve_bytes,
            ..WalOptions::new(store.meta().store_id, random_u64(), Arc::new(on_fatal))
        };
        let (wal, report) = Wal::open(disk, options).await.map_err(io::Error::other)?;
        if report.torn.is_some() {
            self.note(Found::TornLog);
        }
        if report.fresh && store.identity().is_some() {
            return Err(io::Error::other("the node is a member and has no log any more"));
        }
        Ok(wal)
    }
}

#[cfg(test)]
mod tests;
