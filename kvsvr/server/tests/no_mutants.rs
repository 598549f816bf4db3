//! The binary has no planted bug in it: not even the name of one.
#![cfg(not(feature = "mutants"))]

use std::{fs, path::Path};

#[test]
fn the_binary_names_no_planted_bug() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src/mutants.rs");
    let table = fs::read_to_string(table).unwrap();
    let names = table.split("        name: \"").skip(1);
    let names: Vec<&str> = names.filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() >= 24, "{names:?}");

    let binary = fs::read(env!("CARGO_BIN_EXE_kvsvr")).unwrap();
    // The search in texts is the standard library's, and so optimised in debug builds too.
    let texts = String::from_utf8_lossy(&binary);
    let has = |text: &str| texts.contains(text);
    assert!(has("KVSVR_CONFIG"), "texts of the program are found in it");
    assert!(!has("KVSVR_MUTANT"));
    let found: Vec<&str> = names.into_iter().filter(|name| has(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}
