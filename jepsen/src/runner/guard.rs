//! Removes what a run leaves that is killed, or that fails: a process of its own waits for the end of this one, however it comes, and sweeps
//! then. A run that ends by itself closes its end of a pipe when it has taken down what it could; the rest is the guard's, though the
//! process is still there.
//!
//! Nodes need no guard: they end with the process that started them ([`process`](crate::os::process)).

use std::{
    io::{self, Read as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::world;

/// Its command line: the program, this, the directory for disks, the number of the process that it guards.
pub const COMMAND: &str = "sweep";
/// What the killed nodes have in use is free after so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// The process that waits. It ends when this is dropped, or this process ends.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Starts it. `program` is to call [`sweep_at_the_end`] for this command line.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(program: &Path, scratch: &Path) -> io::Result<Self> {
        let child = Command::new(program)
            .arg(COMMAND)
            .arg(scratch)
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What a terminal or a script sends to the run's group is not for it.
            .process_group(0)
            .spawn()?;
        Ok(Self(child))
    }
}

impl Guard {
    /// Has it remove what this process has made and not removed. Nothing of that may be in use any more.
    ///
    /// # Errors
    /// It could not, in [`PATIENCE`].
    pub fn end(mut self) -> io::Result<()> {
        drop(self.0.stdin.take());
        let ended = self.0.wait()?;
        match ended.success() {
            true => Ok(()),
            false => Err(io::Error::other(
                "what the run has made cannot all be removed; the next run tries again",
            )),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The next run removes what it could not.
        let _ = self.0.wait();
    }
}

/// Waits until standard input is closed, which it is when the run that started this ends, and removes what ended runs have left, and all of
/// that one.
///
/// # Errors
/// Something is still in use, or cannot be removed.
pub fn sweep_at_the_end(scratch: &Path, guarded: u32) -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match world::sweep(scratch, Some(guarded)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
