//! The seam between the node and its files.
//!
//! A [`Disk`] is a directory tree. In production it is `std::fs` on a thread of its own (so that an fsync never holds up the async
//! runtime); the simulator has one that tears, loses and flips bits. Paths are relative to the data directory, with `/`.
//! Durability is explicit: bytes are durable after [`DiskFile::sync`], names after [`Disk::sync_dir`].

use std::{fmt::Debug, io, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

pub mod fs;
pub mod mem;

/// The result of every operation.
pub type DiskFuture<T> = BoxFuture<'static, io::Result<T>>;

/// A shared handle.
pub type DynDisk = Arc<dyn Disk>;

/// A directory tree on stable storage.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing, and creates it if `create`.
    fn open(&self, path: &str, create: bool) -> DiskFuture<Arc<dyn DiskFile>>;
    /// A whole file. `NotFound` if there is none.
    fn read(&self, path: &str) -> DiskFuture<Bytes>;
    /// The names in a directory, sorted. Empty if there is no such directory.
    fn list(&self, dir: &str) -> DiskFuture<Vec<String>>;
    /// Creates a directory and its parents.
    fn create_dir(&self, dir: &str) -> DiskFuture<()>;
    /// Replaces the target.
    fn rename(&self, from: &str, to: &str) -> DiskFuture<()>;
    /// Removes a file. `NotFound` is not an error.
    fn remove(&self, path: &str) -> DiskFuture<()>;
    /// Removes a directory and what is in it. `NotFound` is not an error.
    fn remove_dir(&self, dir: &str) -> DiskFuture<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> DiskFuture<()>;
    /// Bytes that can still be written.
    fn free_bytes(&self) -> DiskFuture<u64>;
}

/// Writes a small file so that a crash leaves the old content or the new one: temporary file, sync, rename, sync of the directory.
pub async fn replace(disk: &DynDisk, path: &str, content: Bytes) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    // A leftover of an earlier crash may be longer.
    disk.remove(&temporary).await?;
    let file = disk.open(&temporary, true).await?;
    file.write_at(0, vec![content], true).await?;
    file.sync().await?;
    disk.rename(&temporary, path).await?;
    disk.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))
        .await
}

/// An open file.
#[expect(
    clippy::len_without_is_empty,
    reason = "a length in bytes on disk, not a collection"
)]
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Writes the buffers one after the other from `offset` on, and if `sync` makes the file's bytes durable (fdatasync), as one operation.
    /// A short write is an error.
    fn write_at(&self, offset: u64, buffers: Vec<Bytes>, sync: bool) -> DiskFuture<()>;
    /// `len` bytes from `offset` on, fewer at the end of the file.
    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<Bytes>;
    /// The file's length in bytes.
    fn len(&self) -> DiskFuture<u64>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> DiskFuture<()>;
    /// Makes bytes and length durable.
    fn sync(&self) -> DiskFuture<()>;
}
