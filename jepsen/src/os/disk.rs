//! A node's disk: a file with an ext4 or xfs file system in it, mounted through a loop device, whose power can be cut; or a plain
//! directory where that cannot be had.
//!
//! **Power loss** is the file system's own shutdown (`FS_IOC_SHUTDOWN` without flushing its log, what xfstests uses for crash tests; in
//! the stock kernel): from one moment on nothing reaches the device any more, and what was only in memory is gone at the next mount,
//! which replays the journal. So data and names that were not synced are lost, also those written past the page cache into space that
//! was not written before, and what was synced stays. It does not lose or tear what the file system has handed to the device, such as a
//! direct write of blocks that were written before: that a device loses from its cache is done by the [`cache`](super::cache).
//!
//! A **full disk** is a real one: a file takes the space.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    ioctl::{self, Setter, opcode},
};

use super::{
    command::{context, run},
    owner::Run,
    process::Process,
};

/// How long killed processes may take to let go of a disk: children of what was waited for may still be ending.
const RELEASE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);
/// Bytes that a file system gives at a time.
const BLOCK: u64 = 4096;

/// What is in a disk's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// With a journal, in ordered mode.
    Ext4,
    /// Needs `mkfs.xfs`, and at least 300 MiB.
    Xfs,
}

impl FileSystem {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    fn options(self) -> &'static str {
        match self {
            // Not every 5 s, so that what nobody has synced is lost.
            Self::Ext4 => "loop,noatime,commit=300",
            Self::Xfs => "loop,noatime",
        }
    }
}

#[derive(Debug)]
struct Image {
    file: PathBuf,
    kind: FileSystem,
}

/// The disk of one node. An image is unmounted when this is dropped; its file and what is on it stay.
#[derive(Debug)]
pub struct Disk {
    /// Where the file system begins.
    root: PathBuf,
    image: Option<Image>,
}

impl Disk {
    /// A plain directory: no power loss, and its space is shared with others.
    pub fn directory(path: &Path) -> io::Result<Self> {
        let disk = Self {
            root: path.to_owned(),
            image: None,
        };
        fs::create_dir_all(disk.data()).map_err(context(format!("create {}", path.display())))?;
        Ok(disk)
    }

    /// An image of so many bytes, mounted under `base` in a directory named after the run.
    pub fn image(run_of: &Run, base: &Path, name: &str, bytes: u64, kind: FileSystem) -> io::Result<Self> {
        let home = base.join(run_of.to_string());
        let root = home.join(name);
        let image = home.join(format!("{name}.img"));
        fs::create_dir_all(&root).map_err(context(format!("create {}", root.display())))?;
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(context(format!("create {}", image.display())))?;
        let path = text(&image)?;
        match kind {
            // No space that only root may use: the disk is to be full when it is full.
            FileSystem::Ext4 => run("mkfs.ext4", &["-q", "-F", "-m", "0", path], "")?,
            FileSystem::Xfs => run("mkfs.xfs", &["-q", "-f", path], "")?,
        };
        let image = Image { file: image, kind };
        mount(&image, &root)?;
        let disk = Self {
            root,
            image: Some(image),
        };
        // The directory itself is to outlast a loss of power.
        fs::create_dir(disk.data())?;
        File::open(&disk.root)?.sync_all()?;
        Ok(disk)
    }

