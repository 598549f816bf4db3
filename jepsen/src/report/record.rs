//! What a run leaves behind to be shown. All times are nanoseconds since the run began, on the history's clock.
//!
//! Nodes are numbered by their place in [`Record::nodes`]. Other ends of links and messages (machines of clients) are numbered on from
//! there, by their place in [`Record::clients`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Rates, window};
use crate::{
    check::Verdict,
    history::{Nanos, Process, Revision},
};

/// A run. What a runner does not know stays empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// It was told to end: what was not checked then is no failure.
    pub interrupted: bool,
    /// What was run, in a few words.
    pub title: String,
    /// Version and commit of the program that ran it.
    pub version: String,
    /// More of what was run, by name; what has the name of the one before belongs to it.
    pub details: Vec<(String, String)>,
    /// What everything random was drawn from.
    pub seed: u64,
    /// The plan, as JSON text.
    pub plan: String,
    /// The command that runs it again.
    pub replay: String,
    /// Why the run failed, in one line; `None` = it did not.
    pub cause: Option<String>,
    /// When it failed, if that is known and no witness shows it.
    pub failed_at: Option<Nanos>,
    /// When the run was over.
    pub ended: Nanos,
    /// What the checkers say.
    pub judgements: Vec<Judgement>,
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// Names of other ends of messages and links.
    pub clients: Vec<String>,
    /// The nodes' states, in order of time. Each holds until the next one of its node and shard.
    pub states: Vec<NodeState>,
    /// What was done to the cluster.
    pub faults: Vec<Fault>,
    /// What happened on nodes.
    pub marks: Vec<Mark>,
    /// What clients asked for, see [`super::operations_of`].
    pub operations: Vec<ShownCall>,
    /// Operations that the run had and that are not in `operations`: carried out, not carried out, not known. See
    /// [`Record::keep_operations`].
    pub operations_left_out: [u64; 3],
    /// What watches and consumers saw, see [`super::seen_of`].
    pub seen: Vec<ShownEvent>,
    /// Messages, in order of their sending.
    pub messages: Vec<Message>,
    /// Messages that the run had and that are not in `messages`, see [`Record::keep_messages`].
    pub messages_left_out: u64,
    /// If messages were left out: those that are there were under way within so much of a moment that matters.
    pub messages_reach: Option<Nanos>,
    /// Rate and latency of operations, see [`super::rates_of`].
    pub rates: Rates,
}

