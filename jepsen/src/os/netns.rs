//! Hosts on this machine: network namespaces, each with a loopback and one TUN device whose other end is the caller's (the
//! [`switch`](super::switch)). No bridge, no virtual cable: nothing leaves a namespace but through that end.
//!
//! A node is started in a namespace by [`process`](super::process). The harness's own clients need sockets in one too: a thread calls
//! [`Namespace::enter`] before it builds its tokio runtime; the runtime's threads are started by it and inherit the namespace.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::Ipv4Addr,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
    thread,
};

use rustix::{
    fs::OFlags,
    ioctl::{self, Updater, opcode},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    command::{context, run},
    link::HostId,
    owner::Run,
};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// The device's name in each namespace.
const DEVICE: &str = "net0";
/// Bytes of the largest packet. Larger than Ethernet's, so that a busy cluster makes fewer packets for the switch.
const MTU: u32 = 9000;
/// Packets that wait for the switch in a device, so that a burst is not lost there.
const QUEUE: u32 = 10_000;

/// One host. It is removed when this is dropped, and with it whatever its sockets still had.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    host: HostId,
    handle: File,
}

impl Namespace {
    /// Makes the namespace of a host, and returns it with the other end of its device, which does not block. Each read of it is one
    /// IPv4 or IPv6 packet that the host sends, each write one that it receives.
    pub fn create(run_of: &Run, host: HostId) -> io::Result<(Self, File)> {
        let name = format!("{run_of}.{host}");
        run("ip", &["netns", "add", &name], "")?;
        let opened = File::open(Path::new(NAMES).join(&name));
        let handle = opened
            .map_err(context("open a namespace"))
            .inspect_err(|_| remove(&name))?;
        let namespace = Self { name, host, handle };
        let device = namespace.open_device()?;
        namespace.configure()?;
        Ok((namespace, device))
    }

    /// Its name for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which host it is.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.host.address()
    }

    /// What `setns` takes.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Moves the calling thread, for the rest of its life, to this host. Threads that it starts from then on are there too; others
    /// and open sockets are not moved.
    pub fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| context(format!("enter {}", self.name))(error.into()))
    }

    /// A device belongs to the namespace of the thread that opens it, so a thread of its own does.
    fn open_device(&self) -> io::Result<File> {
        thread::scope(|scope| {
            let opener = scope.spawn(|| {
                self.enter()?;
                open_tun(DEVICE)
            });
            opener
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that opens a device panicked")))
        })
    }

    fn configure(&self) -> io::Result<()> {
        let address = self.address();
        let script = format!(
            "addr add {address}/24 dev {DEVICE}\nlink set {DEVICE} mtu {MTU} txqueuelen {QUEUE} up\nlink set lo up\n"
        );
        run("ip", &["-n", &self.name, "-batch", "-"], &script)?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// What cannot be removed now stays for the sweep.
fn remove(name: &str) {
    let _ = run("ip", &["netns", "delete", name], "");
}

/// The structure `ifreq` of netdevice(7), as TUNSETIFF takes it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const IFF_TUN: u16 = 1;
/// No header before each packet.
const IFF_NO_PI: u16 = 0x1000;
/// Linux: include/uapi/linux/if_tun.h.
const TUNSETIFF: ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// Opens a new TUN device in the calling thread's namespace. It is gone when the file is closed.
#[expect(unsafe_code, reason = "ioctl TUNSETIFF has no safe wrapper")]
pub(super) fn open_tun(name: &str) -> io::Result<File> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/net/tun")
        .map_err(context("open /dev/net/tun"))?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    // The last byte stays zero: it ends the name.
    for (to, from) in request.name[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is 40 bytes on the 64-bit systems that this is built for, as
    // `InterfaceRequest` is.
    let result = unsafe { ioctl::ioctl(&device, Updater::<TUNSETIFF, _>::new(&mut request)) };
    result.map_err(|error| context("make a TUN device")(error.into()))?;
    Ok(device)
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// Removes the namespaces of runs that are over, and returns their names.
///
/// # Errors
/// One of them cannot be removed; the others are.
pub fn sweep(is_over: impl Fn(Run) -> bool) -> io::Result<Vec<String>> {
    // Who may not remove them has made none.
    if !rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let entries = match fs::read_dir(NAMES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(context(format!("list {NAMES}")))?,
    };
    let (mut removed, mut result) = (Vec::new(), Ok(()));
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !Run::of_name(&name).is_some_and(&is_over) {
            continue;
        }
        match run("ip", &["netns", "delete", &name], "") {
            Ok(_) => removed.push(name),
            // Its owner, or another sweep, has removed it since it was listed.
            Err(_) if !Path::new(NAMES).join(&name).exists() => {}
            Err(error) => result = Err(error),
        }
    }
    removed.sort_unstable();
    result.map(|()| removed)
}
