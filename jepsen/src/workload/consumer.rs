//! Consumers: writers, and owners that take a shard's consumers from one another, acknowledge some of what they are given, and stop.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    Load, Place,
    caller::Caller,
    join::join_all,
    owner::{Manner, Nothing, Owner},
    place::Ends,
    random::Random,
    stop::Stop,
};
use crate::{
    check,
    history::{Call, Key},
};

/// Streams of chance of the owners begin here.
const OWNERS: u32 = 1_000;

/// Its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Clients that write.
    pub clients: u32,
    /// Partitions.
    pub partitions: u32,
    /// Keys of each partition.
    pub keys: u32,
    /// Consumers of each shard.
    pub consumers: u32,
    /// Owners of each consumer.
    pub owners: u32,
    /// Mean milliseconds for which an owner keeps it.
    pub tenure_ms: u64,
    /// How many of a hundred batches are acknowledged.
    pub acks_percent: u32,
    /// Mean microseconds between two operations of a client.
    pub pause_us: u64,
    /// Weights of writes and deletes.
    pub mix: [u32; 2],
}

impl Default for Program {
    fn default() -> Self {
        Self {
            clients: 4,
            partitions: 3,
            keys: 10,
            consumers: 1,
            owners: 3,
            tenure_ms: 2_000,
            acks_percent: 60,
            pause_us: 15_000,
            mix: [80, 20],
        }
    }
}

impl Program {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            clients: random.range(1, 6) as u32,
            partitions: random.range(1, 6) as u32,
            keys: random.range(1, 30) as u32,
            consumers: random.range(1, 3) as u32,
            owners: random.range(1, 5) as u32,
            tenure_ms: random.range(200, 10_000),
            acks_percent: random.range(10, 101) as u32,
            pause_us: random.range(2_000, 50_000),
            mix: [random.range(10, 80) as u32, random.below_u32(40)],
        }
    }

    /// What is to be checked.
    pub fn checks(&self) -> &'static [check::Workload] {
        &[check::Workload::Consumer]
    }
}

/// It runs.
pub(super) struct Running {
    program: Program,
    place: Place,
    owners: Vec<Owner<Nothing>>,
}

impl Running {
    pub(super) fn new(program: Program, place: Place) -> Self {
        let manner = Manner {
            lasts: Duration::from_millis(program.tenure_ms),
            rests: Duration::from_millis(program.tenure_ms / 2),
            acks_percent: program.acks_percent,
        };
        let mut owners = Vec::new();
        for shard in place.shards(program.partitions) {
            for consumer in 0..program.consumers.max(1) {
                for _ in 0..program.owners.max(1) {
                    let name = format!("consumer{}.{consumer}", place.index());
                    let random = place.random(OWNERS + owners.len() as u32);
                    owners.push(Owner::new(&place.env, shard, name, manner, random, Nothing));
                }
            }
        }
        Self {
            program,
            place,
            owners,
        }
    }
}

impl Load for Running {
    fn work<'a>(&'a mut self, stop: &'a Stop) -> BoxFuture<'a, ()> {
        let (program, place, owners) = (&self.program, &self.place, &mut self.owners);
        Box::pin(async move {
            let clients = (0..program.clients).map(|number| Box::pin(write(program, place, number, stop)));
            let owners = owners.iter_mut().map(|owner| Box::pin(owner.work(stop)));
            futures::join!(join_all(clients), join_all(owners));
        })
    }

    fn finals(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.place.read_all(self.program.partitions))
    }

    fn mark(&mut self) -> BoxFuture<'_, Ends> {
        Box::pin(self.place.mark(self.program.partitions))
    }

    fn drain<'a>(&'a mut self, ends: &'a Ends) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // One after the other: each takes the consumer from the one before, and the last one has seen the end.
            for owner in &mut self.owners {
                owner.drain(ends).await;
            }
        })
    }
}

async fn write(program: &Program, place: &Place, number: u32, stop: &Stop) {
    let (mut caller, mut random) = (Caller::new(&place.env), place.random(number));
    let partitions = place.partitions(program.partitions);
    let pause = Duration::from_micros(program.pause_us);
    while stop.pause(random.exponential(pause)).await {
        let key = Key {
            partition: partitions.start + random.below_u32(partitions.len() as u32),
            key: random.below_u32(program.keys.max(1)),
        };
        let call = match random.weighted(&program.mix) {
            0 => Call::Write {
                key,
                value: place.env.recorder.unique(),
                ttl_ms: 0,
                lease: 0,
            },
            _ => Call::Delete { key },
        };
        // What came of it is in the history.
        drop(caller.call(call).await);
    }
}