impl Record {
    /// The moments that matter: when the witnesses' operations began and ended and their events were seen. Without witnesses when the run
    /// failed, or its end.
    pub(super) fn moments(&self) -> Vec<Nanos> {
        let (operations, events) = self.witnesses();
        let shown = |id: &usize| self.operations.iter().find(|operation| operation.id == *id);
        let operations = operations.iter().filter_map(shown);
        let mut moments: Vec<_> = operations
            .flat_map(|operation| [Some(operation.invoked), operation.ended])
            .flatten()
            .collect();
        let shown = |place: &usize| self.seen.iter().find(|seen| seen.event == *place);
        moments.extend(events.iter().filter_map(shown).map(|seen| seen.time));
        if moments.is_empty() {
            moments.push(self.failed_at.unwrap_or(self.ended));
        }
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    /// Operations and events of all witnesses, each once.
    pub(super) fn witnesses(&self) -> (Vec<usize>, Vec<usize>) {
        let gather = |of: fn(&Judgement) -> &Vec<usize>| {
            let mut all: Vec<_> = self.judgements.iter().flat_map(of).copied().collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        (gather(|one| &one.operations), gather(|one| &one.events))
    }

    /// Leaves out operations and events, so that of each at most about `limit` stay: all of the witnesses, and of the others each second,
    /// third and so on of each outcome, evenly over the run. Unknown outcomes stay before others. Call it when the verdicts are in.
    pub fn keep_operations(&mut self, limit: usize) {
        let (operations, events) = self.witnesses();
        let mut left_out = self.operations_left_out;
        let of = |outcome| match outcome {
            Outcome::Ok => 0,
            Outcome::Fail => 1,
            Outcome::Info => 2,
        };
        let mut counts = [0; 3];
        for one in &self.operations {
            counts[of(one.outcome)] += 1;
        }
        // Of unknown ones a half of all may stay, of the others what is left of it.
        let unknown = counts[2].min(limit / 2);
        let known = limit.saturating_sub(unknown);
        let steps = [
            (counts[0] + counts[1]).div_ceil(known.max(1)).max(1),
            (counts[0] + counts[1]).div_ceil(known.max(1)).max(1),
            counts[2].div_ceil(unknown.max(1)).max(1),
        ];
        let mut passed = [0; 3];
        self.operations.retain(|one| {
            let kind = of(one.outcome);
            passed[kind] += 1;
            let stays = passed[kind] % steps[kind] == 0 || operations.binary_search(&one.id).is_ok();
            left_out[kind] += u64::from(!stays);
            stays
        });
        self.operations_left_out = left_out;
        let step = self.seen.len().div_ceil(limit.max(1)).max(1);
        let mut passed = 0;
        self.seen.retain(|one| {
            passed += 1;
            passed % step == 0 || events.binary_search(&one.event).is_ok()
        });
    }

    /// Leaves out messages far from the moments that matter, so that at most `limit` stay: all that were under way within
    /// [`Record::messages_reach`] of one of them. Call it last, when the verdicts are in.
    pub fn keep_messages(&mut self, limit: usize) {
        let (kept, reach) = window::within(&self.messages, &self.moments(), limit);
        let Some(reach) = reach else { return };
        self.messages_left_out += (self.messages.len() - kept.len()) as u64;
        let earlier = self.messages_reach.unwrap_or(Nanos::MAX);
        self.messages_reach = Some(reach.min(earlier));
        let messages = std::mem::take(&mut self.messages);
        let mut kept = kept.into_iter().peekable();
        let stays = |(place, _): &(usize, Message)| kept.next_if_eq(place).is_some();
        let messages = messages.into_iter().enumerate().filter(stays);
        self.messages = messages.map(|(_, message)| message).collect();
    }
}

/// What a checker or an invariant said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The checker, or the invariant.
    pub checker: String,
    /// Which of the two.
    #[serde(default)]
    pub judge: Judge,
    /// In a word.
    pub ruling: Ruling,
    /// In full.
    pub text: String,
    /// What was looked at, if nothing is wrong: how much of each, by the names that [`crate::check::counts::counted`] explains.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// The operations that prove it, by [`ShownCall::id`].
    #[serde(default)]
    pub operations: Vec<usize>,
    /// The events that prove it, by [`ShownEvent::event`].
    #[serde(default)]
    pub events: Vec<usize>,
}

impl Judgement {
    /// What a checker of this name said.
    pub fn new(checker: impl Into<String>, verdict: &Verdict) -> Self {
        let mut judgement = Self {
            checker: checker.into(),
            judge: Judge::Checker,
            ruling: Ruling::Unknown,
            text: verdict.to_string(),
            counts: BTreeMap::new(),
            operations: Vec::new(),
            events: Vec::new(),
        };
        match verdict {
            Verdict::Valid { stats } => {
                judgement.ruling = Ruling::Valid;
                let counts = stats.iter().map(|(name, count)| ((*name).to_owned(), *count));
                judgement.counts = counts.collect();
            }
            Verdict::Unknown { .. } => {}
            Verdict::Invalid { witness, .. } => {
                judgement.ruling = Ruling::Invalid;
                judgement.operations.clone_from(&witness.operations);
                judgement.events.clone_from(&witness.events);
            }
        }
        judgement
    }

