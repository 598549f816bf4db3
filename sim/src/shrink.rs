//! Makes a failing plan smaller as long as it fails in the same way.
//!
//! First the time after the failure goes, if it has a moment, then halves of the length. Then delta debugging (Zeller, Hildebrandt:
//! Simplifying and Isolating Failure-Inducing Input, TSE 2002, section 3) over the faults, then over programs, clients, shards, nodes and the
//! length; again until nothing more can go. It works because what is left to chance comes
//! from streams by name: taking a fault away leaves the rest much as it was. A smaller plan counts only if the same checker finds the same
//! rule broken ([`Failure::property`](crate::outcome::Failure::property)).

use std::{
    collections::BTreeSet,
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use kvsvr_jepsen::workload::Program;
use serde_json::Value;

use crate::{
    interrupt,
    outcome::Outcome,
    plan::{Ask, Fault, Order, Plan, Victims, What},
    sweep::{self, child::child},
};

/// A run goes on for so long after its failure: the invariants look at it a few times.
const AFTER_MS: u64 = 100;

/// How far shrinking may go.
pub struct Shrink<'a> {
    /// Real time in all.
    pub budget: Duration,
    /// Real time of one run.
    pub patience: Duration,
    /// Told of each plan that was tried: how many so far, whether it still fails, and the smallest one so far.
    pub progress: &'a dyn Fn(u64, bool, &Plan),
}

/// What came of it.
#[derive(Debug)]
pub struct Shrunk {
    /// The smallest plan that still fails.
    pub plan: Plan,
    /// What came of that.
    pub outcome: Outcome,
    /// Runs.
    pub tried: u64,
    /// The budget ended, or this process was told to end, before everything was tried.
    pub cut_short: bool,
}

/// Shrinks a plan. `None`: it does not fail, or this process was told to end before that was known; if it is told later, what it has by then
/// is the smallest.
///
/// # Errors
/// Processes cannot be started, or plans not be kept in temporary files.
pub fn shrink(plan: &Plan, how: &Shrink<'_>) -> io::Result<Option<Shrunk>> {
    let mut search = Search {
        how,
        until: Instant::now() + how.budget,
        file: std::env::temp_dir().join(format!("kvsvr-sim-shrink-{}.json", std::process::id())),
        property: String::new(),
        best: plan.clone(),
        outcome: Outcome::default(),
        tried: 0,
    };
    search.outcome = search.run(plan)?;
    let first = search.outcome.failures.first();
    let Some(first) = first.filter(|_| !interrupt::came()) else {
        return Ok(None);
    };
    search.property = first.property();
    loop {
        let before = search.best.clone();
        search.length()?;
        search.faults()?;
        search.rest()?;
        if search.best == before || search.is_over() {
            break;
        }
    }
    let cut_short = search.is_over();
    Ok(Some(Shrunk {
        plan: search.best.clone(),
        outcome: std::mem::take(&mut search.outcome),
        tried: search.tried,
        cut_short,
    }))
}

