//! Damages files of a stopped node, as a failing disk does: one bit in a place that a seed chooses.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::command::context;

/// Bytes that are looked at together: a part of a file that holds nothing but zeros is space, where damage would prove nothing.
const SECTOR: usize = 512;

/// Which files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Segments of the log: `wal/*.wal`.
    Log,
    /// Tables of the engine: `rocks/db/*.sst`.
    Table,
}

impl Target {
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Log => ("wal", "wal"),
            Self::Table => ("rocks/db", "sst"),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Which byte of it.
    pub offset: u64,
    /// Which bit, from 0 to 7, is now the other way.
    pub bit: u8,
}

/// Flips a bit in a file of the data directory of a node that does not run, and syncs it. `None` if there is no such file with
/// anything in it. The same seed and files give the same damage.
pub fn flip_bit(data: &Path, target: Target, seed: u64) -> io::Result<Option<Damage>> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut files = files(data, target)?;
    while !files.is_empty() {
        let file = files.swap_remove(chance.random_range(0..files.len()));
        let content = fs::read(&file).map_err(context(format!("read {}", file.display())))?;
        let used: Vec<usize> = content
            .chunks(SECTOR)
            .enumerate()
            .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
            .map(|(index, _)| index * SECTOR)
            .collect();
        if used.is_empty() {
            continue;
        }
        let sector = used[chance.random_range(0..used.len())];
        let len = SECTOR.min(content.len() - sector);
        let at = sector + chance.random_range(0..len);
        let bit = chance.random_range(0..8_u8);
        let open = OpenOptions::new()
            .write(true)
            .open(&file)
            .map_err(context("open a file to damage"))?;
        open.write_all_at(&[content[at] ^ (1 << bit)], at as u64)?;
        open.sync_all()?;
        return Ok(Some(Damage {
            file,
            offset: at as u64,
            bit,
        }));
    }
    Ok(None)
}

/// In the order of their names.
fn files(data: &Path, target: Target) -> io::Result<Vec<PathBuf>> {
    let (dir, extension) = target.place();
    let dir = data.join(dir);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(context(format!("list {}", dir.display())))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("wal")).unwrap();
        fs::create_dir_all(dir.path().join("rocks/db")).unwrap();
        let mut segment = vec![0; 64 * SECTOR];
        segment[..SECTOR].fill(7);
        // Two bits, so that no damage makes the sector an empty one.
        segment[3 * SECTOR + 9] = 3;
        for name in ["wal/1.wal", "wal/2.wal"] {
            fs::write(dir.path().join(name), &segment).unwrap();
        }
        fs::write(dir.path().join("wal/3.wal"), vec![0; 4 * SECTOR]).unwrap();
        fs::write(dir.path().join("wal/4.free"), [9; SECTOR]).unwrap();
        fs::write(dir.path().join("rocks/db/000007.sst"), b"short").unwrap();
        fs::write(dir.path().join("rocks/db/MANIFEST-1"), b"manifest").unwrap();
        dir
    }

    #[test]
    fn one_bit_of_what_is_used_is_flipped_where_the_seed_says() {
        let (one, other) = (node(), node());
        for seed in 0..50 {
            let before: Vec<u8> = fs::read(one.path().join("wal/1.wal")).unwrap();
            let damage = flip_bit(one.path(), Target::Log, seed).unwrap().unwrap();
            let again = flip_bit(other.path(), Target::Log, seed).unwrap().unwrap();
            assert_eq!((damage.offset, damage.bit), (again.offset, again.bit));
            let sector = damage.offset as usize / SECTOR;
            assert!(sector == 0 || sector == 3, "{damage:?}");
            let after = fs::read(&damage.file).unwrap();
            let changed: Vec<usize> = (0..after.len()).filter(|at| after[*at] != before[*at]).collect();
            assert_eq!(changed, [damage.offset as usize]);
            let at = damage.offset as usize;
            assert_eq!(after[at] ^ before[at], 1 << damage.bit);
            assert_eq!(
                flip_bit(one.path(), Target::Log, seed).unwrap(),
                Some(damage.clone()),
                "the repair"
            );
            assert_eq!(fs::read(&damage.file).unwrap(), before);
            flip_bit(other.path(), Target::Log, seed).unwrap();
        }
    }

    #[test]
    fn a_table_is_chosen_among_tables_and_nothing_where_there_is_none() {
        let dir = node();
        let damage = flip_bit(dir.path(), Target::Table, 4).unwrap().unwrap();
        assert!(damage.file.ends_with("rocks/db/000007.sst") && damage.offset < 5);
        assert_eq!(flip_bit(&dir.path().join("wal"), Target::Table, 4).unwrap(), None);
    }
}
