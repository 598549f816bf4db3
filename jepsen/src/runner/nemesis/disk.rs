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

/// Makes syncs of nodes slow.
pub(super) fn slow<'a>(fault: &Fault<'a>, wanted: &[u64], delay_ms: u64) -> Install<'a> {
    let mut nodes = Vec::new();
    for id in wanted {
        match fault.claim(Some(*id)) {
            Ok(node) => nodes.push((node, shim(node)?.counts()?.delayed)),
            Err(trouble) if nodes.is_empty() => return Err(trouble),
            Err(_) => break,
        }
    }
    let delay = Duration::from_millis(delay_ms);
    for (node, _) in &nodes {
        node.change_disk(|faults| faults.sync_delay = delay)?;
    }
    let names: Vec<String> = nodes.iter().map(|(node, _)| node.host.to_string()).collect();
    Ok(Installed {
        place: Place::Nodes(nodes.iter().map(|(node, _)| shown(node)).collect()),
        text: format!("syncs of {} take {delay_ms} ms longer", names.join(" ")),
        undo: Some(Box::new(move || {
            let mut slow = 0;
            for (node, before) in nodes {
                node.change_disk(|faults| faults.sync_delay = Duration::ZERO)?;
                slow += shim(node)?.counts()?.delayed.saturating_sub(before);
            }
            match slow {
                0 => Err(Trouble::Skipped("no sync was slow".into())),
                slow => Ok(format!(" ({slow} syncs)")),
            }
        })),
    })
}

/// Takes the space of a node's disk. If nothing is left, the node must see that: if it has not, it is stopped in order, since it writes then
/// what it has in memory.
pub(super) fn full<'a>(fault: &Fault<'a>, node: u64, leave_mib: u64) -> Install<'a> {
    let (cluster, node) = (fault.cluster(), fault.claim(Some(node))?);
    let before = shim(node)?.counts()?.full;
    node.state().excuse();
    let ballast = node.disk.fill(leave_mib << 20)?;
    let seen = move || Ok::<u64, std::io::Error>(shim(node)?.counts()?.full.saturating_sub(before));
    Ok(Installed {
        place: at(node),
        text: format!("disk of {} has {leave_mib} MiB left", node.host),
        undo: Some(Box::new(move || {
            let mut stopped = "";
            if leave_mib == 0 && seen()? == 0 {
                stopped = match cluster.terminate(node)? {
                    true => " when it was stopped",
                    false => " when it was stopped, and it ended otherwise",
                };
            }
            let seen = seen()?;
            drop(ballast);
            let text = start_if_ended(cluster, node)?;
            let text = if stopped.is_empty() { &text } else { stopped };
            match (leave_mib, seen) {
                (0, 0) => Err(Trouble::Skipped("no write saw the full disk".into())),
                (_, seen) => Ok(format!(", {seen} writes saw it full{text}")),
            }
        })),
    })
}

/// Lets files of a node fail. Reads are all in its start: what it has in memory it does not read, so it is killed and started before.
pub(super) fn error<'a>(fault: &Fault<'a>, node: u64, call: FailingCall) -> Install<'a> {
    let (cluster, node) = (fault.cluster(), fault.claim(Some(node))?);
    let before = shim(node)?.counts()?.failed;
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
            let failed = shim(node)?.counts()?.failed.saturating_sub(before);
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
