//! The program `jepsen` from outside, on loopback behind the proxy, which works everywhere. Needs the node's binary beside this test's
//! directory, where a build of the workspace puts it, or in KVSVR_TEST_BINARY; without, the tests are skipped, and say so.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "all of this is a test: a failed step fails it, a skipped one says so"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

fn node_binary(test: &str) -> Option<PathBuf> {
    let beside = || {
        let test = std::env::current_exe().unwrap();
        test.parent().unwrap().parent().unwrap().join("kvsvr")
    };
    let binary = std::env::var_os("KVSVR_TEST_BINARY").map_or_else(beside, PathBuf::from);
    if !binary.exists() {
        eprintln!("{test}: skipped, it needs {}", binary.display());
        return None;
    }
    Some(binary)
}

fn jepsen(binary: &Path, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command
        .args([
            "run", "--proxy", "--nodes", "3", "--shards", "2", "--output", "json",
        ])
        .args(["--clients", "6", "--rate", "100", "--seed", "3"])
        .arg("--binary")
        .arg(binary)
        .arg("--report")
        .arg(dir.join("report"))
        .arg("--scratch")
        .arg(dir.join("scratch"));
    command
}

#[test]
fn a_run_over_the_proxy_passes_and_can_be_checked_again() {
    let Some(binary) = node_binary("a_run_over_the_proxy_passes_and_can_be_checked_again") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let output = jepsen(&binary, dir.path())
        .args([
            "--workload",
            "register,counter",
            "--nemesis",
            "kill,pause,partition,transfer",
        ])
        .args(["--minutes", "0.5"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(summary["ruling"], "passed");
    for fault in ["kill", "pause", "partition", "transfer"] {
        assert!(
            summary["faults"][fault]["installed"].as_u64() > Some(0),
            "{fault}: {text}"
        );
    }
    assert!(
        summary["all_faults"]["after_heal"]["count"].as_u64() >= Some(4),
        "{text}"
    );
    assert!(
        summary["not_covered"][0].as_str().unwrap().contains("proxy"),
        "{text}"
    );
    let report = dir.path().join("report");
    for file in [
        "plan.json",
        "history.edn",
        "faults.json",
        "report.html",
        "logs/n1.log",
        "logs/n3.log",
    ] {
        assert!(report.join(file).metadata().unwrap().len() > 0, "{file} is empty");
    }
    let scratch = fs::read_dir(dir.path().join("scratch")).unwrap();
    assert_eq!(scratch.count(), 0, "files of nodes are left");

    let check = |history: &Path| {
        Command::new(env!("CARGO_BIN_EXE_jepsen"))
            .arg("check")
            .arg(history)
            .output()
            .unwrap()
    };
    let history = report.join("history.jsonl");
    let again = check(&history);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert!(
        String::from_utf8_lossy(&again.stdout).contains("convergence"),
        "{again:?}"
    );
    assert_eq!(check(&dir.path().join("absent.jsonl")).status.code(), Some(2));
}

#[test]
fn a_run_that_is_told_to_end_takes_everything_down() {
    let Some(binary) = node_binary("a_run_that_is_told_to_end_takes_everything_down") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut run = jepsen(&binary, dir.path());
    run.args(["--workload", "register", "--nemesis", "none", "--minutes", "30"]);
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(run.stderr.take().unwrap()));
    let mut told = false;
    for line in lines.map(Result::unwrap) {
        if line.contains("load under faults") && !told {
            told = true;
            kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
        }
    }
    assert!(told);
    assert_eq!(run.wait().unwrap().code(), Some(5));
    let scratch = fs::read_dir(dir.path().join("scratch")).unwrap();
    assert_eq!(scratch.count(), 0, "files of nodes are left");
    let data = dir.path().as_os_str().as_encoded_bytes().to_vec();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let names_it = |command: &Vec<u8>| command.windows(data.len()).any(|part| part == data);
    assert_eq!(commands.find(names_it), None, "a node is left");
    assert!(dir.path().join("report/history.jsonl").exists());
}

#[test]
fn what_cannot_be_is_told() {
    let Some(binary) = node_binary("what_cannot_be_is_told") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (["--nemesis", "killl"], "no nemesis \"killl\""),
        (["--workload", "banc"], "no workload \"banc\""),
        (["--minutes", "0.2"], "at least"),
    ] {
        let output = jepsen(&binary, dir.path()).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
