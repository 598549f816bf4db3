//! Damage to what a machine has on its disk, and its repair.
//!
//! A bit of a durable file is flipped, or a row of the engine damaged. Repair puts back what was there, as an operator does from a copy of
//! the disk, unless the sector was written since. Who may be damaged is the [`Atlas`](crate::disk::Atlas)'s to say.
//!
//! What no node can tell from a write that a crash interrupted is left alone: the end of the log (see `kvsvr::wal`), that is the last block,
//! and the one before it while the last one is not durable. Anything before is damaged. So damage is always found by whoever reads it.

use kvsvr::disk::mem::{MemDisk, SECTOR};
use serde::{Deserialize, Serialize};

use crate::{node::SimNode, random::Stream};

/// Where the header of a segment has its epoch.
const SEGMENT_EPOCH: usize = 40;

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A segment of the log.
    Log,
    /// A snapshot that is being received.
    Staging,
    /// A row that the engine has flushed.
    Engine,
}

/// What was damaged.
#[derive(Debug, PartialEq, Eq)]
pub enum Damage {
    /// A bit of a file.
    Bit {
        /// The file.
        path: String,
        /// Its byte.
        at: u64,
        /// Of the byte.
        bit: u8,
        /// The sector since then.
        sector: Vec<u8>,
    },
    /// A row of the engine.
    Row,
}

/// Damages something of a machine. `None` if there is nothing of that kind.
pub fn inflict(node: &SimNode, target: Target, chance: &mut Stream) -> Option<Damage> {
    let directory = match target {
        Target::Engine => return node.engine().damage(chance).then_some(Damage::Row),
        Target::Log => "wal/",
        Target::Staging => "staging/",
    };
    let disk = node.disk();
    let is_meant =
        |path: &String| path.starts_with(directory) && (target != Target::Log || path.ends_with(".wal"));
    let paths: Vec<String> = disk.paths().into_iter().filter(is_meant).collect();
    // Names of segments sort by their numbers.
    let newest = paths.last().cloned()?;
    // What was written last matters most: nothing else may have it yet.
    let path = if chance.chance(0.3) {
        newest.clone()
    } else {
        paths[chance.index(paths.len())].clone()
    };
    let bytes = disk.peek(&path)?;
    let reach = if target == Target::Log && path == newest {
        told_from_torn(&bytes) as u64
    } else {
        bytes.len() as u64
    };
    if reach == 0 {
        return None;
    }
    let (at, bit) = (chance.below(reach), chance.below(8) as u8);
    disk.flip_bit(&path, at, bit).then_some(())?;
    let sector = sector(&disk, &path, at)?;
    Some(Damage::Bit {
        path,
        at,
        bit,
        sector,
    })
}

/// Bytes of the last segment that two blocks follow, or those of its header.
fn told_from_torn(segment: &[u8]) -> usize {
    // As in `kvsvr::wal::codec`: magic, checksum, epoch, own place. Leftovers of an earlier use have another epoch.
    let number =
        |at: usize| -> Option<u64> { Some(u64::from_le_bytes(segment.get(at..at + 8)?.try_into().ok()?)) };
    let is_block = |at: &usize| {
        segment.get(*at..*at + 4) == Some(b"KVBK")
            && number(*at + 8) == number(SEGMENT_EPOCH)
            && number(*at + 16) == Some(*at as u64)
    };
    let mut blocks = (SECTOR..segment.len()).step_by(SECTOR).filter(is_block).rev();
    blocks.nth(1).unwrap_or(SECTOR).min(segment.len())
}

/// Puts back what was there. False if it was overwritten meanwhile, or the file is gone.
pub fn repair(node: &SimNode, damage: &Damage) -> bool {
    match damage {
        Damage::Row => {
            node.engine().restore();
            true
        }
        Damage::Bit {
            path,
            at,
            bit,
            sector: damaged,
        } => {
            let disk = node.disk();
            sector(&disk, path, *at).as_ref() == Some(damaged) && disk.flip_bit(path, *at, *bit)
        }
    }
}

fn sector(disk: &MemDisk, path: &str, at: u64) -> Option<Vec<u8>> {
    let bytes = disk.peek(path)?;
    let begin = at as usize / SECTOR * SECTOR;
    Some(bytes.get(begin..(begin + SECTOR).min(bytes.len()))?.to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use kvsvr::{config::Settings, disk::Disk as _};
    use madsim::runtime::Runtime;
    use tokio::time::sleep;

    use super::*;
    use crate::net::SimNet;

    fn lab<F: Future>(test: impl FnOnce(SimNode) -> F) -> F::Output {
        kvsvr::time::skewed::forget_all();
        Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
            let node = SimNode::new(1, SimNet::new(1), "node:7101", Settings::default());
            node.start();
            while node.node().is_none() {
                sleep(Duration::from_millis(10)).await;
            }
            test(node).await
        })
    }

    #[test]
    fn a_damaged_log_keeps_the_node_from_starting_until_it_is_repaired() {
        lab(|node| async move {
            node.kill();
            let damage = inflict(&node, Target::Log, &mut Stream::new(1, &[])).unwrap();
            assert!(node.disk().history().damaged_reads.is_empty());
            node.start();
            while node.is_running() {
                sleep(Duration::from_millis(10)).await;
            }
            let reason = node.ended().pop().unwrap().reason;
            assert!(reason.starts_with("cannot start"), "{reason}");
            assert!(!node.disk().history().damaged_reads.is_empty());
            assert!(repair(&node, &damage));
            node.start();
            sleep(Duration::from_secs(1)).await;
            assert!(node.node().is_some(), "{:?}", node.ended());
        });
    }

    #[test]
    fn of_the_last_segment_all_is_damaged_but_its_last_two_blocks() {
        lab(|node| async move {
            let disk = node.disk();
            let newest = || {
                disk.paths()
                    .into_iter()
                    .rfind(|path| path.ends_with(".wal"))
                    .unwrap()
            };
            let bytes = disk.read(&newest()).await.unwrap();
            let blocks: Vec<usize> = (SECTOR..bytes.len())
                .step_by(SECTOR)
                .filter(|at| bytes[*at..].starts_with(b"KVBK"))
                .collect();
            let [.., last_but_one, _] = blocks[..] else {
                panic!("{blocks:?}")
            };
            assert_eq!(told_from_torn(&bytes), last_but_one);
            assert_eq!(told_from_torn(&bytes[..=last_but_one]), SECTOR);
            assert_eq!(told_from_torn(&bytes[..100]), 100);
        });
    }

    #[test]
    fn what_was_written_over_is_not_repaired() {
        lab(|node| async move {
            let disk = node.disk();
            disk.create_dir("staging/1").await.unwrap();
            let file = disk.open("staging/1/chunks", true).await.unwrap();
            let write =
                |text: &'static str| file.write_at(0, vec![Bytes::from_static(text.as_bytes())], true);
            write("before").await.unwrap();
            let damage = inflict(&node, Target::Staging, &mut Stream::new(1, &[])).unwrap();
            assert_ne!(disk.read("staging/1/chunks").await.unwrap(), "before");
            write("newest").await.unwrap();
            assert!(!repair(&node, &damage));
            assert_eq!(disk.read("staging/1/chunks").await.unwrap(), "newest");
        });
    }

    #[test]
    fn nothing_there_is_nothing_damaged() {
        lab(|node| async move {
            for target in [Target::Staging, Target::Engine] {
                assert_eq!(inflict(&node, target, &mut Stream::new(1, &[])), None);
            }
        });
    }
}
