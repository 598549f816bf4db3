//! A switch in user space: it carries IPv4 packets between hosts over their TUN devices, and makes each directed link cut, slow,
//! lossy or repeating. One thread moves all packets; `switch/core.rs` decides about them.
//!
//! It needs no kernel module (`sch_netem` is often missing) and works per direction, which is what makes one-way cuts possible. It does
//! not limit bandwidth.

mod core;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, ErrorKind, Read as _, Write as _},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use self::core::{Arrival, Core};
use super::{
    capture::{Capture, Fate, HEADER_BYTES, PacketRecord},
    command::context,
    link::{HostId, Link, LinkControl, LinkRules, LinkStats},
};

/// Packets taken from one device before the others get their turn.
const BATCH: usize = 64;
/// The largest packet that a device can give.
const MAX_PACKET: usize = 65_535;

/// A running switch. It stops when it is dropped; [`Switch::stop`] also tells what went wrong.
pub struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

struct Shared {
    core: Mutex<Core>,
    stop: AtomicBool,
    /// Wakes the thread, to see that it is to stop.
    wake: OwnedFd,
}

impl Switch {
    /// Starts to carry packets between these hosts, over devices that do not block. The seed decides all chance. The capture gets
    /// every packet's header.
    pub fn start(ports: BTreeMap<HostId, File>, seed: u64, capture: Option<Capture>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(ports.keys().copied(), seed)),
            stop: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let worker = Worker {
            ports: ports.into_iter().collect(),
            shared: Arc::clone(&shared),
            started: Instant::now(),
            started_wall: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
            capture,
        };
        let thread = thread::Builder::new()
            .name("switch".into())
            .spawn(move || worker.run())
            .map_err(context("start the switch's thread"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Stops, completes the capture, and tells whether packets were carried until now.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.shared.stop.store(true, Ordering::Release);
        rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes())?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the switch's thread panicked")))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Who wants to know calls `stop`.
        let _ = self.end();
    }
}

impl LinkControl for Switch {
    fn set(&self, link: Link, rules: LinkRules) {
        self.shared.core.lock().set(link, rules);
    }

    fn rules(&self, link: Link) -> LinkRules {
        self.shared.core.lock().rules(link)
    }

    fn stats(&self) -> BTreeMap<Link, LinkStats> {
        self.shared.core.lock().stats()
    }

    fn heal(&self) {
        self.shared.core.lock().heal();
    }
}

/// What the thread owns.
struct Worker {
    ports: Vec<(HostId, File)>,
    shared: Arc<Shared>,
    started: Instant,
    /// The wall clock then, since the epoch: what the capture's times count from.
    started_wall: Duration,
    capture: Option<Capture>,
}

impl Worker {
    fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; MAX_PACKET];
        while !self.shared.stop.load(Ordering::Acquire) {
            for port in self.wait()? {
                self.take(port, &mut buffer)?;
            }
            self.deliver()?;
        }
        self.capture.map_or(Ok(()), Capture::finish)
    }

    /// The ports that have packets, when there are some or a packet under way has arrived.
    fn wait(&self) -> io::Result<Vec<usize>> {
        let next = self.shared.core.lock().next_due();
        let timeout = next.map(|due| {
            let left = due.saturating_sub(self.started.elapsed());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut fds: Vec<PollFd<'_>> = self
            .ports
            .iter()
            .map(|(_, file)| PollFd::new(file, PollFlags::IN))
            .collect();
        fds.push(PollFd::new(&self.shared.wake, PollFlags::IN));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(context("wait for packets")(error.into())),
        }
        let ready = fds.iter().take(self.ports.len()).enumerate();
        Ok(ready
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(port, _)| port)
            .collect())
    }

    /// Takes what a host has sent.
    fn take(&mut self, port: usize, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..BATCH {
            let (host, file) = &self.ports[port];
            let host = *host;
            let mut file: &File = file;
            let len = match file.read(buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(context(format!("read from the device of {host}"))(error)),
            };
            let packet = &buffer[..len];
            let now = self.started.elapsed();
            let decided = self.shared.core.lock().accept(now, host, packet);
            if let Some((link, fate)) = decided {
                self.record(now, link, packet, fate)?;
            }
        }
        Ok(())
    }

    /// Gives the hosts what has arrived for them.
    fn deliver(&mut self) -> io::Result<()> {
        loop {
            let now = self.started.elapsed();
            let Some(Arrival { link, packet, cut }) = self.shared.core.lock().pop_due(now) else {
                return Ok(());
            };
            if cut {
                self.record(now, link, &packet, Fate::CutUnderWay)?;
                continue;
            }
            let port = self.ports.iter().find(|(host, _)| *host == link.to);
            let written = port.map(|(_, file)| {
                let mut file: &File = file;
                file.write(&packet)
            });
            if !matches!(written, Some(Ok(_))) {
                self.shared.core.lock().refused(link, packet.len());
                self.record(now, link, &packet, Fate::Overflowed)?;
            }
        }
    }

    fn record(&mut self, now: Duration, link: Link, packet: &[u8], fate: Fate) -> io::Result<()> {
        let Some(capture) = &mut self.capture else {
            return Ok(());
        };
        capture.record(&PacketRecord {
            at: self.started_wall + now,
            link,
            length: packet.len(),
            headers: packet[..packet.len().min(HEADER_BYTES)].to_vec(),
            fate,
        })
    }
}
