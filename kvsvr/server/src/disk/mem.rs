//! A [`Disk`] in memory that can lose power: for tests and the simulator.
//!
//! Each file has its content as seen by the running process (the page cache) and as it is on the platter. A write changes the
//! first and marks 512-byte sectors dirty; a sync copies the dirty sectors to the second. [`MemDisk::crash`] makes the disk that
//! is found after a power failure: of each file's dirty sectors any subset has reached the platter, chosen by a seed, and of the
//! changes of names since the last directory sync a prefix (as with a journaling file system). A sector is atomic.
//! Faults: failing writes and syncs, a full disk, a flipped bit.
//!
//! It relies on nothing but its seed: equal calls give equal results. It models neither latency nor directories as objects (a
//! directory exists when it was created or a file is in it; `sync_dir` makes the names of the whole tree durable), and what is
//! open stays usable after its name is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Disk, DiskFile, DiskFuture};

mod content;

use content::{Content, Random};

/// Bytes that a power failure keeps or loses together.
pub const SECTOR: usize = 512;

type File = Arc<Mutex<Content>>;

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, File),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, File>) {
        match self {
            Self::Create(path, file) => {
                names.insert(path.clone(), file.clone());
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

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

#[derive(Debug)]
struct Tree {
    names: BTreeMap<String, File>,
    durable_names: BTreeMap<String, File>,
    changes: Vec<NameChange>,
    dirs: BTreeSet<String>,
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

    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|file| file.lock().cached.len() as u64)
            .sum()
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.push(change);
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
        Self::with_names(BTreeMap::new(), BTreeSet::new(), u64::MAX, seed)
    }

    fn with_names(names: BTreeMap<String, File>, dirs: BTreeSet<String>, capacity: u64, seed: u64) -> Self {
        let durable_names = names.clone();
        let (changes, faults, random) = (Vec::new(), Faults::default(), Random(seed));
        let tree = Tree {
            names,
            durable_names,
            changes,
            dirs,
            capacity,
            faults,
            random,
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
        let kept = random.below(tree.changes.len() as u64 + 1);
        let mut names = tree.durable_names.clone();
        for change in tree
            .changes
            .iter()
            .take(usize::try_from(kept).unwrap_or(usize::MAX))
        {
            change.apply(&mut names);
        }
        for file in names.values_mut() {
            let content = file.lock().clone().crash(&mut random);
            *file = Arc::new(Mutex::new(content));
        }
        Self::with_names(names, tree.dirs.clone(), tree.capacity, random.next())
    }

    /// The disk as another process finds it after this one was killed: nothing is lost, nothing became durable. Every later
    /// operation on this one fails.
    pub fn kill(&self, seed: u64) -> Self {
        let mut tree = self.tree.lock();
        tree.faults.dead = true;
        let copy = Self::with_names(tree.names.clone(), tree.dirs.clone(), tree.capacity, seed);
        let mut other = copy.tree.lock();
        // One copy per file, so that names that share a file still do.
        let mut copies: BTreeMap<*const Mutex<Content>, File> = BTreeMap::new();
        let mut copied = |file: &File| {
            copies
                .entry(Arc::as_ptr(file))
                .or_insert_with(|| Arc::new(Mutex::new(file.lock().clone())))
                .clone()
        };
        other.names = tree
            .names
            .iter()
            .map(|(path, file)| (path.clone(), copied(file)))
            .collect();
        other.durable_names = tree
            .durable_names
            .iter()
            .map(|(path, file)| (path.clone(), copied(file)))
            .collect();
        other.changes = tree
            .changes
            .iter()
            .map(|change| match change {
                NameChange::Create(path, file) => NameChange::Create(path.clone(), copied(file)),
                other => other.clone(),
            })
            .collect();
        drop(other);
        copy
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

    /// Flips a bit of a file at rest. False if the file is shorter.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        let tree = self.tree.lock();
        let Some(file) = tree.names.get(path) else {
            return false;
        };
        let (mut content, at) = (file.lock(), usize::try_from(offset).unwrap_or(usize::MAX));
        if at >= content.cached.len() {
            return false;
        }
        let mask = 1 << (bit % 8);
        content.cached[at] ^= mask;
        if let Some(byte) = content.durable.get_mut(at) {
            *byte ^= mask;
        }
        true
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.tree.lock().names.keys().cloned().collect()
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

fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {path}"))
}

impl Disk for MemDisk {
    fn open(&self, path: &str, create: bool) -> DiskFuture<Arc<dyn DiskFile>> {
        let (path, disk) = (path.to_owned(), self.clone());
        self.run(move |tree| {
            let file = match tree.names.get(&path) {
                Some(file) => file.clone(),
                None if create => {
                    let file = File::default();
                    tree.change(NameChange::Create(path, file.clone()));
                    file
                }
                None => return Err(missing(&path)),
            };
            let file: Arc<dyn DiskFile> = Arc::new(MemFile { disk, file });
            Ok(file)
        })
    }

    fn read(&self, path: &str) -> DiskFuture<Bytes> {
        let path = path.to_owned();
        self.run(move |tree| {
            let file = tree.names.get(&path).ok_or_else(|| missing(&path))?;
            Ok(Bytes::copy_from_slice(&file.lock().cached))
        })
    }

    fn list(&self, dir: &str) -> DiskFuture<Vec<String>> {
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        self.run(move |tree| {
            let paths = tree
                .names
                .keys()
                .chain(&tree.dirs)
                .filter_map(|path| path.strip_prefix(&prefix));
            let names: BTreeSet<String> = paths
                .filter_map(|rest| rest.split('/').next())
                .map(str::to_owned)
                .collect();
            Ok(names.into_iter().collect())
        })
    }

    fn create_dir(&self, dir: &str) -> DiskFuture<()> {
        let dir = dir.to_owned();
        self.run(move |tree| {
            tree.dirs.insert(dir);
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> DiskFuture<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.run(move |tree| {
            if !tree.names.contains_key(&from) {
                return Err(missing(&from));
            }
            tree.change(NameChange::Rename(from, to));
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> DiskFuture<()> {
        let path = path.to_owned();
        self.run(move |tree| {
            if tree.names.contains_key(&path) {
                tree.change(NameChange::Remove(path));
            }
            Ok(())
        })
    }

    fn remove_dir(&self, dir: &str) -> DiskFuture<()> {
        let (dir, prefix) = (dir.to_owned(), format!("{dir}/"));
        self.run(move |tree| {
            let mut inside: Vec<String> = tree
                .names
                .keys()
                .filter(|path| path.starts_with(&prefix))
                .cloned()
                .collect();
            // In any order, as a file system lists them.
            while !inside.is_empty() {
                let next = tree.random.below(inside.len() as u64);
                let path = inside.swap_remove(usize::try_from(next).unwrap_or(0));
                tree.change(NameChange::Remove(path));
            }
            tree.dirs
                .retain(|path| *path != dir && !path.starts_with(&prefix));
            Ok(())
        })
    }

    fn sync_dir(&self, _dir: &str) -> DiskFuture<()> {
        self.run(|tree| {
            tree.count_sync()?;
            tree.durable_names = tree.names.clone();
            tree.changes.clear();
            Ok(())
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
        self.run(move |_, file| {
            let content = file.lock();
            let start = to_usize(offset)?.min(content.cached.len());
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
