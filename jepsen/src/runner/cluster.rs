//! The nodes of a run: starts, stops and supervises their processes, and knows which fault holds which node.
//!
//! A process that ends by itself is a problem of the run, unless a fault of its disk excuses it and its exit code says so. A supervisor
//! starts a node again that is down while no fault holds it, as an init system would. Calls block; what the cluster serves is not looked
//! at here ([`service`](super::service) does).

mod claims;
mod state;

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::Signal;

use self::state::STORAGE_FAILED;
pub use self::state::State;
use super::{
    judge::{About, Problem},
    links::Links,
    planted,
    world::{Machine, World},
};
use crate::{
    os::{
        disk::Disk,
        link::HostId,
        process::{self, Launch, Process},
        shim::{DiskFaults, Shim},
    },
    report::Mark,
    workload::Now,
};

/// A node that ended so often without an excuse stays down.
const MOST_PROBLEMS: usize = 5;
/// Time between two starts by the supervisor.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Time that an orderly stop may take.
pub const STOP: Duration = Duration::from_secs(30);
/// A node listens to signals so soon after its start, on a slow machine too.
const DEAF: Duration = Duration::from_secs(10);
/// Between two looks whether it does.
const LISTEN_PAUSE: Duration = Duration::from_millis(10);
/// What a node writes when it dies of a bug.
const PANIC_MARKERS: [&str; 5] = [
    "panicked at",
    "fatal runtime error",
    "terminate called",
    "Assertion `",
    "stack overflow",
];
/// Revisions that shards keep.
pub const KEEP_REVISIONS: u64 = 2000;
/// Small buffers and a short memory, so that flushes, purges, snapshots and compactions happen in minutes.
const SETTINGS: [&str; 7] = [
    "wal.segment=8MiB",
    "wal.flush=16MiB",
    "memory.write_buffer=2MiB",
    "memory.memtables=16MiB",
    "memory.block_cache=16MiB",
    "memory.row_cache=1MiB",
    "disk_reserve=64MiB",
];

/// So little that a node which was down for seconds is sent a snapshot.
const SHORT_LOG: &str = "raft.keep_log=16KiB";
/// More than a run writes.
const WHOLE_LOG: &str = "raft.keep_log=1GiB";

/// A node that a fault may hold.
pub struct Node {
    /// Its number, from 1 on.
    pub id: u64,
    /// Its host.
    pub host: HostId,
    /// HOST:PORT for others.
    pub address: String,
    listen: String,
    state: Mutex<State>,
    /// What lets it fail.
    pub shim: Option<Shim>,
    /// Where its files are.
    pub disk: Disk,
}

/// All nodes. Dropping it kills them and takes their world down.
pub struct Cluster {
    nodes: Vec<Node>,
    /// The faults of links.
    pub links: Links,
    world: World,
    binary: PathBuf,
    logs: PathBuf,
    now: Now,
    marks: Mutex<Vec<Mark>>,
    problems: Mutex<Vec<Problem>>,
    mutant: Option<String>,
    keep_log: bool,
    unnoticed: AtomicUsize,
}

impl Cluster {
    /// Nothing runs yet. Logs go to `logs`, one file for each node.
    pub fn new(world: World, machines: Vec<Machine>, binary: &Path, logs: &Path, now: Now) -> Self {
        let node = |machine: Machine| Node {
            id: machine.id,
            host: machine.host,
            address: machine.address.to_string(),
            listen: machine.listen.to_string(),
            state: Mutex::default(),
            shim: machine.shim,
            disk: machine.disk,
        };
        Self {
            nodes: machines.into_iter().map(node).collect(),
            links: world.links(),
            world,
            binary: binary.to_owned(),
            logs: logs.to_owned(),
            now,
            marks: Mutex::default(),
            problems: Mutex::default(),
            mutant: None,
            keep_log: false,
            unnoticed: AtomicUsize::new(0),
        }
    }

    /// Nodes that are started from now on have this planted bug.
    #[must_use]
    pub fn with_mutant(self, name: Option<&str>) -> Self {
        Self {
            mutant: name.map(str::to_owned),
            ..self
        }
    }

    /// Nodes that are started from now on keep their whole log, or as little as can be.
    #[must_use]
    pub fn with_log_kept(self, keep_log: bool) -> Self {
        Self { keep_log, ..self }
    }

