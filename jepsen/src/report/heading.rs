//! The head of the page: a short title, why the run failed, and what was run, a line for each.

use super::{
    Judge, Outcome, Record, Ruling,
    page::{escaped, seconds},
};

/// Title, cause, facts, and the command that runs it again.
pub(super) fn heading(record: &Record) -> String {
    let cause = record.cause.as_ref().map_or(String::new(), |cause| {
        format!("<p class=\"cause\">{}</p>\n", escaped(cause))
    });
    format!(
        "<h1><span class=\"badge {ruling}\">{ruling}</span> {title}</h1>\n{cause}{facts}{replay}",
        ruling = ruling_of(record),
        title = escaped(&record.title),
        facts = list(&facts(record)),
        replay = replay(record),
    )
}

/// What the run as a whole is, in a word; also the class of its badge.
pub(super) fn ruling_of(record: &Record) -> &'static str {
    let judgements = || record.judgements.iter();
    let any = |ruling| judgements().any(|one| one.ruling == ruling);
    // Invariants alone know nothing of what clients saw.
    let is_checked = judgements().any(|one| one.judge == Judge::Checker);
    if record.interrupted && !any(Ruling::Invalid) {
        "interrupted"
    } else if any(Ruling::Invalid) || record.cause.is_some() {
        "failed"
    } else if any(Ruling::Unknown) || !is_checked {
        "unknown"
    } else {
        "passed"
    }
}

/// What was run and how much came of it, by name.
fn facts(record: &Record) -> Vec<(&str, String)> {
    let mut facts = Vec::new();
    if !record.version.is_empty() {
        facts.push(("version", record.version.clone()));
    }
    facts.push(("seed", record.seed.to_string()));
    let details = record.details.iter();
    facts.extend(details.map(|(name, text)| (name.as_str(), text.clone())));
    facts.push(("length", seconds(record.ended)));
    facts.push(("nodes", record.nodes.len().to_string()));
    facts.push(("faults", record.faults.len().to_string()));
    facts.push(("operations", operations(record)));
    facts.extend(messages(record).map(|text| ("messages", text)));
    facts
}

fn operations(record: &Record) -> String {
    let left_out = record.operations_left_out;
    let count = |outcome, left_out| {
        let shown = record.operations.iter().filter(|one| one.outcome == outcome);
        shown.count() as u64 + left_out
    };
    let mut text = format!(
        "{}: {} ok, {} failed, {} unknown",
        record.operations.len() as u64 + left_out.iter().sum::<u64>(),
        count(Outcome::Ok, left_out[0]),
        count(Outcome::Fail, left_out[1]),
        count(Outcome::Info, left_out[2]),
    );
    if left_out != [0; 3] {
        text += &format!(
            "; {} operations are drawn, all are counted",
            record.operations.len()
        );
    }
    text
}

fn messages(record: &Record) -> Option<String> {
    let here = record.messages.len();
    let all = here as u64 + record.messages_left_out;
    let reach = record.messages_reach.map_or_else(String::new, |reach| {
        let reach = seconds(reach);
        format!(", of which the {here} within {reach} of what matters are here")
    });
    (all > 0).then(|| format!("{all}{reach}"))
}

/// A definition list; a name that is that of the one before is not said again.
fn list(facts: &[(&str, String)]) -> String {
    let mut rows = String::new();
    let mut before = "";
    for (name, text) in facts {
        if *name != before {
            rows += &format!("<dt>{}</dt>", escaped(name));
        }
        rows += &format!("<dd>{}</dd>\n", escaped(text));
        before = name;
    }
    format!("<dl class=\"facts\">\n{rows}</dl>\n")
}

fn replay(record: &Record) -> String {
    if record.replay.is_empty() {
        return String::new();
    }
    format!(
        "<p class=\"replay\">again: <code id=\"replay\">{}</code> <button id=\"copy\">copy</button></p>\n",
        escaped(&record.replay)
    )
}
