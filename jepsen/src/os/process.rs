//! A node's process: the release binary in its own process group, with its output in a file.
//!
//! No process outlives the harness. The kernel kills it when the thread that started it ends (`PR_SET_PDEATHSIG` follows threads, not
//! processes), so one thread of this module starts all of them and never ends before the process does; and dropping a [`Process`]
//! kills its group. What a process has started in its turn outlives a killed harness, but not a dropped [`Process`]; a node starts
//! nothing.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getppid, kill_process, kill_process_group,
        pidfd_open, set_parent_process_death_signal, waitid,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{command::context, netns::Namespace};

/// What to start, and where.
#[derive(Debug, Default)]
pub struct Launch<'a> {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What is added to this process's environment, such as that of a [`shim`](super::shim).
    pub env: BTreeMap<OsString, OsString>,
    /// Output and errors are appended to this file.
    pub log: PathBuf,
    /// The host that it runs on; otherwise this one.
    pub namespace: Option<&'a Namespace>,
}

/// SIGKILL of several, as near to one moment as can be: all are stopped, and none goes on before all are dead. Waits for their ends; those
/// that have ended are left.
pub fn kill_together(processes: &mut [&mut Process]) -> io::Result<()> {
    let all = |processes: &mut [&mut Process], act: fn(&mut Process) -> io::Result<()>| {
        let acted = processes.iter_mut().map(|process| act(process));
        // All of them, also after an error.
        acted.fold(Ok(()), io::Result::and)
    };
    let stopped = all(processes, Process::pause);
    let killed = all(processes, |process| process.signal(Signal::KILL));
    let ended = all(processes, |process| process.kill().map(drop));
    stopped.and(killed).and(ended)
}

/// How a process ended that was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code or the signal.
    pub status: ExitStatus,
    /// It did not end in time and was killed.
    pub forced: bool,
}

