//! What is possible on this machine. Each mechanism is tried, not guessed from versions, so that a report can say what a run did not
//! cover, and why.

use std::{fmt, fs, io, path::Path};

use super::{
    disk::{Disk, FileSystem},
    link::HostId,
    netns::Namespace,
    owner::Run,
    proxy,
    shim::Library,
};

/// Bytes of the image that is tried.
const IMAGE_BYTES: u64 = 32 << 20;

/// A mechanism of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// Hosts in namespaces with TUN devices, for the switch. Without: the proxy.
    Namespaces,
    /// Disk images that can lose power and be full. Without: plain directories.
    DiskImages,
    /// Wrong clocks, and errors of reads, writes and syncs. Without: none of these.
    Shim,
    /// The proxy knows which node connects.
    PeerLookup,
}

impl Mechanism {
    /// All of them.
    pub const ALL: [Mechanism; 4] = [Self::Namespaces, Self::DiskImages, Self::Shim, Self::PeerLookup];
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "network namespaces and TUN devices",
            Self::DiskImages => "disk images that lose power",
            Self::Shim => "preloaded shim for clocks and I/O errors",
            Self::PeerLookup => "lookup of a connection's process",
        })
    }
}

/// Whether a mechanism works here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Which one.
    pub mechanism: Mechanism,
    /// Why it does not; `None` if it does.
    pub missing: Option<String>,
}

/// Tries every mechanism. What it makes is in a directory, which must exist, and is removed again.
pub fn probe(scratch: &Path) -> Vec<Capability> {
    let run = Run::new();
    Mechanism::ALL
        .map(|mechanism| {
            let tried = match (&run, mechanism) {
                (Err(error), _) => Err(io::Error::new(error.kind(), error.to_string())),
                (Ok(run), Mechanism::Namespaces) => Namespace::create(run, HostId::CLIENTS).map(drop),
                (Ok(run), Mechanism::DiskImages) => try_image(run, scratch),
                (Ok(run), Mechanism::Shim) => try_shim(run, scratch),
                (Ok(_), Mechanism::PeerLookup) => proxy::try_lookup(),
            };
            Capability {
                mechanism,
                missing: tried.err().map(|error| error.to_string()),
            }
        })
        .into()
}

fn try_image(run: &Run, scratch: &Path) -> io::Result<()> {
    let tried = Disk::image(run, scratch, "probe", IMAGE_BYTES, FileSystem::Ext4).and_then(|disk| {
        disk.cut_power()?;
        disk.restore_power()
    });
    let removed = fs::remove_dir_all(scratch.join(run.to_string()));
    tried.and(removed)
}

fn try_shim(run: &Run, scratch: &Path) -> io::Result<()> {
    // Of this run: others may try at the same time.
    let home = scratch.join(format!("{run}.shim"));
    fs::create_dir_all(&home)?;
    let tried = Library::build(&home).map(drop);
    let removed = fs::remove_dir_all(&home);
    tried.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mechanism_is_told_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let found = probe(dir.path());
        assert_eq!(
            found.iter().map(|c| c.mechanism).collect::<Vec<_>>(),
            Mechanism::ALL
        );
        let shim = &found[2];
        assert_eq!(shim.missing, None, "the tests need a C compiler");
        if !rustix::process::geteuid().is_root() {
            assert!(found[0].missing.is_some() && found[1].missing.is_some());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
