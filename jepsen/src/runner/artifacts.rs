//! The directory of a run's report.
//!
//! ```text
//! plan.json       what was to happen; `jepsen run --plan` runs it again
//! logs/nN.log     the nodes' logs
//! packets.pcapng  headers of all packets (with `.1`, those before), if there was a switch
//! history.jsonl   what clients did and saw; history.edn the same for the tools of others
//! log.jsonl       the committed log, where it was whole at the end (`--keep-log`)
//! context.json    what the checkers need besides; `jepsen check history.jsonl` checks again
//! faults.json     what was done to the cluster
//! summary.json    the figures
//! report.html     all of it as a picture
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    VERSION, judge::Ruling, life::Outcome, messages::messages_of, plan::Plan, recheck, recheck::Facts,
    summary::Summary,
};
use crate::{
    check::{Commit, Verdict},
    history::{Event, edn, jsonl},
    os::capture,
    report::{Judgement, Record, operations_of, rates_of, render, seen_of},
};

/// Most operations that are drawn.
const MOST_OPERATIONS: usize = 30_000;
/// Most messages that are drawn.
const MOST_MESSAGES: usize = 20_000;
/// Nanoseconds of a bucket of rates.
const BUCKET: u64 = 1_000_000_000;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Files {
    home: PathBuf,
}

impl Files {
    /// Makes the directory, with the plan in it. What an earlier run left there is removed, if it is a report.
    ///
    /// # Errors
    /// Those of the file system, or it has something else in it.
    pub fn create(home: &Path, plan: &Plan) -> io::Result<Self> {
        let files = Self {
            home: home.to_owned(),
        };
        if home.exists() {
            let is_empty = fs::read_dir(home)?.next().is_none();
            if !is_empty && !home.join("plan.json").exists() {
                let text = format!("{} has something in it that is no report", home.display());
                return Err(io::Error::other(text));
            }
            fs::remove_dir_all(home)?;
        }
        fs::create_dir_all(files.logs())?;
        files.json("plan.json", plan)?;
        Ok(files)
    }

    /// The directory of the nodes' logs.
    pub fn logs(&self) -> PathBuf {
        self.home.join("logs")
    }

    /// The file of the capture.
    pub fn capture(&self) -> PathBuf {
        self.home.join("packets.pcapng")
    }

    fn json(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(self.home.join(name))?);
        serde_json::to_writer_pretty(&mut out, value)?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Writes the history, and what is needed to check it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn history(&self, events: &[Event], facts: &Facts, log: Option<&[Commit]>) -> io::Result<()> {
        let mut lines = BufWriter::new(File::create(self.home.join("history.jsonl"))?);
        jsonl::write(&mut lines, events)?;
        lines.flush()?;
        let mut lines = BufWriter::new(File::create(self.home.join("history.edn"))?);
        edn::write(&mut lines, events)?;
        lines.flush()?;
        if let Some(log) = log {
            let mut lines = BufWriter::new(File::create(self.home.join(recheck::LOG))?);
            for commit in log {
                serde_json::to_writer(&mut lines, commit)?;
                lines.write_all(b"\n")?;
            }
            lines.flush()?;
        }
        self.json(recheck::FILE, facts)
    }

    /// Writes what is for people.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn report(
        &self,
        plan: &Plan,
        command: &str,
        outcome: &Outcome,
        verdicts: &BTreeMap<String, Verdict>,
        summary: &Summary,
    ) -> io::Result<()> {
        self.json("faults.json", &outcome.injected)?;
        self.json("summary.json", summary)?;
        let mut record = record(plan, command, outcome, verdicts, summary)?;
        record.keep_operations(MOST_OPERATIONS);
        if self.capture().exists() {
            let packets = capture::read(&self.capture())?;
            record.messages = messages_of(&packets, plan.nodes, outcome.began);
            record.keep_messages(MOST_MESSAGES);
        }
        fs::write(self.home.join("report.html"), render(&record))
    }
}

fn record(
    plan: &Plan,
    command: &str,
    outcome: &Outcome,
    verdicts: &BTreeMap<String, Verdict>,
    summary: &Summary,
) -> io::Result<Record> {
    let judgements = verdicts
        .iter()
        .map(|(name, verdict)| Judgement::new(name, verdict));
    let cause = match summary.judged.ruling {
        Ruling::Passed => None,
        ruling => Some(format!("{ruling}: {}", summary.judged.reasons.join("; "))),
    };
    Ok(Record {
        title: format!("Fault harness, seed {}", plan.seed),
        version: VERSION.to_owned(),
        details: details(plan, summary),
        seed: plan.seed,
        plan: serde_json::to_string_pretty(plan)?,
        replay: command.to_owned(),
        cause,
        interrupted: summary.judged.ruling == Ruling::Interrupted,
        ended: outcome.ended,
        judgements: judgements.collect(),
        nodes: (1..=plan.nodes).map(|id| format!("n{id}")).collect(),
        clients: vec!["clients".into()],
        states: outcome.states.clone(),
        faults: outcome.injected.iter().map(|one| one.band()).collect(),
        marks: outcome.marks.clone(),
        operations: operations_of(&outcome.events),
        seen: seen_of(&outcome.events),
        rates: rates_of(&outcome.events, BUCKET),
        ..Record::default()
    })
}

/// What was run, and what it could not show.
fn details(plan: &Plan, summary: &Summary) -> Vec<(String, String)> {
    let kinds: Vec<&str> = plan.nemeses.iter().map(|nemesis| nemesis.name()).collect();
    let mut details = vec![
        ("workloads", summary.workloads.join(", ")),
        ("kinds of faults", list_or_none(&kinds)),
        ("shards", plan.shards.to_string()),
    ];
    let planted = summary.planted.iter();
    details.extend(planted.map(|found| ("planted bug", found.planted.name.clone())));
    details.extend(
        summary
            .not_covered
            .iter()
            .map(|text| ("not covered", text.clone())),
    );
    let owned = details.into_iter().map(|(name, text)| (name.to_owned(), text));
    owned.collect()
}

fn list_or_none(names: &[&str]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Spec;

    fn plan() -> Plan {
        Plan {
            seed: 1,
            nodes: 3,
            shards: 2,
            load_ms: 10,
            workload: Spec::named(&["bank"]).unwrap(),
            nemeses: Vec::new(),
            faults: Vec::new(),
        }
    }

    #[test]
    fn only_a_report_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("report");
        let files = Files::create(&home, &plan()).unwrap();
        fs::write(files.logs().join("n1.log"), "old").unwrap();
        let again = Files::create(&home, &plan()).unwrap();
        assert!(!again.logs().join("n1.log").exists() && home.join("plan.json").exists());
        fs::write(dir.path().join("precious"), "x").unwrap();
        let error = Files::create(dir.path(), &plan()).unwrap_err();
        assert!(error.to_string().contains("no report"), "{error}");
        assert!(dir.path().join("precious").exists());
    }
}
