//! A cluster of `kvsvr serve` processes on this machine.
//!
//! All processes of a cluster are in the process group of a guard, a shell that waits for the end of its input and then kills its
//! group: so no node outlives the test, whatever way the test ends. Ports lie below the range from which the system takes the ports of
//! outgoing connections; otherwise such a connection could hold the port of a node that is down, and keep it from coming back.

use std::{
    fmt::Display,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use kvsvr_client::{Client, ClientConfig, ReadFrom, proto as pb};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// The node's binary: the one built with this test, or another build of it.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("KVSVR_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_kvsvr").into(), PathBuf::from)
}

/// Runs the node's binary to its end, without input: its exit code, and all that it has printed.
pub(crate) fn run(arguments: &[&str]) -> (i32, String) {
    let ran = Command::new(binary())
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let ran = ran.unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (
        ran.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// kvctl, which is no program of this package: the build of the tests has put it beside the node. Or another build of it.
pub(crate) fn kvctl() -> PathBuf {
    let beside = || Path::new(env!("CARGO_BIN_EXE_kvsvr")).with_file_name("kvctl");
    let path = std::env::var_os("KVSVR_TEST_KVCTL").map_or_else(beside, PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: cargo build -p kvctl makes it",
        path.display()
    );
    path
}

/// Time that anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of each node's log that are printed when a test fails.
const LOG_TAIL: usize = 40;

/// True when the sizes of a proof are wanted.
pub(crate) fn proving() -> bool {
    std::env::var_os("KVSVR_PROVE").is_some_and(|v| v == "1")
}

/// A size: for CI, and for a proof.
pub(crate) fn size<T>(ci: T, proof: T) -> T {
    if proving() { proof } else { ci }
}

/// Prints a scenario's figures.
pub(crate) fn report(name: &str, figures: impl Display) {
    println!("prove: {name}: {figures}");
}

/// Asks until there is an answer; panics with what it waited for when there is none in time.
pub(crate) async fn eventually<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A port that no other test uses while this lives.
pub(crate) struct Port {
    number: u16,
    /// The UDP port of the same number is the reservation: the node itself needs the TCP port.
    _reserved: UdpSocket,
}

impl Port {
    pub(crate) fn reserve() -> Port {
        Port::reserve_where(Port::reserve_number)
    }

    /// Two ports, so far apart.
    pub(crate) fn reserve_pair(distance: u16) -> [Port; 2] {
        Port::reserve_where(|number| {
            Some([
                Port::reserve_number(number)?,
                Port::reserve_number(number + distance)?,
            ])
        })
    }

    fn reserve_where<T>(mut reserve: impl FnMut(u16) -> Option<T>) -> T {
        (0..10_000)
            .find_map(|_| reserve(rand::random_range(10_000..30_000)))
            .expect("there are free ports between 10000 and 32000")
    }

    fn reserve_number(number: u16) -> Option<Port> {
        let reserved = UdpSocket::bind(("127.0.0.1", number)).ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Port {
            number,
            _reserved: reserved,
        })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

/// Kills its process group when it is dropped, or when the test dies.
pub(crate) struct Guard {
    process: Child,
    input: Option<ChildStdin>,
}

impl Guard {
    pub(crate) fn start() -> Guard {
        let mut command = Command::new("sh");
        command
            .args(["-c", "read -r _; kill -9 0"])
            .stdin(Stdio::piped())
            .process_group(0);
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take();
        Guard { process, input }
    }

    pub(crate) fn group(&self) -> i32 {
        self.process.id().cast_signed()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.input.take());
        self.process.wait().unwrap();
    }
}

/// One node: its place, and its process if it runs.
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) http: String,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    process: Option<Child>,
    _ports: [Port; 2],
}

impl Node {
    fn place(dir: &Path, n: usize) -> Node {
        let ports = [Port::reserve(), Port::reserve()];
        Node {
            address: ports[0].address(),
            http: ports[1].address(),
            data: dir.join(format!("n{n}")),
            log: dir.join(format!("n{n}.log")),
            process: None,
            _ports: ports,
        }
    }

    fn pid(&self) -> Pid {
        let id = self.process.as_ref().expect("the node runs").id();
        Pid::from_raw(id.cast_signed()).unwrap()
    }

    /// What it has logged since it was first started.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// True if the log has all of `parts`, in one line.
    pub(crate) fn logged(&self, parts: &[&str]) -> bool {
        self.log_text()
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// `GET path` on its HTTP port: status code and body.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.http).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.http
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    }

    /// The value of a metric, the sum over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").expect("the HTTP port answers");
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let of_metric = rest.starts_with(' ') || rest.starts_with('{');
            of_metric
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())
                .flatten()
        });
        values.sum()
    }
}

/// A cluster.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    settings: Vec<String>,
    /// Asks nodes for their status.
    admin: Client,
    pub(crate) dir: tempfile::TempDir,
    guard: Guard,
}

