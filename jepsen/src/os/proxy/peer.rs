//! Which of our processes is at the other end of a connection on this machine: the kernel's table of connections has the socket's inode
//! (`/proc/net/tcp`), and a process's open files have it too. Needs no rights but those over one's own processes.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
};

use crate::os::link::HostId;

/// The host whose process has the socket that is bound to `peer` and connected to `local`.
pub(super) fn find(peer: SocketAddr, local: SocketAddr, processes: &BTreeMap<HostId, u32>) -> Option<HostId> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = inode(&table, peer, local)?;
    let wanted = format!("socket:[{inode}]");
    let has_it = |pid: u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        links.into_iter().any(|link| link.as_os_str() == wanted.as_str())
    };
    processes
        .iter()
        .find(|(_, pid)| has_it(**pid))
        .map(|(host, _)| *host)
}

/// Of the line whose own address is the first and whose other is the second.
fn inode(table: &str, own: SocketAddr, other: SocketAddr) -> Option<u64> {
    let (own, other) = (text(own)?, text(other)?);
    let lines = table
        .lines()
        .skip(1)
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let mut found =
        lines.filter(|fields| fields.get(1) == Some(&own.as_str()) && fields.get(2) == Some(&other.as_str()));
    found.next()?.get(9)?.parse().ok()
}

/// As the table has it: the address as a number in the machine's byte order, in hexadecimal.
fn text(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else {
        return None;
    };
    Some(format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(ip.octets()),
        address.port()
    ))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_process_at_the_other_end_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).unwrap();
        let peer = client.local_addr().unwrap();
        let (us, init) = (HostId::node(2).unwrap(), HostId::node(1).unwrap());
        let both = BTreeMap::from([(init, 1), (us, std::process::id())]);
        assert_eq!(find(peer, local, &both), Some(us));
        assert_eq!(find(peer, local, &BTreeMap::from([(init, 1)])), None);
        assert_eq!(find(local, local, &both), None);
    }
}
