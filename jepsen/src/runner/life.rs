//! One run: make the cluster, load under faults, recover, finish, stop.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kvsvr_client::{Client, ClientConfig, Code};
use tokio::{
    runtime::{Builder, Handle},
    task::{JoinHandle, block_in_place},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    cluster::{Cluster, KEEP_REVISIONS},
    judge::{About, Counts, Problem, Seen},
    logs,
    nemesis::{self, Arsenal, Injected, members},
    observe::Observer,
    plan::Plan,
    progress::{At, Progress},
    recheck::Facts,
    service,
};
use crate::{
    check::{Commit, Replica, WrongClock},
    history::{self, Event, Nanos, Process, Step},
    report::{Mark, NodeState},
    workload::{Clients, Env, Finished, Now, Program, Recorder, Run, ShardOf, Stop, replicas, shards},
};

/// Time that one call of an operator may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks of the supervisor.
const SUPERVISION: Duration = Duration::from_millis(100);
/// Time that the programs may take to make what they need.
const SETUP: Duration = Duration::from_secs(60);
/// Time in which everything must serve after all faults are over.
const RECOVERY: Duration = Duration::from_secs(60);
/// Time for the final reads and for all that is followed to come to its end.
const FINISH: Duration = Duration::from_secs(180);
/// Between two lines of progress.
const TICK: Duration = Duration::from_secs(1);
/// Partitions that a program may have, and the number of the first program's first one.
const PARTITIONS: u32 = 100;
/// By how much a clock of this machine may be off against itself, over the spans that are checked, and the rounding of milliseconds.
const CLOCK_ERROR_MS: u64 = 20;
/// In a load of so many milliseconds every rule of every checker meets something to look at.
pub(super) const DEMANDING_MS: u64 = 60_000;
/// Clients of the library that the programs' clients share. Each has connections of its own to all nodes.
const CLIENTS: usize = 8;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The history.
    pub events: Vec<Event>,
    /// How calls ended.
    pub counts: Counts,
    /// The same of each kind of call.
    pub calls: BTreeMap<&'static str, Counts>,
    /// What was done to the cluster.
    pub injected: Vec<Injected>,
    /// States of replicas.
    pub states: Vec<NodeState>,
    /// What happened on nodes.
    pub marks: Vec<Mark>,
    /// What went wrong with nodes.
    pub problems: Vec<Problem>,
    /// Changes of leader that were seen.
    pub elections: u64,
    /// What was seen of what nodes do by themselves.
    pub seen: Seen,
    /// Flipped bits that a node's check did not notice.
    pub bits_unnoticed: usize,
    /// From the end of all faults until all was served; `None`: it was not.
    pub final_recovery: Option<Duration>,
    /// It was told to end.
    pub interrupted: bool,
    /// When the load began, and when it ended.
    pub load: (Nanos, Nanos),
    /// When it was over.
    pub ended: Nanos,
    /// The committed log of all data shards, or why it is not known.
    pub log: Result<Vec<Commit>, String>,
    /// The wall clock when it began, since the epoch.
    pub began: Duration,
    finished: Finished,
    monotonic: BTreeSet<Process>,
    replicas: Vec<Replica>,
    placement: Option<Vec<(u64, u32)>>,
    shards: BTreeMap<u32, u32>,
}

impl Outcome {
    /// What the checkers need to know.
    pub fn facts(&self, plan: &Plan) -> Facts {
        let replica = |one: &Replica| (one.node, one.shard, one.applied, one.hash);
        Facts {
            workload: plan.workload.clone(),
            shards: self.shards.clone(),
            final_from: self.finished.final_from,
            drained: self.finished.drained,
            monotonic: self.monotonic.clone(),
            clock_error: CLOCK_ERROR_MS * 1_000_000,
            wrong_clocks: self.wrong_clocks(plan),
            disturbed: Some(self.disturbed()),
            faults: Some(self.faults()),
            keep_revisions: Some(KEEP_REVISIONS),
            demanding: plan.load_ms >= DEMANDING_MS,
            replicas: self.replicas.iter().map(replica).collect(),
            placement: self.placement.clone(),
        }
    }
}