impl Cluster {
    /// Starts `nodes` nodes with these settings (`KEY=VALUE`), makes a cluster with `shards` data shards of them and waits until it
    /// serves.
    pub(crate) async fn start(nodes: usize, shards: u32, settings: &[&str]) -> Cluster {
        Cluster::start_replicated(nodes, shards, nodes, settings).await
    }

    /// The same with so many replicas of each shard.
    pub(crate) async fn start_replicated(
        nodes: usize,
        shards: u32,
        replication: usize,
        settings: &[&str],
    ) -> Cluster {
        let mut cluster = Cluster::create(nodes, settings);
        for i in 0..nodes {
            cluster.start_node(i);
        }
        for i in 0..nodes {
            eventually("the node answers", PATIENCE, async || cluster.identify(i).await).await;
        }
        let request = pb::BootstrapRequest {
            addresses: cluster.addresses(),
            shards,
            replication: u32::try_from(replication).unwrap(),
            cluster_name: "test".into(),
        };
        cluster
            .admin
            .with_timeout(PATIENCE)
            .bootstrap(request)
            .await
            .expect("bootstrap");
        cluster.wait_ready().await;
        cluster
    }

    /// The nodes' places; nothing runs.
    pub(crate) fn create(nodes: usize, settings: &[&str]) -> Cluster {
        let dir = tempfile::Builder::new()
            .prefix("kvsvr-cluster-")
            .tempdir()
            .unwrap();
        let nodes: Vec<Node> = (1..=nodes).map(|n| Node::place(dir.path(), n)).collect();
        let config = ClientConfig::new(nodes.iter().map(|n| n.address.clone()));
        Cluster {
            admin: Client::new(config).unwrap().with_timeout(Duration::from_secs(2)),
            nodes,
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            dir,
            guard: Guard::start(),
        }
    }

