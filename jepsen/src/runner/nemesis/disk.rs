//! Disks that are slow, full or failing. A node whose disk fails may end; it is started again when its disk is good.

use std::time::Duration;

use super::{Fault, Install, Installed, Trouble, at, clock::shim, shown};
use crate::{
    os::shim::{DiskFaults, Failure},
    report::Place,
    runner::{
        cluster::{Cluster, Node},
        plan::FailingCall,
    },
};

/// Makes syncs of nodes slow. Does not hold them: what else happens to their disks is left as it is.
pub(super) fn slow<'a>(fault: &Fault<'a>, nodes: &[u64], delay_ms: u64) -> Install<'a> {
    let cluster = fault.cluster();
    let nodes: Result<Vec<&Node>, _> = nodes.iter().map(|id| cluster.node(*id)).collect();
    let nodes = nodes?;
    let delay = Duration::from_millis(delay_ms);
    for node in &nodes {
        node.change_disk(|faults| faults.sync_delay = delay)?;
    }
    let names: Vec<String> = nodes.iter().map(|node| node.host.to_string()).collect();
    Ok(Installed {
        place: Place::Nodes(nodes.iter().map(|node| shown(node)).collect()),
        text: format!("syncs of {} take {delay_ms} ms longer", names.join(" ")),
        undo: Some(Box::new(move || {
            for node in nodes {
                node.change_disk(|faults| faults.sync_delay = Duration::ZERO)?;
            }
            Ok(String::new())
        })),
    })
}

/// Takes the space of a node's disk.
pub(super) fn full<'a>(fault: &Fault<'a>, node: u64, leave_mib: u64) -> Install<'a> {
    let (cluster, node) = (fault.cluster(), fault.claim(Some(node))?);
    node.state().excuse();
    let ballast = node.disk.fill(leave_mib << 20)?;
    Ok(Installed {
        place: at(node),
        text: format!("disk of {} has {leave_mib} MiB left", node.host),
        undo: Some(Box::new(move || {
            drop(ballast);
            Ok(start_if_ended(cluster, node)?)
        })),
    })
}

/// Lets files of a node fail. Reads are all in its start: what it has in memory it does not read, so it is killed and started before.
pub(super) fn error<'a>(fault: &Fault<'a>, node: u64, call: FailingCall) -> Install<'a> {
    let (cluster, node) = (fault.cluster(), fault.claim(Some(node))?);
    let before = shim(node)?.injected()?;
    if call == FailingCall::Read {
        cluster.kill(node)?;
    }
    node.state().excuse();
    let what = match call {
        FailingCall::Sync => "syncs fail with EIO",
        FailingCall::Write => "writes fail with EIO",
        FailingCall::NoSpace => "writes fail with ENOSPC",
        FailingCall::Read => "reads fail with EIO",
    };
    node.change_disk(|faults| match call {
        FailingCall::Sync => faults.sync = Some(Failure::InputOutput),
        FailingCall::Write => faults.write = Some(Failure::InputOutput),
        FailingCall::NoSpace => faults.write = Some(Failure::NoSpace),
        FailingCall::Read => faults.read = Some(Failure::InputOutput),
    })?;
    cluster.start(node)?;
    Ok(Installed {
        place: at(node),
        text: format!("on {} {what}", node.host),
        undo: Some(Box::new(move || {
            node.change_disk(|faults| {
                *faults = DiskFaults {
                    sync_delay: faults.sync_delay,
                    ..DiskFaults::default()
                };
            })?;
            let failed = shim(node)?.injected()?.saturating_sub(before);
            let ended = start_if_ended(cluster, node)?;
            match failed {
                0 => Err(Trouble::Skipped("no call failed".into())),
                failed => Ok(format!(" ({failed} calls){ended}")),
            }
        })),
    })
}

/// The disk is good: a node that has ended is started again. Tells how it had ended.
pub(super) fn start_if_ended(cluster: &Cluster, node: &Node) -> std::io::Result<String> {
    cluster.supervise()?;
    let mut state = node.state();
    state.end_excuse();
    let text = match state.ended {
        Some(status) => format!(", it ended with {status}"),
        None => ", it went on".to_owned(),
    };
    cluster.start_with(node, &mut state)?;
    Ok(text)
}