struct Search<'a> {
    how: &'a Shrink<'a>,
    until: Instant,
    /// Plans on their way to a process.
    file: PathBuf,
    property: String,
    best: Plan,
    outcome: Outcome,
    tried: u64,
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        // Nothing is left to look at in it.
        let _ = fs::remove_file(&self.file);
    }
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until || interrupt::came()
    }

    fn run(&self, plan: &Plan) -> io::Result<Outcome> {
        fs::write(&self.file, plan.to_json())?;
        let item = sweep::Item::Plan(self.file.clone());
        let outcome = child(&item.arguments(), self.how.patience)?;
        Ok(outcome.unwrap_or_else(|none| none.outcome()))
    }

    /// Keeps the plan if it fails in the same way.
    fn attempt(&mut self, plan: Plan) -> io::Result<bool> {
        if plan == self.best || self.is_over() {
            return Ok(false);
        }
        let outcome = self.run(&plan)?;
        if interrupt::came() {
            return Ok(false);
        }
        self.tried += 1;
        let fails = outcome
            .failures
            .iter()
            .any(|failure| failure.property() == self.property);
        if fails {
            (self.best, self.outcome) = (plan, outcome);
        }
        (self.how.progress)(self.tried, fails, &self.best);
        Ok(fails)
    }

    /// Takes away what comes after the failure, and then halves of the length. What comes before stays as it was.
    fn length(&mut self) -> io::Result<()> {
        loop {
            let moment = self.moment();
            let cut = match moment {
                Some(moment) => self.attempt_if(|plan| end_at(plan, moment))?,
                None => false,
            };
            if !cut && !self.attempt_if(|plan| cut_length(plan, 1, 2))? {
                return Ok(());
            }
        }
    }

    /// When the failure is, in milliseconds since the load began.
    fn moment(&self) -> Option<u64> {
        let mut failures = self.outcome.failures.iter();
        let failure = failures.find(|failure| failure.property() == self.property)?;
        let since = failure.at?.checked_sub(self.outcome.setup)?;
        Some(since.as_millis() as u64)
    }

    /// Takes faults away: halves, quarters, and so on down to single ones.
    fn faults(&mut self) -> io::Result<()> {
        let mut chunk = self.best.faults.len();
        while chunk > 0 && !self.is_over() {
            let mut from = 0;
            while from < self.best.faults.len() {
                let mut plan = self.best.clone();
                plan.faults.drain(from..(from + chunk).min(plan.faults.len()));
                // What was behind the chunk is in its place now.
                if !self.attempt(plan)? {
                    from += chunk;
                }
            }
            chunk /= 2;
        }
        Ok(())
    }

    fn rest(&mut self) -> io::Result<()> {
        for number in (0..self.best.orders.len()).rev() {
            self.attempt_if(|plan| {
                plan.orders.remove(number);
                true
            })?;
        }
        if self.best.orders.is_empty() {
            self.attempt_if(|plan| std::mem::take(&mut plan.spares) > 0)?;
        }
        for number in (0..self.best.workload.programs.len()).rev() {
            self.attempt_if(|plan| {
                (plan.workload.programs.len() > 1)
                    .then(|| plan.workload.programs.remove(number))
                    .is_some()
            })?;
        }
        for name in ["clients", "partitions", "keys"] {
            for number in 0..self.best.workload.programs.len() {
                while self.attempt_if(|plan| halve(&mut plan.workload.programs[number], name))? {}
            }
        }
        self.attempt_if(|plan| plan.ballast.take().is_some())?;
        while self.attempt_if(without_a_shard)? {}
        while self.attempt_if(without_a_node)? {}
        while self.attempt_if(begin_earlier)? {}
        while self.attempt_if(|plan| cut_length(plan, 2, 3))? {}
        while self.attempt_if(|plan| cut_length(plan, 9, 10))? {}
        for number in 0..self.best.faults.len() {
            while self.attempt_if(|plan| shorten(&mut plan.faults[number]))? {}
        }
        Ok(())
    }

    /// Tries a change; `change` says whether there is one.
    fn attempt_if(&mut self, change: impl FnOnce(&mut Plan) -> bool) -> io::Result<bool> {
        let mut plan = self.best.clone();
        if !change(&mut plan) {
            return Ok(false);
        }
        self.attempt(plan)
    }
}

/// Halves a parameter of a program. False if it has none of this name, or it is 1.
fn halve(program: &mut Program, name: &str) -> bool {
    let Ok(mut value) = serde_json::to_value(&*program) else {
        return false;
    };
    let half = value
        .get(name)
        .and_then(Value::as_u64)
        .map(|now| now / 2)
        .filter(|half| *half > 0);
    let Some(half) = half else { return false };
    value[name] = half.into();
    match serde_json::from_value(value) {
        Ok(smaller) => {
            *program = smaller;
            true
        }
        Err(_) => false,
    }
}

/// The shard that a fault is about.
fn shard_of(what: &What) -> u32 {
    match (what, what.victims()) {
        (What::Transfer { shard, .. }, _) => *shard,
        (_, Some(Victims::Leader(shard) | Victims::Follower(shard, _))) => *shard,
        _ => 0,
    }
}

fn without_a_shard(plan: &mut Plan) -> bool {
    let last = plan.shards;
    plan.shards -= 1;
    let is_of_it = |order: &Order| matches!(order.ask, Ask::Reseed { shard, .. } if shard >= last);
    plan.shards > 0
        && plan.faults.iter().all(|fault| shard_of(&fault.what) < last)
        && !plan.orders.iter().any(is_of_it)
}

/// Takes two, so that their number stays odd.
fn without_a_node(plan: &mut Plan) -> bool {
    // What is meant by a number would change.
    if plan.nodes <= 3 || plan.spares > 0 {
        return false;
    }
    plan.nodes -= 2;
    let nodes = plan.nodes;
    let stays = |nodes: usize, victims: &BTreeSet<usize>| victims.iter().all(|victim| *victim < nodes);
    plan.faults
        .iter()
        .all(|fault| match (&fault.what, fault.what.victims()) {
            (What::Transfer { to, .. }, _) => *to < nodes,
            (_, Some(Victims::Nodes(victims))) => stays(nodes, victims),
            _ => true,
        })
}

