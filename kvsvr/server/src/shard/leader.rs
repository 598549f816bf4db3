//! Who leads a shard, as this replica knows it, without a call to the Raft task.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use openraft::{Raft, async_runtime::WatchReceiver as _, metrics::RaftMetrics};
use parking_lot::RwLock;

use crate::raft::{
    apply::StateMachine,
    types::{PeerNode, TypeConfig},
};

/// The newest metrics of a replica, unpacked.
#[derive(Debug)]
pub struct LeaderView {
    me: u64,
    is_me: AtomicBool,
    times_led: AtomicU64,
    leader: RwLock<Option<(u64, PeerNode)>>,
}

impl LeaderView {
    /// Nobody leads, yet.
    pub fn new(me: u64) -> Self {
        Self {
            me,
            is_me: AtomicBool::new(false),
            times_led: AtomicU64::new(0),
            leader: RwLock::new(None),
        }
    }

    /// This node leads.
    pub fn is_me(&self) -> bool {
        self.is_me.load(Ordering::Acquire)
    }

    /// How often this node has begun to lead.
    pub fn times_led(&self) -> u64 {
        self.times_led.load(Ordering::Acquire)
    }

    /// The leader's id and address, if one is known.
    pub fn leader(&self) -> Option<(u64, PeerNode)> {
        self.leader.read().clone()
    }

    fn update(&self, metrics: &RaftMetrics<TypeConfig>) -> bool {
        let leader = metrics.current_leader.and_then(|id| {
            let node = metrics.membership_config.membership().get_node(&id)?;
            Some((id, node.clone()))
        });
        let is_me = metrics.current_leader == Some(self.me);
        if is_me && !self.is_me() {
            self.times_led.fetch_add(1, Ordering::AcqRel);
        }
        let changed = self.is_me.swap(is_me, Ordering::AcqRel) != is_me
            || self.leader.read().as_ref().map(|l| l.0) != leader.as_ref().map(|l| l.0);
        *self.leader.write() = leader;
        changed
    }

    /// Follows the replica's metrics until it stops; the reason is returned.
    pub async fn follow(self: Arc<Self>, shard: u32, raft: Raft<TypeConfig, StateMachine>) -> String {
        let mut watch = raft.metrics();
        loop {
            {
                let metrics = watch.borrow_watched();
                if let Err(fatal) = &metrics.running_state {
                    return fatal.to_string();
                }
                if self.update(&metrics) {
                    let term = metrics.current_term;
                    tracing::info!(shard, term, leader = ?metrics.current_leader, "leader changed");
                }
            }
            if watch.changed().await.is_err() {
                return "its task has ended".to_owned();
            }
        }
    }
}
