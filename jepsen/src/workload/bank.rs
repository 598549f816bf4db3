//! Accounts: transfers within a partition by one transaction, and between partitions by an idempotent saga of two.
//!
//! The first transaction of a send takes the money and writes an outbox row. A worker follows the shard's changes as a consumer; for each
//! outbox row that it is shown, the second transaction gives the money to the other account together with a row that remembers it, unless
//! that row is there. Only then does the worker acknowledge. A worker that is fenced or dies has its changes shown to the next one again.
//!
//! A part of the transfers reads first and then writes on the condition that nothing has changed, as a client without increments would.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use futures::future::BoxFuture;
use kvsvr_client::{Code, Compare, ConsumerStart, Error, Event, EventKind, Op, Txn};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{
    Load, Place,
    caller::{AGAIN, Caller, Env},
    join::join_all,
    names,
    owner::{self, Handler, Owner},
    perform::{self, Failed, Result, Sent},
    place::Ends,
    random::Random,
    stop::Stop,
    watcher::{self, Watcher},
};
use crate::{
    check,
    history::{Call, Key, Mode, Reply},
};

/// Streams of chance of those that are not clients begin here.
const WORKERS: u32 = 1_000;
const WATCHERS: u32 = 2_000;

/// Its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Clients.
    pub clients: u32,
    /// Partitions.
    pub partitions: u32,
    /// Accounts of each partition.
    pub accounts: u32,
    /// Money of each account at first.
    pub opening: u64,
    /// Most that is moved at once.
    pub largest: u64,
    /// How many of a hundred transfers read first and then write.
    pub optimistic_percent: u32,
    /// Workers that take the outbox of a shard from one another.
    pub workers: u32,
    /// Mean milliseconds for which a worker keeps it.
    pub tenure_ms: u64,
    /// Mean microseconds between two operations of a client.
    pub pause_us: u64,
    /// Weights of transfers, sends, reads of all accounts, reads of one.
    pub mix: [u32; 4],
}

impl Default for Program {
    fn default() -> Self {
        Self {
            clients: 4,
            partitions: 3,
            accounts: 5,
            opening: 100,
            largest: 40,
            optimistic_percent: 30,
            workers: 2,
            tenure_ms: 4_000,
            pause_us: 20_000,
            mix: [40, 30, 20, 10],
        }
    }
}

impl Program {
    /// Draws one.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            clients: random.range(2, 7) as u32,
            partitions: random.range(2, 6) as u32,
            accounts: random.range(2, 9) as u32,
            opening: random.range(10, 200),
            largest: random.range(1, 100),
            optimistic_percent: random.below_u32(80),
            workers: random.range(1, 4) as u32,
            tenure_ms: random.range(500, 10_000),
            pause_us: random.range(3_000, 60_000),
            mix: [
                random.range(5, 50) as u32,
                random.range(5, 50) as u32,
                random.range(5, 30) as u32,
                random.below_u32(15),
            ],
        }
    }

    /// What is to be checked.
    pub fn checks(&self) -> &'static [check::Workload] {
        use check::Workload;
        &[Workload::Bank, Workload::Consumer, Workload::Watch]
    }

    /// The accounts of these partitions with their money at first.
    pub(super) fn opening(&self, partitions: Range<u32>) -> BTreeMap<Key, u64> {
        let keys = partitions.flat_map(|partition| {
            let accounts = 0..self.accounts.max(2);
            accounts.map(move |key| Key { partition, key })
        });
        keys.map(|key| (key, self.opening)).collect()
    }
}

fn consumer_name(place: &Place) -> String {
    format!("bank{}", place.index())
}

/// It runs.
pub(super) struct Running {
    program: Program,
    place: Place,
    workers: Vec<Owner<Receiver>>,
    watchers: Vec<(u32, Watcher)>,
}

