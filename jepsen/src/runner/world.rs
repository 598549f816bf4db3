//! The machines of a run: their network, disks and clocks, made of what works here ([`os`](crate::os)), and what was not to be had.
//!
//! With namespaces each node is a host of its own behind the switch, and so are the clients; without, all are on loopback behind the
//! proxy. Nothing is started here ([`cluster`](super::cluster) does).

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    links::Links,
    options::Prepared,
    plan::{Mode, Nemesis},
    summary::programs,
};
use crate::{
    os::{
        capabilities::{Capability, Mechanism},
        capture::Capture,
        disk::{self, Disk, FileSystem},
        link::{HostId, LinkControl},
        netns::{self, Namespace},
        owner,
        proxy::Proxy,
        shim::{Library, Shim},
        switch::Switch,
    },
    workload::Program,
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

/// Removes what runs have left here that ended, and those of a process that has taken down all it could; returns its names.
///
/// # Errors
/// Something cannot be removed; the rest is.
pub fn sweep(scratch: &Path, guarded: Option<u32>) -> io::Result<Vec<String>> {
    let is_over = |run: owner::Run| !run.is_alive() || guarded.is_some_and(|pid| run.is_of(pid));
    // Both, whatever comes of the first.
    let (namespaces, disks) = (netns::sweep(is_over), disk::sweep(scratch, is_over));
    let mut removed = namespaces?;
    removed.extend(disks?);
    Ok(removed)
}

/// What is possible on this machine, for a run.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    capabilities: &'a [Capability],
    proxied: bool,
}

impl<'a> Here<'a> {
    /// What was tried; and the proxy is asked for. Without namespaces there is no choice.
    pub fn new(capabilities: &'a [Capability], proxy: bool) -> Self {
        let mut here = Self {
            capabilities,
            proxied: proxy,
        };
        here.proxied |= here.why_not(Mechanism::Namespaces).is_some();
        here
    }

    fn why_not(&self, mechanism: Mechanism) -> Option<&'a str> {
        let mut all = self.capabilities.iter();
        let found = all.find(|capability| capability.mechanism == mechanism)?;
        found.missing.as_deref()
    }

    /// Why a kind of fault cannot be had here; `None` if it can.
    pub fn missing(&self, nemesis: Nemesis) -> Option<&'a str> {
        let needed = nemesis.needs(self.proxied).iter();
        needed.copied().find_map(|mechanism| self.why_not(mechanism))
    }

    /// A kind of fault that is possible here can happen in this way, too.
    pub fn can(&self, mode: Mode) -> bool {
        !(self.proxied && mode.needs_packets())
    }
}

impl World {
    /// Makes machines of what works here.
    ///
    /// # Errors
    /// Those of the system; what was made until then is removed.
    pub fn create(wish: &Wish<'_>) -> io::Result<(Self, Vec<Machine>)> {
        let scratch = fs::canonicalize(wish.scratch)?;
        let run = owner::Run::new()?;
        let home = scratch.join(run.to_string());
        let made = Self::make(wish, &run, &scratch, &home);
        if made.is_err() {
            // Disks are unmounted by now. What cannot be removed is left to the guard.
            let _ = fs::remove_dir_all(&home);
        }
        made
    }

    fn make(
        wish: &Wish<'_>,
        run: &owner::Run,
        scratch: &Path,
        home: &Path,
    ) -> io::Result<(Self, Vec<Machine>)> {
        fs::create_dir_all(home)?;
        let here = Here::new(wish.capabilities, wish.proxy);
        let (network, addresses) = match here.proxied {
            false => switched(run, wish)?,
            true => proxied(wish)?,
        };
        let world = Self {
            network,
            home: home.to_owned(),
            capabilities: wish.capabilities.to_vec(),
        };
        let wants = |mechanism| {
            let needs = |nemesis: &Nemesis| nemesis.needs(here.proxied).contains(&mechanism);
            wish.nemeses.iter().any(needs) && here.why_not(mechanism).is_none()
        };
        let library = match wants(Mechanism::Shim) {
            true => Some(Library::build(home)?),
            false => None,
        };
        let mut machines = Vec::new();
        for (id, (host, listen, address)) in (1..).zip(addresses) {
            let name = host.to_string();
            let disk = match wants(Mechanism::DiskImages) {
                true => Disk::image(run, scratch, &name, DISK_BYTES, FileSystem::Ext4)?,
                false => Disk::directory(&home.join(&name))?,
            };
            let file = |kind| home.join(format!("{name}.{kind}"));
            let shim = match &library {
                Some(library) => {
                    let shim = Shim::create(library, &file("control"), &disk.data())?;
                    Some(match wants(Mechanism::DiskImages) {
                        true => shim.with_cache(&file("undo"))?,
                        false => shim,
                    })
                }
                None => None,
            };
            machines.push(Machine {
                id,
                host,
                listen,
                address,
                disk,
                shim,
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

    /// What this run cannot show: kinds of faults that were left out, ways of them that its schedule does not have, programs that were left
    /// out, and what the proxy does not do.
    pub fn not_covered(&self, prepared: &Prepared) -> Vec<String> {
        let left_out = prepared.left_out.iter();
        let mut texts: Vec<String> = left_out
            .map(|(nemesis, why)| format!("{nemesis}: {why}"))
            .collect();
        let unplanned = prepared.plan.unplanned().into_iter();
        texts.extend(unplanned.map(|mode| format!("{mode}: not in this schedule")));
        let programs = programs(&prepared.plan);
        let others = Program::NAMES
            .into_iter()
            .filter(|name| !programs.iter().any(|one| one == name));
        texts.extend(others.map(|name| format!("workload {name}: not asked for")));
        if self.is_proxied() {
            let here = Here::new(&self.capabilities, true);
            let why = here.why_not(Mechanism::Namespaces);
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
        let carried = match self.network {
            Network::Switch { switch, hosts } => {
                let carried = match Arc::into_inner(switch) {
                    Some(switch) => switch.stop(),
                    None => Err(io::Error::other("the switch is in use")),
                };
                drop(hosts);
                carried
            }
            Network::Proxy(proxy) => {
                drop(proxy);
                Ok(())
            }
        };
        // Both, whatever came of the first.
        let removed = fs::remove_dir_all(&self.home);
        carried.and(removed)
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
