//! Where a request goes: from partition to slot to shard to node. Pure: time and chance come in as arguments, decisions go out
//! as data.
//!
//! Who leads a shard is a guess, which answers correct: a request for a leader goes out marked "do not forward", so that a node
//! that does not lead says who does. Nodes that could not be reached are passed over for a while.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kvsvr_proto::{SLOTS, v1};

use crate::{
    error::{Code, Error, Result},
    limits::NODE_PENALTY,
    types::ReadFrom,
};

/// Which shard a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The shard that has this slot.
    Slot(u16),
    /// This shard; 0 is the meta shard.
    Shard(u32),
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The shard.
    pub(crate) shard: u32,
    /// The node's id.
    pub(crate) node: u64,
    /// HOST:PORT.
    pub(crate) address: Arc<str>,
}

/// The shard map, checked and indexed. Does not change.
#[derive(Debug)]
struct View {
    map: v1::ShardMap,
    /// Slot to index in `map.shards`.
    slots: Vec<u32>,
    addresses: BTreeMap<u64, Arc<str>>,
}

/// Everything that is known about where things are.
#[derive(Debug)]
pub(crate) struct Router {
    seeds: Vec<Arc<str>>,
    view: Option<View>,
    /// Guesses who leads, by shard.
    leaders: BTreeMap<u32, u64>,
    /// Addresses from hints that are not in the map.
    hinted: BTreeMap<u64, Arc<str>>,
    /// Until when a node is passed over.
    penalties: BTreeMap<Arc<str>, Duration>,
}

impl Router {
    /// Knows the addresses that the user gave, and nothing else.
    pub(crate) fn new(seeds: Vec<Arc<str>>) -> Self {
        Self {
            seeds,
            view: None,
            leaders: BTreeMap::new(),
            hinted: BTreeMap::new(),
            penalties: BTreeMap::new(),
        }
    }

    /// The newest map.
    pub(crate) fn map(&self) -> Option<&v1::ShardMap> {
        self.view.as_ref().map(|v| &v.map)
    }

    /// Its epoch; 0 = there is none.
    pub(crate) fn epoch(&self) -> u64 {
        self.map().map_or(0, |m| m.epoch)
    }

    /// Takes a map, unless it is older than what is known or of another cluster. A map of the same epoch brings leader hints.
    ///
    /// # Errors
    /// The map contradicts itself, or is another cluster's.
    pub(crate) fn set_map(&mut self, map: v1::ShardMap) -> Result<()> {
        if let Some(known) = self.map() {
            if known.cluster_id != map.cluster_id {
                return Err(Error::definite(
                    Code::Refused,
                    format!(
                        "a node answered with the map of cluster {}, this client belongs to {}: check the endpoints",
                        map.cluster_id, known.cluster_id
                    ),
                ));
            }
            if map.epoch < known.epoch {
                return Ok(());
            }
        }
        let view = View::new(map)?;
        for shard in &view.map.shards {
            if shard.leader != 0 {
                self.leaders.insert(shard.id, shard.leader);
            }
        }
        self.leaders.retain(|shard, _| view.shard(*shard).is_some());
        self.hinted.retain(|node, _| !view.addresses.contains_key(node));
        self.view = Some(view);
        Ok(())
    }

    /// The shard of a place. `None`: no map, or the map has no such shard.
    pub(crate) fn shard(&self, place: Place) -> Option<u32> {
        let view = self.view.as_ref()?;
        match place {
            Place::Slot(slot) => view.by_slot(slot).map(|s| s.id),
            Place::Shard(id) => view.shard(id).map(|s| s.id),
        }
    }

    /// The ids of all shards but the meta shard, in order.
    pub(crate) fn data_shards(&self) -> Vec<u32> {
        let shards = self.map().map(|m| &m.shards[..]).unwrap_or_default();
        shards.iter().map(|s| s.id).filter(|id| *id != 0).collect()
    }

    /// Replicas of a shard.
    pub(crate) fn replicas(&self, shard: u32) -> usize {
        self.view
            .as_ref()
            .and_then(|v| v.shard(shard))
            .map_or(0, |s| s.replicas.len())
    }

    /// Where to send a request for the shard's leader: the guess, unless it is in `avoid` or being passed over; then the next
    /// replica, which may know better.
    pub(crate) fn leader(&self, shard: u32, avoid: &[u64], now: Duration) -> Option<Target> {
        let info = self.view.as_ref()?.shard(shard)?;
        let guess = self.leaders.get(&shard).or(info.replicas.first()).copied()?;
        let start = info.replicas.iter().position(|n| *n == guess);
        let others = (0..info.replicas.len())
            .map(|i| info.replicas[(i + start.map_or(0, |s| s + 1)) % info.replicas.len()]);
        self.first_usable(
            shard,
            std::iter::once(guess).chain(others.filter(|n| *n != guess)),
            avoid,
            now,
        )
    }

    /// Where to send a read that any replica may answer. `spread` differs from call to call; `distance` gives a node's round trip.
    pub(crate) fn replica(
        &self,
        shard: u32,
        from: ReadFrom,
        avoid: &[u64],
        now: Duration,
        spread: usize,
        distance: impl Fn(&str) -> Duration,
    ) -> Option<Target> {
        let replicas = &self.view.as_ref()?.shard(shard)?.replicas;
        match from {
            ReadFrom::Leader => self.leader(shard, avoid, now),
            ReadFrom::Any => {
                let n = replicas.len();
                self.first_usable(shard, (0..n).map(|i| replicas[(i + spread) % n]), avoid, now)
            }
            ReadFrom::Nearest => {
                let mut near = replicas.clone();
                near.sort_by_key(|n| self.address(*n).map_or(Duration::MAX, |a| distance(&a)));
                self.first_usable(shard, near.into_iter(), avoid, now)
            }
            ReadFrom::Node(node) => Some(Target {
                shard,
                node,
                address: self.address(node)?,
            }),
        }
    }

