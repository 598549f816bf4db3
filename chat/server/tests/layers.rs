//! Layers know of each other only what the table in ARCHITECTURE.md says.
#![expect(clippy::unwrap_used, reason = "tests: what does not work fails them")]

use std::{collections::BTreeMap, fs, path::Path};

/// Crates of ours that each crate of the chat may depend on.
const MAY: [(&str, &[&str]); 6] = [
    ("proto", &[]),
    ("core", &["chat-proto"]),
    ("storage", &["chat-core", "chat-proto", "kvsvr-client"]),
    (
        "logic",
        &["chat-core", "chat-proto", "chat-storage", "kvsvr-client"],
    ),
    ("access", &["chat-proto"]),
    ("client", &["chat-proto"]),
];

fn ours(manifest: &toml::Table) -> Vec<String> {
    let dependencies = manifest["dependencies"].as_table().unwrap();
    let names = dependencies
        .keys()
        .filter(|name| name.starts_with("chat") || name.starts_with("kvsvr") || name.starts_with("kvctl"));
    names.cloned().collect()
}

#[test]
fn crates_depend_on_what_they_may() {
    let chat = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let may: BTreeMap<&str, &[&str]> = MAY.into();
    for (name, may) in may {
        let manifest = fs::read_to_string(chat.join(name).join("Cargo.toml")).unwrap();
        let found = ours(&manifest.parse().unwrap());
        let wrong: Vec<&String> = found
            .iter()
            .filter(|found| !may.contains(&found.as_str()))
            .collect();
        assert!(wrong.is_empty(), "chat/{name} depends on {wrong:?}");
    }
}
