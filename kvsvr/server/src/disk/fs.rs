//! The [`Disk`] of production: `std::fs` on two threads.
//!
//! Synchronous writes (the log's) have a thread of their own, everything else shares the other: an fsync neither holds up the async
//! runtime nor waits behind a long read or the allocation of a file. An operation is handed to its thread when the method is
//! called, not when the future is polled, so the operations of one lane run in the order of the calls. It relies on Unix
//! (positional reads and writes). It does not lock the directory: [`crate::store`] does.
//!
//! Synchronous writes of whole sectors go past the kernel's page cache where the file system can do that (O_DIRECT): they are on
//! their way to the disk anyway, and the copy into fresh pages cost as much as the rest of the system call. Reads go through
//! the cache; the kernel drops the pages that such a write replaces.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use futures::channel::oneshot;
use parking_lot::Mutex;

use self::direct::{DirectFile, Gather};
use super::{Disk, DiskFile, DiskFuture};

pub(crate) mod direct;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that runs jobs one after the other; it ends with the last handle.
#[derive(Clone)]
struct Lane {
    jobs: mpsc::Sender<Job>,
}

impl Lane {
    fn start(name: &str) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in queue {
                job();
            }
        })?;
        Ok(Self { jobs })
    }

    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> DiskFuture<T> {
        let (reply, result) = oneshot::channel();
        // A failed send drops `reply`, which the future below reports.
        let _ = self.jobs.send(Box::new(move || {
            let _ = reply.send(operation());
        }));
        Box::pin(async move {
            result
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the disk thread has ended")))
        })
    }
}

/// A directory of the local file system.
pub struct FsDisk {
    root: PathBuf,
    log: Lane,
    general: Lane,
    /// Used on the log's thread only.
    gather: Arc<Mutex<Gather>>,
}

impl fmt::Debug for FsDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FsDisk")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl FsDisk {
    /// The tree below `root`, which exists. Starts the threads.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        Ok(Self {
            root: root.into(),
            log: Lane::start("disk-log")?,
            general: Lane::start("disk")?,
            gather: Arc::default(),
        })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn on_path<T: Send + 'static>(
        &self,
        what: &'static str,
        path: &str,
        operation: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> DiskFuture<T> {
        let full = self.root.join(path);
        self.general
            .run(move || operation(&full).map_err(|error| annotate(what, &full, &error)))
    }
}

