//! Disks that are slow, full, and wrong.
//!
//! A [`SimDisk`] is the [`Disk`] of one process on a [`MemDisk`], which outlives it and models the page cache, power loss, lost names and
//! torn writes. As with the production disk an operation is carried out in its turn on one of two lanes (synchronous writes; all
//! else) even if its caller has given up. What is added is time for each operation, and errors by chance or by order ([`DiskControl`],
//! which is the machine's and stays when the process ends). Which disks may be damaged is the [`Atlas`]'s to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    io,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr::disk::{Disk, DiskFile, DiskFuture, mem::MemDisk};
use madsim::runtime::NodeHandle;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    clock::sleep_exactly,
    failpoint::{Gate, Step},
    random::Stream,
};

/// EIO as the system says it.
const EIO: i32 = 5;

/// What an operation is to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reads of bytes and names.
    Read,
    /// Changes that may stay in the page cache.
    Write,
    /// What makes them durable.
    Sync,
    /// The engine makes its rows durable. It takes no time, since the engine's calls cannot wait.
    Flush,
}

/// How one kind of operation behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperationSpec {
    /// The least time it takes.
    pub floor: Duration,
    /// Mean of what an exponential distribution adds to it.
    pub mean: Duration,
    /// Probability that it takes up to `longest_stall` more.
    pub stall: f64,
    /// The longest such stall; short ones are likelier.
    pub longest_stall: Duration,
}

impl OperationSpec {
    const fn quick(floor: Duration, mean: Duration) -> Self {
        Self {
            floor,
            mean,
            stall: 0.0,
            longest_stall: Duration::from_secs(1),
        }
    }
}

/// How a disk behaves. All of it can be changed while it is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiskSpec {
    /// Reads of bytes and names.
    pub read: OperationSpec,
    /// Changes that may stay in the page cache.
    pub write: OperationSpec,
    /// What makes them durable.
    pub sync: OperationSpec,
}

impl Default for DiskSpec {
    /// A good SSD.
    fn default() -> Self {
        let us = Duration::from_micros;
        Self {
            read: OperationSpec::quick(us(5), us(5)),
            write: OperationSpec::quick(us(5), us(5)),
            sync: OperationSpec::quick(us(80), us(40)),
        }
    }
}

/// The faults of a machine's disk. They stay when its process ends.
pub struct DiskControl(Mutex<Control>);

struct Control {
    spec: DiskSpec,
    armed: Vec<Armed>,
    /// Nothing fits any more, or not much.
    full: bool,
    latency: Stream,
    errors: Stream,
    returned: Returned,
    /// Operations that were chosen to fail with EIO; who asked is told when it has taken its time.
    struck: u64,
}

/// An error that is to come.
struct Armed {
    /// Who wants it.
    by: usize,
    kind: Operation,
    /// Operations of this kind until then.
    left: u64,
}

/// Errors that processes were told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// EIO.
    pub errors: u64,
    /// ENOSPC.
    pub full: u64,
}

impl Control {
    /// Whether an operation of this kind fails: one error at a time.
    fn fails(&mut self, kind: Operation) -> bool {
        for armed in self.armed.iter_mut().filter(|armed| armed.kind == kind) {
            armed.left = armed.left.saturating_sub(1);
        }
        let due = |armed: &Armed| armed.kind == kind && armed.left == 0;
        let found = self.armed.iter().position(due);
        if let Some(place) = found {
            self.armed.remove(place);
            self.struck += 1;
        }
        found.is_some()
    }
}

impl fmt::Debug for DiskControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskControl({:?})", self.0.lock().spec)
    }
}

impl DiskControl {
    /// A healthy disk of a host.
    pub fn new(seed: u64, host: &str) -> Self {
        let stream = |what: &str| Stream::new(seed, &[&"disk", &host, &what]);
        Self(Mutex::new(Control {
            spec: DiskSpec::default(),
            armed: Vec::new(),
            full: false,
            latency: stream("latency"),
            errors: stream("error"),
            returned: Returned::default(),
            struck: 0,
        }))
    }

