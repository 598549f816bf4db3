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
    let texts = String::from_utf8_lossy(&binary);
    assert!(!texts.contains("KVSVR_MUTANT"));
    // The search for one character is optimised in debug builds too, that for a text is not.
    let letter =
        |at: Option<usize>| at.is_some_and(|at| texts.as_bytes().get(at).is_some_and(u8::is_ascii_lowercase));
    let dashes = texts.match_indices('-').map(|(at, _)| at);
    let dashes: Vec<usize> = dashes
        .filter(|at| letter(at.checked_sub(1)) && letter(Some(at + 1)))
        .collect();
    let has = |text: &str| {
        let before = text.find('-').expect("a name of more than one word");
        let mut begins = dashes.iter().filter_map(|dash| dash.checked_sub(before));
        begins.any(|begin| texts.as_bytes()[begin..].starts_with(text.as_bytes()))
    };
    assert!(has("write-ahead"), "texts of the program are found in it");
    let found: Vec<&str> = names.into_iter().filter(|name| has(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}
