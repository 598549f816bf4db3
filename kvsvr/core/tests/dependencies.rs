//! The state machine stays pure: what it depends on is checked, not only intended.

use std::process::Command;

const FORBIDDEN: [&str; 13] = [
    "tokio",
    "madsim",
    "madsim-tokio",
    "tonic",
    "openraft",
    "rocksdb",
    "librocksdb-sys",
    "rand",
    "getrandom",
    "fastrand",
    "parking_lot",
    "futures",
    "tracing",
];

#[test]
fn no_runtime_network_raft_storage_or_chance() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--offline",
            "-p",
            "kvsvr-core",
            "-e",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8(tree.stdout).expect("crate names are text");
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(
        names.contains(&"kvsvr-core") && names.contains(&"prost"),
        "the tree is whole:\n{tree}"
    );
    let found: Vec<&&str> = names.iter().filter(|name| FORBIDDEN.contains(name)).collect();
    assert!(
        found.is_empty(),
        "kvsvr-core must not depend on {found:?}:\n{tree}"
    );
}
