//! Every planted bug is planted somewhere, and nothing else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// What stands in quotes after each occurrence of `before`.
fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    let after = text.split(before).skip(1);
    after.filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_planted_bug_has_a_place() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = crates.join("core/src/mutants.rs");
    let text = read(&table);
    let listed: BTreeSet<&str> = quoted(&text, "        name: \"").into_iter().collect();
    assert!(listed.len() >= 24, "{listed:?}");

    let mut files = Vec::new();
    for product in ["core/src", "client/src", "server/src"] {
        sources(&crates.join(product), &mut files);
    }
    let mut places = BTreeMap::<String, usize>::new();
    for file in files.iter().filter(|file| **file != table) {
        for name in quoted(&read(file), "mutant!(\"") {
            *places.entry(name.to_owned()).or_default() += 1;
        }
    }
    let planted: BTreeSet<&str> = places.keys().map(String::as_str).collect();
    assert_eq!(listed, planted, "in the table; in the code");
}
