//! Runs a plan: a cluster under faults and load, then what must hold afterwards.
//!
//! 1. The cluster is made, and the workloads make what they need, while nothing is wrong.
//! 2. The plan's faults and the workloads run side by side; the invariants look on.
//! 3. A majority of the machines is healed, the others are cut off: the cluster must serve again.
//! 4. All is healed: all replicas must come to the same state, and the workloads read what must be there.
//! 5. The checkers look at the history, with the committed log and the replicas' states.

mod clocks;
mod ends;
mod look;
mod repeats;
mod replicas;
mod reseeds;
mod seen;
mod traffic;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use kvsvr_client::{Client, ClientConfig};
use kvsvr_jepsen::{
    check::{self, check_all, committed::resolve},
    history::{Nanos, Step, paired},
    report::Judgement,
    workload::{self, Clients, Env, Finished, Recorder, Run, Stop},
};
use kvsvr_proto::v1::BootstrapRequest;
use madsim::runtime::{Handle, NodeHandle, Runtime};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use twox_hash::XxHash3_64;

use crate::{
    ballast,
    faults::{Band, CLIENT_HOSTS, Faults, all_started},
    net::SimNet,
    node::SimNode,
    operate::Operators,
    outcome::{Failure, Outcome},
    plan::{Ask, Order, Plan},
    random::Stream,
    shadow::Shadow,
};

pub use self::seen::Record;
use self::{ends::Ends, look::Seen, traffic::Traffic};

/// For the beginning: the cluster is made and serves.
const SETUP: Duration = Duration::from_secs(60);
/// A healed majority must serve within this time: several elections, a snapshot, and what clients wait between tries.
const SERVICE: Duration = Duration::from_secs(30);
/// While nothing is wrong, no shard may serve nobody for so long: elections, and what clients wait between tries.
const UNSERVED: Duration = Duration::from_secs(10);
/// When all is healed, the final reads must be made, everything followed to its end, and the replicas alike within this time.
const RECOVERY: Duration = Duration::from_secs(120);
/// In a history with fewer operations that succeeded a checker may find nothing to check. In no sweep may one never find anything.
const FEW: usize = 5_000;
/// Nodes count in whole milliseconds.
const CLOCK_ERROR: Nanos = 5_000_000;
/// Clients of the library that the workloads' clients share, by turns on one host and the other.
const LIBRARIES: usize = 5;
/// Host of the workloads' clients, and of the one that makes the cluster and probes it.
pub(crate) const CLIENTS: [&str; CLIENT_HOSTS + 1] = ["client", "client-2", OPERATOR];
const OPERATOR: &str = "operator";