    /// What an invariant of this name said, which looked at so many moments; `broken`: how it is broken, in words.
    pub fn of_invariant(invariant: impl Into<String>, moments: u64, broken: Option<&str>) -> Self {
        let (ruling, text) = match broken {
            Some(how) => (Ruling::Invalid, format!("violated: {how}")),
            None if moments == 0 => (Ruling::NotAsked, "there was nothing to look at".to_owned()),
            None => (Ruling::Valid, format!("valid moments={moments}")),
        };
        Self {
            checker: invariant.into(),
            judge: Judge::Invariant,
            ruling,
            text,
            counts: BTreeMap::from([("moments".to_owned(), moments)]),
            operations: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The ruling, as this judge calls it.
    pub fn word(&self) -> &'static str {
        match (self.ruling, self.judge) {
            (Ruling::Valid, _) => "valid",
            (Ruling::Invalid, Judge::Checker) => "invalid",
            (Ruling::Invalid, Judge::Invariant) => "violated",
            (Ruling::Unknown, _) => "unknown",
            (Ruling::NotAsked, _) => "not-asked",
        }
    }
}

/// Who judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// A checker, of the history.
    #[default]
    Checker,
    /// An invariant, which looks at the replicas all the time.
    Invariant,
}

/// A verdict in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// All rules hold.
    Valid,
    /// One is broken.
    Invalid,
    /// It cannot be said.
    Unknown,
    /// What it is about did not come up, such as changes of members.
    NotAsked,
}

/// What a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads, as far as it knows.
    Leader,
    /// Has no vote.
    Learner,
    /// Its process does not run.
    Down,
}

/// The state of a replica from some time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// From then on.
    pub time: Nanos,
    /// The node.
    pub node: u32,
    /// The shard.
    pub shard: u32,
    /// What it is in the shard.
    pub role: Role,
    /// Its Raft term.
    pub term: u64,
    /// Index of the last entry that it knows to be committed.
    pub commit: u64,
    /// Index of the last entry that it applied.
    pub applied: u64,
}

/// Samples of states without those that say the same as the one before of their node and shard.
pub fn changes_of(samples: impl IntoIterator<Item = NodeState>) -> Vec<NodeState> {
    let mut last = BTreeMap::new();
    let is_new = |sample: &NodeState| {
        let state = NodeState { time: 0, ..*sample };
        last.insert((sample.node, sample.shard), state) != Some(state)
    };
    samples.into_iter().filter(is_new).collect()
}

/// Where a fault is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Everywhere.
    All,
    /// On these nodes.
    Nodes(Vec<u32>),
    /// On what one end sends to another.
    Link {
        /// The sender.
        from: u32,
        /// The receiver.
        to: u32,
    },
}

/// Something that was done to the cluster, for some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its kind, in a word.
    pub kind: String,
    /// In full.
    pub text: String,
    /// From then on.
    pub from: Nanos,
    /// Until then; `None` = to the end of the run.
    pub to: Option<Nanos>,
    /// Where.
    pub place: Place,
}

/// Something that happened on a node at once: a process started, ended and why, a snapshot was installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub time: Nanos,
    /// The node.
    pub node: u32,
    /// What.
    pub text: String,
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Carried out.
    Ok,
    /// Not carried out.
    Fail,
    /// Not known.
    Info,
}

/// An operation of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownCall {
    /// Its number in the history, by invocation.
    pub id: usize,
    /// Who called.
    pub process: Process,
    /// What, in words.
    pub call: String,
    /// What it is about: a key, partition or shard.
    pub key: String,
    /// What came of it.
    pub outcome: Outcome,
    /// When it began.
    pub invoked: Nanos,
    /// When the client heard of it; `None` = never.
    pub ended: Option<Nanos>,
    /// The revision that it was told.
    pub revision: Option<Revision>,
    /// What it was told, in words.
    pub result: String,
}

/// What a watch or a consumer saw at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownEvent {
    /// Its place in the history.
    pub event: usize,
    /// Who.
    pub process: Process,
    /// When.
    pub time: Nanos,
    /// What, in words.
    pub text: String,
}

/// A message on the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// When it was sent.
    pub sent: Nanos,
    /// When it arrived; `None` = never.
    pub arrived: Option<Nanos>,
    /// The sender.
    pub from: u32,
    /// The receiver.
    pub to: u32,
    /// What it is, in a word or two.
    pub kind: String,
    /// Its length.
    pub bytes: u64,
    /// What the network did to it, in words; empty = nothing special.
    pub fate: String,
}