    /// The directory for the node's data.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Bytes that can still be written.
    pub fn free(&self) -> io::Result<u64> {
        let stat = statvfs(&self.root)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Takes the space of an image, so that about this many bytes are left. Refused for a directory: the space is not only ours.
    pub fn fill(&self, leave: u64) -> io::Result<Ballast> {
        if self.image.is_none() {
            return Err(io::Error::other("only a disk image can be filled"));
        }
        let path = self.root.join("ballast");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(context("create ballast"))?;
        let ballast = Ballast { path };
        let (mut len, mut most) = (file.metadata()?.len(), u64::MAX);
        // A node may write at the same time; then there is less to take than there was.
        while let Some(take) = self.free()?.checked_sub(leave).filter(|take| *take > 0) {
            let take = take.min(most);
            match fallocate(&file, FallocateFlags::empty(), len, take) {
                Ok(()) => len += take,
                // The file system's own records of the file need space too, so in the end it takes less than there is.
                Err(rustix::io::Errno::NOSPC) if take > BLOCK => most = (take / 2).next_multiple_of(BLOCK),
                Err(rustix::io::Errno::NOSPC) => break,
                Err(error) => return Err(context("take disk space")(error.into())),
            }
        }
        Ok(ballast)
    }

    /// Cuts the power: from now on nothing reaches the image, and every write and sync fails. The processes that use it are to be
    /// killed, then [`Disk::restore_power`] makes it usable again. Refused for a directory.
    pub fn cut_power(&self) -> io::Result<()> {
        if self.image.is_none() {
            return Err(io::Error::other("only a disk image can lose power"));
        }
        let root = File::open(&self.root).map_err(context(format!("open {}", self.root.display())))?;
        shut_down(&root).map_err(context(format!("shut down {}", self.root.display())))
    }

    /// Mounts the image again, which replays the journal. No process may have a file of it open.
    pub fn restore_power(&self) -> io::Result<()> {
        let Some(image) = &self.image else {
            return Ok(());
        };
        let root = text(&self.root)?;
        let deadline = Instant::now() + RELEASE;
        while let Err(error) = run("umount", &[root], "") {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(RETRY);
        }
        mount(image, &self.root)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.image.is_some() {
            unmount(&self.root);
        }
    }
}

/// All of these lose power at the same time: they are paused, the power of their disks is cut, they are killed, and the power comes
/// back. The processes are not started again.
///
/// They are paused first, so that none sees its disk fail and says so before it dies: a real one would not have had the time.
pub fn lose_power(victims: &mut [(&mut Process, &Disk)]) -> io::Result<()> {
    for (process, _) in &mut *victims {
        process.pause()?;
    }
    for (_, disk) in &*victims {
        disk.cut_power()?;
    }
    for (process, disk) in victims {
        process.kill()?;
        disk.restore_power()?;
    }
    Ok(())
}

/// Space that is taken. It is free again when this is dropped.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // It is gone already if the disk is. Synced, or a loss of power would bring it back.
        let removed = fs::remove_file(&self.path);
        if let (Ok(()), Some(root)) = (removed, self.path.parent()) {
            let _ = File::open(root).and_then(|root| root.sync_all());
        }
    }
}

/// Linux: EXT4_IOC_SHUTDOWN in fs/ext4/ext4.h, XFS_IOC_GOINGDOWN in fs/xfs/libxfs/xfs_fs.h: the same number.
const FS_IOC_SHUTDOWN: ioctl::Opcode = opcode::read::<u32>(b'X', 125);
/// The log in memory is not written either.
const NO_LOG_FLUSH: u32 = 2;

#[expect(unsafe_code, reason = "ioctl FS_IOC_SHUTDOWN has no safe wrapper")]
fn shut_down(root: &File) -> io::Result<()> {
    // SAFETY: it reads one 32-bit number, in spite of the direction in its opcode, and writes nothing.
    unsafe { ioctl::ioctl(root, Setter::<FS_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }?;
    Ok(())
}

fn mount(image: &Image, root: &Path) -> io::Result<()> {
    let (kind, options) = (image.kind.name(), image.kind.options());
    run(
        "mount",
        &["-t", kind, "-o", options, text(&image.file)?, text(root)?],
        "",
    )?;
    Ok(())
}

/// What is still in use disappears from the tree now and is unmounted when it no longer is.
fn unmount(root: &Path) {
    if let Ok(root) = text(root)
        && run("umount", &[root], "").is_err()
    {
        let _ = run("umount", &["-l", root], "");
    }
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str()
        .ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))
}

/// Unmounts the disks under `base` of runs that are over, removes them, and returns the runs' names.
///
/// # Errors
/// One of them cannot be removed; the others are.
pub fn sweep(base: &Path, is_over: impl Fn(Run) -> bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(context(format!("list {}", base.display())))?,
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(context("read the list of mounts"))?;
    let (mut removed, mut result) = (Vec::new(), Ok(()));
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !Run::of_name(&name).is_some_and(&is_over) {
            continue;
        }
        match remove(&entry.path(), &mounts) {
            Ok(()) => removed.push(name),
            Err(error) => result = Err(error),
        }
    }
    removed.sort_unstable();
    result.map(|()| removed)
}

/// Unmounts all disks of a run, and removes its directory.
fn remove(home: &Path, mounts: &str) -> io::Result<()> {
    // Another sweep may be at it too.
    let home = match fs::canonicalize(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // Field 5 of each line (proc(5)); a name with spaces is escaped there, and no name of a run has any.
    let points = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new);
    for root in points.filter(|root| root.starts_with(&home)) {
        unmount(root);
    }
    match fs::remove_dir_all(&home) {
        Err(_) if !home.exists() => Ok(()),
        other => other.map_err(context(format!("remove {}", home.display()))),
    }
}
