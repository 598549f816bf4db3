//! Ctrl-C: who runs many seeds says how far it has come, and leaves no process behind.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// How many processes have this among their arguments.
fn with_argument(argument: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let has = |line: &Vec<u8>| {
        line.split(|byte| *byte == 0)
            .any(|one| one == argument.as_bytes())
    };
    lines.filter(has).count()
}

/// Starts a program, sends it this signal when it runs its first seed, and waits for its end.
fn interrupted(signal: &str, program: &str, arguments: &str, seed: &str) -> Output {
    let child = Command::new(program)
        .args(arguments.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while with_argument(seed) == 0 {
        assert!(Instant::now() < until, "it runs nothing");
        sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(with_argument(seed), 0, "its process is left");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_sweep_tells_what_it_has_done_so_far() {
    let sim = env!("CARGO_BIN_EXE_kvsvr-sim");
    for (signal, code, seed) in [("-INT", 130, 771_000), ("-TERM", 143, 772_000)] {
        let arguments = format!("sweep --seeds {seed}..{} --jobs 1", seed + 1_000);
        let output = interrupted(signal, sim, &arguments, &seed.to_string());
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("INTERRUPTED: 0 seeds done, 0 failed"), "{said}");
    }
}

#[test]
fn the_hunt_for_planted_bugs_tells_what_it_has_done_so_far() {
    let mutants = env!("CARGO_BIN_EXE_kvsvr-sim-mutants");
    let arguments = "read-during-install --seeds 773000..774000 --jobs 1";
    let output = interrupted("-INT", mutants, arguments, "773000");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let line = "INTERRUPTED: 0 of 1 bugs done, 0 not found as expected; 0 runs done, 0 seeds failed";
    assert!(said.contains(line), "{said}");
    assert!(
        text(&output.stdout).contains("0 of 0 found as expected"),
        "{said}"
    );
}
