//! What came of a simulation: what a process that ran one seed tells the one that sent it.

use std::{collections::BTreeMap, fmt, time::Duration};

use kvsvr_jepsen::report::{Judge, Judgement, Ruling};
use serde::{Deserialize, Serialize};

/// What came of a simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The plan's seed.
    pub seed: u64,
    /// Version and commit of the simulator.
    #[serde(default)]
    pub version: String,
    /// The plan's origin.
    pub origin: String,
    /// What the checkers say, if the run came so far, and the invariants.
    #[serde(default)]
    pub verdicts: Vec<Judgement>,
    /// What is wrong, each with the name of who found it, most telling first. Empty = the cluster kept its promises.
    pub failures: Vec<Failure>,
    /// Simulated time.
    pub simulated: Duration,
    /// The part of it before the load and the faults began.
    pub setup: Duration,
    /// Operations of clients that succeeded, failed, and whose outcome is unknown.
    pub operations: [u64; 3],
    /// How often the invariants looked.
    pub looks: u64,
    /// What could not be known and so was not checked, in words.
    pub unknown: Vec<String>,
    /// How often each event happened that must happen in a sweep.
    pub sometimes: BTreeMap<String, u64>,
    /// How many processes ended by themselves, or could not stop in order, because of which fault, and how.
    #[serde(default)]
    pub excused: BTreeMap<String, u64>,
    /// One number for all that the network did: equal plans have equal ones.
    pub hash: u64,
    /// One number for what clients saw.
    #[serde(default)]
    pub history: u64,
    /// One number for the replicas' states at the end.
    #[serde(default)]
    pub states: u64,
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
    /// When, in simulated time, if it has a moment.
    #[serde(default)]
    pub at: Option<Duration>,
}

impl Failure {
    /// Of somebody who says so.
    pub fn new(found_by: &str, text: String) -> Self {
        Self {
            found_by: found_by.to_owned(),
            text,
            at: None,
        }
    }

    /// Of this moment.
    #[must_use]
    pub fn at(self, at: Duration) -> Self {
        Self { at: Some(at), ..self }
    }

    /// Who found it and which rule is broken, without what differs from run to run: what shrinking must keep. The rule is the checker's,
    /// or the place of a panic, or the words of the text that are no names and no numbers.
    pub fn property(&self) -> String {
        let rule = self
            .text
            .strip_prefix("invalid: ")
            .and_then(|text| text.split(':').next());
        let panicked = self.text.split_once("panicked at ").map(|(_, place)| {
            let place = place.split_whitespace().next().unwrap_or_default();
            format!("panicked at {}", place.trim_end_matches(':'))
        });
        let rule = rule.map(str::to_owned).or(panicked);
        format!("{}: {}", self.found_by, rule.unwrap_or_else(|| words(&self.text)))
    }
}

/// The words in small letters that are not in brackets: what somebody has written of a rule, not what was seen.
fn words(text: &str) -> String {
    let mut depth = 0_usize;
    let mut outside = String::new();
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => outside.push(c),
            _ => {}
        }
    }
    let is_word = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let words = outside.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(is_word).collect::<Vec<_>>().join(" ")
}

impl Outcome {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// All that two runs of a plan must have in common.
    pub fn trace(&self) -> ([u64; 4], Duration) {
        (
            [self.hash, self.history, self.states, self.unseed],
            self.simulated,
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ok, failed, unknown] = self.operations;
        let ruling = if self.is_clean() { "passed" } else { "FAILED" };
        writeln!(f, "ruling       {ruling}")?;
        writeln!(f, "version      {}", self.version)?;
        writeln!(f, "seed         {} ({})", self.seed, self.origin)?;
        writeln!(f, "simulated    {:.1} s", self.simulated.as_secs_f64())?;
        writeln!(
            f,
            "operations   {ok} succeeded, {failed} failed, {unknown} unknown"
        )?;
        let happened = self.sometimes.iter().filter(|(_, count)| **count > 0);
        for (event, count) in happened {
            writeln!(f, "event        {event}: {count}")?;
        }
        for (why, count) in &self.excused {
            writeln!(f, "excused      {why}: {count}")?;
        }
        writeln!(f, "looks        {}", self.looks)?;
        self.verdicts.iter().try_for_each(|verdict| told(f, verdict))?;
        for unknown in &self.unknown {
            writeln!(f, "UNKNOWN      {unknown}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED       {}: {}", failure.found_by, failure.text)?;
        }
        let [hash, history, states, unseed] = self.trace().0;
        write!(
            f,
            "hash         {hash:016x} {history:016x} {states:016x} {unseed:016x}"
        )
    }
}

