//! What holds on each link while several faults are under way at once: a link is cut as long as one of them cuts it, and the rest adds
//! up. Also which links a cut means. Pure but for the one call that changes a link.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;

use super::plan::{CLIENTS, Cut};
use crate::os::link::{HostId, Link, LinkControl, LinkRules, LinkStats};

/// A host by its number in a plan.
///
/// # Errors
/// There is none of this number.
pub fn host(number: u64) -> Result<HostId, String> {
    if number == CLIENTS {
        return Ok(HostId::CLIENTS);
    }
    HostId::node(number).ok_or_else(|| format!("there is no host {number}"))
}

/// The links of a cut, as pairs of hosts. `leader` is who leads the shard that the cut names, if it names one.
pub fn cut_links(cut: &Cut, nodes: u64, leader: Option<u64>) -> Vec<(u64, u64)> {
    let all = || 1..=nodes;
    let between = |one: &BTreeSet<u64>, other: &BTreeSet<u64>, both: bool| {
        let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
        let pairs = pairs.flat_map(|(a, b)| [(a, b), (b, a)].into_iter().take(if both { 2 } else { 1 }));
        pairs.collect()
    };
    let rest = |side: &BTreeSet<u64>| all().filter(|node| !side.contains(node)).collect::<BTreeSet<_>>();
    match cut {
        Cut::Halves { side } => {
            let side = side.iter().copied().collect();
            between(&side, &rest(&side), true)
        }
        Cut::OneWay { from } => {
            let from = from.iter().copied().collect();
            between(&from, &rest(&from), false)
        }
        Cut::Bridge { side, bridge } => {
            let side: BTreeSet<u64> = side.iter().copied().collect();
            let mut other = rest(&side);
            other.remove(bridge);
            between(&side, &other, true)
        }
        Cut::Leader { .. } => {
            let side: BTreeSet<u64> = leader.into_iter().collect();
            between(&side, &rest(&side), true)
        }
        Cut::LeaderWithClients { .. } => {
            let mut side: BTreeSet<u64> = leader.into_iter().collect();
            let rest = rest(&side);
            if !side.is_empty() {
                side.insert(CLIENTS);
            }
            between(&side, &rest, true)
        }
        Cut::LeaderWithoutClients { .. } => {
            let side = leader.into_iter().collect();
            between(&side, &BTreeSet::from([CLIENTS]), true)
        }
    }
}

/// All links from and to these hosts, of all hosts of a cluster with its clients.
pub fn links_of(hosts: &[HostId], nodes: u64) -> Vec<Link> {
    let mut all: Vec<HostId> = (1..=nodes).filter_map(HostId::node).collect();
    all.push(HostId::CLIENTS);
    let touches = |link: &Link| hosts.contains(&link.from) || hosts.contains(&link.to);
    Link::among(&all).into_iter().filter(touches).collect()
}

/// What two faults do to a link together.
fn together(one: LinkRules, other: LinkRules) -> LinkRules {
    LinkRules {
        cut: one.cut || other.cut,
        delay: one.delay + other.delay,
        jitter: one.jitter + other.jitter,
        reorder: one.reorder || other.reorder,
        loss: 1.0 - (1.0 - one.loss) * (1.0 - other.loss),
        duplicate: 1.0 - (1.0 - one.duplicate) * (1.0 - other.duplicate),
    }
}

type Effects = BTreeMap<usize, Vec<(Link, LinkRules)>>;

/// The faults on links that are under way, by number.
pub struct Links {
    control: Arc<dyn LinkControl>,
    effects: Mutex<Effects>,
}

impl Links {
    /// All links are perfect.
    pub fn new(control: Arc<dyn LinkControl>) -> Self {
        Self {
            control,
            effects: Mutex::default(),
        }
    }

    /// What became so far of all that was sent over these links.
    pub fn stats(&self, links: &[Link]) -> LinkStats {
        let stats = self.control.stats();
        let of = links.iter().filter_map(|link| stats.get(link));
        of.fold(LinkStats::default(), |all, one| all + *one)
    }

    /// What carries them.
    pub fn control(&self) -> &dyn LinkControl {
        &*self.control
    }

    /// A fault begins.
    pub fn begin(&self, fault: usize, rules: Vec<(Link, LinkRules)>) {
        let mut effects = self.effects.lock();
        let touched = rules.iter().map(|(link, _)| *link).collect();
        effects.insert(fault, rules);
        self.apply(&effects, touched);
    }

