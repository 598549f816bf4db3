//! Disks in memory for RocksDB, used by one process after the other, that lose power.
//!
//! A [`Disk`] outlives its processes; a [`Mount`] is the disk as one process uses it. When the process ends, at once or in the middle of
//! what RocksDB is doing ([`Mount::end_within`]), the mount goes dead: what RocksDB still does in it, also as it is dropped, reaches nothing.
//!
//! A process that is killed leaves all that it wrote, and makes nothing of it durable: what it did not sync can still be lost when the power goes
//! later. A power loss leaves what was synced, of each file by chance a part of what was not, and of each directory's changes of names since it
//! was synced a prefix. A directory whose own name is lost takes with it all that it holds. Files and names are ours (`src/files.h`); of RocksDB
//! only its clock that stands still is used.
//!
//! It does not know time, damages nothing that was synced, moves nothing from one directory to another, and is for one thread besides RocksDB's own.
#![allow(unsafe_code, reason = "calls of src/disk.cc, whose objects are owned here")]

use std::{
    ffi::{CStr, CString, c_char, c_int},
    fmt, io,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::NonNull,
    sync::Arc,
};

use rocksdb::Env;

#[repr(C)]
struct RawDisk {
    _private: [u8; 0],
}

#[repr(C)]
struct RawMount {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn kvsvr_disk_new(directory: *const c_char) -> *mut RawDisk;
    fn kvsvr_disk_free(disk: *mut RawDisk);
    fn kvsvr_disk_counts(disk: *mut RawDisk, counts: *mut u64);
    fn kvsvr_mount_new(disk: *mut RawDisk) -> *mut RawMount;
    fn kvsvr_mount_free(mount: *mut RawMount);
    fn kvsvr_mount_env(mount: *mut RawMount) -> *mut librocksdb_sys::rocksdb_env_t;
    fn kvsvr_mount_arm(mount: *mut RawMount, operation: u64, power: c_int, seed: u32);
    fn kvsvr_mount_fail(mount: *mut RawMount, operation: u64);
    fn kvsvr_mount_end(mount: *mut RawMount, power: c_int, seed: u32);
    fn kvsvr_mount_ended(mount: *mut RawMount) -> c_int;
    fn kvsvr_mount_exists(mount: *mut RawMount, path: *const c_char) -> c_int;
    fn kvsvr_mount_create_dir(mount: *mut RawMount, path: *const c_char) -> *mut c_char;
    fn kvsvr_mount_remove_dir(mount: *mut RawMount, path: *const c_char) -> *mut c_char;
    fn kvsvr_mount_sync_dir(mount: *mut RawMount, path: *const c_char) -> *mut c_char;
    fn kvsvr_mount_list(mount: *mut RawMount, path: *const c_char) -> *mut c_char;
    fn kvsvr_text_free(text: *mut c_char);
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is killed: the page cache goes on without it.
    Kill,
    /// The machine loses power: of what was not synced, chance with this seed says what is left.
    PowerLoss(u32),
}

impl End {
    fn raw(self) -> (c_int, u32) {
        match self {
            End::Kill => (0, 0),
            End::PowerLoss(seed) => (1, seed),
        }
    }
}

/// A disk. Clones are the same one.
#[derive(Clone)]
pub struct Disk(Arc<OwnedDisk>);

struct OwnedDisk(NonNull<RawDisk>);

// SAFETY: behind the pointers are RocksDB's file systems and ours, which lock what they change.
unsafe impl Send for OwnedDisk {}
// SAFETY: as before.
unsafe impl Sync for OwnedDisk {}

impl Drop for OwnedDisk {
    fn drop(&mut self) {
        // SAFETY: it came from kvsvr_disk_new, and nobody has it any more. File systems that are in use keep what they need.
        unsafe { kvsvr_disk_free(self.0.as_ptr()) }
    }
}

/// A disk as one process uses it.
pub struct Mount {
    raw: NonNull<RawMount>,
    env: Env,
    disk: Disk,
}

// SAFETY: as for the disk.
unsafe impl Send for Mount {}
// SAFETY: as for the disk.
unsafe impl Sync for Mount {}

