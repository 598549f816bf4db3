//! The fault harness (feature `runner`): release binaries of a cluster, clients that work on them while a schedule of faults is carried out,
//! and what the checkers say of it.
//!
//! | module | does |
//! |---|---|
//! | [`options`], [`plan`], [`load`] | what is to happen, as data; the schedule is drawn from a seed |
//! | [`world`], [`cluster`], [`guard`] | machines out of [`os`](crate::os); processes on them, and who may take one down; the sweep after a kill |
//! | [`nemesis`], [`links`] | carries the schedule out; what holds on links while faults overlap |
//! | [`observe`], [`service`] | who leads; whether everything is served |
//! | [`life`] | one run from its beginning to its end |
//! | [`logs`] | the committed log out of stopped nodes |
//! | [`recovery`], [`mod@judge`], [`planted`] | figures, ruling, and who found a bug that was planted; pure |
//! | [`artifacts`], [`summary`], [`messages`], [`recheck`] | what is left of it: pictures, histories, tables, and another check |
//!
//! A run does not end with a fault under way: the final recovery comes whatever happened before. It takes down what it has made, also
//! when it is told to end; what a killed one leaves (never a process) its guard removes, else the next run.

pub mod artifacts;
pub mod cluster;
pub mod guard;
pub mod judge;
pub mod life;
pub mod links;
pub mod load;
pub mod logs;
pub mod messages;
pub mod nemesis;
pub mod observe;
pub mod options;
pub mod plan;
pub mod planted;
pub mod progress;
pub mod recheck;
pub mod recovery;
pub mod service;
pub mod summary;
pub mod world;

use std::{fmt, fs, io, thread};

use self::{
    cluster::Cluster,
    judge::{Evidence, judge},
    life::{Life, Outcome},
    options::{Options, Prepared},
    progress::Progress,
    recheck::Facts,
    recovery::{Service, recoveries},
    summary::Summary,
    world::{Wish, World},
};
use crate::{history::paired, os::capabilities::probe, workload::Stop};

/// Version and commit of this program.
pub const VERSION: &str = env!("KVSVR_BUILD");

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for cannot be.
    Usage(String),
    /// The harness itself failed; it says nothing about the cluster.
    Harness(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Harness(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) => f.write_str(text),
            Failure::Harness(error) => write!(f, "the harness failed: {error}"),
        }
    }
}

/// Runs all of it. `interrupt` ends it early.
///
/// # Errors
/// There is no result; what was made is taken down all the same.
pub fn run(options: &Options, interrupt: &Stop, progress: &mut Progress) -> Result<Summary, Failure> {
    fs::create_dir_all(&options.scratch)?;
    for left in world::sweep(&options.scratch, None)? {
        progress.phase(&format!("removed {left}, which a killed run has left"));
    }
    let capabilities = probe(&options.scratch);
    let prepared = options.prepare(&capabilities).map_err(Failure::Usage)?;
    let plan = &prepared.plan;
    let files = artifacts::Files::create(&options.report, plan)?;
    progress.phase(&format!(
        "{} faults of {} kinds in {} s, seed {}, report in {}",
        plan.faults.len(),
        plan.nemeses.len(),
        plan.load_ms / 1000,
        plan.seed,
        options.report.display()
    ));
    let (world, machines) = World::create(&Wish {
        nodes: plan.nodes,
        seed: plan.seed,
        nemeses: &plan.nemeses,
        capabilities: &capabilities,
        proxy: options.proxy,
        scratch: &options.scratch,
        capture: &files.capture(),
    })?;
    let not_covered = world.not_covered(&prepared);
    let life = Life::new(plan.clone(), interrupt.clone());
    let cluster = Cluster::new(world, machines, &options.binary, &files.logs(), life.now())
        .with_mutant(options.mutant.as_ref().map(|mutant| &*mutant.name))
        .with_log_kept(options.keep_log);
    let (outcome, ended) = live(life, cluster, progress);
    // What went wrong first tells more.
    let outcome = outcome?;
    ended?;
    conclude(options, &prepared, outcome, not_covered, &files, progress)
}

/// Lives on a thread of its own, which is where clients are; takes the cluster down after it.
fn live(life: Life, cluster: Cluster, progress: &mut Progress) -> (io::Result<Outcome>, io::Result<()>) {
    let cluster = std::sync::Arc::new(cluster);
    let outcome = thread::scope(|scope| {
        let living = scope.spawn(|| life.live(&cluster, progress));
        living
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread of the clients panicked")))
    });
    // A part that did not end has it still: then nodes end here, and the guard removes the rest.
    cluster.kill_all();
    let ended = match std::sync::Arc::into_inner(cluster) {
        Some(cluster) => cluster.end(),
        None => Err(io::Error::other("a part of the run did not end")),
    };
    (outcome, ended)
}

/// Checks, judges and writes the report.
fn conclude(
    options: &Options,
    prepared: &Prepared,
    outcome: Outcome,
    not_covered: Vec<String>,
    files: &artifacts::Files,
    progress: &mut Progress,
) -> Result<Summary, Failure> {
    let plan = &prepared.plan;
    progress.phase(&format!("checking {} events", outcome.events.len()));
    let facts = outcome.facts(plan);
    files.history(&outcome.events, &facts, outcome.log.as_deref().ok())?;
    let verdicts = facts.check(&outcome.events, outcome.log.as_deref().ok());
    let judged = judge(&Evidence {
        required: &plan.modes(),
        injected: &outcome.injected,
        counts: outcome.counts,
        calls: &outcome.calls,
        seen: (!plan.faults.is_empty() && !options.keep_log).then_some(outcome.seen),
        load_ms: plan.load_ms,
        least_ok: options.least_ok(plan),
        most_unknown: options.most_unknown,
        verdicts: &verdicts,
        problems: &outcome.problems,
        interrupted: outcome.interrupted,
    });
    let recoveries = recoveries(&outcome.injected, &service_of(&outcome, &facts));
    let summary = Summary::new(summary::Parts {
        plan,
        outcome: &outcome,
        judged,
        recoveries: &recoveries,
        verdicts: &verdicts,
        planted: options
            .mutant
            .as_ref()
            .map(|mutant| mutant.found(&outcome.events, outcome.load.0, &outcome.problems, &verdicts)),
        not_covered,
        report: &options.report,
    });
    files.report(plan, &options.command, &outcome, &verdicts, &summary)?;
    Ok(summary)
}

fn service_of(outcome: &Outcome, facts: &Facts) -> Service {
    let shard_of = |partition: u32| facts.shards.get(&partition).copied().unwrap_or(0);
    Service::new(&paired(&outcome.events), &shard_of)
}
