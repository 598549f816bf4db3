//! Ctrl-C, and SIGTERM: who runs many seeds stops their processes, says how far it has come, and ends as one does that was told to.
//!
//! A signal is for the whole process, and so is what is kept of it here. Only who listens stops in this way: a process that runs one seed
//! simply ends. The processes of a sweep are in its process group, so that a terminal sends Ctrl-C to them, too.

use std::{
    io,
    process::exit,
    sync::atomic::{AtomicI32, Ordering},
    thread,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// The first signal that came; 0 = none.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// From now on a signal is noted, and the second one ends this process at once.
///
/// # Errors
/// Signals cannot be listened to.
pub fn listen() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let note = move || {
        for signal in signals.forever() {
            if SIGNAL.swap(signal, Ordering::SeqCst) != 0 {
                exit(i32::from(code_of(signal)));
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(note)?;
    Ok(())
}

/// A signal has come.
pub fn came() -> bool {
    SIGNAL.load(Ordering::SeqCst) != 0
}

/// The exit code of who was interrupted, as a shell gives it: 130 after Ctrl-C.
pub fn exit_code() -> Option<u8> {
    came().then(|| code_of(SIGNAL.load(Ordering::SeqCst)))
}

/// The process of a seed died of this signal, which is sent to a whole process group or to one process.
pub(crate) fn is_one(signal: i32) -> bool {
    [SIGINT, SIGTERM].contains(&signal)
}

fn code_of(signal: i32) -> u8 {
    128 + u8::try_from(signal).unwrap_or(SIGINT as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_a_shell() {
        assert_eq!((code_of(SIGINT), code_of(SIGTERM)), (130, 143));
        assert_eq!(exit_code(), None, "nobody listens here");
    }
}
