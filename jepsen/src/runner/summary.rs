//! The figures of a run, as data and as tables.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{
    VERSION,
    judge::{Counts, Judged, Seen},
    life::Outcome,
    nemesis,
    plan::{Nemesis, Plan},
    planted::Found,
    recovery::{Recovery, Spread},
};
use crate::{check::Verdict, history::Nanos};

/// What became of one kind of faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// In the plan.
    pub planned: usize,
    /// Carried out.
    pub installed: usize,
    /// Not carried out.
    pub skipped: usize,
    /// Not known.
    pub indeterminate: usize,
    /// Nanoseconds that somebody waited at most who asked while a fault lasted ([`Recovery::outage`]).
    pub outage: Spread,
    /// Faults after which a shard never served again: they are in no spread of times.
    pub never: usize,
    /// Nanoseconds from a fault's end until every shard served.
    pub after_heal: Spread,
    /// The same, of those during which no other fault was under way.
    pub alone: Spread,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Passed or not, and why.
    #[serde(flatten)]
    pub judged: Judged,
    /// Version and commit of the harness.
    pub version: &'static str,
    /// Of all chance.
    pub seed: u64,
    /// Nodes.
    pub nodes: u64,
    /// Data shards.
    pub shards: u32,
    /// Programs.
    pub workloads: Vec<String>,
    /// Seconds of load.
    pub load_seconds: f64,
    /// How operations ended.
    pub operations: Counts,
    /// Operations carried out in a second of the load.
    pub rate: f64,
    /// Percent of unknown outcomes.
    pub unknown_percent: f64,
    /// Changes of leader that were seen.
    pub elections: u64,
    /// What was seen of what nodes do by themselves.
    #[serde(flatten)]
    pub seen: Seen,
    /// Flipped bits that a node's check did not notice.
    pub bits_unnoticed: usize,
    /// How calls ended, by kind.
    pub calls: BTreeMap<&'static str, Counts>,
    /// By kind.
    pub faults: BTreeMap<&'static str, Kind>,
    /// Over all kinds.
    pub all_faults: Kind,
    /// Milliseconds from the end of all faults until all was served.
    pub final_recovery_ms: Option<u64>,
    /// What the checkers say.
    pub verdicts: BTreeMap<String, String>,
    /// Why the committed log is not known; `None`: it is, and unknown outcomes were resolved from it.
    pub no_log: Option<String>,
    /// The planted bug of this run, and who found it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planted: Option<Found>,
    /// What this run could not show.
    pub not_covered: Vec<String>,
    /// Where the report is.
    pub report: PathBuf,
}

/// What it is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What was to happen.
    pub plan: &'a Plan,
    /// What happened.
    pub outcome: &'a Outcome,
    /// What that is.
    pub judged: Judged,
    /// How long clients went without service.
    pub recoveries: &'a [Recovery],
    /// What the checkers say.
    pub verdicts: &'a BTreeMap<String, Verdict>,
    /// The planted bug, and who found it.
    pub planted: Option<Found>,
    /// What could not be shown.
    pub not_covered: Vec<String>,
    /// Where the report is.
    pub report: &'a Path,
}

impl Summary {
    /// Of a run.
    pub fn new(parts: Parts<'_>) -> Self {
        let (plan, outcome) = (parts.plan, parts.outcome);
        let load = Duration::from_nanos(outcome.load.1.saturating_sub(outcome.load.0)).as_secs_f64();
        let kinds = plan.nemeses.iter().map(|nemesis| {
            let of = |one: Nemesis| one == *nemesis;
            (nemesis.name(), kind(&parts, of))
        });
        Self {
            version: VERSION,
            seed: plan.seed,
            nodes: plan.nodes,
            shards: plan.shards,
            workloads: programs(plan),
            load_seconds: load,
            operations: outcome.counts,
            rate: outcome.counts.ok as f64 / load.max(0.001),
            unknown_percent: outcome.counts.unknown_percent(),
            elections: outcome.elections,
            seen: outcome.seen,
            bits_unnoticed: outcome.bits_unnoticed,
            calls: outcome.calls.clone(),
            faults: kinds.collect(),
            all_faults: kind(&parts, |_| true),
            final_recovery_ms: outcome.final_recovery.map(|time| time.as_millis() as u64),
            verdicts: parts
                .verdicts
                .iter()
                .map(|(name, verdict)| (name.clone(), verdict.to_string()))
                .collect(),
            no_log: outcome.log.as_ref().err().cloned(),
            planted: parts.planted,
            not_covered: parts.not_covered,
            report: parts.report.to_owned(),
            judged: parts.judged,
        }
    }
}

