//! A cluster of three nodes, a client, and trouble: a run to look at, and to compare with itself.
//!
//! Kills, power losses, pauses, cuts, and clocks that run wrong come at random times; a client writes and reads all the while. At the
//! end all is healed, and every acknowledged write must be there. It is not the search for faults: that has plans and checkers.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use kvsvr::config::Settings;
use kvsvr_client::{Client, ClientConfig, Partition};
use kvsvr_proto::v1::BootstrapRequest;
use madsim::runtime::{Handle, Runtime};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    net::{Fate, SimNet},
    node::SimNode,
    random::Stream,
};

const KEYS: u64 = 16;

/// What happened in a run.
#[derive(Debug, Default)]
pub struct Summary {
    /// Simulated time.
    pub simulated: Duration,
    /// Writes that were acknowledged, and those whose outcome is an error or unknown.
    pub writes: (u64, u64),
    /// Reads that were answered, and those that failed.
    pub reads: (u64, u64),
    /// How often each kind of trouble came.
    pub trouble: BTreeMap<&'static str, u64>,
    /// Messages by fate.
    pub messages: BTreeMap<Fate, u64>,
    /// Processes that ended by themselves, with their reasons.
    pub ended: Vec<String>,
    /// What is wrong: acknowledged writes that are gone.
    pub lost: Vec<String>,
    /// The network's hash of all that it did.
    pub hash: u64,
    /// A number drawn at the end: another measure of whether two runs were the same.
    pub unseed: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "simulated    {:?}", self.simulated)?;
        writeln!(
            f,
            "writes       {} acknowledged, {} not",
            self.writes.0, self.writes.1
        )?;
        writeln!(f, "reads        {} answered, {} not", self.reads.0, self.reads.1)?;
        for (what, times) in &self.trouble {
            writeln!(f, "trouble      {what}: {times}")?;
        }
        for (fate, count) in &self.messages {
            writeln!(f, "messages     {fate:?}: {count}")?;
        }
        for ended in &self.ended {
            writeln!(f, "ended        {ended}")?;
        }
        for lost in &self.lost {
            writeln!(f, "LOST         {lost}")?;
        }
        write!(f, "hash         {:016x} {:016x}", self.hash, self.unseed)
    }
}

/// Runs the demo with a seed for this much simulated time.
pub fn run(seed: u64, length: Duration) -> Summary {
    kvsvr::time::skewed::forget_all();
    Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(world(seed, length))
}

#[derive(Clone)]
struct World {
    net: SimNet,
    nodes: Vec<SimNode>,
    summary: Arc<Mutex<Summary>>,
}

async fn world(seed: u64, length: Duration) -> Summary {
    let begin = Instant::now();
    let net = SimNet::new(seed);
    let addresses: Vec<String> = (1..=3).map(|number| format!("node{number}:7101")).collect();
    let node = |address: &String| SimNode::new(seed, net.clone(), address, Settings::default());
    let world = World {
        nodes: addresses.iter().map(node).collect(),
        net: net.clone(),
        summary: Arc::default(),
    };
    world.nodes.iter().for_each(|node| {
        node.start();
    });
    let host = Handle::current().create_node().name("client").build();
    let endpoint = net.boot("client", host.clone());
    let client_world = world.clone();
    let client = host.spawn(async move {
        let transport = Arc::new(endpoint);
        let client = Client::with_transport(transport, ClientConfig::new(addresses.clone()));
        let client = client.map_err(|error| format!("{error:?}"))?;
        bootstrap(&client, &addresses).await?;
        let acknowledged = client_world.load(&client, seed, begin + length).await;
        Ok::<_, String>((client, acknowledged))
    });
    let trouble = world.trouble(seed, begin + length);
    let (loaded, ()) = futures::join!(client, trouble);
    world.heal();
    match loaded {
        Ok(Ok((client, acknowledged))) => {
            let checking = world.clone();
            let checked = host.spawn(async move { checking.check(&client, acknowledged).await });
            if checked.await.is_err() {
                world.summary.lock().lost.push("the check did not end".into());
            }
        }
        Ok(Err(error)) => world.summary.lock().lost.push(error),
        Err(_) => world.summary.lock().lost.push("the client did not end".into()),
    }
    world.sum_up(begin)
}

async fn bootstrap(client: &Client, addresses: &[String]) -> Result<(), String> {
    let request = BootstrapRequest {
        addresses: addresses.to_vec(),
        shards: 2,
        replication: 3,
        ..Default::default()
    };
    sleep(Duration::from_secs(1)).await;
    let done = client.bootstrap(request).await;
    done.map(|_| ())
        .map_err(|error| format!("cannot bootstrap: {error:?}"))
}

impl World {
    fn count(&self, what: &'static str) {
        *self.summary.lock().trouble.entry(what).or_default() += 1;
    }

