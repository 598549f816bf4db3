//! What the faults that are under way make of the network's links.

use std::time::Duration;

use super::{Active, Faults};
use crate::{net::LinkSpec, plan::What};

/// One end of a link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// A machine.
    Node(usize),
    /// A host of clients.
    Client(usize),
}

impl End {
    fn is_client(self) -> bool {
        matches!(self, End::Client(_))
    }
}

impl Faults {
    pub(super) fn good_link(&self) -> LinkSpec {
        let micros = Duration::from_micros;
        LinkSpec::default().with_delay(micros(self.knobs.link_us.0), micros(self.knobs.link_us.1))
    }

    pub(super) fn set_links(&self) {
        let nodes = self.nodes.iter().enumerate();
        let nodes = nodes.map(|(number, node)| (End::Node(number), node.address()));
        let clients = self.clients.iter().enumerate();
        let clients = clients.map(|(number, host)| (End::Client(number), host.as_str()));
        let hosts: Vec<(End, &str)> = nodes.chain(clients).collect();
        for (from, from_host) in &hosts {
            for (to, to_host) in hosts.iter().filter(|(_, host)| host != from_host) {
                if from.is_client() && to.is_client() {
                    continue;
                }
                let mut spec = self.good_link();
                self.active
                    .iter()
                    .for_each(|active| active.spoil(*from, *to, &mut spec));
                if self.net.link(from_host, to_host) != spec {
                    self.net.change_link(from_host, to_host, |link| *link = spec);
                }
            }
        }
    }
}

impl Active {
    /// Adds what it does to a link.
    fn spoil(&self, from: End, to: End, spec: &mut LinkSpec) {
        let is_victim = |end: End| matches!(end, End::Node(number) if self.victims.contains(&number));
        let (sends, receives) = (is_victim(from), is_victim(to));
        let with_client = from.is_client() || to.is_client();
        match &self.what {
            What::Cut {
                sending,
                receiving,
                clients,
                only,
                ..
            } if *clients || !with_client => {
                let is_meant = |end: End| match end {
                    End::Node(number) => only.is_empty() || only.contains(&number),
                    End::Client(_) => only.is_empty(),
                };
                spec.cut |= sends && !receives && *sending && is_meant(to)
                    || receives && !sends && *receiving && is_meant(from);
            }
            What::CutClients { hosts, .. } if with_client => {
                let is_meant = |end: End| matches!(end, End::Client(number) if hosts.contains(&number));
                spec.cut |= (sends || receives) && (is_meant(from) || is_meant(to));
            }
            What::Clog { .. } if !with_client => spec.clogged |= sends != receives,
            What::BadLinks { links, .. } if sends || receives => {
                spec.mean += Duration::from_micros(links.mean_us);
                spec.jitter += Duration::from_micros(links.jitter_us);
                spec.loss = spec.loss.max(links.loss);
                spec.reset_before = spec.reset_before.max(links.reset_before);
                spec.reset_after = spec.reset_after.max(links.reset_after);
                spec.duplicate = spec.duplicate.max(links.duplicate);
                spec.replay = spec.replay.max(links.replay);
                let narrow = (links.bandwidth > 0).then_some(links.bandwidth);
                spec.bandwidth = [spec.bandwidth, narrow].into_iter().flatten().min();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::plan::Victims;

    /// The links that a fault of node 0 cuts, among three nodes and two hosts of clients.
    fn cut(what: What) -> Vec<String> {
        let active = Active {
            fault: 0,
            band: 0,
            what,
            victims: [0].into(),
            damage: Vec::new(),
            before: BTreeMap::new(),
        };
        let nodes = (0..3).map(|number| (format!("n{number}"), End::Node(number)));
        let clients = (0..2).map(|number| (format!("c{number}"), End::Client(number)));
        let ends: Vec<(String, End)> = nodes.chain(clients).collect();
        let mut cut = Vec::new();
        for (from, one) in &ends {
            for (to, other) in ends.iter().filter(|(to, _)| to != from) {
                let mut spec = LinkSpec::default();
                active.spoil(*one, *other, &mut spec);
                if spec.cut {
                    cut.push(format!("{from}-{to}"));
                }
            }
        }
        cut
    }

    fn victims() -> Victims {
        Victims::Nodes([0].into())
    }

    #[test]
    fn a_cut_is_between_its_victims_and_the_rest_or_some_of_it() {
        let between = |only: &[usize], clients, receiving| {
            cut(What::Cut {
                victims: victims(),
                sending: true,
                receiving,
                clients,
                only: only.iter().copied().collect::<BTreeSet<usize>>(),
            })
        };
        assert_eq!(between(&[], false, true), ["n0-n1", "n0-n2", "n1-n0", "n2-n0"]);
        assert_eq!(between(&[], true, false), ["n0-n1", "n0-n2", "n0-c0", "n0-c1"]);
        assert_eq!(between(&[2], false, true), ["n0-n2", "n2-n0"]);
        assert_eq!(between(&[2], true, true), ["n0-n2", "n2-n0"], "others are meant");
    }

    #[test]
    fn some_clients_are_cut_off_from_some_nodes() {
        let hosts = [1].into();
        let victims = victims();
        assert_eq!(cut(What::CutClients { victims, hosts }), ["n0-c1", "c1-n0"]);
    }
}
