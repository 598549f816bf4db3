//! What faults come to: that there was to be trouble at a machine does not mean that there was.

use std::collections::{BTreeMap, BTreeSet};

use super::{Active, Faults};
use crate::{failpoint::Action, node::SimNode, plan::What, trouble::Trouble};

/// What a machine had met at some moment.
#[derive(Clone, Copy)]
pub(super) struct Met {
    /// Operations that were to fail.
    struck: u64,
    /// Operations that were refused for want of room.
    refused: u64,
    /// Failpoints that had fired.
    fired: usize,
}

impl Met {
    fn of(node: &SimNode) -> Self {
        let control = node.disk_control();
        Self {
            struck: control.struck(),
            refused: control.returned().full,
            fired: node.failpoints().fired().len(),
        }
    }

    /// What a fault has come to at a machine since, damage aside.
    fn since(self, node: &SimNode, what: &What) -> Option<Trouble> {
        let now = Self::of(node);
        match what {
            What::DiskFull { .. } => (now.refused > self.refused).then_some(Trouble::NoSpace),
            What::DiskError { .. } => (now.struck > self.struck).then_some(Trouble::Error),
            What::Failpoint { point, .. } => {
                let since = node.failpoints().fired();
                let has_failed = since[self.fired..].contains(&(*point, Action::Error));
                has_failed.then_some(Trouble::Failpoint(*point))
            }
            _ => None,
        }
    }
}

impl Faults {
    pub(super) fn met(&self, machines: &BTreeSet<usize>) -> BTreeMap<usize, Met> {
        let met = |number: &usize| (*number, Met::of(&self.nodes[*number]));
        machines.iter().map(met).collect()
    }

    /// Notes what faults that are under way have come to.
    pub fn note_what_came(&mut self) {
        let active = std::mem::take(&mut self.active);
        active.iter().for_each(|active| self.note_what_came_of(active));
        self.active = active;
    }

    pub(super) fn note_what_came_of(&mut self, active: &Active) {
        let met = active.before.iter().filter_map(|(number, before)| {
            let trouble = before.since(&self.nodes[*number], &active.what)?;
            Some((*number, trouble))
        });
        let target = match active.what {
            What::Damage { target, .. } => Some(Trouble::Damage(target)),
            _ => None,
        };
        let damaged = active
            .damage
            .iter()
            .map(|(victim, _)| *victim)
            .zip(target.into_iter().cycle());
        let came: Vec<_> = met.chain(damaged).collect();
        for (machine, trouble) in came {
            let of_machine = self.bands[active.band].came.entry(machine).or_default();
            of_machine.insert(trouble);
        }
    }
}
