//! The workloads on simulated clusters: what the nodes did must be right by every checker, without faults and with them, and there must
//! have been enough of it.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

use std::{sync::Arc, time::Duration};

use kvsvr::config::Settings;
use kvsvr_client::{Client, ClientConfig};
use kvsvr_jepsen::{
    check::{Replica, check_all},
    history::{Call, End, Event, paired},
    workload::{Clients, Env, Finished, Program, Recorder, Run, Spec, Stop, replicas, shards},
};
use kvsvr_proto::v1::BootstrapRequest;
use kvsvr_sim::{
    net::SimNet,
    node::{How, SimNode},
    random::Stream,
};
use madsim::runtime::{Handle, Runtime};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// What must have been done at least: calls that ended well, by name.
type Least<'a> = &'a [(&'static str, u64)];

/// Three nodes.
struct World {
    net: SimNet,
    nodes: Vec<SimNode>,
}

impl World {
    fn new(seed: u64) -> Self {
        let net = SimNet::new(seed);
        let node = |number: u32| {
            let node = SimNode::new(
                seed,
                net.clone(),
                &format!("node{number}:7101"),
                Settings::default(),
            );
            node.start();
            node
        };
        Self {
            nodes: (1..=3).map(node).collect(),
            net: net.clone(),
        }
    }

    fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address().to_owned()).collect()
    }

    /// Kills, power losses, pauses, cuts and bad links until a time; then all is well again.
    async fn trouble(&self, seed: u64, until: Instant) {
        let mut chance = Stream::new(seed, &[&"trouble"]);
        sleep(Duration::from_secs(1)).await;
        while Instant::now() < until {
            let victim = &self.nodes[chance.index(self.nodes.len())];
            match chance.below(6) {
                0 => {
                    victim.kill();
                }
                1 => victim.power_off(),
                2 => victim.pause(),
                3 => self.cut(victim, &mut chance),
                4 => self.nodes.iter().for_each(SimNode::power_off),
                _ => self.spoil_links(),
            }
            sleep(chance.log_uniform(Duration::from_millis(50), Duration::from_secs(4))).await;
            self.heal();
            sleep(chance.exponential(Duration::from_secs(1))).await;
        }
        self.heal();
        // The cluster recovers, under load.
        sleep(Duration::from_secs(5)).await;
    }

    /// Cuts some of the directions between a node and the others.
    fn cut(&self, victim: &SimNode, chance: &mut Stream) {
        for other in &self.nodes {
            for (from, to) in [(victim, other), (other, victim)] {
                let cut = from.address() != to.address() && chance.chance(0.7);
                self.net
                    .change_link(from.address(), to.address(), |spec| spec.cut = cut);
            }
        }
    }

    /// Every link between nodes, and with the client, loses, breaks and repeats.
    fn spoil_links(&self) {
        let mut hosts = self.addresses();
        hosts.push("client".into());
        for from in &hosts {
            for to in hosts.iter().filter(|to| *to != from) {
                self.net.change_link(from, to, |spec| {
                    spec.mean = Duration::from_millis(2);
                    spec.loss = 0.02;
                    spec.reset_before = 0.005;
                    spec.reset_after = 0.005;
                    spec.duplicate = 0.05;
                    spec.replay = 0.02;
                });
            }
        }
    }

    fn heal(&self) {
        self.net.heal();
        for node in &self.nodes {
            node.resume();
            node.start();
        }
    }
}

async fn bootstrap(client: &Client, addresses: Vec<String>) {
    let request = BootstrapRequest {
        addresses,
        shards: 2,
        replication: 3,
        ..Default::default()
    };
    sleep(Duration::from_secs(1)).await;
    client.bootstrap(request).await.unwrap();
}

async fn world(seed: u64, spec: Spec, length: Duration, faults: bool, least: &[(&str, u64)]) {
    let begin = Instant::now();
    let world = World::new(seed);
    let addresses = world.addresses();
    let host = Handle::current().create_node().name("client").build();
    let transport = Arc::new(world.net.boot("client", host.clone()));
    let stop = Stop::new();
    let (working, healed) = (stop.clone(), Stop::new());
    let (begun, recovered) = (Stop::new(), healed.clone());
    let client_begun = begun.clone();
    let client = host.spawn(async move {
        let make = || Client::with_transport(transport.clone(), ClientConfig::new(addresses.clone()));
        let (client, clients) = (make().unwrap(), Clients::make(3, make).unwrap());
        bootstrap(&client, addresses).await;
        let shard_of = shards(&client).await.unwrap();
        let recorder = Recorder::new(Arc::new(move || begin.elapsed().as_nanos() as u64));
        let env = Env {
            clients,
            recorder: recorder.clone(),
            seed,
            shard_of: shard_of.clone(),
        };
        let mut run = Run::new(&spec, env);
        run.setup().await;
        client_begun.set();
        run.work(&working).await;
        recovered.wait().await;
        let finished = run.finish(Duration::from_secs(300)).await;
        let (placement, replicas) = replicas(&client).await.unwrap();
        let done = Done {
            run,
            spec,
            finished,
            placement,
            replicas,
        };
        (done, recorder, shard_of)
    });
    begun.wait().await;
    let until = Instant::now() + length;
    match faults {
        true => world.trouble(seed, until).await,
        false => sleep(length).await,
    }
    stop.set();
    healed.set();
    let (done, recorder, shard_of) = client.await.unwrap();
    let by_themselves: Vec<_> = world
        .nodes
        .iter()
        .flat_map(SimNode::ended)
        .filter(|ended| ended.how != How::Told)
        .collect();
    assert!(by_themselves.is_empty(), "{by_themselves:?}");
    judge(&done, &recorder, &*shard_of, least);
}

