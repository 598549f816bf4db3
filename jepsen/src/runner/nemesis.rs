//! Carries out the faults of a plan, each on a thread of its own, and tells what became of them.
//!
//! A fault is *installed* when all that it means was done, *skipped* when nothing was (nobody leads, no node is free), *indeterminate*
//! when something was and the rest is not known. What it did is undone at its end, whatever happens; a fault that has ended leaves nothing
//! behind but what the nodes make of it.

mod clock;
mod disk;
mod files;
mod leader;
pub(super) mod members;
mod network;
mod power;
mod process;
mod victims;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use kvsvr_client::Client;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    cluster::{Cluster, Node},
    observe::Observer,
    plan::{Action, Mode, Nemesis, Plan, Planned},
};
use crate::{history::Nanos, report, workload::Stop};

/// How often a fault that must have all nodes, or a leader, looks whether it can.
const CLAIM_PAUSE: Duration = Duration::from_millis(100);
/// Time that one look at a node, or one try to write, may take.
const LOOK: Duration = Duration::from_millis(500);

/// Time that a node may take to read its files, on a slow machine too.
const START: Duration = Duration::from_secs(30);
/// Least milliseconds of a fault that is tried again.
const LEAST_AGAIN_MS: u64 = 3_000;
/// How often a kind of fault that never happened is tried again at the end.
const MORE_TRIES: usize = 3;

/// What became of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "why", rename_all = "kebab-case")]
pub enum Outcome {
    /// All of it was done.
    Installed,
    /// Nothing was done, and why.
    Skipped(String),
    /// Something was done, and what is not known.
    Indeterminate(String),
}

/// A fault that was carried out, or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injected {
    /// Its place in the plan.
    pub fault: usize,
    /// Its kind.
    pub nemesis: Nemesis,
    /// In which way; empty if there is only one.
    pub way: String,
    /// What was done, in words.
    pub text: String,
    /// Where.
    pub place: report::Place,
    /// When the first of it was about to be done, on the history's clock; if nothing was, when it was to begin.
    pub from: Nanos,
    /// When it had been undone.
    pub to: Nanos,
    /// Something was done, also if it hit nothing.
    pub touched: bool,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Injected {
    /// It happened in this way.
    pub fn shows(&self, mode: Mode) -> bool {
        self.outcome == Outcome::Installed && self.is_of(mode)
    }

    /// It was to happen in this way.
    pub fn is_of(&self, mode: Mode) -> bool {
        self.nemesis == mode.nemesis && self.way == mode.way
    }

    /// As a band of the picture.
    pub fn band(&self) -> report::Fault {
        let text = match &self.outcome {
            Outcome::Installed => self.text.clone(),
            Outcome::Skipped(why) => format!("{} (skipped: {why})", self.text),
            Outcome::Indeterminate(why) => format!("{} (indeterminate: {why})", self.text),
        };
        report::Fault {
            kind: self.nemesis.name().to_owned(),
            text,
            from: self.from,
            to: Some(self.to),
            place: self.place.clone(),
        }
    }
}

/// What all faults share.
pub struct Arsenal {
    /// What is hurt.
    pub cluster: Arc<Cluster>,
    /// Knows who leads.
    pub observer: Arc<Observer>,
    /// Hands leaderships over.
    pub admin: Client,
    /// Runs what a fault waits for.
    pub handle: Handle,
    /// Ends all faults early.
    pub stop: Stop,
    active: Mutex<BTreeMap<usize, Nemesis>>,
    /// When something was done for a fault that is under way.
    begun: Mutex<BTreeMap<usize, Nanos>>,
    injected: Mutex<Vec<Injected>>,
    /// A node has lost its disk, and no other one has its place yet.
    lost: AtomicBool,
}

/// A fault under way.
#[derive(Clone, Copy)]
struct Fault<'a> {
    arsenal: &'a Arsenal,
    number: usize,
    until: Instant,
}

/// Why a fault could not be installed.
enum Trouble {
    Skipped(String),
    Indeterminate(String),
}

impl From<Trouble> for Outcome {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Skipped(why) => Outcome::Skipped(why),
            Trouble::Indeterminate(why) => Outcome::Indeterminate(why),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Indeterminate(error.to_string())
    }
}

/// Undoes a fault; what it returns is added to the fault's text. A fault that turns out to have hit nothing is skipped.
type Undo<'a> = Box<dyn FnOnce() -> Result<String, Trouble> + 'a>;

