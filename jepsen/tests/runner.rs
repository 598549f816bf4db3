//! The program `jepsen` from outside, on loopback behind the proxy, which works everywhere. Needs the node's binary beside this test's
//! directory, where a build of the workspace puts it, or in KVSVR_TEST_BINARY; without, the tests are skipped, and say so.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "all of this is a test: a failed step fails it, a skipped one says so"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
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

fn jepsen(binary: &Path, dir: &Path, network: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command
        .args(["run", "--nodes", "3", "--shards", "2", "--output", "json"])
        .args(network)
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
    let output = jepsen(&binary, dir.path(), &["--proxy"])
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
    let version = summary["version"].as_str().unwrap();
    assert!(version.contains("(commit "), "{version}");
    for fault in ["kill", "pause", "partition", "transfer"] {
        assert!(
            summary["faults"][fault]["installed"].as_u64() > Some(0),
            "{fault}: {text}"
        );
    }
    let [outage, healed] = ["outage", "after_heal"].map(|times| summary["all_faults"][times].clone());
    assert!(healed["count"].as_u64() >= Some(4), "{text}");
    assert!(outage["max"].as_u64() >= healed["max"].as_u64(), "{text}");
    for part in ["proxy", "workload bank: not asked for", "power: not asked for"] {
        let texts = summary["not_covered"].as_array().unwrap();
        let told = texts.iter().any(|one| one.as_str().unwrap().contains(part));
        assert!(told, "{part}: {text}");
    }
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
    let page = fs::read_to_string(report.join("report.html")).unwrap();
    assert!(
        page.contains(&format!("<dt>version</dt><dd>{version}</dd>")),
        "it is not said"
    );
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
fn wrong_usage_is_told_and_nothing_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let told = |command: &mut Command| {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        text
    };
    // No node is started, so that any program does for one.
    let binary = Path::new(env!("CARGO_BIN_EXE_jepsen"));
    let text = told(jepsen(binary, dir.path(), &[]).args(["--nemesis", "kill,none"]));
    assert!(
        text.contains("--nemesis kill,none") && text.contains("stands alone"),
        "{text}"
    );
    assert!(!dir.path().join("report").exists());
    let text = told(
        Command::new(binary)
            .arg("check")
            .arg(dir.path().join("nope.jsonl")),
    );
    assert!(
        text.contains("nope.jsonl: there is no such file; give the history.jsonl"),
        "{text}"
    );
    let version = Command::new(binary).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(
        version.contains(env!("CARGO_PKG_VERSION")) && version.contains("(commit "),
        "{version}"
    );
}

#[test]
fn a_run_that_is_told_to_end_takes_everything_down() {
    let Some(binary) = node_binary("a_run_that_is_told_to_end_takes_everything_down") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut run = jepsen(&binary, dir.path(), &["--proxy"]);
    run.args(["--workload", "register", "--nemesis", "none", "--minutes", "30"]);
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    send_under_load(&mut run, Signal::TERM);
    assert_eq!(run.wait().unwrap().code(), Some(5));
    let scratch = fs::read_dir(dir.path().join("scratch")).unwrap();
    assert_eq!(scratch.count(), 0, "files of nodes are left");
    assert_eq!(process_of(dir.path()), None, "a node is left");
    assert!(dir.path().join("report/history.jsonl").exists());
}

/// Sends a signal when the load has begun, and reads until the process is gone.
fn send_under_load(run: &mut Child, signal: Signal) {
    let lines = BufReader::new(run.stderr.take().unwrap()).lines();
    let mut told = false;
    for line in lines.map(Result::unwrap) {
        if line.contains("load under faults") && !told {
            told = true;
            kill_process(Pid::from_child(run), signal).unwrap();
        }
    }
    assert!(told);
}

/// The command line of a process that names this directory.
fn process_of(dir: &Path) -> Option<String> {
    let dir = dir.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    commands.find_map(|command| {
        let command = String::from_utf8_lossy(&command).into_owned();
        command.contains(dir).then_some(command)
    })
}