/// A run that came to its end.
struct Done {
    run: Run,
    spec: Spec,
    finished: Finished,
    placement: Vec<(u64, u32)>,
    replicas: Vec<Replica>,
}

fn judge(done: &Done, recorder: &Recorder, shard_of: &dyn Fn(u32) -> u32, least: &[(&str, u64)]) {
    let Done {
        run,
        spec,
        finished,
        placement,
        replicas,
    } = done;
    let events = recorder.events();
    let mut context = run.context(*finished, shard_of);
    context.placement = Some(placement);
    context.replicas = replicas;
    // Servers count time in whole milliseconds.
    context.clock_error = 5_000_000;
    let verdicts = check_all(&spec.checks(), &events, &context);
    let counts = run.counts();
    eprintln!("{counts:?}");
    for (name, verdict) in &verdicts {
        eprintln!("{name}: {verdict}");
    }
    assert!(finished.drained && finished.final_from.is_some(), "{finished:?}");
    for (name, verdict) in &verdicts {
        assert!(verdict.is_valid(), "{name}: {verdict}");
    }
    if matches!(spec.programs[..], [Program::Session(_)]) {
        let from_memory = read_from_memory(&events);
        assert!(
            from_memory >= 100,
            "only {from_memory} reads of near-caches were hits"
        );
    }
    for (name, least) in least {
        let ok = counts.get(&(*name, "ok")).copied().unwrap_or_default();
        assert!(ok >= *least, "{name}: only {ok} were carried out");
    }
}

/// Only what asks nobody takes no time.
fn read_from_memory(events: &[Event]) -> usize {
    let operations = paired(events);
    let at_once = operations.iter().filter(|operation| {
        let is_read = matches!(operation.call, Call::Read { .. });
        is_read && matches!(operation.end, End::Ok(ended, _) if ended == operation.invoked)
    });
    at_once.count()
}

/// Nodes' clocks are known to the process, so that there is one world at a time.
static ONE: Mutex<()> = Mutex::new(());

fn run(seed: u64, names: &[&str], seconds: u64, faults: bool, least: Least<'_>) {
    let _one = ONE.lock();
    kvsvr::time::skewed::forget_all();
    let seed = std::env::var("SEED").map_or(seed, |seed| seed.parse().unwrap());
    let spec = Spec::named(names).unwrap();
    let length = Duration::from_secs(seconds);
    Runtime::with_seed_and_config(seed, madsim::Config::default())
        .block_on(world(seed, spec, length, faults, least));
}

/// A test without faults, and one with them, in which half as much must be done. Each has a process of its own under nextest, as a run
/// that is to be repeated needs it.
macro_rules! workload {
    ($name:ident, $programs:expr, $least:expr) => {
        mod $name {
            #[test]
            fn without_faults() {
                super::run(1, &$programs, 10, false, &$least);
            }

            #[test]
            fn with_faults() {
                let half = $least.map(|(name, least)| (name, least / 2));
                super::run(2, &$programs, 15, true, &half);
            }
        }
    };
}

workload!(
    registers,
    ["register"],
    [
        ("read", 1_000),
        ("write", 750),
        ("cas", 50),
        ("delete", 150),
        ("scan", 25)
    ]
);
workload!(counters, ["counter"], [("increment", 1_000), ("count", 400)]);
workload!(
    sets_and_lists,
    ["set_list"],
    [("write", 400), ("append", 750), ("list", 250), ("scan", 50)]
);
workload!(
    accounts,
    ["bank"],
    [
        ("transfer", 400),
        ("send", 200),
        ("receive", 150),
        ("balances", 200)
    ]
);
workload!(
    watches,
    ["watch"],
    [("write", 750), ("delete", 200), ("watch", 6)]
);
workload!(
    consumers,
    ["consumer"],
    [("write", 750), ("consume", 10), ("ack", 250)]
);
workload!(
    sessions,
    ["session"],
    [("write", 500), ("read", 1_000), ("scan", 50)]
);
workload!(
    leases,
    ["lease"],
    [
        ("read", 300),
        ("write", 150),
        ("grant", 25),
        ("keep_alive", 50),
        ("revoke", 5)
    ]
);

workload!(
    variety,
    ["variety"],
    [
        ("txn", 500),
        ("pages", 200),
        ("consume_at", 6),
        ("reset", 2),
        ("forget", 2),
        ("watch_keys", 2)
    ]
);

#[test]
fn all_side_by_side() {
    let names = kvsvr_jepsen::workload::Program::NAMES;
    run(3, &names, 4, true, &[("receive", 20), ("ack", 20)]);
}
