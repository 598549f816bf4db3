//! Keys that end: with a TTL, or with a lease that is kept alive, revoked, or left to end. Watches see them go.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{
    Load, Place,
    caller::Caller,
    join::join_all,
    keys::Keys,
    perform::{Failed, Result},
    place::Ends,
    random::Random,
    stop::Stop,
    watcher::{Manner, Watcher},
};
use crate::{
    check,
    history::{Call, Key, Mode, Reply},
};

/// Streams of chance of the watchers begin here.
const WATCHERS: u32 = 1_000;
/// What must have ended is gone after this time.
const SLACK: Duration = Duration::from_secs(5);
/// Leases that a client has at most.
const LEASES: usize = 3;

/// Its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Clients.
    pub clients: u32,
    /// Partitions.
    pub partitions: u32,
    /// Keys of each partition at a time.
    pub keys: u32,
    /// Operations on a key before it is left behind.
    pub rotate: u64,
    /// Longest TTL of a key, in milliseconds.
    pub ttl_ms: u64,
    /// Longest TTL of a lease, in milliseconds.
    pub lease_ms: u64,
    /// Mean microseconds between two operations of a client.
    pub pause_us: u64,
    /// Weights of reads, writes with a TTL, writes with a lease, writes without either, deletes, grants, keep-alives, revocations.
    pub mix: [u32; 8],
}

impl Default for Program {
    fn default() -> Self {
        Self {
            clients: 4,
            partitions: 2,
            keys: 5,
            rotate: 40,
            ttl_ms: 4_000,
            lease_ms: 6_000,
            pause_us: 30_000,
            mix: [40, 15, 15, 3, 4, 6, 14, 3],
        }
    }
}

impl Program {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            clients: random.range(1, 6) as u32,
            partitions: random.range(1, 4) as u32,
            keys: random.range(1, 12) as u32,
            rotate: random.range(10, 80),
            ttl_ms: random.range(500, 10_000),
            lease_ms: random.range(1_000, 15_000),
            pause_us: random.range(5_000, 80_000),
            mix: [
                random.range(10, 60) as u32,
                random.range(1, 30) as u32,
                random.range(1, 30) as u32,
                random.below_u32(10),
                random.below_u32(10),
                random.range(1, 12) as u32,
                random.below_u32(30),
                random.below_u32(8),
            ],
        }
    }

    /// What is to be checked.
    pub fn checks(&self) -> &'static [check::Workload] {
        &[check::Workload::Lease, check::Workload::Watch]
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
        let manner = Manner {
            lasts: Duration::from_secs(10),
            pause: Duration::ZERO,
            anywhere: true,
        };
        let partitions = place.partitions(program.partitions).zip(WATCHERS..);
        let watchers = partitions.map(|(partition, number)| {
            let watcher = Watcher::new(&place.env, partition, manner, place.random(number), 0);
            (partition, watcher)
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
        let partitions = place.partitions(program.partitions);
        Box::pin(async move {
            let keys = Keys::new(partitions, program.keys, 0, program.rotate);
            let clients = (0..program.clients).map(|number| {
                let client = Client {
                    program,
                    keys: &keys,
                    caller: Caller::new(&place.env),
                    random: place.random(number),
                    leases: Vec::new(),
                };
                Box::pin(client.work(stop))
            });
            let watchers = watchers
                .iter_mut()
                .map(|(_, watcher)| Box::pin(watcher.work(stop)));
            futures::join!(join_all(clients), join_all(watchers));
        })
    }

    fn settle(&mut self) -> BoxFuture<'_, ()> {
        let longest = self.program.ttl_ms.max(self.program.lease_ms);
        Box::pin(sleep(Duration::from_millis(longest) + SLACK))
    }

    fn finals(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut caller = Caller::new(&self.place.env);
            let partitions = self.place.partitions(self.program.partitions);
            for key in self.place.env.recorder.changed_keys(partitions) {
                caller.final_read(key).await;
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

struct Client<'a> {
    program: &'a Program,
    keys: &'a Keys,
    caller: Caller,
    random: Random,
    /// Leases that it believes to have: partition and id.
    leases: Vec<(u32, u64)>,
}

impl Client<'_> {
    async fn work(mut self, stop: &Stop) {
        let pause = Duration::from_micros(self.program.pause_us);
        while stop.pause(self.random.exponential(pause)).await {
            let call = self.call();
            let result = self.caller.call(call.clone()).await;
            self.learn(&call, &result);
        }
    }

    fn call(&mut self) -> Call {
        let key = self.keys.draw(&mut self.random);
        let partition = key.partition;
        let held = self
            .leases
            .get(self.random.below(LEASES as u64) as usize)
            .copied();
        match (self.random.weighted(&self.program.mix), held) {
            (1, _) => {
                let ttl_ms = self.random.range(100, self.program.ttl_ms.max(101));
                self.write(key, ttl_ms, 0)
            }
            (2, Some((partition, lease))) => self.write(Key { partition, ..key }, 0, lease),
            (3, _) => self.write(key, 0, 0),
            (4, _) => Call::Delete { key },
            (5, _) if self.leases.len() < LEASES => Call::Grant {
                partition,
                ttl_ms: self.random.range(500, self.program.lease_ms.max(501)),
            },
            (6, Some((partition, lease))) => Call::KeepAlive { partition, lease },
            (7, Some((partition, lease))) => Call::Revoke { partition, lease },
            _ => Call::Read {
                key,
                mode: Mode::Linearizable,
            },
        }
    }

    fn write(&self, key: Key, ttl_ms: u64, lease: u64) -> Call {
        Call::Write {
            key,
            value: self.caller.env.recorder.unique(),
            ttl_ms,
            lease,
        }
    }

    fn learn(&mut self, call: &Call, result: &Result<Reply>) {
        match (call, result) {
            (Call::Grant { partition, .. }, Ok(Reply::Lease { lease, .. })) => {
                self.leases.push((*partition, *lease));
            }
            // Of one that was revoked it is told when it uses it once more.
            (Call::Revoke { lease, .. } | Call::KeepAlive { lease, .. }, Err(_)) => {
                self.leases.retain(|(_, held)| held != lease);
            }
            (Call::Write { lease, .. }, Err(Failed::Error(error))) if *lease != 0 && !error.is_unknown() => {
                self.leases.retain(|(_, held)| held != lease);
            }
            _ => {}
        }
    }
}
