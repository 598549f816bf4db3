//! Sessions: clients that read at any replica at least what they were told before, and so never go back; clients that do so through the
//! client library's near-caches; and clients that read what is fresh enough, or whatever is there.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Load, Place, caller::Caller, join::join_all, keys::Keys, random::Random, stop::Stop};
use crate::{
    check,
    history::{Call, Mode},
};

/// Its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Clients with a session.
    pub sessions: u32,
    /// Clients without.
    pub others: u32,
    /// Clients that read through a near-cache what is fresh enough, or at least what they were told before.
    #[serde(default)]
    pub near: u32,
    /// Partitions.
    pub partitions: u32,
    /// Keys of each partition at a time.
    pub keys: u32,
    /// Operations on a key before it is left behind.
    pub rotate: u64,
    /// Most milliseconds that a bounded read allows.
    pub bound_ms: u64,
    /// Mean microseconds between two operations of a client.
    pub pause_us: u64,
    /// Weights of writes, reads, deletes, scans.
    pub mix: [u32; 4],
}

impl Default for Program {
    fn default() -> Self {
        Self {
            sessions: 3,
            others: 2,
            near: 2,
            partitions: 2,
            keys: 6,
            rotate: 300,
            bound_ms: 2_000,
            pause_us: 10_000,
            mix: [30, 55, 8, 4],
        }
    }
}

impl Program {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            sessions: random.range(1, 6) as u32,
            others: random.below_u32(4),
            near: random.below_u32(4),
            partitions: random.range(1, 4) as u32,
            keys: random.range(1, 20) as u32,
            rotate: random.range(100, 500),
            bound_ms: random.range(100, 10_000),
            pause_us: random.range(2_000, 40_000),
            mix: [
                random.range(5, 50) as u32,
                random.range(10, 80) as u32,
                random.below_u32(20),
                random.below_u32(8),
            ],
        }
    }

    /// What is to be checked.
    pub fn checks(&self) -> &'static [check::Workload] {
        &[check::Workload::Session, check::Workload::Register]
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
            let keys = Keys::new(partitions, program.keys, 20, program.rotate);
            let kinds = [
                (Kind::Session, program.sessions),
                (Kind::Other, program.others),
                (Kind::Near, program.near),
            ];
            let kinds = kinds
                .into_iter()
                .flat_map(|(kind, count)| (0..count).map(move |_| kind));
            let clients = kinds.zip(0..).map(|(kind, number)| {
                let client = Client {
                    program,
                    keys: &keys,
                    kind,
                    random: place.random(number),
                    caller: match kind {
                        Kind::Session => Caller::monotonic(&place.env),
                        Kind::Other => Caller::anywhere(&place.env),
                        Kind::Near => Caller::near(&place.env, Duration::from_millis(program.bound_ms)),
                    },
                };
                Box::pin(client.work(stop))
            });
            join_all(clients).await;
        })
    }

    fn finals(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.place.read_all(self.program.partitions))
    }
}

/// What a client's reads are to see.
#[derive(Clone, Copy)]
enum Kind {
    /// What it was told before.
    Session,
    /// What is fresh enough, or anything.
    Other,
    /// The same as one or the other, by a near-cache.
    Near,
}

struct Client<'a> {
    program: &'a Program,
    keys: &'a Keys,
    kind: Kind,
    caller: Caller,
    random: Random,
}

impl Client<'_> {
    async fn work(mut self, stop: &Stop) {
        let pause = Duration::from_micros(self.program.pause_us);
        while stop.pause(self.random.exponential(pause)).await {
            let call = self.call();
            // What came of it is in the history.
            drop(self.caller.call(call).await);
        }
    }

    fn call(&mut self) -> Call {
        let key = self.keys.draw(&mut self.random);
        let partition = key.partition;
        let is_bounded = !matches!(self.kind, Kind::Session) && self.random.percent(50);
        let mode = match self.kind {
            _ if is_bounded => Mode::Bounded(self.random.range(50, self.program.bound_ms.max(100))),
            Kind::Session | Kind::Near => Mode::AtLeast(self.caller.known(partition)),
            Kind::Other => Mode::Local,
        };
        match self.random.weighted(&self.program.mix) {
            0 => Call::Write {
                key,
                value: self.caller.env.recorder.unique(),
                ttl_ms: 0,
                lease: 0,
            },
            2 => Call::Delete { key },
            3 => Call::Scan { partition, mode },
            _ => Call::Read { key, mode },
        }
    }
}
