//! What a nemesis may do to the network, whatever carries it: hosts, directed links, and the rules of each.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, ops::Add, time::Duration};

/// A host: a node by its id, or where clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(u8);

impl HostId {
    /// The host that the harness's own clients are.
    pub const CLIENTS: HostId = HostId(200);

    /// A node. `None` unless the id is one from 1 to 99.
    pub fn node(id: u64) -> Option<Self> {
        u8::try_from(id).ok().filter(|id| (1..100).contains(id)).map(Self)
    }

    /// Its address in the network that the switch carries, 10.78.0.0/24.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 0, self.0)
    }

    /// The host of an address. Any last number: the caller knows which hosts there are.
    pub fn of_address(address: Ipv4Addr) -> Option<Self> {
        match address.octets() {
            [10, 78, 0, host] => Some(Self(host)),
            _ => None,
        }
    }

    pub(super) fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::CLIENTS {
            return write!(f, "clients");
        }
        write!(f, "n{}", self.0)
    }
}

/// One direction between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Who sends.
    pub from: HostId,
    /// Who receives.
    pub to: HostId,
}

impl Link {
    /// All links among these hosts, in order.
    pub fn among(hosts: &[HostId]) -> Vec<Link> {
        let of = |from: HostId| {
            let others = hosts.iter().filter(move |to| **to != from);
            others.map(move |&to| Link { from, to })
        };
        let mut links: Vec<Link> = hosts.iter().flat_map(|&from| of(from)).collect();
        links.sort_unstable();
        links
    }

    /// The other direction.
    pub fn reverse(self) -> Link {
        Link {
            from: self.to,
            to: self.from,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}>{}", self.from, self.to)
    }
}

/// How a link behaves. The default is a perfect one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkRules {
    /// Nothing arrives, not even what is under way.
    pub cut: bool,
    /// The least time of travel, added to what the machine takes.
    pub delay: Duration,
    /// What is added evenly from nothing up to this.
    pub jitter: Duration,
    /// Jitter may let a packet overtake an earlier one; otherwise it waits behind it.
    pub reorder: bool,
    /// Probability that a packet is lost. The proxy, which sees no packets, breaks the connection instead.
    pub loss: f64,
    /// Probability that a packet arrives twice. The proxy cannot do that.
    pub duplicate: f64,
}

/// What became of all that was sent over a link. For the switch these are packets, for the proxy pieces of a connection's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Given to the receiver; a duplicate counts again.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Lost by chance; for the proxy, connections broken by chance.
    pub lost: u64,
    /// Lost because the link was cut, when it was sent or while it was under way; for the proxy, held back by a cut.
    pub cut: u64,
    /// Sent once more by chance.
    pub duplicated: u64,
    /// Sent while there was a least time of travel.
    pub delayed: u64,
    /// Sent while something by chance was added to it.
    pub jittered: u64,
    /// Arrive before one that was sent earlier; the proxy lets nothing do that.
    pub overtaking: u64,
    /// Lost because too much was under way, or the receiver's device took no more.
    pub overflowed: u64,
}

impl Add for LinkStats {
    type Output = Self;

    /// Of two links together.
    fn add(self, other: Self) -> Self {
        Self {
            delivered: self.delivered + other.delivered,
            delivered_bytes: self.delivered_bytes + other.delivered_bytes,
            lost: self.lost + other.lost,
            cut: self.cut + other.cut,
            duplicated: self.duplicated + other.duplicated,
            delayed: self.delayed + other.delayed,
            jittered: self.jittered + other.jittered,
            overtaking: self.overtaking + other.overtaking,
            overflowed: self.overflowed + other.overflowed,
        }
    }
}

/// What carries the links of a cluster.
pub trait LinkControl: Send + Sync {
    /// Changes a link from now on. What is under way keeps its time of arrival, but does not cross a cut.
    fn set(&self, link: Link, rules: LinkRules);

    /// How a link behaves now.
    fn rules(&self, link: Link) -> LinkRules;

    /// What became of all packets so far, for each link that has rules or has carried something.
    fn stats(&self) -> BTreeMap<Link, LinkStats>;

    /// Makes every link perfect.
    fn heal(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_addresses_and_names() {
        let node = HostId::node(7).unwrap();
        assert_eq!(node.address().to_string(), "10.78.0.7");
        for host in [node, HostId::CLIENTS] {
            assert_eq!(HostId::of_address(host.address()), Some(host));
        }
        assert_eq!(HostId::of_address(Ipv4Addr::new(10, 79, 0, 7)), None);
        assert_eq!(
            (HostId::node(0), HostId::node(100), HostId::node(257)),
            (None, None, None)
        );
        assert_eq!(format!("{node} {}", HostId::CLIENTS), "n7 clients");
    }

    #[test]
    fn links_among_hosts_are_all_pairs_in_both_directions() {
        let hosts: Vec<HostId> = (1..=3).filter_map(HostId::node).collect();
        let links: Vec<String> = Link::among(&hosts).iter().map(Link::to_string).collect();
        assert_eq!(links, ["n1>n2", "n1>n3", "n2>n1", "n2>n3", "n3>n1", "n3>n2"]);
        let first = Link::among(&hosts)[0];
        assert_eq!(first.reverse().to_string(), "n2>n1");
    }
}
