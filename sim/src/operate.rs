//! Operators: they ask for changes of the members, as a plan says, while everything else goes on.

use std::time::Duration;

use kvsvr::node::Node;
use kvsvr_client::{Client, Code, Result};
use kvsvr_jepsen::workload::Stop;
use kvsvr_proto::v1::{
    AddMember, ChangeMembersRequest, Member, MembersResponse, NodeInfo, NodeState, Operation, ReplaceMember,
    ReseedReplica, change_members_request::Change, operation,
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
/// A machine that stands still for so long has been missed by all leaders: longer than three heartbeats.
const MISSED: Duration = Duration::from_millis(800);
/// What is refused with such words may be possible soon.
const SOON: [&str; 5] = [
    "one at a time",
    "cannot ask the new node",
    "wait for the end of that",
    "back first",
    "try again",
];

/// Operators, by their client of the cluster.
#[derive(Clone)]
pub struct Operators {
    /// By which they ask.
    pub client: Client,
    /// All machines.
    pub nodes: Vec<SimNode>,
    /// Voters that the data shards are to have, all together.
    pub voters: usize,
}

impl Operators {
    /// Asks for one thing after the other, until it is told to stop. `from`: when the load began.
    pub async fn operate(self, orders: Vec<Order>, from: Instant, stop: Stop) {
        for order in orders {
            let due = sleep_until(from + Duration::from_millis(order.at_ms));
            if stop.or(due).await.is_none() {
                return;
            }
            let until = Instant::now() + PATIENCE;
            let mut wiped = None;
            while Instant::now() < until && !stop.is_set() {
                match self.ask(&order.ask, &mut wiped).await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::info!(?order, %error, "not begun");
                        // It makes no sense now, and will not soon.
                        if error.code == Code::Refused
                            && !SOON.iter().any(|part| error.message.contains(part))
                        {
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
    async fn ask(&self, ask: &Ask, wiped: &mut Option<u64>) -> Result<()> {
        let members = self.client.members().await?;
        let id = |machine: &usize| node_of(&members, self.nodes[*machine].address());
        let address = |machine: &usize| self.nodes[*machine].address().to_owned();
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
            Ask::Reseed { shard, nth } => self.reseed(*shard, *nth).await?,
            Ask::Wipe(machine) => self.wiped(&members, *machine, wiped).await?,
        };
        // Who is no member any more, or not yet, is not asked for.
        let Some(change) = change else { return Ok(()) };
        begin(&self.client, change).await
    }

    /// That the replica of a shard's `nth` voter is made anew.
    async fn reseed(&self, shard: u32, nth: usize) -> Result<Option<Change>> {
        let map = self.client.shard_map().await?;
        let info = map.shards.iter().find(|info| info.id == shard);
        let node = info.and_then(|info| info.replicas.iter().cycle().nth(nth));
        Ok(node.map(|node| Change::Reseed(ReseedReplica { shard, node: *node })))
    }

    /// That a machine gets its place again which has lost its disk. It loses it now if it has not yet, unless the others could not bear that.
    async fn wiped(
        &self,
        members: &MembersResponse,
        machine: usize,
        wiped: &mut Option<u64>,
    ) -> Result<Option<Change>> {
        let node = &self.nodes[machine];
        if wiped.is_none() {
            let member = node_of(members, node.address());
            if member.is_none() || !self.may_lose_one(members) {
                return Ok(None);
            }
            // What was asked for before may begin meanwhile, or come again, and need this machine. Afterwards it is known to be missing.
            node.pause();
            sleep(MISSED).await;
            let members = self.client.members().await;
            if !members.as_ref().is_ok_and(|members| self.may_lose_one(members)) {
                node.resume();
                return members.map(|_| None);
            }
            *wiped = member;
            node.wipe();
            node.start();
        }
        // It has its place again when it is not known as that member any more.
        let is_known = |old: &u64| nodes_of(members, node.address()).contains(old);
        let address = node.address().to_owned();
        Ok(wiped
            .filter(is_known)
            .map(|old| Change::Replace(ReplaceMember { old, address })))
    }

    /// What one has lost, the others must have: another replica may only be lost when none is missing, and nothing is being changed.
    fn may_lose_one(&self, members: &MembersResponse) -> bool {
        running(members).is_none()
            && !self.lacks_voters(members)
            && !self.nodes.iter().any(|node| is_lost(members, node))
    }

    /// A data shard has a voter fewer than it is to have: making a replica anew was taken back twice.
    fn lacks_voters(&self, members: &MembersResponse) -> bool {
        let voters = members.members.iter().map(|member| member.replicas as usize);
        voters.sum::<usize>() < self.voters
    }

    /// Waits until no operation is under way, no member's machine has lost its disk for good, and no shard lacks a voter: a replacement that was taken
    /// back is asked for again. What cannot be taken back, because who had a vote is no more, is ended where it stands.
    ///
    /// # Errors
    /// There is one, still, or nobody says.
    pub async fn all_ended(self, within: Duration) -> std::result::Result<MembersResponse, String> {
        let until = Instant::now() + within;
        // The operation under way, and since when it is looked at.
        let mut since = (0, Instant::now());
        loop {
            let why = match self.client.members().await {
                Ok(members) if running(&members).is_some() => {
                    let last = members.operations.last();
                    let id = last.map_or(0, |operation| operation.id);
                    if since.0 != id {
                        since = (id, Instant::now());
                    }
                    if last.is_some_and(|last| self.is_stuck(&members, last)) && since.1.elapsed() > PATIENCE
                    {
                        // If that is refused, the next look says why.
                        drop(begin(&self.client, Change::Abort(id)).await);
                        since.1 = Instant::now();
                    }
                    format!(
                        "an operation has not ended: {last:?}; members: {}",
                        in_words(&members)
                    )
                }
                Ok(members) => match self.mend(&members).await {
                    None => return Ok(members),
                    Some(why) => why,
                },
                Err(error) => format!("nobody tells of operations: {error}"),
            };
            if Instant::now() >= until {
                return Err(why);
            }
            sleep(AGAIN).await;
        }
    }

    /// It waits for a vote or a replica of who is no more.
    fn is_stuck(&self, members: &MembersResponse, operation: &Operation) -> bool {
        // One that makes a replica anew goes on when it is taken back.
        let is_taken_back =
            operation.state() == operation::State::Aborting && operation.kind() != operation::Kind::Reseed;
        is_taken_back || self.nodes.iter().any(|node| is_lost(members, node))
    }

    /// Asks for what is still to be done when nothing is under way: what it was, and what came of it; `None` if nothing is.
    async fn mend(&self, members: &MembersResponse) -> Option<String> {
        let told = |change: &str, asked: &Result<()>| {
            Some(format!(
                "{change} is not carried out: {asked:?}; members: {}",
                in_words(members)
            ))
        };
        if let Some(change) = self
            .nodes
            .iter()
            .find_map(|node| lost(members, node, &self.nodes))
        {
            let text = format!("{change:?}");
            // It may be refused until others are back, or may have data again.
            let asked = begin(&self.client, change).await;
            if asked.is_err()
                && let Some(drained) = drained(members)
            {
                drop(begin(&self.client, Change::Undrain(drained)).await);
            }
            return told(&text, &asked);
        }
        if !self.lacks_voters(members) {
            return None;
        }
        // Any operation gives the shard its voter back, if there is a node that may have it.
        let up = infos(members).filter(|info| info.state() == NodeState::NodeUp);
        let harmless = up.map(|info| match info.evicted {
            true => Change::Restore(info.id),
            false => Change::Evict(info.id),
        });
        let mut asked = Ok(());
        for change in drained(members).map(Change::Undrain).into_iter().chain(harmless) {
            asked = begin(&self.client, change).await;
            if asked.is_ok() {
                break;
            }
        }
        told("an operation for a shard that lacks a voter", &asked)
    }
}

async fn begin(client: &Client, change: Change) -> Result<()> {
    let request = ChangeMembersRequest {
        change: Some(change),
        dry_run: false,
        who: OPERATOR.into(),
    };
    client.change_members(request).await.map(drop)
}

/// What is known of the members, those that were removed too.
fn infos(members: &MembersResponse) -> impl Iterator<Item = &NodeInfo> {
    members.members.iter().filter_map(|member| member.info.as_ref())
}

/// The member at an address; of several the newest.
fn node_of(members: &MembersResponse, address: &str) -> Option<u64> {
    nodes_of(members, address).into_iter().max()
}

/// The members at an address: more than one if a machine has lost its disk.
fn nodes_of(members: &MembersResponse, address: &str) -> Vec<u64> {
    let at = infos(members).filter(|info| info.address == address && info.state() != NodeState::NodeRemoved);
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
    let mut drained = infos(members).filter(|info| info.state() == NodeState::NodeDraining);
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
    let is_used = |node: &Node| infos(members).any(|info| info.store_id == node.store_id());
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
