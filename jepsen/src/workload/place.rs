//! Where a program works: its partitions, its streams of chance, and the ends of what is followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    caller::{Caller, Env},
    random::Random,
};
use crate::history::{Call, Mode, Revision};

/// Partitions that a program may have.
pub(super) const PARTITIONS: u32 = 100;

/// A program's place in a run.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) env: Env,
    index: u32,
}

impl Place {
    pub(super) fn new(env: &Env, index: u32) -> Self {
        Self {
            env: env.clone(),
            index,
        }
    }

    /// Its number among the programs.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// The numbers of its partitions, if it has so many.
    pub(super) fn partitions(&self, count: u32) -> Range<u32> {
        partitions(self.index, count)
    }

    /// The shards of its partitions.
    pub(super) fn shards(&self, count: u32) -> BTreeSet<u32> {
        self.partitions(count)
            .map(|partition| (self.env.shard_of)(partition))
            .collect()
    }

    /// The stream of one of its clients.
    pub(super) fn random(&self, client: u32) -> Random {
        Random::new(self.env.seed, &[u64::from(self.index), u64::from(client)])
    }

    /// Final reads of all keys that calls have changed, one by one and by scans.
    pub(super) async fn read_all(&self, count: u32) {
        let mut caller = Caller::new(&self.env);
        let partitions = self.partitions(count);
        for key in self.env.recorder.changed_keys(partitions.clone()) {
            caller.final_read(key).await;
        }
        let mode = Mode::Linearizable;
        for partition in partitions {
            caller.insist(&Call::Scan { partition, mode }).await;
        }
    }

    /// Marks the ends of its partitions.
    pub(super) async fn mark(&self, count: u32) -> Ends {
        let mut caller = Caller::new(&self.env);
        let mut ends = Ends::default();
        for partition in self.partitions(count) {
            let revision = caller.mark(partition).await;
            ends.add(partition, (self.env.shard_of)(partition), revision);
        }
        ends
    }
}

/// The numbers of a program's partitions.
pub(super) fn partitions(index: u32, count: u32) -> Range<u32> {
    let first = (index + 1) * PARTITIONS;
    first..first + count.clamp(1, PARTITIONS)
}

/// The last changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    partitions: BTreeMap<u32, Revision>,
    shards: BTreeMap<u32, Revision>,
}

impl Ends {
    fn add(&mut self, partition: u32, shard: u32, revision: Revision) {
        for (ends, of) in [(&mut self.partitions, partition), (&mut self.shards, shard)] {
            let end = ends.entry(of).or_default();
            *end = revision.max(*end);
        }
    }

    pub(super) fn merge(&mut self, other: Ends) {
        for (ends, others) in [
            (&mut self.partitions, other.partitions),
            (&mut self.shards, other.shards),
        ] {
            for (of, revision) in others {
                let end = ends.entry(of).or_default();
                *end = revision.max(*end);
            }
        }
    }

    /// The last change of a partition that was marked; else 0.
    pub(super) fn partition(&self, partition: u32) -> Revision {
        self.partitions.get(&partition).copied().unwrap_or_default()
    }

    /// The last change of a shard in which a partition was marked; else 0.
    pub(super) fn shard(&self, shard: u32) -> Revision {
        self.shards.get(&shard).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_mark_is_the_end() {
        let mut ends = Ends::default();
        ends.add(1, 7, 10);
        let mut other = Ends::default();
        other.add(2, 7, 12);
        other.add(3, 8, 3);
        ends.merge(other);
        assert_eq!(
            (ends.partition(1), ends.partition(2), ends.partition(4)),
            (10, 12, 0)
        );
        assert_eq!((ends.shard(7), ends.shard(8), ends.shard(9)), (12, 3, 0));
    }

    #[test]
    fn programs_share_no_partition() {
        assert_eq!(partitions(0, 2), 100..102);
        assert_eq!(partitions(1, 1_000), 200..300);
    }
}
