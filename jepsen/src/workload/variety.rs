//! Variety: what the other programs do not call. Transactions of several operations with conditions of all kinds, ranges page by page,
//! forwards and backwards, with values and without, at the newest revision and at older ones; consumers that begin at a revision, are
//! reset and deleted; watches of whole shards without values beside those of partitions.
//!
//! Only transactions change its keys, and each list of operations that changes something puts a value that nobody else puts: so what
//! becomes of a transaction can be told from the values that it left. Each range is read again as a whole at the same revision.

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    Load, Place,
    caller::Caller,
    join::join_all,
    mover::Mover,
    perform::Result,
    place::Ends,
    random::Random,
    stop::Stop,
    watcher::{Manner, Watcher},
};
use crate::{
    check,
    history::{Action, Answer, Call, Condition, Is, Mode, Pages, Reply, Row, Side, Txn},
};

/// Streams of chance of those that are not clients begin here.
const WATCHERS: u32 = 1_000;
const KEY_WATCHERS: u32 = 2_000;
const MOVERS: u32 = 3_000;
/// How far back a read of an older revision looks at most.
const BACK: u64 = 60;

/// Its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Clients.
    pub clients: u32,
    /// Partitions.
    pub partitions: u32,
    /// Keys of each partition.
    pub keys: u32,
    /// Mean microseconds between two operations of a client.
    pub pause_us: u64,
    /// Mean milliseconds between the lives of two consumers of a shard.
    pub move_ms: u64,
    /// Weights of transactions and of ranges.
    pub mix: [u32; 2],
}

impl Default for Program {
    fn default() -> Self {
        Self {
            clients: 4,
            partitions: 2,
            keys: 9,
            pause_us: 15_000,
            move_ms: 500,
            mix: [70, 30],
        }
    }
}

impl Program {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            clients: random.range(2, 6) as u32,
            partitions: random.range(1, 4) as u32,
            keys: random.range(3, 14) as u32,
            pause_us: random.range(4_000, 50_000),
            move_ms: random.range(100, 3_000),
            mix: [random.range(30, 90) as u32, random.range(10, 60) as u32],
        }
    }

    /// What is to be checked.
    pub fn checks(&self) -> &'static [check::Workload] {
        &[check::Workload::Variety, check::Workload::Watch]
    }
}

/// It runs.
pub(super) struct Running {
    program: Program,
    place: Place,
    watchers: Vec<(u32, Watcher)>,
    /// By shard.
    key_watchers: Vec<(u32, Watcher)>,
    movers: Vec<Mover>,
}

impl Running {
    pub(super) fn new(program: Program, place: Place) -> Self {
        let manner = Manner {
            lasts: Duration::from_secs(5),
            pause: Duration::ZERO,
            anywhere: false,
        };
        let watchers = place.partitions(program.partitions).zip(WATCHERS..);
        let watchers = watchers.map(|(partition, number)| {
            let random = place.random(number);
            (partition, Watcher::new(&place.env, partition, manner, random, 0))
        });
        let shard_of = &place.env.shard_of;
        // A partition of each shard.
        let shards: BTreeMap<u32, u32> = place
            .partitions(program.partitions)
            .map(|partition| (shard_of(partition), partition))
            .collect();
        let key_watchers = shards.keys().zip(KEY_WATCHERS..);
        let key_watchers = key_watchers.map(|(shard, number)| {
            let random = place.random(number);
            (*shard, Watcher::keys(&place.env, *shard, manner, random))
        });
        let pause = Duration::from_millis(program.move_ms);
        let movers = shards.values().zip(0..).map(|(partition, number)| {
            let random = place.random(MOVERS + number);
            Mover::new(&place.env, (place.index(), number), *partition, random, pause)
        });
        Self {
            watchers: watchers.collect(),
            key_watchers: key_watchers.collect(),
            movers: movers.collect(),
            program,
            place,
        }
    }
}

impl Load for Running {
    fn work<'a>(&'a mut self, stop: &'a Stop) -> BoxFuture<'a, ()> {
        let (program, place) = (&self.program, &self.place);
        let watchers = self.watchers.iter_mut().chain(&mut self.key_watchers);
        let movers = self.movers.iter_mut();
        Box::pin(async move {
            let clients = (0..program.clients).map(|number| {
                let client = Client {
                    program,
                    first: place.partitions(program.partitions).start,
                    caller: Caller::of_number(&place.env, number),
                    random: place.random(number),
                    rows: BTreeMap::new(),
                };
                Box::pin(client.work(stop))
            });
            let watchers = watchers.map(|(_, watcher)| Box::pin(watcher.work(stop)));
            let movers = movers.map(|mover| Box::pin(mover.work(stop)));
            futures::join!(join_all(clients), join_all(watchers), join_all(movers));
        })
    }

    fn finals(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for mover in &mut self.movers {
                mover.finish().await;
            }
            self.place.read_all(self.program.partitions).await;
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
            for (shard, watcher) in &mut self.key_watchers {
                watcher.drain(ends.shard(*shard)).await;
            }
        })
    }
}

struct Client<'a> {
    program: &'a Program,
    /// The first partition.
    first: u32,
    caller: Caller,
    random: Random,
    /// What it found last, by partition and key.
    rows: BTreeMap<(u32, u32), Row>,
}

