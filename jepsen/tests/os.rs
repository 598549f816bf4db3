//! The harness against the real operating system: hosts that talk over the switch, disks that lose power, what a killed run leaves.
//! What needs root is skipped without it, and says so.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "all of this is a test: a failed step fails it, a skipped one says so"
)]

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::FileExt as _, fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use kvsvr_jepsen::os::{
    capture::{self, Capture, Fate},
    disk::{self, Disk, FileSystem},
    link::{HostId, Link, LinkControl, LinkRules},
    netns::{self, Namespace},
    owner::Run,
    process::{Launch, Process},
    shim::{Library, Shim},
    switch::Switch,
};
use rustix::fs::OFlags;

const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 7000;
/// No process has this number: the largest that Linux gives is 4194304.
const DEAD: &str = "kvj.4194305.1.1";

fn root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("{test}: skipped, it needs root");
    }
    root
}

fn host(id: u64) -> HostId {
    HostId::node(id).unwrap()
}

fn link(from: u64, to: u64) -> Link {
    Link {
        from: host(from),
        to: host(to),
    }
}

/// Runs on a host, in a thread of its own.
fn on<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            namespace.enter().unwrap();
            work()
        });
        worker.join().unwrap()
    })
}

/// Two hosts on a switch, and the directory of the capture.
struct Lan {
    // Stops first, while the devices are still there.
    switch: Switch,
    hosts: Vec<Namespace>,
    dir: tempfile::TempDir,
}

impl Lan {
    fn new() -> Self {
        let run = Run::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let made = [host(1), host(2)].map(|id| Namespace::create(&run, id).unwrap());
        let (mut hosts, mut ports) = (Vec::new(), BTreeMap::new());
        for (namespace, device) in made {
            ports.insert(namespace.host(), device);
            hosts.push(namespace);
        }
        let ids: Vec<HostId> = ports.keys().copied().collect();
        let capture = Capture::create(&dir.path().join("packets.pcapng"), &ids, 64 << 20).unwrap();
        Self {
            switch: Switch::start(ports, 1, Some(capture)).unwrap(),
            hosts,
            dir,
        }
    }

    /// A connection from host 1 to host 2: both ends.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let address = (self.hosts[1].address(), PORT);
        let listener = on(&self.hosts[1], || TcpListener::bind(address)).unwrap();
        let near = on(&self.hosts[0], || TcpStream::connect(address)).unwrap();
        let (far, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), self.hosts[0].address());
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        (near, far)
    }

    fn set(&self, link: Link, rules: LinkRules) {
        self.switch.set(link, rules);
        assert_eq!(self.switch.rules(link), rules);
    }
}

