//! Runs a plan: a cluster under faults and load, then what must hold afterwards.
//!
//! 1. The cluster is made, and the workloads make what they need, while nothing is wrong.
//! 2. The plan's faults and the workloads run side by side; the invariants look on.
//! 3. A majority of the machines is healed, the others are cut off: the cluster must serve again.
//! 4. All is healed: all replicas must come to the same state, and the workloads read what must be there.
//! 5. The checkers look at the history, with the committed log and the replicas' states.

mod clocks;
mod seen;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kvsvr_client::{Client, ClientConfig};
use kvsvr_core::{
    hash::state_hash,
    types::{META_SHARD, ShardId},
};
use kvsvr_jepsen::{
    check::{self, check_all, committed::resolve},
    history::{Nanos, Step},
    report::Judgement,
    workload::{self, Clients, Env, Finished, Recorder, Run, Stop},
};
use kvsvr_proto::v1::BootstrapRequest;
use madsim::runtime::{Handle, NodeHandle, Runtime};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    ballast,
    faults::{Faults, all_started},
    invariants::{self, Log, Moment, Said, Watcher},
    net::SimNet,
    node::SimNode,
    outcome::{Failure, Outcome},
    plan::Plan,
    random::Stream,
    shadow::Shadow,
    sometimes::Sometimes,
};

pub use self::seen::Record;
use self::traffic::Traffic;

/// Between two looks of the invariants.
const LOOK: Duration = Duration::from_millis(10);
/// At every so manieth look they look into the replicas' states.
const CONTENTS: u64 = 25;
/// For the beginning: the cluster is made and serves.
const SETUP: Duration = Duration::from_secs(60);
/// A healed majority must serve within this time: several elections, a snapshot, and what clients wait between tries.
const SERVICE: Duration = Duration::from_secs(30);
/// When all is healed, the replicas must be alike and the final reads made within this time.
const RECOVERY: Duration = Duration::from_secs(120);
/// Nodes count in whole milliseconds.
const CLOCK_ERROR: Nanos = 5_000_000;
/// Clients of the library that the workloads' clients share, all on one host.
const LIBRARIES: usize = 5;
/// Host of the workloads' clients, and of the one that makes the cluster and probes it.
pub(crate) const CLIENTS: [&str; 2] = [CLIENT, OPERATOR];
const CLIENT: &str = "client";
const OPERATOR: &str = "operator";

/// Runs a plan to its end, in this process: at most one in a process if it is to be repeated. `messages`: those of the network are in the
/// record.
pub fn run(plan: &Plan, messages: bool) -> (Outcome, Record) {
    kvsvr::time::skewed::forget_all();
    Runtime::with_seed_and_config(plan.seed, madsim::Config::default()).block_on(world(plan, messages))
}

async fn world(plan: &Plan, messages: bool) -> (Outcome, Record) {
    let world = World::new(plan, messages);
    let failures = world.play().await;
    world.outcome(failures)
}

/// What the phases share.
struct World<'a> {
    plan: &'a Plan,
    begin: Instant,
    net: SimNet,
    nodes: Vec<SimNode>,
    client_host: NodeHandle,
    clients: Clients,
    operator_host: NodeHandle,
    operator: Client,
    recorder: Recorder,
    seen: Mutex<Seen>,
    traffic: Arc<Mutex<Traffic>>,
}

