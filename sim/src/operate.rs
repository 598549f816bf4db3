//! Operators: they ask for changes of the members, as a plan says, while everything else goes on.

use std::time::Duration;

use kvsvr::node::Node;
use kvsvr_client::{Client, Code, Result};
use kvsvr_jepsen::workload::Stop;
use kvsvr_proto::v1::{
    AddMember, ChangeMembersRequest, Member, MembersResponse, NodeState, Operation, ReplaceMember,
    change_members_request::Change, operation,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    node::SimNode,
    plan::{Ask, Order},
    sometimes::OPERATOR,
};

/// For so long an operator asks again for what is refused or finds nobody.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(500);

/// Asks for one thing after the other, until it is told to stop. `from`: when the load began.
pub async fn operate(client: Client, nodes: Vec<SimNode>, orders: Vec<Order>, from: Instant, stop: Stop) {
    for order in orders {
        let due = sleep_until(from + Duration::from_millis(order.at_ms));
        if stop.or(due).await.is_none() {
            return;
        }
        let until = Instant::now() + PATIENCE;
        let mut wiped = None;
        while Instant::now() < until && !stop.is_set() {
            match ask(&client, &nodes, &order.ask, &mut wiped).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::info!(?order, %error, "not begun");
                    // It makes no sense now, and will not soon.
                    let soon = ["one at a time", "cannot ask the new node"];
                    if error.code == Code::Refused && !soon.iter().any(|part| error.message.contains(part)) {
                        break;
                    }
                }
            }
            stop.or(sleep(AGAIN)).await;
        }
    }
}

/// Asks once. `wiped`: the member whose disk this order has made empty.
///
/// # Errors
/// Those of the client library.
async fn ask(client: &Client, nodes: &[SimNode], ask: &Ask, wiped: &mut Option<u64>) -> Result<()> {
    let members = client.members().await?;
    let id = |machine: &usize| node_of(&members, nodes[*machine].address());
    let address = |machine: &usize| nodes[*machine].address().to_owned();
    let change = match ask {
        Ask::Add(machine) => Some(Change::Add(AddMember {
            address: address(machine),
        })),
        Ask::Remove(machine) => id(machine).map(Change::Remove),
        Ask::Replace { old, new } => id(old).map(|old| {
            Change::Replace(ReplaceMember {
                old,
                address: address(new),
            })
        }),
        Ask::Drain(machine) => id(machine).map(Change::Drain),
        Ask::Undrain(machine) => id(machine).map(Change::Undrain),
        Ask::Evict(machine) => id(machine).map(Change::Evict),
        Ask::Restore(machine) => id(machine).map(Change::Restore),
        Ask::Abort => running(&members).map(Change::Abort),
        Ask::Wipe(machine) => {
            let node = &nodes[*machine];
            if wiped.is_none() {
                // What one has lost, the others must have: another replica may only be lost when this one is made anew.
                if running(&members).is_some() || nodes.iter().any(|node| is_lost(&members, node)) {
                    return Ok(());
                }
                *wiped = id(machine);
                if wiped.is_some() {
                    node.wipe();
                    node.start();
                }
            }
            // It has its place again when it is not known as that member any more.
            let is_known = |old: &u64| nodes_of(&members, node.address()).contains(old);
            wiped.filter(is_known).map(|old| {
                Change::Replace(ReplaceMember {
                    old,
                    address: address(machine),
                })
            })
        }
    };
    // Who is no member any more, or not yet, is not asked for.
    let Some(change) = change else { return Ok(()) };
    begin(client, change).await
}

async fn begin(client: &Client, change: Change) -> Result<()> {
    let request = ChangeMembersRequest {
        change: Some(change),
        dry_run: false,
        who: OPERATOR.into(),
    };
    client.change_members(request).await.map(drop)
}

/// The member at an address; of several the newest.
fn node_of(members: &MembersResponse, address: &str) -> Option<u64> {
    nodes_of(members, address).into_iter().max()
}

/// The members at an address: more than one if a machine has lost its disk.
fn nodes_of(members: &MembersResponse, address: &str) -> Vec<u64> {
    let infos = members.members.iter().filter_map(|member| member.info.as_ref());
    let at = infos.filter(|info| info.address == address && info.state() != NodeState::NodeRemoved);
    at.map(|info| info.id).collect()
}

