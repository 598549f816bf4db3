//! Sets, whose elements are keys that are each written once, and lists that grow by appends.
//!
//! Sets are in partitions of their own, and new ones are begun when they have become large: so there are always some that grow. Each value
//! is written once.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    Load, Place, caller::Caller, join::join_all, keys::Keys, place::PARTITIONS, random::Random,
    register::weak_mode, stop::Stop,
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
    /// Partitions with a set that grows.
    pub sets: u32,
    /// Partitions with lists.
    pub partitions: u32,
    /// Lists of each partition at a time.
    pub lists: u32,
    /// Draws of a list before it is left behind.
    pub length: u64,
    /// Elements of these sets; then others are begun.
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

    /// Partitions that sets may have, and those of the lists.
    fn partitions(&self) -> (Range<u32>, Range<u32>) {
        let all = self.place.partitions(PARTITIONS);
        let middle = all.start + self.program.partitions.min(PARTITIONS - 1);
        (middle..all.end, all.start..middle)
    }
}

/// The sets of a program, one generation after the other.
#[derive(Debug)]
struct Sets {
    partitions: Range<u32>,
    /// Sets that grow at a time.
    sets: u32,
    /// Elements of a generation.
    elements: u64,
    added: AtomicU64,
}

impl Sets {
    fn new(partitions: Range<u32>, program: &Program) -> Self {
        Self {
            sets: program.sets.clamp(1, partitions.len() as u32),
            partitions,
            elements: program.elements.max(1),
            added: AtomicU64::new(0),
        }
    }

    /// Those that grow now. The last ones grow for ever.
    fn growing(&self) -> Range<u32> {
        let generations = self.partitions.len() as u32 / self.sets;
        let generation = self.added.load(Ordering::Relaxed) / self.elements;
        let generation = generation.min(u64::from(generations) - 1) as u32;
        let first = self.partitions.start + generation * self.sets;
        first..first + self.sets
    }

    /// Where to add an element.
    fn add(&self, random: &mut Random) -> u32 {
        let growing = self.growing();
        self.added.fetch_add(1, Ordering::Relaxed);
        growing.start + random.below_u32(self.sets)
    }

    /// Which one to look at: one that grows, or now and then one that did.
    fn look(&self, random: &mut Random) -> u32 {
        let growing = self.growing();
        match random.percent(25) {
            true => self.partitions.start + random.below_u32(growing.end - self.partitions.start),
            false => growing.start + random.below_u32(self.sets),
        }
    }
}

impl Load for Running {
    fn work<'a>(&'a mut self, stop: &'a Stop) -> BoxFuture<'a, ()> {
        let (sets, lists) = self.partitions();
        let (program, place) = (&self.program, &self.place);
        Box::pin(async move {
            let lists = Keys::new(lists, program.lists, 0, program.length);
            let sets = Sets::new(sets, program);
            let clients = (0..program.clients).map(|number| {
                let client = Client {
                    program,
                    sets: &sets,
                    lists: &lists,
                    caller: Caller::of_number(&place.env, number),
                    random: place.random(number),
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
            let elements = self.place.env.recorder.changed_keys(sets);
            let begun: BTreeSet<u32> = elements.iter().map(|key| key.partition).collect();
            for partition in begun {
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
    sets: &'a Sets,
    lists: &'a Keys,
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
        let list = self.lists.draw(&mut self.random);
        let value = self.caller.env.recorder.unique();
        match self.random.weighted(&self.program.mix) {
            0 => Call::Write {
                key: Key {
                    partition: self.sets.add(&mut self.random),
                    key: value as u32,
                },
                value,
                ttl_ms: 0,
                lease: 0,
            },
            1 => Call::Scan {
                partition: self.sets.look(&mut self.random),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_sets_are_begun_when_they_are_large() {
        let program = Program {
            sets: 2,
            elements: 10,
            ..Program::default()
        };
        let sets = Sets::new(100..107, &program);
        let mut random = Random::new(1, &[]);
        for generation in [100..102, 102..104, 104..106] {
            for _ in 0..10 {
                let added = sets.add(&mut random);
                assert!(generation.contains(&added), "{added} {generation:?}");
            }
        }
        let looked: BTreeSet<u32> = (0..200).map(|_| sets.look(&mut random)).collect();
        assert_eq!(looked, (100..106).collect());
        assert!((104..106).contains(&sets.add(&mut random)));
    }
}