/// The names of a plan's programs.
pub(super) fn programs(plan: &Plan) -> Vec<String> {
    let name = |program| {
        let json = serde_json::to_value(program).unwrap_or_default();
        json["program"].as_str().unwrap_or_default().to_owned()
    };
    plan.workload.programs.iter().map(name).collect()
}

/// The figures of the faults whose kind is one of these.
fn kind(parts: &Parts<'_>, is_one: impl Fn(Nemesis) -> bool) -> Kind {
    use nemesis::Outcome::{Indeterminate, Installed, Skipped};
    let of = |fault: usize| {
        parts
            .plan
            .faults
            .get(fault)
            .map(|planned| planned.action.nemesis())
    };
    let injected = &parts.outcome.injected;
    let count = |is: fn(&nemesis::Outcome) -> bool| {
        let mine = injected.iter().filter(|one| is_one(one.nemesis));
        mine.filter(|one| is(&one.outcome)).count()
    };
    let mine: Vec<&Recovery> = parts
        .recoveries
        .iter()
        .filter(|one| of(one.fault).is_some_and(&is_one))
        .collect();
    let alone = mine.iter().filter(|one| one.alone);
    Kind {
        planned: parts
            .plan
            .faults
            .iter()
            .filter(|planned| is_one(planned.action.nemesis()))
            .count(),
        installed: count(|outcome| *outcome == Installed),
        skipped: count(|outcome| matches!(outcome, Skipped(_))),
        indeterminate: count(|outcome| matches!(outcome, Indeterminate(_))),
        outage: Spread::of(mine.iter().filter_map(|one| one.outage)),
        never: mine.iter().filter(|one| one.after_heal.is_none()).count(),
        after_heal: Spread::of(mine.iter().filter_map(|one| one.after_heal)),
        alone: Spread::of(alone.filter_map(|one| one.after_heal)),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.faults_table())?;
        writeln!(f, "{TIMES}\n")?;
        writeln!(f, "{}", self.verdicts_table())?;
        let Counts { ok, fail, info } = self.operations;
        writeln!(
            f,
            "operations  {ok} ok, {fail} failed, {info} unknown ({:.2} %); {:.0}/s over {:.0} s",
            self.unknown_percent, self.rate, self.load_seconds
        )?;
        let all = &self.all_faults;
        writeln!(
            f,
            "outage      while a fault lasts and until it is recovered from: p50 {}, p99 {}, max {} ms; {} faults after which a shard never served",
            ms(all.outage.p50),
            ms(all.outage.p99),
            ms(all.outage.max),
            all.never
        )?;
        writeln!(
            f,
            "recovery    after a fault is healed: p50 {}, p99 {}, max {} ms ({} faults, {} of them alone: p99 {} ms); after all: {} ms",
            ms(all.after_heal.p50),
            ms(all.after_heal.p99),
            ms(all.after_heal.max),
            all.after_heal.count,
            all.alone.count,
            ms(all.alone.p99),
            self.final_recovery_ms
                .map_or("never".to_owned(), |ms| ms.to_string())
        )?;
        writeln!(
            f,
            "seen        {} changes of leader, {} snapshots, {} compactions, of which clients were told {} times; {} flipped bits that the \
             node's check does not notice",
            self.elections,
            self.seen.snapshots,
            self.seen.compactions,
            self.seen.compacted,
            self.bits_unnoticed
        )?;
        match &self.no_log {
            None => writeln!(f, "log         is whole: unknown outcomes were resolved from it")?,
            Some(why) => writeln!(f, "log         is not used: {why}")?,
        }
        if let Some(found) = &self.planted {
            writeln!(f, "{found}")?;
        }
        for text in &self.not_covered {
            writeln!(f, "not covered {text}")?;
        }
        writeln!(f, "version     {}", self.version)?;
        writeln!(f, "report      {}", self.report.join("report.html").display())?;
        write!(f, "{} (seed {})", self.judged.ruling, self.seed)?;
        match self.not_covered.len() {
            0 => {}
            1 => write!(f, ", 1 way of faults is not covered")?,
            ways => write!(f, ", {ways} ways of faults are not covered")?,
        }
        self.judged
            .reasons
            .iter()
            .try_for_each(|reason| write!(f, "\n  {}", cut(reason, 400)))
    }
}

