//! What came of a simulation: what a process that ran one seed tells the one that sent it.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What came of a simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The plan's seed.
    pub seed: u64,
    /// The plan's origin.
    pub origin: String,
    /// What is wrong, each with the name of who found it, most telling first. Empty = the cluster kept its promises.
    pub failures: Vec<Failure>,
    /// Simulated time.
    pub simulated: Duration,
    /// Operations of clients that succeeded, failed, and whose outcome is unknown.
    pub operations: [u64; 3],
    /// How often the invariants looked.
    pub looks: u64,
    /// What could not be known and so was not checked, in words.
    pub unknown: Vec<String>,
    /// How often each event happened that must happen in a sweep.
    pub sometimes: BTreeMap<String, u64>,
    /// One number for all that happened: equal plans have equal ones.
    pub hash: u64,
    /// A number drawn when all was over: another measure of the same.
    pub unseed: u64,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A checker, an invariant, or what else must hold: `setup`, `service`, `process` (one of a node, or the simulation's own, ended by
    /// itself), `no_end`, `panic`, `determinism`.
    pub found_by: String,
    /// In words.
    pub text: String,
}

impl Failure {
    /// Of somebody who says so.
    pub fn new(found_by: &str, text: String) -> Self {
        Self {
            found_by: found_by.to_owned(),
            text,
        }
    }

    /// Who found it and which rule is broken, without what differs from run to run: what shrinking must keep.
    pub fn property(&self) -> String {
        let rule = self
            .text
            .strip_prefix("invalid: ")
            .and_then(|text| text.split(':').next());
        match rule {
            Some(rule) => format!("{}: {rule}", self.found_by),
            None => self.found_by.clone(),
        }
    }
}

impl Outcome {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// All that two runs of a plan must have in common.
    pub fn trace(&self) -> (u64, u64, Duration) {
        (self.hash, self.unseed, self.simulated)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ok, failed, unknown] = self.operations;
        writeln!(f, "seed         {} ({})", self.seed, self.origin)?;
        writeln!(f, "simulated    {:.1} s", self.simulated.as_secs_f64())?;
        writeln!(
            f,
            "operations   {ok} succeeded, {failed} failed, {unknown} unknown"
        )?;
        for (event, count) in &self.sometimes {
            writeln!(f, "event        {event}: {count}")?;
        }
        writeln!(f, "looks        {}", self.looks)?;
        for unknown in &self.unknown {
            writeln!(f, "UNKNOWN      {unknown}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED       {}: {}", failure.found_by, failure.text)?;
        }
        write!(f, "hash         {:016x} {:016x}", self.hash, self.unseed)
    }
}
