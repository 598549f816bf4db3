//! The table of what checkers and invariants say, and what their numbers count.

use super::{Judge, Judgement, page::escaped};
use crate::check::counts::{MOMENTS, counted};

/// The table, and the explanation of the numbers in it.
pub(super) fn verdicts(judgements: &[Judgement]) -> String {
    let checkers = rows(judgements, Judge::Checker, "checker");
    let invariants = rows(judgements, Judge::Invariant, "invariant");
    let explained = explained(judgements);
    format!("<section>\n<h2>Verdicts</h2>\n<table>\n{checkers}{invariants}</table>\n{explained}</section>\n")
}

fn rows(judgements: &[Judgement], judge: Judge, name: &str) -> String {
    let of_it = judgements.iter().filter(|one| one.judge == judge);
    let rows: String = of_it.map(row).collect();
    if rows.is_empty() {
        return rows;
    }
    format!("<tr><th>ruling</th><th>{name}</th><th>in full</th></tr>\n{rows}")
}

fn row(judgement: &Judgement) -> String {
    format!(
        "<tr><td><span class=\"badge {ruling}\">{ruling}</span></td><th>{}</th><td>{}</td></tr>\n",
        escaped(&judgement.checker),
        escaped(&judgement.text),
        ruling = judgement.word(),
    )
}

/// A line for each number: who counts it, what it is called, and what it counts.
fn explained(judgements: &[Judgement]) -> String {
    let mut rows = String::new();
    let checkers = judgements.iter().filter(|one| one.judge == Judge::Checker);
    for (checker, name) in checkers.flat_map(|one| one.counts.keys().map(|name| (&one.checker, name))) {
        if let Some(text) = counted(checker, name) {
            let (checker, name) = (escaped(checker), escaped(name));
            rows += &format!("<tr><th>{checker}</th><td>{name}</td><td>{text}</td></tr>\n");
        }
    }
    if judgements.iter().any(|one| one.judge == Judge::Invariant) {
        rows += &format!("<tr><th>invariants</th><td>moments</td><td>{MOMENTS}</td></tr>\n");
    }
    if rows.is_empty() {
        return String::new();
    }
    format!("<details>\n<summary>What the numbers count</summary>\n<table>\n{rows}</table>\n</details>\n")
}
