//! Workloads: clients that work while things go wrong, write down what they did and saw, and at the end read what the checkers need.
//!
//! A [`Spec`] says which programs run side by side, each in partitions of its own; it is drawn from a seed or written by hand, and can be
//! kept as JSON. A [`Run`] of it is told four things in turn: [`Run::setup`] while nothing goes wrong yet, [`Run::work`] until it is
//! stopped, [`Run::finish`] when all faults are over, [`Run::context`] for the checkers.
//!
//! They run on any transport of the client library, on real processes and on simulated ones alike. Time is what the runtime's timers make
//! it, chance is the seed's, and the history's clock is given.

mod bank;
mod caller;
mod consumer;
mod counter;
mod join;
mod keys;
mod lease;
mod mover;
pub mod names;
mod near;
mod owner;
mod perform;
mod place;
mod random;
mod recorder;
mod register;
mod replicas;
mod session;
mod set_list;
mod spec;
mod stop;
mod txn;
mod variety;
mod watch;
mod watcher;
mod ways;

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};

pub use self::{
    bank::Program as Bank,
    caller::{Clients, Env, ShardOf},
    consumer::Program as Consumer,
    counter::Program as Counter,
    lease::Program as Lease,
    random::Random,
    recorder::{Ending, Logger, Now, Recorder, name},
    register::Program as Register,
    replicas::{placement, replicas},
    session::Program as Session,
    set_list::Program as SetList,
    spec::{Program, Spec, shards},
    stop::Stop,
    variety::Program as Variety,
    watch::Program as Watch,
};
use self::{
    join::join_all,
    place::{Ends, Place},
};
use crate::{check::Context, history::Nanos};

/// Before the final reads: what was sent before the faults ended has arrived or never will.
const SETTLE: Duration = Duration::from_secs(6);

/// A program that runs.
trait Load: Send {
    /// Makes what must be there before the history begins.
    fn setup(&mut self) -> BoxFuture<'_, ()> {
        ready()
    }

    /// Works until it is told to stop.
    fn work<'a>(&'a mut self, stop: &'a Stop) -> BoxFuture<'a, ()>;

    /// Waits for what still goes on by itself.
    fn settle(&mut self) -> BoxFuture<'_, ()> {
        ready()
    }

    /// Makes the final reads.
    fn finals(&mut self) -> BoxFuture<'_, ()>;

    /// Marks the end of each partition that somebody follows.
    fn mark(&mut self) -> BoxFuture<'_, Ends> {
        Box::pin(std::future::ready(Ends::default()))
    }

    /// Follows all that it follows to the end.
    fn drain<'a>(&'a mut self, _: &'a Ends) -> BoxFuture<'a, ()> {
        ready()
    }
}

fn ready<'a>() -> BoxFuture<'a, ()> {
    Box::pin(std::future::ready(()))
}

/// What came of [`Run::finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// When it began, on the history's clock. `None`: the final reads were not answered in time.
    pub final_from: Option<Nanos>,
    /// All watches, consumers and sends have come to their end.
    pub drained: bool,
}

/// A spec on a cluster.
pub struct Run {
    spec: Spec,
    env: Env,
    loads: Vec<Box<dyn Load>>,
}

impl Run {
    /// Begins nothing yet.
    pub fn new(spec: &Spec, env: Env) -> Self {
        let clients = env.clients.with_timeout(Duration::from_millis(spec.timeout_ms));
        let env = Env { clients, ..env };
        let programs = spec.programs.iter().zip(0..);
        Self {
            loads: programs
                .map(|(program, index)| program.load(Place::new(&env, index)))
                .collect(),
            spec: spec.clone(),
            env,
        }
    }

    /// Makes what must be there before the history begins. Repeats what fails, without end: nothing should go wrong yet.
    pub async fn setup(&mut self) {
        for load in &mut self.loads {
            load.setup().await;
        }
    }

    /// Works until it is stopped. Returns when all clients have come to rest, at most a request's timeout later.
    pub async fn work(&mut self, stop: &Stop) {
        join_all(self.loads.iter_mut().map(|load| load.work(stop))).await;
    }

    /// Reads the final state and follows everything to its end. All faults must be over, and the cluster must have recovered. Takes at
    /// most `limit`.
    pub async fn finish(&mut self, limit: Duration) -> Finished {
        let from = self.env.recorder.now();
        let mut finished = Finished {
            final_from: None,
            drained: false,
        };
        let finishing = async {
            sleep(SETTLE).await;
            join_all(self.loads.iter_mut().map(|load| load.settle())).await;
            join_all(self.loads.iter_mut().map(|load| load.finals())).await;
            let mut ends = Ends::default();
            for marked in join_all(self.loads.iter_mut().map(|load| load.mark())).await {
                ends.merge(marked);
            }
            // Nothing changes any more: these are the last revisions of all.
            finished.final_from = Some(from);
            join_all(self.loads.iter_mut().map(|load| load.drain(&ends))).await;
        };
        finished.drained = timeout(limit, finishing).await.is_ok();
        finished
    }

    /// What the checkers need to know of it. The clocks' error, the committed log and the replicas' states are for the caller to add.
    pub fn context<'a>(&self, finished: Finished, shard_of: &'a dyn Fn(u32) -> u32) -> Context<'a> {
        Context {
            final_from: finished.final_from,
            drained: finished.drained,
            accounts: self.spec.accounts(),
            monotonic: self.env.recorder.monotonic(),
            ..Context::new(shard_of)
        }
    }

    /// How many calls of each kind ended how, by the names of both: `ok`, `fail`, `info`, `strange`.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.env.recorder.counts()
    }
}
