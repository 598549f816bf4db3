//! What an engine stands on: directories, and RocksDB's view of files. The operating system; in the simulator something that loses power.
//!
//! RocksDB does its own file work through its `Env`, which [`Ground::tune`] may replace; what the engine does with directories besides goes
//! through the other methods. It does not open databases, and knows nothing of what is in them.

use std::{fmt, fs, io, path::Path};

use rocksdb::Options;

use crate::disk::fs::direct;

/// See the module. All methods block.
pub trait Ground: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory and those above it, unless they are there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether a directory or file is there.
    fn exists(&self, path: &Path) -> bool;
    /// The names in a directory, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Removes a directory with all that is in it.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether files in a directory that is there can be written past the kernel's cache.
    fn has_direct_io(&self, path: &Path) -> bool;
    /// Changes the options of a database, or of one of its column families, before it is opened.
    fn tune(&self, options: &mut Options) {
        let _ = options;
    }
}

/// The operating system.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Ground for System {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        fs::read_dir(path)?.map(name).collect()
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    /// Some file systems in memory have none.
    fn has_direct_io(&self, path: &Path) -> bool {
        let probe = path.join("direct-io-probe");
        let opened = direct::options().create(true).truncate(true).open(&probe);
        // It may not have been created.
        let _ = fs::remove_file(&probe);
        opened.is_ok()
    }
}