impl Outcome {
    /// When faults held, and when nodes ended and started. A fault that may not have been undone holds for ever.
    fn disturbed(&self) -> Vec<(Nanos, Nanos)> {
        let fault = |one: &Injected| match one.outcome {
            nemesis::Outcome::Indeterminate(_) => (one.from, Nanos::MAX),
            _ => (one.from, one.to),
        };
        let done = |one: &&Injected| one.touched;
        let faults = self.injected.iter().filter(done).map(fault);
        let marks = self.marks.iter().map(|mark| (mark.time, mark.time));
        faults.chain(marks).collect()
    }

    /// When faults were under way.
    fn faults(&self) -> Vec<(Nanos, Nanos)> {
        let done = self.injected.iter().filter(|one| one.touched);
        done.map(|one| (one.from, one.to)).collect()
    }

    /// When clocks were wrong. A fault that may not have been undone holds for ever.
    fn wrong_clocks(&self, plan: &Plan) -> Vec<WrongClock> {
        let done = |one: &&Injected| one.touched;
        let wrong = |one: &Injected| {
            let span = (one.from, one.to);
            let wrong = plan.wrong_clock(one.fault, span)?;
            Some(match one.outcome {
                nemesis::Outcome::Indeterminate(_) => WrongClock {
                    to: Nanos::MAX,
                    ..wrong
                },
                _ => wrong,
            })
        };
        self.injected.iter().filter(done).filter_map(wrong).collect()
    }
}

/// A run that has not begun.
pub struct Life {
    plan: Plan,
    interrupt: Stop,
    now: Now,
    began: Duration,
}

/// What the parts of a run share.
struct Parts<'a> {
    cluster: &'a Arc<Cluster>,
    observer: Arc<Observer>,
    admin: Client,
    recorder: Recorder,
    shard_of: ShardOf,
}

impl Life {
    /// The clock of its history begins now.
    pub fn new(plan: Plan, interrupt: Stop) -> Self {
        let begin = std::time::Instant::now();
        let now: Now = Arc::new(move || Nanos::try_from(begin.elapsed().as_nanos()).unwrap_or(Nanos::MAX));
        Self {
            plan,
            interrupt,
            now,
            began: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
        }
    }

    /// The clock of its history.
    pub fn now(&self) -> Now {
        Arc::clone(&self.now)
    }

    /// Lives, on the calling thread, which is moved to where clients are.
    ///
    /// # Errors
    /// The harness failed. That the cluster did is in the outcome.
    pub fn live(self, cluster: &Arc<Cluster>, progress: &mut Progress) -> io::Result<Outcome> {
        cluster.world().enter()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("clients")
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(Box::pin(self.all(cluster, progress)));
        // Nothing may hold the cluster when this returns.
        runtime.shutdown_timeout(Duration::from_secs(5));
        outcome
    }

