//! Who found which planted bugs: one that finds none may be one that cannot find any.

use std::{collections::BTreeSet, fmt};

use super::Found;
use crate::invariants;

/// Checkers of histories, by the names of their verdicts.
const CHECKERS: [&str; 17] = [
    "answers",
    "bank",
    "committed",
    "consumer",
    "convergence",
    "counter",
    "lease",
    "linear",
    "list",
    "pages",
    "resets",
    "revisions",
    "session",
    "set_list",
    "txns",
    "watch",
    "watch_keys",
];
/// What else must hold.
const OTHERS: [&str; 5] = ["service", "process", "no_end", "setup", "panic"];

/// For each finder: how many bugs it found first in some run, how many at all, and which. A star: first.
pub struct Matrix<'a> {
    /// The bugs that were looked for.
    pub found: &'a [Found],
    /// Finders that found none are told, too. Of a few bugs that says nothing.
    pub all: bool,
}

impl fmt::Display for Matrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| finder               | first | at all | planted bugs (*: first) |"
        )?;
        write!(
            f,
            "|----------------------|-------|--------|-------------------------|"
        )?;
        for finder in finders(self.found) {
            let found = || {
                self.found
                    .iter()
                    .filter(|found| found.at_all.contains_key(&finder))
            };
            let is_first = |found: &&Found| found.first.contains_key(&finder);
            let (first, at_all) = (found().filter(is_first).count(), found().count());
            let names = found().map(|found| {
                let star = if is_first(&found) { "*" } else { "" };
                format!("{}{star}", found.mutant)
            });
            let names = names.collect::<Vec<_>>().join(", ");
            if names.is_empty() && !self.all {
                continue;
            }
            let names = if names.is_empty() { "NONE" } else { &names };
            write!(f, "\n| {finder:20} | {first:5} | {at_all:6} | {names} |")?;
        }
        Ok(())
    }
}

/// All that there are, and whoever else found something.
fn finders(all: &[Found]) -> Vec<String> {
    let invariants = invariants::all().into_iter().map(|invariant| invariant.name());
    let mut known: Vec<String> = invariants
        .chain(CHECKERS)
        .chain(OTHERS)
        .map(str::to_owned)
        .collect();
    let found: BTreeSet<&String> = all.iter().flat_map(|found| found.at_all.keys()).collect();
    for finder in found {
        if !known.contains(finder) {
            known.push(finder.clone());
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kvsvr_jepsen::{
        check::{Context, Replica, check_all},
        workload::{Program, Spec},
    };

    use super::*;
    use crate::outcome::Failure;

    #[test]
    fn no_checker_is_forgotten() {
        let shard_of = |_| 1;
        let mut context = Context::new(&shard_of);
        let replica = Replica {
            node: 1,
            shard: 1,
            applied: 1,
            hash: 1,
        };
        context.replicas = std::slice::from_ref(&replica);
        context.committed = Some(&[]);
        let all = Spec::named(&Program::NAMES).unwrap().checks();
        let verdicts = check_all(&all, &[], &context);
        assert_eq!(verdicts.into_keys().collect::<Vec<_>>(), CHECKERS);
    }

    #[test]
    fn who_finds_nothing_is_seen() {
        let mut found = Found {
            mutant: "a-bug",
            breaks: "",
            seeds: 1,
            seconds: 1.0,
            reached: 1,
            first: BTreeMap::new(),
            at_all: BTreeMap::new(),
            by: None,
            expected: true,
        };
        let failure = |by: &str| Failure::new(by, "in words".into());
        found.note(&[failure("monotonic"), failure("bank"), failure("bank")]);
        found.note(&[failure("unheard_of")]);
        assert_eq!(
            found.at_all,
            [("bank", 1), ("monotonic", 1), ("unheard_of", 1)]
                .map(|(by, n)| (by.to_owned(), n))
                .into()
        );
        let all_found = [found];
        let text = |all_finders| {
            let all = all_finders;
            Matrix {
                found: &all_found,
                all,
            }
            .to_string()
        };
        assert!(!text(false).contains("NONE"));
        let text = text(true);
        let line = |finder: &str| {
            let begin = format!("| {finder} ");
            let line = text.lines().find(|line| line.starts_with(&begin)).unwrap();
            line.split('|')
                .skip(2)
                .map(str::trim)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(line("monotonic"), "1 1 a-bug* ");
        assert_eq!(line("bank"), "0 1 a-bug ");
        assert_eq!(line("unheard_of"), "1 1 a-bug* ");
        assert_eq!(line("linear"), "0 0 NONE ");
    }
}
