//! Disks that are slow, full or failing. A node whose disk fails may end; it is started again when its disk is good.

use std::time::Duration;

use kvsvr_client::{Code, Error};
use tokio::time::Instant;

use super::{CLAIM_PAUSE, Fault, Install, Installed, LOOK, Trouble, at, clock::shim, shown};
use crate::{
    os::shim::{DiskFaults, Failure},
    report::Place,
    runner::{
        cluster::{Cluster, Node},
        plan::FailingCall,
        service::PROBES,
    },
    workload::names,
};

/// Makes syncs of nodes slow.
pub(super) fn slow<'a>(fault: &Fault<'a>, wanted: &[u64], delay_ms: u64) -> Install<'a> {
    let mut nodes = Vec::new();
    for id in wanted {
        match fault.claim(*id) {
            Ok(node) => nodes.push((node, shim(node)?.counts()?.delayed)),
            Err(trouble) if nodes.is_empty() => return Err(trouble),
            Err(_) => break,
        }
    }
    fault.begins();
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
/// what it has in memory. If less than the reserve is left, it must refuse a write.
pub(super) fn full<'a>(fault: &Fault<'a>, node: u64, leave_mib: u64) -> Install<'a> {
    let (cluster, node) = (fault.cluster(), fault.claim(node)?);
    let before = shim(node)?.counts()?.full;
    node.state().excuse();
    fault.begins();
    let ballast = node.disk.fill(leave_mib << 20)?;
    let refused = leave_mib > 0 && refuses(fault, node);
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
            match leave_mib {
                0 if seen == 0 => Err(Trouble::Skipped("no write saw the full disk".into())),
                0 => Ok(format!(", {seen} writes saw it full{text}")),
                _ if refused => Ok(format!(", it refused writes, {seen} saw it full{text}")),
                _ => Err(Trouble::Skipped(format!("it refused no write{text}"))),
            }
        })),
    })
}

/// The node refuses a write since its disk is nearly full, before the fault ends. Only who leads is asked to write, so it is asked to lead.
fn refuses(fault: &Fault<'_>, node: &Node) -> bool {
    let arsenal = fault.arsenal;
    let (admin, handle) = (arsenal.admin.with_timeout(LOOK), &arsenal.handle);
    let shards = arsenal.observer.shards();
    while node.state().runs() {
        for number in PROBES {
            let partition = names::partition(number);
            match handle.block_on(admin.put(&partition, "probe", "x")) {
                Err(error) if is_for_reserve(&error) => return true,
                _ if Instant::now() >= fault.until || arsenal.stop.is_set() => return false,
                _ => {}
            }
        }
        if let Some(shard) = shards.get(node.id as usize % shards.len().max(1)) {
            let to = arsenal.observer.member(node.id);
            // Who cannot lead now is asked again.
            let _ = handle.block_on(admin.transfer_leader(*shard, Some(to)));
        }
        if !fault.pause(CLAIM_PAUSE) {
            break;
        }
    }
    false
}

/// A write was refused because less than the reserve is free.
fn is_for_reserve(error: &Error) -> bool {
    error.code == Code::Refused && error.message.contains("less than the reserve")
}

/// Lets files of a node fail. Reads are all in its start: what it has in memory it does not read, so it is killed and started before.
pub(super) fn error<'a>(fault: &Fault<'a>, node: u64, call: FailingCall) -> Install<'a> {
    let (cluster, node) = (fault.cluster(), fault.claim(node)?);
    let before = shim(node)?.counts()?.failed;
    fault.begins();
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
