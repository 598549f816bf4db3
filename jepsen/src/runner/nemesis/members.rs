//! Changes of members, as an operator asks for them: a member has no replicas for a while, or leads nothing; one that has lost its disk gets its place
//! again as a new node.
//!
//! One operation runs at a time in a cluster, so that these wait for each other. What is begun must come to its end while other faults go on.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::atomic::Ordering,
    time::Duration,
};

use kvsvr_client::{Certainty, Client, Code, Error, proto};
use proto::{NodeState, change_members_request::Change, operation};
use tokio::time::{Instant, sleep};

use super::{Fault, Install, Installed, Trouble, at};
use crate::runner::{
    cluster::{Cluster, Node},
    plan::MemberChange,
};

/// An operation that has begun must end within this time, with other faults beside it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries, and two looks.
const AGAIN: Duration = Duration::from_millis(250);

/// A member is drained or evicted. Undone at the end.
pub(super) fn less<'a>(fault: &Fault<'a>, node: u64, change: MemberChange) -> Install<'a> {
    let node = fault.cluster().node(node)?;
    let member = member(fault, node)?;
    let (there, back, text) = match change {
        MemberChange::Drain => (Change::Drain(member), Change::Undrain(member), "is drained"),
        MemberChange::Evict => (Change::Evict(member), Change::Restore(member), "leads nothing"),
    };
    fault.begins();
    begin(fault, &there, fault.until)?;
    let fault = *fault;
    Ok(Installed {
        place: at(node),
        text: format!("{} {text}", node.host),
        undo: Some(Box::new(move || {
            begin(&fault, &back, Instant::now() + PATIENCE).map_err(indeterminate)?;
            ended(&fault)?;
            Ok(String::new())
        })),
    })
}

/// A node loses its disk. At the end an empty one gets its place.
pub(super) fn replace<'a>(fault: &Fault<'a>, node: u64) -> Install<'a> {
    let (cluster, node) = (fault.cluster(), fault.claim(node)?);
    let member = member(fault, node)?;
    // What one has lost, the others must have.
    if running(&members(fault)?).is_some() {
        return Err(Trouble::Skipped("the members change just now".into()));
    }
    if fault.arsenal.lost.swap(true, Ordering::SeqCst) {
        return Err(Trouble::Skipped("another node has no disk".into()));
    }
    fault.begins();
    cluster.kill(node)?;
    empty(&node.disk.data())?;
    cluster.mark(node, "has lost its disk");
    let fault = *fault;
    Ok(Installed {
        place: at(node),
        text: format!("{} loses its disk", node.host),
        undo: Some(Box::new(move || {
            cluster.start(node)?;
            if !fault.arsenal.serves_or_ends(node)? {
                return Err(Trouble::Indeterminate(format!(
                    "{} does not start empty",
                    node.host
                )));
            }
            let change = Change::Replace(proto::ReplaceMember {
                old: member,
                address: node.address.clone(),
            });
            begin(&fault, &change, Instant::now() + PATIENCE).map_err(indeterminate)?;
            ended(&fault)?;
            fault.arsenal.lost.store(false, Ordering::SeqCst);
            Ok(", and a new node gets its place".into())
        })),
    })
}

/// What was done before is there.
fn indeterminate(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Skipped(why) => Trouble::Indeterminate(why),
        other => other,
    }
}

/// Removes all that is in a directory, durably.
fn empty(directory: &Path) -> io::Result<()> {
    fs::remove_dir_all(directory)?;
    fs::create_dir(directory)?;
    let parent = directory.parent().unwrap_or(directory);
    File::open(parent)?.sync_all()
}

/// The number that a node has in the cluster.
fn member(fault: &Fault<'_>, node: &Node) -> Result<u64, Trouble> {
    let members = members(fault)?;
    let infos = members.members.into_iter().filter_map(|member| member.info);
    let here = infos.filter(|info| info.address == node.address && info.state() != NodeState::NodeRemoved);
    let newest = here.map(|info| info.id).max();
    newest.ok_or_else(|| Trouble::Skipped(format!("{} is no member", node.host)))
}

fn members(fault: &Fault<'_>) -> Result<proto::MembersResponse, Trouble> {
    let asking = fault.arsenal.admin.members();
    let answer = fault.arsenal.handle.block_on(asking);
    answer.map_err(|error| Trouble::Skipped(format!("nobody tells of the members: {error}")))
}

