//! What is seen of a run from outside, besides what the invariants look at.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kvsvr_client::transport::Method;
use kvsvr_core::types::ShardId;
use kvsvr_jepsen::{history::Event, report::Judgement};
use kvsvr_proto::v1::{TransferLeadershipRequest, VoteRequest};
use parking_lot::Mutex;
use prost::Message as _;

use crate::{
    faults::Band,
    invariants::{self, Said},
    net::{self, Direction, SimNet},
    node::Ended,
};

/// All that was seen of a run: for pictures.
#[derive(Debug, Default)]
pub struct Record {
    /// The clients' history.
    pub history: Vec<Event>,
    /// When which fault held.
    pub bands: Vec<Band>,
    /// How processes ended, by machine.
    pub ended: Vec<(usize, Ended)>,
    /// Changes of what replicas said of themselves.
    pub samples: Vec<(Duration, invariants::Replica)>,
    /// The history with the unknown outcomes that the checkers resolved, which is what their witnesses are of. The same one if there are
    /// none.
    pub resolved: Vec<Event>,
    /// What the checkers said.
    pub judgements: Vec<Judgement>,
    /// When the first invariant broke.
    pub broken_at: Option<Duration>,
    /// All messages, if they were asked for.
    pub messages: Vec<net::Event>,
}

/// What is seen of the network.
#[derive(Default)]
pub(super) struct Traffic {
    /// What machines have said by it.
    pub(super) said: Said,
    pub(super) messages: Vec<net::Event>,
}

impl Traffic {
    pub(super) fn watch(net: &SimNet, addresses: &[String], messages: bool) -> Arc<Mutex<Self>> {
        let traffic = Arc::new(Mutex::new(Self::default()));
        let (noted, addresses) = (traffic.clone(), addresses.to_vec());
        net.observe(Arc::new(move |event, message| {
            if messages {
                noted.lock().messages.push(event.clone());
            }
            if event.direction == Direction::Request
                && let Some(machine) = addresses.iter().position(|address| **address == *event.from)
            {
                noted.lock().note(machine, event.method, message);
            }
        }));
        traffic
    }

    fn note(&mut self, machine: usize, method: Method, message: &Bytes) -> Option<()> {
        match method {
            Method::RaftTransferLeadership => {
                let request = TransferLeadershipRequest::decode(message.clone()).ok()?;
                let shard = ShardId(request.envelope?.shard);
                let term = request.from_leader?.term;
                self.said.handed_over.insert((machine, shard, term));
            }
            Method::RaftVote => {
                let request = VoteRequest::decode(message.clone()).ok()?;
                let shard = ShardId(request.envelope?.shard);
                let vote = request.vote?;
                let asked = self.said.asked.entry((machine, shard)).or_default();
                *asked = (vote.term, vote.node_id).max(*asked);
            }
            _ => {}
        }
        Some(())
    }
}
