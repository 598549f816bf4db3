//! Findings for people.

use std::collections::BTreeSet;

use kvsvr_core::types::META_SHARD;

use super::{
    numbers,
    plan::{Fate, Finding, Findings},
};

const HEADER: [&str; 8] = [
    "SHARD",
    "VOTERS",
    "LEARNERS",
    "SURVIVORS",
    "CHOSEN",
    "LAST",
    "COMMITTED",
    "",
];

impl Findings {
    /// The findings, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("cluster {} ({})", self.cluster_name, self.cluster_id)];
        lines.push(format!("survivors: nodes {}", numbers(&self.present)));
        if !self.missing.is_empty() {
            let gone = self
                .missing
                .iter()
                .map(|(id, address)| format!("{id} ({address})"));
            lines.push(format!(
                "lost: nodes {}. They must never be started again with the data directories that they had",
                numbers(gone)
            ));
        }
        lines.push(String::new());
        let mut rows = vec![HEADER.map(str::to_owned)];
        rows.extend(self.shards.iter().map(|(shard, finding)| row(*shard, finding)));
        lines.extend(aligned(&rows));
        lines.push(String::new());
        lines.extend(self.warnings());
        lines
    }

    fn warnings(&self) -> Vec<String> {
        let fates = || self.shards.iter().map(|(shard, finding)| (shard, &finding.fate));
        let lacking: Vec<&u32> = fates()
            .filter(|(_, fate)| matches!(fate, Fate::Recovered { may_lack: true, .. }))
            .map(|(shard, _)| shard)
            .collect();
        let unsure = fates().any(
            |(_, fate)| matches!(fate, Fate::Recovered { last, committed, .. } if last.index > *committed),
        );
        let mut lines = Vec::new();
        if !lacking.is_empty() {
            lines.push(format!(
                "shards {}: writes that were acknowledged may be lost: a majority can have taken them without any survivor. Nobody can tell how many; those that came last \
                 before the loss.",
                numbers(lacking)
            ));
        }
        if unsure {
            lines.push(
                "entries after COMMITTED up to LAST are kept. Nobody can tell whether they were acknowledged: some of them may be writes that clients were told nothing of, \
                 or that they had failed."
                    .to_owned(),
            );
        }
        lines
    }
}

fn row(shard: u32, finding: &Finding) -> [String; 8] {
    let nodes = |set: &BTreeSet<u64>| match set.is_empty() {
        true => "-".to_owned(),
        false => set.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
    };
    let survivors = finding.survivors.iter().map(|(id, last)| match last {
        Some(last) => format!("{id}:{}@{}", last.index, last.term),
        None => format!("{id}:-"),
    });
    let survivors: Vec<String> = survivors.collect();
    let name = if shard == META_SHARD.0 {
        "0 (meta)".to_owned()
    } else {
        shard.to_string()
    };
    let (chosen, last, committed, what) = match &finding.fate {
        Fate::Kept => (
            "-".into(),
            "-".into(),
            "-".into(),
            "keeps its majority, untouched",
        ),
        Fate::Lost => ("-".into(), "-".into(), "-".into(), "lost, there is no survivor"),
        Fate::Recovered {
            recovery,
            last,
            committed,
            may_lack,
        } => (
            recovery.chosen.to_string(),
            last.index.to_string(),
            committed.to_string(),
            match may_lack {
                true => "no majority; may have lost acknowledged writes",
                false => "no majority; all that was acknowledged is on a survivor",
            },
        ),
    };
    [
        name,
        nodes(&finding.voters),
        nodes(&finding.learners),
        match survivors.is_empty() {
            true => "-".to_owned(),
            false => survivors.join(" "),
        },
        chosen,
        last,
        committed,
        what.to_owned(),
    ]
}

fn aligned(rows: &[[String; 8]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