    /// Changes how it behaves from now on.
    pub fn change(&self, change: impl FnOnce(&mut DiskSpec)) {
        change(&mut self.0.lock().spec);
    }

    /// The `count`-th operation of this kind from now on fails with EIO, once. `by` is who wants it, see [`DiskControl::fail_no_more`].
    pub fn fail_after(&self, by: usize, kind: Operation, count: u64) {
        let left = count.max(1);
        self.0.lock().armed.push(Armed { by, kind, left });
    }

    /// Takes back what `by` has ordered.
    pub fn fail_no_more(&self, by: usize) {
        self.0.lock().armed.retain(|armed| armed.by != by);
    }

    /// Whether nothing fits any more, or not much: for those whose bytes are not counted.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// What processes were told so far.
    pub fn returned(&self) -> Returned {
        self.0.lock().returned
    }

    /// Operations that were chosen to fail with EIO so far, whether anybody was told yet or not.
    pub fn struck(&self) -> u64 {
        self.0.lock().struck
    }

    /// How long the next operation takes, and whether it fails.
    fn next(&self, kind: Operation) -> (Duration, bool) {
        let control = &mut *self.0.lock();
        let spec = match kind {
            Operation::Read => control.spec.read,
            Operation::Write => control.spec.write,
            Operation::Sync | Operation::Flush => control.spec.sync,
        };
        let mut takes = spec.floor + control.latency.exponential(spec.mean);
        if control.latency.chance(spec.stall) {
            takes += control
                .latency
                .log_uniform(Duration::from_millis(1), spec.longest_stall);
        }
        (takes, control.fails(kind))
    }

    /// What is in the way of the engine's next flush. Of a full disk it takes what room there is by chance.
    pub(crate) fn flush(&self) -> Result<(), Obstacle> {
        let control = &mut *self.0.lock();
        if control.fails(Operation::Flush) {
            return Err(Obstacle::Error);
        }
        match control.full && control.errors.chance(0.5) {
            true => Err(Obstacle::Full),
            false => Ok(()),
        }
    }

    /// A number that decides where an error strikes.
    pub(crate) fn draw(&self) -> u64 {
        self.0.lock().errors.next_u64()
    }

    /// A process is told of an error.
    pub(crate) fn note(&self, what: Obstacle) {
        let returned = &mut self.0.lock().returned;
        match what {
            Obstacle::Error => returned.errors += 1,
            Obstacle::Full => returned.full += 1,
        }
    }
}

/// Why an operation cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// EIO.
    Error,
    /// ENOSPC.
    Full,
}

type Job = BoxFuture<'static, ()>;

/// Carries out operations one after the other, as a thread would.
#[derive(Clone)]
struct Lane(mpsc::UnboundedSender<Job>);

impl Lane {
    fn start(node: &NodeHandle) -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        node.spawn(async move {
            while let Some(job) = queue.recv().await {
                job.await;
            }
        });
        Self(jobs)
    }
}

/// The disk of one process.
#[derive(Clone)]
pub struct SimDisk {
    memory: MemDisk,
    control: Arc<DiskControl>,
    gate: Option<Gate>,
    log: Lane,
    general: Lane,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

impl SimDisk {
    /// The disk as a process uses it whose tasks run on `node`; without failpoints if there is no gate.
    pub fn mount(memory: MemDisk, control: Arc<DiskControl>, node: &NodeHandle, gate: Option<Gate>) -> Self {
        Self {
            memory,
            control,
            gate,
            log: Lane::start(node),
            general: Lane::start(node),
        }
    }