/// The operation under way.
fn running(members: &proto::MembersResponse) -> Option<&proto::Operation> {
    let last = members.operations.last()?;
    let runs = matches!(
        last.state(),
        operation::State::Running | operation::State::Aborting
    );
    runs.then_some(last)
}

/// Asks for a change until it is begun.
fn begin(fault: &Fault<'_>, change: &Change, until: Instant) -> Result<(), Trouble> {
    let arsenal = fault.arsenal;
    let mut unknown = false;
    loop {
        let asking = arsenal.admin.change_members(request(change));
        let error = match arsenal.handle.block_on(asking) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match (error.certainty == Certainty::Definite, is_refusal(&error)) {
            // An earlier try has begun it.
            (true, true) if unknown => return Ok(()),
            (true, true) => return Err(Trouble::Skipped(error.to_string())),
            (true, false) => {}
            (false, _) => unknown = true,
        }
        if Instant::now() >= until || arsenal.stop.is_set() {
            return Err(match unknown {
                true => Trouble::Indeterminate(error.to_string()),
                false => Trouble::Skipped(error.to_string()),
            });
        }
        arsenal.wait(AGAIN);
    }
}

/// It makes no sense, now and later.
fn is_refusal(error: &Error) -> bool {
    let passes = [
        "one at a time",
        "cannot ask the new node",
        "does not answer",
        "Bring node",
    ];
    error.code == Code::Refused && !passes.iter().any(|part| error.message.contains(part))
}

/// Waits until no operation is under way.
fn ended(fault: &Fault<'_>) -> Result<(), Trouble> {
    let arsenal = fault.arsenal;
    let waiting = arsenal.stop.or(settled(&arsenal.admin, PATIENCE));
    match arsenal.handle.block_on(waiting) {
        Some(Err(why)) => Err(Trouble::Indeterminate(why)),
        Some(Ok(())) | None => Ok(()),
    }
}

/// Gives nodes that have lost their disks their places, if nobody has, and waits until no operation is under way.
///
/// # Errors
/// One is still, or nobody tells.
pub(in crate::runner) async fn mended(
    cluster: &Cluster,
    admin: &Client,
    within: Duration,
) -> Result<(), String> {
    let until = Instant::now() + within;
    for node in cluster.nodes() {
        loop {
            let why = match place(admin, node).await {
                Ok(()) => break,
                Err(error) => error.to_string(),
            };
            if Instant::now() >= until {
                return Err(format!("{} has no place in the cluster: {why}", node.host));
            }
            sleep(AGAIN).await;
        }
    }
    settled(admin, until.saturating_duration_since(Instant::now())).await
}

/// Gives an empty node the place of the member at its address.
async fn place(admin: &Client, node: &Node) -> kvsvr_client::Result<()> {
    if admin.identify(&node.address).await?.node_id != 0 {
        return Ok(());
    }
    let members = admin.members().await?;
    let infos = members.members.into_iter().filter_map(|member| member.info);
    let mut here =
        infos.filter(|info| info.address == node.address && info.state() != NodeState::NodeRemoved);
    let Some(old) = here.next() else { return Ok(()) };
    let change = Change::Replace(proto::ReplaceMember {
        old: old.id,
        address: node.address.clone(),
    });
    admin.change_members(request(&change)).await.map(drop)
}

fn request(change: &Change) -> proto::ChangeMembersRequest {
    proto::ChangeMembersRequest {
        change: Some(change.clone()),
        dry_run: false,
        who: "jepsen".into(),
    }
}

/// Waits until no operation is under way.
///
/// # Errors
/// There is one still, or nobody tells.
async fn settled(admin: &Client, within: Duration) -> Result<(), String> {
    let until = Instant::now() + within;
    loop {
        let why = match admin.members().await {
            Ok(members) => match running(&members) {
                None => return Ok(()),
                Some(operation) => format!(
                    "operation {} ({:?}) has not ended in {} s: {}",
                    operation.id,
                    operation.kind(),
                    within.as_secs(),
                    operation.waiting.join("; ")
                ),
            },
            Err(error) => format!("nobody tells of operations: {error}"),
        };
        if Instant::now() >= until {
            return Err(why);
        }
        sleep(AGAIN).await;
    }
}