/// A fault that is installed.
struct Installed<'a> {
    place: report::Place,
    text: String,
    /// `None`: it was over by itself.
    undo: Option<Undo<'a>>,
}

type Install<'a> = Result<Installed<'a>, Trouble>;

impl Arsenal {
    /// Nothing is under way.
    pub fn new(
        cluster: Arc<Cluster>,
        observer: Arc<Observer>,
        admin: Client,
        handle: Handle,
        stop: Stop,
    ) -> Self {
        Self {
            cluster,
            observer,
            admin,
            handle,
            stop,
            active: Mutex::default(),
            begun: Mutex::default(),
            injected: Mutex::default(),
            lost: AtomicBool::new(false),
        }
    }

    /// The kinds of the faults under way.
    pub fn active(&self) -> BTreeSet<Nemesis> {
        self.active.lock().values().copied().collect()
    }

    /// What became of the faults so far, by time.
    pub fn injected(&self) -> Vec<Injected> {
        let mut all = self.injected.lock().clone();
        all.sort_by_key(|one| (one.from, one.fault));
        all
    }

    /// Carries out a plan whose load began at `begun`. What never happened in one of its ways, since others were in its way, is tried again
    /// when all the others are over and the load would be, so that the last quiet time is one. Returns when all faults are over.
    pub async fn carry_out(self: &Arc<Self>, plan: &Plan, begun: Instant) {
        let mut under_way = JoinSet::new();
        for (number, planned) in plan.faults.iter().enumerate() {
            let at = begun + Duration::from_millis(planned.at_ms);
            if self.stop.or(sleep_until(at)).await.is_none() {
                break;
            }
            let until = begun + Duration::from_millis(planned.ends_ms());
            let (arsenal, planned) = (Arc::clone(self), planned.clone());
            under_way.spawn_blocking(move || arsenal.run(number, &planned, until));
        }
        while under_way.join_next().await.is_some() {}
        let planned_end = begun + Duration::from_millis(plan.load_ms);
        for _ in 0..MORE_TRIES {
            for number in never_happened(plan, &self.injected()) {
                if self.stop.or(sleep_until(planned_end)).await.is_none() {
                    return;
                }
                let (arsenal, planned) = (Arc::clone(self), plan.faults[number].clone());
                let until = Instant::now() + Duration::from_millis(planned.lasts_ms.max(LEAST_AGAIN_MS));
                under_way.spawn_blocking(move || arsenal.run(number, &planned, until));
                while under_way.join_next().await.is_some() {}
            }
        }
    }

    /// Waits until a node that was started answers, which it does when it has read its files, or has ended. True: it answers. False also
    /// if it does neither in time.
    fn serves_or_ends(&self, node: &Node) -> io::Result<bool> {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline && !self.stop.is_set() {
            self.cluster.supervise()?;
            if node.state().ended.is_some() {
                return Ok(false);
            }
            if self.handle.block_on(self.admin.identify(&node.address)).is_ok() {
                return Ok(true);
            }
            self.wait(CLAIM_PAUSE);
        }
        Ok(false)
    }

    /// Waits so long, unless all is to end.
    fn wait(&self, time: Duration) {
        self.handle.block_on(self.stop.pause(time));
    }

    fn run(&self, number: usize, planned: &Planned, until: Instant) {
        let Mode { nemesis, way } = planned.action.mode();
        self.active.lock().insert(number, nemesis);
        let fault = Fault {
            arsenal: self,
            number,
            until,
        };
        let planned_from = self.cluster.time();
        let (mut text, place, outcome) = match fault.install(&planned.action) {
            Ok(Installed {
                place,
                mut text,
                undo,
            }) => {
                let mut outcome = Outcome::Installed;
                if let Some(undo) = undo {
                    fault.hold();
                    match undo() {
                        Ok(more) => text += &more,
                        Err(trouble) => outcome = trouble.into(),
                    }
                }
                (text, place, outcome)
            }
            Err(trouble) => (nemesis.name().to_owned(), report::Place::All, trouble.into()),
        };
        let begun = self.begun.lock().remove(&number);
        self.cluster.release(number);
        self.active.lock().remove(&number);
        if self.stop.is_set() {
            text += ", ended early";
        }
        self.injected.lock().push(Injected {
            fault: number,
            nemesis,
            way: way.to_owned(),
            text,
            place,
            from: begun.unwrap_or(planned_from),
            to: self.cluster.time(),
            touched: begun.is_some(),
            outcome,
        });
    }
}

