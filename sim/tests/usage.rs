//! What makes no sense is refused as wrong usage, and is not taken for a failure of the cluster.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, process::Command};

use kvsvr_sim::{VERSION, plan::Plan};

/// The exit code and what was said on standard error, of arguments that are parted by spaces.
fn told(arguments: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kvsvr-sim"))
        .args(arguments.split(' '))
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn flags_that_would_do_nothing_are_wrong_usage() {
    for flags in [
        "sweep --seeds 0..2 --jobs 0",
        "sweep --seeds 0..2 --patience 0",
        "demo --seconds 0",
    ] {
        let (code, text) = told(flags);
        assert_eq!(code, Some(2), "{flags}: {text}");
        assert!(text.contains("write a whole number from 1 to"), "{flags}: {text}");
    }
}

#[test]
fn a_plan_that_cannot_be_run_is_wrong_usage() {
    let path = std::env::temp_dir().join(format!("kvsvr-sim-usage-{}.json", std::process::id()));
    let refused = |plan: &Plan, part: &str| {
        fs::write(&path, plan.to_json()).unwrap();
        for command in ["replay", "shrink"] {
            let (code, text) = told(&format!("{command} {}", path.display()));
            assert_eq!(code, Some(2), "{command}: {text}");
            assert!(text.contains(part), "{command}: {text}");
        }
    };
    let mut plans = (1..).map(Plan::from_seed);
    let mut plan = plans.find(|plan| !plan.faults.is_empty()).unwrap();
    let knobs = plan.knobs.clone();
    plan.knobs.election_min_ms = plan.knobs.election_max_ms + 1;
    refused(&plan, "must be greater than election_min_ms");
    plan.knobs = knobs;
    plan.faults[0].at_ms = plan.length_ms;
    refused(&plan, "never comes: the plan's length_ms is");
    fs::remove_file(&path).unwrap();
}

#[test]
fn it_says_which_version_it_is() {
    for program in [
        env!("CARGO_BIN_EXE_kvsvr-sim"),
        env!("CARGO_BIN_EXE_kvsvr-sim-mutants"),
    ] {
        let output = Command::new(program).arg("--version").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.trim_end().ends_with(VERSION), "{text}");
        assert!(VERSION.starts_with(env!("CARGO_PKG_VERSION")) && VERSION.contains("(commit "));
    }
}
