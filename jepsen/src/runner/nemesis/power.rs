//! All machines lose power at once: processes die, and disks keep what was synced.

use super::{Fault, Install, Installed, Trouble};
use crate::{os::disk, report::Place};

/// Cuts the power of all nodes. It comes back at the end.
pub(super) fn lose_power<'a>(fault: &Fault<'a>) -> Install<'a> {
    let (cluster, nodes) = (fault.cluster(), fault.claim_all()?);
    let mut states: Vec<_> = nodes.iter().map(|node| (node, node.state())).collect();
    let down = states.iter().find(|(_, state)| !state.runs());
    if let Some((node, _)) = down {
        return Err(Trouble::Skipped(format!("{} is down", node.host)));
    }
    let mut victims = Vec::new();
    for (node, state) in &mut states {
        if let Some(process) = &mut state.process {
            victims.push((process, &node.disk));
        }
    }
    disk::lose_power(&mut victims)?;
    for (node, state) in &mut states {
        state.process = None;
        cluster.is_down(node, "lost power");
    }
    Ok(Installed {
        place: Place::All,
        text: "all nodes lose power".into(),
        undo: Some(Box::new(move || {
            for node in nodes {
                cluster.start(node)?;
            }
            Ok(String::new())
        })),
    })
}
