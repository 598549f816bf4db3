//! What the switch decides: which packet goes where, when, and what becomes of it. Time and packets are given, so all of it is the
//! same again for the same seed and the same packets.
//!
//! Every packet draws the same numbers from its link's stream of chance whatever the rules are, so that a rule which is added to a
//! link changes the fate of no packet that it does not name.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::Ipv4Addr,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::os::{
    capture::Fate,
    link::{HostId, Link, LinkRules, LinkStats},
};

/// Bytes that may be under way on one link; what is sent beyond is lost, as in a router's full queue.
pub(super) const MAX_UNDER_WAY: usize = 16 << 20;

/// A packet that has come to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) link: Link,
    pub(super) packet: Vec<u8>,
    /// The link was cut while the packet was under way: it is not to be delivered.
    pub(super) cut: bool,
}

/// A packet under way. Ordered by time, and those of one time as they were sent.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due: Duration,
    sequence: u64,
    link: Link,
    packet: Vec<u8>,
}

/// One link.
struct State {
    rules: LinkRules,
    chance: StdRng,
    stats: LinkStats,
    /// When the last packet arrives of those that may not be overtaken.
    last_due: Duration,
    /// When the last packet of all arrives.
    latest: Duration,
    bytes_under_way: usize,
}

/// All links and all packets under way.
pub(super) struct Core {
    seed: u64,
    hosts: BTreeSet<HostId>,
    links: BTreeMap<Link, State>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    sequence: u64,
}

impl Core {
    pub(super) fn new(hosts: impl IntoIterator<Item = HostId>, seed: u64) -> Self {
        Self {
            seed,
            hosts: hosts.into_iter().collect(),
            links: BTreeMap::new(),
            under_way: BinaryHeap::new(),
            sequence: 0,
        }
    }

    fn link(&mut self, link: Link) -> &mut State {
        let seed = self.seed;
        self.links.entry(link).or_insert_with(|| State {
            rules: LinkRules::default(),
            chance: chance(seed, link),
            stats: LinkStats::default(),
            last_due: Duration::ZERO,
            latest: Duration::ZERO,
            bytes_under_way: 0,
        })
    }

    pub(super) fn set(&mut self, link: Link, rules: LinkRules) {
        self.link(link).rules = rules;
    }

    pub(super) fn rules(&self, link: Link) -> LinkRules {
        self.links
            .get(&link)
            .map_or_else(LinkRules::default, |state| state.rules)
    }

    pub(super) fn heal(&mut self) {
        for state in self.links.values_mut() {
            state.rules = LinkRules::default();
        }
    }

    pub(super) fn stats(&self) -> BTreeMap<Link, LinkStats> {
        self.links
            .iter()
            .map(|(&link, state)| (link, state.stats))
            .collect()
    }

    /// Takes a packet that a host sends, and tells its link and its fate. `None` if it is not IPv4, or for no host here: such packets
    /// go nowhere.
    pub(super) fn accept(&mut self, now: Duration, from: HostId, packet: &[u8]) -> Option<(Link, Fate)> {
        let to = destination(packet).filter(|to| *to != from && self.hosts.contains(to))?;
        let link = Link { from, to };
        let state = self.link(link);
        let (loss, duplicate) = (state.chance.random::<f64>(), state.chance.random::<f64>());
        let jitter = [state.chance.random::<f64>(), state.chance.random::<f64>()];
        let rules = state.rules;
        if rules.cut {
            state.stats.cut += 1;
            return Some((link, Fate::Cut));
        }
        if loss < rules.loss {
            state.stats.lost += 1;
            return Some((link, Fate::Lost));
        }
        if state.bytes_under_way + packet.len() > MAX_UNDER_WAY {
            state.stats.overflowed += 1;
            return Some((link, Fate::Overflowed));
        }
        let twice = duplicate < rules.duplicate;
        state.stats.duplicated += u64::from(twice);
        state.stats.delayed += u64::from(!rules.delay.is_zero());
        let copies = if twice { 2 } else { 1 };
        let jitter = &jitter[..copies];
        let is_later = |share: &f64| !rules.jitter.mul_f64(*share).is_zero();
        state.stats.jittered += u64::from(jitter.iter().any(is_later));
        let (before, mut first, mut last) = (state.latest, Duration::MAX, Duration::ZERO);
        for share in jitter {
            let due = self.send(now, link, *share, packet);
            (first, last) = (first.min(due), last.max(due));
        }
        let state = self.link(link);
        state.stats.overtaking += u64::from(rules.reorder && first < before);
        state.latest = before.max(last);
        let after = first.saturating_sub(now);
        Some((link, Fate::Forwarded { after, twice }))
    }

    /// Puts one copy on its way, and tells when it arrives. `share` is how much of the jitter it gets.
    fn send(&mut self, now: Duration, link: Link, share: f64, packet: &[u8]) -> Duration {
        let state = self.link(link);
        let rules = state.rules;
        let mut due = now + rules.delay + rules.jitter.mul_f64(share);
        if !rules.reorder {
            due = due.max(state.last_due);
            state.last_due = due;
        }
        state.bytes_under_way += packet.len();
        self.sequence += 1;
        self.under_way.push(Reverse(UnderWay {
            due,
            sequence: self.sequence,
            link,
            packet: packet.to_vec(),
        }));
        due
    }

    /// When the next packet arrives.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.under_way.peek().map(|Reverse(next)| next.due)
    }

    /// The next packet that has arrived by now.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Arrival> {
        self.next_due().filter(|due| *due <= now)?;
        let Reverse(UnderWay { link, packet, .. }) = self.under_way.pop()?;
        let state = self.link(link);
        state.bytes_under_way -= packet.len();
        let cut = state.rules.cut;
        if cut {
            state.stats.cut += 1;
        } else {
            state.stats.delivered += 1;
            state.stats.delivered_bytes += packet.len() as u64;
        }
        Some(Arrival { link, packet, cut })
    }

    /// Corrects the figures for a packet that the receiver's device did not take.
    pub(super) fn refused(&mut self, link: Link, len: usize) {
        let stats = &mut self.link(link).stats;
        stats.delivered -= 1;
        stats.delivered_bytes -= len as u64;
        stats.overflowed += 1;
    }
}

/// A stream of its own for each link.
fn chance(seed: u64, link: Link) -> StdRng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = link.from.number();
    key[9] = link.to.number();
    StdRng::from_seed(key)
}

/// Where an IPv4 packet wants to go.
fn destination(packet: &[u8]) -> Option<HostId> {
    if packet.first()? >> 4 != 4 {
        return None;
    }
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    HostId::of_address(Ipv4Addr::from(address))
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