    /// One more place for a node, which is started and belongs to no cluster.
    pub(crate) async fn start_newcomer(&mut self) -> usize {
        let i = self.nodes.len();
        self.nodes.push(Node::place(self.dir.path(), i + 1));
        self.start_node(i);
        eventually("the new node answers", PATIENCE, async || self.identify(i).await).await;
        i
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.address.clone()).collect()
    }

    /// The command line that runs a node.
    pub(crate) fn command(&self, i: usize) -> Command {
        let node = &self.nodes[i];
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", &node.address, "--http", &node.http]);
        command.arg("--data").arg(&node.data);
        // Three nodes and their clients share the machine.
        command.args(["--set", "worker_threads=2"]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        // Neither this test's variables nor settings of who runs it.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("KVSVR_")) {
                command.env_remove(name);
            }
        }
        command.process_group(self.guard.group());
        command
    }

    pub(crate) fn start_node(&mut self, i: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.nodes[i].log)
            .unwrap();
        let process = self
            .command(i)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        assert!(
            self.nodes[i].process.replace(process).is_none(),
            "node {i} runs already"
        );
    }

    /// More settings for the nodes that are started from now on.
    pub(crate) fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    pub(crate) fn running(&self, i: usize) -> bool {
        self.nodes[i].process.is_some()
    }

    /// kill -9 of several nodes: all get the signal before the first is waited for.
    pub(crate) fn kill(&mut self, nodes: &[usize]) {
        for i in nodes {
            self.signal(*i, Signal::KILL);
        }
        for i in nodes {
            self.nodes[*i].process.take().unwrap().wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, i: usize, signal: Signal) {
        kill_process(self.nodes[i].pid(), signal).unwrap();
    }

    /// True if a node's process has ended by itself; it is still to be waited for.
    pub(crate) fn has_ended(&mut self, i: usize) -> bool {
        self.nodes[i]
            .process
            .as_mut()
            .is_some_and(|process| process.try_wait().unwrap().is_some())
    }

    /// Waits until a node has ended by itself.
    pub(crate) async fn ended(&mut self, i: usize, within: Duration) -> ExitStatus {
        let process = &mut self.nodes[i].process;
        let status = eventually("the process ends", within, async || {
            process.as_mut().unwrap().try_wait().unwrap()
        })
        .await;
        *process = None;
        status
    }

    async fn identify(&self, i: usize) -> Option<pb::IdentifyResponse> {
        self.admin.identify(&self.nodes[i].address).await.ok()
    }

    /// What a node says of itself, if it answers.
    pub(crate) async fn status(&self, i: usize) -> Option<pb::NodeStatus> {
        self.admin.status(&self.nodes[i].address).await.ok()
    }

    /// What a node says of its replica of a shard, if it answers.
    pub(crate) async fn replica(&self, i: usize, shard: u32) -> Option<pb::ReplicaStatus> {
        self.status(i)
            .await?
            .replicas
            .into_iter()
            .find(|r| r.shard == shard)
    }

    /// Waits until the nodes that run have nothing to complain about.
    pub(crate) async fn wait_ready(&self) {
        for i in (0..self.nodes.len()).filter(|i| self.running(*i)) {
            self.wait_node_ready(i).await;
        }
    }

    pub(crate) async fn wait_node_ready(&self, i: usize) {
        eventually(&format!("node {} is ready", i + 1), PATIENCE, async || {
            let status = self.status(i).await?;
            (status.messages.is_empty() && status.replicas.len() > 1).then_some(())
        })
        .await;
    }

    /// The node (its place in `nodes`) that leads a shard: all running nodes agree.
    pub(crate) async fn leader(&self, shard: u32) -> usize {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|i| self.running(*i)).collect();
        let id = eventually(&format!("a leader of shard {shard}"), PATIENCE, async || {
            let mut said = Vec::new();
            for i in &running {
                let replica = self.replica(*i, shard).await?;
                said.push((replica.term, replica.leader));
            }
            let agreed = said[0].1 != 0 && said.iter().all(|s| *s == said[0]);
            agreed.then(|| said[0].1)
        })
        .await;
        usize::try_from(id).unwrap() - 1
    }

    /// Waits until a node has applied what the others have.
    pub(crate) async fn wait_caught_up(&self, i: usize) {
        let peers: Vec<usize> = (0..self.nodes.len())
            .filter(|p| *p != i && self.running(*p))
            .collect();
        eventually(
            &format!("node {} has caught up", i + 1),
            PATIENCE * 2,
            async || {
                let own = self.status(i).await?;
                for peer in &peers {
                    for theirs in self.status(*peer).await?.replicas {
                        let own = own.replicas.iter().find(|r| r.shard == theirs.shard)?;
                        // Under load they are never equal: within what is in flight.
                        if own.applied_index + 16 < theirs.applied_index || own.leader == 0 {
                            return None;
                        }
                    }
                }
                Some(())
            },
        )
        .await;
    }

    /// Waits until all replicas of a shard are at one applied index, and asserts that their states are the same.
    pub(crate) async fn assert_equal_states(&self, shard: u32) {
        let (index, hashes) = eventually(&format!("equal indices in shard {shard}"), PATIENCE, async || {
            let mut found = Vec::new();
            for node in self.nodes.iter().filter(|n| n.process.is_some()) {
                let admin = self.admin.with_timeout(PATIENCE);
                found.push(admin.state_hash(&node.address, shard).await.ok()?);
            }
            let index = found[0].applied_index;
            let equal = found.iter().all(|f| f.applied_index == index);
            equal.then(|| (index, found.iter().map(|f| f.hash).collect::<Vec<_>>()))
        })
        .await;
        assert!(
            hashes.iter().all(|h| *h == hashes[0]),
            "shard {shard} at index {index}: states differ: {hashes:x?}"
        );
    }

    /// Asserts the same while a shard is written to: of the states after one entry that is yet to come.
    pub(crate) async fn assert_equal_states_under_load(&self, shard: u32, hosts: &[usize]) {
        let hashes = self.states_under_load(shard, hosts).await;
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");
    }

    /// The hashes of those states, in the order of `hosts`.
    pub(crate) async fn states_under_load(&self, shard: u32, hosts: &[usize]) -> Vec<u64> {
        eventually("all replicas are asked in time", PATIENCE, async || {
            let last = self.replica(hosts[0], shard).await?.last_index;
            let admin = self.admin.with_timeout(PATIENCE);
            let asked = hosts.iter().map(|i| {
                let address = &self.nodes[*i].address;
                admin.state_hash_at(address, shard, last + 64)
            });
            let found = futures::future::join_all(asked).await;
            let found: Vec<_> = found.into_iter().collect::<Result<_, _>>().ok()?;
            let at_once = found.iter().all(|f| f.applied_index == last + 64);
            at_once.then(|| found.iter().map(|f| f.hash).collect::<Vec<_>>())
        })
        .await
    }

    /// A client of all nodes, with sessions.
    pub(crate) async fn client(&self) -> Client {
        self.client_of(&self.addresses(), ReadFrom::Leader).await
    }

    /// A client that first knows these nodes.
    pub(crate) async fn client_of(&self, addresses: &[String], read_from: ReadFrom) -> Client {
        let config = ClientConfig {
            read_from,
            ..ClientConfig::new(addresses.iter().cloned())
        };
        eventually("a client connects", PATIENCE, async || {
            Client::connect(config.clone()).await.ok()
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                print_tail(&node.log);
            }
        }
        // To look at them.
        if let Some(to) = std::env::var_os("KVSVR_KEEP_LOGS") {
            for node in &self.nodes {
                let _ = fs::copy(
                    &node.log,
                    Path::new(&to).join(node.log.file_name().unwrap_or_default()),
                );
            }
        }
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

pub(crate) fn print_tail(log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    println!("---- {} ({} lines) ----", log.display(), lines.len());
    for line in &lines[lines.len().saturating_sub(LOG_TAIL)..] {
        println!("{line}");
    }
}

/// Median and maximum, for people.
pub(crate) fn p50_and_max(mut times: Vec<Duration>) -> String {
    times.sort();
    match times.last() {
        Some(max) => {
            let median = times[times.len() / 2];
            format!(
                "p50 {} ms, max {} ms of {}",
                median.as_millis(),
                max.as_millis(),
                times.len()
            )
        }
        None => "none".to_owned(),
    }
}
