//! Registers: reads, writes, cas and deletes of one hot key and of many, reads of other modes, and scans. Each value is written once.

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    Load, Place, caller::Caller, join::join_all, keys::Keys, perform::Result, random::Random, stop::Stop,
};
use crate::{
    check,
    history::{Call, Key, Mode, Reply},
};

/// Its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Clients.
    pub clients: u32,
    /// Partitions.
    pub partitions: u32,
    /// Keys of each partition at a time, besides the hot one.
    pub keys: u32,
    /// How many of a hundred operations are on the hot key.
    pub hot_percent: u32,
    /// Operations on a key before it is left behind.
    pub rotate: u64,
    /// Mean microseconds between two operations of a client.
    pub pause_us: u64,
    /// How many of a hundred clients read at any replica.
    pub anywhere_percent: u32,
    /// Weights of linearizable reads, other reads, writes, cas, deletes, scans.
    pub mix: [u32; 6],
}

impl Default for Program {
    fn default() -> Self {
        Self {
            clients: 5,
            partitions: 2,
            keys: 10,
            hot_percent: 30,
            rotate: 500,
            pause_us: 10_000,
            anywhere_percent: 40,
            mix: [35, 10, 30, 15, 8, 2],
        }
    }
}

impl Program {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            clients: random.range(2, 9) as u32,
            partitions: random.range(1, 5) as u32,
            keys: random.range(1, 30) as u32,
            hot_percent: random.below_u32(80),
            rotate: random.range(100, 600),
            pause_us: random.range(1_000, 40_000),
            anywhere_percent: random.below_u32(101),
            mix: [
                random.range(5, 60) as u32,
                random.below_u32(20),
                random.range(5, 50) as u32,
                random.below_u32(40),
                random.below_u32(20),
                random.below_u32(5),
            ],
        }
    }

    /// What is to be checked.
    pub fn checks(&self) -> &'static [check::Workload] {
        // Without reads of other modes there would be nothing to check of them.
        match self.mix[1] {
            0 => &[check::Workload::Register],
            _ => &[check::Workload::Register, check::Workload::Session],
        }
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
        let program = &self.program;
        let partitions = self.place.partitions(program.partitions);
        let place = &self.place;
        Box::pin(async move {
            let keys = Keys::new(partitions, program.keys, program.hot_percent, program.rotate);
            let clients = (0..program.clients).map(|number| {
                let mut random = place.random(number);
                let caller = match random.percent(program.anywhere_percent) {
                    true => Caller::anywhere(&place.env),
                    false => Caller::new(&place.env),
                };
                let client = Client {
                    program,
                    keys: &keys,
                    caller,
                    random,
                    values: BTreeMap::new(),
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

struct Client<'a> {
    program: &'a Program,
    keys: &'a Keys,
    caller: Caller,
    random: Random,
    /// What it believes to be there.
    values: BTreeMap<Key, u64>,
}

impl Client<'_> {
    async fn work(mut self, stop: &Stop) {
        let pause = Duration::from_micros(self.program.pause_us);
        while stop.pause(self.random.exponential(pause)).await {
            let key = self.keys.draw(&mut self.random);
            let call = self.call(key);
            let wrote = written(&call);
            let is_old = matches!(
                call,
                Call::Read {
                    mode: Mode::At(_),
                    ..
                }
            );
            let result = self.caller.call(call).await;
            if !is_old {
                self.learn(key, wrote, &result);
            }
        }
    }

    fn call(&mut self, key: Key) -> Call {
        let value = || self.caller.env.recorder.unique();
        match (self.random.weighted(&self.program.mix), self.values.get(&key)) {
            (0, _) => Call::Read {
                key,
                mode: Mode::Linearizable,
            },
            (1, _) => Call::Read {
                key,
                mode: weak_mode(&mut self.random, self.caller.known(key.partition)),
            },
            (3, Some(from)) => Call::Cas {
                key,
                from: *from,
                to: value(),
            },
            (4, _) => Call::Delete { key },
            (5, _) => Call::Scan {
                partition: key.partition,
                mode: Mode::Linearizable,
            },
            _ => Call::Write {
                key,
                value: value(),
                ttl_ms: 0,
                lease: 0,
            },
        }
    }

    fn learn(&mut self, key: Key, wrote: Option<u64>, result: &Result<Reply>) {
        let value = match result {
            Ok(Reply::Row { row, .. }) => row.map(|row| row.value),
            Ok(Reply::Written { .. }) => wrote,
            Ok(Reply::Items { .. }) => return,
            _ => None,
        };
        match value {
            Some(value) => self.values.insert(key, value),
            None => self.values.remove(&key),
        };
    }
}

fn written(call: &Call) -> Option<u64> {
    match call {
        Call::Write { value, .. } | Call::Cas { to: value, .. } => Some(*value),
        _ => None,
    }
}

/// How far back a read of an older revision looks at most.
const BACK: u64 = 60;

/// How fresh a read must be that is not linearizable, or which older revision it is of; `known` is the newest revision that its client was
/// told.
pub(super) fn weak_mode(random: &mut Random, known: u64) -> Mode {
    match random.below(4) {
        3 if known > 0 => Mode::At(known - random.below(known.min(BACK))),
        0 => Mode::AtLeast(known),
        1 => Mode::Bounded(random.range(100, 3_000)),
        _ => Mode::Local,
    }
}
