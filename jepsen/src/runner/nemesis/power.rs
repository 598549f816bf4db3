//! All machines lose power at once: processes die, and disks keep what was synced. Of what was not, they lose what was in memory, and all or
//! some of what was in their caches ([`cache`](crate::os::cache)).

use std::io;

use super::{Fault, Install, Installed, Trouble, clock::shim};
use crate::{
    os::{cache::Lost, disk},
    report::Place,
};

/// Cuts the power of all nodes. It comes back at the end.
pub(super) fn lose_power<'a>(fault: &Fault<'a>) -> Install<'a> {
    let (cluster, nodes) = (fault.cluster(), fault.claim_all()?);
    let mut states: Vec<_> = nodes.iter().map(|node| (node, node.state())).collect();
    let down = states.iter().find(|(_, state)| !state.runs());
    if let Some((node, _)) = down {
        return Err(Trouble::Skipped(format!("{} is down", node.host)));
    }
    fault.begins();
    let mut victims = Vec::new();
    for (node, state) in &mut states {
        if let Some(process) = &mut state.process {
            victims.push((process, &node.disk));
        }
    }
    disk::lose_power(&mut victims)?;
    let (mut lost, mut unseen) = (Lost::default(), None);
    for (node, state) in &mut states {
        state.process = None;
        cluster.is_down(node, "lost power");
        let cache = shim(node)?.cache();
        let cache =
            cache.ok_or_else(|| io::Error::other(format!("the disk of {} loses nothing", node.host)))?;
        let seed = fault.number as u64 * 100 + node.id;
        let one = cache.lose(&node.disk.data(), seed)?;
        lost.unsynced += one.unsynced;
        lost.lost += one.lost;
        if one.seen == 0 {
            unseen = Some(format!("no write of {} could have been lost", node.host));
        }
    }
    drop(states);
    if let Some(why) = unseen {
        return Err(Trouble::Indeterminate(why));
    }
    let text = format!(
        "all nodes lose power, and {} of {} direct writes that were not synced",
        lost.lost, lost.unsynced
    );
    Ok(Installed {
        place: Place::All,
        text,
        undo: Some(Box::new(move || {
            for node in nodes {
                cluster.start(node)?;
            }
            Ok(String::new())
        })),
    })
}