    /// Writes rising numbers to a few keys, and reads. What was acknowledged last, by key.
    async fn load(&self, client: &Client, seed: u64, until: Instant) -> BTreeMap<u64, u64> {
        let partition = Partition::local("demo");
        let mut chance = Stream::new(seed, &[&"load"]);
        let mut acknowledged = BTreeMap::new();
        let mut number = 0;
        while Instant::now() < until {
            let key = chance.below(KEYS);
            number += 1;
            let written = client
                .put(&partition, format!("key{key}"), number.to_string())
                .await;
            let read = client.get(&partition, format!("key{}", chance.below(KEYS))).await;
            if written.is_ok() {
                acknowledged.insert(key, number);
            }
            self.note(written.is_ok(), read.is_ok());
            let pause = chance.exponential(Duration::from_millis(10));
            sleep(pause).await;
        }
        acknowledged
    }

    fn note(&self, written: bool, read: bool) {
        let mut summary = self.summary.lock();
        let tell = |counts: &mut (u64, u64), good: bool| match good {
            true => counts.0 += 1,
            false => counts.1 += 1,
        };
        tell(&mut summary.writes, written);
        tell(&mut summary.reads, read);
    }

    async fn trouble(&self, seed: u64, until: Instant) {
        let mut chance = Stream::new(seed, &[&"trouble"]);
        sleep(Duration::from_secs(5)).await;
        while Instant::now() < until {
            let victim = self.nodes[chance.index(self.nodes.len())].clone();
            let lasts = chance.log_uniform(Duration::from_millis(50), Duration::from_secs(4));
            match chance.below(7) {
                0 => {
                    self.count("kill");
                    victim.kill();
                }
                1 => {
                    self.count("power loss");
                    victim.power_off();
                }
                2 => {
                    self.count("pause");
                    victim.pause();
                }
                3 => {
                    self.count("cut");
                    self.cut(&victim, &mut chance);
                }
                4 => {
                    self.count("power loss of all");
                    self.nodes.iter().for_each(SimNode::power_off);
                }
                5 => {
                    self.count("bad links");
                    self.spoil_links();
                }
                _ => {
                    self.count("clock");
                    victim.clock().set_rate(0.9 + 0.2 * chance.unit());
                    victim
                        .clock()
                        .set_wall_offset_ms(chance.below(20_000) as i64 - 10_000);
                }
            }
            sleep(lasts).await;
            self.nodes.iter().for_each(|node| {
                node.resume();
                node.start();
            });
            self.net.heal();
            sleep(chance.exponential(Duration::from_secs(1))).await;
        }
    }

    /// Every link between nodes loses, breaks and repeats.
    fn spoil_links(&self) {
        for from in &self.nodes {
            for to in self.nodes.iter().filter(|to| to.address() != from.address()) {
                self.net.change_link(from.address(), to.address(), |spec| {
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

    /// Cuts some of the directions between a node and the others.
    fn cut(&self, victim: &SimNode, chance: &mut Stream) {
        for other in self
            .nodes
            .iter()
            .filter(|other| other.address() != victim.address())
        {
            for (from, to) in [(victim, other), (other, victim)] {
                let cut = chance.chance(0.7);
                self.net
                    .change_link(from.address(), to.address(), |spec| spec.cut = cut);
            }
        }
    }

    fn heal(&self) {
        self.net.heal();
        for node in &self.nodes {
            node.clock().set_rate(1.0);
            node.resume();
            node.start();
        }
    }

    /// Every acknowledged number must be there, or a later one of the same key.
    async fn check(&self, client: &Client, acknowledged: BTreeMap<u64, u64>) {
        let partition = Partition::local("demo");
        for (key, number) in acknowledged {
            let reading = async {
                loop {
                    match client.get(&partition, format!("key{key}")).await {
                        Ok(read) => return read,
                        Err(_) => sleep(Duration::from_millis(100)).await,
                    }
                }
            };
            let found = match timeout(Duration::from_secs(60), reading).await {
                Ok(read) => read.value.map(|value| value.value),
                Err(_) => None,
            };
            let text = found.as_ref().and_then(|value| std::str::from_utf8(value).ok());
            if text
                .and_then(|text| text.parse().ok())
                .is_none_or(|there: u64| there < number)
            {
                let lost = format!("key{key}: {number} was acknowledged, {text:?} is there");
                self.summary.lock().lost.push(lost);
            }
        }
    }

    fn sum_up(&self, begin: Instant) -> Summary {
        let mut summary = std::mem::take(&mut *self.summary.lock());
        summary.simulated = begin.elapsed();
        for ((_, _, fate), count) in self.net.counts() {
            *summary.messages.entry(fate).or_default() += count;
        }
        for node in &self.nodes {
            let by_itself = node.ended().into_iter().filter(|ended| ended.by_itself());
            summary.ended.extend(by_itself.map(|ended| {
                format!(
                    "{} process {} at {:?}: {}",
                    node.address(),
                    ended.process,
                    ended.at,
                    ended.reason
                )
            }));
        }
        summary.hash = self.net.hash();
        summary.unseed = madsim::rand::random();
        summary
    }
}
