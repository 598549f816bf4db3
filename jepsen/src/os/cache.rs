//! The cache of a node's disk, which a loss of power empties.
//!
//! Cutting off the file system ([`disk`](super::disk)) loses what is in its memory. A direct write of blocks that were written before is not:
//! it is on the device at once. A real device may have it in a cache until the next flush. So the [`shim`](super::shim) keeps what such a
//! write replaces until a sync of that file has succeeded, in a file beside the disk, and after a loss of power it is put back from there.
//! A process that is killed loses nothing of it: the next one of the node goes on with the same file.
//!
//! Only bytes that the file had are put back. What a write added to a file is the file system's to lose.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::command::context;

/// Bytes of the file. Only what is used takes space.
const SIZE: u64 = 64 << 20;
/// `struct undo` in the source of the shim: four numbers.
const HEAD_BYTES: u64 = 32;
/// `struct record`: five.
const RECORD_BYTES: u64 = 40;
/// Bytes that a device writes all or none of.
const SECTOR: u64 = 512;

/// What a disk may lose.
#[derive(Debug)]
pub struct Cache {
    pub(super) path: PathBuf,
    file: File,
}

/// What a loss of power took back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Writes that had not been synced.
    pub unsynced: usize,
    /// Those of them that are lost, in whole or in part.
    pub lost: usize,
    /// Direct writes over what was there, since the beginning: if there were none, none could be lost.
    pub seen: u64,
}

/// What was there before a write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Before {
    file: (u64, u64),
    at: u64,
    bytes: Vec<u8>,
}

impl Cache {
    /// Nothing is in it.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)
            .map_err(context(format!("create {}", path.display())))?;
        file.set_len(SIZE)?;
        file.write_all_at(&SIZE.to_ne_bytes(), 0)?;
        Ok(Self {
            path: fs::canonicalize(path)?,
            file,
        })
    }

    /// The power was lost and is back, and no process uses the disk: writes that were not synced are lost from the files under `root`. All
    /// of them, or, as the seed says, the newest ones and a part of the oldest of these.
    ///
    /// # Errors
    /// Those of the system.
    pub fn lose(&self, root: &Path, seed: u64) -> io::Result<Lost> {
        let [used, seen] = self.numbers(8)?;
        let mut unsynced = self.unsynced(used)?;
        let before = unsynced.len();
        choose(&mut unsynced, &mut StdRng::seed_from_u64(seed));
        put_back(root, &unsynced)?;
        self.file.write_all_at(&0_u64.to_ne_bytes(), 8)?;
        Ok(Lost {
            unsynced: before,
            lost: unsynced.len(),
            seen,
        })
    }

    fn numbers<const N: usize>(&self, at: u64) -> io::Result<[u64; N]> {
        let mut numbers = [0; N];
        for (number, place) in numbers.iter_mut().zip((at..).step_by(8)) {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, place)?;
            *number = u64::from_ne_bytes(bytes);
        }
        Ok(numbers)
    }

    /// What was not synced, the oldest first.
    fn unsynced(&self, used: u64) -> io::Result<Vec<Before>> {
        let mut found = Vec::new();
        let (mut at, end) = (HEAD_BYTES, HEAD_BYTES + used);
        while at < end {
            let [inode, born, _, offset, len] = self.numbers(at)?;
            at += RECORD_BYTES;
            if len > SIZE {
                return Err(io::Error::other("the record of what a disk may lose is damaged"));
            }
            if inode != 0 {
                let mut bytes = vec![0; len as usize];
                self.file.read_exact_at(&mut bytes, at)?;
                found.push(Before {
                    file: (inode, born),
                    at: offset,
                    bytes,
                });
            }
            at += len.next_multiple_of(8);
        }
        Ok(found)
    }
}

/// Leaves what is to be lost: everything half of the time, else the newest writes, and of the oldest of these what is behind some sector.
fn choose(unsynced: &mut Vec<Before>, chance: &mut StdRng) {
    if unsynced.is_empty() || chance.random_bool(0.5) {
        return;
    }
    unsynced.drain(..chance.random_range(0..unsynced.len()));
    let Some(torn) = unsynced.first_mut() else {
        return;
    };
    let stays = SECTOR * chance.random_range(0..(torn.bytes.len() as u64).div_ceil(SECTOR));
    torn.bytes.drain(..stays as usize);
    torn.at += stays;
}

/// The newest write is undone first.
fn put_back(root: &Path, lost: &[Before]) -> io::Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    let files = files_under(root)?;
    let mut open = BTreeMap::new();
    for one in lost.iter().rev() {
        // A file that nobody had synced is gone itself.
        let Some(path) = files.get(&one.file) else {
            continue;
        };
        let file = match open.entry(path) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(
                OpenOptions::new()
                    .write(true)
                    .open(path)
                    .map_err(context(format!("open {}", path.display())))?,
            ),
        };
        let has = file.metadata()?.len().saturating_sub(one.at);
        let len = one.bytes.len().min(has as usize);
        file.write_all_at(&one.bytes[..len], one.at)?;
    }
    for file in open.values() {
        file.sync_all()?;
    }
    Ok(())
}

/// By inode and birth.
fn files_under(root: &Path) -> io::Result<BTreeMap<(u64, u64), PathBuf>> {
    let (mut files, mut dirs) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(context(format!("list {}", dir.display())))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else {
                let born = metadata.created()?.duration_since(UNIX_EPOCH);
                let born = born.map_err(io::Error::other)?.as_nanos() as u64;
                files.insert((metadata.ino(), born), entry.path());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(at: u64, bytes: &[u8]) -> Before {
        Before {
            file: (1, 1),
            at,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn all_is_lost_or_the_newest_and_a_part_of_one() {
        let all = vec![
            before(0, &[1; 1024]),
            before(512, &[2; 1536]),
            before(4096, &[3; 512]),
        ];
        let (mut whole, mut newest, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let mut lost = all.clone();
            choose(&mut lost, &mut StdRng::seed_from_u64(seed));
            let from = all.len() - lost.len();
            assert!(lost[1..] == all[from + 1..], "{lost:?}");
            let (first, was) = (&lost[0], &all[from]);
            let stays = (first.at - was.at) as usize;
            assert!(stays.is_multiple_of(512) && first.bytes == was.bytes[stays..]);
            whole += u32::from(lost == all);
            newest += u32::from(from > 0);
            torn += u32::from(stays > 0);
        }
        assert!(whole > 80 && newest > 40 && torn > 20, "{whole} {newest} {torn}");
        choose(&mut Vec::new(), &mut StdRng::seed_from_u64(0));
    }

    #[test]
    fn writes_are_undone_from_the_newest_on_and_add_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep");
        fs::create_dir(&path).unwrap();
        let path = path.join("file");
        fs::write(&path, [9; 8]).unwrap();
        let key = *files_under(dir.path()).unwrap().keys().next().unwrap();
        let one = |at, bytes: &[u8]| Before {
            file: key,
            ..before(at, bytes)
        };
        let gone = Before {
            file: (key.0, key.1 + 1),
            ..before(0, &[7; 8])
        };
        put_back(
            dir.path(),
            &[one(0, &[1; 4]), one(2, &[2; 4]), one(6, &[3; 9]), gone],
        )
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), [1, 1, 1, 1, 2, 2, 3, 3]);
    }
}