/// What was seen from outside.
#[derive(Default)]
struct Seen {
    watcher: Watcher,
    sometimes: Sometimes,
    shadow: Option<Shadow>,
    record: Record,
    last: BTreeMap<(u32, usize), invariants::Replica>,
    looks: u64,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, messages: bool) -> Self {
        let begin = Instant::now();
        let net = SimNet::new(plan.seed);
        let settings = plan.knobs.settings();
        let nodes: Vec<SimNode> = (0..plan.nodes)
            .map(|number| {
                let node = SimNode::new(plan.seed, net.clone(), &plan.address(number), settings);
                node.set_segment_bytes(plan.knobs.segment_bytes);
                node.set_engine(plan.engine);
                node
            })
            .collect();
        let addresses: Vec<String> = (0..plan.nodes).map(|number| plan.address(number)).collect();
        let clients = |name: &str, count: usize| {
            let host = Handle::current().create_node().name(name).build();
            let endpoint = Arc::new(net.boot(name, host.clone()));
            let client = || Client::with_transport(endpoint.clone(), ClientConfig::new(addresses.clone()));
            (host, Clients::make(count, client))
        };
        let (client_host, of_clients) = clients(CLIENT, LIBRARIES);
        let (operator_host, of_operator) = clients(OPERATOR, 1);
        let now = Arc::new(move || begin.elapsed().as_nanos() as u64);
        let expect = |clients: kvsvr_client::Result<Clients>| match clients {
            Ok(clients) => clients,
            // The addresses of a plan are well formed.
            Err(error) => panic!("no client: {error}"),
        };
        let traffic = Traffic::watch(&net, &addresses, messages);
        Self {
            plan,
            begin,
            traffic,
            clients: expect(of_clients),
            operator: expect(of_operator).next(),
            net,
            nodes,
            client_host,
            operator_host,
            recorder: Recorder::new(now),
            seen: Mutex::new(Seen {
                shadow: Some(Shadow::default()),
                ..Seen::default()
            }),
        }
    }

    /// All phases. What is wrong that no invariant found.
    async fn play(&self) -> Vec<Failure> {
        let looking = self.look_on();
        let playing = self.phases();
        futures::pin_mut!(looking, playing);
        match futures::future::select(playing, looking).await {
            futures::future::Either::Left((failures, _)) => failures,
            futures::future::Either::Right(((), _)) => Vec::new(),
        }
    }

    async fn phases(&self) -> Vec<Failure> {
        let mut faults = Faults::new(
            self.net.clone(),
            self.nodes.clone(),
            vec![CLIENT.into(), OPERATOR.into()],
            self.plan,
            self.begin,
        );
        let shard_of = match timeout(SETUP, self.make()).await {
            Ok(Ok(shard_of)) => shard_of,
            Ok(Err(text)) => return vec![Failure::new("setup", text)],
            Err(_) => return vec![Failure::new("setup", format!("no cluster within {SETUP:?}"))],
        };
        let mut run = match timeout(SETUP, self.prepare(shard_of.clone())).await {
            Ok(run) => run,
            Err(_) => return vec![Failure::new("setup", format!("no workload within {SETUP:?}"))],
        };
        let stop = Stop::new();
        let stopping = stop.clone();
        let working = self.client_host.spawn(async move {
            run.work(&stopping).await;
            run
        });
        if let Some(ballast) = self.plan.ballast.clone() {
            let chance = Stream::new(self.plan.seed, &[&"ballast"]);
            let writing = ballast::write(self.operator.clone(), ballast, chance, stop.clone());
            self.operator_host.spawn(writing);
        }
        faults.run(self.plan).await;
        let mut failures = Vec::new();
        failures.extend(self.serve_again(&mut faults).await);
        faults.heal(None).await;
        stop.set();
        let Ok(mut run) = faults.supervising(working).await else {
            failures.push(Failure::new("panic", "a client's task ended by itself".into()));
            return failures;
        };
        let finishing = self.client_host.spawn(async move {
            let finished = run.finish(RECOVERY).await;
            (run, finished)
        });
        let finished = faults.supervising(finishing).await.ok();
        let replicas = faults.supervising(self.replicas()).await;
        {
            let mut seen = self.seen.lock();
            seen.record.bands = faults.bands().to_vec();
            seen.sometimes.add("damaged", faults.damaged());
        }
        match finished {
            Some((run, finished)) => failures.extend(self.check(&run, finished, replicas, &shard_of).await),
            None => failures.push(Failure::new(
                "panic",
                "the final reads' task ended by itself".into(),
            )),
        }
        failures
    }

    /// Starts all machines and makes a cluster of them. The shard of each of the workloads' partitions.
    async fn make(&self) -> Result<workload::ShardOf, String> {
        self.nodes.iter().for_each(|node| {
            node.start();
        });
        all_started(&self.nodes, SETUP).await;
        let request = BootstrapRequest {
            addresses: (0..self.plan.nodes)
                .map(|number| self.plan.address(number))
                .collect(),
            shards: self.plan.shards,
            replication: self.plan.nodes as u32,
            ..Default::default()
        };
        let operator = self.operator.clone();
        let making = self.operator_host.spawn(async move {
            operator
                .bootstrap(request)
                .await
                .map_err(|error| error.to_string())?;
            workload::shards(&operator)
                .await
                .map_err(|error| error.to_string())
        });
        making.await.map_err(|error| error.to_string())?
    }

    async fn prepare(&self, shard_of: workload::ShardOf) -> Run {
        let env = Env {
            clients: self.clients.clone(),
            recorder: self.recorder.clone(),
            seed: self.plan.seed,
            shard_of,
        };
        let mut run = Run::new(&self.plan.workload, env);
        let preparing = self.client_host.spawn(async move {
            run.setup().await;
            run
        });
        match preparing.await {
            Ok(run) => run,
            Err(error) => panic!("the workloads' preparation ended by itself: {error}"),
        }
    }

    /// Heals a majority and nobody else. Every shard must take a write then.
    async fn serve_again(&self, faults: &mut Faults) -> Option<Failure> {
        let mut chance = Stream::new(self.plan.seed, &[&"core"]);
        let mut core = BTreeSet::new();
        while core.len() <= self.plan.nodes / 2 {
            core.insert(chance.index(self.plan.nodes));
        }
        faults.isolate(&core).await;
        let (operator, shards) = (self.operator.clone(), self.plan.shards);
        let probing = self.operator_host.spawn(async move {
            for number in 0..shards * 8 {
                let partition = workload::names::partition(1_000_000 + number);
                while operator.put(&partition, "probe", "x").await.is_err() {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        });
        let served = {
            let until = Instant::now() + SERVICE;
            let supervising = faults.supervise_until(until);
            futures::pin_mut!(supervising);
            match futures::future::select(probing, supervising).await {
                futures::future::Either::Left((ended, _)) => ended.is_ok(),
                futures::future::Either::Right(_) => false,
            }
        };
        (!served).then(|| {
            Failure::new(
                "service",
                format!("the majority {core:?} did not serve within {SERVICE:?}"),
            )
        })
    }

    /// Looks on until the end of the simulation.
    async fn look_on(&self) {
        loop {
            self.look().await;
            sleep(LOOK).await;
        }
    }

    async fn look(&self) {
        let views = {
            let mut seen = self.seen.lock();
            seen.looks += 1;
            let contents = seen.looks.is_multiple_of(CONTENTS);
            let said = &self.traffic.lock().said;
            let machines = self.nodes.iter().enumerate();
            let views = machines.flat_map(|(machine, node)| invariants::views(machine, node, said, contents));
            views.collect::<Vec<_>>()
        };
        let running = self.nodes.iter().filter(|node| node.is_running()).count();
        let mut shadow = {
            let mut seen = self.seen.lock();
            let seen = &mut *seen;
            let at = self.begin.elapsed();
            let replicas = views
                .iter()
                .map(|(replica, log)| (replica.clone(), log as &dyn Log));
            let moment = Moment {
                at,
                replicas: replicas.collect(),
            };
            seen.sometimes.look(&moment, running, self.nodes.len());
            seen.watcher.see(&moment);
            for (replica, _) in &views {
                let key = (replica.shard.0, replica.machine);
                let is_new = seen.last.get(&key).is_none_or(|last| last.tells_else(replica));
                if is_new {
                    seen.last.insert(key, replica.clone());
                    seen.record.samples.push((at, replica.clone()));
                }
            }
            seen.shadow.take()
        };
        if let Some(shadow) = &mut shadow {
            for (replica, log) in &views {
                shadow.follow(replica, log.wal()).await;
            }
        }
        self.seen.lock().shadow = shadow;
    }

    /// Has the history and the replicas' states checked.
    async fn check(
        &self,
        run: &Run,
        finished: Finished,
        replicas: Result<Vec<check::Replica>, String>,
        shard_of: &workload::ShardOf,
    ) -> Vec<Failure> {
        let mut failures = Vec::new();
        let replicas = match replicas {
            Ok(replicas) => replicas,
            Err(text) => {
                failures.push(Failure::new("convergence", text));
                Vec::new()
            }
        };
        self.look().await;
        let committed = self.committed();
        let commits = self
            .seen
            .lock()
            .shadow
            .as_ref()
            .and_then(|shadow| shadow.commits(&committed));
        let history = self.recorder.events();
        let shard_of = |partition| shard_of(partition);
        let mut context = run.context(finished, &shard_of);
        context.committed = commits.as_deref();
        context.replicas = &replicas;
        let wrong_clocks = {
            let bands = &self.seen.lock().record.bands;
            clocks::wrong(&self.plan.faults, bands, self.plan.nodes)
        };
        context.clock_error = CLOCK_ERROR;
        context.wrong_clocks = &wrong_clocks;
        if finished.final_from.is_none() {
            failures.push(Failure::new(
                "service",
                format!("no final reads within {RECOVERY:?}"),
            ));
        } else if !finished.drained {
            failures.push(Failure::new(
                "service",
                format!("watches, consumers and sends did not come to their end within {RECOVERY:?}"),
            ));
        }
        for (name, verdict) in check_all(&self.plan.workload.checks(), &history, &context) {
            if verdict.is_valid() && check::missing(name, &verdict).is_empty() {
                self.seen.lock().sometimes.checked_in_full(name);
            }
            let judgement = Judgement::new(name, &verdict);
            self.seen.lock().record.judgements.push(judgement);
            if !verdict.is_valid() {
                failures.push(Failure::new(name, verdict.to_string()));
            }
        }
        let resolved = match &commits {
            Some(commits) => resolve(&history, commits, &context).events,
            _ => history.clone(),
        };
        let record = &mut self.seen.lock().record;
        (record.history, record.resolved) = (history, resolved);
        failures
    }

    fn committed(&self) -> BTreeMap<ShardId, u64> {
        let mut committed = BTreeMap::new();
        for (machine, node) in self.nodes.iter().enumerate() {
            for (replica, _) in invariants::views(machine, node, &Said::default(), false) {
                let highest = committed.entry(replica.shard).or_default();
                *highest = replica.committed.unwrap_or(0).max(*highest);
            }
        }
        committed
    }

    /// The states of all replicas, once they have applied the same.
    async fn replicas(&self) -> Result<Vec<check::Replica>, String> {
        let until = Instant::now() + RECOVERY;
        loop {
            let mut applied: BTreeMap<u32, BTreeSet<Option<u64>>> = BTreeMap::new();
            let nodes: Vec<_> = self.nodes.iter().filter_map(SimNode::node).collect();
            for node in &nodes {
                for shard in node.shards() {
                    let index = shard.head().applied_next().checked_sub(1);
                    applied.entry(shard.id().0).or_default().insert(index);
                }
            }
            let all_run = nodes.len() == self.nodes.len();
            if all_run
                && applied.len() as u32 == self.plan.shards + 1
                && applied.values().all(|indexes| indexes.len() == 1)
            {
                break;
            }
            if Instant::now() >= until {
                return Err(format!(
                    "replicas differ {RECOVERY:?} after all was healed: {} of {} nodes run, applied {applied:?}",
                    nodes.len(),
                    self.nodes.len()
                ));
            }
            sleep(Duration::from_millis(50)).await;
        }
        let mut replicas = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(node) = node.node() else { continue };
            for shard in node.shards().into_iter().filter(|shard| shard.id() != META_SHARD) {
                let (applied, hash) = shard
                    .machine()
                    .with_machine(|_, engine| state_hash(engine, shard.id()))
                    .map_err(|error| format!("node {}: {error}", number + 1))?;
                replicas.push(check::Replica {
                    node: number as u64 + 1,
                    shard: shard.id().0,
                    applied: applied.map_or(0, |position| position.index),
                    hash,
                });
            }
        }
        Ok(replicas)
    }

    fn outcome(self, mut failures: Vec<Failure>) -> (Outcome, Record) {
        let seen = self.seen.into_inner();
        let (mut sometimes, mut record) = (seen.sometimes, seen.record);
        {
            let mut traffic = self.traffic.lock();
            record.messages = std::mem::take(&mut traffic.messages);
            for (event, count) in &traffic.events {
                sometimes.add(event, *count);
            }
        }
        let again = seen.shadow.as_ref().map_or(0, Shadow::committed_again);
        sometimes.add("retry_committed_twice_applied_once", again);
        record.broken_at = seen.watcher.broken().first().map(|broken| broken.at);
        sometimes.add_network(&self.net);
        for (machine, node) in self.nodes.iter().enumerate() {
            record
                .ended
                .extend(node.ended().into_iter().map(|ended| (machine, ended)));
            sometimes.add_machine(node);
        }
        let broken = seen.watcher.broken().iter();
        failures.splice(
            0..0,
            broken.map(|broken| Failure::new(broken.invariant, broken.to_string())),
        );
        if record.history.is_empty() {
            record.history = self.recorder.events();
            record.resolved = record.history.clone();
        }
        let count =
            |is: fn(&Step) -> bool| record.history.iter().filter(|event| is(&event.step)).count() as u64;
        let operations = [
            count(|step| matches!(step, Step::Ok { .. })),
            count(|step| matches!(step, Step::Fail { .. })),
            count(|step| matches!(step, Step::Info { .. })),
        ];
        sometimes.add_history(&record.history, &record.resolved);
        let jumps = record
            .bands
            .iter()
            .filter(|band| band.kind == "wall_clock")
            .count();
        sometimes.add("clock_jumped", jumps as u64);
        let outcome = Outcome {
            seed: self.plan.seed,
            origin: self.plan.origin.clone(),
            failures,
            simulated: self.begin.elapsed(),
            operations,
            sometimes: sometimes.counts(),
            hash: self.net.hash(),
            unseed: madsim::rand::random(),
        };
        (outcome, record)
    }
}
