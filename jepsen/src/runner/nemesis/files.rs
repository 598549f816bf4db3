//! Damaged files of a stopped node.
//!
//! The node is stopped in order, so that its last write is sealed: without, damage of the last block of its log could not be told from a
//! write that was torn when it died, and cutting it there is right. A bit in space that is not used would prove nothing, so one is looked for
//! that the node's own check notices. At the end the bit is flipped back, as a repair from a copy would: a
//! damaged node cannot be replaced yet. A table is never changed after it was written, so this is right whatever the node did meanwhile;
//! a segment of the log is only repaired if the node has refused to start with it.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
};

use super::{Arsenal, Fault, Install, Installed, Trouble, at};
use crate::{
    os::corrupt::{Damage, Target, flip_bit},
    runner::{
        cluster::{Cluster, Node},
        plan::DamagedFiles,
    },
};

/// Bits that are tried until the node's check notices one.
const TRIES: u64 = 10;

/// Stops a node, flips a bit and starts it.
pub(super) fn corrupt<'a>(fault: &Fault<'a>, node: u64, files: DamagedFiles, seed: u64) -> Install<'a> {
    let (arsenal, cluster) = (fault.arsenal, fault.cluster());
    let node = fault.claim(Some(node))?;
    if !cluster.terminate(node)? {
        cluster.start(node)?;
        return Err(Trouble::Indeterminate(format!(
            "{} did not stop in order",
            node.host
        )));
    }
    let damaged = damage(cluster, node, files, seed);
    if let Ok(Some(_)) = &damaged {
        node.state().excuse();
    }
    cluster.start(node)?;
    let Some((damage, wrong)) = damaged? else {
        return Err(Trouble::Skipped(format!(
            "{} has no such file, or its check notices nothing",
            node.host
        )));
    };
    let name = damage.file.strip_prefix(node.disk.data()).unwrap_or(&damage.file);
    let text = format!(
        "bit {} of byte {} of {} on {}",
        damage.bit,
        damage.offset,
        name.display(),
        node.host
    );
    Ok(Installed {
        place: at(node),
        text,
        undo: Some(Box::new(move || {
            Ok(repair(arsenal, node, files, &damage, wrong)?)
        })),
    })
}

/// What was done, and the byte that is there now. `None`: nothing.
fn damage(
    cluster: &Cluster,
    node: &Node,
    files: DamagedFiles,
    seed: u64,
) -> io::Result<Option<(Damage, u8)>> {
    let target = match files {
        DamagedFiles::Log => Target::Log,
        DamagedFiles::Table => Target::Table,
    };
    for more in 0..TRIES {
        let Some(damage) = flip_bit(&node.disk.data(), target, seed.wrapping_add(more))? else {
            return Ok(None);
        };
        let mut byte = [0];
        fs::File::open(&damage.file)?.read_exact_at(&mut byte, damage.offset)?;
        if cluster.damage_of(node)?.is_some() {
            return Ok(Some((damage, byte[0])));
        }
        flip_back(&damage, byte[0])?;
    }
    Ok(None)
}

fn repair(
    arsenal: &Arsenal,
    node: &Node,
    files: DamagedFiles,
    damage: &Damage,
    wrong: u8,
) -> io::Result<String> {
    let cluster = &*arsenal.cluster;
    // Stopped before it has read its files, it might refuse them later.
    let serves = arsenal.serves_or_ends(node)?;
    if serves {
        cluster.terminate(node)?;
    } else {
        cluster.kill(node)?;
    }
    if !serves || files == DamagedFiles::Table {
        flip_back(damage, wrong)?;
    }
    let mut state = node.state();
    state.end_excuse();
    let text = match state.ended {
        Some(status) => format!(": it ended with {status}"),
        None if serves => ": it ran".to_owned(),
        None => ": it did not serve".to_owned(),
    };
    cluster.start_with(node, &mut state)?;
    Ok(text)
}

/// Unless the file is gone, or the place was written again.
fn flip_back(damage: &Damage, wrong: u8) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(&damage.file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, damage.offset)?;
    if byte[0] == wrong {
        file.write_all_at(&[wrong ^ (1 << damage.bit)], damage.offset)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_flipped_back_where_it_is_still_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("1.sst");
        fs::write(&file, [7, 7, 7]).unwrap();
        let damage = Damage {
            file: file.clone(),
            offset: 1,
            bit: 3,
        };
        flip_back(&damage, 15).unwrap();
        assert_eq!(fs::read(&file).unwrap(), [7, 7, 7], "it was written again");
        fs::write(&file, [7, 15, 7]).unwrap();
        flip_back(&damage, 15).unwrap();
        assert_eq!(fs::read(&file).unwrap(), [7, 7, 7]);
        fs::remove_file(&file).unwrap();
        flip_back(&damage, 15).unwrap();
        assert!(!file.exists());
    }
}