impl Client<'_> {
    async fn work(mut self, stop: &Stop) {
        let pause = Duration::from_micros(self.program.pause_us);
        while stop.pause(self.random.exponential(pause)).await {
            let partition = self.first + self.random.below_u32(self.program.partitions.max(1));
            match self.random.weighted(&self.program.mix) {
                0 => self.transact(partition).await,
                _ => self.read(partition).await,
            }
        }
    }

    async fn transact(&mut self, partition: u32) {
        let txn = self.txn(partition);
        let result = self.caller.call(Call::Txn(txn.clone())).await;
        let Ok(Reply::Txn(done)) = result else {
            return;
        };
        for (action, answer) in txn.branch(done.succeeded).iter().zip(&done.answers) {
            if let (Action::Get { key }, Answer::Row { row }) = (action, answer) {
                match row {
                    Some(row) => self.rows.insert((partition, *key), *row),
                    None => self.rows.remove(&(partition, *key)),
                };
            }
        }
    }

    fn key(&mut self) -> u32 {
        self.random.below_u32(self.program.keys.max(1))
    }

    fn txn(&mut self, partition: u32) -> Txn {
        let conditions = self.random.range(1, 4);
        let conditions = (0..conditions).map(|_| self.condition(partition)).collect();
        let is_read = self.random.percent(10);
        Txn {
            partition,
            conditions,
            then: self.actions(is_read),
            or_else: self.actions(is_read),
        }
    }

    /// Holds about as often as not: on what was found last, or close to it.
    fn condition(&mut self, partition: u32) -> Condition {
        let key = self.key();
        let known = self.rows.get(&(partition, key)).copied();
        let sides = [
            Side::Value,
            Side::Version,
            Side::CreateRev,
            Side::ModRev,
            Side::Exists,
        ];
        let side = sides[self.random.below(5) as usize];
        let is = [Is::Equal, Is::Other, Is::Less, Is::Greater][self.random.below(4) as usize];
        let head = self.caller.known(partition);
        let number = match side {
            Side::Value => known.map_or(head, |row| row.value),
            Side::Version => known.map_or(0, |row| row.version),
            Side::CreateRev => known.map_or(0, |row| row.create_rev),
            Side::ModRev => known.map_or(0, |row| row.mod_rev),
            Side::Exists => {
                return Condition {
                    key,
                    side,
                    is: if self.random.percent(50) {
                        Is::Equal
                    } else {
                        Is::Other
                    },
                    number: 1,
                };
            }
        };
        let near = number.saturating_add(1).saturating_sub(self.random.below(3));
        Condition {
            key,
            side,
            is,
            number: if is == Is::Equal { number } else { near },
        }
    }

    /// Reads of some keys, and if wanted changes of others, a put among them; no key is changed twice.
    fn actions(&mut self, is_read: bool) -> Vec<Action> {
        let mut actions: Vec<Action> = Vec::new();
        let mut keys: Vec<u32> = (0..self.program.keys.max(1)).collect();
        let changes = match is_read || self.random.percent(20) {
            true => 0,
            false => self.random.range(1, 4).min(keys.len() as u64),
        };
        for nth in 0..changes {
            let key = keys.swap_remove(self.random.below(keys.len() as u64) as usize);
            actions.push(match self.random.below(3) {
                0 if nth > 0 => Action::Delete { key },
                1 if nth > 0 => Action::Add {
                    key,
                    delta: self.random.below(9) as i64 - 4,
                },
                _ => Action::Put {
                    key,
                    value: self.caller.env.recorder.unique(),
                },
            });
        }
        for _ in 0..self.random.range(1, 4) {
            let at = self.random.below(actions.len() as u64 + 1) as usize;
            actions.insert(at, Action::Get { key: self.key() });
        }
        actions
    }

    /// Reads a range page by page, and again as a whole.
    async fn read(&mut self, partition: u32) {
        let keys = self.program.keys.max(1);
        let known = self.caller.known(partition);
        let from = self.random.below_u32(keys) * self.random.below_u32(2);
        let pages = Pages {
            partition,
            from,
            to: keys - self.random.below_u32(keys - from) * self.random.below_u32(2),
            limit: self.random.range(1, 5) as u32,
            reverse: self.random.percent(50),
            keys_only: self.random.percent(30),
            mode: match self.random.below(4) {
                0 if known > 0 => Mode::At(known - self.random.below(known.min(BACK))),
                1 => Mode::AtLeast(known),
                _ => Mode::Linearizable,
            },
        };
        let result = self.caller.call(Call::Pages(pages)).await;
        let Ok(Reply::Pages(all)) = &result else {
            return;
        };
        if all.revision == 0 {
            // Nothing is stored in the shard yet, and to ask for revision 0 is to ask for the newest.
            return;
        }
        let mode = Mode::At(all.revision);
        let again = match self.random.below(3) {
            0 => Call::Scan { partition, mode },
            1 => Call::Pages(Pages {
                limit: 0,
                reverse: false,
                keys_only: false,
                mode,
                ..pages
            }),
            _ => Call::Pages(Pages {
                limit: self.random.range(1, 5) as u32,
                reverse: !pages.reverse,
                keys_only: false,
                mode,
                ..pages
            }),
        };
        let is_new = !matches!(pages.mode, Mode::At(_));
        if is_new && !pages.keys_only {
            for row in all.rows() {
                self.rows.insert((partition, row.key), row.row);
            }
        }
        // It may be compacted meanwhile.
        let again: Result<Reply> = self.caller.call(again).await;
        drop(again);
    }
}
