//! What a run has shown: it passed, or it is invalid, or it is rejected because it cannot have shown anything.
//!
//! Pure. Invalid outweighs rejected: a broken promise is one however little was asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use super::{
    life::DEMANDING_MS,
    nemesis::{Injected, Outcome},
    plan::Mode,
    recheck::SERVICE,
};
use crate::{check::Verdict, history::Nanos};

/// What a run is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// Everything that was to be shown was shown.
    Passed,
    /// A promise was broken, or could not be checked.
    Invalid,
    /// It proves nothing: something that had to happen did not.
    Rejected,
    /// It was told to end.
    Interrupted,
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ruling::Passed => "passed",
            Ruling::Invalid => "invalid",
            Ruling::Rejected => "rejected",
            Ruling::Interrupted => "interrupted",
        })
    }
}

/// Calls of one kind that were made so often and never succeeded prove nothing of it.
const MANY_CALLS: u64 = 20;
/// Milliseconds of load from which on a run must have sent snapshots and compacted what somebody still wanted.
const LONG_MS: u64 = 300_000;

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Carried out.
    pub ok: u64,
    /// Not carried out.
    pub fail: u64,
    /// Not known.
    pub info: u64,
}

impl Counts {
    /// Percent of unknown ones, of those that were carried out or may have been.
    pub fn unknown_percent(&self) -> f64 {
        let asked = self.ok + self.info;
        match asked {
            0 => 0.0,
            asked => self.info as f64 * 100.0 / asked as f64,
        }
    }
}

/// What was seen of what nodes do by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Transfers of snapshots.
    pub snapshots: usize,
    /// Compactions of shards.
    pub compactions: usize,
    /// Times that a client was told that what it asked for is compacted.
    pub compacted: usize,
}

/// What went wrong with a node, in the words of [`Planted::expected`](super::planted::Planted::expected).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// Its process ended, or did not when it was to.
    Process,
    /// The cluster did not serve when it was to.
    Service,
    /// Its files are damaged.
    Files,
}

impl About {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            About::Process => "process",
            About::Service => "service",
            About::Files => "files",
        }
    }
}

/// Something that makes a run invalid whatever clients saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Of what kind.
    pub about: About,
    /// When it was noticed.
    pub time: Nanos,
    /// What.
    pub text: String,
}

/// All that a run is judged by.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What had to happen at least once.
    pub required: &'a BTreeSet<Mode>,
    /// What happened.
    pub injected: &'a [Injected],
    /// How operations ended.
    pub counts: Counts,
    /// The same of each kind of call.
    pub calls: &'a BTreeMap<&'static str, Counts>,
    /// What nodes did; `None` if it does not have to be seen: without faults, or with the whole log kept, no snapshot is sent.
    pub seen: Option<Seen>,
    /// Milliseconds of load.
    pub load_ms: u64,
    /// Operations that must have been carried out.
    pub least_ok: u64,
    /// Percent of unknown outcomes that are too many.
    pub most_unknown: f64,
    /// What the checkers say.
    pub verdicts: &'a BTreeMap<String, Verdict>,
    /// What went wrong with nodes: ends without reason, panics, damaged files, no recovery.
    pub problems: &'a [Problem],
    /// It was told to end before its time.
    pub interrupted: bool,
}

/// A ruling with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// In a word.
    pub ruling: Ruling,
    /// Why, the gravest first; empty if it passed.
    pub reasons: Vec<String>,
}

/// Judges a run.
pub fn judge(evidence: &Evidence<'_>) -> Judged {
    let mut broken: Vec<String> = evidence
        .verdicts
        .iter()
        .filter(|(_, verdict)| matches!(verdict, Verdict::Invalid { .. }))
        .map(|(checker, verdict)| format!("{checker}: {verdict}"))
        .collect();
    broken.extend(evidence.problems.iter().map(|problem| problem.text.clone()));
    let unknown = evidence
        .verdicts
        .iter()
        .filter(|(_, verdict)| matches!(verdict, Verdict::Unknown { .. }));
    let unknown: Vec<String> = unknown
        .map(|(checker, verdict)| format!("{checker}: {verdict}"))
        .collect();
    let weak = weaknesses(evidence);
    // What could not be checked after an early end is no one's fault.
    if !evidence.interrupted {
        broken.extend(unknown);
    }
    let ruling = if !broken.is_empty() {
        Ruling::Invalid
    } else if evidence.interrupted {
        Ruling::Interrupted
    } else if !weak.is_empty() {
        Ruling::Rejected
    } else {
        Ruling::Passed
    };
    let mut reasons = broken;
    if evidence.interrupted {
        // What did not happen by then says nothing.
        reasons.push("it was told to end".into());
    } else {
        reasons.extend(weak);
    }
    Judged { ruling, reasons }
}

