//! Whom a fault hits: nodes that it takes for itself, and who leads at that time.

use kvsvr_client::proto;
use tokio::time::Instant;

use super::{CLAIM_PAUSE, Fault, LOOK, Trouble};
use crate::runner::{cluster::Node, plan::Victim};

impl<'a> Fault<'a> {
    /// This node, when it runs: it is not taken.
    pub(super) fn running(&self, id: u64) -> Result<&'a Node, Trouble> {
        let node = self.cluster().node(id)?;
        while !node.state().runs() {
            if !self.pause(CLAIM_PAUSE) {
                return Err(Trouble::Skipped(format!("{} was down all the time", node.host)));
            }
        }
        Ok(node)
    }

    /// A node of its own, this one if it can be had.
    pub(super) fn claim(&self, wanted: u64) -> Result<&'a Node, Trouble> {
        let claimed = self.cluster().claim(self.number, wanted);
        claimed.ok_or_else(|| Trouble::Skipped("no node is free, or no majority would be left".into()))
    }

    /// A node of its own, and who that is.
    pub(super) fn claim_victim(&self, victim: &Victim) -> Result<(&'a Node, String), Trouble> {
        match victim {
            Victim::Node(node) => self.claim(*node).map(|node| (node, node.host.to_string())),
            Victim::Leader(shard) => {
                let claimed = self.patiently(|| self.claim_leader(*shard));
                let named = claimed.map(|node| (node, format!("{}, which leads shard {shard}", node.host)));
                named.ok_or_else(|| {
                    Trouble::Skipped(format!("nobody leads shard {shard}, or who does is not free"))
                })
            }
        }
    }

    /// Whoever leads a shard, if it can be had: it must say so itself when it is taken.
    fn claim_leader(&self, shard: u32) -> Option<&'a Node> {
        let leader = self.arsenal.observer.leader(shard)?;
        let node = self.cluster().claim_only(self.number, leader)?;
        if self.leads(node, shard) {
            return Some(node);
        }
        self.cluster().release(self.number);
        None
    }

    /// Who says now that it leads a shard.
    pub(super) fn leader(&self, shard: u32) -> Result<u64, Trouble> {
        let leader = self.patiently(|| {
            let leader = self.arsenal.observer.leader(shard)?;
            let node = self.cluster().node(leader).ok()?;
            self.leads(node, shard).then_some(leader)
        });
        leader.ok_or_else(|| Trouble::Skipped(format!("nobody leads shard {shard}")))
    }

    /// It says that it leads the shard.
    fn leads(&self, node: &Node, shard: u32) -> bool {
        let admin = self.arsenal.admin.with_timeout(LOOK);
        let status = self.arsenal.handle.block_on(admin.status(&node.address));
        let is_it = |one: &proto::ReplicaStatus| one.shard == shard && one.role == "leader";
        status.is_ok_and(|status| status.replicas.iter().any(is_it))
    }

    /// Looks again and again, as long as half of its time is left.
    fn patiently<T>(&self, mut find: impl FnMut() -> Option<T>) -> Option<T> {
        let begun = Instant::now();
        let deadline = begun + self.until.saturating_duration_since(begun) / 2;
        loop {
            if let Some(found) = find() {
                return Some(found);
            }
            if Instant::now() >= deadline || !self.pause(CLAIM_PAUSE) {
                return None;
            }
        }
    }

    /// All nodes; waits for them as long as it may.
    pub(super) fn claim_all(&self) -> Result<&'a [Node], Trouble> {
        while !self.cluster().claim_all(self.number) {
            if !self.pause(CLAIM_PAUSE) {
                return Err(Trouble::Skipped("other faults held nodes all the time".into()));
            }
        }
        Ok(self.cluster().nodes())
    }
}