    async fn all(self, cluster: &Arc<Cluster>, progress: &mut Progress) -> io::Result<Outcome> {
        progress.phase("making the cluster");
        let (clients, admin) = start(cluster)?;
        service::bootstrap(cluster, &admin, self.plan.shards, self.plan.replication()).await?;
        let parts = Parts {
            cluster,
            observer: Arc::new(Observer::default()),
            shard_of: shards(&admin).await.map_err(io::Error::other)?,
            recorder: Recorder::new(self.now()),
            admin,
        };
        let mut run = Run::new(
            &self.plan.workload,
            Env {
                clients,
                recorder: parts.recorder.clone(),
                seed: self.plan.seed,
                shard_of: Arc::clone(&parts.shard_of),
            },
        );
        let setup = timeout(SETUP, run.setup()).await;
        setup.map_err(|_| io::Error::other("the programs could not make what they need"))?;

        let stop = Stop::new();
        let observing = tokio::spawn({
            let (cluster, admin, stop) = (Arc::clone(cluster), parts.admin.clone(), stop.clone());
            let observer = Arc::clone(&parts.observer);
            async move { observer.watch(cluster, admin, stop).await }
        });
        let supervising = tokio::spawn(supervise(Arc::clone(cluster), stop.clone()));
        progress.phase("load under faults");
        let (load, injected) = self.load(&parts, &mut run, progress).await;
        let (final_recovery, finished) = self.recover(&parts, &mut run, progress).await?;
        let (placement, replicas) = at_the_end(&parts.admin, finished).await;
        progress.phase("stopping the nodes");
        stop.set();
        end(observing).await?;
        end(supervising).await??;
        block_in_place(|| stop_and_look(cluster))?;
        let log = committed_log(&parts, self.plan.shards, &replicas).await;
        let [ok, fail, info] = parts.recorder.ended();
        let events = parts.recorder.events();
        Ok(Outcome {
            seen: Seen {
                snapshots: parts.observer.snapshots(),
                compactions: parts.observer.compactions(),
                compacted: events.iter().filter(|event| tells_of_compaction(event)).count(),
            },
            events,
            counts: Counts { ok, fail, info },
            calls: calls(&parts.recorder),
            injected,
            states: parts.observer.states(),
            marks: cluster.marks(),
            problems: cluster.problems(),
            elections: parts.observer.elections(),
            bits_unnoticed: cluster.bits_unnoticed(),
            final_recovery,
            interrupted: self.interrupt.is_set(),
            load,
            ended: cluster.time(),
            log,
            began: self.began,
            finished,
            monotonic: parts.recorder.monotonic(),
            replicas,
            placement,
            shards: shard_map(&self.plan, &parts.shard_of),
        })
    }

    /// Clients work while the plan is carried out.
    async fn load(
        &self,
        parts: &Parts<'_>,
        run: &mut Run,
        progress: &mut Progress,
    ) -> ((Nanos, Nanos), Vec<Injected>) {
        let arsenal = Arc::new(Arsenal::new(
            Arc::clone(parts.cluster),
            Arc::clone(&parts.observer),
            parts.admin.clone(),
            Handle::current(),
            self.interrupt.clone(),
        ));
        let (begun, from) = (Instant::now(), parts.cluster.time());
        let total = Duration::from_millis(self.plan.load_ms);
        let over = Stop::new();
        let faults = async {
            arsenal.carry_out(&self.plan, begun).await;
            self.interrupt.or(sleep_until(begun + total)).await;
            over.set();
        };
        let ticking = async {
            let mut before = 0;
            while over.or(sleep(TICK)).await.is_some() {
                let ended = parts.recorder.ended();
                progress.tick(&At {
                    elapsed: begun.elapsed(),
                    total,
                    ended,
                    rate: (ended[0] - before) as f64 / TICK.as_secs_f64(),
                    active: &arsenal.active(),
                });
                before = ended[0];
            }
        };
        futures::join!(Box::pin(run.work(&over)), Box::pin(faults), ticking);
        ((from, parts.cluster.time()), arsenal.injected())
    }

    /// Heals everything, waits until it is served, and has the programs come to their end. That it is not served is a problem of the
    /// cluster.
    async fn recover(
        &self,
        parts: &Parts<'_>,
        run: &mut Run,
        progress: &mut Progress,
    ) -> io::Result<(Option<Duration>, Finished)> {
        progress.phase("final recovery");
        block_in_place(|| parts.cluster.heal())?;
        let healed = Instant::now();
        if self.plan.nemeses.iter().any(|nemesis| nemesis.changes_members())
            && let Err(why) = members::mended(parts.cluster, &parts.admin, RECOVERY).await
        {
            parts.cluster.problem(About::Service, why);
        }
        let served = service::serves(parts.cluster, &parts.admin, RECOVERY).await;
        let final_recovery = served.is_ok().then(|| healed.elapsed());
        if let Err(why) = served {
            parts.cluster.problem(About::Service, why.to_string());
        }
        let mut finished = Finished {
            final_from: None,
            drained: false,
        };
        if final_recovery.is_some() && !self.interrupt.is_set() {
            progress.phase("final reads");
            let finishing = Box::pin(run.finish(FINISH));
            finished = self.interrupt.or(finishing).await.unwrap_or(finished);
            if !self.interrupt.is_set() && !finished.drained {
                let text = format!(
                    "final reads and followers did not come to their end in {} s",
                    FINISH.as_secs()
                );
                parts.cluster.problem(About::Service, text);
            }
        }
        Ok((final_recovery, finished))
    }
}

