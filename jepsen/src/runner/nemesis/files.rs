//! Damaged files of a stopped node.
//!
//! The node is stopped in order, so that its last write is sealed: without, damage of the last block of its log could not be told from a
//! write that was torn when it died, and cutting it there is right. A bit in space that is not used would prove nothing, so one is looked for
//! that the node's own check notices. At the end the bit is flipped back, as a repair from a copy would: a
//! damaged node cannot be replaced yet. A table is never changed after it was written, so this is right whatever the node did meanwhile;
//! a segment of the log is only repaired if the node has refused to start with it.
//!
//! A node reads all of its log at its start: that it serves with a log that its check calls damaged is a problem of the run. A table it may
//! not have read yet. Bits that the check does not notice are counted, and with the first one of each fault the node is started too: nothing
//! excuses it then, and what it serves is checked like everything.

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
        judge::About,
        plan::DamagedFiles,
    },
};

/// Bits that are tried until the node's check notices one.
const TRIES: u64 = 10;

/// Stops a node, flips a bit and starts it.
pub(super) fn corrupt<'a>(fault: &Fault<'a>, node: u64, files: DamagedFiles, seed: u64) -> Install<'a> {
    let (arsenal, cluster) = (fault.arsenal, fault.cluster());
    let node = fault.claim(node)?;
    fault.begins();
    stop(cluster, node)?;
    let found = damage(arsenal, node, files, seed);
    if let Ok((Some(_), _)) = &found {
        node.state().excuse();
    }
    cluster.start(node)?;
    let (damaged, unnoticed) = found?;
    let Some(damaged) = damaged else {
        return Err(Trouble::Skipped(format!(
            "{} has no such file, or its check notices none of {unnoticed} flipped bits",
            node.host
        )));
    };
    let mut text = damaged.name(node);
    if unnoticed > 0 {
        text += &format!(", after {unnoticed} that its check does not notice");
    }
    Ok(Installed {
        place: at(node),
        text,
        undo: Some(Box::new(move || Ok(repair(arsenal, node, files, &damaged)?))),
    })
}

fn stop(cluster: &Cluster, node: &Node) -> Result<(), Trouble> {
    if cluster.terminate(node)? {
        return Ok(());
    }
    cluster.start(node)?;
    Err(Trouble::Indeterminate(format!(
        "{} did not stop in order",
        node.host
    )))
}

/// A bit that was flipped, and the byte that is there now.
struct Damaged {
    damage: Damage,
    wrong: u8,
}

impl Damaged {
    fn name(&self, node: &Node) -> String {
        let damage = &self.damage;
        let file = damage.file.strip_prefix(node.disk.data()).unwrap_or(&damage.file);
        format!(
            "bit {} of byte {} of {} on {}",
            damage.bit,
            damage.offset,
            file.display(),
            node.host
        )
    }
}

/// What was done, and how many bits before were not noticed.
fn damage(
    arsenal: &Arsenal,
    node: &Node,
    files: DamagedFiles,
    seed: u64,
) -> Result<(Option<Damaged>, u64), Trouble> {
    let target = match files {
        DamagedFiles::Log => Target::Log,
        DamagedFiles::Table => Target::Table,
    };
    for more in 0..TRIES {
        let Some(damage) = flip_bit(&node.disk.data(), target, seed.wrapping_add(more))? else {
            return Ok((None, more));
        };
        let mut byte = [0];
        fs::File::open(&damage.file)?.read_exact_at(&mut byte, damage.offset)?;
        let damaged = Damaged {
            damage,
            wrong: byte[0],
        };
        if arsenal.cluster.damage_of(node)?.is_some() {
            return Ok((Some(damaged), more));
        }
        arsenal.cluster.bit_unnoticed();
        let lived = match more {
            0 => live_with(arsenal, node, &damaged),
            _ => Ok(()),
        };
        // What a node has written since in its log is not to be touched.
        if more > 0 || lived.is_err() || files == DamagedFiles::Table {
            flip_back(&damaged.damage, damaged.wrong)?;
        }
        lived?;
    }
    Ok((None, TRIES))
}

/// Starts a node whose check finds nothing, and stops it again. Nothing excuses its end.
fn live_with(arsenal: &Arsenal, node: &Node, damaged: &Damaged) -> Result<(), Trouble> {
    let cluster = &*arsenal.cluster;
    cluster.start(node)?;
    if !arsenal.serves_or_ends(node)? && !arsenal.stop.is_set() {
        let text = format!(
            "{} does not serve with {}, which its check does not notice",
            node.host,
            damaged.name(node)
        );
        cluster.problem(About::Files, text);
    }
    stop(cluster, node)
}

fn repair(arsenal: &Arsenal, node: &Node, files: DamagedFiles, damaged: &Damaged) -> io::Result<String> {
    let cluster = &*arsenal.cluster;
    // Stopped before it has read its files, it might refuse them later.
    let serves = arsenal.serves_or_ends(node)?;
    if serves {
        if files == DamagedFiles::Log {
            let text = format!(
                "{} serves with {}, which its check calls damaged",
                node.host,
                damaged.name(node)
            );
            cluster.problem(About::Files, text);
        }
        cluster.terminate(node)?;
    } else {
        cluster.kill(node)?;
    }
    if !serves || files == DamagedFiles::Table {
        flip_back(&damaged.damage, damaged.wrong)?;
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