    /// Does `operation` in its turn.
    fn run<T: Send + 'static>(
        &self,
        lane: &Lane,
        kind: Operation,
        operation: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> DiskFuture<T> {
        let (control, memory) = (self.control.clone(), self.memory.clone());
        let (reply, result) = oneshot::channel();
        let job = async move {
            let done = wait(&control, &memory, kind).await;
            let done = match done {
                Ok(()) => operation.await,
                Err(error) => Err(error),
            };
            if let Err(error) = &done
                && let Some(obstacle) = obstacle(error)
            {
                control.note(obstacle);
            }
            let _ = reply.send(done);
        };
        let _ = lane.0.send(Box::pin(job));
        Box::pin(async move {
            result
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the process has ended")))
        })
    }
}

/// What an error of a disk says, if it is one that was ordered.
fn obstacle(error: &io::Error) -> Option<Obstacle> {
    let is_sync = |text: &str| text.contains("injected sync failure");
    match error.kind() {
        io::ErrorKind::StorageFull => Some(Obstacle::Full),
        _ if error.raw_os_error() == Some(EIO) || is_sync(&error.to_string()) => Some(Obstacle::Error),
        _ => None,
    }
}

/// Carries a step out, between the failpoints before and after it.
async fn step<T>(
    gate: Option<Gate>,
    step: Option<Step>,
    carry_out: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let (Some(gate), Some(step)) = (gate, step) else {
        return carry_out.await;
    };
    gate.pass(step.before()).await?;
    let done = carry_out.await?;
    gate.pass(step.after()).await?;
    Ok(done)
}

/// What the change of a name is.
fn name_step(from: &str, to: Option<&str>) -> Option<Step> {
    let is_segment = |path: &str| path.starts_with("wal/") && path.ends_with(".wal");
    let is_mark = |path: &str| path.starts_with("staging/") && path.ends_with("/INSTALL");
    match to {
        Some(to) if is_segment(to) => Some(Step::WalBegin),
        Some(to) if is_mark(to) => Some(Step::SnapshotMark),
        Some(to) if !to.contains('/') => Some(Step::StoreReplace),
        None if is_mark(from) => Some(Step::SnapshotRemove),
        _ if is_segment(from) => Some(Step::WalRecycle),
        _ => None,
    }
}

/// What writing to a file and syncing it are.
fn file_steps(path: &str) -> (Option<Step>, Option<Step>) {
    match path.split_once('/') {
        Some(("wal", _)) => (Some(Step::WalWrite), Some(Step::WalSync)),
        Some(("staging", _)) => (Some(Step::SnapshotWrite), Some(Step::SnapshotSync)),
        _ => (None, None),
    }
}

/// The time that an operation takes, and its error.
async fn wait(control: &DiskControl, memory: &MemDisk, kind: Operation) -> io::Result<()> {
    let (takes, fails) = control.next(kind);
    sleep_exactly(Instant::now() + takes).await;
    match (kind, fails) {
        (_, false) => Ok(()),
        // The memory's own failure: what was to become durable is clean in the cache and lost.
        (Operation::Sync, true) => {
            memory.fail_sync_after(1);
            Ok(())
        }
        (_, true) => Err(io::Error::from_raw_os_error(EIO)),
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, create: bool) -> DiskFuture<Arc<dyn DiskFile>> {
        let (disk, opening) = (self.clone(), self.memory.open(path, create));
        let steps = file_steps(path);
        self.run(&self.general, Operation::Read, async move {
            let file: Arc<dyn DiskFile> = Arc::new(SimFile {
                file: opening.await?,
                steps,
                disk,
            });
            Ok(file)
        })
    }

    fn read(&self, path: &str) -> DiskFuture<Bytes> {
        self.run(&self.general, Operation::Read, self.memory.read(path))
    }

    fn list(&self, dir: &str) -> DiskFuture<Vec<String>> {
        self.run(&self.general, Operation::Read, self.memory.list(dir))
    }

    fn create_dir(&self, dir: &str) -> DiskFuture<()> {
        self.run(&self.general, Operation::Write, self.memory.create_dir(dir))
    }

    fn rename(&self, from: &str, to: &str) -> DiskFuture<()> {
        let renaming = step(
            self.gate.clone(),
            name_step(from, Some(to)),
            self.memory.rename(from, to),
        );
        self.run(&self.general, Operation::Write, renaming)
    }

    fn remove(&self, path: &str) -> DiskFuture<()> {
        let removing = step(self.gate.clone(), name_step(path, None), self.memory.remove(path));
        self.run(&self.general, Operation::Write, removing)
    }

    fn remove_dir(&self, dir: &str) -> DiskFuture<()> {
        self.run(&self.general, Operation::Write, self.memory.remove_dir(dir))
    }

    fn sync_dir(&self, dir: &str) -> DiskFuture<()> {
        self.run(&self.general, Operation::Sync, self.memory.sync_dir(dir))
    }

    fn free_bytes(&self) -> DiskFuture<u64> {
        self.run(&self.general, Operation::Read, self.memory.free_bytes())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: Arc<dyn DiskFile>,
    /// What writing to it and syncing it are.
    steps: (Option<Step>, Option<Step>),
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, buffers: Vec<Bytes>, sync: bool) -> DiskFuture<()> {
        let gate = self.disk.gate.clone();
        let writing = self.file.write_at(offset, buffers, false);
        let (write_step, sync_step) = self.steps;
        if !sync {
            // Without a sync the log's files are only allocated.
            let is_step = write_step.filter(|step| *step != Step::WalWrite);
            let writing = step(gate, is_step, writing);
            return self.disk.run(&self.disk.general, Operation::Write, writing);
        }
        let (file, disk) = (self.file.clone(), self.disk.clone());
        let syncing = async move {
            wait(&disk.control, &disk.memory, Operation::Sync).await?;
            file.sync().await
        };
        let both = async move {
            step(gate.clone(), write_step, writing).await?;
            step(gate, sync_step, syncing).await
        };
        self.disk.run(&self.disk.log, Operation::Write, both)
    }

    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<Bytes> {
        self.disk.run(
            &self.disk.general,
            Operation::Read,
            self.file.read_at(offset, len),
        )
    }

    fn len(&self) -> DiskFuture<u64> {
        self.disk
            .run(&self.disk.general, Operation::Read, self.file.len())
    }

    fn set_len(&self, len: u64) -> DiskFuture<()> {
        self.disk
            .run(&self.disk.general, Operation::Write, self.file.set_len(len))
    }

    fn sync(&self) -> DiskFuture<()> {
        let is_step = self.steps.1.filter(|step| *step != Step::WalSync);
        let syncing = step(self.disk.gate.clone(), is_step, self.file.sync());
        self.disk.run(&self.disk.general, Operation::Sync, syncing)
    }
}

/// Says which hosts may lose or damage what they have, so that of each replica group only a minority is hurt at a time and what was
/// acknowledged survives somewhere (after TigerBeetle's `ClusterFaultAtlas`).
#[derive(Clone, Debug, Default)]
pub struct Atlas {
    groups: BTreeMap<u32, BTreeSet<String>>,
    /// The hurt hosts of each group.
    hurt: BTreeMap<u32, BTreeSet<String>>,
}

impl Atlas {
    /// Nobody has anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The hosts that have a replica of the shard, from now on.
    pub fn set_group(&mut self, shard: u32, hosts: impl IntoIterator<Item = String>) {
        self.groups.insert(shard, hosts.into_iter().collect());
    }

    /// Asks to damage a host's replica of one shard, or with `None` all that it has (its log is of all shards). If that is granted the host
    /// counts as hurt until [`Atlas::repaired`].
    pub fn grant(&mut self, host: &str, shard: Option<u32>) -> bool {
        let asked: Vec<u32> = self
            .groups
            .iter()
            .filter(|(id, hosts)| hosts.contains(host) && shard.is_none_or(|shard| shard == **id))
            .map(|(id, _)| *id)
            .collect();
        let fits = |id: &u32| {
            let others = self
                .hurt
                .get(id)
                .map_or(0, |hurt| hurt.iter().filter(|other| *other != host).count());
            let members = self.groups.get(id).map_or(0, BTreeSet::len);
            others < members.saturating_sub(1) / 2
        };
        if !asked.iter().all(fits) {
            return false;
        }
        for id in asked {
            self.hurt.entry(id).or_default().insert(host.to_owned());
        }
        true
    }

    /// The host has again all that it should have.
    pub fn repaired(&mut self, host: &str) {
        self.hurt.values_mut().for_each(|hurt| {
            hurt.remove(host);
        });
    }
}

#[cfg(test)]
mod tests;
