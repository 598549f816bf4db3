//! The machines of a run: their network, disks and clocks, made of what works here ([`os`](crate::os)), and what was not to be had.
//!
//! With namespaces each node is a host of its own behind the switch, and so are the clients; without, all are on loopback behind the
//! proxy. Nothing is started here ([`cluster`](super::cluster) does).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{links::Links, plan::Nemesis};
use crate::os::{
    capabilities::{Capability, Mechanism},
    capture::Capture,
    disk::{self, Disk, FileSystem},
    link::{HostId, LinkControl},
    netns::{self, Namespace},
    owner,
    proxy::Proxy,
    shim::{Library, Shim},
    switch::Switch,
};

/// The port of every node that has a host of its own.
const PORT: u16 = 7101;
/// Bytes of a node's disk image. It takes only what is written.
const DISK_BYTES: u64 = 2 << 30;
/// Bytes of one file of the capture; there are two at most.
const CAPTURE_BYTES: u64 = 48 << 20;
/// Ports of nodes on loopback, below those that the system gives to outgoing connections: one of these could hold the port of a node
/// that is down.
const LOOPBACK_PORTS: std::ops::Range<u16> = 10_000..32_000;

/// What a node is given.
#[derive(Debug)]
pub struct Machine {
    /// Its number, from 1 on.
    pub id: u64,
    /// Its host.
    pub host: HostId,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where others reach it.
    pub address: SocketAddr,
    /// Where its files are.
    pub disk: Disk,
    /// What lets its clocks and files fail.
    pub shim: Option<Shim>,
}

enum Network {
    Switch {
        switch: Arc<Switch>,
        hosts: BTreeMap<HostId, Namespace>,
    },
    Proxy(Arc<Proxy>),
}

/// The network and what belongs to all machines. Everything is taken down when it is dropped, after the processes.
pub struct World {
    network: Network,
    home: PathBuf,
    capabilities: Vec<Capability>,
}

/// What a world is made for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// How many nodes.
    pub nodes: u64,
    /// Of all chance on the links.
    pub seed: u64,
    /// What is to happen.
    pub nemeses: &'a [Nemesis],
    /// What was tried on this machine.
    pub capabilities: &'a [Capability],
    /// Loopback and the proxy, even if there could be namespaces.
    pub proxy: bool,
    /// The directory in which disks are made; it exists.
    pub scratch: &'a Path,
    /// The file that packets are captured in.
    pub capture: &'a Path,
}

/// Removes what runs have left here that were killed, and returns its names.
///
/// # Errors
/// Something cannot be removed.
pub fn sweep(scratch: &Path) -> io::Result<Vec<String>> {
    let mut removed = netns::sweep()?;
    removed.extend(disk::sweep(scratch)?);
    Ok(removed)
}

/// Why a kind of fault cannot be had here; `None` if it can.
pub fn missing(nemesis: Nemesis, capabilities: &[Capability]) -> Option<&str> {
    let needed = nemesis.needs()?;
    let found = capabilities
        .iter()
        .find(|capability| capability.mechanism == needed)?;
    found.missing.as_deref()
}

