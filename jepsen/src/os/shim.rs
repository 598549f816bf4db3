//! A small library in C that is preloaded into a node: its clocks run wrong, and reads, writes and syncs of its data fail, as a control
//! file says that can be changed at any time. See `shim/shim.c`.
//!
//! It sees what goes through the C library: all of Rust's `std`, tokio, RocksDB. It does not see system calls that a program makes by
//! itself (rustix does), so a node must not write its data or read its clock that way. It is compiled where it is used, by `cc`.
//!
//! It is its own library and not libfaketime, because a node needs its rate and its wall clock changed at the same time and while it
//! runs, without a jump of the monotonic clock; and because it waits for deadlines on that clock (Rust's condition variables do, by a
//! futex), which must be converted when the clock is wrong.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    cache::Cache,
    clock::ClockState,
    command::{context, run},
};

const SOURCE: &str = include_str!("shim/shim.c");
/// Bytes of the control file: `struct control` in the source.
const CONTROL_BYTES: u64 = 80;
/// Where its parts are.
const CLOCKS_AT: u64 = 8;
const FAULTS_AT: u64 = 40;
const COUNTS_AT: u64 = 56;

/// The compiled library.
#[derive(Clone, Debug)]
pub struct Library {
    path: PathBuf,
}

impl Library {
    /// Compiles it into a directory.
    pub fn build(dir: &Path) -> io::Result<Self> {
        // The compiler, and the loader by LD_PRELOAD, must find it from everywhere.
        let dir = fs::canonicalize(dir).map_err(context(format!("find {}", dir.display())))?;
        let path = dir.join("kvsvr-shim.so");
        let name = path.to_str().filter(|name| !name.contains([' ', ':']));
        let name = name.ok_or_else(|| io::Error::other("LD_PRELOAD takes no path with a space or colon"))?;
        run(
            "cc",
            &["-O2", "-shared", "-fPIC", "-x", "c", "-o", name, "-", "-ldl"],
            SOURCE,
        )?;
        Ok(Self { path })
    }
}

/// What a call returns instead of doing its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// EIO: the device failed.
    InputOutput,
    /// ENOSPC: no space is left.
    NoSpace,
}

impl Failure {
    fn code(this: Option<Self>) -> u32 {
        let errno = match this {
            None => return 0,
            Some(Self::InputOutput) => rustix::io::Errno::IO,
            Some(Self::NoSpace) => rustix::io::Errno::NOSPC,
        };
        errno.raw_os_error().cast_unsigned()
    }
}

/// How the files of a node's data fail. The default is not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// What `fsync` and `fdatasync` return.
    pub sync: Option<Failure>,
    /// They claim to have done what they did not. `sync` counts for nothing then.
    pub sync_lies: bool,
    /// How much longer they take, in whole milliseconds, at most 49 days.
    pub sync_delay: Duration,
    /// What writes return.
    pub write: Option<Failure>,
    /// What reads return. Mapped files are read without a call, and do not fail.
    pub read: Option<Failure>,
}

/// How often something happened to a node's calls so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// They failed, or lied, as was told.
    pub failed: u64,
    /// Syncs that were slow, as was told.
    pub delayed: u64,
    /// The disk itself had no space left.
    pub full: u64,
}

/// The faults of one node, over all its starts.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
    control_path: PathBuf,
    control: File,
    root: PathBuf,
    cache: Option<Cache>,
    pub(super) clock: Mutex<ClockState>,
}

impl Shim {
    /// Makes a control file, without faults and with right clocks, for a node whose data is in `root`.
    pub fn create(library: &Library, control: &Path, root: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(control)
            .map_err(context(format!("create {}", control.display())))?;
        file.set_len(CONTROL_BYTES)?;
        let shim = Self {
            library: library.path.clone(),
            control_path: fs::canonicalize(control)?,
            control: file,
            root: fs::canonicalize(root).map_err(context(format!("find {}", root.display())))?,
            cache: None,
            clock: Mutex::new(ClockState::default()),
        };
        shim.write_clock(&shim.clock.lock())?;
        Ok(shim)
    }

    /// The node's disk gets a cache that a loss of power empties, with a file at this path that says what is in it. The file is not to be
    /// on that disk.
    pub fn with_cache(self, path: &Path) -> io::Result<Self> {
        Ok(Self {
            cache: Some(Cache::create(path)?),
            ..self
        })
    }

    /// What its disk loses with the power, if it can.
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// What the node's environment needs.
    pub fn env(&self) -> BTreeMap<OsString, OsString> {
        let mut env: BTreeMap<OsString, OsString> = [
            ("LD_PRELOAD", &self.library),
            ("FAULT_SHIM_CONTROL", &self.control_path),
            ("FAULT_SHIM_ROOT", &self.root),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        let cache = self.cache.as_ref().map(|cache| cache.path.clone().into());
        env.extend(cache.map(|path| ("FAULT_SHIM_UNDO".into(), path)));
        env
    }

    /// Changes how the node's files fail, from the next call on.
    pub fn set_disk(&self, faults: &DiskFaults) -> io::Result<()> {
        let sync = if faults.sync_lies {
            u32::MAX
        } else {
            Failure::code(faults.sync)
        };
        let delay = u32::try_from(faults.sync_delay.as_millis()).unwrap_or(u32::MAX);
        let words = [
            sync,
            Failure::code(faults.write),
            Failure::code(faults.read),
            delay,
        ];
        self.control
            .write_all_at(&words.map(u32::to_ne_bytes).concat(), FAULTS_AT)
    }

    /// What has happened so far.
    pub fn counts(&self) -> io::Result<Counts> {
        let number = |at: u64| {
            let mut count = [0; 8];
            self.control.read_exact_at(&mut count, COUNTS_AT + 8 * at)?;
            Ok::<_, io::Error>(u64::from_ne_bytes(count))
        };
        Ok(Counts {
            failed: number(0)?,
            delayed: number(1)?,
            full: number(2)?,
        })
    }

    /// Gives the node's clocks their numbers, which it reads all or none of.
    pub(super) fn write_clock(&self, clock: &ClockState) -> io::Result<()> {
        let mut sequence = [0; 8];
        self.control.read_exact_at(&mut sequence, 0)?;
        let sequence = u64::from_ne_bytes(sequence);
        self.control.write_all_at(&(sequence + 1).to_ne_bytes(), 0)?;
        self.control
            .write_all_at(&clock.numbers().map(i64::to_ne_bytes).concat(), CLOCKS_AT)?;
        self.control.write_all_at(&(sequence + 2).to_ne_bytes(), 0)
    }
}

#[cfg(test)]
mod tests;
