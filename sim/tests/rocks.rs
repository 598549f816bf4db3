//! Nodes on RocksDB: the same seed gives the same run, nothing is wrong in it, and a bug that concerns the engine is found.

use std::process::Command;

fn run(program: &str, arguments: &str) {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments}:\n{text}");
}

#[test]
fn a_seed_gives_one_run_that_holds() {
    let sim = env!("CARGO_BIN_EXE_kvsvr-sim");
    run(sim, "meta --seeds 0..3 --engine rocks");
    run(sim, "sweep --seeds 0..6 --all-events false --engine rocks");
}

#[test]
fn planted_bugs_of_the_engine_are_found() {
    run(
        env!("CARGO_BIN_EXE_kvsvr-sim-mutants"),
        "applied-index-not-atomic snapshot-over-old-rows --seeds 0..20 --engine rocks",
    );
}