/// The same kind of error, with what was done and where.
fn annotate(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Disk for FsDisk {
    fn open(&self, path: &str, create: bool) -> DiskFuture<Arc<dyn DiskFile>> {
        let (log, general) = (self.log.clone(), self.general.clone());
        let gather = self.gather.clone();
        self.on_path("open", path, move |full| {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(create)
                .truncate(false)
                .open(full)?;
            let file: Arc<dyn DiskFile> = Arc::new(FsFile {
                path: full.into(),
                file: Arc::new(file),
                direct: Arc::new(DirectFile::open(full)),
                gather,
                log,
                general,
            });
            Ok(file)
        })
    }

    fn read(&self, path: &str) -> DiskFuture<Bytes> {
        self.on_path("read", path, |full| fs::read(full).map(Bytes::from))
    }

    fn list(&self, dir: &str) -> DiskFuture<Vec<String>> {
        self.on_path("list", dir, |full| {
            let entries = match fs::read_dir(full) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut names = Vec::new();
            for entry in entries {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(names)
        })
    }

    fn create_dir(&self, dir: &str) -> DiskFuture<()> {
        self.on_path("create directory", dir, |full| fs::create_dir_all(full))
    }

    fn rename(&self, from: &str, to: &str) -> DiskFuture<()> {
        let target = self.root.join(to);
        self.on_path("rename", from, move |full| fs::rename(full, target))
    }

    fn remove(&self, path: &str) -> DiskFuture<()> {
        self.on_path("remove", path, |full| ignore_missing(fs::remove_file(full)))
    }

    fn remove_dir(&self, dir: &str) -> DiskFuture<()> {
        self.on_path("remove directory", dir, |full| {
            ignore_missing(fs::remove_dir_all(full))
        })
    }

    fn sync_dir(&self, dir: &str) -> DiskFuture<()> {
        self.on_path("sync directory", dir, |full| fs::File::open(full)?.sync_all())
    }

    fn free_bytes(&self) -> DiskFuture<u64> {
        self.on_path("free space of", "", |full| {
            let stat = rustix::fs::statvfs(full)?;
            Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
        })
    }
}

/// An open file of [`FsDisk`].
struct FsFile {
    path: Arc<Path>,
    file: Arc<fs::File>,
    /// The same file, past the page cache.
    direct: Arc<DirectFile>,
    gather: Arc<Mutex<Gather>>,
    log: Lane,
    general: Lane,
}

impl fmt::Debug for FsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FsFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl FsFile {
    fn on_file<T: Send + 'static>(
        &self,
        lane: &Lane,
        what: &'static str,
        operation: impl FnOnce(&fs::File) -> io::Result<T> + Send + 'static,
    ) -> DiskFuture<T> {
        let (file, path) = (self.file.clone(), self.path.clone());
        lane.run(move || operation(&file).map_err(|error| annotate(what, &path, &error)))
    }
}

impl DiskFile for FsFile {
    fn write_at(&self, offset: u64, buffers: Vec<Bytes>, sync: bool) -> DiskFuture<()> {
        if !sync {
            return self.on_file(&self.general, "write", move |file| {
                write_all(file, offset, &buffers)
            });
        }
        let (direct, gather) = (self.direct.clone(), self.gather.clone());
        self.on_file(&self.log, "write", move |file| {
            if !direct.write(&mut gather.lock(), offset, &buffers)? {
                write_all(file, offset, &buffers)?;
            } else if kvsvr_core::mutant!("direct-write-not-synced") {
                return Ok(());
            }
            file.sync_data()
        })
    }

    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<Bytes> {
        self.on_file(&self.general, "read", move |file| {
            let mut buffer = Vec::with_capacity(len);
            At { file, offset }.take(len as u64).read_to_end(&mut buffer)?;
            Ok(Bytes::from(buffer))
        })
    }

    fn len(&self) -> DiskFuture<u64> {
        self.on_file(&self.general, "length of", |file| Ok(file.metadata()?.len()))
    }

    fn set_len(&self, len: u64) -> DiskFuture<()> {
        self.on_file(&self.general, "set length of", move |file| file.set_len(len))
    }

    fn sync(&self) -> DiskFuture<()> {
        self.on_file(&self.general, "sync", fs::File::sync_all)
    }
}

fn write_all(file: &fs::File, offset: u64, buffers: &[Bytes]) -> io::Result<()> {
    let mut at = offset;
    for buffer in buffers {
        file.write_all_at(buffer, at)?;
        at += buffer.len() as u64;
    }
    Ok(())
}

/// A position of its own in a shared file.
struct At<'a> {
    file: &'a fs::File,
    offset: u64,
}

impl io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FsDisk::new(dir.path()).unwrap();
        assert!(disk.list("a").await.unwrap().is_empty());
        disk.create_dir("a/b").await.unwrap();
        let file = disk.open("a/b/x", true).await.unwrap();
        let parts = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        file.write_at(2, parts, true).await.unwrap();
        assert_eq!(&file.read_at(0, 100).await.unwrap()[..], b"\0\0onetwo");
        assert_eq!(&file.read_at(3, 2).await.unwrap()[..], b"ne");
        assert!(file.read_at(100, 2).await.unwrap().is_empty());
        file.set_len(4).await.unwrap();
        file.sync().await.unwrap();
        assert_eq!(file.len().await.unwrap(), 4);
        disk.rename("a/b/x", "a/b/y").await.unwrap();
        disk.sync_dir("a/b").await.unwrap();
        assert_eq!(disk.list("a/b").await.unwrap(), ["y"]);
        assert_eq!(&disk.read("a/b/y").await.unwrap()[..], b"\0\0on");
        disk.remove("a/b/y").await.unwrap();
        disk.remove("a/b/y").await.unwrap();
        disk.remove_dir("a").await.unwrap();
        disk.remove_dir("a").await.unwrap();
        assert!(disk.free_bytes().await.unwrap() > 0);
    }

    #[tokio::test]
    async fn errors_say_what_and_where() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FsDisk::new(dir.path()).unwrap();
        let error = disk.open("missing", false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("open ") && error.to_string().contains("missing"));
    }
}
