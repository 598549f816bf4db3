//! Removes what a run leaves that is killed: a process of its own waits for the end of this one, however it comes, and sweeps then.
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

/// Its command line: the program, this, the directory for disks.
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
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What a terminal or a script sends to the run's group is not for it.
            .process_group(0)
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The next run removes what it could not.
        let _ = self.0.wait();
    }
}

/// Waits until standard input is closed, which it is when the run that started this ends, and removes what ended runs have left.
///
/// # Errors
/// Something is still in use, or cannot be removed.
pub fn sweep_at_the_end(scratch: &Path) -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match world::sweep(scratch) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
