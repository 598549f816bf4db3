//! Kills, pauses and restarts of processes.

use std::time::{Duration, Instant};

use super::{CLAIM_PAUSE, Fault, Install, Installed, Trouble, at};
use crate::{
    report::Place,
    runner::{cluster::Node, plan::Victim},
};

/// So long a restart of all nodes waits for one that another fault has.
const PATIENCE: Duration = Duration::from_secs(15);

/// SIGKILL of a node, which is started again at the end.
pub(super) fn kill<'a>(fault: &Fault<'a>, victim: &Victim) -> Install<'a> {
    let (cluster, (node, who)) = (fault.cluster(), fault.claim_victim(victim)?);
    fault.begins();
    cluster.kill(node)?;
    Ok(Installed {
        place: at(node),
        text: format!("kill -9 of {who}"),
        undo: Some(Box::new(move || {
            cluster.start(node)?;
            Ok(String::new())
        })),
    })
}

/// SIGKILL of all nodes at once, all of which must run.
pub(super) fn kill_all<'a>(fault: &Fault<'a>) -> Install<'a> {
    let (cluster, nodes) = (fault.cluster(), fault.claim_all()?);
    if let Some(node) = nodes.iter().find(|node| !node.state().runs()) {
        return Err(Trouble::Skipped(format!("{} is down", node.host)));
    }
    fault.begins();
    cluster.kill_together()?;
    Ok(Installed {
        place: Place::All,
        text: "kill -9 of all nodes".into(),
        undo: Some(Box::new(move || {
            for node in nodes {
                cluster.start(node)?;
            }
            Ok(String::new())
        })),
    })
}

/// SIGSTOP of a node, and SIGCONT at the end.
pub(super) fn pause<'a>(fault: &Fault<'a>, victim: &Victim) -> Install<'a> {
    let (cluster, (node, who)) = (fault.cluster(), fault.claim_victim(victim)?);
    fault.begins();
    match &mut node.state().process {
        Some(process) => process.pause()?,
        None => return Err(Trouble::Skipped(format!("{} is down", node.host))),
    }
    cluster.mark(node, "paused");
    Ok(Installed {
        place: at(node),
        text: format!("SIGSTOP of {who}"),
        undo: Some(Box::new(move || {
            if let Some(process) = &mut node.state().process {
                process.resume()?;
                cluster.mark(node, "resumed");
            }
            Ok(String::new())
        })),
    })
}

/// SIGTERM of one node after another. Each must serve again before the next stops. It takes as long as it takes: that a restart of all
/// nodes comes to its end is what it is to show.
pub(super) fn rolling<'a>(fault: &Fault<'a>, first: u64) -> Install<'a> {
    let cluster = fault.cluster();
    let nodes = cluster.nodes().len() as u64;
    let (mut restarted, mut missed) = (Vec::new(), Vec::new());
    for turn in 0..nodes {
        let wanted = (first - 1 + turn) % nodes + 1;
        let Some(node) = claim_only(fault, wanted) else {
            missed.push(wanted);
            continue;
        };
        fault.begins();
        let stopped = cluster.terminate(node);
        cluster.start(node)?;
        let serves = fault.arsenal.serves_or_ends(node);
        cluster.release(fault.number);
        if !stopped? || !serves? {
            let text = format!("node {wanted} did not stop in order, or did not serve again");
            return Err(Trouble::Indeterminate(text));
        }
        restarted.push(wanted);
    }
    if restarted.is_empty() {
        return Err(Trouble::Skipped("no node was free".into()));
    }
    if !missed.is_empty() {
        return Err(Trouble::Indeterminate(format!(
            "only nodes {restarted:?} were restarted, other faults had {missed:?}"
        )));
    }
    Ok(Installed {
        place: Place::All,
        text: format!("SIGTERM and restart of nodes {restarted:?} in turn"),
        undo: None,
    })
}

/// Waits for a node, and takes no other.
fn claim_only<'a>(fault: &Fault<'a>, wanted: u64) -> Option<&'a Node> {
    let deadline = Instant::now() + PATIENCE;
    while !fault.arsenal.stop.is_set() && Instant::now() < deadline {
        if let Some(node) = fault.cluster().claim_only(fault.number, wanted) {
            return Some(node);
        }
        fault.arsenal.wait(CLAIM_PAUSE);
    }
    None
}
