//! What is seen of a run from outside, besides what the invariants look at.

use std::time::Duration;

use kvsvr_jepsen::{history::Event, report::Judgement};

use crate::{faults::Band, invariants, net, node::Ended};

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
    /// What the checkers and the invariants said.
    pub judgements: Vec<Judgement>,
    /// When the first invariant broke.
    pub broken_at: Option<Duration>,
    /// All messages, if they were asked for.
    pub messages: Vec<net::Event>,
}