fn read(stream: &mut TcpStream) -> [u8; 4] {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn hosts_talk_and_a_cut_is_one_way() {
    if !root("hosts_talk_and_a_cut_is_one_way") {
        return;
    }
    let lan = Lan::new();
    let (mut near, mut far) = lan.connect();
    near.write_all(b"ping").unwrap();
    assert_eq!(&read(&mut far), b"ping");
    far.write_all(b"pong").unwrap();
    assert_eq!(&read(&mut near), b"pong");

    lan.set(
        link(2, 1),
        LinkRules {
            cut: true,
            ..LinkRules::default()
        },
    );
    near.write_all(b"heed").unwrap();
    assert_eq!(&read(&mut far), b"heed", "the other direction is open");
    far.write_all(b"held").unwrap();
    while lan.switch.stats()[&link(2, 1)].cut < 2 {
        thread::yield_now();
    }
    near.set_nonblocking(true).unwrap();
    assert_eq!(
        near.read(&mut [0; 4]).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    near.set_nonblocking(false).unwrap();
    lan.switch.heal();
    assert_eq!(&read(&mut near), b"held", "sent again by TCP");

    let Lan { switch, dir, hosts } = lan;
    switch.stop().unwrap();
    let packets = capture::read(&dir.path().join("packets.pcapng")).unwrap();
    let syn = packets
        .iter()
        .find_map(|p| p.tcp().filter(|tcp| tcp.flags == 2).zip(Some(p)));
    let (segment, first) = syn.unwrap();
    assert_eq!((first.link, segment.destination_port), (link(1, 2), PORT));
    assert!(matches!(first.fate, Fate::Forwarded { .. }));
    let cut = |p: &&capture::PacketRecord| p.fate == Fate::Cut;
    assert!(packets.iter().filter(cut).count() >= 2);
    assert!(packets.iter().filter(cut).all(|p| p.link == link(2, 1)));
    let name = hosts[0].name().to_owned();
    assert!(Path::new("/run/netns").join(&name).exists());
    drop(hosts);
    assert!(!Path::new("/run/netns").join(&name).exists());
}

#[test]
fn a_slow_and_lossy_network_delivers_everything_in_the_end() {
    if !root("a_slow_and_lossy_network_delivers_everything_in_the_end") {
        return;
    }
    let lan = Lan::new();
    let (mut near, mut far) = lan.connect();
    let delay = Duration::from_millis(20);
    lan.set(
        link(1, 2),
        LinkRules {
            delay,
            ..LinkRules::default()
        },
    );
    let started = Instant::now();
    near.write_all(b"slow").unwrap();
    assert_eq!(&read(&mut far), b"slow");
    assert!(started.elapsed() >= delay);

    let bad = LinkRules {
        jitter: Duration::from_millis(2),
        reorder: true,
        loss: 0.05,
        duplicate: 0.2,
        ..LinkRules::default()
    };
    lan.set(link(1, 2), bad);
    lan.set(link(2, 1), bad);
    let sent: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let received = thread::scope(|scope| {
        scope.spawn(|| near.write_all(&sent).unwrap());
        let mut received = vec![0; sent.len()];
        far.read_exact(&mut received).unwrap();
        received
    });
    assert!(received == sent, "TCP repairs it");
    let stats = lan.switch.stats()[&link(1, 2)];
    assert!(stats.lost > 0 && stats.duplicated > 0, "{stats:?}");
}

#[test]
fn a_process_runs_on_its_host() {
    if !root("a_process_runs_on_its_host") {
        return;
    }
    let lan = Lan::new();
    let launch = Launch {
        program: "ip".into(),
        args: vec!["-o".into(), "-4".into(), "addr".into()],
        log: lan.dir.path().join("log"),
        namespace: Some(&lan.hosts[1]),
        ..Launch::default()
    };
    let mut process = Process::start(&launch).unwrap();
    assert!(process.wait(PATIENCE).unwrap().unwrap().success());
    let log = fs::read_to_string(lan.dir.path().join("log")).unwrap();
    assert!(log.contains("10.78.0.2/24") && log.contains("127.0.0.1"), "{log}");
}

/// Runs as a harness of its own, which is killed: starts a process, and tells its number.
#[test]
#[ignore = "started by the test below"]
fn starts_a_process_and_waits() {
    let launch = Launch {
        program: "sleep".into(),
        args: vec!["1000".into()],
        log: "/dev/null".into(),
        ..Launch::default()
    };
    let process = Process::start(&launch).unwrap();
    println!("\nstarted {}", process.pid());
    let _ = io::stdin().read(&mut [0; 1]);
}

#[test]
fn a_killed_harness_leaves_no_process() {
    let mut harness = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--nocapture",
            "--exact",
            "starts_a_process_and_waits",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(harness.stdout.take().unwrap()).lines();
    let pid = lines
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("started ").map(str::to_owned))
        .unwrap();
    let command = || fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(command().starts_with("sleep"));
    harness.kill().unwrap();
    assert_eq!(harness.wait().unwrap().signal(), Some(9));
    // A process that has ended and is not reaped yet has no command line.
    while command().starts_with("sleep") {
        thread::yield_now();
    }
}

/// 4096 bytes of this value whose memory starts where direct writes want it.
fn aligned(memory: &mut Vec<u8>, value: u8) -> &[u8] {
    memory.clear();
    memory.resize(8192, value);
    let start = memory.as_ptr().align_offset(4096);
    &memory[start..start + 4096]
}

/// Writes files in all the ways that a node does: first what is synced, then what is not (any sync would make all names before it last).
fn write_some(data: &Path) {
    let mut memory = Vec::new();
    let buffered = File::create(data.join("buffered")).unwrap();
    buffered.write_all_at(&[1; 4096], 0).unwrap();
    buffered.sync_data().unwrap();
    let direct = OpenOptions::new()
        .create_new(true)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(data.join("direct"))
        .unwrap();
    rustix::fs::fallocate(&direct, rustix::fs::FallocateFlags::empty(), 0, 65536).unwrap();
    direct.write_all_at(aligned(&mut memory, 1), 0).unwrap();
    direct.sync_data().unwrap();
    for (name, content) in [("replaced", "old"), ("replaced.new", "new")] {
        fs::write(data.join(name), content).unwrap();
        File::open(data.join(name)).unwrap().sync_all().unwrap();
    }
    File::open(data).unwrap().sync_all().unwrap();

    buffered.write_all_at(&[2; 4096], 4096).unwrap();
    direct.write_all_at(aligned(&mut memory, 2), 4096).unwrap();
    fs::rename(data.join("replaced.new"), data.join("replaced")).unwrap();
    fs::write(data.join("never synced"), "x").unwrap();
}

#[test]
fn power_loss_loses_what_was_not_synced_and_nothing_else() {
    if !root("power_loss_loses_what_was_not_synced_and_nothing_else") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = Run::new().unwrap();
    let disk = Disk::image(&run, dir.path(), "n1", 64 << 20, FileSystem::Ext4).unwrap();
    write_some(&disk.data());
    disk.cut_power().unwrap();
    assert!(fs::write(disk.data().join("too late"), "x").is_err());
    disk.restore_power().unwrap();

    let content = |name: &str| fs::read(disk.data().join(name));
    assert_eq!(content("buffered").unwrap(), [1; 4096]);
    let direct = content("direct").unwrap();
    assert!(direct[..4096] == [1; 4096] && direct[4096..].iter().all(|byte| *byte == 0));
    assert_eq!(content("replaced").unwrap(), b"old");
    assert!(content("replaced.new").is_ok());
    assert!(content("too late").is_err());
    assert!(content("never synced").is_err());
    // A sync of the name makes the same rename last.
    fs::rename(disk.data().join("replaced.new"), disk.data().join("replaced")).unwrap();
    File::open(disk.data()).unwrap().sync_all().unwrap();
    disk.cut_power().unwrap();
    disk.restore_power().unwrap();
    assert_eq!(fs::read(disk.data().join("replaced")).unwrap(), b"new");
}

/// Overwrites four sectors of a file of zeros past the page cache, as a node writes its log, and syncs it then or does not.
fn overwrite(shim: &Shim, data: &Path, name: &str, sync: bool) {
    let content = data.join("content");
    fs::write(&content, [7; 2048]).unwrap();
    let done = Command::new("dd")
        .args(["bs=2048", "count=1", "seek=1", "conv=notrunc", "oflag=direct"])
        .args(sync.then_some("conv=notrunc,fdatasync"))
        .arg(format!("if={}", content.display()))
        .arg(format!("of={}", data.join(name).display()))
        .envs(shim.env())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(done.success());
}

#[test]
fn power_loss_loses_direct_writes_over_what_was_there() {
    if !root("power_loss_loses_direct_writes_over_what_was_there") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = Run::new().unwrap();
    let disk = Disk::image(&run, dir.path(), "n1", 64 << 20, FileSystem::Ext4).unwrap();
    let library = Library::build(dir.path()).unwrap();
    let shim = Shim::create(&library, &dir.path().join("control"), &disk.data()).unwrap();
    let shim = shim.with_cache(&dir.path().join("undo")).unwrap();
    let content = |name: &str| fs::read(disk.data().join(name)).unwrap();
    let lose = |seed| {
        disk.cut_power().unwrap();
        disk.restore_power().unwrap();
        // Without the cache it is there: the device had it at once.
        assert_eq!(content("log")[2048..4096], [7; 2048]);
        shim.cache().unwrap().lose(&disk.data(), seed).unwrap()
    };
    let zeros = || {
        for name in ["log", "synced"] {
            fs::write(disk.data().join(name), [0; 8192]).unwrap();
            File::open(disk.data().join(name)).unwrap().sync_all().unwrap();
        }
        File::open(disk.data()).unwrap().sync_all().unwrap();
    };
    let (mut whole, mut torn) = (0, 0);
    for seed in 0..8 {
        zeros();
        overwrite(&shim, &disk.data(), "synced", true);
        overwrite(&shim, &disk.data(), "log", false);
        fs::rename(disk.data().join("log"), disk.data().join("renamed")).unwrap();
        fs::rename(disk.data().join("renamed"), disk.data().join("log")).unwrap();
        let lost = lose(seed);
        assert_eq!((lost.unsynced, lost.lost), (1, 1));
        assert_eq!(content("synced")[2048..4096], [7; 2048]);
        let kept = content("log")[2048..4096]
            .iter()
            .filter(|byte| **byte == 7)
            .count();
        assert!(kept < 2048 && kept.is_multiple_of(512));
        whole += u32::from(kept == 0);
        torn += u32::from(kept > 0);
    }
    assert!(whole > 0 && torn > 0);
    // A second process goes on with what the first one left, which its sync covers.
    zeros();
    overwrite(&shim, &disk.data(), "log", false);
    overwrite(&shim, &disk.data(), "log", true);
    assert_eq!(lose(0).unsynced, 0);
    assert_eq!(content("log")[2048..4096], [7; 2048]);
}

#[test]
fn all_nodes_lose_power_with_their_disks() {
    if !root("all_nodes_lose_power_with_their_disks") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = Run::new().unwrap();
    let disks =
        ["n1", "n2"].map(|name| Disk::image(&run, dir.path(), name, 32 << 20, FileSystem::Ext4).unwrap());
    let mut processes = disks.each_ref().map(|disk| {
        let script = format!(
            "cd {}; i=0; while :; do i=$((i+1)); echo $i > next; sync next; mv next last; sync .; echo $i; done",
            disk.data().display()
        );
        let log = dir.path().join(format!("{}.log", disk.data().parent().unwrap().file_name().unwrap().display()));
        let launch = Launch {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            log: log.clone(),
            ..Launch::default()
        };
        (Process::start(&launch).unwrap(), log)
    });
    // What it has started sees its disk fail, and says so there.
    let told = |log: &Path| {
        let words = fs::read_to_string(log).unwrap();
        words
            .lines()
            .rev()
            .find_map(|n| n.parse::<u64>().ok())
            .unwrap_or(0)
    };
    while processes.iter().any(|(_, log)| told(log) < 20) {
        thread::yield_now();
    }
    let mut victims: Vec<(&mut Process, &Disk)> = processes.iter_mut().map(|(p, _)| p).zip(&disks).collect();
    disk::lose_power(&mut victims).unwrap();
    for ((process, log), disk) in processes.iter_mut().zip(&disks) {
        assert_eq!(process.status().unwrap().unwrap().signal(), Some(9));
        let kept: u64 = fs::read_to_string(disk.data().join("last"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert!(
            kept >= told(log) && kept <= told(log) + 1,
            "{kept} after {} was told",
            told(log)
        );
    }
}

#[test]
fn a_full_disk_is_full_until_the_ballast_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let plain = Disk::directory(&dir.path().join("plain")).unwrap();
    assert!(plain.data().is_dir() && plain.fill(0).is_err() && plain.cut_power().is_err());
    if !root("a_full_disk_is_full_until_the_ballast_is_gone") {
        return;
    }
    let disk = Disk::image(&Run::new().unwrap(), dir.path(), "n1", 32 << 20, FileSystem::Ext4).unwrap();
    let ballast = disk.fill(1 << 20).unwrap();
    assert!(disk.free().unwrap() <= 1 << 20);
    let large = vec![1; 4 << 20];
    let full = fs::write(disk.data().join("large"), &large).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    drop(ballast);
    fs::write(disk.data().join("large"), &large).unwrap();
    fs::remove_file(disk.data().join("large")).unwrap();
    // A ballast that was there for long is not back after a loss of power right after its end.
    let ballast = disk.fill(1 << 20).unwrap();
    File::open(disk.data()).unwrap().sync_all().unwrap();
    drop(ballast);
    disk.cut_power().unwrap();
    disk.restore_power().unwrap();
    assert!(disk.free().unwrap() > 8 << 20);
}

#[test]
fn a_sweep_removes_what_a_dead_run_left_and_nothing_else() {
    if !root("a_sweep_removes_what_a_dead_run_left_and_nothing_else") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = Run::new().unwrap();
    let (ours, _device) = Namespace::create(&run, host(3)).unwrap();
    let disk = Disk::image(&run, dir.path(), "n1", 32 << 20, FileSystem::Ext4).unwrap();
    // As a run leaves them that is killed: a namespace, and a disk that is mounted.
    let left = format!("{DEAD}.n1");
    assert!(
        Command::new("ip")
            .args(["netns", "add", &left])
            .status()
            .unwrap()
            .success()
    );
    let home = dir.path().join(DEAD);
    let mount = home.join("n1");
    fs::create_dir_all(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&mount)
        .status()
        .unwrap();
    assert!(mounted.success());
    fs::create_dir(dir.path().join("other")).unwrap();

    let is_over = |run: Run| !run.is_alive();
    netns::sweep(is_over).unwrap();
    assert!(!Path::new("/run/netns").join(&left).exists());
    assert_eq!(disk::sweep(dir.path(), is_over).unwrap(), [DEAD]);
    assert!(!home.exists() && dir.path().join("other").exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(mount.to_str().unwrap()));
    assert!(Path::new("/run/netns").join(ours.name()).exists());
    assert!(fs::write(disk.data().join("file"), "x").is_ok());
    assert_eq!(ours.address(), Ipv4Addr::new(10, 78, 0, 3));
    // What a living process says that it has given up is not its own any more.
    let given_up = |other: Run| other.is_of(std::process::id());
    let _ = fs::remove_dir(dir.path().join("other"));
    assert_eq!(disk::sweep(dir.path(), given_up).unwrap(), [run.to_string()]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