/// Ends soon after this moment, with the faults that had begun by then.
fn end_at(plan: &mut Plan, moment_ms: u64) -> bool {
    let shorter = moment_ms + AFTER_MS;
    let is_shorter = shorter < plan.length_ms;
    plan.length_ms = shorter;
    plan.faults.retain(|fault| fault.at_ms <= moment_ms);
    plan.orders.retain(|order| order.at_ms <= moment_ms);
    is_shorter
}

fn cut_length(plan: &mut Plan, part: u64, of: u64) -> bool {
    let shorter = plan.length_ms * part / of;
    let is_shorter = shorter >= 1_000 && shorter < plan.length_ms;
    plan.length_ms = shorter;
    plan.faults.retain(|fault| fault.at_ms < shorter);
    plan.orders.retain(|order| order.at_ms < shorter);
    is_shorter
}

/// Moves all faults half of the way to the begin.
fn begin_earlier(plan: &mut Plan) -> bool {
    let earlier = plan.faults.first().map_or(0, |fault| fault.at_ms / 2);
    plan.faults.iter_mut().for_each(|fault| fault.at_ms -= earlier);
    earlier >= 100
}

fn shorten(fault: &mut Fault) -> bool {
    fault.for_ms /= 2;
    fault.for_ms >= 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Failure;

    #[test]
    fn a_plan_gets_smaller_in_each_way() {
        let mut plan = (0..)
            .map(Plan::from_seed)
            .find(|plan| plan.nodes == 5 && plan.shards > 1)
            .unwrap();
        plan.faults.truncate(1);
        plan.faults[0].what = What::Kill {
            victims: Victims::Leader(1),
        };
        assert!(without_a_node(&mut plan) && plan.nodes == 3);
        assert!(!without_a_node(&mut plan));
        plan.shards = 2;
        assert!(without_a_shard(&mut plan) && plan.shards == 1);
        assert!(
            !without_a_shard(&mut plan.clone()),
            "a fault is about the last one"
        );
        let mut program = Program::by_name("register").unwrap();
        assert!(halve(&mut program, "clients") && halve(&mut program, "clients"));
        assert!(!halve(&mut program, "clients") && !halve(&mut program, "unheard_of"));
        plan.faults[0].at_ms = 300;
        assert!(begin_earlier(&mut plan) && plan.faults[0].at_ms == 150);
        assert!(!begin_earlier(&mut plan.clone()));
        plan.length_ms = 1_400;
        assert!(!cut_length(&mut plan.clone(), 2, 3));
        assert!(cut_length(&mut plan, 9, 10) && plan.length_ms == 1_260);
    }

    #[test]
    fn what_comes_after_the_failure_goes() {
        let mut plan = (0..)
            .map(Plan::from_seed)
            .find(|plan| plan.faults.len() > 9)
            .unwrap();
        let at_ms = plan.faults[4].at_ms;
        let until = plan.faults.iter().filter(|fault| fault.at_ms <= at_ms).count();
        assert!(end_at(&mut plan, at_ms) && plan.faults.len() == until);
        assert_eq!(plan.length_ms, at_ms + AFTER_MS);
        assert!(!end_at(&mut plan.clone(), at_ms), "nothing is left to cut");
    }

    #[test]
    fn a_failure_has_a_moment_in_the_load() {
        let at = |at, setup| {
            let failure = Failure::new("monotonic", "it went back".into()).at(Duration::from_secs(at));
            let outcome = Outcome {
                failures: vec![Failure::new("bank", "a sum".into()), failure.clone()],
                setup: Duration::from_secs(setup),
                ..Outcome::default()
            };
            let how = Shrink {
                budget: Duration::ZERO,
                patience: Duration::ZERO,
                progress: &|_, _, _| {},
            };
            let search = Search {
                how: &how,
                until: Instant::now(),
                file: PathBuf::new(),
                property: failure.property(),
                best: Plan::from_seed(1),
                outcome,
                tried: 0,
            };
            search.moment()
        };
        assert_eq!(at(7, 2), Some(5_000));
        assert_eq!(at(1, 2), None);
    }

    #[test]
    fn nodes_that_a_fault_names_stay() {
        let mut plan = Plan::from_seed(1);
        plan.nodes = 5;
        let victims = Victims::Nodes([4].into());
        plan.faults = vec![Fault {
            at_ms: 1,
            for_ms: 40,
            what: What::Pause { victims },
        }];
        assert!(!without_a_node(&mut plan));
        assert!(
            shorten(&mut plan.faults[0]) && shorten(&mut plan.faults[0]) && !shorten(&mut plan.faults[0])
        );
    }
}