    /// All nodes, by number.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of a number.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, id: u64) -> io::Result<&Node> {
        let found = self.nodes.iter().find(|node| node.id == id);
        found.ok_or_else(|| io::Error::other(format!("there is no node {id}")))
    }

    /// The machines' world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Nanoseconds since the run began.
    pub fn time(&self) -> u64 {
        (self.now)()
    }

    /// Notes that something happened on a node.
    pub fn mark(&self, node: &Node, text: impl Into<String>) {
        self.marks.lock().push(Mark {
            time: self.time(),
            node: (node.id - 1) as u32,
            text: text.into(),
        });
    }

    /// What happened on nodes so far.
    pub fn marks(&self) -> Vec<Mark> {
        self.marks.lock().clone()
    }

    /// Notes something that makes the run invalid.
    pub fn problem(&self, about: About, text: impl Into<String>) {
        self.problems.lock().push(Problem {
            about,
            time: self.time(),
            text: text.into(),
        });
    }

    /// A flipped bit was not noticed by a node's check.
    pub fn bit_unnoticed(&self) {
        self.unnoticed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were not.
    pub fn bits_unnoticed(&self) -> usize {
        self.unnoticed.load(Ordering::Relaxed)
    }

    /// What makes the run invalid so far.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.lock().clone()
    }

    /// Starts a node that is down.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(&self, node: &Node) -> io::Result<()> {
        self.start_with(node, &mut node.state())
    }

    /// The same, with its state in hand.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(&self, node: &Node, state: &mut State) -> io::Result<()> {
        if state.runs() {
            return Ok(());
        }
        let data = node.disk.data();
        let mut args: Vec<std::ffi::OsString> = ["serve", "--http", "off", "--listen", &node.listen]
            .map(Into::into)
            .to_vec();
        args.extend(["--advertise".into(), node.address.clone().into()]);
        args.extend(["--data".into(), data.into_os_string()]);
        let log = if self.keep_log { WHOLE_LOG } else { SHORT_LOG };
        let kept = format!("history.revisions={KEEP_REVISIONS}");
        for setting in SETTINGS.into_iter().chain([log, &kept]) {
            args.extend(["--set".into(), setting.into()]);
        }
        let mut env = node.shim.as_ref().map(Shim::env).unwrap_or_default();
        env.extend(
            self.mutant
                .as_ref()
                .map(|name| (planted::VARIABLE.into(), name.into())),
        );
        let process = Process::start(&Launch {
            program: self.binary.clone(),
            args,
            env,
            log: self.log(node),
            namespace: self.world.namespace(node.host),
        })?;
        self.world.set_process(node.host, Some(process.pid()));
        state.process = Some(process);
        state.ended = None;
        state.started = Some(Instant::now());
        self.mark(node, "started");
        Ok(())
    }

    /// SIGKILL. Nothing happens if it is down.
    ///
    /// # Errors
    /// Those of the system.
    pub fn kill(&self, node: &Node) -> io::Result<()> {
        let mut state = node.state();
        if let Some(mut process) = state.process.take() {
            process.kill()?;
            self.is_down(node, "killed");
        }
        Ok(())
    }

    /// SIGKILL of all nodes at once.
    ///
    /// # Errors
    /// Those of the system.
    pub fn kill_together(&self) -> io::Result<()> {
        let mut states: Vec<_> = self.nodes.iter().map(Node::state).collect();
        let mut processes: Vec<_> = states
            .iter_mut()
            .filter_map(|state| state.process.as_mut())
            .collect();
        process::kill_together(&mut processes)?;
        for (node, state) in self.nodes.iter().zip(&mut states) {
            if state.process.take().is_some() {
                self.is_down(node, "killed");
            }
        }
        Ok(())
    }

    /// SIGTERM as soon as it is listened to, and an end with exit code 0. `Ok(false)` if it was down, or ended otherwise, which is a problem unless it is excused.
    ///
    /// # Errors
    /// Those of the system.
    pub fn terminate(&self, node: &Node) -> io::Result<bool> {
        let Some(mut process) = node.state().process.take() else {
            return Ok(false);
        };
        let deadline = Instant::now() + DEAF;
        while process.status()?.is_none() && !process.catches(Signal::TERM)? && Instant::now() < deadline {
            thread::sleep(LISTEN_PAUSE);
        }
        let ended = process.terminate(STOP)?;
        let state = node.state();
        let clean = ended.status.success() && !ended.forced;
        if clean {
            self.is_down(node, "stopped");
            return Ok(true);
        }
        let how = match ended.forced {
            true => format!("did not stop within {} s of SIGTERM", STOP.as_secs()),
            false => format!("ended with {} at SIGTERM", ended.status),
        };
        if !state.is_excused(ended.status) {
            self.problem(About::Process, format!("node {} {how}", node.id));
        }
        self.is_down(node, how);
        Ok(false)
    }

    /// Its process has ended and is not there any more.
    pub fn is_down(&self, node: &Node, how: impl Into<String>) {
        self.world.set_process(node.host, None);
        self.mark(node, how);
    }

    fn log(&self, node: &Node) -> PathBuf {
        self.logs.join(format!("{}.log", node.host))
    }

    /// Looks whether processes have ended by themselves, and starts nodes that are down and that no fault holds.
    ///
    /// # Errors
    /// A node cannot be started.
    pub fn supervise(&self) -> io::Result<()> {
        for node in &self.nodes {
            let mut state = node.state();
            let status = match &mut state.process {
                Some(process) => process.status()?,
                None => None,
            };
            if let Some(status) = status {
                state.process = None;
                state.ended = Some(status);
                let excused = state.is_excused(status);
                self.is_down(node, format!("ended by itself with {status}"));
                if !excused {
                    state.problems += 1;
                    self.problem(
                        About::Process,
                        format!("node {} ended by itself with {status}", node.id),
                    );
                }
            }
            let is_due = state
                .started
                .is_some_and(|started| started.elapsed() > RESTART_PAUSE);
            if !state.runs() && state.holder.is_none() && is_due && state.problems < MOST_PROBLEMS {
                self.start_with(node, &mut state)?;
            }
        }
        Ok(())
    }

    /// Makes everything good at once: links, clocks and disks, and no fault holds a node. What was paused goes on.
    ///
    /// # Errors
    /// Those of the system; everything is tried all the same.
    pub fn heal(&self) -> io::Result<()> {
        self.links.heal();
        let mut result = Ok(());
        for node in &self.nodes {
            let mut state = node.state();
            state.holder = None;
            state.end_excuse();
            let mut good = state.process.as_mut().map_or(Ok(()), Process::resume);
            state.faults = DiskFaults::default();
            if let Some(shim) = &node.shim {
                good = good.and(shim.set_disk(&state.faults)).and(shim.repair_clocks());
            }
            result = result.and(good);
        }
        result
    }

    /// Stops all nodes at once, in order. An end that is not clean is a problem.
    ///
    /// # Errors
    /// Those of the system.
    pub fn stop(&self) -> io::Result<()> {
        thread::scope(|scope| {
            let stopping: Vec<_> = self
                .nodes
                .iter()
                .map(|node| scope.spawn(|| self.terminate(node)))
                .collect();
            for one in stopping {
                one.join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread that stops a node panicked")))?;
            }
            Ok(())
        })
    }

    /// Lines of the nodes' logs that tell of a bug.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn panics(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for node in &self.nodes {
            let text = std::fs::read(self.log(node))?;
            let text = String::from_utf8_lossy(&text);
            let bad = panic_lines(&text).map(|line| format!("node {}: {line}", node.id));
            found.extend(bad);
        }
        Ok(found)
    }

    /// Verifies the files of a node, which must be stopped: what the node's own check says if they are damaged.
    ///
    /// # Errors
    /// The check cannot be run.
    pub fn damage_of(&self, node: &Node) -> io::Result<Option<String>> {
        let output = std::process::Command::new(&self.binary)
            .args(["check", "--data"])
            .arg(node.disk.data())
            .output()?;
        let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => Ok(None),
            Some(STORAGE_FAILED) => Ok(Some(format!("node {}: {}", node.id, words.trim()))),
            _ => Err(io::Error::other(format!(
                "the check of node {} ended with {}: {}",
                node.id,
                output.status,
                words.trim()
            ))),
        }
    }

    /// SIGKILL of all that still run.
    pub fn kill_all(&self) {
        for node in &self.nodes {
            // Dropping it kills it.
            node.state().process = None;
        }
    }

    /// Ends everything, after [`Cluster::stop`] or without.
    ///
    /// # Errors
    /// See [`World::stop`].
    pub fn end(self) -> io::Result<()> {
        let Self {
            nodes, links, world, ..
        } = self;
        drop((nodes, links));
        world.stop()
    }
}

impl Node {
    /// What changes about it; nobody else changes it meanwhile.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes how its files fail.
    ///
    /// # Errors
    /// It has no shim.
    pub fn change_disk(&self, change: impl FnOnce(&mut DiskFaults)) -> io::Result<()> {
        let shim = self.shim.as_ref();
        let shim = shim.ok_or_else(|| io::Error::other(format!("{} has no shim", self.host)))?;
        let mut state = self.state();
        change(&mut state.faults);
        shim.set_disk(&state.faults)
    }
}

/// Lines that tell of a bug.
fn panic_lines(log: &str) -> impl Iterator<Item = &str> {
    let is_bad = |line: &&str| PANIC_MARKERS.iter().any(|marker| line.contains(marker));
    log.lines().filter(is_bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_found_in_logs() {
        let log = "INFO started\nthread 'kvsvr' panicked at src/x.rs:1:2:\nboom\nERROR the disk is full\n";
        assert_eq!(
            panic_lines(log).collect::<Vec<_>>(),
            ["thread 'kvsvr' panicked at src/x.rs:1:2:"]
        );
    }
}