/// The members: id, address, state, and for how many milliseconds each has been silent.
fn in_words(members: &MembersResponse) -> String {
    let word = |member: &Member| {
        let info = member.info.clone().unwrap_or_default();
        let state = info.state();
        format!("{} {} {state:?} {} ms", info.id, info.address, member.silent_ms)
    };
    members.members.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// A member that is to have no data.
fn drained(members: &MembersResponse) -> Option<u64> {
    let infos = members.members.iter().filter_map(|member| member.info.as_ref());
    let mut drained = infos.filter(|info| info.state() == NodeState::NodeDraining);
    drained.next().map(|info| info.id)
}

/// The operation under way.
fn running(members: &MembersResponse) -> Option<u64> {
    let last = members.operations.last()?;
    matches!(
        last.state(),
        operation::State::Running | operation::State::Aborting
    )
    .then_some(last.id)
}

/// Waits until no operation is under way, and no member's machine has lost its disk for good: one whose replacement was taken back is
/// asked for again. What cannot be taken back, because who had a vote is no more, is ended where it stands.
///
/// # Errors
/// There is one, still, or nobody says.
pub async fn all_ended(
    client: Client,
    nodes: Vec<SimNode>,
    within: Duration,
) -> std::result::Result<MembersResponse, String> {
    let until = Instant::now() + within;
    // The operation under way, and since when it is looked at.
    let mut since = (0, Instant::now());
    loop {
        let why = match client.members().await {
            Ok(members) if running(&members).is_some() => {
                let last = members.operations.last();
                // It waits for a vote or a replica of who is no more.
                let is_stuck = |operation: &&Operation| {
                    operation.state() == operation::State::Aborting
                        || nodes.iter().any(|node| is_lost(&members, node))
                };
                let id = last.map_or(0, |operation| operation.id);
                if since.0 != id {
                    since = (id, Instant::now());
                }
                if let Some(stuck) = last.filter(is_stuck)
                    && since.1.elapsed() > PATIENCE
                {
                    // If that is refused, the next look says why.
                    drop(begin(&client, Change::Abort(stuck.id)).await);
                    since.1 = Instant::now();
                }
                format!(
                    "an operation has not ended: {last:?}; members: {}",
                    in_words(&members)
                )
            }
            Ok(members) => match nodes.iter().find_map(|node| lost(&members, node, &nodes)) {
                None => return Ok(members),
                Some(change) => {
                    let text = format!("{change:?} is not carried out");
                    // It may be refused until others are back, or may have data again.
                    let asked = begin(&client, change).await;
                    if asked.is_err()
                        && let Some(drained) = drained(&members)
                    {
                        drop(begin(&client, Change::Undrain(drained)).await);
                    }
                    format!("{text}: {asked:?}; members: {}", in_words(&members))
                }
            },
            Err(error) => format!("nobody tells of operations: {error}"),
        };
        if Instant::now() >= until {
            return Err(why);
        }
        sleep(AGAIN).await;
    }
}

/// A member's machine is not that node any more, or cannot be asked which it is.
fn is_lost(members: &MembersResponse, node: &SimNode) -> bool {
    let is = node
        .node()
        .and_then(|node| node.identity())
        .map(|identity| identity.node_id);
    nodes_of(members, node.address()).iter().any(|id| Some(*id) != is)
}

/// What is to be done about a machine that has lost its disk: it gets its place again, as a new node. If it has one already as another node, a
/// machine that is no member gets the place of the old one, or that leaves if there is none.
fn lost(members: &MembersResponse, node: &SimNode, all: &[SimNode]) -> Option<Change> {
    let ids = nodes_of(members, node.address());
    let is = identity(node)?;
    let old = *ids.iter().find(|id| Some(**id) != is)?;
    let is_member = is.is_some_and(|is| ids.contains(&is));
    let heir = match is_member {
        false => Some(node),
        true => all
            .iter()
            .find(|other| nodes_of(members, other.address()).is_empty()),
    };
    let Some(heir) = heir else {
        return Some(Change::Remove(old));
    };
    // A data directory is used once, also by a node that was removed before it heard that it was a member.
    let infos = members.members.iter().filter_map(|member| member.info.as_ref());
    let is_used = |node: &Node| infos.clone().any(|info| info.store_id == node.store_id());
    if heir.node().is_some_and(|node| is_used(&node)) {
        heir.wipe();
        heir.start();
    }
    let address = heir.address().to_owned();
    Some(Change::Replace(ReplaceMember { old, address }))
}

/// Which node a machine is, if its process has started.
fn identity(node: &SimNode) -> Option<Option<u64>> {
    let node = node.node()?;
    Some(node.identity().map(|identity| identity.node_id))
}
