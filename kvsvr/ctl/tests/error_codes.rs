//! The runbook, `docs/operations.md`, explains every code that kvctl and kvsvr can fail with, and none that there is not.
//!
//! Codes come from three places: the client library's, which are the server's ([`Code::ALL`]), kvctl's own ([`CODES`]), and those that a node
//! begins its last message with when it cannot start. The last ones have no list: they are read from the sources, where each is the
//! beginning of a message, in capitals with a colon after it.

#![expect(clippy::unwrap_used, reason = "a test: what does not work fails it")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use kvctl::failure::{CODES, Failure};
use kvsvr_client::{Code, Error};

/// The heading in the document.
const HEADING: &str = "## Every error code";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of the tables below the heading, as cells.
fn rows(document: &str) -> Vec<Vec<String>> {
    let below = document.lines().skip_while(|line| *line != HEADING).skip(1);
    let section = below.take_while(|line| !line.starts_with("## "));
    let cells = |line: &str| {
        let cells = line.trim().trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    section
        .filter(|line| line.starts_with("| `"))
        .map(cells)
        .collect()
}

/// The codes that the document explains. One that is explained twice, or not at all beside its name, is an error.
fn explained(document: &str) -> Result<BTreeSet<String>, String> {
    let mut codes = BTreeSet::new();
    for row in rows(document) {
        let code = row[0].trim_matches('`').to_owned();
        if row.len() < 3 || row.iter().any(String::is_empty) {
            return Err(format!("{code} is not explained: {row:?}"));
        }
        if !codes.insert(code.clone()) {
            return Err(format!("{code} is explained twice"));
        }
    }
    Ok(codes)
}

/// Codes in capitals at the beginning of messages in a source file.
fn codes_in(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').filter_map(|literal| {
        let (code, _) = literal.split_once(": ")?;
        let is_code = code.len() > 1 && code.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        is_code.then_some(code)
    })
}

fn for_each_source(dir: &Path, act: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_source(&path, act);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            act(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Every code there is.
fn known() -> BTreeSet<String> {
    let mut known: BTreeSet<String> = Code::ALL.iter().map(|code| code.name().to_owned()).collect();
    known.extend(CODES.iter().map(|code| (*code).to_owned()));
    // Nobody ever sees it.
    known.remove("broken_pipe");
    known.extend(start_codes());
    known
}

/// Those of nodes that cannot start: what is in capitals and no code of the protocol, which a gRPC status has in capitals, too.
fn start_codes() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for_each_source(&root().join("kvsvr/server/src"), &mut |source| {
        codes.extend(codes_in(source).map(str::to_owned));
    });
    codes.retain(|code| Code::ALL.iter().all(|known| known.name() != code.to_lowercase()));
    codes
}

#[test]
fn every_code_is_explained_and_no_other() {
    let document = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let explained = explained(&document).unwrap();
    let known = known();
    let missing: Vec<_> = known.difference(&explained).collect();
    let unknown: Vec<_> = explained.difference(&known).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/operations.md, {HEADING:?}: not explained are {missing:?}, and there are no codes {unknown:?}"
    );
}

/// The codes that commands write down themselves are known ones, or the document would not know of them.
#[test]
fn failures_of_kvctl_have_codes_that_are_listed() {
    let known = known();
    for_each_source(&root().join("kvsvr/ctl/src"), &mut |source| {
        for after in source.split("Failure::new(").skip(1) {
            if let Some((code, _)) = after
                .trim_start()
                .strip_prefix('"')
                .and_then(|rest| rest.split_once('"'))
            {
                assert!(
                    known.contains(code),
                    "Failure::new({code:?}, ...): the code is in no list"
                );
            }
        }
    });
}

#[test]
fn the_codes_of_nodes_that_cannot_start_are_found() {
    let found = start_codes();
    for code in ["BAD_CONFIG", "PORT_IN_USE"] {
        assert!(found.contains(code), "{found:?}");
    }
    let source = r#"error("NO_SUCH: {x}") "Not: this" "HTTP" "#;
    assert_eq!(codes_in(source).collect::<Vec<_>>(), ["NO_SUCH"]);
}

/// The exit codes beside the client library's codes are those that kvctl ends with.
#[test]
fn exit_codes_are_as_explained() {
    let document = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let rows = rows(&document);
    for code in Code::ALL {
        let row = rows
            .iter()
            .find(|row| row[0].trim_matches('`') == code.name())
            .unwrap();
        let exits = |error: Error| (Failure::from(error).exit as i32).to_string();
        let (definite, unknown) = (
            exits(Error::definite(*code, "")),
            exits(Error::unknown(*code, "")),
        );
        let said: Vec<&str> = row[1].split(" or ").collect();
        let fits = |exit: &&str| **exit == definite || **exit == unknown;
        assert!(
            said.iter().all(fits),
            "{code}: {said:?} is not {definite} or {unknown}"
        );
    }
}

#[test]
fn a_table_that_is_wrong_is_found_so() {
    let good = format!(
        "{HEADING}\n| code | exit | what |\n|---|---|---|\n| `a_b` | 1 | x |\n## Other\n| `c` | 1 | y |"
    );
    assert_eq!(explained(&good).unwrap(), BTreeSet::from(["a_b".to_owned()]));
    let twice = good.replace("## Other", "");
    assert_eq!(explained(&twice).unwrap().len(), 2);
    assert!(
        explained(&twice.replace("`c`", "`a_b`"))
            .unwrap_err()
            .contains("twice")
    );
    assert!(
        explained(&good.replace(" x ", " "))
            .unwrap_err()
            .contains("a_b is not explained")
    );
}