impl<'a> Fault<'a> {
    fn install(&self, action: &Action) -> Install<'a> {
        match action {
            Action::Kill { victim } => process::kill(self, victim),
            Action::KillAll => process::kill_all(self),
            Action::Pause { victim } => process::pause(self, victim),
            Action::Rolling { first } => process::rolling(self, *first),
            Action::Partition { cut } => network::partition(self, cut),
            Action::Link { .. } => network::bad_links(self, action),
            Action::Power => power::lose_power(self),
            Action::ClockJump { node, ms } => clock::jump(self, *node, *ms),
            Action::ClockDrift { node, percent } => clock::drift(self, *node, *percent),
            Action::DiskSlow { nodes, delay_ms } => disk::slow(self, nodes, *delay_ms),
            Action::DiskFull { node, leave_mib } => disk::full(self, *node, *leave_mib),
            Action::DiskError { node, call } => disk::error(self, *node, *call),
            Action::Corrupt { node, files, seed } => files::corrupt(self, *node, *files, *seed),
            Action::Transfer { moves } => leader::transfer(self, moves),
            Action::Members { node, change } => members::less(self, *node, *change),
            Action::Replace { node } => members::replace(self, *node),
        }
    }

    /// From now on something is done for it.
    fn begins(&self) {
        let mut begun = self.arsenal.begun.lock();
        begun.entry(self.number).or_insert_with(|| self.cluster().time());
    }

    fn cluster(&self) -> &'a Cluster {
        &self.arsenal.cluster
    }

    /// Waits until its end. False if it ends now.
    fn pause(&self, time: Duration) -> bool {
        let until = self.until.min(Instant::now() + time);
        let waiting = self.arsenal.stop.or(sleep_until(until));
        self.arsenal.handle.block_on(waiting).is_some() && Instant::now() < self.until
    }

    /// Waits until its end, or until all are to end.
    fn hold(&self) {
        self.pause(self.until.saturating_duration_since(Instant::now()));
    }
}

/// The first planned fault of each way in which none was installed.
fn never_happened(plan: &Plan, injected: &[Injected]) -> Vec<usize> {
    let mut missing = plan.modes();
    missing.retain(|mode| !injected.iter().any(|one| one.shows(*mode)));
    let planned = plan.faults.iter().enumerate();
    let first = planned.filter(|(_, fault)| missing.remove(&fault.action.mode()));
    first.map(|(number, _)| number).collect()
}

/// The picture's number of a node.
fn shown(node: &Node) -> u32 {
    (node.id - 1) as u32
}

/// The picture's place of a node.
fn at(node: &Node) -> report::Place {
    report::Place::Nodes(vec![shown(node)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::load;

    #[test]
    fn what_never_happened_is_tried_again() {
        let planned = |at_ms, action| Planned {
            at_ms,
            lasts_ms: 1_000,
            action,
        };
        let plan = Plan {
            seed: 1,
            nodes: 3,
            shards: 1,
            load_ms: 10_000,
            workload: load::spec(&["register".to_owned()], 1, 1).unwrap(),
            nemeses: vec![Nemesis::KillAll, Nemesis::Power, Nemesis::Rolling, Nemesis::Clock],
            faults: vec![
                planned(0, Action::Power),
                planned(1, Action::Power),
                planned(2, Action::KillAll),
                planned(3, Action::KillAll),
                planned(4, Action::Rolling { first: 1 }),
                planned(5, Action::ClockJump { node: 1, ms: 5 }),
                planned(
                    6,
                    Action::ClockDrift {
                        node: 1,
                        percent: 105.0,
                    },
                ),
            ],
        };
        let injected = |fault, nemesis, outcome| Injected {
            fault,
            nemesis,
            way: plan.faults[fault].action.mode().way.to_owned(),
            text: String::new(),
            place: report::Place::All,
            from: 0,
            to: 1,
            touched: true,
            outcome,
        };
        let why = || "n1 is down".to_owned();
        let happened = [
            injected(0, Nemesis::Power, Outcome::Skipped(why())),
            injected(1, Nemesis::Power, Outcome::Indeterminate(why())),
            injected(2, Nemesis::KillAll, Outcome::Skipped(why())),
            injected(3, Nemesis::KillAll, Outcome::Installed),
            injected(5, Nemesis::Clock, Outcome::Installed),
        ];
        assert_eq!(never_happened(&plan, &happened), [0, 4, 6], "a jump is no drift");
    }
}