/// A process that was started. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it.
    pub fn start(launch: &Launch<'_>) -> io::Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&launch.log)
            .map_err(context(format!("open {}", launch.log.display())))?;
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.args)
            .envs(&launch.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let namespace = launch
            .namespace
            .map(|n| n.fd().try_clone_to_owned())
            .transpose()?;
        bind_to_this_process(&mut command, namespace);
        let started = start_from_lasting_thread(command);
        let mut child = started.map_err(context(format!("start {}", launch.program.display())))?;
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self {
                child,
                pid,
                pidfd,
                ended: None,
            }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(context("open a handle of a process")(error.into()))
            }
        }
    }

    /// Its process id, also after it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits until it ends, so long at most; `None` if it still runs then.
    pub fn wait(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.status()? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// SIGKILL, and waits for the end. Nothing happens if it has ended.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        Ok(status)
    }

    /// SIGSTOP. When this returns, no thread of it runs any more, unless it has ended. Processes that it has started go on: to stop them
    /// too could stop one between fork and exec, for which its parent waits without being able to stop.
    pub fn pause(&mut self) -> io::Result<()> {
        if self.status()?.is_some() {
            return Ok(());
        }
        kill_process(self.pid, Signal::STOP).map_err(|error| context("pause a process")(error.into()))?;
        // Does not reap a process that ends instead.
        let what = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), what) {
                Err(rustix::io::Errno::INTR) => {}
                other => {
                    return other
                        .map(drop)
                        .map_err(|error| context("wait for a pause")(error.into()));
                }
            }
        }
    }

    /// It has a handler for a signal: until it has one, SIGTERM ends it as it ends any process. False if it has ended.
    pub fn catches(&mut self, signal: Signal) -> io::Result<bool> {
        if self.status()?.is_some() {
            return Ok(false);
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        Ok(caught.unwrap_or(0) >> (signal.as_raw() - 1) & 1 == 1)
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and after this time SIGKILL. A paused process is resumed first, or it would not see the signal.
    pub fn terminate(&mut self, within: Duration) -> io::Result<Ended> {
        self.signal(Signal::TERM)?;
        self.signal(Signal::CONT)?;
        match self.wait(within)? {
            Some(status) => Ok(Ended {
                status,
                forced: false,
            }),
            None => Ok(Ended {
                status: self.kill()?,
                forced: true,
            }),
        }
    }

    /// To the whole group. The number is not another's, since the process has not been reaped.
    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.status()?.is_some() {
            return Ok(());
        }
        kill_process_group(self.pid, signal).map_err(|error| context("signal a process")(error.into()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error leaves it to the kernel, which kills it at the end of this process.
        let _ = self.kill();
    }
}

/// Makes the child end with this process, and moves it to a namespace.
#[expect(
    unsafe_code,
    reason = "what runs between fork and exec can only be given unsafely"
)]
fn bind_to_this_process(command: &mut Command, namespace: Option<OwnedFd>) {
    let parent = Pid::from_raw(std::process::id().cast_signed());
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the line above.
        if getppid() != parent {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        if let Some(namespace) = &namespace {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        Ok(())
    };
    // SAFETY: after a fork only what is safe in a signal handler may run: this makes three system calls, allocates nothing and takes
    // no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a command from the one thread that lives as long as the process.
fn start_from_lasting_thread(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let ended = || io::Error::other("the thread that starts processes has ended");
    let starter = match STARTER.get() {
        Some(starter) => starter,
        None => {
            let (orders, incoming) = mpsc::channel::<Order>();
            thread::Builder::new().name("starter".into()).spawn(move || {
                for (mut command, reply) in incoming {
                    // Who asked waits for it.
                    let _ = reply.send(command.spawn());
                }
            })?;
            // Of two threads that come here at once, the other's starter ends: it has started nothing.
            STARTER.get_or_init(|| orders)
        }
    };
    let (reply, answer) = mpsc::channel();
    starter.send((command, reply)).map_err(|_| ended())?;
    answer.recv().map_err(|_| ended())?
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::process::ExitStatusExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn shell(script: &str, dir: &tempfile::TempDir) -> Launch<'static> {
        Launch {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            log: dir.path().join("log"),
            ..Launch::default()
        }
    }

    /// The letter of its state in `/proc/PID/stat`; `None` when it is gone.
    fn state(pid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[test]
    fn output_and_status_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut launch = shell("echo out $WORD; echo err >&2; exit 5", &dir);
        launch.env.insert("WORD".into(), "here".into());
        for _ in 0..2 {
            let mut process = Process::start(&launch).unwrap();
            let status = process.wait(PATIENCE).unwrap().unwrap();
            assert_eq!(status.code(), Some(5));
            assert_eq!(
                process.kill().unwrap(),
                status,
                "it has ended, and keeps its status"
            );
        }
        assert_eq!(
            fs::read_to_string(dir.path().join("log")).unwrap(),
            "out here\nerr\n".repeat(2)
        );
        launch.program = "/no/such/binary".into();
        let error = Process::start(&launch).unwrap_err().to_string();
        assert!(error.contains("/no/such/binary"), "{error}");
    }

    #[test]
    fn a_pause_holds_and_a_kill_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(&shell("while :; do :; done", &dir)).unwrap();
        process.pause().unwrap();
        assert_eq!(state(process.pid()), Some('T'));
        process.resume().unwrap();
        assert_ne!(state(process.pid()), Some('T'));
        process.pause().unwrap();
        assert_eq!(process.wait(Duration::ZERO).unwrap(), None);
        assert_eq!(process.kill().unwrap().signal(), Some(9));
        process.pause().unwrap();
        assert_eq!(state(process.pid()), None);
    }

    #[test]
    fn of_those_that_are_killed_together_none_sees_the_end_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Process::start(&shell("exec sleep 1000", &dir)).unwrap();
        let script = format!("while kill -0 {}; do :; done; echo survived", first.pid());
        let mut second = Process::start(&shell(&script, &dir)).unwrap();
        let mut ended = Process::start(&shell("exit 3", &dir)).unwrap();
        ended.wait(PATIENCE).unwrap();
        kill_together(&mut [&mut ended, &mut first, &mut second]).unwrap();
        for process in [&mut first, &mut second] {
            assert_eq!(process.status().unwrap().unwrap().signal(), Some(9));
        }
        assert_eq!(ended.status().unwrap().unwrap().code(), Some(3));
        assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "");
    }

    #[test]
    fn who_ignores_sigterm_is_killed_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let mut obedient = Process::start(&shell("exec sleep 1000", &dir)).unwrap();
        obedient.pause().unwrap();
        let ended = obedient.terminate(PATIENCE).unwrap();
        assert_eq!((ended.status.signal(), ended.forced), (Some(15), false));

        let mut deaf = Process::start(&shell("trap '' TERM; echo deaf; while :; do :; done", &dir)).unwrap();
        while !fs::read_to_string(dir.path().join("log"))
            .unwrap()
            .contains("deaf")
        {
            thread::yield_now();
        }
        let ended = deaf.terminate(Duration::from_millis(1)).unwrap();
        assert_eq!((ended.status.signal(), ended.forced), (Some(9), true));
    }

    #[test]
    fn dropping_it_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(&shell("sleep 1000 & echo $!; wait", &dir)).unwrap();
        let log = dir.path().join("log");
        let grandchild: u32 = loop {
            if let Some(line) = fs::read_to_string(&log).unwrap().strip_suffix('\n') {
                break line.parse().unwrap();
            }
            thread::yield_now();
        };
        assert!(state(grandchild).is_some());
        let pid = process.pid();
        drop(process);
        assert_eq!(state(pid), None);
        // It is init's to reap, which need not have happened yet.
        while !matches!(state(grandchild), None | Some('Z')) {
            thread::yield_now();
        }
    }

    #[test]
    fn the_thread_that_asks_for_a_process_may_end_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let launch = shell("exec sleep 1000", &dir);
        let mut process = thread::scope(|scope| scope.spawn(|| Process::start(&launch)).join())
            .unwrap()
            .unwrap();
        assert_eq!(process.wait(Duration::from_millis(20)).unwrap(), None);
    }
}