impl World {
    /// Makes machines of what works here.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(wish: &Wish<'_>) -> io::Result<(Self, Vec<Machine>)> {
        let scratch = fs::canonicalize(wish.scratch)?;
        let run = owner::Run::new()?;
        let home = scratch.join(run.to_string());
        fs::create_dir_all(&home)?;
        let works = |mechanism| {
            let mut capabilities = wish.capabilities.iter();
            let found = capabilities.find(|capability| capability.mechanism == mechanism);
            found.is_some_and(|capability| capability.missing.is_none())
        };
        let (network, addresses) = if works(Mechanism::Namespaces) && !wish.proxy {
            switched(&run, wish)?
        } else {
            proxied(wish)?
        };
        let world = Self {
            network,
            home,
            capabilities: wish.capabilities.to_vec(),
        };
        let wants = |mechanism| {
            let needs = |nemesis: &Nemesis| nemesis.needs() == Some(mechanism);
            wish.nemeses.iter().any(needs) && works(mechanism)
        };
        let library = match wants(Mechanism::Shim) {
            true => Some(Library::build(&world.home)?),
            false => None,
        };
        let mut machines = Vec::new();
        for (id, (host, listen, address)) in (1..).zip(addresses) {
            let name = host.to_string();
            let disk = match wants(Mechanism::DiskImages) {
                true => Disk::image(&run, &scratch, &name, DISK_BYTES, FileSystem::Ext4)?,
                false => Disk::directory(&world.home.join(&name))?,
            };
            let control = world.home.join(format!("{name}.control"));
            let shim = library
                .as_ref()
                .map(|library| Shim::create(library, &control, &disk.data()));
            machines.push(Machine {
                id,
                host,
                listen,
                address,
                disk,
                shim: shim.transpose()?,
            });
        }
        Ok((world, machines))
    }

    /// The faults of links.
    pub fn links(&self) -> Links {
        Links::new(match &self.network {
            Network::Switch { switch, .. } => Arc::clone(switch) as Arc<dyn LinkControl>,
            Network::Proxy(proxy) => Arc::clone(proxy) as Arc<dyn LinkControl>,
        })
    }

    /// The namespace of a host, if there are any.
    pub fn namespace(&self, host: HostId) -> Option<&Namespace> {
        match &self.network {
            Network::Switch { hosts, .. } => hosts.get(&host),
            Network::Proxy(_) => None,
        }
    }

    /// Moves the calling thread, and those that it starts from now on, to where clients are.
    ///
    /// # Errors
    /// Those of the system.
    pub fn enter(&self) -> io::Result<()> {
        self.namespace(HostId::CLIENTS).map_or(Ok(()), Namespace::enter)
    }

    /// The process that a host is from now on.
    pub fn set_process(&self, host: HostId, pid: Option<u32>) {
        if let Network::Proxy(proxy) = &self.network {
            proxy.set_process(host, pid);
        }
    }

    /// Links are those of the proxy.
    pub fn is_proxied(&self) -> bool {
        matches!(self.network, Network::Proxy(_))
    }

    /// What this run cannot show: kinds of faults that were left out, and what the proxy does not do.
    pub fn not_covered(&self, left_out: &BTreeSet<Nemesis>) -> Vec<String> {
        let mut texts = Vec::new();
        for nemesis in left_out {
            let why = missing(*nemesis, &self.capabilities).unwrap_or("not possible here");
            texts.push(format!("{nemesis}: {why}"));
        }
        if self.is_proxied() {
            let why = self.capabilities.iter().find_map(|capability| {
                let missing = capability.missing.as_deref();
                missing.filter(|_| capability.mechanism == Mechanism::Namespaces)
            });
            texts.push(format!(
                "packets: nodes are on loopback behind a proxy, which does not repeat or reorder, breaks connections instead of losing \
                 packets, and captures nothing ({})",
                why.unwrap_or("it was asked for")
            ));
        }
        texts
    }

    /// Ends the network, after all processes, and removes all files of the machines.
    ///
    /// # Errors
    /// The switch did not carry packets until now, or something cannot be removed.
    pub fn stop(self) -> io::Result<()> {
        if let Network::Switch { switch, hosts } = self.network {
            let switch = Arc::into_inner(switch).ok_or_else(|| io::Error::other("the switch is in use"))?;
            switch.stop()?;
            drop(hosts);
        }
        fs::remove_dir_all(&self.home)
    }
}

type Addresses = Vec<(HostId, SocketAddr, SocketAddr)>;

fn hosts(nodes: u64) -> io::Result<Vec<HostId>> {
    let host = |id| HostId::node(id).ok_or_else(|| io::Error::other("at most 99 nodes"));
    (1..=nodes).map(host).collect()
}

fn switched(run: &owner::Run, wish: &Wish<'_>) -> io::Result<(Network, Addresses)> {
    let nodes = hosts(wish.nodes)?;
    let (mut namespaces, mut ports) = (BTreeMap::new(), BTreeMap::new());
    for host in nodes.iter().copied().chain([HostId::CLIENTS]) {
        let (namespace, device) = Namespace::create(run, host)?;
        namespaces.insert(host, namespace);
        ports.insert(host, device);
    }
    let ids: Vec<HostId> = ports.keys().copied().collect();
    let capture = Capture::create(wish.capture, &ids, CAPTURE_BYTES)?;
    let switch = Switch::start(ports, wish.seed, Some(capture))?;
    let network = Network::Switch {
        switch: Arc::new(switch),
        hosts: namespaces,
    };
    let address = |host: HostId| SocketAddr::from((host.address(), PORT));
    let addresses = nodes.into_iter().map(|host| (host, address(host), address(host)));
    Ok((network, addresses.collect()))
}

fn proxied(wish: &Wish<'_>) -> io::Result<(Network, Addresses)> {
    let proxy = Proxy::start(wish.seed)?;
    let mut addresses = Vec::new();
    // Where the search begins differs between processes, so that two runs do not meet.
    let span = u32::from(LOOPBACK_PORTS.end - LOOPBACK_PORTS.start);
    let first = (std::process::id() * 131) % span;
    let mut candidates = (0..span).map(|at| LOOPBACK_PORTS.start + ((first + at) % span) as u16);
    for host in hosts(wish.nodes)? {
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = candidates.find(is_free);
        let port = port.ok_or_else(|| io::Error::other("no free port on loopback"))?;
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let address = proxy.expose(host, SocketAddr::from(([127, 0, 0, 1], 0)), listen)?;
        addresses.push((host, listen, address));
    }
    Ok((Network::Proxy(Arc::new(proxy)), addresses))
}
