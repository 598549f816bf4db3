//! At any moment at most one replica of a shard may answer linearizable reads on its lease (Raft dissertation, section 6.4.1).
//!
//! A leader that hands its shard over answers none any more; that shows outside only in the message by which it does so, so its lease
//! counts for nothing from then on.

use super::{Invariant, Moment};

/// Remembers nothing.
pub(super) struct LeaseDisjointness;

impl Invariant for LeaseDisjointness {
    fn name(&self) -> &'static str {
        "lease_disjointness"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        moment.replicas.iter().any(|(replica, _)| replica.lease)
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (number, (one, _)) in moment
            .replicas
            .iter()
            .enumerate()
            .filter(|(_, (one, _))| one.lease)
        {
            let mut others = moment.replicas[number + 1..].iter().map(|(other, _)| other);
            if let Some(other) = others.find(|other| other.lease && other.shard == one.shard) {
                return Err(format!(
                    "shard {}: node {} in term {} and node {} in term {} both answer reads on a lease",
                    one.shard,
                    one.machine + 1,
                    one.term,
                    other.machine + 1,
                    other.term
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_core::types::ShardId;

    use super::*;
    use crate::invariants::testing::{World, replica};

    #[test]
    fn one_lease_for_each_shard() {
        let with_lease = |machine, shard| {
            let mut replica = replica(machine, 1);
            (replica.shard, replica.lease) = (ShardId(shard), true);
            replica
        };
        let mut world = World::new(LeaseDisjointness);
        world.holds(&[with_lease(0, 1), with_lease(1, 2), replica(2, 1)]);
        world.breaks(
            &[with_lease(0, 1), with_lease(1, 2), with_lease(2, 1)],
            "node 1 in term 1 and node 3",
        );
    }

    #[test]
    fn it_sees_leases() {
        let world = World::new(LeaseDisjointness);
        let mut holder = replica(1, 1);
        holder.lease = true;
        assert!(world.sees(&[replica(0, 1), holder]));
        assert!(!world.sees(&[replica(0, 1), replica(1, 1)]));
    }
}
