//! A [`Disk`] in memory that can lose power: for tests and the simulator.
//!
//! Each file has its content as seen by the running process (the page cache) and as it is on the platter. A write changes the
//! first and marks 512-byte sectors dirty; a sync copies the dirty sectors to the second. [`MemDisk::crash`] makes the disk that
//! is found after a power failure: of each file's dirty sectors any subset has reached the platter, chosen by a seed, and of each
//! directory's changes of names since that directory was synced a prefix ([`names`]). A sector is atomic.
//! Faults: failing writes and syncs, a full disk, a flipped bit.
//!
//! It relies on nothing but its seed: equal calls give equal results. It does not model latency, and what is open stays usable after its
//! name is gone.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Disk, DiskFile, DiskFuture};

mod content;
mod names;

use content::Random;
use names::{File, Names, missing};

/// Bytes that a power failure keeps or loses together.
pub const SECTOR: usize = 512;

/// Faults that are armed, and counters.
#[derive(Debug, Default)]
struct Faults {
    /// Operations until the power fails.
    power_fails_after: Option<u64>,
    /// Synchronous writes and syncs until one of them fails.
    sync_fails_after: Option<u64>,
    dead: bool,
    operations: u64,
    syncs: u64,
}

/// What has happened to a disk, in all processes that had it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Changes of names (a new one, a rename, a removal) that power failures undid.
    pub lost_names: u64,
    /// How often bytes with a flipped bit were read, by the path of the file that was damaged.
    pub damaged_reads: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Tree {
    names: Names,
    history: History,
    capacity: u64,
    faults: Faults,
    random: Random,
}

impl Tree {
    /// Counts an operation, and fails it if the power is or goes off.
    fn power(&mut self) -> io::Result<()> {
        self.faults.operations += 1;
        if let Some(left) = &mut self.faults.power_fails_after {
            *left = left.saturating_sub(1);
            self.faults.dead |= *left == 0;
        }
        if self.faults.dead {
            Err(io::Error::other("the power is off"))
        } else {
            Ok(())
        }
    }

    fn count_sync(&mut self) -> io::Result<()> {
        self.faults.syncs += 1;
        if let Some(left) = &mut self.faults.sync_fails_after {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.faults.sync_fails_after = None;
                return Err(io::Error::other("injected sync failure"));
            }
        }
        Ok(())
    }

    /// Bytes of a file are read.
    fn note_read(&mut self, file: &File, bytes: Range<usize>) {
        let content = file.lock();
        let damaged = content
            .damaged
            .iter()
            .filter(|((byte, _), _)| bytes.contains(byte));
        for path in damaged.map(|(_, path)| path) {
            *self.history.damaged_reads.entry(path.clone()).or_default() += 1;
        }
    }

    fn used(&self) -> u64 {
        let files = self.names.files();
        files.values().map(|file| file.lock().cached.len() as u64).sum()
    }
}

/// A disk in memory. Clones share it.
#[derive(Clone)]
pub struct MemDisk {
    tree: Arc<Mutex<Tree>>,
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemDisk")
    }
}

impl MemDisk {
    /// An empty disk. The seed decides how often an operation gives way to other tasks.
    pub fn new(seed: u64) -> Self {
        Self::with(Names::new(), History::default(), u64::MAX, seed)
    }

    fn with(names: Names, history: History, capacity: u64, seed: u64) -> Self {
        let tree = Tree {
            names,
            history,
            capacity,
            faults: Faults::default(),
            random: Random(seed),
        };
        Self {
            tree: Arc::new(Mutex::new(tree)),
        }
    }

    /// The disk as it is found after a power failure now. Every later operation on this one fails.
    pub fn crash(&self, seed: u64) -> Self {
        let mut tree = self.tree.lock();
        tree.faults.dead = true;
        let mut random = Random(seed);
        let (names, lost) = tree.names.crash(&mut random);
        let mut history = tree.history.clone();
        history.lost_names += lost;
        Self::with(names, history, tree.capacity, random.next())
    }

    /// The disk as another process finds it after this one was killed: nothing is lost, nothing became durable. Every later
    /// operation on this one fails.
    pub fn kill(&self, seed: u64) -> Self {
        let mut tree = self.tree.lock();
        tree.faults.dead = true;
        Self::with(tree.names.copied(), tree.history.clone(), tree.capacity, seed)
    }

    /// What has happened to it.
    pub fn history(&self) -> History {
        self.tree.lock().history.clone()
    }

    /// A whole file, for who looks from outside: no operation of a process. `None` if there is none.
    pub fn peek(&self, path: &str) -> Option<Bytes> {
        let file = self.tree.lock().names.file(path)?;
        let content = file.lock();
        Some(Bytes::copy_from_slice(&content.cached))
    }

    /// The power goes off with the `operations`-th operation from now on, which is not carried out.
    pub fn fail_power_after(&self, operations: u64) {
        self.tree.lock().faults.power_fails_after = Some(operations);
    }