    /// A fault is over.
    pub fn end(&self, fault: usize) {
        let mut effects = self.effects.lock();
        let ended = effects.remove(&fault).unwrap_or_default();
        self.apply(&effects, ended.iter().map(|(link, _)| *link).collect());
    }

    /// All faults are over.
    pub fn heal(&self) {
        self.effects.lock().clear();
        self.control.heal();
    }

    fn apply(&self, effects: &Effects, touched: BTreeSet<Link>) {
        for link in touched {
            let rules = effects.values().flatten().filter(|(of, _)| *of == link);
            let rules = rules.fold(LinkRules::default(), |all, (_, one)| together(all, *one));
            self.control.set(link, rules);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Default, Clone)]
    struct Fake(Arc<Mutex<BTreeMap<Link, LinkRules>>>);

    impl LinkControl for Fake {
        fn set(&self, link: Link, rules: LinkRules) {
            self.0.lock().insert(link, rules);
        }

        fn rules(&self, link: Link) -> LinkRules {
            self.0.lock().get(&link).copied().unwrap_or_default()
        }

        fn stats(&self) -> BTreeMap<Link, LinkStats> {
            BTreeMap::new()
        }

        fn heal(&self) {
            self.0.lock().clear();
        }
    }

    fn link(from: u64, to: u64) -> Link {
        Link {
            from: host(from).unwrap(),
            to: host(to).unwrap(),
        }
    }

    #[test]
    fn faults_that_overlap_do_not_undo_each_other() {
        let fake = Fake::default();
        let links = Links::new(Arc::new(fake.clone()));
        let cut = LinkRules {
            cut: true,
            ..LinkRules::default()
        };
        let slow = LinkRules {
            delay: Duration::from_millis(5),
            loss: 0.5,
            ..LinkRules::default()
        };
        links.begin(1, vec![(link(1, 2), cut), (link(2, 1), cut)]);
        links.begin(2, vec![(link(1, 2), slow)]);
        links.begin(3, vec![(link(1, 2), slow)]);
        let both = links.control().rules(link(1, 2));
        assert!(both.cut && both.delay == Duration::from_millis(10) && (both.loss - 0.75).abs() < 1e-9);
        links.end(1);
        assert!(!fake.rules(link(1, 2)).cut && fake.rules(link(2, 1)) == LinkRules::default());
        links.end(2);
        assert_eq!(fake.rules(link(1, 2)), slow);
        links.heal();
        links.end(3);
        assert_eq!(fake.rules(link(1, 2)), LinkRules::default());
    }

    #[test]
    fn cuts_are_these_links() {
        let halves = Cut::Halves { side: vec![3] };
        let mut both = cut_links(&halves, 3, None);
        both.sort_unstable();
        assert_eq!(both, [(1, 3), (2, 3), (3, 1), (3, 2)]);
        let one_way = Cut::OneWay { from: vec![2] };
        assert_eq!(cut_links(&one_way, 3, None), [(2, 1), (2, 3)]);
        let bridge = Cut::Bridge {
            side: vec![1, 2],
            bridge: 3,
        };
        let cut = cut_links(&bridge, 5, None);
        assert!(cut.len() == 8 && cut.iter().all(|(a, b)| *a != 3 && *b != 3));
        let leader = Cut::Leader { shard: 1 };
        assert_eq!(cut_links(&leader, 2, Some(2)), [(2, 1), (1, 2)]);
        assert_eq!(cut_links(&leader, 2, None), []);
        let mut kept = cut_links(&Cut::LeaderWithClients { shard: 1 }, 3, Some(2));
        kept.sort_unstable();
        let all = [(0, 1), (0, 3), (1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (3, 2)];
        assert_eq!(kept, all, "clients and node 2 are one side");
        let without = Cut::LeaderWithoutClients { shard: 1 };
        assert_eq!(cut_links(&without, 3, Some(2)), [(2, 0), (0, 2)]);
        for cut in [Cut::LeaderWithClients { shard: 1 }, without] {
            assert_eq!(cut_links(&cut, 3, None), []);
        }
    }

    #[test]
    fn a_host_has_links_to_all_others_and_the_clients() {
        let links = links_of(&[host(1).unwrap()], 3);
        assert_eq!(links.len(), 6);
        assert!(links.contains(&link(CLIENTS, 1)) && links.contains(&link(1, 3)));
        assert!(host(100).is_err());
    }
}