#[test]
fn a_killed_run_leaves_nothing() {
    let Some(binary) = node_binary("a_killed_run_leaves_nothing") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (nemesis, network): (_, &[_]) = match rustix::process::geteuid().is_root() {
        // Needs images; without the proxy there are namespaces.
        true => ("power", &[]),
        false => ("none", &["--proxy"]),
    };
    let mut run = jepsen(&binary, dir.path(), network);
    run.args(["--workload", "register", "--nemesis", nemesis, "--minutes", "30"]);
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let owner = format!("kvj.{}.", run.id());
    send_under_load(&mut run, Signal::KILL);
    // Nobody has waited for it yet: its number is still taken.
    let begun = Instant::now();
    let left = || {
        let netns = Path::new("/run/netns");
        let places = [dir.path().join("scratch"), netns.to_owned()];
        let entries = places
            .iter()
            .flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut mine = names.filter(|name| name.starts_with(&owner));
        mine.next().or_else(|| process_of(dir.path()))
    };
    while let Some(left) = left() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{left} is left");
        thread::sleep(Duration::from_millis(100));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
    run.wait().unwrap();
}

/// Another program under this name, which does what the script says, in a directory that is searched first.
fn instead_of(dir: &Path, name: &str, script: &str) -> std::ffi::OsString {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let real = std::env::split_paths(&search)
        .map(|place| place.join(name))
        .find(|file| file.exists());
    let stubs = dir.join("stubs");
    fs::create_dir_all(&stubs).unwrap();
    let text = format!("#!/bin/sh\nREAL={}\n{script}\n", real.unwrap().display());
    fs::write(stubs.join(name), text).unwrap();
    fs::set_permissions(stubs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    std::env::join_paths([stubs].into_iter().chain(std::env::split_paths(&search))).unwrap()
}

#[test]
fn a_run_that_fails_leaves_nothing() {
    let Some(binary) = node_binary("a_run_that_fails_leaves_nothing") else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("a_run_that_fails_leaves_nothing: skipped, it needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fail_once = r#"case "$*" in *n2.img*) echo "no luck" >&2; exit 1;; esac; exec "$REAL" "$@""#;
    let mut run = jepsen(&binary, dir.path(), &[]);
    run.args(["--workload", "register", "--nemesis", "power", "--minutes", "30"])
        .env("PATH", instead_of(dir.path(), "mkfs.ext4", fail_once));
    let run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let owner = format!("kvj.{}.", run.id());
    let output = run.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(
        text.contains("no luck") && !text.contains("cannot all be removed"),
        "{text}"
    );
    let left = |place: &Path| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&owner)).collect::<Vec<_>>()
    };
    assert!(left(&dir.path().join("scratch")).is_empty() && left(Path::new("/run/netns")).is_empty());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
}

/// For a node's binary with the feature `mutants`, in KVSVR_TEST_BINARY.
#[cfg(feature = "mutants")]
#[test]
fn a_planted_bug_is_found() {
    let Some(binary) = node_binary("a_planted_bug_is_found") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let output = jepsen(&binary, dir.path(), &["--proxy"])
        .args(["--workload", "register,counter", "--nemesis", "kill,partition"])
        .args(["--minutes", "1", "--mutant", "retry-without-session"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    if why.contains("has no planted bugs") {
        eprintln!("a_planted_bug_is_found: skipped: {why}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{text}{why}");
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(summary["planted"]["as_expected"], true, "{text}");
    let log = fs::read_to_string(dir.path().join("report/logs/n1.log")).unwrap();
    assert!(log.contains("THIS PROCESS HAS A PLANTED BUG"), "{log}");
}

#[test]
fn a_planted_bug_is_not_there_by_chance() {
    let Some(binary) = node_binary("a_planted_bug_is_not_there_by_chance") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let refused = |command: &mut Command, expected: &str| {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(expected), "{text}");
    };
    let mut run = jepsen(&binary, dir.path(), &["--proxy"]);
    refused(run.env("KVSVR_MUTANT", "ack-before-fsync"), "KVSVR_MUTANT is set");
    let mut run = jepsen(&binary, dir.path(), &["--proxy"]);
    refused(run.args(["--mutant", "no-such-bug"]), "no-such-bug");
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
        let output = jepsen(&binary, dir.path(), &["--proxy"])
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
