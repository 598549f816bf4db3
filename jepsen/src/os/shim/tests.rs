use std::{
    io::{BufRead as _, BufReader, Write as _, stdin},
    process::{Child, Command, Stdio},
    thread,
    time::{Instant, SystemTime},
};

use super::*;

const HOUR_NS: i128 = 3_600_000_000_000;

/// What runs under the shim, in a process of its own: tells its clocks for each line that it gets.
#[test]
#[ignore = "started by the tests below"]
fn tells_its_clocks() {
    let start = Instant::now();
    for _ in stdin().lines() {
        // Would last an hour if its deadline were not converted.
        thread::park_timeout(Duration::from_millis(1));
        let wall = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        println!("\nclocks {} {wall}", start.elapsed().as_nanos());
    }
}

struct Witness {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

/// What it told: nanoseconds since its start and since the epoch; and when it was asked and had answered, truly.
struct Reading {
    elapsed: i128,
    wall: i128,
    asked: Instant,
    answered: Instant,
}

impl Witness {
    fn start(shim: &Shim) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--nocapture",
                "--exact",
                "os::shim::tests::tells_its_clocks",
            ])
            .envs(shim.env())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn ask(&mut self) -> Reading {
        let asked = Instant::now();
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended");
            if let Some(numbers) = line.trim().strip_prefix("clocks ") {
                let (elapsed, wall) = numbers.split_once(' ').unwrap();
                return Reading {
                    elapsed: elapsed.parse().unwrap(),
                    wall: wall.parse().unwrap(),
                    asked,
                    answered: Instant::now(),
                };
            }
        }
    }

    /// The least and the most true time between two readings.
    fn between(first: &Reading, second: &Reading) -> (i128, i128) {
        let ns = |from: Instant, to: Instant| to.duration_since(from).as_nanos() as i128;
        (ns(first.answered, second.asked), ns(first.asked, second.answered))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn shim(dir: &Path) -> Shim {
    let library = Library::build(dir).unwrap();
    fs::create_dir(dir.join("data")).unwrap();
    Shim::create(&library, &dir.join("control"), &dir.join("data")).unwrap()
}

#[test]
fn clocks_drift_without_a_jump_and_the_wall_clock_jumps_alone() {
    let dir = tempfile::tempdir().unwrap();
    let shim = shim(dir.path());
    shim.shift_monotonic(Duration::from_secs(3600)).unwrap();
    shim.set_rate(2.0).unwrap();
    let mut witness = Witness::start(&shim);
    let first = witness.ask();
    shim.set_wall_offset_ms(3_600_000).unwrap();
    // Real time must pass for a rate to be seen; the test compares with how much did.
    thread::sleep(Duration::from_millis(50));
    let second = witness.ask();
    let (least, most) = Witness::between(&first, &second);
    let seen = second.elapsed - first.elapsed;
    assert!(
        seen >= 2 * least - 1000 && seen <= 2 * most + 1000,
        "{seen} for {least} to {most}"
    );
    let jumped = second.wall - first.wall - HOUR_NS;
    assert!(
        jumped >= 2 * least - 1000 && jumped <= 2 * most + 1000,
        "{jumped} for {least} to {most}"
    );

    shim.set_wall_offset_ms(-3_600_000).unwrap();
    shim.set_rate(0.5).unwrap();
    let third = witness.ask();
    assert!(third.elapsed >= second.elapsed && third.wall < second.wall - HOUR_NS);
    shim.repair_clocks().unwrap();
    let wall = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as i128;
    let before = wall();
    let repaired = witness.ask().wall;
    assert!(repaired >= before - 1000 && repaired <= wall() + 1000);
    assert!(shim.set_rate(0.0).is_err() && shim.set_wall_offset_ms(i64::MIN).is_err());
}

/// Runs a command with its data directory as the working directory, and returns what it wrote and whether it succeeded.
fn under(shim: &Shim, script: &str) -> (String, bool) {
    let output = Command::new("sh")
        .args(["-c", script])
        .envs(shim.env())
        .current_dir(&shim.root)
        .output()
        .unwrap();
    (
        String::from_utf8_lossy(&output.stderr).into_owned(),
        output.status.success(),
    )
}

#[test]
fn syncs_writes_and_reads_of_the_data_fail_as_told() {
    let dir = tempfile::tempdir().unwrap();
    let shim = shim(dir.path());
    let set = |faults| shim.set_disk(&faults).unwrap();
    let write_and_sync = "dd if=/dev/zero of=file bs=512 count=1 conv=fsync";
    assert!(under(&shim, write_and_sync).1);
    assert_eq!(shim.counts().unwrap(), Counts::default());

    set(DiskFaults {
        sync: Some(Failure::InputOutput),
        ..DiskFaults::default()
    });
    let (words, done) = under(&shim, write_and_sync);
    assert!(!done && words.contains("Input/output error"), "{words}");
    assert_eq!(shim.counts().unwrap().failed, 1);
    assert!(under(&shim, "dd if=/dev/zero of=../outside bs=512 count=1 conv=fsync").1);

    set(DiskFaults {
        write: Some(Failure::NoSpace),
        ..DiskFaults::default()
    });
    let (words, done) = under(&shim, write_and_sync);
    assert!(!done && words.contains("No space left"), "{words}");
    set(DiskFaults {
        read: Some(Failure::InputOutput),
        ..DiskFaults::default()
    });
    let (words, done) = under(&shim, "dd if=file of=/dev/null");
    assert!(!done && words.contains("Input/output error"), "{words}");

    set(DiskFaults {
        sync_lies: true,
        sync: Some(Failure::InputOutput),
        ..DiskFaults::default()
    });
    assert!(under(&shim, write_and_sync).1);
    set(DiskFaults {
        sync_delay: Duration::from_millis(30),
        ..DiskFaults::default()
    });
    let started = Instant::now();
    assert!(under(&shim, write_and_sync).1 && started.elapsed() >= Duration::from_millis(30));
    let counts = shim.counts().unwrap();
    assert!(counts.failed >= 4 && counts.delayed == 1, "{counts:?}");
    set(DiskFaults::default());
    assert!(under(&shim, write_and_sync).1);
}

#[test]
fn a_node_without_its_control_file_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let shim = shim(dir.path());
    fs::remove_file(dir.path().join("control")).unwrap();
    let (words, done) = under(&shim, "exit 0");
    assert!(!done && words.contains("shim: cannot use"), "{words}");
}