/// Runs a plan to its end, in this process: at most one in a process if it is to be repeated. `messages`: those of the network are in the
/// record.
pub fn run(plan: &Plan, messages: bool) -> (Outcome, Record) {
    kvsvr::time::skewed::forget_all();
    kvsvr_core::limits::sessions::choose(plan.knobs.sessions, plan.knobs.session_idle_ms);
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
    client_process: NodeHandle,
    clients: Clients,
    operator_process: NodeHandle,
    operator: Client,
    recorder: Recorder,
    seen: Mutex<Seen>,
    shadow: Mutex<Shadow>,
    traffic: Arc<Mutex<Traffic>>,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, messages: bool) -> Self {
        let begin = Instant::now();
        let net = SimNet::new(plan.seed);
        let settings = plan.knobs.settings();
        let nodes: Vec<SimNode> = (0..plan.machines())
            .map(|number| {
                let node = SimNode::new(plan.seed, net.clone(), &plan.address(number), settings);
                node.set_segment_bytes(plan.knobs.segment_bytes);
                node.set_engine(plan.engine);
                node
            })
            .collect();
        let addresses: Vec<String> = (0..plan.nodes).map(|number| plan.address(number)).collect();
        let clients = |names: &[&str], count: usize| {
            let process = Handle::current().create_node().name(names[0]).build();
            let endpoints = names.iter().map(|name| Arc::new(net.boot(name, process.clone())));
            let endpoints: Vec<_> = endpoints.collect();
            let mut turn = 0;
            let client = || {
                turn += 1;
                let endpoint = endpoints[turn % endpoints.len()].clone();
                Client::with_transport(endpoint, ClientConfig::new(addresses.clone()))
            };
            let clients = Clients::make(count, client);
            (process, clients)
        };
        let (client_process, of_clients) = clients(&CLIENTS[..CLIENT_HOSTS], LIBRARIES);
        let (operator_process, of_operator) = clients(&[OPERATOR], 1);
        let now = Arc::new(move || begin.elapsed().as_nanos() as u64);
        let expect = |clients: kvsvr_client::Result<Clients>| match clients {
            Ok(clients) => clients,
            // The addresses of a plan are well formed.
            Err(error) => panic!("no client: {error}"),
        };
        let machines: Vec<String> = (0..plan.machines()).map(|number| plan.address(number)).collect();
        let traffic = Traffic::watch(&net, &machines, messages, plan.may_change_members());
        Self {
            plan,
            begin,
            traffic,
            clients: expect(of_clients),
            operator: expect(of_operator).next(),
            net,
            nodes,
            client_process,
            operator_process,
            recorder: Recorder::new(now),
            seen: Mutex::default(),
            shadow: Mutex::default(),
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
            (CLIENTS.map(String::from).to_vec(), self.client_process.clone()),
            self.plan,
            self.begin,
        );
        let failures = self.under(&mut faults).await;
        faults.note_what_came();
        let mut seen = self.seen.lock();
        seen.record.bands = faults.bands().to_vec();
        failures
    }

    async fn under(&self, faults: &mut Faults) -> Vec<Failure> {
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
        let working = self.client_process.spawn(async move {
            run.work(&stopping).await;
            run
        });
        if let Some(ballast) = self.plan.ballast.clone() {
            let chance = Stream::new(self.plan.seed, &[&"ballast"]);
            let writing = ballast::write(self.operator.clone(), ballast, chance, stop.clone());
            self.operator_process.spawn(writing);
        }
        let (operators_stop, mut operating) = (Stop::new(), Vec::new());
        for operator in 0..2 {
            let orders = self.plan.orders.iter().filter(|order| order.operator == operator);
            let orders: Vec<_> = orders.cloned().collect();
            let working = self
                .operators()
                .operate(orders, Instant::now(), operators_stop.clone());
            operating.push(self.operator_process.spawn(working));
        }
        self.seen.lock().setup = self.begin.elapsed();
        faults.run(self.plan).await;
        operators_stop.set();
        let mut failures = Vec::new();
        if faults
            .supervising(join_all(operating))
            .await
            .iter()
            .any(std::result::Result::is_err)
        {
            failures.push(Failure::new("panic", "an operator's task ended by itself".into()));
        }
        failures.extend(self.serve_again(faults).await);
        faults.heal(None);
        let until = Instant::now() + RECOVERY;
        stop.set();
        let Ok(mut run) = faults.supervising(working).await else {
            failures.push(Failure::new("panic", "a client's task ended by itself".into()));
            return failures;
        };
        let finishing = self.client_process.spawn(async move {
            let finished = run.finish(until.saturating_duration_since(Instant::now())).await;
            (run, finished)
        });
        let finished = faults.supervising(finishing).await.ok();
        let replicas = faults.supervising(self.once_alike(until)).await;
        self.seen.lock().record.bands = faults.bands().to_vec();
        match finished {
            Some((run, finished)) => failures.extend(self.check(&run, finished, replicas, &shard_of).await),
            None => failures.push(Failure::new(
                "panic",
                "the final reads' task ended by itself".into(),
            )),
        }
        failures
    }

    fn operators(&self) -> Operators {
        Operators {
            client: self.operator.clone(),
            nodes: self.nodes.clone(),
            voters: self.replication() * self.plan.shards as usize,
        }
    }

    fn replication(&self) -> usize {
        match self.plan.replication {
            0 => self.plan.nodes,
            some => some,
        }
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
            replication: self.replication() as u32,
            ..Default::default()
        };
        let operator = self.operator.clone();
        let making = self.operator_process.spawn(async move {
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
        let preparing = self.client_process.spawn(async move {
            run.setup().await;
            run
        });
        match preparing.await {
            Ok(run) => run,
            Err(error) => panic!("the workloads' preparation ended by itself: {error}"),
        }
    }

    /// The machines that must serve without the others.
    fn core(&self) -> BTreeSet<usize> {
        let mut chance = Stream::new(self.plan.seed, &[&"core"]);
        if !self.plan.may_change_members() {
            let mut core = BTreeSet::new();
            while core.len() <= self.plan.nodes / 2 {
                core.insert(chance.index(self.plan.nodes));
            }
            return core;
        }
        // Who belongs to a majority of each shard is not known here, but that one may be missing; unless one is lost for good already, or a shard is a
        // voter short.
        let mut core: BTreeSet<usize> = (0..self.plan.machines()).collect();
        let wipes = |order: &Order| matches!(order.ask, Ask::Wipe(_));
        if !self.plan.orders.iter().any(wipes) && !self.seen.lock().reseeds.is_unfinished() {
            core.remove(&chance.index(self.plan.machines()));
        }
        core
    }

    /// Heals a majority and nobody else. Every shard must take a write then.
    async fn serve_again(&self, faults: &mut Faults) -> Option<Failure> {
        let core = self.core();
        faults.isolate(&core);
        let (operator, shards) = (self.operator.clone(), self.plan.shards);
        let probing = self.operator_process.spawn(async move {
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

    /// Waits until operations have ended and replicas are where they should be, and alike.
    async fn once_alike(&self, until: Instant) -> Result<Vec<check::Replica>, String> {
        if !self.plan.may_change_members() {
            return replicas::once_alike(&self.nodes, self.plan.shards, until).await;
        }
        let within = until.saturating_duration_since(Instant::now());
        let ending = self.operator_process.spawn(self.operators().all_ended(within));
        let members = ending.await.map_err(|error| error.to_string())??;
        let infos = members.members.iter().filter_map(|member| member.info.as_ref());
        let infos: Vec<_> = infos.collect();
        self.seen
            .lock()
            .sometimes
            .add_operations(&members.operations, &infos);
        replicas::once_placed(&self.nodes, self.replication(), until).await
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
        let replicas = replicas.unwrap_or_else(|text| {
            let text = format!("{RECOVERY:?} after all was healed {text}");
            failures.push(Failure::new("convergence", text));
            Vec::new()
        });
        self.look();
        let commits = match self.committed_log().await {
            Ok(commits) => Some(commits),
            Err(unknown) => {
                failures.extend(unknown);
                None
            }
        };
        failures.extend(self.wrong_members());
        self.seen.lock().replicas.clone_from(&replicas);
        let history = repeats::history_of(self.plan, self.recorder.events());
        let shard_of = |partition| shard_of(partition);
        let mut context = run.context(finished, &shard_of);
        context.committed = commits.as_deref();
        context.replicas = &replicas;
        let (wrong_clocks, disturbed) = {
            let bands = &self.seen.lock().record.bands;
            let wrong = clocks::wrong(&self.plan.faults, bands, self.plan.machines());
            (wrong, self.disturbed(bands))
        };
        context.clock_error = CLOCK_ERROR;
        context.wrong_clocks = &wrong_clocks;
        context.disturbed = Some(&disturbed);
        let gaps = check::service::gaps(&paired(&history), &disturbed, &shard_of, UNSERVED);
        let told = gaps.into_iter().map(|gap| gap.to_string());
        failures.extend(told.map(|text| Failure::new("service", text)));
        context.keep_revisions = Some(self.plan.knobs.keep_revisions);
        failures.extend(unfinished(finished));
        let succeeded = history
            .iter()
            .filter(|event| matches!(event.step, Step::Ok { .. }))
            .count();
        for (name, verdict) in check_all(&self.plan.workload.checks(), &history, &context) {
            let is_full = || {
                let (needed, wanted) = (check::missing(name, &verdict), check::wanting(name, &verdict));
                needed.is_empty() && wanted.is_empty()
            };
            if verdict.is_valid() && is_full() {
                self.seen.lock().sometimes.checked_in_full(name);
            }
            let judgement = Judgement::new(name, &verdict);
            self.seen.lock().record.judgements.push(judgement);
            if verdict.is_empty() && succeeded < FEW {
                // Clients that take their time may not come to everything that they could do.
                self.seen.lock().unknown.push(format!("{name}: {verdict}"));
            } else if !verdict.is_valid() {
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

    /// What is wrong with the shards' members, as far as the committed logs are known.
    fn wrong_members(&self) -> Vec<Failure> {
        let (shadow, mut seen) = (self.shadow.lock(), self.seen.lock());
        let memberships = shadow.memberships();
        let known = seen.destroyed.iter();
        let known = known.filter(|destroyed| shadow.known(destroyed.shard) > destroyed.committed);
        let destroyed = known.filter_map(|destroyed| memberships.judge(destroyed).err());
        let wrong = memberships.broken().iter().cloned().chain(destroyed);
        let failures = wrong.map(|text| Failure::new("membership", text)).collect();
        let of_members = [
            ("learner_promoted", memberships.promoted()),
            ("replica_destroyed", seen.destroyed.len() as u64),
        ];
        for (event, count) in of_members {
            seen.sometimes.add(event, count);
        }
        failures
    }

    /// When faults held and processes ended, for the checkers.
    fn disturbed(&self, bands: &[Band]) -> Vec<(Nanos, Nanos)> {
        let nanos = |time: Duration| Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX);
        let faults = bands
            .iter()
            .map(|band| (nanos(band.from), band.until.map_or(Nanos::MAX, nanos)));
        let ended = self.nodes.iter().flat_map(|node| node.ended());
        faults
            .chain(ended.map(|ended| (nanos(ended.at), nanos(ended.at))))
            .collect()
    }

    fn outcome(self, mut failures: Vec<Failure>) -> (Outcome, Record) {
        let mut seen = self.seen.into_inner();
        seen.add_looks();
        let (mut sometimes, mut record) = (seen.sometimes, seen.record);
        {
            let mut traffic = self.traffic.lock();
            record.messages = std::mem::take(&mut traffic.messages);
            for (event, count) in &traffic.events {
                sometimes.add(event, *count);
            }
        }
        let again = self.shadow.into_inner().committed_again();
        sometimes.add("retry_committed_twice_applied_once", again);
        failures.extend(look::too_seldom(
            seen.looks,
            seen.looked_at[0],
            self.begin.elapsed(),
        ));
        record.broken_at = seen.watcher.broken().first().map(|broken| broken.at);
        sometimes.add_network(&self.net);
        for (machine, node) in self.nodes.iter().enumerate() {
            record
                .ended
                .extend(node.ended().into_iter().map(|ended| (machine, ended)));
            sometimes.add_machine(node);
        }
        let ends = Ends::of(&record.bands, &record.ended);
        failures.splice(0..0, ends.unexplained);
        let broken = seen.watcher.broken().iter();
        failures.splice(
            0..0,
            broken.map(|broken| Failure::new(broken.invariant, broken.to_string()).at(broken.at)),
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
        record.judgements.extend(seen.watcher.judgements(&failures));
        let jumps = record
            .bands
            .iter()
            .filter(|band| band.kind == "wall_clock" && !band.nodes.is_empty())
            .count();
        sometimes.add("clock_jumped", jumps as u64);
        let outcome = Outcome {
            seed: self.plan.seed,
            version: crate::VERSION.to_owned(),
            origin: self.plan.origin.clone(),
            verdicts: record.judgements.clone(),
            failures,
            simulated: self.begin.elapsed(),
            setup: seen.setup,
            operations,
            looks: seen.looks,
            unknown: seen.unknown,
            sometimes: sometimes.counts(),
            excused: ends.excused,
            hash: self.net.hash(),
            history: hash_of(&record.history),
            states: hash_of(&seen.replicas),
            unseed: madsim::rand::random(),
        };
        (outcome, record)
    }
}

/// One number for all of it.
fn hash_of(all: &[impl std::fmt::Debug]) -> u64 {
    all.iter().fold(0, |hash, one| {
        XxHash3_64::oneshot_with_seed(hash, format!("{one:?}").as_bytes())
    })
}

/// What did not come to its end. The checkers demand less of such a run, so it has failed in any case.
fn unfinished(finished: Finished) -> Option<Failure> {
    let what = match finished {
        Finished { final_from: None, .. } => "no final reads",
        Finished { drained: false, .. } => "followers did not come to their end",
        _ => return None,
    };
    Some(Failure::new("service", format!("{what} within {RECOVERY:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_must_come_to_its_end() {
        let told = |final_from, drained| {
            let failure = unfinished(Finished { final_from, drained })?;
            Some(failure.text)
        };
        assert_eq!(told(Some(1), true), None);
        assert_eq!(told(None, false).unwrap(), "no final reads within 120s");
        assert!(told(Some(1), false).unwrap().starts_with("followers did not"));
    }
}
