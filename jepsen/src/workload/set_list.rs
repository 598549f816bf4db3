//! Sets, whose elements are keys that are each written once, and lists that grow by appends.
//!
//! Sets are in partitions of their own. Each value is written once.

use std::{ops::Range, time::Duration};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    Load, Place, caller::Caller, join::join_all, keys::Keys, random::Random, register::weak_mode, stop::Stop,
};
use crate::{
    check,
    history::{Call, Key, Mode},
};

/// Its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Clients.
    pub clients: u32,
    /// Partitions with a set.
    pub sets: u32,
    /// Partitions with lists.
    pub partitions: u32,
    /// Lists of each partition at a time.
    pub lists: u32,
    /// Draws of a list before it is left behind.
    pub length: u64,
    /// Elements of all sets; then no more are added.
    pub elements: u64,
    /// Mean microseconds between two operations of a client.
    pub pause_us: u64,
    /// Weights of adding an element, scanning a set, appending, reading a list, reading one in another mode.
    pub mix: [u32; 5],
}

impl Default for Program {
    fn default() -> Self {
        Self {
            clients: 4,
            sets: 1,
            partitions: 2,
            lists: 2,
            length: 150,
            elements: 1_500,
            pause_us: 15_000,
            mix: [30, 5, 45, 15, 5],
        }
    }
}

impl Program {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            clients: random.range(2, 7) as u32,
            sets: random.range(1, 3) as u32,
            partitions: random.range(1, 4) as u32,
            lists: random.range(1, 6) as u32,
            length: random.range(20, 300),
            elements: random.range(100, 2_000),
            pause_us: random.range(2_000, 50_000),
            mix: [
                random.below_u32(50),
                random.below_u32(8),
                random.range(10, 60) as u32,
                random.range(2, 25) as u32,
                random.below_u32(10),
            ],
        }
    }

    /// What is to be checked.
    pub fn checks(&self) -> &'static [check::Workload] {
        // Without reads of other modes there would be nothing to check of them.
        match self.mix[4] {
            0 => &[check::Workload::SetList],
            _ => &[check::Workload::SetList, check::Workload::Session],
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

    /// Partitions of the sets, and of the lists.
    fn partitions(&self) -> (Range<u32>, Range<u32>) {
        let all = self.place.partitions(self.program.sets + self.program.partitions);
        let middle = all.start + self.program.sets;
        (all.start..middle, middle..all.end)
    }
}

impl Load for Running {
    fn work<'a>(&'a mut self, stop: &'a Stop) -> BoxFuture<'a, ()> {
        let (sets, lists) = self.partitions();
        let (program, place) = (&self.program, &self.place);
        Box::pin(async move {
            let lists = Keys::new(lists, program.lists, 0, program.length);
            let clients = (0..program.clients).map(|number| {
                let client = Client {
                    program,
                    sets: sets.clone(),
                    lists: &lists,
                    caller: Caller::new(&place.env),
                    random: place.random(number),
                    elements: program.elements / u64::from(program.clients.max(1)),
                };
                Box::pin(client.work(stop))
            });
            join_all(clients).await;
        })
    }

    fn finals(&mut self) -> BoxFuture<'_, ()> {
        let (sets, lists) = self.partitions();
        let mode = Mode::Linearizable;
        Box::pin(async move {
            let mut caller = Caller::new(&self.place.env);
            for partition in sets {
                caller.insist(&Call::Scan { partition, mode }).await;
            }
            for list in self.place.env.recorder.changed_keys(lists) {
                caller.insist(&Call::List { list, mode }).await;
            }
        })
    }
}

struct Client<'a> {
    program: &'a Program,
    sets: Range<u32>,
    lists: &'a Keys,
    caller: Caller,
    random: Random,
    /// Elements that it may still add.
    elements: u64,
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
        let partition = self.sets.start + self.random.below_u32(self.sets.len() as u32);
        let list = self.lists.draw(&mut self.random);
        let value = self.caller.env.recorder.unique();
        match self.random.weighted(&self.program.mix) {
            0 if self.elements > 0 => {
                self.elements -= 1;
                Call::Write {
                    key: Key {
                        partition,
                        key: value as u32,
                    },
                    value,
                    ttl_ms: 0,
                    lease: 0,
                }
            }
            1 => Call::Scan {
                partition,
                mode: Mode::Linearizable,
            },
            3 => Call::List {
                list,
                mode: Mode::Linearizable,
            },
            4 => Call::List {
                list,
                mode: weak_mode(&mut self.random, self.caller.known(list.partition)),
            },
            _ => Call::Append { list, value },
        }
    }
}
