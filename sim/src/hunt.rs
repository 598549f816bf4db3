//! Looks for a planted bug: runs seeds with it, each in a process of its own, until one fails by whom it should.
//!
//! A failure counts only if the seed holds without the bug. What failed without it is kept too: that is a bug nobody planted.

pub mod matrix;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kvsvr_core::mutants::Mutant;
use serde::Serialize;

use crate::{
    engine::EngineKind,
    outcome::{Failure, Outcome},
    plan::Plan,
    run,
    sweep::{
        self, Sweep, Work,
        child::{NoOutcome, child},
    },
};

/// How often the planted bug's place was passed, among the events of an [`Outcome`].
const REACHED: &str = "planted bug reached";

/// What came of the search for one.
#[derive(Debug, Serialize)]
pub struct Found {
    /// Its name.
    pub mutant: &'static str,
    /// What it breaks.
    pub breaks: &'static str,
    /// Seeds that were run until it was found as expected, those without the bug left out.
    pub seeds: u64,
    /// Real time until then, with the runs without the bug.
    pub seconds: f64,
    /// Runs until then that passed the bug's place.
    pub reached: u64,
    /// In how many runs each finder found it first, those after the expected one counted too.
    pub first: BTreeMap<String, u64>,
    /// In how many runs each finder found it at all.
    pub at_all: BTreeMap<String, u64>,
    /// The seed that failed, and how. `None`: none did.
    pub by: Option<(u64, Failure)>,
    /// It was found by one of those whom the bug names.
    pub expected: bool,
}

impl Found {
    /// Counts who found it in a run.
    fn note(&mut self, failures: &[Failure]) {
        if let Some(first) = failures.first() {
            *self.first.entry(first.found_by.clone()).or_default() += 1;
        }
        let finders: BTreeSet<&str> = failures.iter().map(|failure| failure.found_by.as_str()).collect();
        for finder in finders {
            *self.at_all.entry(finder.to_owned()).or_default() += 1;
        }
    }
}

/// Runs a seed in this process with the bug that is chosen, if one is; `churn`: operators change the members meanwhile.
pub fn run_here(seed: u64, engine: EngineKind, churn: bool) -> Outcome {
    let mut plan = Plan {
        engine,
        ..Plan::from_seed(seed)
    };
    if churn {
        plan.add_churn();
    }
    let (mut outcome, _) = run::run(&plan, false);
    outcome
        .sometimes
        .insert(REACHED.into(), kvsvr_core::mutants::reached());
    outcome
}

/// Searches, and remembers what holds without a bug.
pub struct Hunt {
    /// Tried in this order.
    pub seeds: Range<u64>,
    /// Real time for one seed.
    pub patience: Duration,
    /// Seeds that are run after the one that found it as expected: who else finds it?
    pub more: u64,
    /// The nodes'.
    pub engine: EngineKind,
    /// What is wrong without a planted bug, by seed, and whether with operators.
    clean: Mutex<BTreeMap<(u64, bool), Vec<Failure>>>,
    runs: AtomicU64,
}

impl Hunt {
    /// In these seeds.
    pub fn new(seeds: Range<u64>, patience: Duration, engine: EngineKind) -> Self {
        Self {
            seeds,
            patience,
            more: 0,
            engine,
            clean: Mutex::default(),
            runs: AtomicU64::new(0),
        }
    }

