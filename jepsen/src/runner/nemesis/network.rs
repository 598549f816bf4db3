//! Links that are cut, slow, lossy or repeating. A fault that did to no packet what it is to show is skipped: the links count; those
//! between nodes and those of clients each for itself.

use std::time::Duration;

use super::{Fault, Install, Installed, Trouble};
use crate::{
    os::link::{HostId, Link, LinkRules, LinkStats},
    report::Place,
    runner::{
        links::{cut_links, host, links_of},
        plan::{Action, BadLink, CLIENTS, Cut},
    },
};

/// Cuts links.
pub(super) fn partition<'a>(fault: &Fault<'a>, cut: &Cut) -> Install<'a> {
    let cluster = fault.cluster();
    let leader = match cut.shard() {
        Some(shard) => Some(fault.leader(shard)?),
        None => None,
    };
    let pairs = cut_links(cut, cluster.nodes().len() as u64, leader);
    let link = |(from, to): &(u64, u64)| -> Result<(Link, LinkRules), String> {
        let rules = LinkRules {
            cut: true,
            ..LinkRules::default()
        };
        let (from, to) = (host(*from)?, host(*to)?);
        Ok((Link { from, to }, rules))
    };
    let rules: Result<Vec<_>, _> = pairs.iter().map(link).collect();
    let text = match cut {
        Cut::Halves { side } => format!("nodes {side:?} are cut off"),
        Cut::OneWay { from } => format!("what nodes {from:?} send is lost"),
        Cut::Bridge { side, bridge } => {
            format!("nodes {side:?} are cut off from all but node {bridge}")
        }
        Cut::Leader { shard } => format!("{}, is cut off", leads(leader, *shard)),
        Cut::LeaderWithClients { shard } => {
            format!("{}, is cut off with all clients", leads(leader, *shard))
        }
        Cut::LeaderWithoutClients { shard } => {
            format!("{}, is cut off from all clients", leads(leader, *shard))
        }
    };
    Ok(begin(
        fault,
        rules.map_err(Trouble::Skipped)?,
        |stats| stats.cut,
        place(leader, cut),
        text,
    ))
}

fn leads(leader: Option<u64>, shard: u32) -> String {
    format!("node {}, which leads shard {shard}", leader.unwrap_or(0))
}

/// One-way cuts are shown at the senders.
fn place(leader: Option<u64>, cut: &Cut) -> Place {
    let side: Vec<u64> = match cut {
        Cut::Halves { side } | Cut::OneWay { from: side } | Cut::Bridge { side, .. } => side.clone(),
        Cut::Leader { .. } | Cut::LeaderWithClients { .. } | Cut::LeaderWithoutClients { .. } => {
            leader.into_iter().collect()
        }
    };
    Place::Nodes(side.iter().map(|node| (node - 1) as u32).collect())
}

/// Makes links bad.
pub(super) fn bad_links<'a>(fault: &Fault<'a>, action: &Action) -> Install<'a> {
    let Action::Link {
        shows,
        hosts,
        delay_ms,
        jitter_ms,
        reorder,
        loss,
        duplicate,
    } = action
    else {
        return Err(Trouble::Skipped("no fault of links".into()));
    };
    let rules = LinkRules {
        cut: false,
        delay: Duration::from_millis(*delay_ms),
        jitter: Duration::from_millis(*jitter_ms),
        reorder: *reorder,
        loss: loss / 100.0,
        duplicate: duplicate / 100.0,
    };
    let bad: Result<Vec<_>, _> = hosts.iter().map(|number| host(*number)).collect();
    let nodes = fault.cluster().nodes().len() as u64;
    let links = links_of(&bad.map_err(Trouble::Skipped)?, nodes);
    let text = format!(
        "links of {}: {delay_ms} ms and up to {jitter_ms} ms more{}, {loss} % lost, {duplicate} % twice",
        hosts
            .iter()
            .map(|host| match *host {
                CLIENTS => "clients".to_owned(),
                node => format!("n{node}"),
            })
            .collect::<Vec<_>>()
            .join(" "),
        if *reorder { " out of order" } else { "" },
    );
    let nodes: Vec<u32> = hosts
        .iter()
        .filter(|host| **host != CLIENTS)
        .map(|node| (node - 1) as u32)
        .collect();
    let place = match nodes.is_empty() {
        true => Place::All,
        false => Place::Nodes(nodes),
    };
    let rules = links.into_iter().map(|link| (link, rules)).collect();
    Ok(begin(fault, rules, shown_by(*shows), place, text))
}

/// The packets to which it has happened.
fn shown_by(shows: BadLink) -> fn(LinkStats) -> u64 {
    match shows {
        BadLink::Delay => |stats| stats.delayed,
        BadLink::Jitter => |stats| stats.jittered,
        BadLink::Reordering => |stats| stats.overtaking,
        BadLink::Loss => |stats| stats.lost,
        BadLink::Duplicates => |stats| stats.duplicated,
    }
}

fn begin<'a>(
    fault: &Fault<'a>,
    rules: Vec<(Link, LinkRules)>,
    shown: fn(LinkStats) -> u64,
    place: Place,
    text: String,
) -> Installed<'a> {
    let (links, number) = (&fault.cluster().links, fault.number);
    let is_client = |link: &Link| link.from == HostId::CLIENTS || link.to == HostId::CLIENTS;
    let all = rules.iter().map(|(link, _)| *link);
    let (of_clients, of_nodes): (Vec<Link>, Vec<Link>) = all.partition(is_client);
    let counted = move |of: &[Link]| shown(links.stats(of));
    let before = [counted(&of_clients), counted(&of_nodes)];
    fault.begins();
    links.begin(number, rules);
    Installed {
        place,
        text,
        undo: Some(Box::new(move || {
            let mut touched = Vec::new();
            for (of, before) in [&of_clients, &of_nodes].into_iter().zip(before) {
                touched.push((of, counted(of) - before));
            }
            links.end(number);
            match touched
                .iter()
                .find(|(of, packets)| *packets == 0 && !of.is_empty())
            {
                Some((of, _)) => {
                    let whose = if is_client(&of[0]) { "clients" } else { "nodes" };
                    Err(Trouble::Skipped(format!("it happened to no packet of {whose}")))
                }
                None => {
                    let packets: u64 = touched.iter().map(|(_, packets)| packets).sum();
                    Ok(format!(" ({packets} packets)"))
                }
            }
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_bad_links_is_shown_by_its_own_count() {
        let counts = LinkStats {
            delivered: 99,
            delayed: 1,
            jittered: 2,
            overtaking: 3,
            lost: 4,
            duplicated: 5,
            ..LinkStats::default()
        };
        let all = [
            BadLink::Delay,
            BadLink::Jitter,
            BadLink::Reordering,
            BadLink::Loss,
            BadLink::Duplicates,
        ];
        assert_eq!(all.map(|shows| shown_by(shows)(counts)), [1, 2, 3, 4, 5]);
    }
}