impl Running {
    pub(super) fn new(program: Program, place: Place) -> Self {
        let workers = place.shards(program.partitions).into_iter();
        let numbered = workers.flat_map(|shard| (0..program.workers.max(1)).map(move |_| shard));
        let manner = owner::Manner {
            lasts: Duration::from_millis(program.tenure_ms),
            rests: Duration::from_millis(program.tenure_ms / 4),
            acks_percent: 70,
        };
        let workers = numbered.zip(WORKERS..).map(|(shard, number)| {
            let name = consumer_name(&place);
            let receiver = Receiver {
                partitions: place.partitions(program.partitions),
            };
            Owner::new(&place.env, shard, name, manner, place.random(number), receiver)
        });
        Self {
            workers: workers.collect(),
            watchers: Vec::new(),
            program,
            place,
        }
    }
}

impl Load for Running {
    fn setup(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let manner = watcher::Manner {
                lasts: Duration::from_secs(5),
                pause: Duration::from_millis(20),
                anywhere: true,
            };
            let partitions = self.place.partitions(self.program.partitions);
            for (partition, number) in partitions.zip(WATCHERS..) {
                let accounts = self.program.opening(partition..partition + 1);
                open(&self.place.env, partition, &accounts).await;
                // The opening is no part of the history, so nobody watches it.
                let first = self.place.env.head(partition).await;
                let random = self.place.random(number);
                let watcher = Watcher::new(&self.place.env, partition, manner, random, first);
                self.watchers.push((partition, watcher));
            }
            // A consumer begins with the next change: with one that is opened beside the first sends, these would never arrive.
            let client = self.place.env.clients.next();
            let name = consumer_name(&self.place);
            for shard in self.place.shards(self.program.partitions) {
                while client
                    .consumer_open(shard, &name, ConsumerStart::Now)
                    .await
                    .is_err()
                {
                    sleep(AGAIN).await;
                }
            }
        })
    }

    fn work<'a>(&'a mut self, stop: &'a Stop) -> BoxFuture<'a, ()> {
        let (program, place) = (&self.program, &self.place);
        let (workers, watchers) = (&mut self.workers, &mut self.watchers);
        Box::pin(async move {
            let clients = (0..program.clients).map(|number| {
                let client = Client {
                    program,
                    partitions: place.partitions(program.partitions),
                    caller: Caller::of_number(&place.env, number),
                    random: place.random(number),
                };
                Box::pin(client.work(stop))
            });
            let workers = workers.iter_mut().map(|worker| Box::pin(worker.work(stop)));
            let watchers = watchers
                .iter_mut()
                .map(|(_, watcher)| Box::pin(watcher.work(stop)));
            futures::join!(join_all(clients), join_all(workers), join_all(watchers));
        })
    }

    fn settle(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Whatever was sent is before the marks.
            let ends = self.place.mark(self.program.partitions).await;
            for worker in &mut self.workers {
                worker.drain(&ends).await;
            }
        })
    }

    fn finals(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut caller = Caller::new(&self.place.env);
            for partition in self.place.partitions(self.program.partitions) {
                caller.insist(&Call::Balances { partition }).await;
            }
        })
    }

    fn mark(&mut self) -> BoxFuture<'_, Ends> {
        Box::pin(self.place.mark(self.program.partitions))
    }

    fn drain<'a>(&'a mut self, ends: &'a Ends) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // One after the other: each takes the outbox from the one before, and the last one has seen the end.
            for worker in &mut self.workers {
                worker.drain(ends).await;
            }
            for (partition, watcher) in &mut self.watchers {
                watcher.drain(ends.partition(*partition)).await;
            }
        })
    }
}

/// Opens the accounts of a partition, once.
async fn open(env: &Env, partition: u32, accounts: &BTreeMap<Key, u64>) {
    let mut txn = Txn::new().when(Compare::absent(names::key(0)));
    for (key, money) in accounts {
        txn = txn.then(Op::put(names::key(key.key), names::value(*money)));
    }
    let client = env.clients.next();
    while client
        .txn(&names::partition(partition), txn.clone())
        .await
        .is_err()
    {
        sleep(AGAIN).await;
    }
}

/// The second step of sends.
struct Receiver {
    partitions: Range<u32>,
}

impl Receiver {
    /// The send that the event shows, if it is one of this bank's. One of another form is written down as strange by who was shown it.
    fn sent(&self, event: &Event) -> Option<Sent> {
        let partition = names::partition_number(&event.partition)?;
        let is_ours = self.partitions.contains(&partition) && event.kind == EventKind::Put;
        let sent = Sent::decode(&event.kv.value)?;
        (is_ours && event.kv.key == names::outbox(sent.id)).then_some(sent)
    }
}

