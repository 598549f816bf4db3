//! The shard map that a process goes by only ever gets newer: its epoch grows. (It may be an older one after a restart, until the log is replayed, and
//! when the node's replica of the meta shard was made anew, until that has caught up.)

use std::collections::BTreeMap;

use super::{Invariant, Moment};

/// What each machine's process goes by.
#[derive(Default)]
pub(super) struct MapEpochs(BTreeMap<(usize, u64), Known>);

#[derive(Default)]
struct Known {
    newest: u64,
    /// Which replica of the meta shard the node has, or had last.
    meta: Option<u64>,
    /// It is another one, which has told no map yet.
    is_new: bool,
}

impl Invariant for MapEpochs {
    fn name(&self) -> &'static str {
        "map_epochs"
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for seen in &moment.machines {
            let known = self.0.entry((seen.machine, seen.process)).or_default();
            if seen.meta.is_some() && seen.meta != known.meta {
                known.is_new = known.meta.is_some();
                known.meta = seen.meta;
            }
            if seen.epoch < known.newest && !std::mem::take(&mut known.is_new) {
                return Err(format!(
                    "machine {}, process {}: its shard map had epoch {}, and now it has {}",
                    seen.machine, seen.process, known.newest, seen.epoch
                ));
            }
            known.newest = seen.epoch;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::{Machine, testing::World};

    #[test]
    fn a_map_is_never_replaced_by_an_older_one() {
        let of = |process, meta, epoch| Machine {
            machine: 2,
            process,
            epoch,
            meta,
        };
        let at = |process, epoch| of(process, Some(0), epoch);
        let mut world = World::new(MapEpochs::default());
        assert_eq!(world.look_at(&[of(1, None, 0)]), Ok(()));
        assert_eq!(world.look_at(&[at(1, 5)]), Ok(()));
        assert_eq!(world.look_at(&[at(1, 9)]), Ok(()));
        assert_eq!(world.look_at(&[at(2, 0)]), Ok(()), "another process");
        assert!(world.look_at(&[at(1, 8)]).unwrap_err().contains("epoch 9"));

        let mut world = World::new(MapEpochs::default());
        assert_eq!(world.look_at(&[at(1, 9)]), Ok(()));
        assert_eq!(world.look_at(&[of(1, None, 9)]), Ok(()));
        assert_eq!(world.look_at(&[of(1, Some(4), 9)]), Ok(()));
        assert_eq!(world.look_at(&[of(1, Some(4), 3)]), Ok(()), "its first one");
        assert!(
            world
                .look_at(&[of(1, Some(4), 2)])
                .unwrap_err()
                .contains("epoch 3")
        );
    }
}