impl Summary {
    fn faults_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(HEADINGS);
        let all = [("all", self.all_faults)];
        let kinds = self.faults.iter().map(|(name, kind)| (*name, *kind));
        for (name, kind) in kinds.chain(all) {
            let alone = match kind.alone.count {
                0 => "-".to_owned(),
                _ => ms(kind.alone.max),
            };
            table.add_row([
                name.to_owned(),
                kind.planned.to_string(),
                kind.installed.to_string(),
                kind.skipped.to_string(),
                kind.indeterminate.to_string(),
                ms(kind.outage.p50),
                ms(kind.outage.p99),
                ms(kind.outage.max),
                ms(kind.after_heal.p50),
                ms(kind.after_heal.p99),
                ms(kind.after_heal.max),
                alone,
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn verdicts_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "checker",
            "verdict, and how much was looked at (report.html says of what)",
        ]);
        for (name, text) in &self.verdicts {
            table.add_row([name.clone(), cut(text, 300)]);
        }
        table
    }
}

/// Columns of the table of faults.
const HEADINGS: [&str; 12] = [
    "fault",
    "planned",
    "carried out",
    "skipped",
    "not known",
    "outage p50",
    "outage p99",
    "outage max",
    "healed p50",
    "healed p99",
    "healed max",
    "alone max",
];
/// What its times are.
const TIMES: &str = "\
times       milliseconds. outage: the longest that anybody had to wait who asked while the fault lasted, of all shards and all moments from
            its beginning to its end, until an operation invoked then or later had succeeded; healed: the same of who asks at its end;
            alone: the same as healed, of faults that ended while no other one was under way";

/// Milliseconds with one digit.
fn ms(time: Nanos) -> String {
    format!("{:.1}", time as f64 / 1e6)
}

/// The beginning of a text that may be long.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::judge::Ruling;

    #[test]
    fn people_are_told_ruling_reasons_and_recovery() {
        let spread = Spread {
            count: 3,
            p50: 1_000_000,
            p99: 12_340_000,
            max: 12_340_000,
        };
        let kill = Kind {
            planned: 3,
            installed: 3,
            after_heal: spread,
            outage: Spread {
                p99: 777_000_000,
                ..spread
            },
            ..Kind::default()
        };
        let summary = Summary {
            judged: Judged {
                ruling: Ruling::Rejected,
                reasons: vec!["pause never happened".into()],
            },
            version: "0.1.0 (commit 1234567-dirty)",
            seed: 7,
            nodes: 5,
            shards: 3,
            workloads: vec!["bank".into()],
            load_seconds: 10.0,
            operations: Counts {
                ok: 200,
                fail: 3,
                info: 1,
            },
            rate: 20.0,
            unknown_percent: 0.5,
            elections: 4,
            seen: Seen {
                snapshots: 1,
                compactions: 5,
                compacted: 2,
            },
            bits_unnoticed: 6,
            calls: BTreeMap::new(),
            faults: BTreeMap::from([("kill", kill)]),
            all_faults: kill,
            final_recovery_ms: Some(30),
            verdicts: BTreeMap::from([("bank".to_owned(), "valid".to_owned())]),
            no_log: None,
            planted: None,
            not_covered: vec!["power: no root".into()],
            report: "out".into(),
        };
        let text = summary.to_string();
        for part in [
            "rejected (seed 7), 1 way of faults is not covered\n  pause never happened",
            "p50 1.0, p99 12.3, max 12.3 ms",
            "200 ok, 3 failed, 1 unknown (0.50 %); 20/s over 10 s",
            "4 changes of leader, 1 snapshots, 5 compactions, of which clients were told 2 times; 6 flipped bits",
            "not covered power: no root",
            "version     0.1.0 (commit 1234567-dirty)",
            "out/report.html",
            "times       milliseconds. outage: the longest",
            "recovered from: p50 1.0, p99 777.0, max 12.3 ms; 0 faults",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["ruling"], "rejected");
        assert_eq!(json["version"], "0.1.0 (commit 1234567-dirty)");
        assert_eq!(json["compacted"], 2);
        assert_eq!(json["faults"]["kill"]["after_heal"]["max"], 12_340_000);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!((&*cut("äöü", 2), &*cut("äöü", 3)), ("äö…", "äöü"));
    }
}
