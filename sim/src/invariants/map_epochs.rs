//! The shard map that a process goes by only ever gets newer: its epoch grows. (After a restart it may be an older one, until the log is replayed.)

use std::collections::BTreeMap;

use super::{Invariant, Machine, Moment};

/// The newest epoch of each machine's process.
#[derive(Default)]
pub(super) struct MapEpochs(BTreeMap<(usize, u64), u64>);

impl Invariant for MapEpochs {
    fn name(&self) -> &'static str {
        "map_epochs"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        let has_map = |seen: &Machine| {
            let newest = self.0.get(&(seen.machine, seen.process));
            newest.is_some_and(|newest| *newest > 0)
        };
        moment.machines.iter().any(has_map)
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for seen in &moment.machines {
            let newest = self.0.entry((seen.machine, seen.process)).or_default();
            if seen.epoch < *newest {
                return Err(format!(
                    "machine {}, process {}: its shard map had epoch {newest}, and now it has {}",
                    seen.machine, seen.process, seen.epoch
                ));
            }
            *newest = seen.epoch;
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
        let at = |process, epoch| Machine {
            machine: 2,
            process,
            epoch,
        };
        let mut world = World::new(MapEpochs::default());
        assert_eq!(world.look_at(&[at(1, 5)]), Ok(()));
        assert_eq!(world.look_at(&[at(1, 9)]), Ok(()));
        assert_eq!(world.look_at(&[at(2, 0)]), Ok(()), "another process");
        assert!(world.look_at(&[at(1, 8)]).unwrap_err().contains("epoch 9"));
    }

    #[test]
    fn it_sees_processes_that_had_a_map() {
        let at = |process, epoch| Machine {
            machine: 2,
            process,
            epoch,
        };
        let mut world = World::new(MapEpochs::default());
        assert!(!world.sees_machines(&[at(1, 5)]), "nothing was before");
        assert_eq!(world.look_at(&[at(1, 5), at(2, 0)]), Ok(()));
        assert!(world.sees_machines(&[at(1, 5)]));
        assert!(!world.sees_machines(&[at(2, 5)]), "it had none");
    }
}
