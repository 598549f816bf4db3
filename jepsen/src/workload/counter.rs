//! Counters: increments, which the client library repeats after a broken connection, and counts.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Load, Place, caller::Caller, join::join_all, keys::Keys, random::Random, stop::Stop};
use crate::{check, history::Call};

/// Its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Clients.
    pub clients: u32,
    /// Partitions.
    pub partitions: u32,
    /// Counters of each partition at a time, besides the hot one.
    pub counters: u32,
    /// How many of a hundred operations are on the hot counter.
    pub hot_percent: u32,
    /// Operations on a counter before it is left behind.
    pub rotate: u64,
    /// Mean microseconds between two operations of a client.
    pub pause_us: u64,
    /// Weights of increments and counts.
    pub mix: [u32; 2],
}

impl Default for Program {
    fn default() -> Self {
        Self {
            clients: 4,
            partitions: 2,
            counters: 4,
            hot_percent: 40,
            rotate: 300,
            pause_us: 15_000,
            mix: [70, 30],
        }
    }
}

impl Program {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            clients: random.range(2, 7) as u32,
            partitions: random.range(1, 4) as u32,
            counters: random.range(1, 10) as u32,
            hot_percent: random.below_u32(90),
            rotate: random.range(50, 400),
            pause_us: random.range(2_000, 50_000),
            mix: [random.range(10, 90) as u32, random.range(5, 50) as u32],
        }
    }

    /// What is to be checked.
    pub fn checks(&self) -> &'static [check::Workload] {
        &[check::Workload::Counter]
    }
}

/// It runs.
pub(super) struct Running {
    program: Program,
    place: Place,
}

impl Running {
    pub(super) fn new(program: Program, place: Place) -> Self {
        Self { program, place }
    }
}

impl Load for Running {
    fn work<'a>(&'a mut self, stop: &'a Stop) -> BoxFuture<'a, ()> {
        let (program, place) = (&self.program, &self.place);
        let partitions = place.partitions(program.partitions);
        Box::pin(async move {
            let keys = Keys::new(partitions, program.counters, program.hot_percent, program.rotate);
            let clients = (0..program.clients).map(|number| {
                let (random, caller) = (place.random(number), Caller::of_number(&place.env, number));
                Box::pin(work(program, &keys, caller, random, stop))
            });
            join_all(clients).await;
        })
    }

    fn finals(&mut self) -> BoxFuture<'_, ()> {
        let partitions = self.place.partitions(self.program.partitions);
        Box::pin(async move {
            let mut caller = Caller::new(&self.place.env);
            for key in self.place.env.recorder.changed_keys(partitions) {
                caller.insist(&Call::Count { key }).await;
            }
        })
    }
}

async fn work(program: &Program, keys: &Keys, mut caller: Caller, mut random: Random, stop: &Stop) {
    let pause = Duration::from_micros(program.pause_us);
    while stop.pause(random.exponential(pause)).await {
        let key = keys.draw(&mut random);
        let call = match random.weighted(&program.mix) {
            0 => Call::Increment {
                key,
                // Also down, and by nothing.
                delta: random.below(21) as i64 - 7,
            },
            _ => Call::Count { key },
        };
        // What came of it is in the history.
        drop(caller.call(call).await);
    }
}
