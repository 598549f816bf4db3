//! Watches: writers that put, delete and append, and several watchers that break off, resume, go back, read slowly, and watch anywhere.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    Load, Place,
    caller::Caller,
    join::join_all,
    place::Ends,
    random::Random,
    stop::Stop,
    watcher::{Manner, Watcher},
};
use crate::{
    check,
    history::{Call, Key, Mode},
};

/// Streams of chance of the watchers begin here.
const WATCHERS: u32 = 1_000;

/// Its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Clients that write.
    pub clients: u32,
    /// Partitions.
    pub partitions: u32,
    /// Keys of each partition.
    pub keys: u32,
    /// Watchers of each partition: each second one watches anywhere, each third one reads slowly.
    pub watchers: u32,
    /// Mean milliseconds after which a watcher breaks off.
    pub lasts_ms: u64,
    /// Mean milliseconds for which a slow watcher does not read after each batch.
    pub slow_ms: u64,
    /// Mean microseconds between two operations of a client.
    pub pause_us: u64,
    /// Weights of writes, deletes, appends.
    pub mix: [u32; 3],
}

impl Default for Program {
    fn default() -> Self {
        Self {
            clients: 4,
            partitions: 2,
            keys: 8,
            watchers: 3,
            lasts_ms: 4_000,
            slow_ms: 300,
            pause_us: 15_000,
            mix: [60, 20, 20],
        }
    }
}

impl Program {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            clients: random.range(1, 6) as u32,
            partitions: random.range(1, 4) as u32,
            keys: random.range(1, 30) as u32,
            watchers: random.range(1, 5) as u32,
            lasts_ms: random.range(200, 20_000),
            slow_ms: random.range(10, 2_000),
            pause_us: random.range(2_000, 50_000),
            mix: [
                random.range(10, 80) as u32,
                random.below_u32(40),
                random.below_u32(40),
            ],
        }
    }

    /// What is to be checked.
    pub fn checks(&self) -> &'static [check::Workload] {
        match self.mix {
            [.., 0] => &[check::Workload::Watch],
            _ => &[check::Workload::Watch, check::Workload::List],
        }
    }
}

/// It runs.
pub(super) struct Running {
    program: Program,
    place: Place,
    watchers: Vec<(u32, Watcher)>,
}

impl Running {
    pub(super) fn new(program: Program, place: Place) -> Self {
        let partitions = place.partitions(program.partitions);
        let all = partitions.flat_map(|partition| (1..=program.watchers).map(move |nth| (partition, nth)));
        let watchers = all.zip(WATCHERS..).map(|((partition, nth), number)| {
            let manner = Manner {
                lasts: Duration::from_millis(program.lasts_ms),
                pause: match nth % 3 {
                    0 => Duration::from_millis(program.slow_ms),
                    _ => Duration::ZERO,
                },
                anywhere: nth % 2 == 0,
            };
            (
                partition,
                Watcher::new(&place.env, partition, manner, place.random(number), 0),
            )
        });
        Self {
            watchers: watchers.collect(),
            program,
            place,
        }
    }
}

impl Load for Running {
    fn work<'a>(&'a mut self, stop: &'a Stop) -> BoxFuture<'a, ()> {
        let (program, place, watchers) = (&self.program, &self.place, &mut self.watchers);
        Box::pin(async move {
            let clients = (0..program.clients).map(|number| Box::pin(write(program, place, number, stop)));
            let watchers = watchers
                .iter_mut()
                .map(|(_, watcher)| Box::pin(watcher.work(stop)));
            futures::join!(join_all(clients), join_all(watchers));
        })
    }

    fn finals(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut caller = Caller::new(&self.place.env);
            let partitions = self.place.partitions(self.program.partitions);
            for key in self.place.env.recorder.changed_keys(partitions) {
                match key.key % 2 {
                    0 => caller.final_read(key).await,
                    _ => {
                        let mode = Mode::Linearizable;
                        caller.insist(&Call::List { list: key, mode }).await;
                    }
                }
            }
        })
    }

    fn mark(&mut self) -> BoxFuture<'_, Ends> {
        Box::pin(self.place.mark(self.program.partitions))
    }

    fn drain<'a>(&'a mut self, ends: &'a Ends) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for (partition, watcher) in &mut self.watchers {
                watcher.drain(ends.partition(*partition)).await;
            }
        })
    }
}

/// Keys with an even number are registers, those with an odd one lists.
async fn write(program: &Program, place: &Place, number: u32, stop: &Stop) {
    let (mut caller, mut random) = (Caller::new(&place.env), place.random(number));
    let partitions = place.partitions(program.partitions);
    let pause = Duration::from_micros(program.pause_us);
    while stop.pause(random.exponential(pause)).await {
        let register = Key {
            partition: partitions.start + random.below_u32(partitions.len() as u32),
            key: random.below_u32(program.keys.max(1)) * 2,
        };
        let value = place.env.recorder.unique();
        let call = match random.weighted(&program.mix) {
            0 => Call::Write {
                key: register,
                value,
                ttl_ms: 0,
                lease: 0,
            },
            1 => Call::Delete { key: register },
            _ => Call::Append {
                list: Key {
                    key: register.key % 4 + 1,
                    ..register
                },
                value,
            },
        };
        // What came of it is in the history.
        drop(caller.call(call).await);
    }
}