impl Handler for Receiver {
    fn handle<'a>(
        &'a mut self,
        caller: &'a mut Caller,
        event: &'a Event,
        stop: &'a Stop,
    ) -> BoxFuture<'a, bool> {
        let sent = self.sent(event);
        Box::pin(async move {
            let Some(Sent { id, from, to, amount }) = sent else {
                return true;
            };
            while caller.call(Call::Receive { from, to, amount, id }).await.is_err() {
                if !stop.pause(AGAIN).await {
                    return false;
                }
            }
            true
        })
    }
}

struct Client<'a> {
    program: &'a Program,
    partitions: Range<u32>,
    caller: Caller,
    random: Random,
}

impl Client<'_> {
    async fn work(mut self, stop: &Stop) {
        let pause = Duration::from_micros(self.program.pause_us);
        while stop.pause(self.random.exponential(pause)).await {
            let call = self.call();
            let optimistic = self.random.percent(self.program.optimistic_percent);
            // What came of it is in the history.
            drop(match call {
                Call::Transfer { .. } if optimistic => self.transfer(call).await,
                call => self.caller.call(call).await,
            });
        }
    }

    fn account(&mut self) -> Key {
        Key {
            partition: self.partitions.start + self.random.below_u32(self.partitions.len() as u32),
            key: self.random.below_u32(self.program.accounts.max(2)),
        }
    }

    fn call(&mut self) -> Call {
        let (from, mut to) = (self.account(), self.account());
        let amount = 1 + self.random.below(self.program.largest);
        let kind = self.random.weighted(&self.program.mix);
        match kind {
            1 if from.partition != to.partition => Call::Send {
                from,
                to,
                amount,
                id: self.caller.env.recorder.unique(),
            },
            2 => Call::Balances {
                partition: from.partition,
            },
            3 => Call::Read {
                key: from,
                mode: Mode::Linearizable,
            },
            _ => {
                if to.key == from.key {
                    to.key = (from.key + 1) % self.program.accounts.max(2);
                }
                Call::Transfer {
                    partition: from.partition,
                    from: from.key,
                    to: to.key,
                    amount,
                }
            }
        }
    }

    /// Reads both accounts, and writes them if they have not changed since.
    async fn transfer(&mut self, call: Call) -> Result<Reply> {
        let client = self.caller.client.clone();
        let Call::Transfer {
            partition,
            from,
            to,
            amount,
        } = call
        else {
            return Err(Error::definite(Code::Invalid, "no transfer").into());
        };
        let moving = async move {
            let partition = names::partition(partition);
            let read = |account| client.get(&partition, names::key(account));
            let (payer, payee) = (read(from).await, read(to).await);
            // Nothing has been sent that could change anything.
            let definite = |error: Error| match Failed::from(error) {
                Failed::Error(error) => Error::definite(error.code, error.message).into(),
                strange @ Failed::Strange(_) => strange,
            };
            let (payer, payee) = (payer.map_err(definite)?, payee.map_err(definite)?);
            let (Some(payer_kv), Some(payee_kv)) = (&payer.value, &payee.value) else {
                return Err(Failed::Strange("an account is not there".into()));
            };
            let (had, has) = (perform::number(payer_kv)?, perform::number(payee_kv)?);
            let Some(rest) = had.checked_sub(amount) else {
                let text = "there was not enough when it was read";
                return Err(Error::definite(Code::Refused, text).into());
            };
            let unchanged = |account, revision| Compare::mod_rev(names::key(account)).equals(revision);
            let txn = Txn::new()
                .when(unchanged(from, payer_kv.mod_rev))
                .when(unchanged(to, payee_kv.mod_rev))
                .then(Op::put(names::key(from), names::value(rest)))
                .then(Op::put(names::key(to), names::value(has.saturating_add(amount))));
            let reply = client.txn(&partition, txn).await?;
            match reply.succeeded {
                true => Ok(Reply::Written {
                    revision: reply.revision,
                    version: 0,
                }),
                false => Err(Error::definite(Code::Refused, "somebody else was faster").into()),
            }
        };
        self.caller.call_as(call, moving).await
    }
}