    /// Runs that came to their end, with a bug and without.
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Runs seeds until the bug is found by whom it should be, and some more if they are asked for; else keeps the first that found it at all.
    /// `None`: this process was told to end before it was found.
    ///
    /// # Errors
    /// The processes cannot be started.
    pub fn look_for(&self, mutant: &'static Mutant) -> io::Result<Option<Found>> {
        let begin = Instant::now();
        let mut found = Found {
            mutant: mutant.name,
            breaks: mutant.breaks,
            seeds: 0,
            seconds: 0.0,
            reached: 0,
            first: BTreeMap::new(),
            at_all: BTreeMap::new(),
            by: None,
            expected: false,
        };
        let mut more = self.more;
        for seed in self.seeds.clone() {
            if found.expected {
                let Some(left) = more.checked_sub(1) else { break };
                more = left;
            }
            let churn = mutant.needs_churn();
            let Some((reached, failures)) = self.run(seed, churn, Some(mutant.name))? else {
                return Ok(Some(found).filter(|found| found.expected));
            };
            if !found.expected {
                found.seeds += 1;
                found.reached += u64::from(reached);
            }
            let is_expected = |failure: &Failure| mutant.expected.contains(&failure.found_by.as_str());
            let told = failures.iter().find(|failure| is_expected(failure));
            let Some(failure) = told.or(failures.first()) else {
                continue;
            };
            match self.holds_without(seed, churn)? {
                Some(true) => {}
                Some(false) => continue,
                None => return Ok(Some(found).filter(|found| found.expected)),
            }
            found.note(&failures);
            if found.expected {
                continue;
            }
            found.expected = is_expected(failure);
            if found.by.is_none() || found.expected {
                found.by = Some((seed, failure.clone()));
            }
            found.seconds = begin.elapsed().as_secs_f64();
        }
        if !found.expected {
            found.seconds = begin.elapsed().as_secs_f64();
        }
        Ok(Some(found))
    }

    /// What failed without a planted bug.
    pub fn unplanted(&self) -> Vec<(u64, Failure)> {
        let clean = self.clean.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = clean.iter().flat_map(|((seed, _), failures)| {
            let seed = *seed;
            failures.iter().map(move |failure| (seed, failure.clone()))
        });
        failures.collect()
    }

    /// The seed holds without the bug; `None`: this process was told to end.
    fn holds_without(&self, seed: u64, churn: bool) -> io::Result<Option<bool>> {
        let known = |clean: &BTreeMap<_, Vec<Failure>>| clean.get(&(seed, churn)).map(Vec::is_empty);
        if let Some(holds) = known(&self.clean.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(Some(holds));
        }
        let Some((_, failures)) = self.run(seed, churn, None)? else {
            return Ok(None);
        };
        let holds = failures.is_empty();
        let mut clean = self.clean.lock().unwrap_or_else(PoisonError::into_inner);
        clean.insert((seed, churn), failures);
        Ok(Some(holds))
    }

    /// Runs a seed in a process of its own: whether the bug's place was passed, and what failed; `None`: this process was told to end.
    fn run(&self, seed: u64, churn: bool, mutant: Option<&str>) -> io::Result<Option<(bool, Vec<Failure>)>> {
        let mut arguments = vec!["run".into(), "--seed".into(), seed.to_string()];
        arguments.extend(self.engine.arguments());
        arguments.extend(churn.then(|| String::from("--churn")));
        arguments.extend(mutant.into_iter().flat_map(with));
        let told = match child(&arguments, self.patience)? {
            Ok(outcome) => {
                let reached = outcome.sometimes.get(REACHED).is_some_and(|times| *times > 0);
                (reached, outcome.failures)
            }
            Err(NoOutcome::Stopped) => return Ok(None),
            // What does not end by itself, or ends too soon, was there.
            Err(none) => (true, vec![none.failure()]),
        };
        self.runs.fetch_add(1, Ordering::Relaxed);
        Ok(Some(told))
    }
}

/// The arguments that plant a bug in a process.
fn with(mutant: &str) -> [String; 2] {
    ["--mutant".into(), mutant.into()]
}

/// Sweeps one seed with a planted bug and then without, by the same means as every other sweep. What is wrong with the sweep: the seed must
/// fail by whom it should, and hold without the bug.
///
/// # Errors
/// The processes cannot be started.
pub fn canary(mutant: &'static Mutant, seed: u64, patience: Duration) -> io::Result<Result<Failure, String>> {
    let mut sweep = Sweep {
        work: Work::Seeds(seed..seed + 1),
        reports: None,
        jobs: 1,
        length: None,
        keep_going: false,
        patience,
        twice: false,
        besides: Vec::new(),
    };
    if let Some(outcome) = sweep::sweep(&sweep)?.failed.first() {
        return Ok(Err(format!("seed {seed} fails by itself: {outcome}")));
    }
    sweep.besides = with(mutant.name).into();
    let summary = sweep::sweep(&sweep)?;
    let mut failures = summary.failed.into_iter().flat_map(|outcome| outcome.failures);
    let found = failures.find(|failure| mutant.expected.contains(&failure.found_by.as_str()));
    Ok(found.ok_or_else(|| format!("seed {seed} with {} does not fail as it must", mutant.name)))
}