    /// The first node that is neither avoided nor passed over; if there is none the first that is not avoided; if there is none
    /// the first.
    fn first_usable(
        &self,
        shard: u32,
        nodes: impl Iterator<Item = u64> + Clone,
        avoid: &[u64],
        now: Duration,
    ) -> Option<Target> {
        let known = nodes.filter_map(|node| {
            Some(Target {
                shard,
                node,
                address: self.address(node)?,
            })
        });
        let mut not_avoided = known.clone().filter(|t| !avoid.contains(&t.node));
        not_avoided
            .clone()
            .find(|t| !self.is_penalized(&t.address, now))
            .or_else(|| not_avoided.next())
            .or_else(|| known.clone().next())
    }

    /// A node's address.
    pub(crate) fn address(&self, node: u64) -> Option<Arc<str>> {
        self.view
            .as_ref()
            .and_then(|v| v.addresses.get(&node))
            .or_else(|| self.hinted.get(&node))
            .cloned()
    }

    /// All known nodes' addresses: those of the map first, then those that the user gave; nodes being passed over last.
    pub(crate) fn addresses(&self, now: Duration) -> Vec<Arc<str>> {
        let mut all: Vec<Arc<str>> = Vec::new();
        let map = self.view.iter().flat_map(|v| v.addresses.values());
        for address in map.chain(&self.seeds) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all.sort_by_key(|a| self.is_penalized(a, now));
        all
    }

    /// A node said who leads. Returns false if that is a node that is being passed over: then the node that said so should
    /// forward the request.
    pub(crate) fn leader_is(&mut self, shard: u32, node: u64, address: &str, now: Duration) -> bool {
        if self.view.as_ref().is_none_or(|v| v.shard(shard).is_none()) {
            return false;
        }
        let address = match self.address(node) {
            Some(address) => address,
            None if address.is_empty() => return false,
            None => {
                let address: Arc<str> = address.into();
                self.hinted.insert(node, address.clone());
                address
            }
        };
        self.leaders.insert(shard, node);
        !self.is_penalized(&address, now)
    }

    /// The node does not lead the shard and does not know who does: guess the next, if it was still the guess.
    pub(crate) fn not_leader(&mut self, shard: u32, node: u64) {
        let Some(replicas) = self
            .view
            .as_ref()
            .and_then(|v| v.shard(shard))
            .map(|s| &s.replicas)
        else {
            return;
        };
        let guess = self.leaders.get(&shard).or(replicas.first());
        if guess != Some(&node) || replicas.is_empty() {
            return;
        }
        let next = replicas
            .iter()
            .position(|n| *n == node)
            .map_or(0, |i| (i + 1) % replicas.len());
        self.leaders.insert(shard, replicas[next]);
    }

    /// A node could not be reached or broke off: pass it over for a while.
    pub(crate) fn penalize(&mut self, address: &Arc<str>, now: Duration) {
        self.penalties.retain(|_, until| *until > now);
        self.penalties.insert(address.clone(), now + NODE_PENALTY);
    }

    fn is_penalized(&self, address: &str, now: Duration) -> bool {
        self.penalties.get(address).is_some_and(|until| *until > now)
    }
}

impl View {
    fn new(map: v1::ShardMap) -> Result<Self> {
        let bad = |what: String| {
            Error::definite(
                Code::Internal,
                format!("the shard map of epoch {} is not valid: {what}", map.epoch),
            )
        };
        let addresses: BTreeMap<u64, Arc<str>> = map
            .nodes
            .iter()
            .map(|n| (n.id, n.address.as_str().into()))
            .collect();
        let mut slots = vec![u32::MAX; usize::from(SLOTS)];
        for (index, shard) in map.shards.iter().enumerate() {
            if shard.replicas.is_empty() {
                return Err(bad(format!("shard {} has no replicas", shard.id)));
            }
            if let Some(node) = shard.replicas.iter().find(|n| !addresses.contains_key(n)) {
                return Err(bad(format!(
                    "shard {} has a replica on node {node}, which is not in it",
                    shard.id
                )));
            }
            if shard.id == 0 {
                continue;
            }
            if shard.first_slot > shard.last_slot || shard.last_slot >= u32::from(SLOTS) {
                return Err(bad(format!(
                    "shard {} has slots {}..={}",
                    shard.id, shard.first_slot, shard.last_slot
                )));
            }
            for slot in &mut slots[shard.first_slot as usize..=shard.last_slot as usize] {
                if *slot != u32::MAX {
                    return Err(bad(format!(
                        "a slot of shard {} is in another shard, too",
                        shard.id
                    )));
                }
                // The index is below the number of shards, which fit into u32 as their ids do.
                *slot = index as u32;
            }
        }
        Ok(Self {
            addresses,
            slots,
            map,
        })
    }

    fn by_slot(&self, slot: u16) -> Option<&v1::ShardInfo> {
        self.map.shards.get(*self.slots.get(usize::from(slot))? as usize)
    }

    fn shard(&self, id: u32) -> Option<&v1::ShardInfo> {
        // Ids are dense as long as no shard has been split or removed.
        let guess = self.map.shards.get(id as usize).filter(|s| s.id == id);
        guess.or_else(|| self.map.shards.iter().find(|s| s.id == id))
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