/// Why a run proves too little.
fn weaknesses(evidence: &Evidence<'_>) -> Vec<String> {
    let mut weak = Vec::new();
    for mode in evidence.required {
        if !evidence.injected.iter().any(|one| one.shows(*mode)) {
            let why = evidence
                .injected
                .iter()
                .filter(|one| one.is_of(*mode))
                .filter_map(|one| match &one.outcome {
                    Outcome::Skipped(why) | Outcome::Indeterminate(why) => Some(why.as_str()),
                    Outcome::Installed => None,
                });
            let why: BTreeSet<&str> = why.collect();
            let why: Vec<&str> = why.into_iter().collect();
            weak.push(match why[..] {
                [] => format!("{mode} never happened"),
                _ => format!("{mode} never happened: {}", why.join("; ")),
            });
        }
    }
    if evidence.load_ms >= DEMANDING_MS && !evidence.verdicts.contains_key(SERVICE) {
        weak.push(
            "no time without a fault was long enough to judge whether everything is served then".into(),
        );
    }
    for (call, counts) in evidence.calls {
        let tried = counts.ok + counts.fail + counts.info;
        if counts.ok == 0 && tried >= MANY_CALLS {
            weak.push(format!("{call} was called {tried} times and never succeeded"));
        }
    }
    if let Some(seen) = evidence.seen.filter(|_| evidence.load_ms >= LONG_MS) {
        if seen.snapshots == 0 {
            weak.push("no snapshot was sent".into());
        }
        if seen.compactions == 0 {
            weak.push("nothing was compacted".into());
        }
        if seen.compacted == 0 {
            weak.push("no client asked for what was compacted".into());
        }
    }
    if evidence.counts.ok < evidence.least_ok {
        weak.push(format!(
            "only {} operations were carried out, at least {} must be",
            evidence.counts.ok, evidence.least_ok
        ));
    }
    let percent = evidence.counts.unknown_percent();
    if percent > evidence.most_unknown {
        weak.push(format!(
            "{percent:.1} % of operations have an unknown outcome, at most {} % may",
            evidence.most_unknown
        ));
    }
    weak
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::{check::Stats, report::Place, runner::plan::Nemesis};

    static NO_CALLS: BTreeMap<&'static str, Counts> = BTreeMap::new();
    static KILL: LazyLock<BTreeSet<Mode>> = LazyLock::new(|| BTreeSet::from([mode(Nemesis::Kill, "")]));

    fn mode(nemesis: Nemesis, way: &'static str) -> Mode {
        Mode { nemesis, way }
    }

    fn injected(nemesis: Nemesis, outcome: Outcome) -> Injected {
        Injected {
            fault: 0,
            nemesis,
            way: String::new(),
            text: String::new(),
            place: Place::All,
            from: 0,
            to: 1,
            touched: true,
            outcome,
        }
    }

    fn verdicts(verdict: Verdict) -> BTreeMap<String, Verdict> {
        let valid = Verdict::Valid { stats: Stats::new() };
        let all = [("linear", valid.clone()), ("service", valid), ("bank", verdict)];
        all.map(|(name, verdict)| (name.to_owned(), verdict)).into()
    }

    fn valid() -> BTreeMap<String, Verdict> {
        verdicts(Verdict::Valid { stats: Stats::new() })
    }

    fn unknown() -> BTreeMap<String, Verdict> {
        verdicts(Verdict::Unknown { why: "memory".into() })
    }

    fn good<'a>(injected: &'a [Injected], verdicts: &'a BTreeMap<String, Verdict>) -> Evidence<'a> {
        Evidence {
            required: &KILL,
            injected,
            counts: Counts {
                ok: 100,
                fail: 1_000,
                info: 5,
            },
            calls: &NO_CALLS,
            seen: Some(Seen {
                snapshots: 1,
                compactions: 1,
                compacted: 1,
            }),
            load_ms: LONG_MS,
            least_ok: 100,
            most_unknown: 5.0,
            verdicts,
            problems: &[],
            interrupted: false,
        }
    }

    fn ruling(evidence: &Evidence<'_>, reason: &str) -> Ruling {
        let judged = judge(evidence);
        let told = judged.reasons.iter().any(|one| one.contains(reason));
        assert!(
            told || reason.is_empty() && judged.reasons.is_empty(),
            "{judged:?}"
        );
        judged.ruling
    }

    #[test]
    fn a_good_run_passes() {
        let (happened, valid) = ([injected(Nemesis::Kill, Outcome::Installed)], valid());
        assert_eq!(ruling(&good(&happened, &valid), ""), Ruling::Passed);
    }

    #[test]
    fn what_proves_nothing_is_rejected() {
        let (happened, valid) = ([injected(Nemesis::Kill, Outcome::Installed)], valid());
        let skipped = [
            injected(Nemesis::Kill, Outcome::Skipped("no node is free".into())),
            injected(Nemesis::Pause, Outcome::Installed),
        ];
        let nothing = good(&skipped, &valid);
        assert_eq!(
            ruling(&nothing, "kill never happened: no node is free"),
            Ruling::Rejected
        );
        let both = BTreeSet::from([mode(Nemesis::Kill, ""), mode(Nemesis::Kill, "twice")]);
        let mut one_way = good(&happened, &valid);
        one_way.required = &both;
        assert_eq!(ruling(&one_way, "kill (twice) never happened"), Ruling::Rejected);
        let mut few = good(&happened, &valid);
        few.least_ok = 101;
        assert_eq!(ruling(&few, "only 100 operations"), Ruling::Rejected);
        let mut vague = good(&happened, &valid);
        vague.counts.info = 6;
        assert_eq!(ruling(&vague, "5.7 %"), Ruling::Rejected);
    }

    #[test]
    fn a_run_of_a_minute_without_a_quiet_time_is_rejected() {
        let (happened, mut verdicts) = ([injected(Nemesis::Kill, Outcome::Installed)], valid());
        verdicts.remove("service");
        let mut evidence = good(&happened, &verdicts);
        evidence.seen = None;
        evidence.load_ms = 60_000;
        assert_eq!(
            ruling(&evidence, "no time without a fault was long enough"),
            Ruling::Rejected
        );
        evidence.load_ms -= 1;
        assert_eq!(ruling(&evidence, ""), Ruling::Passed);
    }

    #[test]
    fn a_kind_of_call_that_never_succeeds_is_rejected() {
        let (happened, valid) = ([injected(Nemesis::Kill, Outcome::Installed)], valid());
        let counts = |ok, fail, info| Counts { ok, fail, info };
        let calls = BTreeMap::from([("ack", counts(0, 10, 9)), ("send", counts(1, 90, 9))]);
        let mut evidence = good(&happened, &valid);
        evidence.calls = &calls;
        assert_eq!(ruling(&evidence, ""), Ruling::Passed, "few calls may all fail");
        let calls = BTreeMap::from([("ack", counts(0, 10, 10))]);
        evidence.calls = &calls;
        assert_eq!(ruling(&evidence, "ack was called 20 times"), Ruling::Rejected);
    }

    #[test]
    fn a_long_run_must_have_seen_snapshots_and_compaction() {
        let (happened, valid) = ([injected(Nemesis::Kill, Outcome::Installed)], valid());
        let seen = |snapshots, compactions, compacted| {
            Some(Seen {
                snapshots,
                compactions,
                compacted,
            })
        };
        let mut evidence = good(&happened, &valid);
        evidence.seen = seen(0, 1, 1);
        assert_eq!(ruling(&evidence, "no snapshot"), Ruling::Rejected);
        evidence.seen = seen(1, 0, 1);
        assert_eq!(ruling(&evidence, "nothing was compacted"), Ruling::Rejected);
        evidence.seen = seen(1, 1, 0);
        assert_eq!(ruling(&evidence, "no client"), Ruling::Rejected);
        evidence.load_ms -= 1;
        assert_eq!(ruling(&evidence, ""), Ruling::Passed);
        (evidence.seen, evidence.load_ms) = (None, LONG_MS);
        assert_eq!(ruling(&evidence, ""), Ruling::Passed);
    }

    #[test]
    fn what_is_broken_is_invalid_however_little_was_asked() {
        let (happened, invalid) = ([], verdicts(broken()));
        let mut evidence = good(&happened, &invalid);
        assert_eq!(ruling(&evidence, "bank: invalid: sum"), Ruling::Invalid);
        evidence.interrupted = true;
        assert_eq!(ruling(&evidence, "bank: invalid: sum"), Ruling::Invalid);
        let problem = Problem {
            about: About::Process,
            time: 1,
            text: "node 2 ended by itself".into(),
        };
        let (problems, valid) = ([problem], valid());
        let mut evidence = good(&happened, &valid);
        evidence.problems = &problems;
        assert_eq!(ruling(&evidence, "node 2 ended by itself"), Ruling::Invalid);
    }

    fn broken() -> Verdict {
        use crate::check::Witness;
        Verdict::Invalid {
            witness: Witness {
                rule: "sum",
                explanation: "money is lost".into(),
                operations: Vec::new(),
                events: Vec::new(),
            },
            others: 0,
        }
    }

    #[test]
    fn an_unknown_verdict_fails_unless_the_run_was_told_to_end() {
        let (happened, unknown) = ([injected(Nemesis::Kill, Outcome::Installed)], unknown());
        let mut evidence = good(&happened, &unknown);
        assert_eq!(ruling(&evidence, "bank: unknown: memory"), Ruling::Invalid);
        evidence.interrupted = true;
        assert_eq!(ruling(&evidence, "it was told to end"), Ruling::Interrupted);
    }

    #[test]
    fn without_operations_nothing_is_unknown() {
        assert_eq!(Counts::default().unknown_percent(), 0.0);
    }
}
