//! A failure that must be seen is seen, by the means of every other sweep.

use std::process::Command;

#[test]
fn the_canary_is_seen() {
    let output = Command::new(env!("CARGO_BIN_EXE_kvsvr-sim-mutants"))
        .arg("--canary")
        .output()
        .expect("the binary runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success() && text.starts_with("the canary is seen"),
        "{text}"
    );
}