    /// The `syncs`-th sync from now on fails; what it should have made durable is clean in the cache, but not durable, as on Linux.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.tree.lock().faults.sync_fails_after = Some(syncs);
    }

    /// Bytes that its files have.
    pub fn used(&self) -> u64 {
        self.tree.lock().used()
    }

    /// Bytes of all files together.
    pub fn set_capacity(&self, bytes: u64) {
        self.tree.lock().capacity = bytes;
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.tree.lock().faults.operations
    }

    /// Syncs so far, synchronous writes counted.
    pub fn syncs(&self) -> u64 {
        self.tree.lock().faults.syncs
    }

    /// Flips a bit of a file at rest, or flips it back. False if the file is shorter.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        let Some(file) = self.tree.lock().names.file(path) else {
            return false;
        };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut data = file.lock();
        data.flip_bit(path, at, bit % 8)
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.tree.lock().names.files().into_keys().collect()
    }

    /// Runs an operation after giving way to other tasks now and then.
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Tree) -> io::Result<T> + Send + 'static,
    ) -> DiskFuture<T> {
        let disk = self.clone();
        Box::pin(async move {
            let turns = disk.tree.lock().random.below(3);
            GiveWay(turns).await;
            let mut tree = disk.tree.lock();
            tree.power()?;
            operation(&mut tree)
        })
    }
}

/// Pending for a number of polls.
struct GiveWay(u64);

impl Future for GiveWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &str, create: bool) -> DiskFuture<Arc<dyn DiskFile>> {
        let (path, disk) = (path.to_owned(), self.clone());
        self.run(move |tree| {
            let file = match create {
                true => tree.names.create(&path)?,
                false => tree.names.file(&path).ok_or_else(|| missing(&path))?,
            };
            let file: Arc<dyn DiskFile> = Arc::new(MemFile { disk, file });
            Ok(file)
        })
    }

    fn read(&self, path: &str) -> DiskFuture<Bytes> {
        let path = path.to_owned();
        self.run(move |tree| {
            let file = tree.names.file(&path).ok_or_else(|| missing(&path))?;
            tree.note_read(&file, 0..usize::MAX);
            let content = file.lock();
            Ok(Bytes::copy_from_slice(&content.cached))
        })
    }

    fn list(&self, dir: &str) -> DiskFuture<Vec<String>> {
        let dir = dir.to_owned();
        self.run(move |tree| Ok(tree.names.list(&dir)))
    }

    fn create_dir(&self, dir: &str) -> DiskFuture<()> {
        let dir = dir.to_owned();
        self.run(move |tree| {
            tree.names.create_dir(&dir);
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> DiskFuture<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.run(move |tree| tree.names.rename(&from, &to))
    }

    fn remove(&self, path: &str) -> DiskFuture<()> {
        let path = path.to_owned();
        self.run(move |tree| {
            tree.names.remove(&path);
            Ok(())
        })
    }

    fn remove_dir(&self, dir: &str) -> DiskFuture<()> {
        let dir = dir.to_owned();
        self.run(move |tree| {
            let Tree { names, random, .. } = tree;
            names.remove_dir(&dir, random);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &str) -> DiskFuture<()> {
        let dir = dir.to_owned();
        self.run(move |tree| {
            tree.count_sync()?;
            tree.names.sync_dir(&dir)
        })
    }

    fn free_bytes(&self) -> DiskFuture<u64> {
        self.run(|tree| Ok(tree.capacity.saturating_sub(tree.used())))
    }
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    file: File,
}

impl MemFile {
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Tree, &File) -> io::Result<T> + Send + 'static,
    ) -> DiskFuture<T> {
        let file = self.file.clone();
        self.disk.run(move |tree| operation(tree, &file))
    }
}

fn to_usize(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "offset out of range"))
}

/// Fails as a full disk does if the file may not grow to `len`.
fn check_capacity(tree: &Tree, file: &File, len: u64) -> io::Result<()> {
    let growth = len.saturating_sub(file.lock().cached.len() as u64);
    if growth > 0 && tree.used().saturating_add(growth) > tree.capacity {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            "no space left on device",
        ));
    }
    Ok(())
}

fn sync_file(tree: &mut Tree, file: &File) -> io::Result<()> {
    if let Err(error) = tree.count_sync() {
        let mut content = file.lock();
        content.dirty.clear();
        return Err(error);
    }
    file.lock().sync();
    Ok(())
}

impl DiskFile for MemFile {
    fn write_at(&self, offset: u64, buffers: Vec<Bytes>, sync: bool) -> DiskFuture<()> {
        let file = self.file.clone();
        let disk = self.disk.clone();
        Box::pin(async move {
            // Two operations, so that the power can fail between the write and the sync.
            disk.run({
                let file = file.clone();
                move |tree| {
                    let bytes: usize = buffers.iter().map(Bytes::len).sum();
                    check_capacity(tree, &file, offset + bytes as u64)?;
                    let mut at = to_usize(offset)?;
                    for buffer in &buffers {
                        file.lock().write(at, buffer);
                        at += buffer.len();
                    }
                    Ok(())
                }
            })
            .await?;
            if sync {
                disk.run(move |tree| sync_file(tree, &file)).await?;
            }
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<Bytes> {
        self.run(move |tree, file| {
            let offset = to_usize(offset)?;
            tree.note_read(file, offset..offset.saturating_add(len));
            let content = file.lock();
            let start = offset.min(content.cached.len());
            let end = start.saturating_add(len).min(content.cached.len());
            Ok(Bytes::copy_from_slice(&content.cached[start..end]))
        })
    }

    fn len(&self) -> DiskFuture<u64> {
        self.run(|_, file| Ok(file.lock().cached.len() as u64))
    }

    fn set_len(&self, len: u64) -> DiskFuture<()> {
        self.run(move |tree, file| {
            check_capacity(tree, file, len)?;
            file.lock().set_len(to_usize(len)?);
            Ok(())
        })
    }

    fn sync(&self) -> DiskFuture<()> {
        self.run(sync_file)
    }
}

#[cfg(test)]
mod tests;