/// Starts all nodes; clients of them for programs and for operators.
fn start(cluster: &Cluster) -> io::Result<(Clients, Client)> {
    for node in cluster.nodes() {
        cluster.start(node)?;
    }
    let addresses: Vec<String> = cluster.nodes().iter().map(|node| node.address.clone()).collect();
    let client = || Client::new(ClientConfig::new(addresses.clone()));
    let clients = Clients::make(CLIENTS, client).map_err(io::Error::other)?;
    let admin = client().map_err(io::Error::other)?;
    Ok((clients, admin.with_timeout(ADMIN_TIMEOUT)))
}

/// Where replicas are, and their states, when all is over. Who cannot be asked then leaves it unknown.
async fn at_the_end(admin: &Client, finished: Finished) -> (Option<Vec<(u64, u32)>>, Vec<Replica>) {
    if finished.final_from.is_none() {
        return (None, Vec::new());
    }
    let (placement, states) = replicas(admin).await.unwrap_or_default();
    (Some(placement), states)
}

fn calls(recorder: &Recorder) -> BTreeMap<&'static str, Counts> {
    let mut calls: BTreeMap<&'static str, Counts> = BTreeMap::new();
    for ((call, end), count) in recorder.counts() {
        let counts = calls.entry(call).or_default();
        match end {
            "ok" => counts.ok += count,
            "fail" => counts.fail += count,
            _ => counts.info += count,
        }
    }
    calls
}

/// A client was told that what it asked for is not there any more.
fn tells_of_compaction(event: &Event) -> bool {
    let code = Code::Compacted.to_string();
    match &event.step {
        Step::Seen { seen } => matches!(seen, history::Seen::Compacted { .. }),
        Step::Fail { error } => error.starts_with(&code),
        _ => false,
    }
}

async fn end<T>(task: JoinHandle<T>) -> io::Result<T> {
    task.await.map_err(io::Error::other)
}

/// Looks after the processes until it is told to stop.
async fn supervise(cluster: Arc<Cluster>, stop: Stop) -> io::Result<()> {
    while stop.or(sleep(SUPERVISION)).await.is_some() {
        block_in_place(|| cluster.supervise())?;
    }
    Ok(())
}

/// Stops the nodes in order, and looks at what they leave.
fn stop_and_look(cluster: &Cluster) -> io::Result<()> {
    cluster.supervise()?;
    cluster.stop()?;
    for text in cluster.panics()? {
        cluster.problem(About::Process, text);
    }
    for node in cluster.nodes() {
        if let Some(text) = cluster.damage_of(node)? {
            cluster.problem(About::Files, format!("damaged files after the end: {text}"));
        }
    }
    Ok(())
}

/// Reads the logs of the stopped nodes. What was not whole at the end says nothing.
async fn committed_log(parts: &Parts<'_>, shards: u32, replicas: &[Replica]) -> Result<Vec<Commit>, String> {
    if replicas.is_empty() {
        return Err("the run did not come to its end".into());
    }
    // It is replayed by the state machine of this process, which is to have no bug.
    #[cfg(feature = "mutants")]
    kvsvr_client::mutants::choose_none();
    let nodes = parts.cluster.nodes().iter();
    let directories = nodes.map(|node| (parts.observer.member(node.id), node.disk.data()));
    let merged = logs::committed(&directories.collect(), shards, replicas).await;
    merged.unwrap_or_else(|error| Err(error.to_string()))
}

/// The shard of each partition that a program may have.
fn shard_map(plan: &Plan, shard_of: &ShardOf) -> BTreeMap<u32, u32> {
    let programs: &[Program] = &plan.workload.programs;
    let partitions = PARTITIONS..(programs.len() as u32 + 1) * PARTITIONS;
    partitions
        .map(|partition| (partition, shard_of(partition)))
        .collect()
}