/// A line of the table of verdicts. What is wrong or unknown has a line of its own with all that is to be said.
fn told(f: &mut fmt::Formatter<'_>, verdict: &Judgement) -> fmt::Result {
    let judge = match verdict.judge {
        Judge::Checker => "checker  ",
        Judge::Invariant => "invariant",
    };
    let text = match verdict.ruling {
        Ruling::Valid | Ruling::NotAsked => &verdict.text,
        Ruling::Invalid | Ruling::Unknown => verdict.word(),
    };
    writeln!(f, "{judge}    {:20} {text}", verdict.checker)
}

#[cfg(test)]
mod tests {
    use kvsvr_jepsen::check::Verdict;

    use super::*;

    #[test]
    fn verdicts_of_checkers_and_invariants_are_told_in_one_table() {
        let stats = [("keys", 2)].into();
        let valid = Judgement::new("linear", &Verdict::Valid { stats });
        let holds = Judgement::of_invariant("log_matching", 900, None);
        let broken = Judgement::of_invariant("monotonic", 3, Some("monotonic at 1s: the vote went back"));
        let blind = Judgement::of_invariant("map_epochs", 0, None);
        let outcome = Outcome {
            verdicts: vec![valid, holds, broken, blind],
            version: "0.1.0 (commit 1234567)".into(),
            excused: [("damage: cannot start, a damaged log".to_owned(), 3)].into(),
            ..Outcome::default()
        };
        let text = outcome.to_string();
        for line in [
            "version      0.1.0 (commit 1234567)",
            "excused      damage: cannot start, a damaged log: 3",
            "checker      linear               valid keys=2",
            "invariant    log_matching         valid moments=900",
            "invariant    monotonic            violated",
            "invariant    map_epochs           there was nothing to look at",
        ] {
            assert!(
                text.lines().any(|told| told == line),
                "{line:?} is not in\n{text}"
            );
        }
        let json = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&json).unwrap(), outcome);
        let mut trace = outcome.clone();
        (trace.verdicts, trace.version) = (Vec::new(), String::new());
        assert_eq!(
            trace.trace(),
            outcome.trace(),
            "they are no part of what happened"
        );
    }

    fn property(found_by: &str, text: &str) -> String {
        Failure::new(found_by, text.to_owned()).property()
    }

    #[test]
    fn a_property_has_the_rule_and_no_numbers() {
        let vote = "monotonic at 12.5s: shard 1, node 2: the vote was Some(VoteRecord { term: 3 }), is None";
        assert_eq!(
            property("monotonic", vote),
            "monotonic: monotonic at shard node the vote was is"
        );
        let flushed = "monotonic at 9ms: shard 4, node 1: flushed index was Some(5), is Some(3)";
        assert_ne!(property("monotonic", vote), property("monotonic", flushed));
        let later = flushed.replace("Some(3)", "None").replace("9ms", "1.25s");
        assert_eq!(property("monotonic", flushed), property("monotonic", &later));
        assert_eq!(property("bank", "invalid: total: 3 is not 4"), "bank: total");
    }

    #[test]
    fn the_end_of_a_process_has_its_place_or_its_reason() {
        let died = |place: &str| {
            format!("no outcome, exit status: 101: thread 'main' (77) panicked at {place}: index 7")
        };
        let here = property("process", &died("src/a.rs:12:5"));
        assert_eq!(here, "process: panicked at src/a.rs:12:5");
        assert_ne!(here, property("process", &died("src/a.rs:13:5")));
        assert_eq!(property("no_end", "no end within 300s"), "no_end: no end within");
        let ended = |why: &str| property("process", &format!("process 3 of node 2 ended by itself: {why}"));
        assert_ne!(ended("the log failed: EIO"), ended("the engine cannot flush"));
    }
}