impl Drop for Mount {
    fn drop(&mut self) {
        // SAFETY: it came from kvsvr_mount_new, and nobody has it any more. Databases that are still open keep the Env and all below it.
        unsafe { kvsvr_mount_free(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount")
            .field("ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

/// What has happened to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes that ended in the middle of what RocksDB did.
    pub ended_within: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Changes of names that a power loss undid.
    pub lost_names: u64,
    /// Files of which a power loss left a part of what was not synced.
    pub partial_tails: u64,
    /// Files of which a power loss left nothing of what was not synced.
    pub lost_tails: u64,
}

impl Disk {
    /// An empty one but for this directory and those above it, which are durable.
    ///
    /// # Errors
    /// The path has a zero in it.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let directory = c_path(directory)?;
        // SAFETY: the path is a text that ends with a zero; gives what we free.
        let raw = unsafe { kvsvr_disk_new(directory.as_ptr()) };
        // C++ throws when there is no memory, which ends the process.
        Ok(Self(Arc::new(OwnedDisk(NonNull::new(raw).expect("a disk")))))
    }

    /// What has happened to it so far.
    pub fn counts(&self) -> Counts {
        let mut counts = [0; 5];
        // SAFETY: the disk is alive, and there is room for five numbers.
        unsafe { kvsvr_disk_counts(self.0.0.as_ptr(), counts.as_mut_ptr()) }
        let [ended_within, errors, lost_names, partial_tails, lost_tails] = counts;
        Counts {
            ended_within,
            errors,
            lost_names,
            partial_tails,
            lost_tails,
        }
    }

    /// For the next process. The last one must have ended.
    pub fn mount(&self) -> Mount {
        // SAFETY: the disk is alive. The Env is a new one, whose owner is `Env` from here on.
        let (raw, env) = unsafe {
            let raw = kvsvr_mount_new(self.0.0.as_ptr());
            (raw, Env::from_raw(kvsvr_mount_env(raw)))
        };
        Mount {
            raw: NonNull::new(raw).expect("a mount"),
            env,
            disk: self.clone(),
        }
    }
}

/// Takes over a text of C's; `None` for none.
fn text(raw: *mut c_char) -> Option<String> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: a text that src/disk.cc has made for us, which ends with a zero and is freed once.
    unsafe {
        let text = CStr::from_ptr(raw).to_string_lossy().into_owned();
        kvsvr_text_free(raw);
        Some(text)
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn done(error: Option<String>) -> io::Result<()> {
    error.map_or(Ok(()), |error| Err(io::Error::other(error)))
}

impl Mount {
    /// For the options of the process's databases.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Whose it is.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The process ends, unless it has.
    pub fn end(&self, how: End) {
        let (power, seed) = how.raw();
        // SAFETY: the mount is alive, here and in the methods below.
        unsafe { kvsvr_mount_end(self.raw.as_ptr(), power, seed) }
    }

    /// The process ends before the `operation`-th operation from now on, if it comes to that; 1 is the next one. Operations are those that
    /// make something durable or visible: to create a file for writing, to sync one, to rename or link one, to sync a directory.
    pub fn end_within(&self, operation: u64, how: End) {
        let (power, seed) = how.raw();
        // SAFETY: see `end`.
        unsafe { kvsvr_mount_arm(self.raw.as_ptr(), operation, power, seed) }
    }

    /// The `operation`-th operation from now on fails and is not carried out, if it comes to that. Instead of what was said before.
    pub fn fail_within(&self, operation: u64) {
        // SAFETY: see `end`.
        unsafe { kvsvr_mount_fail(self.raw.as_ptr(), operation) }
    }

    /// Takes back what [`Mount::fail_within`] and [`Mount::end_within`] have said and has not happened.
    pub fn disarm(&self) {
        self.fail_within(0);
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        // SAFETY: see `end`.
        unsafe { kvsvr_mount_ended(self.raw.as_ptr()) != 0 }
    }

    /// Whether a file or directory is there.
    pub fn exists(&self, path: &Path) -> bool {
        // SAFETY: see `end`; the path is a text that ends with a zero, here and below.
        c_path(path).is_ok_and(|path| unsafe { kvsvr_mount_exists(self.raw.as_ptr(), path.as_ptr()) != 0 })
    }

    /// Makes a directory and those above it, unless they are there.
    pub fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = c_path(path)?;
        // SAFETY: see `exists`.
        done(text(unsafe {
            kvsvr_mount_create_dir(self.raw.as_ptr(), path.as_ptr())
        }))
    }

    /// Removes a directory and the files in it.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        if !self.exists(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let path = c_path(path)?;
        // SAFETY: see `exists`.
        done(text(unsafe {
            kvsvr_mount_remove_dir(self.raw.as_ptr(), path.as_ptr())
        }))
    }

    /// Makes the names in a directory durable.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = c_path(path)?;
        // SAFETY: see `exists`.
        done(text(unsafe {
            kvsvr_mount_sync_dir(self.raw.as_ptr(), path.as_ptr())
        }))
    }

    /// The names in a directory.
    pub fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = c_path(path)?;
        // SAFETY: see `exists`.
        let names = text(unsafe { kvsvr_mount_list(self.raw.as_ptr(), path.as_ptr()) });
        let names = names.ok_or(io::ErrorKind::NotFound)?;
        Ok(names.lines().map(str::to_owned).collect())
    }
}
