//! The same seed gives the same run, in different processes.

use std::process::Command;

fn run(seed: u64) -> String {
    let seed = seed.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_kvsvr-sim"))
        .args(["demo", "--seed", &seed, "--seconds", "15"])
        .output()
        .expect("the binary runs");
    let report = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "seed {seed}:\n{report}");
    report
}

#[test]
fn a_seed_gives_one_run_and_another_seed_another_one() {
    let first = run(1);
    assert!(first.contains("hash"), "{first}");
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}
