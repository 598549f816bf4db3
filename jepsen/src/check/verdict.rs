//! What a checker says, and how it collects it.

use std::{collections::BTreeMap, fmt};

use crate::history::{End, Operation};

/// Numbers of what was looked at, by name.
pub type Stats = BTreeMap<&'static str, u64>;

/// A checker's answer. Whoever runs one must take anything but [`Verdict::Valid`] for a failure: a run that was not understood has not
/// shown anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All rules hold.
    Valid {
        /// What they were checked on.
        stats: Stats,
    },
    /// A rule is broken.
    Invalid {
        /// The first proof that was found.
        witness: Witness,
        /// How many more there are.
        others: usize,
    },
    /// It cannot be said.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Why nothing is known of a history that has nothing for a checker.
const NOTHING: &str = "there is nothing to check in this history";

impl Verdict {
    /// Nothing was there to check.
    pub fn is_empty(&self) -> bool {
        matches!(self, Verdict::Unknown { why } if why == NOTHING)
    }

    /// Only this is a success.
    pub fn is_valid(&self) -> bool {
        matches!(self, Verdict::Valid { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Valid { stats } => {
                f.write_str("valid")?;
                stats.iter().try_for_each(|(name, n)| write!(f, " {name}={n}"))
            }
            Verdict::Invalid { witness, others: 0 } => write!(f, "invalid: {witness}"),
            Verdict::Invalid { witness, others } => write!(f, "invalid: {witness} (and {others} more)"),
            Verdict::Unknown { why } => write!(f, "unknown: {why}"),
        }
    }
}

/// The proof that a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The rule, in a word or two.
    pub rule: &'static str,
    /// What is wrong, in words.
    pub explanation: String,
    /// The operations that show it, by [`Operation::id`]; few.
    pub operations: Vec<usize>,
    /// The events that show it, by place in the history: what watches and consumers saw.
    pub events: Vec<usize>,
}

impl Witness {
    /// Without anything that shows it.
    pub(crate) fn new(rule: &'static str, explanation: impl Into<String>) -> Self {
        Self {
            rule,
            explanation: explanation.into(),
            operations: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Adds operations, each once, in their order.
    pub(crate) fn operations(mut self, ids: impl IntoIterator<Item = usize>) -> Self {
        self.operations.extend(ids);
        self.operations.sort_unstable();
        self.operations.dedup();
        self
    }

    /// Adds events.
    pub(crate) fn events(mut self, places: impl IntoIterator<Item = usize>) -> Self {
        self.events.extend(places);
        self.events.sort_unstable();
        self.events.dedup();
        self
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.explanation)?;
        if !self.operations.is_empty() {
            write!(f, "; operations {:?}", self.operations)?;
        }
        if !self.events.is_empty() {
            write!(f, "; events {:?}", self.events)?;
        }
        Ok(())
    }
}

/// Most findings that are counted; a broken run would have one for each read.
const MAX_FINDINGS: usize = 1000;

/// What a checker has found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    found: Vec<Witness>,
    unknown: Option<String>,
    stats: Stats,
}

impl Findings {
    /// A rule is broken.
    pub(crate) fn push(&mut self, witness: Witness) {
        if self.found.len() < MAX_FINDINGS {
            self.found.push(witness);
        }
    }

    /// A rule could not be checked. Only the first reason is kept.
    pub(crate) fn unknown(&mut self, why: impl Into<String>) {
        self.unknown.get_or_insert(why.into());
    }

    /// Counts something that was checked.
    pub(crate) fn count(&mut self, what: &'static str, n: u64) {
        *self.stats.entry(what).or_default() += n;
    }

    /// The verdict. A broken rule outweighs one that could not be checked. Nothing checked at all is unknown.
    pub(crate) fn verdict(self) -> Verdict {
        let others = self.found.len().saturating_sub(1);
        if let Some(witness) = self.found.into_iter().next() {
            return Verdict::Invalid { witness, others };
        }
        if let Some(why) = self.unknown {
            return Verdict::Unknown { why };
        }
        if self.stats.values().all(|n| *n == 0) {
            let why = NOTHING.to_owned();
            return Verdict::Unknown { why };
        }
        Verdict::Valid { stats: self.stats }
    }
}

/// An operation in words: who, what, when, what came of it.
pub(crate) fn describe(operation: &Operation) -> String {
    let Operation {
        id,
        process,
        invoked,
        call,
        end,
        ..
    } = operation;
    match end {
        End::Ok(ended, reply) => {
            format!("#{id} (process {process}, {invoked}..{ended} ns) {call} -> {reply}")
        }
        End::Fail(ended, error) => {
            format!("#{id} (process {process}, {invoked}..{ended} ns) {call} failed: {error}")
        }
        End::Unknown => format!("#{id} (process {process}, {invoked} ns..) {call}, outcome unknown"),
    }
}
